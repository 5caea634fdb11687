"""Local intrinsic dimensionality: around adversarial images it is higher than around clean ones."""

from typing import ClassVar

import torch
from torch import Tensor

from medrobust.detectors.features import Features
from medrobust.detectors.numerics import check_variation, rows_at_once, spread_over_classes, squared_distances
from medrobust.detectors.weighted_measurements import WeightedMeasurements

SHORT = 1e-3  # share of the squared lengths below which a squared distance has lost more than three digits to them


class LocalDimension(WeightedMeasurements):
    """LID, the maximum-likelihood local intrinsic dimensionality at every layer (Ma et al., ICLR 2018; Ma20 eq. 10).

    The estimate is ``-k / sum_i log(r_i / r_k)``, from the distances ``r_1 <= ... <= r_k`` to the k nearest images of a
    fixed set of clean reference images. So the value of an image depends not on its batch, but on the size of that set.
    References at distance zero, which are the image itself or copies of it, are left out, and the next nearest ones
    take their places; if fewer than k are left, k is their number. If all k distances are equal, the estimate is
    infinite. Estimates above ``largest`` are set to ``largest``. By definition a larger dimensionality is more
    adversarial.

    The reference set must not hold the clean version of an adversarial image that is measured: it would be by far the
    nearest neighbour.

    Args:
        neighbours: Number k of neighbours, at least 2.
        max_references: Largest number of reference images, more than ``neighbours``; the first ones are taken, spread
            over the classes.

    Raises:
        ValueError: A setting is out of range.
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
        """Store the features of the distinct reference images, each with the number of its copies.

        Args:
            clean: Clean training images.
            labels: True classes of the images, ``(N,)``, over which the choice of references is spread.

        Raises:
            ValueError: There are not more images than neighbours, or all images have the same features at a layer.
        """
        super().fit_reference(clean, labels)
        rows = spread_over_classes(labels, self.max_references).to(clean.penultimate.device)
        if len(rows) <= self.neighbours:
            raise ValueError(
                f"local dimension by {self.neighbours} neighbours needs at least {self.neighbours + 1} reference "
                f"images, got {len(rows)}"
            )
        for index, (name, features) in enumerate(clean.layers.items()):
            chosen = features[rows].double()
            check_variation(chosen, name)
            distinct, copies = chosen.unique(dim=0, return_counts=True)
            centre = distinct.mean(0)
            references = distinct - centre
            kept = {"references": references, "lengths": references.square().sum(1), "centre": centre, "copies": copies}
            self.keep(**{f"{key}_{index}": tensor for key, tensor in kept.items()})

    def measure(self, features: Features) -> Tensor:
        """Local intrinsic dimensionality at every layer, float64 ``(N, L)``, larger = more suspicious.

        Differentiable, except where two references change their places among the neighbours.
        """
        self._check(features)
        return torch.stack([self._of_layer(values, i) for i, values in enumerate(features.layers.values())], 1)

    def _of_layer(self, features: Tensor, layer: int) -> Tensor:
        references, copies = self.get_buffer(f"references_{layer}"), self.get_buffer(f"copies_{layer}")
        # the references are distinct, so at most one of them is at distance zero
        candidates = min(self.neighbours + 1, len(references))
        lengths = self.get_buffer(f"lengths_{layer}")
        longest = lengths.amax()
        parts = []
        for rows in features.split(rows_at_once(max(len(references), candidates * references.shape[1]))):
            points = rows.double() - self.get_buffer(f"centre_{layer}")
            squares, nearest = squared_distances(points, references, lengths).topk(candidates, largest=False)
            shortest = SHORT * (torch.linalg.vector_norm(points, dim=1).square() + longest)
            near = (squares[:, 0] < shortest).nonzero().squeeze(1)
            distances = torch.where(squares > 0, squares, 1.0).sqrt().where(squares > 0, 0.0)
            if len(near):
                chosen = references[nearest[near].flatten()].view(len(near), candidates, -1)
                exact = torch.linalg.vector_norm(chosen - points[near].unsqueeze(1), dim=2)
                distances, order = distances.index_copy(0, near, exact).sort(1)
                nearest = nearest.gather(1, order)
            parts.append(self._estimate(distances, copies[nearest]))
        return torch.cat(parts)

    def _estimate(self, distances: Tensor, copies: Tensor) -> Tensor:
        """Dimensionality ``(N,)`` from ascending distances ``(N, B)``, each of which counts ``copies`` times.

        What is not taken is replaced by 1 before it divides or its logarithm is taken, so that no gradient is NaN.
        """
        copies = copies.where(distances > 0, 0)
        before = copies.cumsum(1) - copies
        counted = copies.minimum((self.neighbours - before).clamp(min=0))
        farthest = distances.where(counted > 0, 0).amax(1, keepdim=True)
        ratios = torch.where(counted > 0, distances, farthest) / farthest.where(farthest > 0, 1.0)
        total = -(counted * ratios.where(counted > 0, 1.0).log()).sum(1)
        estimate = counted.sum(1) / total.where(total > 0, 1.0)
        return torch.where(total > 0, estimate, float("inf")).clamp(max=self.largest)
