"""The pictures of images that one run gets right and another does not, where both have kept them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from medrobust.results.dashboard.pairs import Condition, Verdicts
from medrobust.results.report.panels import PANELS, data_uri, judged_panel
from medrobust.results.wording import quality_name

BUDGET = 1_000_000  # bytes of all pictures of a page
Panels = Mapping[tuple[str, str], Mapping[str, Any]]  # by the key of the attack and the image


class Seen(NamedTuple):
    """A picture of an image as one run has kept it, and what its victim made of it."""

    picture: int
    words: str
    right: bool


class Pictures:
    """Pictures of a page, each stored once, until a number of bytes is reached.

    Args:
        budget: That number.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self.uris: list[str] = []
        self.left_out = 0
        self._left = budget
        self._places: dict[str, int] = {}

    def of_pairs(self, runs: Sequence[str], conditions: Sequence[Condition]) -> dict[str, Any]:
        """Keep the pictures of the images that changed sides between two runs, pair by pair and condition by condition.

        Args:
            runs: Names of the runs on the same images, in their order.
            conditions: What they are compared under.

        Returns:
            `clean`, the place of the clean picture by the image, and `seen`: for each condition, for each run's place
            by name, for each image a `Seen` as a list.
        """
        kept = _panels({one.run.name: one for condition in conditions for one in condition.verdicts}.values())
        clean: dict[str, int] = {}
        seen: list[dict[int, dict[str, list[Any]]]] = [{} for _ in conditions]
        for number, condition in enumerate(conditions):
            for first, second, image in _changed(condition, kept):
                shown = [(one, _panel(one, condition, kept[one.run.name], image)) for one in (first, second)]
                uris = [_clean(shown[0]), *map(_after, shown)] if all(panel for _, panel in shown) else [None]
                if None in uris:
                    continue
                places = self._add([str(uri) for uri in uris])
                if places is None:
                    self.left_out += 1
                    continue
                clean[image] = places[0]
                for (verdicts, panel), place in zip(shown, places[1:], strict=True):
                    own = seen[number].setdefault(runs.index(verdicts.run.name), {})
                    own[image] = list(_seen(verdicts, panel, place, bool(condition.keys[verdicts.run.name])))
        return {"clean": clean, "seen": seen}

    def _add(self, uris: Sequence[str]) -> list[int] | None:
        """Places of pictures that are stored, those that are new among them; None if they do not fit any more."""
        new = [uri for uri in dict.fromkeys(uris) if uri not in self._places]
        if (size := sum(map(len, new))) > self._left:
            return None
        self._left -= size
        for uri in new:
            self._places[uri] = len(self.uris)
            self.uris.append(uri)
        return [self._places[uri] for uri in uris]


def _panels(verdicts: Any) -> dict[str, Panels]:
    """The panels that each run has kept, without their pictures."""
    found: dict[str, Panels] = {}
    for one in verdicts:
        panels: dict[tuple[str, str], Mapping[str, Any]] = {}
        for path in sorted((one.run.folder / PANELS).glob("*.json")):
            try:
                panel = json.loads(path.read_bytes())
                if isinstance(panel["images"], dict):
                    panels[str(panel["key"]), str(panel["id"])] = panel
            except (ValueError, KeyError, TypeError, OSError):
                continue  # the run's own report names it
        found[one.run.name] = panels
    return found


def _changed(condition: Condition, kept: Mapping[str, Panels]) -> Iterator[tuple[Verdicts, Verdicts, str]]:
    """Images that only one of two runs gets right and of which both have kept pictures, in turn for each pair."""
    images = {name: {image for _, image in panels} for name, panels in kept.items()}
    verdicts = [one for one in condition.verdicts if images[one.run.name]]
    right: dict[str, dict[str, bool]] = {}
    wanted = set().union(*images.values()) if images else set()
    for one in verdicts:
        rows = zip(one.run.outcomes.ids, one.tried.tolist(), one.right.tolist(), strict=True)
        right[one.run.name] = {image: hit for image, tried, hit in rows if tried and image in wanted}
    pairs = list(combinations(verdicts, 2))
    queues = []
    for first, second in pairs:
        ours, theirs = right[first.run.name], right[second.run.name]
        both = sorted(images[first.run.name] & images[second.run.name] & ours.keys() & theirs.keys())
        queues.append([(first, second, image) for image in both if ours[image] != theirs[image]])
    for turn in range(max(map(len, queues), default=0)):
        yield from (queue[turn] for queue in queues if turn < len(queue))


def _panel(verdicts: Verdicts, condition: Condition, panels: Panels, image: str) -> Mapping[str, Any] | None:
    """The panel of an image under a condition: of an attack that made it wrong, if one did; of any for clean images."""
    keys = condition.keys[verdicts.run.name] or [str(entry["key"]) for entry in verdicts.run.attacks]
    found = [panels[key, image] for key in keys if (key, image) in panels]
    place = verdicts.run.outcomes.ids.index(image)
    wrong = [panel for panel in found if verdicts.run.outcomes.right[panel["key"]][place] == 0]
    return (wrong or found or [None])[0]


def _clean(shown: tuple[Verdicts, Mapping[str, Any] | None]) -> str | None:
    return _picture(shown, ("truth", "clean"))


def _after(shown: tuple[Verdicts, Mapping[str, Any] | None]) -> str | None:
    return _picture(shown, ("found_after", "adversarial"))


def _picture(shown: tuple[Verdicts, Mapping[str, Any] | None], kinds: Sequence[str]) -> str | None:
    verdicts, panel = shown
    assert panel is not None
    names = [panel["images"][kind] for kind in kinds if kind in panel["images"]]
    try:
        return data_uri(verdicts.run.folder / PANELS, names[0]) if names else None
    except (OSError, SyntaxError, ValueError):
        return None  # a damaged picture, which the run's own report leaves out as well


def _seen(verdicts: Verdicts, panel: Mapping[str, Any] | None, place: int, attacked: bool) -> Seen:
    assert panel is not None
    classes = verdicts.run.data.get("class_names") or []
    tone, words, detail = judged_panel(
        panel, "after" if attacked else "before", classes, quality_name(verdicts.run.manifest)
    )
    what = f"{panel.get('attack', '')}: " if attacked else ""
    return Seen(place, f"{what}{words}{f', {detail}' if detail else ''}", tone == "right")
