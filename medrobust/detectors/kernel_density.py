"""Kernel density: adversarial images lie where clean images of their predicted class are rare."""

import logging
import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from medrobust.detectors.features import Features
from medrobust.detectors.numerics import (
    check_variation,
    count_classes,
    rows_at_once,
    spread_over_classes,
    squared_distances,
)
from medrobust.detectors.weighted_measurements import WeightedMeasurements

logger = logging.getLogger(__name__)

JUDGED = 1000  # images, at most, whose likelihood judges a bandwidth
DECADES = (-3.0, 0.5)  # range that is searched for the bandwidth: log10 of its ratio to the typical distance
COARSE, FINE = 29, 9  # bandwidths that are tried: eight per decade, then between the neighbours of the best one


class KernelDensity(WeightedMeasurements):
    """KD, minus the log of the Gaussian kernel density under the predicted class (Feinman et al., 2017; Ma20 eq. 9).

    With the penultimate features z of the image and z_i of the M reference images of the class that the victim
    *predicts*, the density is ``1/M sum_i exp(-|z - z_i|^2 / sigma^2) / (pi sigma^2)^(C/2)``. (As printed in Ma20, the
    exponent lacks its minus sign.) The logarithm of the sum is computed without the sum itself, which would underflow
    in many dimensions. By definition a lower density is more adversarial.

    Args:
        bandwidth: sigma, in the unit of the features, > 0; the kernel's standard deviation is ``sigma / sqrt(2)``.
            None chooses the one, the same for all classes, that makes the reference images likeliest when each is left
            out of the density at its own place, together with its exact copies.
        max_references: Largest number of reference images over all classes, at least 2; the first ones are taken,
            spread over the classes. None takes all.
        raw: Score by the measurement itself (HFC21), also after fitting on adversarial images. With False a regression
            (Feinman et al.) scales it, and may turn it round: ``wrong_signs`` says whether it did.

    Raises:
        ValueError: A setting is out of range.
    """

    needs_reference: ClassVar[bool] = True
    needs_class: bool = True

    references: Tensor  # (M, C) deviations from the centre of their class times 2 / sigma^2, sorted by class
    lengths: Tensor  # (M,) minus their squared distances from that centre, divided by sigma^2
    centres: Tensor  # (K, C) mean of each class
    classes: Tensor  # (K,) ascending
    counts: Tensor  # (K,) references of each class
    sigma: Tensor  # ()

    def __init__(self, bandwidth: float | None = None, max_references: int | None = None, raw: bool = True) -> None:
        super().__init__()
        if bandwidth is not None and not 0 < bandwidth < float("inf"):
            raise ValueError(f"bandwidth is a positive distance between features, or None, got {bandwidth}")
        if max_references is not None and (not isinstance(max_references, int) or max_references < 2):
            raise ValueError(
                f"max_references counts images and is at least 2, or None for all of them, got {max_references}"
            )
        self.bandwidth = bandwidth
        self.max_references = max_references
        self.raw = raw

    def measurement_names(self) -> list[str]:
        """The only column is the density."""
        return ["density"]

    def fit_reference(self, clean: Features, labels: Tensor) -> None:
        """Store the penultimate features of each class, and choose the bandwidth if none was given.

        Args:
            clean: Clean training images.
            labels: True classes of the images, ``(N,)``.

        Raises:
            ValueError: A class has a single image, or the features do not differ.
        """
        super().fit_reference(clean, labels)
        values, labels = clean.penultimate.double(), labels.to(clean.penultimate.device)
        if self.max_references is not None:
            rows = spread_over_classes(labels, self.max_references)
            values, labels = values[rows], labels[rows]
        classes, members, counts = count_classes(labels, "kernel density")
        name = self.layer_names[-1]
        check_variation(values, name)
        groups = [values[members == index] for index in range(len(classes))]
        centres = torch.stack([group.mean(0) for group in groups])
        # centred first, so that distances within a class are not small differences of large numbers
        groups = [group - centre for group, centre in zip(groups, centres, strict=True)]
        if self.bandwidth is None:
            try:
                sigma = likeliest_bandwidth(groups)
            except ValueError as error:
                raise ValueError(f"{error}, at layer {name!r}: give one") from None
        else:
            sigma = values.new_tensor(self.bandwidth)
        references = torch.cat(groups)
        variance = sigma.square()
        self.keep(
            references=references * (2 / variance), lengths=references.square().sum(1) / -variance, centres=centres
        )
        self.keep(classes=classes, counts=counts, sigma=sigma)

    def measure(self, features: Features) -> Tensor:
        """Minus the log density, float64 ``(N, 1)``, in nats; larger = more suspicious; differentiable.

        An image whose predicted class has no reference image is measured under the class whose mean is nearest. The
        first time that happens, a warning is logged.

        Raises:
            ValueError: The detector is not fitted, or the features are refused.
        """
        self._check(features)
        members = self._members(features)
        variance, channels = self.sigma.square(), self.references.shape[1]
        order = members.argsort(stable=True)
        sorted_members = members[order]
        points = features.penultimate.index_select(0, order).double() - self.centres.index_select(0, sorted_members)
        counts, numbers = self.counts.tolist(), torch.bincount(members, minlength=len(self.classes)).tolist()
        parts = [
            torch.logsumexp(torch.addmm(lengths, rows, references.T), 1)
            for group, references, lengths in zip(
                points.split(numbers), self.references.split(counts), self.lengths.split(counts), strict=True
            )
            for rows in group.split(rows_at_once(len(references)))
        ]
        # |z|^2 is the same for all references, so it need not pass through the exponential
        constant = channels / 2 * torch.log(math.pi * variance) + self.counts.double().log()[sorted_members]
        measured = points.square().sum(1) / variance - torch.cat(parts) + constant
        return measured.index_select(0, order.argsort()).unsqueeze(1)

    def _members(self, features: Features) -> Tensor:
        """Index, among the classes that have references, of each image's predicted class or its stand-in, ``(N,)``."""
        predictions = features.predictions
        members = torch.searchsorted(self.classes, predictions).clamp(max=len(self.classes) - 1)
        known = self.classes[members] == predictions
        if bool(known.all()):
            return members
        if not self.__dict__.get("_told"):
            self.__dict__["_told"] = True
            logger.warning(
                "kernel density has no reference image of class %d, which the victim predicts: such images are "
                "measured under the nearest of the classes %s",
                int(predictions[~known].amin()),
                self.classes.tolist(),
            )
        with torch.no_grad():
            nearest = torch.cdist(features.penultimate.double()[~known], self.centres).argmin(1)
        return members.masked_scatter(~known, nearest)


def likeliest_bandwidth(groups: Sequence[Tensor]) -> Tensor:
    """Bandwidth sigma with the largest leave-one-out likelihood, on a logarithmic grid.

    The unit of the grid is the root mean square of the distances within the classes.

    Args:
        groups: Centred points ``(M_k, C)`` of each class.

    Returns:
        The bandwidth, a scalar.

    Raises:
        ValueError: In every class, all points are the same.
    """
    typical = torch.sqrt(2 * torch.cat([group.square().sum(1) for group in groups]).mean())
    distinct = [group.unique(dim=0, return_counts=True) for group in groups]
    if max(len(points) for points, _ in distinct) == 1:
        raise ValueError("no bandwidth can be chosen, since the images of each class have the same features")
    low, high = DECADES
    for size in (COARSE, FINE):
        exponents = torch.linspace(low, high, size, dtype=torch.float64)
        grid = typical * (10**exponents).to(typical)
        best = int(left_out_likelihoods(distinct, grid).argmax())
        low, high = float(exponents[max(best - 1, 0)]), float(exponents[min(best + 1, size - 1)])
    return grid[best]


def left_out_likelihoods(groups: Sequence[tuple[Tensor, Tensor]], bandwidths: Tensor) -> Tensor:
    """Log-likelihoods ``(B,)`` of points under the density of the other points of their group, for each bandwidth.

    The copies of a point are left out with it: with them, the likelihood would grow as the bandwidth shrinks.

    Args:
        groups: Distinct points ``(U, C)`` of each group, and how often each occurs ``(U,)``.
        bandwidths: sigma, ``(B,)``.
    """
    step = max(1, math.ceil(sum(len(points) for points, _ in groups) / JUDGED))
    total = torch.zeros_like(bandwidths)
    for points, copies in groups:
        if len(points) == 1:
            continue
        weights, channels = copies.double(), points.shape[1]
        lengths = points.square().sum(1)
        judged = torch.arange(0, len(points), step, device=points.device)
        for rows in judged.split(rows_at_once(2 * len(points))):
            squared = squared_distances(points[rows], points, lengths)
            squared[torch.arange(len(rows), device=rows.device), rows] = float("inf")
            nearest = squared.amin(1)
            beyond = squared.sub_(nearest.unsqueeze(1))
            remaining = weights.sum() - weights[rows]
            for index, variance in enumerate(bandwidths.square()):
                density = ((beyond / -variance).exp_() @ weights / remaining).log() - nearest / variance
                total[index] += weights[rows] @ (density - channels / 2 * torch.log(math.pi * variance))
    return total
