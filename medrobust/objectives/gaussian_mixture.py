"""Gaussian mixtures with full covariances, fitted by expectation-maximisation (HFC21 eq. 5-6)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

LEAST_VARIANCE = 1e-6  # share of the mean variance that keeps a covariance invertible without shrinkage
LEAST_SHARE = 1e-12  # share of an image in a component below which float64 would not notice it in a covariance
CONSTANT = 1e-12  # variance over mean square below which features count as constant; float32's rounding gives 4e-15
LLOYD_STEPS = 50


@dataclass(frozen=True, eq=False)
class Mixture:
    """K Gaussians in C dimensions, or K for each of several layers; each tensor then has a leading dimension.

    A component's covariance is ``floor * I`` plus ``spread`` along each of the component's orthonormal directions. This
    is exact for a covariance that is shrunk towards the identity. As n samples span fewer than n directions, all
    components together need no more memory than the samples that they were fitted to, instead of K C^2 numbers.

    Args:
        log_weights: Logarithms of the weights pi, ``(K,)``.
        means: ``(K, C)``.
        floors: Variance outside a component's directions, ``(K,)``.
        directions: Directions of all components, ``(R, C)``: rows of length 1, or of zeros where a row is padding.
        spreads: Variance along each direction beyond the floor, ``(R,)``.
        owners: Component that each direction belongs to, ``(R,)`` int64.
    """

    log_weights: Tensor
    means: Tensor
    floors: Tensor
    directions: Tensor
    spreads: Tensor
    owners: Tensor

    @cached_property
    def _centre(self) -> Tensor:
        """Mean of the mixture, ``(1, C)``; it is subtracted from all features, so that float32 suffices."""
        return self.log_weights.softmax(-1).unsqueeze(-2) @ self.means

    @cached_property
    def _offsets(self) -> Tensor:
        """Coordinate of each direction's component mean along that direction, ``(R,)``."""
        return (self.directions * _rows(self.means - self._centre, self.owners)).sum(-1)

    @cached_property
    def _taken(self) -> Tensor:
        """Weight with which each direction lessens its component's squared distance, ``(R, K)``, 0 for the others."""
        floors = self.floors.gather(-1, self.owners)
        weights = self.spreads / (floors * (floors + self.spreads))
        return weights.unsqueeze(-1) * functional.one_hot(self.owners, self.means.shape[-2]).to(weights)

    @cached_property
    def _shortened(self) -> Tensor:
        """Share by which whitening shortens each direction more than the floor does, ``(R,)``."""
        floors = self.floors.gather(-1, self.owners)
        return 1 - (floors / (floors + self.spreads)).sqrt()

    @cached_property
    def log_determinants(self) -> Tensor:
        """Logarithms of the covariances' determinants, ``(K,)``."""
        excess = torch.log1p(self.spreads / self.floors.gather(-1, self.owners))
        total = torch.zeros_like(self.floors).scatter_add(-1, self.owners, excess)
        return self.means.shape[-1] * self.floors.log() + total

    def distances(self, features: Tensor) -> Tensor:
        """Squared Mahalanobis distance of features ``(N, C)`` to each component, ``(N, K)``."""
        centred, means = features - self._centre, self.means - self._centre
        along = centred @ self.directions.mT - self._offsets.unsqueeze(-2)
        squares = centred.square().sum(-1, keepdim=True) + means.square().sum(-1).unsqueeze(-2)
        squares = squares - 2 * centred @ means.mT
        return (squares / self.floors.unsqueeze(-2) - along.square() @ self._taken).clamp(min=0)

    def log_densities(self, features: Tensor) -> Tensor:
        """ln(pi_k N(f | mu_k, Sigma_k)) of features ``(N, C)``, ``(N, K)`` (HFC21 eq. 6)."""
        constant = self.means.shape[-1] * math.log(2 * math.pi) + self.log_determinants
        return self.log_weights.unsqueeze(-2) - (self.distances(features) + constant.unsqueeze(-2)) / 2

    def whitened(self, features: Tensor, chosen: Tensor) -> Tensor:
        """Sigma_k^(-1/2) (f - mu_k) for one component per image; its squares sum to the squared Mahalanobis distance.

        In float32 it keeps more digits than ``distances``, which subtracts large squares.

        Args:
            features: ``(N, C)``.
            chosen: Component of each image, ``(N,)`` int64.

        Returns:
            ``(N, C)``.
        """
        centred = features - self._centre
        along = centred @ self.directions.mT - self._offsets.unsqueeze(-2)
        involved = self.owners.unsqueeze(-2) == chosen.unsqueeze(-1)
        shortened = torch.where(involved, self._shortened.unsqueeze(-2), 0)
        apart = centred - _rows(self.means - self._centre, chosen)
        return (apart - (along * shortened) @ self.directions) * self.floors.gather(-1, chosen).rsqrt().unsqueeze(-1)


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """Rows of ``(..., K, C)`` by an index ``(..., N)``, giving ``(..., N, C)``."""
    return values.gather(-2, index.unsqueeze(-1).expand(*index.shape, values.shape[-1]))


def joined(mixtures: Sequence[Mixture]) -> Mixture:
    """One mixture with the components of several, in their order; each keeps its weight within its own mixture."""
    before = [0, *accumulate(len(mixture.means) for mixture in mixtures)]
    owners = [mixture.owners + number for mixture, number in zip(mixtures, before, strict=False)]
    parts = {field.name: [getattr(mixture, field.name) for mixture in mixtures] for field in fields(Mixture)}
    return Mixture(**{name: torch.cat(tensors) for name, tensors in (parts | {"owners": owners}).items()})


def stacked(mixtures: Sequence[Mixture]) -> Mixture:
    """Mixtures of layers with equally many channels and components as one, with a leading dimension for the layers."""
    most = max(len(mixture.directions) for mixture in mixtures)

    def padded(tensor: Tensor) -> Tensor:
        missing = most - len(tensor)
        return torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])]) if missing else tensor

    ragged = ("directions", "spreads", "owners")
    return Mixture(
        **{
            field.name: torch.stack(
                [
                    padded(getattr(mixture, field.name)) if field.name in ragged else getattr(mixture, field.name)
                    for mixture in mixtures
                ]
            )
            for field in fields(Mixture)
        }
    )


def mean_variance(features: Tensor) -> float:
    """Variance of features ``(M, C)``, averaged over the channels; 0 if it is mere rounding."""
    features = features.double()
    variance = float(features.var(0, correction=0).mean())
    return variance if variance > CONSTANT * float(features.square().mean()) else 0.0


def fit_mixture(
    features: Tensor,
    components: int,
    shrinkage: float = 0.1,
    seed: int = 0,
    iterations: int = 100,
    tolerance: float = 1e-3,
) -> Mixture:
    """Fit a mixture by expectation-maximisation from k-means, in float64; one component is the closed form.

    Each covariance is shrunk, (1 - s) Sigma + s v I, with v the variance averaged over the channels, so that it can
    be inverted with fewer images than channels; v / 10^6 is added in any case.

    Args:
        features: ``(M, C)``.
        components: Number of Gaussians K, 1 to M.
        shrinkage: s, in [0, 1].
        seed: Seed of the first centres.
        iterations: Largest number of steps.
        tolerance: Change of the mean log-likelihood in nats below which it stops.

    Returns:
        A float64 mixture on the device of the features.

    Raises:
        ValueError: There are fewer features than components, or all features are equal.
    """
    if features.ndim != 2 or not 1 <= components <= len(features):
        received = f"{components} components and features of shape {tuple(features.shape)}"
        raise ValueError(f"a mixture needs features (M, C) and 1 to M components, got {received}")
    if not mean_variance(features):
        raise ValueError(f"a Gaussian needs features that vary, got {len(features)} equal ones")
    features = features.detach().double()
    if components == 1:
        return maximised(features, torch.ones_like(features[:, :1]), shrinkage)
    first = functional.one_hot(cluster(features, components, seed), components)
    mixture, before = maximised(features, first.to(features), shrinkage), -math.inf
    for _ in range(iterations):
        joint = mixture.log_densities(features)
        evidence = joint.logsumexp(1, keepdim=True)
        likelihood = float(evidence.mean())
        if abs(likelihood - before) < tolerance:
            break
        before = likelihood
        mixture = maximised(features, (joint - evidence).exp(), shrinkage)
    return mixture


def maximised(features: Tensor, shares: Tensor, shrinkage: float) -> Mixture:
    """The M step: the mixture that fits features best, given how much of each belongs to each component.

    Args:
        features: ``(M, C)``.
        shares: Share of each image in each component, ``(M, K)``; rows sum to 1.
        shrinkage: As for ``fit_mixture``.
    """
    counts = shares.sum(0)
    means = (shares.mT @ features) / counts.clamp(min=LEAST_SHARE).unsqueeze(1)
    means = torch.where(counts.unsqueeze(1) > LEAST_SHARE, means, features.mean(0))
    floor = (shrinkage + LEAST_VARIANCE) * features.var(0, correction=0).mean()
    parts = [
        _principal(features, share, mean, 1 - shrinkage, float(floor))
        for share, mean in zip(shares.mT, means, strict=True)
    ]
    numbers = torch.tensor([len(spreads) for _, spreads in parts], device=features.device)
    return Mixture(
        log_weights=(counts / len(features)).log(),
        means=means,
        floors=floor.expand(len(means)).clone(),
        directions=torch.cat([directions for directions, _ in parts]),
        spreads=torch.cat([spreads for _, spreads in parts]),
        owners=torch.repeat_interleave(torch.arange(len(parts), device=features.device), numbers),
    )


def _principal(features: Tensor, share: Tensor, mean: Tensor, scale: float, floor: float) -> tuple[Tensor, Tensor]:
    """Principal directions ``(R, C)`` of one component and ``scale`` times the variance along them, ``(R,)``."""
    rows = share > LEAST_SHARE
    scaled = (features[rows] - mean) * (scale * share[rows] / share.sum().clamp(min=LEAST_SHARE)).sqrt().unsqueeze(1)
    if not len(scaled):
        return scaled, share[:0]
    few = len(scaled) < scaled.shape[1]  # then the small matrix of inner products has the same spectrum
    spreads, vectors = torch.linalg.eigh(scaled @ scaled.mT if few else scaled.mT @ scaled)
    relevant = spreads > max(1e-10 * float(spreads[-1]), 1e-9 * floor)
    spreads, vectors = spreads[relevant], vectors[:, relevant]
    return (vectors.mT @ scaled) / spreads.sqrt().unsqueeze(1) if few else vectors.mT, spreads


def cluster(features: Tensor, clusters: int, seed: int) -> Tensor:
    """K-means from k-means++ centres: the cluster of each row of ``(M, C)``, ``(M,)`` int64."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(clusters, generator=generator, dtype=torch.float64).tolist()
    features = features - features.mean(0)
    chosen = [int(draws[0] * len(features))]
    nearest = (features - features[chosen[0]]).square().sum(1)
    for draw in draws[1:]:
        sums = nearest.cumsum(0)
        chosen.append(min(int(torch.searchsorted(sums, draw * sums[-1], right=True)), len(features) - 1))
        nearest = torch.minimum(nearest, (features - features[chosen[-1]]).square().sum(1))
    centres = features[chosen]
    labels = torch.full((len(features),), -1, device=features.device)
    for _ in range(LLOYD_STEPS):
        distances = centres.square().sum(1) - 2 * features @ centres.mT  # the row's own square would change no argmin
        moved = distances.argmin(1)
        if torch.equal(moved, labels):
            break
        labels = moved
        shares = functional.one_hot(labels, clusters).to(features)
        counts = shares.sum(0).unsqueeze(1)
        centres = torch.where(counts > 0, (shares.mT @ features) / counts.clamp(min=1), centres)
    return labels
