"""The pictures of a report: what was attacked, how it was changed, and what the victim found before and after."""

import base64
import io
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from medrobust.results.formats import DASH, format_epsilon, format_linf, format_percent
from medrobust.results.wording import quality_name

PANELS = "panels"
LARGE = 12_000  # bytes from which a picture is shown as JPEG
OVERLAYS = {
    "truth": "truth, clean image",
    "found_before": "found before",
    "found_after": "found after",
}

logger = logging.getLogger(__name__)


class Figure(NamedTuple):
    """One picture of a panel with its words.

    Args:
        kind: What it shows, as the panel's file calls it.
        heading: The same in words.
        alt: What is seen, for those who cannot see it.
        tone: "right" or "wrong" where it shows what the victim makes of the image, "neutral" if nobody knows; else "".
        words: What the victim makes of the image; empty otherwise.
        detail: Further numbers, in small print.
        picture: Data URI; None if there is none.
        size: Width and height of the picture.
        shared: Name of the one place on the page that holds the picture, where several figures show it; else "".
    """

    kind: str
    heading: str
    alt: str
    tone: str = ""
    words: str = ""
    detail: str = ""
    picture: str | None = None
    size: tuple[int, int] = (1, 1)
    shared: str = ""


def read_panels(folder: str | Path, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Read the pictures of an evaluation, in groups by attack and radius.

    Args:
        folder: The folder of the evaluation.
        manifest: Its manifest; pictures of attacks that it does not list are left out.

    Returns:
        Groups `{"attack", "epsilon", "control", "panels"}` in the manifest's order of attacks, by radius. Each panel is
        the content of its JSON file, with its `figures` and the name of its true class, if it has one. Panels that
        cannot be read are left out with a warning in the log.
    """
    keys = {entry["key"]: entry for entry in manifest["attacks"]}
    names, quality = manifest["data"].get("class_names") or [], quality_name(manifest)
    groups: dict[str, dict[str, Any]] = {}
    for path in sorted(Path(folder, PANELS).glob("*.json")):
        try:
            panel = json.loads(path.read_bytes())
            if panel["key"] not in keys:
                continue
            panel.setdefault("extras", {})
            panel.setdefault("legend", [])
            panel["target_name"] = None if panel.get("target") is None else _class_name(panel["target"], names)
            panel["figures"] = [
                _with_picture(one, path.parent, panel["images"].get(one.kind))
                for one in _figures(panel, names, quality)
            ]
            group = {**{name: keys[panel["key"]].get(name) for name in ("attack", "epsilon", "control")}, "panels": []}
            groups.setdefault(panel["key"], group)["panels"].append(panel)
        except (ValueError, KeyError, TypeError, AttributeError, OSError, SyntaxError) as error:
            logger.warning("the panel %s is left out of the report: %s", path, error)
    order = list(dict.fromkeys(entry["attack"] for entry in manifest["attacks"]))
    radius = {name: math.inf if group["epsilon"] is None else group["epsilon"] for name, group in groups.items()}
    return [groups[key] for key in sorted(groups, key=lambda key: (order.index(groups[key]["attack"]), radius[key]))]


def _with_picture(one: Figure, folder: Path, name: str | None) -> Figure:
    """A figure with its picture, if there is one."""
    picture = data_uri(folder, name)
    if picture is None:
        return one
    with Image.open(folder / str(name)) as opened:
        return one._replace(picture=picture, size=opened.size)


def data_uri(folder: Path, name: str | None) -> str | None:
    """A picture as a data URI; None if there is no such file, or the name is a path, which may lead out of the folder.

    A large picture, such as noise that PNG cannot compress, is embedded as JPEG; its file stays as it is.
    """
    if not name or Path(name).name != name or not (folder / name).is_file():
        return None
    content, kind = (folder / name).read_bytes(), "png"
    if len(content) > LARGE:
        buffer = io.BytesIO()
        with Image.open(io.BytesIO(content)) as picture:
            shown = picture if picture.mode == "L" else picture.convert("RGB")
            shown.save(buffer, "JPEG", quality=85, subsampling=0)
        content, kind = buffer.getvalue(), "jpeg"
    return f"data:image/{kind};base64," + base64.b64encode(content).decode()


def _class_name(index: int | None, names: Sequence[str]) -> str:
    if index is None:
        return DASH
    return names[index] if 0 <= index < len(names) else f"class {index}"


def _figures(panel: Mapping[str, Any], names: Sequence[str], quality: str) -> Iterator[Figure]:
    """The figures of a panel in the order in which they are shown, still without pictures."""
    overlaid = [kind for kind in OVERLAYS if kind in panel["images"]]
    judged = {kind: judged_panel(panel, when, names, quality) for kind, when in _places(bool(overlaid)).items()}
    magnification, linf, image = panel["magnification"], panel["linf"], panel["id"]
    epsilon = panel.get("epsilon")
    under = f"{panel['attack']}{'' if epsilon is None else f' at ε {format_epsilon(epsilon)}'}"
    true = "" if panel["target_name"] is None else f", truly {panel['target_name']}"
    seen = {"clean": f"clean image {image}{true}", "adversarial": f"image {image}{true}, changed by {under}"}
    for kind in ("clean", "perturbation", "adversarial"):
        if kind == "perturbation":
            heading, detail = f"{kind} ×\N{NO-BREAK SPACE}{_times(magnification)}", f"L∞ {format_linf(linf, [epsilon])}"
            alt = f"change that {under} makes to image {image}, {_times(magnification)} times as strong; {detail}"
            yield Figure(kind, heading, alt, detail=detail)
        else:
            yield _with(Figure(kind, kind, seen[kind]), judged.get(kind))
    for kind in overlaid:
        alt = {
            "truth": f"{seen['clean']}, with what is truly there",
            "found_before": f"{seen['clean']}, with what the victim finds, and white contours of the truth",
            "found_after": f"{seen['adversarial']}, with what the victim finds, and white contours of the truth",
        }[kind]
        yield _with(Figure(kind, OVERLAYS[kind], alt), judged.get(kind))
    for name, largest in panel["extras"].items():
        words = str(name).replace("_", " ")
        detail = f"grey is 0, black and white ±{largest:.3g}"
        yield Figure(name, words, f"{words} of {under} on image {image}; {detail}", detail=detail)


def _times(factor: float) -> str:
    """A factor without an exponent."""
    return f"{factor:,.0f}" if factor >= 100 else f"{factor:.3g}"


def _places(overlaid: bool) -> dict[str, str]:
    """The figures below which it stands what the victim makes of the image before and after the attack."""
    if overlaid:
        return {"found_before": "before", "found_after": "after"}
    return {"clean": "before", "adversarial": "after"}


def judged_panel(panel: Mapping[str, Any], when: str, names: Sequence[str], quality: str) -> tuple[str, str, str]:
    """Tone, words and details of what the victim made of an image before or after the attack."""
    if f"right_{when}" in panel:
        right, value = bool(panel[f"right_{when}"]), panel.get(f"quality_{when}")
        details = [] if value is None else [f"{quality.removeprefix('mean ')} {format_percent(value)}"]
        if when == "after":
            found = {name: panel.get(f"boxes_{name}") for name in ("lost", "relabelled", "invented")}
            details += [f"{count} {name}" for name, count in found.items() if count]
        return "right" if right else "wrong", "right" if right else "wrong", ", ".join(details)
    side = "clean" if when == "before" else "adversarial"
    index, target, confidence = (panel.get(name) for name in (f"{side}_prediction", "target", f"{side}_confidence"))
    tone = "neutral" if target is None or index is None else "right" if index == target else "wrong"
    return tone, _class_name(index, names), "" if confidence is None else format_percent(confidence)


def _with(one: Figure, judged: tuple[str, str, str] | None) -> Figure:
    """A figure with what the victim made of its image."""
    if judged is None:
        return one
    tone, words, detail = judged
    said = [words if words in ("right", "wrong", DASH) else f"taken for {words}"]
    said += ["which is " + tone] if said[0] != words and tone != "neutral" else []
    return one._replace(
        alt=f"{one.alt}: {', '.join([*said, *([detail] if detail else [])])}", tone=tone, words=words, detail=detail
    )


def right_of(panel: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether the victim was right about the image of a panel before and after the attack."""
    if "right_before" in panel:
        return bool(panel["right_before"]), bool(panel["right_after"])
    target = panel.get("target")
    return panel.get("clean_prediction") == target, panel.get("adversarial_prediction") == target
