"""The engine with victims that name no class per image: lists of boxes, and masks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from medrobust.attacks import DAG, PGD
from medrobust.listeners import Panels, Quality, RecordJournal
from medrobust.networks import Outcome, is_evaluated_victim
from medrobust.results.records import merge
from tests.in_memory import InMemoryData, random_split
from tests.recording import evaluate

COUNT, SIDE = 7, 8


class Mean(nn.Module):
    """A victim around a network that gives maps ``(N, H, W)``; below its tasks differ.

    Args:
        breaks: Give NaN for images whose first pixel has exactly this value.
    """

    def __init__(self, breaks: float = -1.0) -> None:
        super().__init__()
        self.network, self.breaks = nn.Conv2d(1, 1, 1), breaks
        nn.init.constant_(self.network.weight, 4.0)
        nn.init.constant_(self.network.bias, -2.0)

    def maps(self, images: Tensor) -> Tensor:
        broken = (images[:, 0, 0, 0] == self.breaks).float().view(-1, 1, 1)
        return self.network(images)[:, 0] / (1 - broken)

    def normalised(self, images: Tensor) -> Tensor:
        return images

    def features(self, images: Tensor, layers: Sequence[str]) -> tuple[Any, dict[str, Tensor]]:
        return self(images), {layer: images.flatten(1) for layer in layers}

    def layers_named(self, patterns: Sequence[str]) -> tuple[str, ...]:
        return tuple(patterns)

    def description(self) -> dict[str, Any]:
        return {"class": type(self).__name__}


class Boxes(Mean):
    """A box is found where the mean of its pixels is above one half; all boxes have to be found."""

    def forward(self, images: Tensor) -> list[dict[str, Tensor]]:
        return [{"map": one} for one in self.maps(images)]

    def scores(self, output: dict[str, Tensor], target: dict[str, Tensor]) -> Tensor:
        return torch.stack([output["map"][y1:y2, x1:x2].mean() for x1, y1, x2, y2 in target["boxes"].int().tolist()])

    def loss(self, images: Tensor, targets: Any) -> Tensor:
        pairs = zip(self(images), targets, strict=True)
        return torch.stack([functional.softplus(-self.scores(output, target)).sum() for output, target in pairs])

    def outcome(self, outputs: Any, targets: Any) -> Outcome:
        found = [self.scores(output, target) > 0 for output, target in zip(outputs, targets, strict=True)]
        recall = torch.stack([hits.float().mean() for hits in found])
        return Outcome(recall == 1, recall)


class Masks(Mean):
    """A pixel belongs to the object if it is brighter than one half; half the pixels have to be right."""

    def forward(self, images: Tensor) -> Tensor:
        maps = self.maps(images)
        return torch.stack([-maps, maps], 1)

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(self(images), targets, reduction="none").mean((1, 2))

    def outcome(self, outputs: Tensor, targets: Tensor) -> Outcome:
        share = (outputs.argmax(1) == targets).float().mean((1, 2))
        return Outcome(share >= 0.5, share)


class Tasks(InMemoryData):
    """Bright images with one or two boxes each, or with a mask that is all object."""

    def __init__(self, victim: Mean) -> None:
        super().__init__({"adv_test": (random_split(COUNT)[0] * 0.4 + 0.35, torch.zeros(COUNT))})
        self.boxes = isinstance(victim, Boxes)
        both = torch.tensor([[0.0, 1.0, 4.0, 5.0], [4.0, 2.0, 8.0, 8.0]])
        self.truths: list[Any] = [torch.ones(SIDE, SIDE, dtype=torch.long)] * COUNT
        if self.boxes:
            self.truths = [
                {"boxes": both[: 1 + place % 2], "labels": torch.ones(1 + place % 2).long()} for place in range(COUNT)
            ]

    def dataloader_of(self, split: str, per_class: int | None = None) -> Any:
        items = list(zip(self.images[split], self.truths, self.ids(split), strict=True))

        def collate(chosen: list[Any]) -> dict[str, Any]:
            images, truths, ids = zip(*chosen, strict=True)
            return {
                "image": torch.stack(images),
                "target": list(truths) if self.boxes else torch.stack(truths),
                "id": list(ids),
            }

        return DataLoader(items, batch_size=3, collate_fn=collate)


@pytest.mark.parametrize("kind", [Boxes, Masks])
def test_noise_and_pgd_leave_records_of_every_image(kind: type[Mean], tmp_path: Path) -> None:
    victim = kind()
    assert is_evaluated_victim(victim)
    data, listeners = (
        Tasks(victim),
        [RecordJournal(str(tmp_path), "run"), Panels(str(tmp_path)), Quality(download=False)],
    )
    attacks = {"pgd": PGD(epsilon=0.25, step_size=0.1, steps=4)}
    recorder = evaluate(victim, data, attacks, *listeners, controls=True)

    assert recorder.counts() == {"noise": COUNT, "pgd": COUNT}
    table = merge(tmp_path).sort("attack", "id")
    assert len(table) == 2 * COUNT
    for name in ("target", "clean_prediction", "adversarial_prediction", "clean_confidence"):
        assert table[name].null_count() == 2 * COUNT
    for when, field in (("before", "clean"), ("after", "adversarial")):
        for attack in recorder.counts():
            rows, made = table.filter(attack=attack), recorder.of(attack, field)
            with torch.no_grad():
                expected = victim.outcome(victim(made), data.truths if data.boxes else torch.stack(data.truths))
            assert rows[f"correct_{when}"].to_list() == expected.right.tolist()
            assert rows[f"quality_{when}"].to_list() == pytest.approx(expected.quality.tolist())
    pgd = table.filter(attack="pgd")
    assert pgd["correct_before"].sum() > 3
    assert pgd["success"].to_list() == pgd["correct_before"].to_list()  # 0.25 darker is below one half on average
    assert pgd["linf"].to_list() == pytest.approx([0.25] * COUNT, abs=1e-5)
    assert len(list(tmp_path.glob("panels/*.json"))) == 2 * COUNT  # up to twice the four that are shown


@pytest.mark.parametrize("kind", [Boxes, Masks])
def test_an_output_that_is_not_finite_names_its_image(kind: type[Mean]) -> None:
    data = Tasks(kind())
    data.images["adv_test"][4, 0, 0, 0] = 0.625
    with pytest.raises(ValueError, match=r"\(clean\) are not finite for 1 of 3 images, first 'adv_test-04'"):
        evaluate(kind(breaks=0.625), data, {"pgd": PGD(steps=1)})


def test_goals_of_classes_are_none_of_boxes() -> None:
    with pytest.raises(ValueError, match="'next' is no goal of boxes: set goals to 'vanish', 'invent' or 'relabel'"):
        evaluate(Boxes(), Tasks(Boxes()), {"pgd": PGD(steps=1, targeted=True)})


class Segmented(Tasks):
    """Images with masks, the first of which is all background, as a data module of that task gives them."""

    task = "segmentation"

    def __init__(self) -> None:
        super().__init__(Masks())
        self.images["adv_test"][0] = 0.3
        self.truths = [torch.zeros(SIDE, SIDE, dtype=torch.long), *self.truths[1:]]


def test_masks_are_erased_and_the_records_say_how_much(tmp_path: Path) -> None:
    attacks = {
        "near": PGD(epsilon=0.02, targeted=True),
        "far": PGD(epsilon=0.5, targeted=True),
        "dag": DAG(epsilon=0.5, step_size=0.05, targeted=True),
    }
    recorder = evaluate(Masks(), Segmented(), attacks, RecordJournal(str(tmp_path), "run"), goals="erase")
    table = merge(tmp_path).sort("attack", "id")
    for name in attacks:
        rows, made = table.filter(attack=name), recorder.of(name, "adversarial")
        share = [float((one < 0.5).float().mean()) for one in made]  # a pixel is background below one half
        assert rows["goal_share"].to_list()[1:] == pytest.approx(share[1:])
        assert rows["goal_share"][0] is None and not rows["success"][0]  # there was nothing to erase
        assert not rows["reached"][0] and rows["reached"].to_list()[1:] == [one >= 0.5 for one in share[1:]]
    assert table.filter(attack="far")["goal_share"].to_list()[1:] == [1.0] * (COUNT - 1)
    assert table.filter(attack="dag")["targets_left"].to_list()[1:] == [0.0] * (COUNT - 1)
    assert "goal_share" in table.columns and table.filter(attack="near")["goal_share"].to_list()[1:] != [1.0] * 6


def test_goals_are_part_of_the_key_by_what_they_are(tmp_path: Path) -> None:
    def key(**settings: Any) -> str:
        return evaluate(Masks(), Segmented(), {"pgd": PGD(steps=1, targeted=True)}, **settings).keys()["pgd"]

    one, same, other = (tmp_path / f"{name}.png" for name in ("one", "same", "other"))
    for file, label in ((one, 0), (same, 0), (other, 1)):
        Image.fromarray(np.full((SIDE, SIDE), label, np.uint8)).save(file)
    keys = [key(goals="erase"), key(goals="shift"), key(goal_mask=str(one)), key(goal_mask=str(other))]
    assert len(set(keys)) == 4
    assert key(goal_mask=str(same)) == keys[2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "'next' is no goal of masks: set goals to 'erase' or 'shift' or goal_mask to a file"),
        ({"goals": "vanish"}, "'vanish' is no goal of masks"),
        ({"goal_mask": "nowhere.png"}, "goal_mask is an image of labels, and there is no file nowhere.png"),
    ],
)
def test_goals_of_another_task_are_refused_before_any_image_is_read(settings: dict[str, Any], message: str) -> None:
    data: Any = Segmented()
    data.dataloader_of = lambda *_: pytest.fail("an image was read")
    with pytest.raises(ValueError, match=message):
        evaluate(Masks(), data, {"pgd": PGD(steps=1, targeted=True)}, **settings)
