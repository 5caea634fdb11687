"""Which pictures a report embeds: evenly over classes and outcomes, each once, and within a budget of bytes."""

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple

from medrobust.results.report.panels import Figure, right_of

BUDGET = 3_000_000  # bytes of pictures in a page
OPTION = "--panels.budget"
FATES = ("turned by every attack", "stood every attack", "turned by some attacks", "wrong before")

Group = Mapping[str, Any]
Panel = Mapping[str, Any]


class SharedPicture(NamedTuple):
    """A picture that several figures show: its name on the page, data URI, width and height."""

    name: str
    picture: str
    width: int
    height: int


class Pictures(NamedTuple):
    """What a page shows of the pictures of an evaluation.

    Args:
        groups: As `read_panels` gives them, with the panels that are shown.
        shared: The pictures that several figures show, which the page holds once.
        note: How the images were chosen, and what the budget has cut.
    """

    groups: Sequence[Group]
    shared: Sequence[SharedPicture]
    note: str


def choose_pictures(groups: Sequence[Group], first: int = 0, budget: int = BUDGET) -> Pictures:
    """Choose the images that are shown, the same for all attacks.

    An image's outcome is what the attacks, without the controls, made of it. Images are taken from the classes and
    outcomes in turn, as many as the evaluation was asked to show, and as long as their pictures fit into the budget,
    where a picture counts once. If those of the first image alone do not fit, it is shown under as many attacks as do.

    Args:
        groups: As `read_panels` gives them.
        first: Place of the group that the page shows when it opens, which is the last to be left out.
        budget: Bytes that the pictures may take as data URIs.
    """
    order = _in_turn(groups)
    asked = max((int(panel.get("shown", len(order))) for group in groups for panel in group["panels"]), default=0)
    wanted = order[: min(asked, len(order))]
    taken: set[str] = set()
    chosen: list[str] = []
    for image in wanted:
        more = taken | {uri for group in groups for panel in _of(group, [image]) for uri in _pictures(panel)}
        if _bytes(more) > budget:
            break
        chosen.append(image)
        taken = more
    if chosen or not wanted:
        shown: list[Group] = [{**group, "panels": _of(group, chosen)} for group in groups]
        note = _cut(f"{len(chosen)} of {len(wanted)} images", budget) if len(chosen) < len(wanted) else ""
    else:
        shown = _under_few(groups, wanted[0], first, budget)
        under = sum(bool(group["panels"]) for group in shown)
        note = _cut(f"one image under {under} of {len(groups)} attacks" if under else "", budget)
    shown, shared = _embedded_once([group for group in shown if group["panels"]])
    return Pictures(shown, shared, note)


def fate(panels: Sequence[tuple[bool, Panel]]) -> str:
    """What the attacks made of an image.

    Args:
        panels: Whether each is of a control, and the panel.
    """
    attacked = [right_of(panel) for control, panel in panels if not control] or [right_of(panel) for _, panel in panels]
    if not all(before for before, _ in attacked):
        return FATES[3]
    stood = [after for _, after in attacked]
    return FATES[1] if all(stood) else FATES[2] if any(stood) else FATES[0]


def _in_turn(groups: Sequence[Group]) -> list[str]:
    """All images, one of each outcome and class after the other."""
    panels: dict[str, list[tuple[bool, Panel]]] = {}
    for group in groups:
        for panel in group["panels"]:
            panels.setdefault(panel["id"], []).append((bool(group["control"]), panel))
    strata: dict[tuple[int, str], list[str]] = {}
    for image, own in panels.items():
        stratum = (FATES.index(fate(own)), str(own[0][1].get("target_name") or ""))
        strata.setdefault(stratum, []).append(image)
    turns = [(place, stratum, image) for stratum, images in strata.items() for place, image in enumerate(images)]
    return [image for _, _, image in sorted(turns)]


def _of(group: Group, images: Sequence[str]) -> list[Panel]:
    """The panels of some images, in their order."""
    by_image = {panel["id"]: panel for panel in group["panels"]}
    return [by_image[image] for image in images if image in by_image]


def _pictures(panel: Panel) -> list[str]:
    return [one.picture for one in panel["figures"] if one.picture]


def _bytes(pictures: set[str]) -> int:
    return sum(map(len, pictures))


def _under_few(groups: Sequence[Group], image: str, first: int, budget: int) -> list[Group]:
    """The groups with the panel of one image in as many as fit: the first shown, then the attacks, then controls."""
    priority = sorted(range(len(groups)), key=lambda place: (place != first, bool(groups[place]["control"]), place))
    taken: set[str] = set()
    kept = set()
    for place in priority:
        more = taken | {uri for panel in _of(groups[place], [image]) for uri in _pictures(panel)}
        if _bytes(more) <= budget:
            kept.add(place)
            taken = more
    return [{**group, "panels": _of(group, [image]) if place in kept else []} for place, group in enumerate(groups)]


def _cut(what: str, budget: int) -> str:
    """A sentence that says what is shown of all pictures."""
    size = f"the budget of {budget / 1e6:.3g} MB ({OPTION})"
    if not what:
        return f"No picture is shown: they do not fit into {size}."
    return f"Pictures of {what} are shown: more do not fit into {size}."


def _embedded_once(groups: Sequence[Group]) -> tuple[list[Group], list[SharedPicture]]:
    """The groups, in which figures name a picture that several of them show, and these pictures."""
    uses: dict[str, int] = {}
    for group in groups:
        for panel in group["panels"]:
            for uri in _pictures(panel):
                uses[uri] = uses.get(uri, 0) + 1
    numbers, shared = count(), dict[str, SharedPicture]()

    def named(one: Figure) -> Figure:
        if one.picture is None or uses[one.picture] < 2:
            return one
        if one.picture not in shared:
            shared[one.picture] = SharedPicture(f"picture-{next(numbers)}", one.picture, *one.size)
        return one._replace(shared=shared[one.picture].name)

    embedded: list[Group] = [
        {
            **group,
            "panels": [{**panel, "figures": [named(one) for one in panel["figures"]]} for panel in group["panels"]],
        }
        for group in groups
    ]
    return embedded, list(shared.values())
