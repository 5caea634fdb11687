"""Points in many dimensions brought into a plane, by PCA and t-SNE, and Gaussians in that plane."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]

LEVEL = 0.95  # share of a Gaussian inside its ellipse
WITHIN = -2 * math.log(1 - LEVEL)  # squared Mahalanobis distance of its edge: that of two dimensions is exponential
PERPLEXITY = 30.0  # of t-SNE; a third of the points where these are fewer than 91
COMPONENTS = 50  # principal components that t-SNE is given (van der Maaten and Hinton, JMLR 2008)
FEWEST_OF_CLASS = 6  # points of a class that has a Gaussian: the covariance of fewer says little


class Gaussian(NamedTuple):
    """A Gaussian in the plane.

    Args:
        mean: ``(2,)``.
        covariance: ``(2, 2)``, divided by the number of points less 1.
    """

    mean: Points
    covariance: Points

    def ellipse(self) -> tuple[float, float, float]:
        """Width and height of the ellipse that holds ``LEVEL`` of it, and the angle of its width in degrees.

        >>> width, height, angle = Gaussian(np.zeros(2), np.diag([4.0, 1.0])).ellipse()
        >>> round(width / 2, 3), round(height / 2, 3), angle % 180  # twice and once the square root of 5.991
        (4.895, 2.448, 0.0)
        """
        values, vectors = np.linalg.eigh(self.covariance)
        first = vectors[:, 1]
        width, height = (2 * math.sqrt(WITHIN * value) for value in (values[1], values[0]))
        return width, height, math.degrees(math.atan2(first[1], first[0]))

    def distances(self, points: Points) -> Points:
        """Squared Mahalanobis distances of points ``(N, 2)``."""
        centred = points - self.mean
        squared: Points = np.einsum("ni,ij,nj->n", centred, np.linalg.inv(self.covariance), centred)
        return squared


def gaussians(points: Points, classes: Sequence[str]) -> dict[str, Gaussian]:
    """The Gaussian of the points of each class, without classes that have fewer than six or have them on a line."""
    found = {}
    for name in dict.fromkeys(classes):
        own = points[np.array([one == name for one in classes])]
        if len(own) < FEWEST_OF_CLASS:
            continue
        covariance = np.cov(own.T)
        if np.linalg.eigvalsh(covariance)[0] > 1e-9 * max(float(np.trace(covariance)), 1e-30):
            found[name] = Gaussian(own.mean(0), covariance)
    return found


def inside(points: Points, among: Sequence[Gaussian]) -> NDArray[np.bool_]:
    """Whether each point ``(N, 2)`` lies inside the ellipse of one of the Gaussians."""
    hits = [one.distances(points) <= WITHIN for one in among]
    none: NDArray[np.bool_] = np.zeros(len(points), dtype=np.bool_)
    return np.logical_or.reduce([none, *hits])


def pca_plane(features: Points) -> tuple[Points, tuple[float, float]]:
    """Points in the plane of their two largest principal components, and the shares of the variance on both.

    Args:
        features: ``(N, D)``.

    >>> line = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    >>> places, variance = pca_plane(line)
    >>> places[:, 0].round(3).tolist(), [round(share, 3) for share in variance]
    ([-1.414, 0.0, 1.414], [1.0, 0.0])
    """
    components, shares = _principal(features, 2)
    return components, (float(shares[0]), float(shares[1]))


def tsne_plane(features: Points) -> Points:
    """Points in a plane by t-SNE (van der Maaten and Hinton, JMLR 2008), the same whenever the points are.

    It starts at the two largest principal components and draws nothing at random; one thread adds all numbers up.

    Args:
        features: ``(N, D)``, N at least 4.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        reduced, _ = _principal(features, COMPONENTS)
        start = reduced[:, :2] / (reduced[:, 0].std() or 1.0) * 1e-4
        perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
        options = {"init": start.astype(np.float32), "learning_rate": "auto", "random_state": 0, "n_jobs": 1}
        places: Points = TSNE(perplexity=perplexity, **options).fit_transform(reduced).astype(np.float64)
    return places


def _principal(features: Points, count: int) -> tuple[Points, Points]:
    """The largest principal components ``(N, count)``, at least two, and all components' shares of the variance."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        left, lengths, axes = np.linalg.svd(features - features.mean(0), full_matrices=False)
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])  # the largest loading of each is positive
    found = left * lengths * signs
    if found.shape[1] < 2:
        found, lengths = np.pad(found, ((0, 0), (0, 2 - found.shape[1]))), np.pad(lengths, (0, 2 - len(lengths)))
    energy = lengths**2
    return found[:, : max(count, 2)], energy / (energy.sum() or 1.0)
