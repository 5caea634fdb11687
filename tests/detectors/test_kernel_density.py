"""Kernel density compared with sums by hand, scikit-learn, and the closed form for normal samples."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.neighbors import KernelDensity as PerRow
from torch import Tensor

from medrobust.detectors.features import Features
from medrobust.detectors.kernel_density import KernelDensity, left_out_likelihoods, likeliest_bandwidth
from medrobust.metrics.separation import auroc


def seen(values: Tensor, predictions: Tensor | None = None) -> Features:
    """Features of two layers, of which only the last counts."""
    first = torch.linspace(0, 1, 2 * len(values)).view(-1, 2)
    return Features(
        {"early": first, "late": values}, torch.zeros(len(values)).long() if predictions is None else predictions
    )


def normal(count: int, channels: int, seed: int = 0) -> Tensor:
    return torch.randn((count, channels), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fitted(values: Tensor, labels: Tensor | None = None, **settings: Any) -> KernelDensity:
    labels = torch.zeros(len(values)).long() if labels is None else labels
    return KernelDensity(**settings).fit(seen(values, labels), labels)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_two_references_on_a_line_by_hand(sigma: float) -> None:
    """At z = 1 of references 0 and 4: (exp(-1/s^2) + exp(-9/s^2)) / 2 / sqrt(pi s^2)."""
    detector = fitted(torch.tensor([[0.0], [4.0]]), bandwidth=sigma)
    density = (math.exp(-1 / sigma**2) + math.exp(-9 / sigma**2)) / 2 / math.sqrt(math.pi * sigma**2)
    measured = detector.measure(seen(torch.tensor([[1.0], [3.0]])))
    assert measured.shape == (2, 1) and measured.dtype == torch.float64
    torch.testing.assert_close(measured[:, 0], torch.full((2,), -math.log(density)).double())


def test_only_the_predicted_class_counts() -> None:
    """Class 3 lies around 0 and class 7 around 10; its two copies of one image count twice."""
    labels = torch.tensor([3, 7, 3, 7, 7])
    detector = fitted(torch.tensor([[-1.0], [10.0], [1.0], [10.0], [13.0]]), labels, bandwidth=1.0)
    measured = detector.measure(seen(torch.zeros(2, 1), torch.tensor([3, 7])))
    at_three = math.exp(-1) / math.sqrt(math.pi)
    assert measured[0].item() == pytest.approx(-math.log(at_three))
    assert measured[1].item() == pytest.approx(100 + math.log(1.5 * math.sqrt(math.pi)))  # exp(-169) is negligible


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_it_is_the_mean_of_normal_densities_as_scipy_and_scikit_learn_have_them(channels: int) -> None:
    references, points, sigma = normal(40, channels), 2 * normal(15, channels, 1), 0.8
    measured = fitted(references, bandwidth=sigma).measure(seen(points))[:, 0]
    kernel = multivariate_normal(cov=sigma**2 / 2 * np.eye(channels))
    direct = [np.mean([kernel.pdf(point - reference) for reference in references.numpy()]) for point in points.numpy()]
    torch.testing.assert_close(measured, -torch.tensor(direct).log())
    peer = PerRow(bandwidth=sigma / math.sqrt(2)).fit(references.numpy()).score_samples(points.numpy())
    torch.testing.assert_close(measured, -torch.from_numpy(peer), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("sigma", [0.5, 1.5])
def test_many_normal_references_give_the_density_of_their_sum_with_the_kernel(sigma: float) -> None:
    """N(0, 1) smoothed by N(0, sigma^2 / 2) is N(0, 1 + sigma^2 / 2)."""
    count = 40_000
    points = torch.tensor([[0.0], [1.0], [-2.0]])
    measured = fitted(normal(count, 1), bandwidth=sigma).measure(seen(points))[:, 0]
    variance = 1 + sigma**2 / 2
    expected = points[:, 0].double() ** 2 / (2 * variance) + math.log(2 * math.pi * variance) / 2
    # the relative variance of a kernel sum is below 1 / (count * sigma * density)
    spread = (expected.exp() / (count * sigma)).sqrt()
    assert bool(((measured - expected).abs() < 4 * spread).all())


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_nothing_vanishes_in_512_dimensions(scale: float) -> None:
    """Every kernel is below exp(-1000), where the sum itself would be zero."""
    references, points = normal(30, 512) * scale, 3 * normal(8, 512, 1) * scale
    sigma = 1.5 * scale
    measured = fitted(references, bandwidth=sigma).measure(seen(points))[:, 0]
    exponents = -(points.unsqueeze(1) - references).square().sum(2) / sigma**2
    assert bool((exponents < -1000).all())
    expected = 256 * math.log(math.pi * sigma**2) + math.log(30) - torch.logsumexp(exponents, 1)
    torch.testing.assert_close(measured, expected, rtol=1e-12, atol=1e-8)


def test_features_far_from_zero_lose_no_digits() -> None:
    references, points = normal(50, 16), normal(6, 16, 1)
    near = fitted(references, bandwidth=1.0).measure(seen(points))
    far = fitted(references + 2**20, bandwidth=1.0).measure(seen(points + 2**20))
    torch.testing.assert_close(near, far, rtol=1e-8, atol=0)


@pytest.mark.parametrize(("channels", "count"), [(1, 800), (2, 1000)])
def test_the_bandwidth_of_normal_samples_is_near_the_known_optimum(channels: int, count: int) -> None:
    """The kernel's deviation of least squared error is (4 / (d + 2) / n)^(1 / (d + 4)), sigma sqrt(2) times that."""
    optimum = math.sqrt(2) * (4 / (channels + 2) / count) ** (1 / (channels + 4))
    for scale in (1e-4, 1e5):
        chosen = fitted(scale * normal(count, channels)).sigma.item() / scale
        assert optimum / 1.4 < chosen < optimum * 1.4


def test_the_bandwidth_of_two_points_by_hand() -> None:
    """-d^2 / s^2 - C/2 log s^2 is largest at s^2 = 2 d^2 / C; the grid's steps are of 7 %."""
    points = torch.zeros(2, 8, dtype=torch.float64)
    points[0], points[1] = 1.0, -1.0  # d^2 = 32
    assert likeliest_bandwidth([points]).item() == pytest.approx(math.sqrt(8), rel=0.05)


def test_the_likelihood_is_that_of_refitting_without_each_image() -> None:
    points = normal(12, 2)
    direct = sum(
        PerRow(bandwidth=0.7 / math.sqrt(2))
        .fit(np.delete(points.numpy(), i, 0))
        .score_samples(points[i : i + 1].numpy())
        for i in range(12)
    )
    ours = left_out_likelihoods([(points, torch.ones(12))], torch.tensor([0.7], dtype=torch.float64))
    torch.testing.assert_close(ours.numpy(), direct)


def test_copies_do_not_narrow_the_bandwidth() -> None:
    """Every image twice, as in a data set with duplicates."""
    points = normal(300, 4)
    once = fitted(points).sigma.item()
    assert fitted(torch.cat([points, points])).sigma.item() == pytest.approx(once, rel=0.2)
    some = fitted(torch.cat([points, points[:1].expand(100, 4)])).sigma.item()
    assert once / 2 < some < 2 * once


def test_one_bandwidth_serves_all_classes_and_a_class_without_spread_does_not_influence_it() -> None:
    labels = torch.tensor([0] * 200 + [1] * 200 + [2] * 5)
    groups = normal(400, 3)
    values = torch.cat([groups + 100 * labels[:400, None], torch.full((5, 3), 7.0)])
    separate = likeliest_bandwidth([groups[:200] - groups[:200].mean(0), groups[200:] - groups[200:].mean(0)]).item()
    assert fitted(values, labels).sigma.item() == pytest.approx(separate, rel=0.1)


def test_scores_are_the_same_alone_in_any_batch_and_in_float32(monkeypatch: Any) -> None:
    values, labels = normal(60, 20).float(), torch.arange(60) % 3
    detector = fitted(values, labels)
    points = seen(2 * normal(9, 20, 1).float(), torch.tensor([0, 1, 2, 2, 2, 1, 0, 0, 2]))
    together = detector.score(points)
    alone = torch.cat([detector.score(points[i : i + 1]) for i in range(9)])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=0)
    monkeypatch.setattr("medrobust.detectors.numerics.MEMORY", 20 * 8 * 3)  # a few rows at a time
    torch.testing.assert_close(together, detector.score(points), rtol=1e-9, atol=0)
    torch.testing.assert_close(fitted(values, labels).sigma, detector.sigma)
    assert detector.score(points[torch.zeros(9).bool()]).shape == (0,)


def test_the_first_references_of_all_classes_are_kept() -> None:
    values, labels = normal(50, 3), torch.tensor([0] * 40 + [1] * 10)
    detector = fitted(values, labels, max_references=30, bandwidth=1.0)
    assert detector.counts.tolist() == [20, 10]
    kept = torch.cat([torch.arange(20), torch.arange(40, 50)])
    same = fitted(values[kept], labels[kept], bandwidth=1.0)
    points = seen(normal(4, 3, 1), torch.tensor([0, 1, 0, 1]))
    torch.testing.assert_close(detector.measure(points), same.measure(points))


def test_what_is_kept_is_enough_to_restore_it() -> None:
    labels = torch.arange(30) % 2
    detector = fitted(normal(30, 4), labels)
    other = KernelDensity(**detector.parameters_given())
    other.layer_names = detector.layer_names
    other.keep(**dict(detector.named_buffers()))
    points = seen(normal(5, 4, 1), torch.tensor([0, 1, 0, 1, 0]))
    assert torch.equal(other.score(points), detector.score(points))
    assert detector.parameters_given() == {"bandwidth": None, "max_references": None, "raw": True}


def test_it_finds_what_is_rare() -> None:
    """Clean N(0, 1) and adversarial N(0, 9) on a line: P(|a| < 3 |b|) = 1 - 2 atan(1/3) / pi."""
    reference, clean, adversarial = normal(800, 1), normal(2000, 1, 1), 3 * normal(2000, 1, 2)
    zeros = torch.zeros(2000).long()
    detector = KernelDensity().fit(
        seen(clean[:1000]), zeros[:1000], seen(adversarial[:1000]), None, seen(reference), zeros[:800]
    )
    found = auroc(detector.score(seen(clean[1000:])), detector.score(seen(adversarial[1000:])))
    assert found.item() == pytest.approx(1 - 2 * math.atan(1 / 3) / math.pi, abs=0.03)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bandwidth": 0.0}, "bandwidth is a positive distance between features, or None, got 0.0"),
        ({"bandwidth": float("nan")}, "bandwidth"),
        ({"max_references": 1}, "max_references counts images and is at least 2, or None for all of them, got 1"),
    ],
)
def test_a_setting_out_of_range_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KernelDensity(**settings)


def test_reference_images_that_allow_no_density_are_refused() -> None:
    values, labels = normal(6, 2), torch.tensor([0, 0, 0, 1, 0, 0])
    with pytest.raises(ValueError, match="class 1 has 1 reference image, kernel density needs at least 2"):
        fitted(values, labels)
    with pytest.raises(ValueError, match="kernel density needs reference images, got none"):
        fitted(values[:0])
    with pytest.raises(ValueError, match="features of layer 'late' are the same for all 6 reference images"):
        fitted(torch.ones(6, 2), bandwidth=1.0)
    two = torch.tensor([0, 0, 0, 1, 1, 1])
    with pytest.raises(ValueError, match="images of each class have the same features, at layer 'late': give one"):
        fitted(two[:, None].float(), two)
    assert fitted(two[:, None].float(), two, bandwidth=1.0).score(seen(torch.zeros(1, 1))).isfinite().all()
    values[2, 1] = float("nan")
    with pytest.raises(ValueError, match="features of layer 'late' are not finite for 1 of 6 images"):
        fitted(values)


def test_images_that_have_no_score_are_refused() -> None:
    detector = fitted(normal(6, 2))
    with pytest.raises(ValueError, match=r"expected features of the layers \['early', 'late'\], got \['late'\]"):
        detector.score(Features({"late": normal(2, 2)}, torch.zeros(2).long()))
    with pytest.raises(ValueError, match="not finite for 2 of 2 images"):
        detector.score(seen(torch.full((2, 2), float("inf"))))
    with pytest.raises(ValueError, match="KernelDensity is not fitted yet"):
        KernelDensity().score(seen(normal(2, 2)))
    with pytest.raises(ValueError, match="no successful adversarial image"):
        empty = seen(normal(0, 2))
        KernelDensity().fit(seen(normal(6, 2)), torch.zeros(6).long(), empty)


def test_a_predicted_class_without_reference_is_measured_under_the_nearest_class(caplog: Any) -> None:
    """Classes 1 and 5 around 0 and 10; the victim names the classes 0, 3 and 9, too, and nothing stops for that."""
    labels = torch.tensor([1, 5] * 10)
    detector = fitted(normal(20, 2) + 10 * (labels == 5)[:, None], labels, bandwidth=1.0)
    points = torch.cat([normal(2, 2, 1), normal(3, 2, 2) + 10])
    predictions = torch.tensor([0, 5, 9, 3, 1])
    measured = detector.measure(seen(points, predictions))
    same = detector.measure(seen(points, torch.tensor([1, 5, 5, 5, 1])))
    torch.testing.assert_close(measured, same)
    detector.measure(seen(points, predictions))
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == (
        "kernel density has no reference image of class 0, which the victim predicts: such images are measured under "
        "the nearest of the classes [1, 5]"
    )


def test_its_gradient_is_the_weighted_mean_of_the_ways_from_the_references() -> None:
    """2 / sigma^2 sum_i w_i (z - z_i), w_i being the shares of the kernels in their sum; by class."""
    labels, sigma = torch.arange(40) % 2, 1.7
    references = normal(40, 6) + 3 * labels[:, None]
    detector = fitted(references, labels, bandwidth=sigma)
    points, predictions = (normal(9, 6, 1) + 1).requires_grad_(), torch.tensor([0, 1, 1, 0, 0, 1, 0, 1, 1])
    (gradient,) = torch.autograd.grad(detector.score(seen(points, predictions)).sum(), points)
    for point, prediction, found in zip(points.detach(), predictions, gradient, strict=True):
        apart = point - references[labels == prediction]
        shares = (-apart.square().sum(1) / sigma**2).softmax(0)
        torch.testing.assert_close(found, 2 / sigma**2 * shares @ apart)


def test_its_gradient_survives_references_so_far_away_that_their_kernels_vanish() -> None:
    points = (1e3 * normal(3, 30, 1)).requires_grad_()
    (gradient,) = torch.autograd.grad(fitted(normal(20, 30), bandwidth=0.5).score(seen(points)).sum(), points)
    assert gradient.isfinite().all() and bool((gradient.abs().sum(1) > 0).all())


def test_the_score_is_the_measurement_itself_whatever_the_adversarial_images_are() -> None:
    """A regression reverses the score if the adversarial images are the denser ones, and then says so."""
    spread, dense = normal(60, 2), 0.1 * normal(60, 2, seed=1)
    labels = torch.zeros(60).long()
    reference = seen(normal(60, 2, seed=2))
    plain, weighted, right = (
        KernelDensity(bandwidth=1.0, **settings).fit(seen(clean), labels, seen(adversarial), None, reference, labels)
        for settings, clean, adversarial in (
            ({}, spread, dense),
            ({"raw": False}, spread, dense),
            ({"raw": False}, dense, spread),
        )
    )
    asked = seen(normal(20, 2, seed=3))
    torch.testing.assert_close(plain.score(asked), plain.measure(asked)[:, 0])
    assert float(auroc(plain.score(seen(spread)), plain.score(seen(dense)))) < 0.5
    assert float(auroc(weighted.score(seen(spread)), weighted.score(seen(dense)))) > 0.5
    assert plain.wrong_signs() == right.wrong_signs() == []
    assert weighted.wrong_signs() == ["density"]
