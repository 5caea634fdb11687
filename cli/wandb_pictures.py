"""Which panels of an evaluation are sent to Weights & Biases, as what pictures and in what words."""

import json
import logging
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from PIL import Image

from medrobust.results.formats import format_epsilon, format_percent, printable
from medrobust.results.report.panels import OVERLAYS, PANELS, right_of

logger = logging.getLogger(__name__)

KINDS = ("clean", "perturbation", "adversarial")


def chosen_panels(folder: Path, manifest: Mapping[str, Any], most: int) -> list[dict[str, Any]]:
    """The panels that are sent: evenly over classes and outcomes, and within these over attacks and radii.

    Args:
        folder: The evaluation's folder.
        manifest: Its manifest; panels of attacks that it does not list are left out.
        most: How many are sent at most.

    Returns:
        The contents of the panels' files, with their ``folder`` and their ``class_names``. Panels that cannot be read
        are left out.
    """
    places = {entry["key"]: place for place, entry in enumerate(manifest["attacks"])}
    names = [str(name) for name in manifest["data"].get("class_names") or []]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for path in sorted((folder / PANELS).glob("*.json")):
        try:
            panel = json.loads(path.read_bytes())
            if panel["key"] in places:
                panel |= {"folder": path.parent, "class_names": names}
                groups.setdefault((str(panel.get("target")), outcome(panel)), []).append(panel)
        except (OSError, ValueError, KeyError, TypeError):
            logger.warning("the panel %s cannot be read and is not sent", path)
    queues = [_spread(group, stratum) for stratum, group in sorted(groups.items())]
    turns = [panel for turn in range(max(map(len, queues), default=0)) for panel in _turn(queues, turn)]
    return sorted(turns[:most], key=lambda panel: (places[panel["key"]], str(panel["id"])))


def outcome(panel: Mapping[str, Any]) -> str:
    """What became of an image: it was wrong before, the attack had success, or the image has withstood it."""
    if not right_of(panel)[0]:
        return "wrong before"
    return "fooled" if panel["success"] else "withstood"


def picture_of(panel: Mapping[str, Any]) -> tuple[Image.Image, str]:
    """A panel as one picture and its caption: clean image, perturbation and adversarial image side by side.

    Of masks and boxes, the truth and what was found before and after follow, with outlines burnt in.
    """
    kinds = [*KINDS, *(kind for kind in OVERLAYS if kind in panel["images"])]
    parts = []
    for kind in kinds:
        with Image.open(panel["folder"] / Path(panel["images"][kind]).name) as picture:
            parts.append(picture.convert("RGB"))
    height = max(part.height for part in parts)  # overlays of small images are enlarged
    parts = [
        part.resize((round(part.width * height / part.height), height), Image.Resampling.NEAREST) for part in parts
    ]
    wide = Image.new("RGB", (sum(part.width for part in parts), height))
    for place, part in enumerate(parts):
        wide.paste(part, (sum(before.width for before in parts[:place]), 0))
    return wide, caption(panel)


def caption(panel: Mapping[str, Any]) -> str:
    """What a panel shows: the attack, the image, its class, and what the victim made of it before and after."""
    radius = "" if panel["epsilon"] is None else f" {format_epsilon(panel['epsilon'])}"
    words = f"{panel['attack']}{radius}, {outcome(panel)}: {panel['id']}, "
    if "clean_prediction" not in panel:
        return printable(words + " -> ".join(_verdict(panel, when) for when in ("before", "after")))
    said = []
    for when in ("clean", "adversarial"):
        confidence = panel.get(f"{when}_confidence")
        sure = "" if confidence is None else f" ({format_percent(confidence)})"
        said.append(_class_name(panel, panel[f"{when}_prediction"]) + sure)
    return printable(f"{words}truth {_class_name(panel, panel.get('target'))}, victim {said[0]} -> {said[1]}")


def _verdict(panel: Mapping[str, Any], when: str) -> str:
    """Whether masks or boxes were right, and how good they were."""
    quality = panel.get(f"quality_{when}")
    verdict = "right" if panel[f"right_{when}"] else "wrong"
    return verdict if quality is None else f"{verdict} ({quality:.2f})"


def _class_name(panel: Mapping[str, Any], number: Any) -> str:
    names = panel["class_names"]
    return names[number] if isinstance(number, int) and 0 <= number < len(names) else f"class {number}"


def _spread(panels: list[dict[str, Any]], stratum: tuple[str, str]) -> list[dict[str, Any]]:
    """Panels of one class and outcome, one of each attack and radius in turn; other strata begin with other attacks."""
    of_attack: dict[str, list[dict[str, Any]]] = {}
    for panel in sorted(panels, key=lambda panel: str(panel["id"])):
        of_attack.setdefault(panel["key"], []).append(panel)
    drawn = {key: sha256(f"{stratum} {key}".encode()).digest() for key in of_attack}
    ranked = [(rank, drawn[key], panel) for key, own in of_attack.items() for rank, panel in enumerate(own)]
    return [panel for _, _, panel in sorted(ranked, key=lambda one: one[:2])]


def _turn(queues: list[list[dict[str, Any]]], turn: int) -> list[dict[str, Any]]:
    return [queue[turn] for queue in queues if turn < len(queue)]
