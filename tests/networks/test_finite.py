"""Numbers that are not finite, on values that are worked out by hand."""

import gc
import math
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medrobust.networks import as_victim
from medrobust.networks.finite import all_finite, finite_outputs, mended
from medrobust.networks.victims import attackable, probability_like
from medrobust.networks.watched_victim import WatchedVictim
from medrobust.objectives.base import Step

NAN, INF = math.nan, math.inf


def images_with(*rows: tuple[float, ...]) -> Tensor:
    """Images of one line of pixels each, ``(N, 1, 1, W)``."""
    return torch.tensor(rows)[:, None, None]


def test_infinities_keep_their_sign_and_nan_becomes_0() -> None:
    gradients = images_with((1, -3, INF, NAN), (0, INF, -INF, NAN), (NAN, NAN, NAN, NAN), (1e38, 3e38, 3e38, 0))
    made, broken = mended(gradients)
    # the largest finite magnitude is 3, then none; the last is finite though its sum is not
    assert torch.equal(made, images_with((1, -3, 3, 0), (0, 1, -1, 0), (0, 0, 0, 0), (1e38, 3e38, 3e38, 0)))
    assert broken.tolist() == [True, True, True, False]


def test_each_gradient_of_an_image_is_mended_by_itself() -> None:
    gradients = torch.stack([images_with((1, 2), (INF, 2)), images_with((NAN, 4), (5, 6))], 1)
    made, broken = mended(gradients, leading=2)
    assert broken.tolist() == [[False, True], [True, False]]
    assert made.flatten(2).tolist() == [[[1, 2], [0, 4]], [[2, 2], [5, 6]]]


def test_finite_gradients_are_not_copied() -> None:
    gradients = torch.ones(2, 1, 3, 3)
    made, broken = mended(gradients)
    assert made is gradients
    assert not broken.any()
    assert mended(torch.zeros(0, 1, 3, 3))[1].shape == (0,)


@pytest.mark.parametrize(
    ("values", "fine"),
    [
        (torch.tensor([1.0, NAN]), False),
        (torch.tensor([1, 2]), True),
        ([{"boxes": torch.zeros(0, 4), "labels": torch.tensor([1])}, {"boxes": torch.tensor([[0, 0, 1, INF]])}], False),
        ([{"boxes": torch.zeros(0, 4)}], True),
        ([], True),
    ],
)
def test_all_kinds_of_outputs_are_looked_through(values: Any, fine: bool) -> None:
    assert bool(all_finite(values)) is fine


def test_outputs_are_refused_by_the_first_images_name() -> None:
    with pytest.raises(ValueError, match=r"\(clean\) are not finite for 2 of 3 images, first 'b'"):
        finite_outputs(torch.tensor([[0.0, 1.0], [NAN, 0.0], [0.0, INF]]), ["a", "b", "c"], "clean")
    assert finite_outputs(torch.zeros(0, 2), [], "clean").shape == (0, 2)


def test_a_step_mends_the_gradients_of_its_images_before_they_are_mixed() -> None:
    """d sqrt(x) / dx is infinite at 0; behind a sum over the image one infinite entry would be all there is."""
    victim = as_victim(nn.Sequential(Root(), nn.Flatten(), nn.Linear(4, 2)))
    factor = torch.ones(2, requires_grad=True)
    clean = torch.tensor([[0.0, 0.25, 0.25, 1.0], [0.25, 0.25, 1.0, 1.0]]).view(2, 1, 2, 2)
    step = Step(victim, clean * factor.view(2, 1, 1, 1), clean, torch.tensor([0, 1]), ["a", "b"])
    (gradient,) = torch.autograd.grad(step.outputs.sum(), factor)
    assert bool(gradient.isfinite().all())
    assert step.broken.tolist() == [True, False]
    assert step.vanished is not None
    assert step.vanished.tolist() == [True, False]


class Root(nn.Module):
    """The square root of the images."""

    def forward(self, images: Tensor) -> Tensor:
        return images.sqrt()


def test_a_step_is_freed_without_the_garbage_collector() -> None:
    gc.disable()
    try:
        images = torch.rand(2, 1, 2, 2, requires_grad=True)
        step = Step(as_victim(nn.Flatten()), images, images.detach(), torch.tensor([0, 1]), ["a", "b"])
        assert step.outputs.requires_grad
        gone = weakref.ref(step)
        del step
        assert gone() is None
    finally:
        gc.enable()


def test_a_watched_victim_tells_where_outputs_or_losses_broke() -> None:
    images, targets = torch.rand(2, 1, 2, 2), torch.tensor([0, 1])
    watch = WatchedVictim(as_victim(nn.Flatten()), images, targets)
    watch(images)
    watch.loss(images, targets)
    assert watch.is_sound()
    watch.loss(images * NAN, targets)
    assert bool(watch.finite_outputs)
    assert not watch.is_sound()
    watch(images * INF)
    assert not bool(watch.finite_outputs)


def test_broken_passes_are_counted_by_id() -> None:
    images = torch.rand(3, 1, 2, 2)
    watch = WatchedVictim(as_victim(nn.Flatten()), images, torch.tensor([0, 1, 2]))
    watch.note_broken(["a", "b", "c"], torch.tensor([True, False, False]))
    watch.note_broken(["c", "a"], torch.tensor([[True, True], [False, True]]))
    watch.note_broken(["a", "b", "c"], torch.tensor([True]), rows=torch.tensor([2]))
    assert watch.broken_passes(["a", "b", "c"]).nan_to_num(0).tolist() == [2, 0, 3]
    assert watch.broken_passes(["a", "a", "b"]).nan_to_num(0).tolist() == [1, 1, 0]  # two equal images share


@pytest.mark.parametrize(
    ("outputs", "alike"),
    [
        ([[0.25, 0.75], [0.5, 0.5]], [True, True]),
        ([[1.25, -0.25], [0.0, 1.0]], [False, True]),
        ([[0.3, 0.3], [-0.1, -2.0]], [False, False]),
    ],
)
def test_probabilities_are_at_least_0_and_sum_to_1(outputs: Any, alike: list[bool]) -> None:
    found = probability_like(torch.tensor(outputs), torch.tensor([0, 1]))
    assert found is not None
    assert found.tolist() == alike


def test_probabilities_are_told_at_every_place_of_a_mask_and_never_of_labels() -> None:
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(2, 4, 4, dtype=torch.long)
    probabilities = logits.softmax(1)
    probabilities[1, :, 0, 0] += 1
    found = probability_like(probabilities, masks)
    assert found is not None
    assert found.tolist() == [True, False]
    assert probability_like(logits.softmax(1), torch.zeros(2, 3, 4, 4)) is None
    assert probability_like([{}], [{}]) is None


def test_what_is_no_victim_is_told_what_it_lacks() -> None:
    with pytest.raises(ValueError, match=r"Linear lacks loss, outcome, features: .*as_victim\(module, mean, std\)"):
        attackable(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="str lacks __call__, loss, outcome, features"):
        attackable("resnet50")
