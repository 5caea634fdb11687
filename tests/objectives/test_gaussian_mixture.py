"""Gaussian mixtures: what one, two and too many Gaussians are on paper, and scikit-learn's beside them."""

import math

import pytest
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor

from medrobust.objectives.gaussian_mixture import (
    Mixture,
    cluster,
    fit_mixture,
    joined,
    maximised,
    mean_variance,
    stacked,
)


def drawn(count: int, channels: int, seed: int = 0) -> Tensor:
    return torch.randn(count, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def clusters(count: int = 200) -> Tensor:
    """Three well separated clusters in three dimensions, each with its own covariance."""
    centres = torch.tensor([[0.0, 0, 0], [8, 0, 1], [0, 9, -3]], dtype=torch.float64)
    shapes = torch.tensor([[1.0, 0.5, 0], [0, 1, 0.2], [0, 0, 0.3]], dtype=torch.float64)
    return torch.cat([drawn(count, 3, seed) @ (shapes * (1 + seed)) + centre for seed, centre in enumerate(centres)])


def covariances(mixture: Mixture) -> Tensor:
    """Covariance of each component, ``(K, C, C)``, from the inner products of its whitened unit vectors."""
    components, channels = mixture.means.shape
    identity = torch.eye(channels, dtype=torch.float64)
    white = [
        mixture.whitened(mean + identity, torch.full((channels,), component))
        for component, mean in enumerate(mixture.means)
    ]
    return torch.linalg.inv(torch.stack([rows @ rows.mT for rows in white]))


def test_one_gaussian_by_hand() -> None:
    # mean (1, 2), covariance diag(4, 1), mean variance 2.5: shrunk by 0.2 it is diag(3.7, 1.3)
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    mixture = fit_mixture(corners * torch.tensor([2.0, 1]) + torch.tensor([1.0, 2]), 1, shrinkage=0.2)
    torch.testing.assert_close(mixture.means, torch.tensor([[1.0, 2]], dtype=torch.float64))
    expected = torch.diag(torch.tensor([3.7, 1.3], dtype=torch.float64))[None]
    torch.testing.assert_close(covariances(mixture), expected, rtol=0, atol=1e-5)
    point = torch.tensor([[4.0, 1]], dtype=torch.float64)
    distance = 9 / 3.7 + 1 / 1.3
    assert mixture.distances(point).item() == pytest.approx(distance, rel=1e-5)
    density = -(distance + math.log(3.7 * 1.3) + 2 * math.log(2 * math.pi)) / 2
    assert mixture.log_densities(point).item() == pytest.approx(density, rel=1e-5)


@pytest.mark.parametrize(("count", "channels"), [(40, 5), (6, 5), (5, 12), (2, 12)])
@pytest.mark.parametrize("shrinkage", [0.05, 0.5, 1.0])
def test_its_directions_are_the_shrunk_covariance_exactly(count: int, channels: int, shrinkage: float) -> None:
    features = drawn(count, channels) * torch.linspace(0.1, 3, channels, dtype=torch.float64) + 5
    mixture = fit_mixture(features, 1, shrinkage)
    empirical = torch.cov(features.T, correction=0)
    floor = (shrinkage + 1e-6) * empirical.diagonal().mean()
    expected = (1 - shrinkage) * empirical + floor * torch.eye(channels, dtype=torch.float64)
    torch.testing.assert_close(covariances(mixture)[0], expected)
    torch.testing.assert_close(mixture.log_determinants[0], expected.logdet())
    points = drawn(7, channels, 1) + 5
    apart = points - features.mean(0)
    squares = (apart @ torch.linalg.inv(expected) * apart).sum(1)
    torch.testing.assert_close(mixture.distances(points)[:, 0], squares)
    white = mixture.whitened(points, torch.zeros(7, dtype=torch.int64))
    torch.testing.assert_close(white.square().sum(1), squares)


def test_in_float32_the_whitened_form_keeps_its_digits() -> None:
    features = drawn(30, 200) @ torch.diag(torch.logspace(1, -3, 200, dtype=torch.float64)) + 10
    mixture = fit_mixture(features, 1, shrinkage=0.01)
    single = Mixture(**{name: getattr(mixture, name) for name in Mixture.__dataclass_fields__})
    for name in ("log_weights", "means", "floors", "directions", "spreads"):
        object.__setattr__(single, name, getattr(single, name).float())
    chosen = torch.zeros(30, dtype=torch.int64)
    ours = single.whitened(features.float(), chosen).square().sum(1)
    torch.testing.assert_close(ours.double(), mixture.distances(features)[:, 0], rtol=1e-3, atol=0)


def test_beside_scikit_learn() -> None:
    features = clusters()
    mixture = fit_mixture(features, 3, shrinkage=0.0)
    peer = GaussianMixture(3, reg_covar=1e-6 * mean_variance(features), random_state=0).fit(features.numpy())
    likelihood = mixture.log_densities(features).logsumexp(1).mean().item()
    assert likelihood >= peer.score(features.numpy()) - 1e-6
    order = torch.cdist(mixture.means, torch.from_numpy(peer.means_)).argmin(1)
    assert sorted(order.tolist()) == [0, 1, 2]
    for ours, theirs in (
        (mixture.means, peer.means_),
        (mixture.log_weights.exp(), peer.weights_),
        (covariances(mixture), peer.covariances_),
    ):
        torch.testing.assert_close(ours, torch.from_numpy(theirs)[order], rtol=1e-4, atol=1e-4)


def test_overlapping_clusters_are_fitted_as_well_as_by_scikit_learn() -> None:
    features = torch.cat([drawn(300, 2), drawn(300, 2, 1) * 0.4 + 1.5])
    ours = fit_mixture(features, 2, shrinkage=0.0, tolerance=1e-8, iterations=500)
    peer = GaussianMixture(2, reg_covar=1e-6 * mean_variance(features), tol=1e-8, max_iter=500, random_state=0)
    likelihood = ours.log_densities(features).logsumexp(1).mean().item()
    assert likelihood >= peer.fit(features.numpy()).score(features.numpy()) - 1e-4


def test_steps_raise_the_likelihood() -> None:
    features = torch.cat([drawn(100, 2), drawn(100, 2, 1) * 0.4 + 1.0])
    found = [
        fit_mixture(features, 3, 0.0, iterations=steps, tolerance=0).log_densities(features).logsumexp(1).mean()
        for steps in (0, 1, 2, 4, 8, 16)
    ]
    assert found == sorted(found)


def test_the_same_seed_gives_the_same_mixture() -> None:
    features = drawn(100, 4)
    first, second, other = (fit_mixture(features, 5, seed=seed) for seed in (0, 0, 3))
    assert torch.equal(first.means, second.means)
    assert not torch.equal(first.means, other.means)
    before = torch.random.get_rng_state()
    fit_mixture(features, 5)
    assert torch.equal(before, torch.random.get_rng_state())


def test_k_means_finds_clusters() -> None:
    labels = cluster(5 * torch.eye(3, dtype=torch.float64).repeat_interleave(200, 0) + drawn(600, 3) / 2, 3, seed=0)
    parts = labels.view(3, 200)
    assert bool((parts == parts[:, :1]).all())
    assert len(parts[:, 0].unique()) == 3


def test_fewer_points_than_clusters_leave_components_empty() -> None:
    features = torch.tensor([[0.0, 0], [1, 0]], dtype=torch.float64).repeat(5, 1)
    mixture = fit_mixture(features, 4)
    densities = mixture.log_densities(features)
    assert bool(densities.logsumexp(1).isfinite().all())
    assert not bool(densities.isnan().any())


def test_shares_weigh_the_images() -> None:
    features = drawn(10, 3)
    shares = torch.zeros(10, 2, dtype=torch.float64)
    shares[:4, 0] = shares[4:, 1] = 1
    mixture = maximised(features, shares, 0.0)
    torch.testing.assert_close(mixture.log_weights.exp(), torch.tensor([0.4, 0.6], dtype=torch.float64))
    torch.testing.assert_close(mixture.means[0], features[:4].mean(0))
    floor = 1e-6 * features.var(0, correction=0).mean() * torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(covariances(mixture)[0], torch.cov(features[:4].T, correction=0) + floor)


def test_joined_and_stacked_give_each_layer_its_own() -> None:
    layers = [drawn(20, 4, seed) for seed in range(3)]
    apart = [[fit_mixture(layer[:9], 2), fit_mixture(layer[9:], 3)] for layer in layers]
    together = stacked([joined(parts) for parts in apart])
    points = torch.stack([drawn(5, 4, 10 + seed) for seed in range(3)])
    densities = together.log_densities(points)
    chosen = densities.argmax(2)
    white = together.whitened(points, chosen)
    for place, parts in enumerate(apart):
        expected = torch.cat([part.log_densities(points[place]) for part in parts], 1)
        torch.testing.assert_close(densities[place], expected)
        distances = torch.cat([part.distances(points[place]) for part in parts], 1)
        mine = distances.gather(1, chosen[place][:, None])[:, 0]
        torch.testing.assert_close(white[place].square().sum(1), mine)


@pytest.mark.parametrize(
    ("features", "components", "words"),
    [
        (torch.zeros(4), 1, "features \\(M, C\\)"),
        (torch.randn(4, 2), 5, "1 to M components, got 5"),
        (torch.randn(4, 2), 0, "1 to M components, got 0"),
        (torch.full((4, 2), 3.0), 1, "features that vary, got 4 equal"),
    ],
)
def test_bad_features_get_one_sentence(features: Tensor, components: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        fit_mixture(features, components)
