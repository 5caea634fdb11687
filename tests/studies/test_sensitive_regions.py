"""Sensitive regions: eq. 8 of SBF20 against its minimum on a linear victim, and which images have a mask."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medrobust.attacks import FGSM
from medrobust.listeners import Studies
from medrobust.networks import as_victim
from medrobust.networks.defended_victim import defended
from medrobust.networks.input_defences import RandomResizing
from medrobust.results.studied import read_studies
from medrobust.studies import SensitiveRegions
from tests import recording
from tests.in_memory import random_data
from tests.tiny_networks import linear_victim

SIDE = 6


class Linear(nn.Module):
    """Logits (0, scale * sum_p w_p (x_p - 1/2))."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        weight = torch.randn(1, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
        self.weight = nn.Parameter(scale * weight)

    def forward(self, images: Tensor) -> Tensor:
        value = (self.weight * (images - 0.5)).sum((1, 2, 3))
        return torch.stack([torch.zeros_like(value), value], 1)


def pair(network: Linear) -> tuple[Tensor, Tensor, Tensor]:
    """Clean images of class 1 and what moves them against it: d_p = -c_p sign(w_p), c_p from 0.2 to 0.5."""
    shares = 0.2 + 0.3 * torch.rand(3, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(4))
    signs = network.weight.detach().sign()
    clean = (0.5 + 0.25 * signs).expand(3, -1, -1, -1)
    return clean, clean - shares * signs, torch.ones(3, dtype=torch.long)


def test_without_smoothness_each_pixel_of_a_linear_score_decides_for_itself() -> None:
    """The score is linear in M with slope w_p d_p: M_p = 1 where -w_p d_p > lambda_1 / P, else 0."""
    network = Linear()
    clean, adversarial, targets = pair(network)
    slopes = (network.weight.detach() * (adversarial - clean)).squeeze(1)
    middle = slopes.flatten().sort().values[53:55].mean()  # between two pixels, so that none is undecided
    sparsity = float(-middle * SIDE**2)
    study = SensitiveRegions(score="logit", sparsity=sparsity, smoothness=0.0)
    found = study.found(as_victim(network), clean, adversarial, targets)
    expected = (-slopes > sparsity / SIDE**2).float()
    assert 0.2 < expected.mean() < 0.8
    torch.testing.assert_close(found.masks.squeeze(1), expected)
    value = (network.weight.detach() * (clean - 0.5)).sum((1, 2, 3)) + (expected * slopes).sum((1, 2))
    torch.testing.assert_close(found.scores, value)
    torch.testing.assert_close(found.values, value + sparsity * expected.mean((1, 2)))


def test_of_a_probability_it_finds_the_minimum_too() -> None:
    """Sorted by w_p d_p, the best mask is the first k pixels and a share of the next: a search over one number."""
    network = Linear(4.0)
    clean, adversarial, targets = pair(network)
    study = SensitiveRegions(sparsity=0.5, smoothness=0.0)
    found = study.found(as_victim(network), clean, adversarial, targets)
    slopes = (network.weight.detach() * (adversarial - clean)).flatten(1).sort(1).values
    start = (network.weight.detach() * (clean - 0.5)).sum((1, 2, 3))
    shares = torch.linspace(0, SIDE**2, 3601)
    taken = (shares[:, None] - torch.arange(SIDE**2)).clamp(0, 1)  # of each pixel in its order
    values = (start + taken @ slopes.T).sigmoid() + 0.5 * shares[:, None] / SIDE**2
    best = values.amin(0)
    assert (best < start.sigmoid() - 0.1).all()  # neither no change nor all of it
    torch.testing.assert_close(found.values, best, rtol=0, atol=2e-3)
    assert (found.values >= best - 1e-4).all()


def test_smoothness_is_the_sum_of_differences_across_and_down_over_the_number_of_pixels() -> None:
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[0, 0, 1:3, 1:4] = 1  # an outline of 2 * (2 + 3) edges
    assert SensitiveRegions(sparsity=0.0)._penalty(mask).item() == pytest.approx(0.2 * 10 / SIDE**2)
    assert SensitiveRegions(smoothness=0.0)._penalty(mask).item() == pytest.approx(0.05 * 6 / SIDE**2)
    assert SensitiveRegions(norms="sum")._penalty(mask).item() == pytest.approx(0.05 * 6 + 0.2 * 10)


def test_a_region_is_found_where_it_is_worth_its_outline() -> None:
    """A square of 3 x 3 of 36 pixels costs (9 lambda_1 + 12 lambda_2) / 36, here with lambda_1 = 1, and all pixels 1.

    Each of its pixels lowers the score by g. Without a corner its outline is as long, so that g > lambda_1 / 36 keeps
    the corners, and more pixels only cost more. If all of it is not worth that, nothing is.
    """
    square = torch.zeros(1, SIDE, SIDE)
    square[0, 2:5, 1:4] = 1
    network = Linear()
    network.weight.data = square
    clean = torch.full((2, 1, SIDE, SIDE), 0.75)
    cost = (9 * 1.0 + 12 * 0.2) / SIDE**2
    change = torch.tensor([3 * cost / 9, 0.5 * cost / 9]).view(-1, 1, 1, 1)
    study = SensitiveRegions(score="logit", sparsity=1.0)
    found = study.found(as_victim(network), clean, clean - change, torch.ones(2, dtype=torch.long))
    expected = torch.stack([square, torch.zeros_like(square)])
    torch.testing.assert_close(found.masks, expected, atol=0.02, rtol=0)
    before = (network.weight.detach() * (clean - 0.5)).sum((1, 2, 3))
    torch.testing.assert_close(found.values - before, torch.tensor([-2 * cost, 0.0]), atol=5e-4, rtol=0)


def test_a_saturated_victim_has_a_mask_as_well() -> None:
    """Its probability is 1 for the clean and below 1e-5 for the adversarial image."""
    network = Linear(8.0)
    clean, adversarial, targets = pair(network)
    before, after = (network(images).softmax(1)[:, 1] for images in (clean, adversarial))
    assert (before == 1).all() and (after < 1e-5).all()
    found = SensitiveRegions(smoothness=0.0).found(as_victim(network), clean, adversarial, targets)
    assert (found.scores < 0.05).all() and (found.masks.mean((1, 2, 3)) < 0.9).all()
    assert (found.masks.mean((1, 2, 3)) > 0).all()


def test_images_do_not_depend_on_each_other() -> None:
    network = Linear(4.0)
    clean, adversarial, targets = pair(network)
    study, victim = SensitiveRegions(iterations=20), as_victim(network)
    whole = study.found(victim, clean, adversarial, targets).masks
    torch.testing.assert_close(study.found(victim, clean[1:2], adversarial[1:2], targets[1:2]).masks, whole[1:2])


def test_only_images_that_were_fooled_have_a_mask(tmp_path: Path) -> None:
    studies = Studies(str(tmp_path), {"regions": SensitiveRegions(images=None, iterations=3)})
    recording.evaluate(linear_victim(), random_data(12), {"fgsm": FGSM(epsilon=0.02)}, studies)
    (studied,) = read_studies(tmp_path)
    (kept,) = studied.attacked.values()
    fooled = [one.about["right_before"] and not one.about["right_after"] for one in kept]
    assert len(kept) == 12 and 0 < sum(fooled) < 12
    for one, turned in zip(kept, fooled, strict=True):
        assert np.isnan(one.arrays["mask"]).any() != turned
        assert np.isnan(one.arrays["score_masked"]) != turned
        if turned:
            assert one.arrays["score_clean"] > 0.5 > one.arrays["score_adversarial"]


@pytest.mark.parametrize(
    "victim", [linear_victim(), defended(linear_victim(), RandomResizing())], ids=["plain", "random"]
)
def test_a_mask_does_not_depend_on_batch_mates(victim: Any, tmp_path: Path) -> None:
    masks = []
    for batch_size in (1, 8):
        folder = tmp_path / str(batch_size)
        studies = Studies(str(folder), {"regions": SensitiveRegions(images=None, iterations=3)})
        data = random_data(8, batch_size=batch_size)
        recording.evaluate(victim, data, {"fgsm": FGSM(epsilon=0.02)}, studies)
        (studied,) = read_studies(folder)
        masks.append(np.stack([one.arrays["mask"] for found in studied.attacked.values() for one in found]))
    assert 0 < np.isfinite(masks[0]).all((1, 2)).sum() < 8
    np.testing.assert_allclose(masks[0], masks[1], atol=2e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"iterations": 0}, "iterations counts steps and is at least 1, got 0"),
        ({"sparsity": -1.0}, "sparsity weighs a norm and is finite and not negative, got -1.0"),
        ({"step_size": 0.0}, r"step_size is in units of a mask in \[0, 1\] and lies in \(0, 1\], got 0.0"),
        ({"score": "loss"}, "score is one of probability, logit, got 'loss'"),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SensitiveRegions(**options)  # type: ignore[arg-type]
