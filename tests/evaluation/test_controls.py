"""Images beside an attack: noise has the perturbation's length, random signs its radius, whatever is cut off."""

from typing import Any

import pytest
import torch
from torch import Tensor

from medrobust.attacks import FGSM, PGD, Attack, CWLinf, DeepFool
from medrobust.evaluation.controls import changed, noise_of_length, random_signs
from tests.in_memory import random_split
from tests.tiny_networks import SIDE, linear_victim

COUNT = 11
VICTIM: Any = linear_victim().eval()
IMAGES = random_split(COUNT)[0]
IDS = [f"image-{place}" for place in range(COUNT)]
ATTACKS = [FGSM(epsilon=0.1), PGD(epsilon=0.1, steps=2), CWLinf(epsilon=0.1, steps=2), DeepFool()]


def lengths(images: Tensor, clean: Tensor = IMAGES) -> Tensor:
    """L2 length of each image's change."""
    return (images - clean).flatten(1).double().norm(dim=1)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: type(attack).__name__)
def test_noise_is_as_long_as_the_images_own_perturbation_whatever_the_attacks_norm(attack: Attack) -> None:
    adversarial = attack.craft(VICTIM, IMAGES, torch.zeros(COUNT, dtype=torch.long), IDS).images
    noisy = noise_of_length(IMAGES, adversarial, IDS, seed=0)
    assert 0 <= noisy.min() <= noisy.max() <= 1
    torch.testing.assert_close(lengths(noisy), lengths(adversarial), rtol=1e-4, atol=1e-7)


def test_noise_is_gaussian_where_nothing_is_cut_off() -> None:
    images = IMAGES * 0.2 + 0.4  # far from 0 and 1
    wanted = torch.linspace(0.01, 0.4, COUNT, dtype=torch.float64)
    shift = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    shift = shift / shift.flatten(1).norm(dim=1).view(-1, 1, 1, 1) * wanted.view(-1, 1, 1, 1).float()
    noise = noise_of_length(images, images + shift, IDS, seed=0) - images
    torch.testing.assert_close(noise.flatten(1).double().norm(dim=1), wanted, rtol=1e-4, atol=1e-6)
    whole = (noise / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1)).flatten() * SIDE  # of variance 1
    inside = [float((whole.abs() < width).double().mean()) for width in (1, 2)]
    assert inside == pytest.approx([0.683, 0.954], abs=0.05)  # 704 numbers of a normal distribution


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5])
@pytest.mark.parametrize("step", [1e-3, 0.1, 0.4])
def test_noise_and_signs_keep_their_length_where_black_and_white_cut_them(value: float, step: float) -> None:
    images = torch.full((1, 1, SIDE, SIDE), value)
    adversarial = images + (step if value < 1 else -step)
    for moved in (
        noise_of_length(images, adversarial, ["a"], seed=0),
        random_signs(DeepFool(), images, adversarial, ["a"], seed=0),
    ):
        assert 0 <= moved.min() <= moved.max() <= 1
        assert float(lengths(moved, images)) == pytest.approx(step * SIDE, rel=1e-3)


def test_noise_that_cannot_be_as_long_is_as_long_as_the_image_allows() -> None:
    images = torch.zeros((1, 1, SIDE, SIDE))
    noisy = noise_of_length(images, torch.ones_like(images), ["a"], seed=0)  # half of the noise points below black
    assert set(noisy.unique().tolist()) == {0.0, 1.0}
    assert 0.3 < float(noisy.mean()) < 0.7


def test_random_signs_move_every_value_by_the_radius() -> None:
    adversarial = IMAGES.clone()  # however far the attack went
    signs = random_signs(FGSM(epsilon=0.1), IMAGES, adversarial, IDS, seed=0)
    steps = (signs - IMAGES)[(IMAGES > 0.1) & (IMAGES < 0.9)]
    torch.testing.assert_close(steps.abs(), torch.full_like(steps, 0.1))
    assert 0.45 < float((steps > 0).double().mean()) < 0.55
    assert 0 <= signs.min() <= signs.max() <= 1


def test_random_signs_beside_an_attack_without_radius_have_its_length() -> None:
    middle = IMAGES * 0.2 + 0.4
    adversarial = middle.clone()
    adversarial[:, 0, 0, 0] += 0.08  # a single value: 0.08 long, so each of the 64 moves by 0.01
    signs = random_signs(DeepFool(), middle, adversarial, IDS, seed=0)
    torch.testing.assert_close((signs - middle).abs(), torch.full_like(middle, 0.01), rtol=1e-3, atol=1e-6)


def test_noise_and_signs_depend_on_the_seed_and_the_id_alone() -> None:
    images = IMAGES[:3]
    for attack in (DeepFool(), FGSM(epsilon=0.1)):

        def noise(rows: slice, ids: list[str], seed: int = 0) -> Tensor:
            return noise_of_length(images[rows], images[rows] * 0.9, ids, seed)

        def signs(rows: slice, ids: list[str], seed: int = 0, attack: Attack = attack) -> Tensor:
            return random_signs(attack, images[rows], images[rows] * 0.9, ids, seed)

        for make in (noise, signs):
            alone = make(slice(1, 2), ["b"])
            torch.testing.assert_close(make(slice(0, 3), ["a", "b", "c"])[1:2], alone)
            assert not torch.equal(alone, make(slice(1, 2), ["x"]))
            assert not torch.equal(alone, make(slice(1, 2), ["b"], seed=1))


def test_beside_an_image_that_the_attack_left_unchanged_there_is_no_noise() -> None:
    images = IMAGES[:2]
    adversarial = torch.stack([images[0], images[1] * 0.9])
    assert changed(images, adversarial).tolist() == [False, True]
    noise = noise_of_length(images, adversarial, ["a", "b"], seed=0) - images
    assert noise[0].abs().max() == 0
    assert noise[1].abs().max() > 0
