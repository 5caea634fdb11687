"""Panels: always the same few images, as pictures that show what was done to them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medrobust.attacks import FGSM, PGD, Attack
from medrobust.evaluation import AdversarialBatch, EvaluationContext, EvaluationPlan, PlannedAttack
from medrobust.listeners import Panels
from medrobust.listeners.panels import to_image
from medrobust.networks import Outcome, class_outcome
from tests.tiny_networks import linear_victim

COUNT = 12
KEYS = {
    "key",
    "attack",
    "method",
    "epsilon",
    "id",
    "target",
    "clean_prediction",
    "clean_confidence",
    "adversarial_prediction",
    "adversarial_confidence",
    "success",
    "linf",
    "magnification",
    "extras",
    "images",
    "shown",
}
CLASS_KEYS = {"target", *(name for name in KEYS if name.endswith(("_prediction", "_confidence")))}
IDS = [f"folder/image {place}.png" for place in range(COUNT)]
TARGETS = torch.tensor([0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2])


def planned(key: str = "0123456789abcdef", attack: Attack | None = None) -> PlannedAttack:
    """One attack at 0.1."""
    return PlannedAttack(name="mine", attack=FGSM(epsilon=0.1) if attack is None else attack, key=key)


def plan_of(order: list[int], attacks: list[PlannedAttack]) -> EvaluationPlan:
    """Plan over the images in some order."""
    images = [(IDS[row], str(int(TARGETS[row]))) for row in order]
    return EvaluationPlan(attacks=attacks, split="adv_test", images=images, victim={}, data={})


def batch_of(
    rows: list[int],
    channels: int = 1,
    one: PlannedAttack | None = None,
    change: float = 0.1,
    named: bool = True,
) -> AdversarialBatch:
    """A batch whose first two pixels are changed by half of ``change`` down and all of it up.

    Args:
        rows: Numbers of its images.
        channels: Their channels.
        one: The attack.
        change: The larger change.
        named: Whether the victim names a class.
    """
    levels = torch.linspace(0.2, 0.7, channels * 16).view(1, channels, 4, 4)
    clean = levels + 0.01 * torch.tensor(rows).view(-1, 1, 1, 1)
    adversarial = clean.clone()
    adversarial[:, :, 0, 0] -= change / 2
    adversarial[:, :, 0, 1] += change
    targets, count = TARGETS[rows], len(rows)
    logits = torch.tensor([[2.0, 0.0, 0.0]]).repeat(count, 1)  # class 0 before, class 1 after
    before, after = (class_outcome(outputs, targets) for outputs in (logits, logits.roll(1, 1)))
    if not named:
        before, after = Outcome(before.right, before.quality), Outcome(after.right, after.quality)
    one = planned() if one is None else one
    numbers = torch.zeros(count, dtype=torch.long)
    return AdversarialBatch(
        planned=one,
        plan=plan_of(list(range(COUNT)), [one]),
        ids=[IDS[row] for row in rows],
        targets=targets,
        goals=None,
        clean=clean,
        adversarial=adversarial,
        clean_outputs=logits,
        adversarial_outputs=logits.roll(1, 1),
        before=before,
        after=after,
        reached=~after.right,
        forwards=numbers,
        backwards=numbers,
        zero_gradients=numbers,
    )


CONTEXT, VICTIM = EvaluationContext(), linear_victim()


def start(panels: Panels, plan: EvaluationPlan) -> None:
    """Let panels hear that an evaluation starts."""
    panels.on_evaluation_plan(CONTEXT, VICTIM, plan)


def save(folder: Path, count: int, order: list[int], size: int, channels: int = 1, **options: object) -> list[dict]:
    """Let panels hear all images in an order, some at a time, and read what was written."""
    panels = Panels(str(folder), count)
    batches = [batch_of(order[start : start + size], channels, **options) for start in range(0, COUNT, size)]
    start(panels, plan_of(order, [batches[0].planned]))
    for batch in batches:
        panels.on_adversarial_batch(CONTEXT, VICTIM, batch)
    return [json.loads(file.read_text()) for file in sorted(folder.glob("panels/*.json"))]


def pixels(folder: Path, name: str) -> np.ndarray:
    """A written picture's values."""
    with Image.open(folder / "panels" / name) as picture:
        return np.asarray(picture)


def test_the_same_images_are_shown_in_any_order_and_batch_size(tmp_path: Path) -> None:
    forwards = save(tmp_path / "a", 4, list(range(COUNT)), 5)
    backwards = save(tmp_path / "b", 4, list(range(COUNT))[::-1], 1)

    assert len(forwards) == 2 * 4 and forwards == backwards  # twice as many as are shown
    for name in (name for panel in forwards for name in panel["images"].values()):
        assert (tmp_path / "a/panels" / name).read_bytes() == (tmp_path / "b/panels" / name).read_bytes()


def test_the_images_are_spread_over_the_classes(tmp_path: Path) -> None:
    for count, expected in ((1, [0, 1]), (2, [0, 0, 1, 2]), (3, [0, 0, 1, 1, 2, 2]), (4, [0, 0, 0, 1, 1, 1, 2, 2])):
        shown = save(tmp_path / str(count), count, list(range(COUNT)), 5)
        assert sorted(panel["target"] for panel in shown) == expected


def test_the_images_are_not_simply_the_first(tmp_path: Path) -> None:
    shown = save(tmp_path, 3, list(range(COUNT)), 5)
    assert {panel["id"] for panel in shown} != {IDS[row] for row in (0, 1, 7, 8, 10, 11)}


def test_all_images_are_shown_where_fewer_exist_than_wanted(tmp_path: Path) -> None:
    assert len(save(tmp_path, 100, list(range(COUNT)), 5)) == COUNT


def test_none_are_shown_on_request(tmp_path: Path) -> None:
    assert save(tmp_path, 0, list(range(COUNT)), 5) == []
    assert not list(tmp_path.rglob("*.png"))


@pytest.mark.parametrize("setting", ["count", "budget"])
def test_a_negative_number_is_refused(setting: str) -> None:
    with pytest.raises(ValueError, match=f"{setting} counts .* got -1"):
        Panels(**{setting: -1})


def test_the_perturbation_is_magnified_about_mid_grey(tmp_path: Path) -> None:
    for panel in save(tmp_path, 2, list(range(COUNT)), 5):
        row = IDS.index(panel["id"])
        clean, perturbation, adversarial = (
            pixels(tmp_path, panel["images"][kind]) for kind in ("clean", "perturbation", "adversarial")
        )
        expected = torch.linspace(0.2, 0.7, 16).view(4, 4) + 0.01 * row
        np.testing.assert_allclose(clean, 255 * expected.numpy(), atol=0.51)
        changed = adversarial.astype(int) - clean
        np.testing.assert_allclose(changed[0, :2], [-0.05 * 255, 0.1 * 255], atol=1.01)
        assert (changed[1:] == 0).all()
        # the largest change, +0.1, is magnified by 5 to white; -0.05 to a quarter; no change is mid grey
        assert perturbation[0, 1] == 255 and abs(int(perturbation[0, 0]) - 0.25 * 255) <= 1
        assert (abs(perturbation[1:].astype(int) - 127.5) <= 0.5).all()
        assert panel["magnification"] == pytest.approx(5, rel=1e-5) and panel["linf"] == pytest.approx(0.1, abs=1e-6)


def test_no_change_is_an_even_grey_and_not_magnified(tmp_path: Path) -> None:
    for panel in save(tmp_path, 2, list(range(COUNT)), 5, change=0.0):
        assert panel["magnification"] == 1 and panel["linf"] == 0
        assert np.unique(pixels(tmp_path, panel["images"]["perturbation"])).tolist() in ([127], [128])


def test_a_panel_names_what_it_shows(tmp_path: Path) -> None:
    one = planned("fedcba9876543210", PGD(epsilon=0.1))
    for panel in save(tmp_path, 3, list(range(COUNT)), 5, one=one):
        assert panel.keys() == KEYS and panel["images"].keys() == {"clean", "perturbation", "adversarial"}
        about = {name: panel[name] for name in ("key", "attack", "method", "epsilon", "success")}
        key = "fedcba9876543210"
        assert about == {"key": key, "attack": "mine", "method": "PGD", "epsilon": 0.1, "success": panel["target"] == 0}
        assert panel["target"] == int(TARGETS[IDS.index(panel["id"])])  # the victim says 0, and then 1
        assert (panel["clean_prediction"], panel["adversarial_prediction"]) == (0, 1)
        confidence = float(torch.tensor([2.0, 0.0, 0.0]).softmax(0)[0])
        assert panel["clean_confidence"] == panel["adversarial_confidence"] == pytest.approx(confidence)
        assert all((tmp_path / "panels" / name).is_file() for name in panel["images"].values())


def test_attacks_share_the_clean_picture_and_keep_their_own_others(tmp_path: Path) -> None:
    first = save(tmp_path, 1, list(range(COUNT)), 5)
    both = save(tmp_path, 1, list(range(COUNT)), 5, one=planned("ffffffffffffffff"))

    assert len(first) == 2 and len(both) == 4
    assert len({panel["images"]["clean"] for panel in both}) == 2
    assert len({panel["images"]["adversarial"] for panel in both}) == 4


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_grey_images_are_saved_grey_and_colours_as_rgb(tmp_path: Path, channels: int, mode: str) -> None:
    for panel in save(tmp_path, 2, list(range(COUNT)), 5, channels):
        with Image.open(tmp_path / "panels" / panel["images"]["clean"]) as picture:
            assert picture.mode == mode and picture.size == (4, 4)


def test_colours_keep_their_order_and_their_orientation() -> None:
    picture = torch.zeros(3, 2, 3)
    picture[0, 0, 2], picture[2, 1, 0] = 1.0, 0.5

    values = np.asarray(to_image(picture))
    assert values.shape == (2, 3, 3)
    assert values[0, 2].tolist() == [255, 0, 0] and values[1, 0].tolist() == [0, 0, 128]
    assert to_image(torch.full((3, 2, 2), 0.5)).mode == "L"  # three equal channels are grey
    assert np.asarray(to_image(torch.tensor([[[-0.5, 1.5]]]))).tolist() == [[0, 255]]


@pytest.mark.parametrize(
    "damage", ["truncated picture", "large junk as picture", "no picture", "torn text", "other text"]
)
def test_pictures_that_were_damaged_are_made_again_and_only_those(tmp_path: Path, damage: str) -> None:
    order = list(range(COUNT))
    one, other = save(tmp_path, 1, order, COUNT)
    picture = tmp_path / "panels" / one["images"]["adversarial"]
    text = next(file for file in tmp_path.glob("panels/*.json") if json.loads(file.read_text())["id"] == one["id"])
    content = picture.read_bytes()
    if "picture" in damage:
        changed = {"truncated picture": content[:60], "large junk as picture": b"\x00junk" * 4000, "no picture": None}
        picture.unlink() if changed[damage] is None else picture.write_bytes(changed[damage])
    else:
        text.write_text('{"id": ' if damage == "torn text" else "[]")
    panels, plan = Panels(str(tmp_path), 1), plan_of(order, [planned()])
    plan.done[planned().key] = set(IDS)
    start(panels, plan)
    assert plan.done[planned().key] == set(IDS) - {one["id"]}
    panels.on_adversarial_batch(CONTEXT, VICTIM, batch_of([IDS.index(one["id"])]))
    assert picture.read_bytes() == content and json.loads(text.read_text()) == one


def test_pictures_that_were_removed_are_made_again(tmp_path: Path) -> None:
    shown = {panel["id"] for panel in save(tmp_path, 2, list(range(COUNT)), COUNT)}
    shutil.rmtree(tmp_path / "panels")
    plan = plan_of(list(range(COUNT)), [planned()])
    plan.done[planned().key] = set(IDS)
    start(Panels(str(tmp_path), 2), plan)
    assert plan.done[planned().key] == set(IDS) - shown


def test_victims_that_name_no_class_are_shown_with_how_good_their_outputs_are(tmp_path: Path) -> None:
    confidence = float(torch.tensor([2.0, 0.0, 0.0]).softmax(0)[0])
    shown = save(tmp_path, 2, list(range(COUNT)), 5, named=False)
    verdict = {"right_before", "right_after", "quality_before", "quality_after", "legend"}
    assert len(shown) == 4 and all(panel.keys() == KEYS - CLASS_KEYS | verdict for panel in shown)
    for panel in shown:
        target = int(TARGETS[IDS.index(panel["id"])])
        assert (panel["right_before"], panel["right_after"], panel["legend"]) == (target == 0, target == 1, [])
        assert panel["quality_before"] == pytest.approx(confidence if target == 0 else (1 - confidence) / 2)
        assert panel["images"].keys() == {"clean", "perturbation", "adversarial"}
