"""The victim that finds boxes: when it is right, what it tells attacks, and that it is trained, stored and measured."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from callbacks import AveragedWeights
from lightning_modules import BoxDetector
from medrobust.attacks import DAG, PGD
from medrobust.evaluation.deployment import Deployment
from medrobust.metrics.boxes import coco_precision
from medrobust.networks import BoxVictim, Victim, is_stored_victim
from medrobust.networks.deployment import DeployedNetwork
from tests.bright_boxes import BrightBoxes, batch_of, trained, untrained
from tests.in_lightning import InMemoryModule, trainer_of


def boxes(*rows: Any, scores: Any = None, **more: Any) -> dict[str, Tensor]:
    """Boxes of rows (label, x1, y1, x2, y2), as detections where there are scores."""
    numbers = torch.tensor(rows, dtype=torch.float32).reshape(-1, 5)
    found = {"boxes": numbers[:, 1:], "labels": numbers[:, 0].long(), **more}
    return found if scores is None else found | {"scores": torch.tensor(scores, dtype=torch.float32)}


ONE, TWO, THREE = (0, 0, 0, 10, 10), (1, 20, 0, 30, 10), (0, 40, 40, 60, 60)


def test_it_is_a_box_victim_that_can_be_loaded() -> None:
    assert isinstance(untrained(), Victim) and isinstance(untrained(), BoxVictim) and is_stored_victim(untrained())


def test_an_image_is_right_where_enough_of_its_boxes_are_found() -> None:
    outputs = [boxes(ONE, THREE, scores=[0.9, 0.6])] * 2 + [boxes(TWO, scores=[0.9]), boxes(ONE, scores=[0.4])]
    targets = [boxes(ONE, TWO, THREE), boxes(ONE, TWO, (1, *THREE[1:])), boxes(ONE, TWO), boxes(ONE)]
    outcome = untrained().outcome(outputs, targets)
    assert outcome.quality.tolist() == pytest.approx([2 / 3, 1 / 3, 1 / 2, 0])
    assert outcome.right.tolist() == [True, False, True, False] and outcome.prediction is None
    strict = untrained(share=2 / 3, score_threshold=0.7).outcome(outputs, targets)
    assert strict.quality.tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 2, 0]) and not strict.right.any()
    assert untrained(share=2 / 3).outcome(outputs[:1], targets[:1]).right.tolist() == [True]
    shifted = [boxes((0, 3, 0, 13, 10), scores=[0.9])]  # IoU 7 / 13
    for overlap, right in ((0.5, True), (0.55, False)):
        assert untrained(iou_threshold=overlap).outcome(shifted, [boxes(ONE)]).right.tolist() == [right]


def test_an_image_without_boxes_is_right_where_nothing_is_found() -> None:
    outputs = [boxes(scores=[]), boxes(ONE, scores=[0.4]), boxes(ONE, scores=[0.5])]
    outcome = untrained().outcome(outputs, [boxes()] * 3)
    assert outcome.right.tolist() == [True, True, False] and outcome.quality.isnan().all()
    assert untrained().outcome([boxes(scores=[])], [boxes(ONE)]).right.tolist() == [False]


def test_only_the_boxes_that_a_goal_seeks_decide() -> None:
    output = [boxes(ONE, scores=[0.9])] * 4
    sought = [[True, False], [False, True], [True, True], [False, False]]
    goals = [boxes(ONE, TWO, sought=torch.tensor(one)) for one in sought]
    outcome = untrained(share=1.0).outcome(output, goals)
    assert outcome.quality[:3].tolist() == [1, 0, 0.5] and math.isnan(outcome.quality[3])
    assert outcome.right.tolist() == [True, False, False, False]


def test_the_loss_is_the_sum_of_its_parts_and_that_of_an_image_alone() -> None:
    victim = untrained()
    images, targets = batch_of(range(4))
    assert len(targets[0]["labels"]) == 0
    parts, loss = victim.loss_parts(images, targets), victim.loss(images, targets)
    assert set(parts) == {"objectness", "proposals", "classes", "boxes"} and loss.shape == (4,)
    torch.testing.assert_close(sum(parts.values()), loss)
    assert torch.equal(victim.loss(images, targets), loss)
    alone = torch.cat([victim.loss(images[n : n + 1], targets[n : n + 1]) for n in range(4)])
    torch.testing.assert_close(alone, loss, rtol=1e-4, atol=1e-5)
    assert [len(part) for part in victim.proposals(images, 0.5)] == [
        len(part) for part in victim.proposals(images, 0.5)
    ]
    logits = victim.proposal_logits(images, [target["boxes"] for target in targets])
    assert [tuple(part.shape) for part in logits] == [(n, 3) for n in range(4)]


def test_the_loss_of_an_attack_is_that_of_the_deployment_copy() -> None:
    victim = trained()
    images, targets = batch_of(range(4))
    expected, before = victim.loss(images, targets), victim.network
    with Deployment().used(victim, PGD(), images):
        assert isinstance(victim.network, DeployedNetwork) and len(victim.network.folded) > 5
        torch.testing.assert_close(victim.loss(images, targets), expected, rtol=1e-3, atol=1e-4)
        calls: list[int] = []
        victim.network.network.backbone.register_forward_hook(lambda *_: calls.append(1))
        victim.loss(images, targets), victim.proposals(images, 0.9), victim(images)
        assert len(calls) == 3
    assert victim.network is before


def test_pgd_raises_the_loss_and_breaks_what_noise_leaves() -> None:
    victim = trained()
    images, targets = batch_of(range(1, 13))
    noisy = (images + 0.05 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0)).sign()).clamp(0, 1)
    attacked = PGD(epsilon=0.05, steps=10)(victim, images, targets, [str(n) for n in range(12)])
    with torch.no_grad():
        clean, noise, hit = (coco_precision(victim(one), targets)["map50"] for one in (images, noisy, attacked.images))
        assert clean > 0.9 and noise > 0.8 and hit < 0.5 * clean
        assert (victim.loss(attacked.images, targets) > victim.loss(images, targets)).all()
    # of the images without boxes only a detection is wrong
    empty, none = batch_of([0, 4])
    assert not any(len(one["labels"]) for one in none) and victim.outcome(victim(empty), none).right.all()
    invented = PGD(epsilon=0.2, steps=10)(victim, empty, none, ["a", "b"])
    assert (victim.loss(invented.images, none) > victim.loss(empty, none)).all()


def test_a_batch_is_attacked_as_its_images_alone_are() -> None:
    victim = trained()
    images, targets = batch_of([1, 4, 3])
    attack = PGD(epsilon=0.02, steps=3)
    together = attack(victim, images, targets, ["a", "b", "c"])
    for place, name in enumerate("abc"):
        alone = attack(victim, images[place : place + 1], targets[place : place + 1], [name])
        same = (alone.images[0] - together.images[place]).abs() < 1e-6
        assert same.double().mean() > 0.97  # the sign of a gradient near 0 may differ
        assert alone.success[0] == together.success[place]


def test_a_batch_of_images_without_any_box_has_a_loss_and_an_outcome() -> None:
    victim = untrained()
    images, targets = batch_of([0, 4])
    loss = victim.train().training_loss(images, targets)
    loss.backward()
    assert loss.isfinite() and all(one.grad is not None and one.grad.isfinite().all() for one in victim.parameters())
    assert victim.eval().outcome(victim(images), targets).quality.isnan().all()


def test_an_empty_batch_is_attacked() -> None:
    crafted = PGD(epsilon=0.05, steps=2)(untrained(), torch.zeros(0, 3, 64, 64), [], [])
    assert crafted.images.shape == (0, 3, 64, 64) and crafted.success.shape == (0,)


def test_outputs_that_are_not_finite_are_refused_by_the_name_of_the_image() -> None:
    victim = untrained()
    images, targets = batch_of([1, 2])
    victim.network.heads.box_predictor.cls_score.bias.data[0] = torch.nan
    with pytest.raises(ValueError, match="outputs .* are not finite for 2 of 2 images, first 'a'"):
        PGD(epsilon=0.05, steps=2)(victim, images, targets, ["a", "b"])


@pytest.mark.parametrize("attack", [DAG(steps=1), DAG(steps=1, targeted=True), PGD(steps=1)])
def test_a_box_of_a_class_that_it_does_not_know_is_refused(attack: Any) -> None:
    """The class after the last one is the background of the second stage, at which nothing would be noticed."""
    victim = untrained()
    target = boxes((victim.num_classes, 4, 4, 20, 20))
    with pytest.raises(ValueError, match=r"finds boxes of 2 classes, counted from 0, got class 2"):
        attack(victim, torch.rand(2, victim.channels, 32, 32), [boxes(), target])


@pytest.mark.parametrize("targets", [torch.zeros(2, dtype=torch.long), torch.zeros(2, 32, 32, dtype=torch.long)])
def test_targets_of_another_task_are_refused(targets: Tensor) -> None:
    victim = untrained()
    with pytest.raises(ValueError, match=r"a list with a dict of boxes and labels each, got \(2,"):
        PGD(steps=1)(victim, torch.rand(2, victim.channels, 32, 32), targets)


def test_a_checkpoint_holds_all_that_it_is_built_from(tmp_path: Path, run_of: Any) -> None:
    settings = {"booster": True, "share": 0.75, "score_threshold": 0.3, "iou_threshold": 0.4, "width": 16}
    victim = untrained(**settings, mean=[0.1, 0.2, 0.3], std=0.4)
    again = BoxDetector.from_checkpoint(Path(run_of(tmp_path / "run", victim)) / "checkpoints" / "best.ckpt").eval()
    assert again.description() == victim.description()
    assert {name: again.description()[name] for name in settings} == settings
    images, targets = batch_of([3])
    assert torch.equal(again.loss(images, targets), victim.loss(images, targets))


class Boxed(InMemoryModule):
    """Nine images of bright and dark boxes."""

    task, class_names = "boxes", ("bright", "dark")

    def __init__(self) -> None:
        images, self.truth = batch_of(range(9))
        super().__init__({"adv_test": (images, torch.zeros(9))}, num_classes=2)

    def dataloader_of(self, split: str, per_class: int | None = None) -> Any:
        batches = [slice(0, 4), slice(4, 8), slice(8, 9)]
        images, ids = self.images[split], self.ids(split)
        items = [{"image": images[rows], "target": self.truth[rows], "id": ids[rows]} for rows in batches]
        return torch.utils.data.DataLoader(items, batch_size=None)  # type: ignore[arg-type]


def test_clean_numbers_are_those_of_all_images() -> None:
    victim, data = trained(), Boxed()
    (logged,) = trainer_of().test(victim, data, verbose=False)
    images = data.images["adv_test"]
    with torch.no_grad():
        outputs = victim(images)
        outcome, loss = victim.outcome(outputs, data.truth), victim.loss(images, data.truth)
    assert logged["test/loss"] == pytest.approx(float(loss.mean()), rel=1e-4)
    assert logged["test/accuracy"] == pytest.approx(float(outcome.right.double().mean()))
    assert logged["test/quality"] == pytest.approx(float(outcome.quality.nanmean()))
    expected = coco_precision(outputs, data.truth)
    assert logged["test/map50"] == pytest.approx(expected["map50"]) and expected["map50"] > 0.9
    assert logged["test/map"] == pytest.approx(expected["map"], abs=1e-3)
    assert set(logged) == {
        f"test/{name}" for name in ("loss", "accuracy", "quality", "map50", "map", "iou", "ead_score", "images")
    }


def test_it_is_trained_by_lightning_and_its_weights_are_averaged() -> None:
    victim = untrained(optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-3))
    images, targets = batch_of(range(9))
    before = victim.loss(images, targets).mean()
    trainer_of(AveragedWeights(0.9), max_epochs=4, num_sanity_val_steps=0).fit(victim, Boxed())
    assert victim.eval().loss(images, targets).mean() < 0.9 * before


@pytest.mark.parametrize(
    ("options", "changes", "words"),
    [
        ({"num_classes": 3}, {}, r"model.num_classes is 3, but the data set has 2 \(bright, dark\)$"),
        ({"channels": 1}, {}, "model.channels is 1, but the data set has 3"),
        ({}, {"task": "segmentation"}, "a BoxDetector needs data with boxes, and those of items are of the task segm"),
    ],
)
def test_data_that_do_not_fit_are_refused(options: Any, changes: Any, words: str) -> None:
    data = Boxed()
    for name, value in changes.items():
        setattr(data, name, value)
    with pytest.raises(ValueError, match=words):
        trainer_of().test(untrained(**options), data, verbose=False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"score_threshold": 1.5}, r"score_threshold is a score and lies in \[0, 1\], got 1.5"),
        ({"iou_threshold": 0}, "iou_threshold lies above 0 and is at most 1, got 0"),
        ({"share": 1.1}, "share lies above 0 and is at most 1, got 1.1"),
        ({"backbone": "vgg16", "width": 0}, "width is at least 1, got 0"),
    ],
)
def test_arguments_out_of_their_range_are_refused(options: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        BoxDetector(2, **{"backbone": "test_resnet", **options})


def test_its_data_module_gives_what_it_expects() -> None:
    data = BrightBoxes("unused", image_size=64, batch_size=4, resize="squash")
    data.setup()
    batch = next(iter(data.dataloader_of("adv_test")))
    assert untrained().loss(batch["image"], batch["target"]).shape == (4,)
