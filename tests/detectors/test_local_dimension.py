"""Local dimensionality compared with order statistics of uniform balls and with a sum over sorted distances."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from medrobust.detectors.features import Features
from medrobust.detectors.local_dimension import LocalDimension
from medrobust.metrics.separation import auroc


def seen(*layers: Tensor) -> Features:
    return Features({f"layer.{i}": values for i, values in enumerate(layers)}, torch.zeros(len(layers[0])).long())


def normal(count: int, channels: int, seed: int = 0) -> Tensor:
    return torch.randn((count, channels), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fitted(*layers: Tensor, labels: Tensor | None = None, **settings: Any) -> LocalDimension:
    labels = torch.zeros(len(layers[0])).long() if labels is None else labels
    return LocalDimension(**settings).fit(seen(*layers), labels)


def sorted_sum(points: Tensor, references: Tensor, neighbours: int) -> Tensor:
    """The estimate by sorting all distances, one image after the other, as the original code does."""
    values = []
    for row in cdist(points.double().numpy(), references.double().numpy()):
        row = np.sort(row[row > 0])[:neighbours]
        total = -np.log(row / row[-1]).sum()
        values.append(min(LocalDimension.largest, len(row) / total if total else np.inf))
    return torch.tensor(values)


def test_two_neighbours_by_hand() -> None:
    """Distances 1 and e from zero: -2 / (log(1 / e) + 0) = 2. A third neighbour at e^2 makes it 3 / (2 + 1) = 1."""
    references = torch.tensor([[1.0], [-math.e], [math.e**2], [-100.0]], dtype=torch.float64)
    point = seen(torch.zeros(1, 1))
    assert fitted(references, neighbours=2).measure(point).item() == pytest.approx(2)
    assert fitted(references, neighbours=3).measure(point).item() == pytest.approx(1)


@pytest.mark.parametrize("dimension", [2, 5, 8])
def test_uniform_balls_have_their_dimension(dimension: int) -> None:
    """From a ball's centre, (r_i / r_k)^d are sorted uniforms: the estimate is d k / Gamma(k - 1).

    Its mean is ``d k / (k - 2)`` and its deviation ``d k / ((k - 2) sqrt(k - 3))``. 150 balls lie far apart in 50
    dimensions, each in a subspace of its own.
    """
    k, balls, inside = 20, 150, 30
    generator = torch.Generator().manual_seed(dimension)
    centres = 50 * normal(balls, 50, 1)
    directions = torch.nn.functional.normalize(normal(balls * inside, dimension, 2), dim=1)
    radii = torch.rand((balls * inside, 1), generator=generator, dtype=torch.float64) ** (1 / dimension)
    bases = torch.linalg.qr(normal(balls * 50, dimension, 3).view(balls, 50, dimension)).Q
    points = ((directions * radii).view(balls, inside, dimension) @ bases.mT + centres.unsqueeze(1)).flatten(0, 1)

    measured = fitted(points, neighbours=k, max_references=len(points)).measure(seen(centres))[:, 0]

    mean, deviation = dimension * k / (k - 2), dimension * k / ((k - 2) * math.sqrt(k - 3))
    assert measured.mean().item() == pytest.approx(mean, abs=4 * deviation / math.sqrt(balls))
    assert measured.std().item() == pytest.approx(deviation, rel=0.3)


@pytest.mark.parametrize("neighbours", [2, 5, 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_sum_over_sorted_distances(neighbours: int, dtype: torch.dtype) -> None:
    layers = [normal(80, channels, channels).to(dtype) for channels in (1, 7, 300)]
    points = [2 * normal(13, channels, channels + 1).to(dtype) for channels in (1, 7, 300)]
    measured = fitted(*layers, neighbours=neighbours).measure(seen(*points))
    expected = torch.stack([sorted_sum(*pair, neighbours) for pair in zip(points, layers)], 1)
    assert measured.dtype == torch.float64
    torch.testing.assert_close(measured, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize(("scale", "shift"), [(1e-4, 0.0), (1e5, 0.0), (1.0, 2.0**20)])
def test_neither_scale_nor_place_matters(scale: float, shift: float) -> None:
    references, points = normal(60, 10), normal(7, 10, 1)
    near = fitted(references).measure(seen(points))
    far = fitted(scale * references + shift).measure(seen(scale * points + shift))
    torch.testing.assert_close(near, far, rtol=1e-7, atol=0)


def test_tight_groups_far_apart_keep_their_digits() -> None:
    """Distances of 1e-4 between points at 1e3: a difference of squared lengths would keep three digits of them."""
    groups = 1e-4 * normal(60, 8) + 1e3 * (torch.arange(60) % 2).unsqueeze(1)
    points = 1e-4 * normal(6, 8, 1) + 1e3 * (torch.arange(6) % 2).unsqueeze(1)
    measured = fitted(groups, neighbours=10).measure(seen(points))[:, 0]
    torch.testing.assert_close(measured, sorted_sum(points, groups, 10), rtol=1e-6, atol=0)


@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_its_gradient_is_the_derivative_of_the_estimate(scale: float) -> None:
    """With L = -k / S, S = sum_i log(r_i / r_k): dL = L^2 / k dS, dS = sum_i u_i - k u_k and u_i = (z - x_i) / r_i^2.

    The small scale stands beside a far group, so that distances are computed from differences.
    """
    k, near = 10, scale * normal(50, 6)
    references = near if scale == 1 else torch.cat([near, near + 1e3])
    points = (scale * normal(7, 6, 1)).requires_grad_()
    detector = fitted(references, neighbours=k)
    measured = detector.measure(seen(points))
    (gradient,) = torch.autograd.grad(measured.sum(), points)
    for point, value, found in zip(points.detach(), measured[:, 0], gradient, strict=True):
        apart = point - references
        nearest = apart[apart.square().sum(1).argsort()[:k]]
        ways = nearest / nearest.square().sum(1, keepdim=True)
        torch.testing.assert_close(found, value.detach() ** 2 / k * (ways.sum(0) - k * ways[-1]), rtol=1e-5, atol=1e-9)


def test_its_gradient_is_finite_at_a_reference_and_where_it_is_cut_off() -> None:
    references = normal(50, 6)
    points = references[:5].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(fitted(references, neighbours=10).measure(seen(points)).sum(), points)
    assert gradient.isfinite().all()
    corners = torch.eye(30, dtype=torch.float64)  # equally far from zero: the estimate is cut off
    points = torch.cat([torch.zeros(1, 30), corners[:1]]).double().requires_grad_()
    (gradient,) = torch.autograd.grad(fitted(corners, neighbours=5).measure(seen(points)).sum(), points)
    assert gradient.isfinite().all()


def test_an_image_is_not_its_own_neighbour() -> None:
    references = normal(50, 6)
    measured = fitted(references, neighbours=10).measure(seen(references))[:, 0]
    torch.testing.assert_close(measured, sorted_sum(references, references, 10), rtol=1e-9, atol=0)
    for row in (0, 17):
        without = fitted(references[torch.arange(50) != row], neighbours=10)
        assert without.measure(seen(references[row : row + 1])).item() == pytest.approx(measured[row].item(), rel=1e-9)


def test_copies_among_the_references_count_as_often_as_they_occur() -> None:
    """More copies of one image than neighbours: they fill the places of points beside it, and are left out at it."""
    references = torch.cat([normal(40, 4), torch.full((30, 4), 0.25).double(), normal(3, 4).repeat(2, 1)])
    points = torch.cat([normal(5, 4, 1), references[39:44], references[:3]])
    measured = fitted(references, neighbours=20).measure(seen(points))[:, 0]
    torch.testing.assert_close(measured, sorted_sum(points, references, 20), rtol=1e-9, atol=0)


def test_fewer_neighbours_count_if_copies_leave_no_more() -> None:
    references = torch.cat([torch.zeros(25, 1), torch.tensor([[1.0], [math.e]])]).double()
    assert fitted(references, neighbours=20).measure(seen(torch.zeros(1, 1))).item() == pytest.approx(2)


def test_equal_distances_give_the_largest_value() -> None:
    corners = torch.eye(30, dtype=torch.float64)
    points = torch.cat([torch.zeros(1, 30), corners[:1], torch.full((1, 30), 1e6)])
    measured = fitted(corners, neighbours=5).measure(seen(points))
    assert measured.flatten().tolist() == [LocalDimension.largest] * 3


def test_scores_are_the_same_alone_and_in_any_batch(monkeypatch: Any) -> None:
    detector = fitted(normal(70, 12), normal(70, 5))
    points = seen(normal(11, 12, 1), normal(11, 5, 1))
    together = detector.score(points)
    alone = torch.cat([detector.score(points[i : i + 1]) for i in range(11)])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=0)
    monkeypatch.setattr("medrobust.detectors.numerics.MEMORY", 8 * 21 * 12 * 2)  # two rows at a time
    torch.testing.assert_close(together, detector.score(points), rtol=1e-9, atol=0)
    assert detector.measure(points[torch.zeros(11).bool()]).shape == (0, 2)


def test_the_references_are_the_first_of_all_classes() -> None:
    labels = torch.tensor([5, 5, 5, 5, 5, 2, 5, 9, 2, 5])
    values = normal(10, 3)
    detector = fitted(values, labels=labels, neighbours=3, max_references=5)
    torch.testing.assert_close(
        detector.measure(seen(values)), fitted(values[[0, 1, 5, 7, 8]], neighbours=3).measure(seen(values))
    )


def test_what_is_kept_is_enough_to_restore_it() -> None:
    detector = fitted(normal(30, 4), normal(30, 2), neighbours=5)
    other = LocalDimension(**detector.parameters_given())
    other.layer_names = detector.layer_names
    other.keep(**dict(detector.named_buffers()))
    points = seen(normal(5, 4, 1), normal(5, 2, 1))
    assert torch.equal(other.score(points), detector.score(points))


def test_it_finds_what_leaves_the_surface_on_which_clean_images_lie() -> None:
    """Clean images fill 2 of 40 dimensions and adversarial ones leave these; noise that stays in them is clean."""
    surface = torch.linalg.qr(normal(40, 2, 9)).Q.T
    reference, clean, noisy = (normal(count, 2, seed) @ surface for seed, count in enumerate((300, 200, 200)))
    adversarial = clean + 0.3 * normal(200, 40, 5)
    labels, half = torch.zeros(300).long(), slice(0, 100)
    detector = LocalDimension().fit(
        seen(clean[half]), labels[half], seen(adversarial[half]), seen(noisy[half]), seen(reference), labels
    )
    found = auroc(detector.score(seen(torch.cat([clean, noisy])[100:])), detector.score(seen(adversarial[100:])))
    assert found.item() > 0.99
    raw = LocalDimension().fit(seen(clean), labels[:200], reference=seen(reference), reference_labels=labels)
    assert auroc(raw.score(seen(noisy)), raw.score(seen(adversarial))).item() > 0.99  # larger is more suspicious


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"neighbours": 1}, "neighbours counts images and is a whole number of at least 2, got 1"),
        ({"neighbours": 2.5}, "neighbours"),
        ({"max_references": 20}, "max_references is a whole number larger than neighbours, 20, got 20"),
    ],
)
def test_a_setting_out_of_range_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LocalDimension(**settings)


def test_features_that_allow_no_estimate_are_refused() -> None:
    with pytest.raises(ValueError, match="by 20 neighbours needs at least 21 reference images, got 20"):
        fitted(normal(20, 3))
    with pytest.raises(ValueError, match="the features of layer 'layer.1' are the same for all 25 reference images"):
        fitted(normal(25, 3), torch.ones(25, 2))
    broken = normal(25, 3)
    broken[3, 0] = float("nan")
    with pytest.raises(ValueError, match="the features of layer 'layer.0' are not finite for 1 of 25 images"):
        fitted(broken)
    with pytest.raises(ValueError, match="expected one label for each of 25 images, got 3"):
        fitted(normal(25, 3), labels=torch.zeros(3).long())
    detector = fitted(normal(25, 3))
    with pytest.raises(ValueError, match="expected features of the layers"):
        detector.score(seen(normal(2, 3), normal(2, 3)))
    with pytest.raises(ValueError, match="not finite for 1 of 1 images"):
        detector.score(seen(torch.full((1, 3), float("nan"))))
    with pytest.raises(ValueError, match="LocalDimension is not fitted yet"):
        LocalDimension().score(seen(normal(2, 3)))
    with pytest.raises(ValueError, match="no successful adversarial image"):
        LocalDimension().fit(seen(normal(25, 3)), torch.zeros(25).long(), seen(normal(0, 3)))
