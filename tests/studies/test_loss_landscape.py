"""The loss landscape against its closed forms on a linear and on a quadratic victim."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medrobust.attacks import FGSM
from medrobust.evaluation import EvaluationContext
from medrobust.evaluation.deployment import judging
from medrobust.listeners import Studies
from medrobust.networks import as_victim
from medrobust.networks.defended_victim import defended
from medrobust.networks.input_defences import RandomResizing
from medrobust.random_streams import per_image_uniform
from medrobust.results.studied import read_studies
from medrobust.studies import LossLandscape, loss_landscape
from tests import recording
from tests.in_lightning import random_resnet
from tests.in_memory import random_data

IDS = list("abcd")
TARGETS = torch.tensor([0, 1, 1, 0])


class OfSums(nn.Module):
    """Logits (0, f(x)) with f = sum_p w_p x_p, or sum_p w_p x_p^2, plus a number."""

    def __init__(self, power: int, shift: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(3)))
        self.power, self.shift = power, shift

    def forward(self, images: Tensor) -> Tensor:
        value = (self.weight * images**self.power).sum((1, 2, 3)) + self.shift
        return torch.stack([torch.zeros_like(value), value], 1)


def inner_images() -> Tensor:
    """Images that no move clips."""
    return 0.3 + 0.4 * torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("power", [1, 2])
def test_margin_and_loss_have_their_closed_form(power: int) -> None:
    """m = s f(x + e1 g + e2 d), s = 1 for y = 0, -1 for y = 1, and g = s sign(w) as x > 0; the loss is softplus(m)."""
    network, images = OfSums(power, 0.25), inner_images()
    study = LossLandscape(epsilon=0.1, points=3, seed=7)
    found = study.of_clean(as_victim(network), images, TARGETS, IDS)

    side = (1 - 2 * TARGETS).view(-1, 1, 1, 1)
    first = side * network.weight.detach().sign()
    second = per_image_uniform(IDS, (1, 4, 4), 7, "LossLandscape", images).sign()
    margin = torch.empty(4, 3, 3)
    for row, one in enumerate((0.0, 0.05, 0.1)):
        for column, other in enumerate((0.0, 0.05, 0.1)):
            moved = images + one * first + other * second
            value = (network.weight.detach() * moved**power).sum((1, 2, 3)) + 0.25
            margin[:, row, column] = side.flatten() * value
    torch.testing.assert_close(found["margin"], margin, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["loss"], functional.softplus(margin), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found["cosine"], (first * second).mean((1, 2, 3)))
    assert not found["lost"].any()


def test_images_stay_in_their_range() -> None:
    """At a white image of class 0 and positive weights the move along g is clipped away, and f stays sum_p w_p."""
    network = OfSums(1)
    network.weight.data.abs_()
    study = LossLandscape(epsilon=0.5, points=2)
    margin = study.of_clean(as_victim(network), torch.ones(1, 1, 4, 4), torch.tensor([0]), ["a"])["margin"][0]
    torch.testing.assert_close(margin[:, 0], network.weight.detach().sum().expand(2))
    assert margin[1, 1] <= margin[0, 0]


def test_memory_decides_nothing_but_how_many_are_looked_at_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    network, images = OfSums(2), inner_images()
    network.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    study = LossLandscape(points=5)
    whole = study.of_clean(as_victim(network), images, TARGETS, IDS)
    assert sizes == [4, 100]  # the gradient, then 25 points of 4 images
    monkeypatch.setattr(loss_landscape, "NUMBERS_AT_ONCE", 16 * 30)
    parts = study.of_clean(as_victim(network), images, TARGETS, IDS)
    assert sizes[2:] == [4, 30, 30, 30, 10]
    torch.testing.assert_close(parts["loss"], whole["loss"])
    one = study.of_clean(as_victim(network), images[2:3], TARGETS[2:3], IDS[2:3])
    torch.testing.assert_close(one["loss"], whole["loss"][2:3])


def test_a_random_input_defence_draws_for_each_image_whatever_is_looked_at_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    victim, images = defended(as_victim(OfSums(2)), RandomResizing()), inner_images()
    study = LossLandscape(points=3)
    with judging(victim, IDS), torch.enable_grad():
        whole = study.of_clean(victim, images, TARGETS, IDS)
        monkeypatch.setattr(loss_landscape, "NUMBERS_AT_ONCE", 16 * 5)
        parts = study.of_clean(victim, images, TARGETS, IDS)
    with judging(victim, IDS[2:3]), torch.enable_grad():
        one = study.of_clean(victim, images[2:3], TARGETS[2:3], IDS[2:3])
    torch.testing.assert_close(parts["loss"], whole["loss"])
    torch.testing.assert_close(one["loss"], whole["loss"][2:3])
    plain = study.of_clean(as_victim(OfSums(2)), images, TARGETS, IDS)
    assert not torch.allclose(plain["loss"], whole["loss"])


def test_a_lost_gradient_gives_way_to_that_of_the_margin() -> None:
    network = OfSums(1, shift=-200.0)  # right about class 0 by 200 logits: the loss and its gradient are 0
    found = LossLandscape(epsilon=0.1, points=2).of_clean(as_victim(network), inner_images()[:1], TARGETS[:1], ["a"])
    assert found["lost"].all() and (found["loss"] == 0).all()
    rise = found["margin"][0, 1, 0] - found["margin"][0, 0, 0]
    assert rise.item() == pytest.approx(0.1 * network.weight.abs().sum().item(), rel=1e-3)


def test_surrogates_give_the_second_direction() -> None:
    """Of several it is the sign of the mean of their gradients, each divided by its L1 norm."""
    images = inner_images()
    networks = [OfSums(1), OfSums(1)]
    networks[1].weight.data = -100 * networks[0].weight.data.roll(1)
    study = LossLandscape(epsilon=0.1, points=2, surrogates=("a", "b"))
    victim = as_victim(OfSums(1))
    with pytest.raises(ValueError, match="the surrogates of a loss landscape are read by the listener Studies"):
        study.of_clean(victim, images, TARGETS, IDS)
    found = study.asking([as_victim(network) for network in networks]).of_clean(victim, images, TARGETS, IDS)
    weights = [network.weight.detach() for network in networks]
    mean = sum(weight / weight.abs().sum() for weight in weights)
    side = (1 - 2 * TARGETS).view(-1, 1, 1, 1)
    second = side * mean.sign()
    expected = side.flatten() * (weights[0] * (images + 0.1 * second)).sum((1, 2, 3))
    torch.testing.assert_close(found["margin"][:, 0, 1], expected)


def test_surrogates_are_read_once_and_their_weights_decide_what_is_kept(tmp_path: Path, run_of: Any) -> None:
    victim, data = random_resnet(1), random_data(3)
    paths = [str(run_of(tmp_path / name, random_resnet(seed))) for seed, name in ((2, "a"), (3, "b"))]
    kept = []
    for path in paths:
        study = LossLandscape(images=2, points=2, surrogates=(path,))
        listener = Studies(str(tmp_path / "evaluate"), {"plane": study})
        names = listener.on_evaluation_identity(EvaluationContext(), victim, data, []) or listener.other_victims()
        assert list(names) == [f"a surrogate of the study plane ({path})"]
        recording.evaluate(victim, data, {"fgsm": FGSM()}, listener)
        (studied,) = read_studies(tmp_path / "evaluate")
        kept.append(studied.clean)
        assert not listener.other_victims()
    assert len(kept[0]) == len(kept[1]) == 2
    assert kept[0][0].arrays["cosine"] != kept[1][0].arrays["cosine"]
    with pytest.raises(ValueError, match="there is no checkpoint"):
        recording.evaluate(victim, data, {"fgsm": FGSM()}, Studies("", {"p": LossLandscape(surrogates=("nowhere",))}))


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="points counts values of epsilon from 0 on and is at least 2, got 1"):
        LossLandscape(points=1)
    with pytest.raises(ValueError, match="epsilon is in units"):
        LossLandscape(epsilon=8)
