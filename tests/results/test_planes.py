"""Planes of points: Gaussians by hand, PCA against its definition, and t-SNE that is always the same."""

import math

import numpy as np
import pytest
from scipy.stats import chi2
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness

from medrobust.results.figures.planes import WITHIN, Gaussian, gaussians, inside, pca_plane, tsne_plane


def test_the_edge_of_an_ellipse_is_that_of_the_chi_squared_distribution() -> None:
    assert pytest.approx(chi2(2).ppf(0.95)) == WITHIN


def test_the_ellipse_of_a_turned_gaussian() -> None:
    """Variances 9 and 1, turned by 30 degrees."""
    turn = math.radians(30)
    axes = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    one = Gaussian(np.zeros(2), axes @ np.diag([9.0, 1.0]) @ axes.T)
    width, height, angle = one.ellipse()
    assert (width, height) == (pytest.approx(6 * math.sqrt(WITHIN)), pytest.approx(2 * math.sqrt(WITHIN)))
    assert angle % 180 == pytest.approx(30)
    edge = math.sqrt(WITHIN) * 3 * axes[:, 0]
    assert inside(np.stack([0.99 * edge, 1.01 * edge]), [one]).tolist() == [True, False]
    assert inside(np.zeros((2, 2)), []).tolist() == [False, False]


def test_a_class_has_a_gaussian_if_its_points_span_the_plane() -> None:
    corners = [[0.0, 0], [2, 0], [0, 2], [2, 2], [1, 1], [1, 1]]
    points = np.array([*corners, *([place, place] for place in range(6)), *corners[:5]])
    found = gaussians(points, ["a"] * 6 + ["line"] * 6 + ["few"] * 5)
    assert list(found) == ["a"]
    np.testing.assert_allclose(found["a"].mean, [1, 1])
    np.testing.assert_allclose(found["a"].covariance, np.diag([4 / 5, 4 / 5]))


def test_the_plane_of_pca_is_that_of_the_reference() -> None:
    features = np.random.default_rng(0).normal(size=(30, 6)) * [5, 3, 1, 1, 0.5, 0.1]
    places, variance = pca_plane(features)
    reference = PCA(2, svd_solver="full").fit(features)
    np.testing.assert_allclose(np.abs(places), np.abs(reference.transform(features)), atol=1e-9)
    np.testing.assert_allclose(variance, reference.explained_variance_ratio_)
    one, _ = pca_plane(features[:, :1])
    assert one.shape == (30, 2) and not one[:, 1].any()


def test_tsne_is_the_same_in_every_run_and_keeps_neighbours_together() -> None:
    features, classes = make_blobs(60, 8, centers=3, random_state=0)
    places = tsne_plane(features)
    np.testing.assert_array_equal(places, tsne_plane(features.copy()))
    assert trustworthiness(features, places, n_neighbors=5) > 0.9
    middles = np.array([places[classes == one].mean(0) for one in range(3)])
    nearest = np.linalg.norm(places[:, None] - middles, axis=2).argmin(1)
    assert (nearest == classes).all()


def test_tsne_of_few_points_is_finite() -> None:
    assert np.isfinite(tsne_plane(np.arange(8.0).reshape(4, 2) ** 2)).all()
