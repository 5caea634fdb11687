"""Pictures of a report: evenly over classes and outcomes, each once, within a budget."""

from typing import Any

import pytest

from medrobust.results.report.chosen import FATES, choose_pictures, fate
from medrobust.results.report.panels import Figure

BYTES = 100  # of each picture


def picture(name: str) -> str:
    return name.ljust(BYTES, ".")


def panel(image: str, attack: str, target: int, before: int, after: int, **changes: Any) -> dict[str, Any]:
    """A panel whose clean picture is the same under all attacks."""
    figures = [
        Figure("clean", "clean", "", picture=picture(f"{image} clean"), size=(4, 3)),
        Figure("adversarial", "adversarial", "", picture=picture(f"{image} {attack}"), size=(4, 3)),
    ]
    shown = {"target": target, "clean_prediction": before, "adversarial_prediction": after, "figures": figures}
    return {"id": image, "target_name": f"class {target}", "shown": 4, **shown, **changes}


# image: class, fate by two attacks
IMAGES = {
    "a": (0, 0, (1, 1)),  # turned by both
    "b": (0, 0, (1, 1)),
    "c": (0, 0, (1, 1)),
    "d": (0, 0, (0, 0)),  # stands both
    "e": (1, 1, (0, 0)),
    "f": (1, 1, (0, 0)),
    "g": (1, 1, (1, 0)),  # turned by one
    "h": (1, 0, (0, 0)),  # wrong before
}


def groups(**changes: Any) -> list[dict[str, Any]]:
    """Noise, which turns nothing, and two attacks."""
    found = [{"attack": "noise", "epsilon": 0.1, "control": True, "panels": []}]
    found[0]["panels"] = [panel(name, "noise", t, b, b, **changes) for name, (t, b, _) in IMAGES.items()]
    for number, attack in enumerate(("fgsm", "pgd")):
        own = [panel(name, attack, t, b, after[number], **changes) for name, (t, b, after) in IMAGES.items()]
        found.append({"attack": attack, "epsilon": 0.1, "control": False, "panels": own})
    return found


def shown(found: Any) -> list[list[str]]:
    return [[one["id"] for one in group["panels"]] for group in found.groups]


def test_what_attacks_made_of_an_image_leaves_out_controls() -> None:
    found = groups()
    fates = {
        name: fate([(bool(group["control"]), own) for group in found for own in group["panels"] if own["id"] == name])
        for name in IMAGES
    }
    assert [FATES.index(fates[name]) for name in "abcdefgh"] == [0, 0, 0, 1, 0, 0, 2, 3]
    only = [(True, panel("a", "noise", 0, 0, 1))]
    assert fate(only) == FATES[0]
    dense = {"right_before": True, "right_after": False}
    assert fate([(False, dense), (False, dense | {"right_after": True})]) == FATES[2]


def test_images_are_taken_from_classes_and_outcomes_in_turn() -> None:
    found = choose_pictures(groups())
    # first of: turned by all of class 0 and 1, stood of class 0, turned by some of class 1
    assert shown(found) == [["a", "e", "d", "g"]] * 3 and found.note == ""
    assert shown(choose_pictures(groups(shown=100)))[0] == list("aedghbfc")
    older = groups()
    for group in older:
        for one in group["panels"]:
            del one["shown"]
    assert len(shown(choose_pictures(older))[0]) == 8


def test_a_picture_that_several_figures_show_is_embedded_once() -> None:
    found = choose_pictures(groups())
    assert [one.picture for one in found.shared] == [picture(f"{name} clean") for name in "aedg"]
    assert (found.shared[0].width, found.shared[0].height) == (4, 3)
    clean, adversarial = found.groups[2]["panels"][0]["figures"]
    assert clean.shared == found.shared[0].name and adversarial.shared == ""
    assert len({one.name for one in found.shared}) == 4


@pytest.mark.parametrize(("images", "left"), [(4, 0), (3, 1), (2, 2), (1, 3)])
def test_a_budget_leaves_out_the_last_images_and_says_so(images: int, left: int) -> None:
    # an image has one clean picture and three changed ones
    found = choose_pictures(groups(), budget=images * 4 * BYTES)
    assert [len(own) for own in shown(found)] == [images] * 3
    assert (f"Pictures of {images} of 4 images are shown" in found.note) == bool(left)
    one_less = choose_pictures(groups(), budget=images * 4 * BYTES - 1)
    assert sum(map(len, shown(one_less))) < images * 3


def test_where_not_even_one_image_fits_the_first_shown_attack_comes_first() -> None:
    found = choose_pictures(groups(), first=2, budget=2 * BYTES)
    assert [(group["attack"], [one["id"] for one in group["panels"]]) for group in found.groups] == [("pgd", ["a"])]
    assert found.note == (
        "Pictures of one image under 1 of 3 attacks are shown: more do not fit into the budget of 0.0002 MB "
        "(--panels.budget)."
    )
    both = choose_pictures(groups(), first=2, budget=3 * BYTES)
    assert [group["attack"] for group in both.groups] == ["fgsm", "pgd"]  # and not the control
    nothing = choose_pictures(groups(), budget=0)
    assert nothing.groups == [] and nothing.note.startswith("No picture is shown")
    assert choose_pictures([]) == ([], [], "")
