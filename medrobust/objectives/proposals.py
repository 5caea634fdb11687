"""Classes of a box victim's proposals: the same places in every image that an attack makes of a clean one."""

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from medrobust.networks.victims import box_victim
from medrobust.networks.watched_victim import WatchedVictim
from medrobust.objectives.base import Step

# what Faster R-CNN itself goes on with (Ren et al. 2015): how many of the likeliest proposals, and the IoU with a
# likelier one above which one is dropped
LIKELIEST, OVERLAP = 300, 0.7

# proposals of the clean images by their ids, for as long as an attack on their batch lasts
_clean_proposals: WeakKeyDictionary[WatchedVictim, dict[str, Tensor]] = WeakKeyDictionary()


def clean_proposals(step: Step, asking: str) -> list[Tensor]:
    """Corners ``(P, 4)`` of the likeliest 300 proposals of each clean image; they cost a forward for each batch.

    Args:
        step: A look at images made of the clean ones.
        asking: Who asks, for the message.

    Raises:
        ValueError: The victim does not tell its proposals.
    """
    victim = box_victim(step.victim, asking)
    known = _clean_proposals.setdefault(step.victim, {}) if isinstance(step.victim, WatchedVictim) else {}
    if not all(id in known for id in step.ids):
        with torch.no_grad():
            found = victim.proposals(step.clean, OVERLAP)  # the likeliest first
        known.update(zip(step.ids, (corners[:LIKELIEST] for corners in found), strict=True))
        step.count(1, 0)
    return [known[id] for id in step.ids]


def mean_of_each(values: Tensor, counts: Sequence[int]) -> Tensor:
    """Mean of each image's values, ``(N,)``, where the images' values follow each other; 0 for an image without any.

    Args:
        values: ``(P_1 + ... + P_N,)``.
        counts: The numbers P.

    >>> mean_of_each(torch.tensor([1.0, 3.0, 5.0]), [2, 0, 1])
    tensor([2., 0., 5.])
    """
    parts = [part.sum() / max(len(part), 1) for part in values.split(list(counts))]
    return torch.stack(parts) if parts else values
