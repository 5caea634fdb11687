"""The last look at an attack: which of its images may be returned, and whose outputs were not finite."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from medrobust.networks.watched_victim import WatchedVictim

ROUNDING = 1e-6  # by which float32 may carry an image beyond its radius, in units of the [0, 1] image range
LEAST_IMAGES = 10  # fewer say nothing about a victim's accuracy


def acceptable(made: Tensor, clean: Tensor, epsilon: float | None, norm: str) -> Tensor:
    """Which images are finite, in [0, 1] and in their ball, bool ``(N,)``.

    Args:
        made: Adversarial images, ``(N, C, H, W)``.
        clean: Clean images, ``(N, C, H, W)``.
        epsilon: Radius of the ball; None for none.
        norm: Its norm, as ``Attack.norm`` names it.

    >>> clean = torch.full((3, 1, 1, 1), 0.9)
    >>> acceptable(torch.tensor([0.95, 1.01, 0.5]).view(3, 1, 1, 1), clean, 0.2, "linf")
    tensor([ True, False, False])
    """
    low, high = torch.zeros_like(clean), torch.ones_like(clean)
    if epsilon is not None and norm == "linf":
        low, high = clean - (epsilon + ROUNDING), clean + (epsilon + ROUNDING)
    elif epsilon is not None and norm == "log":
        low, high = clean * math.exp(-epsilon) - ROUNDING, clean * math.exp(epsilon) + ROUNDING
    inside = ((made >= low.clamp_(min=0)) & (made <= high.clamp_(max=1))).flatten(1).all(1)  # False for NaN
    if epsilon is None or norm not in ("l2", "l0"):
        return inside
    order = 2 if norm == "l2" else 0
    return inside & (torch.linalg.vector_norm((made - clean).flatten(1), order, dim=1) <= epsilon + ROUNDING)


def first_failing(fails: Callable[[Sequence[int]], bool], count: int) -> int | None:
    """First of several images with which something fails, found by halving; None if it fails with none of them alone.

    Args:
        fails: Whether it fails with the images at some places.
        count: Number of images; with all of them together it fails.

    >>> first_failing(lambda places: 5 in places or 6 in places, 8)
    5
    """
    places = range(count)
    while len(places) > 1:
        half = len(places) // 2
        places = places[:half] if fails(places[:half]) else places[half:]
    return places[0] if count and fails(places) else None


def doubts(watch: WatchedVictim, measures: Mapping[str, Tensor], targeted: bool) -> Iterator[str]:
    """What makes the result of an attack doubtful, one sentence each; the host waits for the device.

    Args:
        watch: The victim as the attack saw it.
        measures: What was measured of the images.
        targeted: Whether the targets are goals, of which the victim need not know anything.
    """
    count = len(watch.images)
    if watch.probabilities is not None and bool(watch.probabilities):
        yield (
            "the victim's outputs are at least 0 and sum to 1: they look like probabilities, on which attacks are "
            "weaker than they ought to be; let the victim return logits, without the softmax"
        )
    right = math.nan if targeted or watch.right is None else float(watch.right)  # NaN where it was not seen
    chance = 1 / max(watch.classes, 1)
    if count >= LEAST_IMAGES and right <= count * chance + 1.645 * math.sqrt(count * chance * (1 - chance)):
        yield (
            f"the victim is right about {right:.0f} of {count} clean images, which guessing among {watch.classes} "
            "classes explains: its weights, its normalisation or the targets may be wrong"
        )
    for name, what in (
        ("broken_gradients", "the victim's gradients were not finite; they were replaced and count as vanished"),
        ("refused", "the attack made images that are not finite or leave [0, 1] or the ball; the clean ones came back"),
    ):
        if name in measures:
            yield f"for {int((measures[name] > 0).sum())} of {count} images {what}"
