"""The pictures of images that one run gets right and another does not, where both have kept them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

from medrobust.results.dashboard.pairs import Condition, Verdicts
from medrobust.results.dashboard.runs import DashboardRun
from medrobust.results.report.panels import PANELS, data_uri, judged_panel
from medrobust.results.wording import quality_name

BUDGET = 1_000_000  # bytes of all pictures of a page
CLEAN, ATTACKED = ("truth", "clean"), ("found_after", "adversarial")  # pictures, those with outlines first


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
        self.full = False
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
        shown_runs = {one.run.name: one.run for condition in conditions for one in condition.verdicts}
        kept = {name: Kept(run) for name, run in shown_runs.items()}
        clean: dict[str, int] = {}
        seen: list[dict[int, dict[str, list[Any]]]] = [{} for _ in conditions]
        for number, condition in enumerate(conditions):
            for first, second, image in _changed(condition, kept):
                if self.full:
                    return {"clean": clean, "seen": seen}
                shown = [
                    (one, kept[one.run.name], kept[one.run.name].panel(condition, image)) for one in (first, second)
                ]
                uris = [shown[0][1].picture(shown[0][2], CLEAN)]
                uris += [
                    own.picture(panel, ATTACKED if condition.keys[one.run.name] else CLEAN) for one, own, panel in shown
                ]
                if None in uris:
                    continue
                places = self._add([str(uri) for uri in uris])
                if places is None:
                    continue
                clean[image] = places[0]
                for (verdicts, own, panel), place in zip(shown, places[1:], strict=True):
                    of_run = seen[number].setdefault(runs.index(verdicts.run.name), {})
                    if image not in of_run:
                        of_run[image] = list(own.seen(panel, place, bool(condition.keys[verdicts.run.name])))
        return {"clean": clean, "seen": seen}

    def _add(self, uris: Sequence[str]) -> list[int] | None:
        """Places of pictures that are stored, those that are new among them; None if they do not fit any more."""
        new = [uri for uri in dict.fromkeys(uris) if uri not in self._places]
        if (size := sum(map(len, new))) > self._left:
            self.full = True
            return None
        self._left -= size
        for uri in new:
            self._places[uri] = len(self.uris)
            self.uris.append(uri)
        return [self._places[uri] for uri in uris]


class Kept:
    """The panels that a run has kept, of which each picture is read once.

    Args:
        run: The run.
    """

    def __init__(self, run: DashboardRun) -> None:
        self.run = run
        self.panels: dict[tuple[str, str], Mapping[str, Any]] = {}
        for path in sorted((run.folder / PANELS).glob("*.json")):
            try:
                panel = json.loads(path.read_bytes())
                if isinstance(panel["images"], dict):
                    self.panels[str(panel["key"]), str(panel["id"])] = panel
            except (ValueError, KeyError, TypeError, OSError):
                continue  # the run's own report names it
        self.images = {image for _, image in self.panels}
        self._places = {image: place for place, image in enumerate(run.outcomes.ids) if image in self.images}
        self._uris: dict[str, str | None] = {}

    def panel(self, condition: Condition, image: str) -> Mapping[str, Any] | None:
        """The panel of an image under a condition: of an attack that made it wrong, if one did; any if it is clean."""
        keys = condition.keys[self.run.name] or [str(entry["key"]) for entry in self.run.attacks]
        found = [self.panels[key, image] for key in keys if (key, image) in self.panels]
        right, place = self.run.outcomes.right, self._places[image]
        wrong = [panel for panel in found if right[str(panel["key"])][place] == 0]
        return next(iter(wrong or found), None)

    def picture(self, panel: Mapping[str, Any] | None, kinds: Sequence[str]) -> str | None:
        """The first of several kinds of pictures that a panel has, as a data URI; None if it cannot be shown."""
        name = next((str(panel["images"][kind]) for kind in kinds if kind in panel["images"]), None) if panel else None
        if name is None:
            return None
        if name not in self._uris:
            try:
                self._uris[name] = data_uri(self.run.folder / PANELS, name)
            except (OSError, SyntaxError, ValueError):
                self._uris[name] = None  # a damaged picture, which the run's own report leaves out as well
        return self._uris[name]

    def seen(self, panel: Mapping[str, Any] | None, place: int, attacked: bool) -> Seen:
        """What the victim made of an image, beside the place of its picture."""
        classes, quality = self.run.data.get("class_names") or [], quality_name(self.run.manifest)
        tone, words, detail = judged_panel(panel or {}, "after" if attacked else "before", classes, quality)
        what = f"{(panel or {}).get('attack', '')}: " if attacked else ""
        return Seen(place, f"{what}{words}{f', {detail}' if detail else ''}", tone == "right")


def _changed(condition: Condition, kept: Mapping[str, Kept]) -> Iterator[tuple[Verdicts, Verdicts, str]]:
    """Images that only one of two runs gets right and of which both have kept pictures, in turn for each pair."""
    verdicts = [one for one in condition.verdicts if kept[one.run.name].images]
    wanted = {image for one in verdicts for image in kept[one.run.name].images}
    right: dict[str, dict[str, bool]] = {}
    for one in verdicts:
        rows = zip(one.run.outcomes.ids, one.tried.tolist(), one.right.tolist(), strict=True)
        right[one.run.name] = {image: hit for image, tried, hit in rows if tried and image in wanted}
    queues = []
    for first, second in combinations(verdicts, 2):
        ours, theirs = right[first.run.name], right[second.run.name]
        both = sorted(kept[first.run.name].images & kept[second.run.name].images & ours.keys() & theirs.keys())
        queues.append([(first, second, image) for image in both if ours[image] != theirs[image]])
    for turn in range(max(map(len, queues), default=0)):
        yield from (queue[turn] for queue in queues if turn < len(queue))
