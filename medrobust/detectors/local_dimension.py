"""Local intrinsic dimensionality: around adversarial images, distances to clean ones grow as in many dimensions."""

from typing import ClassVar

import torch
from torch import Tensor

from medrobust.detectors.base import Features
from medrobust.detectors.weighted_measurements import MeasuredDetector

MEMORY = 64 * 2**20  # bytes of distances or differences at a time, at most
ROWS = 256  # at a time, at most: what they need stays in the cache
SHORT = 1e-3  # of the squared lengths; below, a squared distance has lost more than three digits to them


def spread_over_classes(labels: Tensor, count: int) -> Tensor:
    """Rows of the first ``count`` images when the classes take turns, ascending.

    Args:
        labels: Classes, ``(N,)``.
        count: Number of images wanted; if there are fewer, all are taken.

    Returns:
        Indices ``(min(count, N),)``. A class that has run out leaves its turns to the others.

    Example:
        >>> spread_over_classes(torch.tensor([0, 0, 0, 0, 1, 1]), 3).tolist()
        [0, 1, 4]
    """
    turns = torch.empty_like(labels)
    for label in labels.unique():
        own = labels == label
        turns[own] = torch.arange(int(own.sum()), device=labels.device, dtype=labels.dtype)
    return turns.argsort(stable=True)[:count].sort().values


def squared_distances(points: Tensor, references: Tensor, lengths: Tensor) -> Tensor:
    """Squared L2 distances ``(N, M)`` of centred points ``(N, C)`` and references ``(M, C)`` by one matrix product.

    They are exact up to rounding of the squared lengths, which centring keeps small.

    Args:
        points: Centred.
        references: Centred likewise.
        lengths: Squared lengths of the references, ``(M,)``.
    """
    own = torch.linalg.vector_norm(points, dim=1, keepdim=True).square()
    return torch.addmm(lengths, points, references.T, alpha=-2).add_(own).clamp_(min=0)


def rows_at_once(numbers: int) -> int:
    """Number of rows that are worked on at a time, when each needs that many float64 numbers."""
    return max(1, min(ROWS, MEMORY // (8 * max(1, numbers))))


class LocalDimension(MeasuredDetector):
    """LID, the maximum-likelihood local intrinsic dimensionality at every layer (Ma et al., ICLR 2018; Ma20 eq. 10).

    From the distances ``r_1 <= ... <= r_k`` to the k nearest of a fixed set of clean reference images it is
    ``-k / sum_i log(r_i / r_k)``, so that an image's value does not depend on its batch, but does on the size of that
    set. References at distance zero, which are the image itself or copies of it, are left out, and the next nearest
    take their places; if fewer than k are left, k is their number. Where all k distances are equal the estimate is
    infinite; this and any larger value than ``largest`` is set to ``largest``.

    The reference set must not hold the clean twin of an adversarial image that is measured: it would be its nearest
    neighbour by far.

    Args:
        neighbours: k, at least 2.
        max_references: Largest number of reference images, the first ones, spread over the classes.

    Raises:
        ValueError: A setting is out of its range; says what was expected and what came.
    """

    needs_reference: ClassVar[bool] = True

    largest = 1000.0

    def __init__(self, neighbours: int = 20, max_references: int = 1000) -> None:
        super().__init__()
        if not isinstance(neighbours, int) or neighbours < 2:
            raise ValueError(f"neighbours counts images and is a whole number of at least 2, got {neighbours}")
        if not isinstance(max_references, int) or max_references <= neighbours:
            raise ValueError(
                f"max_references is a whole number larger than neighbours, {neighbours}, got {max_references}"
            )
        self.neighbours = neighbours
        self.max_references = max_references

    def fit_reference(self, clean: Features, labels: Tensor) -> None:
        """Keep the reference images, each different one once with the number of its copies.

        Args:
            clean: Clean training images.
            labels: Their true classes, ``(N,)``; they only spread the choice.

        Raises:
            ValueError: There are not more images than neighbours, or a layer gives all of them the same features.
        """
        super().fit_reference(clean, labels)
        rows = spread_over_classes(labels, self.max_references).to(clean.penultimate.device)
        if len(rows) <= self.neighbours:
            raise ValueError(
                f"local dimension by {self.neighbours} neighbours needs at least {self.neighbours + 1} reference "
                f"images, got {len(rows)}"
            )
        for index, (name, features) in enumerate(clean.layers.items()):
            values, copies = features[rows].double().unique(dim=0, return_counts=True)
            if len(values) == 1:
                raise ValueError(f"the features of layer {name!r} are the same for all {len(rows)} reference images")
            centre = values.mean(0)
            references = values - centre
            kept = {"references": references, "lengths": references.square().sum(1), "centre": centre, "copies": copies}
            self.keep(**{f"{key}_{index}": tensor for key, tensor in kept.items()})

    def measure(self, features: Features) -> Tensor:
        """Local dimensionality at every layer, float64 ``(N, L)``, larger = more suspicious."""
        self._check(features)
        return torch.stack([self._of_layer(values, i) for i, values in enumerate(features.layers.values())], 1)

    def _of_layer(self, features: Tensor, layer: int) -> Tensor:
        references, copies = self.get_buffer(f"references_{layer}"), self.get_buffer(f"copies_{layer}")
        # the references differ from each other, so at most one of them is at distance zero
        candidates = min(self.neighbours + 1, len(references))
        lengths = self.get_buffer(f"lengths_{layer}")
        longest = lengths.amax()
        parts = []
        for rows in features.split(rows_at_once(max(len(references), candidates * references.shape[1]))):
            points = rows.double() - self.get_buffer(f"centre_{layer}")
            squares, nearest = squared_distances(points, references, lengths).topk(candidates, largest=False)
            shortest = SHORT * (torch.linalg.vector_norm(points, dim=1).square() + longest)
            near = (squares[:, 0] < shortest).nonzero().squeeze(1)
            distances = squares.sqrt()
            if len(near):
                chosen = references[nearest[near].flatten()].view(len(near), candidates, -1)
                distances[near] = torch.linalg.vector_norm(chosen.sub_(points[near].unsqueeze(1)), dim=2)
                distances, order = distances.sort(1)
                nearest = nearest.gather(1, order)
            parts.append(self._estimate(distances, copies[nearest]))
        return torch.cat(parts)

    def _estimate(self, distances: Tensor, copies: Tensor) -> Tensor:
        """Dimensionality ``(N,)`` from ascending distances ``(N, B)``, each of which counts ``copies`` times."""
        copies = copies.where(distances > 0, 0)
        before = copies.cumsum(1) - copies
        counted = copies.minimum((self.neighbours - before).clamp(min=0))
        farthest = distances.where(counted > 0, 0).amax(1, keepdim=True)
        logarithms = torch.where(counted > 0, (distances / farthest).log(), 0)
        total = -(counted * logarithms).sum(1)
        return torch.where(total > 0, counted.sum(1) / total, float("inf")).clamp(max=self.largest)
