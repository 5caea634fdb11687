"""PSNR and SSIM against numbers worked out by hand."""

import math

import pytest
import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from medrobust.metrics import quality
from medrobust.metrics.quality import gaussian_filter, in_parts, psnr, ssim

SIDE = 24


def pictures(count: int, channels: int = 1, seed: int = 0, side: int = SIDE) -> Tensor:
    """Noise on a slope: with structure, and no two alike."""
    generator = torch.Generator().manual_seed(seed)
    slope = torch.linspace(0.2, 0.6, side)
    return slope + 0.3 * torch.rand((count, channels, side, side), generator=generator)


def test_psnr_of_an_even_difference_is_its_logarithm() -> None:
    clean = torch.full((3, 2, 4, 4), 0.5, dtype=torch.float64)
    difference = torch.tensor([0.1, 0.01, 0.25], dtype=torch.float64).view(3, 1, 1, 1)

    expected = torch.tensor([20, 40, -20 * math.log10(0.25)], dtype=torch.float64)
    torch.testing.assert_close(psnr(clean, clean + difference), expected)
    torch.testing.assert_close(psnr(clean, clean - difference), expected)


def test_psnr_is_the_mean_over_pixels_of_each_image() -> None:
    clean = torch.zeros(2, 1, 2, 2)
    adversarial = clean.clone()
    adversarial[0, 0, 0, 0], adversarial[1, 0] = 0.2, torch.tensor([[0.1, 0.1], [0.3, 0.1]])

    # mean squares 0.04 / 4 and 0.12 / 4
    torch.testing.assert_close(psnr(clean, adversarial), torch.tensor([20, -10 * math.log10(0.03)]).double())


def test_psnr_of_an_unchanged_image_is_undefined() -> None:
    clean = pictures(2)
    adversarial = clean.clone()
    adversarial[1, 0, 0, 0] += 1e-6

    values = psnr(clean, adversarial)
    assert math.isnan(values[0]) and 120 < values[1] < 160


def test_ssim_of_equal_images_is_one() -> None:
    for images in (pictures(3), pictures(2, 3), torch.zeros(1, 1, 11, 11), torch.full((1, 1, 20, 11), 0.9)):
        torch.testing.assert_close(ssim(images, images), torch.ones(len(images)).double(), rtol=0, atol=1e-12)


def test_ssim_of_constant_images_is_its_luminance_alone() -> None:
    clean, adversarial = (torch.full((1, 1, 16, 13), level, dtype=torch.float64) for level in (0.5, 0.7))
    expected = (2 * 0.5 * 0.7 + 1e-4) / (0.5**2 + 0.7**2 + 1e-4)
    assert float(ssim(clean, adversarial)) == pytest.approx(expected, abs=1e-12)


def test_ssim_of_an_image_of_one_window_is_the_formula() -> None:
    x, y = pictures(1, side=11)[0, 0].double(), pictures(1, seed=1, side=11)[0, 0].double()
    taps = torch.tensor([math.exp(-(place**2) / 4.5) for place in range(-5, 6)], dtype=torch.float64)
    window = taps[:, None] * taps / taps.sum() ** 2

    def mean(values: Tensor) -> Tensor:
        return (window * values).sum()

    mx, my = mean(x), mean(y)
    vx, vy, covariance = mean((x - mx) ** 2), mean((y - my) ** 2), mean((x - mx) * (y - my))
    expected = (2 * mx * my + 1e-4) * (2 * covariance + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    torch.testing.assert_close(ssim(x[None, None], y[None, None]), expected[None])


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_is_torchmetrics_map_inside_the_edges(channels: int) -> None:
    clean = pictures(4, channels).double()
    adversarial = (clean + 0.05 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(5))).clamp(0, 1)

    _, full = structural_similarity_index_measure(
        adversarial, clean, data_range=1.0, reduction="none", return_full_image=True
    )
    torch.testing.assert_close(ssim(clean, adversarial), full[..., 5:-5, 5:-5].flatten(1).mean(1))


def test_ssim_of_an_image_below_a_window_is_undefined() -> None:
    assert ssim(torch.rand(2, 1, 10, 30), torch.rand(2, 1, 10, 30)).isnan().all()


def test_an_image_is_measured_alike_in_any_batch_and_the_batch_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clean, adversarial = pictures(5, 3), pictures(5, 3, seed=1)
    before = clean.clone(), adversarial.clone()
    for measure in (psnr, ssim):
        whole = measure(clean, adversarial)
        assert whole.shape == (5,) and whole.dtype == torch.float64
        singly = torch.cat([measure(clean[row : row + 1], adversarial[row : row + 1]) for row in range(5)])
        torch.testing.assert_close(whole, singly, rtol=0, atol=1e-12)
        monkeypatch.setitem(quality.PART, "cpu", 2 * 3 * SIDE * SIDE)  # parts of two images
        torch.testing.assert_close(measure(clean, adversarial), whole, rtol=0, atol=1e-12)
    assert torch.equal(clean, before[0]) and torch.equal(adversarial, before[1])


def test_parts_keep_the_memory_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setitem(quality.PART, "cpu", 3 * 8 * 8)

    def score(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return images.flatten(1).sum(1)

    assert in_parts(score, torch.ones(7, 1, 8, 8)).tolist() == [64.0] * 7 and sizes == [3, 3, 1]
    sizes.clear()
    assert in_parts(score, torch.ones(2, 1, 20, 20)).tolist() == [400.0] * 2 and sizes == [1, 1]


def test_a_gaussian_window_keeps_constants_and_slopes() -> None:
    slope = (3 * torch.arange(12.0) + 5 * torch.arange(10.0)[:, None]).double()
    torch.testing.assert_close(gaussian_filter(slope, 7 / 6, 3), slope[3:-3, 3:-3])
