"""Mahalanobis distances compared with covariances by hand, scikit-learn, and the laws of normal samples."""

import math
from typing import Any

import pytest
import torch
from sklearn.covariance import EmpiricalCovariance, LedoitWolf, ledoit_wolf_shrinkage
from sklearn.covariance import ledoit_wolf as peer_ledoit_wolf
from torch import Tensor

from medrobust.detectors.features import Features
from medrobust.detectors.mahalanobis import Mahalanobis, ledoit_wolf
from medrobust.metrics.separation import auroc


def seen(*layers: Tensor) -> Features:
    return Features({f"layer.{i}": values for i, values in enumerate(layers)}, torch.zeros(len(layers[0])).long())


def normal(count: int, channels: int, seed: int = 0) -> Tensor:
    return torch.randn((count, channels), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fitted(*layers: Tensor, labels: Tensor, shrinkage: float | None = None) -> Mahalanobis:
    return Mahalanobis(shrinkage).fit(seen(*layers), labels)


def residuals(values: Tensor, labels: Tensor) -> Tensor:
    return values - torch.stack([values[labels == label].mean(0) for label in labels])


# class 0 around (0, 0), class 1 around (10, 0); variances 4 / 2 and 1 / 2 over all eight deviations
CROSSES = torch.tensor([[2.0, 0], [-2, 0], [0, 1], [0, -1], [12, 0], [8, 0], [10, 1], [10, -1]], dtype=torch.float64)
CLASSES = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])


def test_two_crosses_by_hand() -> None:
    """The tied covariance is diag(2, 1/2) for all points; the mean variance is 5/4."""
    points = seen(torch.tensor([[0.0, 0.0], [2.0, 1.0], [7.0, 0.0], [5.0, -2.0]]))
    measured = fitted(CROSSES, labels=CLASSES, shrinkage=0.0).measure(points)
    assert measured.dtype == torch.float64
    torch.testing.assert_close(measured[:, 0], torch.tensor([0, 4 / 2 + 1 * 2, 9 / 2, 25 / 2 + 4 * 2]).double())
    half = fitted(CROSSES, labels=CLASSES, shrinkage=0.5).measure(points)  # diag(13/8, 7/8)
    torch.testing.assert_close(half[1].item(), 4 * 8 / 13 + 8 / 7)
    whole = fitted(CROSSES, labels=CLASSES, shrinkage=1.0).measure(points)
    torch.testing.assert_close(whole[1].item(), 5 / 1.25)


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_smallest_distance_of_scikit_learn(classes: int, dtype: torch.dtype) -> None:
    labels = torch.arange(400) % classes
    layers = [(normal(400, c, c) + 3 * normal(classes, c, c + 1)[labels]).to(dtype) for c in (1, 6, 64)]
    points = [3 * normal(9, c, c + 2).to(dtype) for c in (1, 6, 64)]
    measured = fitted(*layers, labels=labels, shrinkage=0.0).measure(seen(*points))
    for i, (values, asked) in enumerate(zip(layers, points)):
        values, asked = values.double(), asked.double()
        peer = EmpiricalCovariance(assume_centered=True).fit(residuals(values, labels).numpy())
        means = torch.stack([values[labels == label].mean(0) for label in range(classes)])
        distances = torch.stack([torch.from_numpy(peer.mahalanobis((asked - mean).numpy())) for mean in means])
        torch.testing.assert_close(measured[:, i], distances.amin(0), rtol=1e-7, atol=1e-9)


def test_without_shrinkage_no_affine_map_of_the_features_matters() -> None:
    labels = torch.arange(300) % 3
    values, points = normal(300, 8) + 2 * labels[:, None], normal(7, 8, 1)
    matrix, shift = normal(8, 8, 2) * torch.logspace(-3, 3, 8, dtype=torch.float64), 100 * normal(1, 8, 3)
    plain = fitted(values, labels=labels, shrinkage=0.0)
    mapped = fitted(values @ matrix + shift, labels=labels, shrinkage=0.0)
    assert plain.chosen.tolist() == mapped.chosen.tolist() == [0]
    torch.testing.assert_close(
        plain.measure(seen(points)), mapped.measure(seen(points @ matrix + shift)), rtol=1e-6, atol=0
    )


def test_the_mean_over_the_reference_images_of_one_class_is_the_number_of_channels() -> None:
    """trace(inverse(S) S) = C exactly, if the classes are so far apart that each image is nearest to its own."""
    labels = torch.arange(100) % 2
    values = normal(100, 5) + 1e3 * labels[:, None]
    assert fitted(values, labels=labels, shrinkage=0.0).measure(seen(values)).mean().item() == pytest.approx(5)


def test_fresh_normal_images_follow_chi_squared() -> None:
    """Mean C, variance 2 C, up to what estimating the covariance from n images adds, about C / n."""
    measured = fitted(normal(20_000, 10), labels=torch.zeros(20_000).long()).measure(seen(normal(4000, 10, 1)))
    assert measured.mean().item() == pytest.approx(10, abs=4 * math.sqrt(20 / 4000) + 0.02)
    assert measured.var().item() == pytest.approx(20, rel=0.15)


@pytest.mark.parametrize(("count", "channels"), [(20, 50), (400, 50), (3, 2)])
def test_the_chosen_shrinkage_is_that_of_ledoit_and_wolf(count: int, channels: int) -> None:
    labels = torch.arange(count) % (2 if count > 3 else 1)
    values = residuals(normal(count, channels) @ normal(channels, channels, 1), labels)
    peer = ledoit_wolf_shrinkage(values.numpy(), assume_centered=True)
    assert ledoit_wolf(values, values.T @ values / count) == pytest.approx(peer, rel=1e-12)


def test_the_shrinkage_of_four_points_by_hand() -> None:
    """(+-2, 0), (0, +-1): S = diag(2, 1/2), v = 5/4, a = 2 (3/4)^2, b = (2 (2^2 + 1/4) + 2 (2^2 + 1/4)) / 16."""
    values = torch.tensor([[2.0, 0], [-2, 0], [0, 1], [0, -1]], dtype=torch.float64)
    uncertainty = sum((torch.outer(one, one) - torch.diag(torch.tensor([2.0, 0.5]))).square().sum() for one in values)
    assert uncertainty.item() / 16 == pytest.approx(17 / 16)
    assert ledoit_wolf(values, values.T @ values / 4) == pytest.approx(min(1, 17 / 16 / (9 / 8)), rel=1e-12)


@pytest.mark.parametrize("classes", [1, 3])
def test_every_layer_is_shrunk_to_what_scikit_learn_has_on_class_centred_features(classes: int) -> None:
    """Also those with more images than channels, whose covariance is regular."""
    labels = torch.arange(120) % classes
    layers = [normal(120, c, c) * torch.linspace(0.2, 3, c) + 5 * normal(classes, c, 9)[labels] for c in (4, 60, 200)]
    detector = fitted(*layers, labels=labels)
    for layer, values in enumerate(layers):
        centred = residuals(values, labels)
        covariance, shrinkage = peer_ledoit_wolf(centred.numpy(), assume_centered=True)
        assert detector.chosen[layer].item() == pytest.approx(shrinkage, rel=1e-12)
        whitening = detector.get_buffer(f"whitening_{layer}")
        torch.testing.assert_close(whitening @ whitening.T, torch.linalg.inv(torch.from_numpy(covariance)))


def test_distances_of_new_images_are_not_those_of_an_overfitted_covariance() -> None:
    """722 normal images of 576 channels: new ones are n / (n - C - 1) times as far as the known, 4.98, unshrunk.

    On the known images the mean distance is C. On new ones trace(inverse(S) Sigma) is C n / (n - C - 1), the mean of
    the inverse Wishart law (its spread is below 1 %). The channels' variances are those of activations: unequal.
    """
    scales = torch.logspace(0, -1, 576, dtype=torch.float64)
    known, new, labels = normal(722, 576) * scales, normal(700, 576, 1) * scales, torch.zeros(722).long()

    def ratio(shrinkage: float | None) -> float:
        detector = fitted(known, labels=labels, shrinkage=shrinkage)
        return (detector.measure(seen(new)).mean() / detector.measure(seen(known)).mean()).item()

    assert ratio(0.0) == pytest.approx(722 / (722 - 576 - 1), rel=0.03)
    peer = LedoitWolf().fit(known.numpy())
    expected = peer.mahalanobis(new.numpy()).mean() / peer.mahalanobis(known.numpy()).mean()
    assert ratio(None) == pytest.approx(expected, rel=1e-9)
    assert 1 < expected < 2


def test_a_singular_covariance_is_shrunk_too() -> None:
    labels = torch.zeros(30).long()
    values, points = normal(30, 40), normal(6, 40, 1)
    wide = torch.cat([normal(30, 3), torch.zeros(30, 1)], 1)  # one channel never fires
    twice = torch.cat([normal(30, 3), normal(30, 3)], 1)  # every channel is there twice
    detector = fitted(values, normal(30, 4), wide, twice, labels=labels)
    assert bool((detector.chosen > 0).all())
    peer = LedoitWolf().fit(values.numpy())
    measured = detector.measure(seen(points, points[:, :4], points[:, :4], points[:, :6]))
    torch.testing.assert_close(measured[:, 0], torch.from_numpy(peer.mahalanobis(points.numpy())))
    assert bool(measured.isfinite().all())


def test_the_gradient_with_respect_to_the_features_is_the_formula() -> None:
    """2 inverse(S) (z - nearest mean), also through float32 features."""
    labels = torch.arange(200) % 2
    first, second = normal(200, 3), normal(200, 5) + 4 * labels[:, None]
    detector = fitted(first, second, labels=labels, shrinkage=0.0)
    points = normal(6, 5, 1).requires_grad_()
    scores = detector.layer_scores(points, 1)
    torch.testing.assert_close(scores.detach(), detector.measure(seen(normal(6, 3), points.detach()))[:, 1])
    (gradient,) = torch.autograd.grad(scores.sum(), points)
    means = torch.stack([second[labels == label].mean(0) for label in (0, 1)])
    centred = residuals(second, labels)
    precision = torch.linalg.inv(centred.T @ centred / 200)
    apart = points.detach().unsqueeze(1) - means
    nearest = torch.einsum("nki,ij,nkj->nk", apart, precision, apart).argmin(1)
    torch.testing.assert_close(gradient, 2 * apart[torch.arange(6), nearest] @ precision)
    single = points.detach().float().requires_grad_()
    (lower,) = torch.autograd.grad(detector.layer_scores(single, 1).sum(), single)
    assert lower.dtype == torch.float32
    torch.testing.assert_close(lower.double(), gradient, rtol=1e-4, atol=1e-4)


def test_scores_are_the_same_alone_and_in_any_batch(monkeypatch: Any) -> None:
    labels = torch.arange(90) % 3
    detector = fitted(normal(90, 12), normal(90, 200), labels=labels)
    points = seen(normal(11, 12, 1), normal(11, 200, 1))
    together = detector.score(points)
    alone = torch.cat([detector.score(points[i : i + 1]) for i in range(11)])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=0)
    monkeypatch.setattr("medrobust.detectors.numerics.MEMORY", 8 * 12 * 2)  # two rows at a time
    torch.testing.assert_close(together, detector.score(points), rtol=1e-9, atol=0)
    assert detector.measure(points[torch.zeros(11).bool()]).shape == (0, 2)


def test_what_is_kept_is_enough_to_restore_it() -> None:
    labels = torch.arange(30) % 2
    detector = fitted(normal(30, 4), normal(30, 2), labels=labels)
    other = Mahalanobis(**detector.parameters_given())
    other.layer_names = detector.layer_names
    other.keep(**dict(detector.named_buffers()))
    points = seen(normal(5, 4, 1), normal(5, 2, 1))
    assert torch.equal(other.score(points), detector.score(points))


def test_shifted_images_are_found_as_often_as_the_law_says() -> None:
    """N(0, S) against N(m, S) with m' inverse(S) m = 9, in 4 dimensions: chi squared against the noncentral one."""
    mixing, labels = normal(4, 4, 9), torch.zeros(1000).long()
    shift = torch.tensor([0.0, 3.0, 0.0, 0.0]).double()
    reference, clean, other = (normal(count, 4, seed) for seed, count in enumerate((4000, 3000, 3000)))
    adversarial, exact = other + shift, auroc(clean.square().sum(1), (other + shift).square().sum(1))
    detector = Mahalanobis().fit(
        seen(clean[:1000] @ mixing),
        labels,
        seen(adversarial[:1000] @ mixing),
        reference=seen(reference @ mixing),
        reference_labels=torch.zeros(4000).long(),
    )
    found = auroc(detector.score(seen(clean[1000:] @ mixing)), detector.score(seen(adversarial[1000:] @ mixing)))
    assert found.item() == pytest.approx(exact.item(), abs=0.01)


@pytest.mark.parametrize("shrinkage", [-0.1, 1.1, float("nan")])
def test_a_shrinkage_out_of_range_is_refused(shrinkage: float) -> None:
    with pytest.raises(ValueError, match="shrinkage is a share between 0 and 1, or None, got"):
        Mahalanobis(shrinkage)


def test_features_that_allow_no_distance_are_refused() -> None:
    labels = torch.tensor([0, 0, 0, 1, 0, 0])
    with pytest.raises(ValueError, match="class 1 has 1 reference image, the Mahalanobis distance needs at least 2"):
        fitted(normal(6, 2), labels=labels)
    two = torch.tensor([0, 0, 0, 1, 1, 1])
    with pytest.raises(ValueError, match="the features of layer 'layer.1' are the same for all 6 reference images"):
        fitted(normal(6, 2), torch.full((6, 3), 0.1), labels=two)
    with pytest.raises(ValueError, match="the features of layer 'layer.0' do not vary within any class"):
        fitted(two[:, None].float() * 0.1, labels=two)
    with pytest.raises(ValueError, match="the covariance of layer 'layer.0', 9 channels of 6 images, is singular"):
        fitted(normal(6, 9), labels=two, shrinkage=0.0)
    broken = normal(6, 2)
    broken[0, 0] = float("nan")
    with pytest.raises(ValueError, match="the features of layer 'layer.0' are not finite for 1 of 6 images"):
        fitted(broken, labels=two)
    detector = fitted(normal(6, 2), labels=two)
    with pytest.raises(ValueError, match="expected features of the layers"):
        detector.score(seen(normal(2, 2), normal(2, 2)))
    with pytest.raises(ValueError, match="not finite for 2 of 2 images"):
        detector.score(seen(torch.full((2, 2), float("inf"))))
    with pytest.raises(ValueError, match="Mahalanobis is not fitted yet"):
        Mahalanobis().score(seen(normal(2, 2)))
    with pytest.raises(ValueError, match="no successful adversarial image"):
        Mahalanobis().fit(seen(normal(6, 2)), two, seen(normal(0, 2)))
