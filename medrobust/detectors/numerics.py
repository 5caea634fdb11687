"""Numerics that detectors share: classes of the reference images, distances to them, scales, rows at a time."""

import torch
from torch import Tensor

MEMORY = 64 * 2**20  # bytes of distances or differences that are held at a time, at most
ROWS = 256  # that are worked on at a time, at most: what they need stays in the cache
RESOLUTION = 1e-6  # relative spread of a channel below which it varies by float32 rounding alone


def count_classes(labels: Tensor, method: str) -> tuple[Tensor, Tensor, Tensor]:
    """Find the classes of the reference images.

    Args:
        labels: True classes, ``(N,)``.
        method: Name of the method that needs the images, for the error message.

    Returns:
        The classes ``(K,)`` in ascending order, the index of each image's class among them ``(N,)``, and the number of
        images of each class ``(K,)``.

    Raises:
        ValueError: There are no images, or a class has only one.
    """
    classes, members, counts = labels.unique(return_inverse=True, return_counts=True)
    if not len(classes):
        raise ValueError(f"{method} needs reference images, got none")
    single = classes[counts < 2].tolist()
    if single:
        raise ValueError(f"class {single[0]} has 1 reference image, {method} needs at least 2")
    return classes, members, counts


def spread_over_classes(labels: Tensor, count: int) -> Tensor:
    """Indices of the first ``count`` images when the classes take turns, in ascending order.

    Args:
        labels: Classes, ``(N,)``.
        count: Number of images wanted; if there are fewer, all are taken.

    Returns:
        Indices ``(min(count, N),)``. A class that has run out of images leaves its turns to the other classes.

    Example:
        >>> spread_over_classes(torch.tensor([0, 0, 0, 0, 1, 1]), 3).tolist()
        [0, 1, 4]
    """
    turns = torch.empty_like(labels)
    for label in labels.unique():
        members = labels == label
        turns[members] = torch.arange(int(members.sum()), device=labels.device, dtype=labels.dtype)
    return turns.argsort(stable=True)[:count].sort().values


def check_variation(values: Tensor, layer: str) -> None:
    """Refuse features that are the same for all reference images.

    Args:
        values: Features of the reference images, ``(N, C)``, N >= 1.
        layer: Name of their layer, for the error message.

    Raises:
        ValueError: They are the same.
    """
    if bool((values == values[0]).all()):
        raise ValueError(f"the features of layer {layer!r} are the same for all {len(values)} reference images")


def squared_distances(points: Tensor, references: Tensor, lengths: Tensor) -> Tensor:
    """Squared L2 distances ``(N, M)`` between centred points and references, by one matrix product.

    They are exact up to the rounding of the squared lengths, which centring keeps small.

    Args:
        points: Points ``(N, C)``, centred.
        references: References ``(M, C)``, centred about the same point.
        lengths: Squared lengths of the references, ``(M,)``.
    """
    point_lengths = torch.linalg.vector_norm(points, dim=1, keepdim=True).square()
    return torch.addmm(lengths, points, references.T, alpha=-2).add_(point_lengths).clamp_(min=0)


def rows_at_once(numbers: int) -> int:
    """Number of rows to work on at a time when each of them needs ``numbers`` float64 numbers."""
    return max(1, min(ROWS, MEMORY // (8 * max(1, numbers))))


def standardisation(negative: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and width ``(C,)`` of each channel of ``(N, C)``, float64.

    The width is the standard deviation, or 1 for a channel that is constant up to rounding, since dividing by its
    standard deviation would magnify the rounding error of the next image.
    """
    centre, width = negative.mean(0), negative.std(0, correction=0)
    return centre, torch.where(width > RESOLUTION * centre.abs(), width, 1.0)


def unit_scaling(negative: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest value and width ``(C,)`` of each channel of ``(N, C)``, which scale it to [0, 1].

    The width is the difference to the largest value, or 1 for a channel that is constant.
    """
    low, high = negative.amin(0), negative.amax(0)
    return low, torch.where(high > low, high - low, 1.0)
