"""The images of a batch that are still under attack, and what has become of those that left it."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from medrobust.attacks.base import Crafted
from medrobust.attacks.update_cosines import Directions


class ActiveBatch:
    """The images still under attack, what the others ended as, and what was spent on each.

    Every tensor that an attack adds as an attribute has one row an image still under attack, and ``keep`` shortens
    them all together. ``rows`` are these images' places in the batch that came; the tensors named in ``WHOLE`` have
    a row for each image of that batch.

    Args:
        images: Clean images, ``(N, C, H, W)``.
        targets: What they are, or shall become.
        ids: Their ids.
    """

    WHOLE: ClassVar[frozenset[str]] = frozenset({"_whole", "_made", "forwards", "backwards", "zeros"})

    def __init__(self, images: Tensor, targets: Any, ids: Sequence[str]) -> None:
        self.clean, self.targets, self.ids = images, targets, list(ids)
        self.rows = torch.arange(len(images), device=images.device)
        self._whole = images
        self._made: Tensor | None = None
        self.forwards, self.backwards, self.zeros = (torch.zeros_like(self.rows) for _ in range(3))
        self.directions = Directions(images)

    @property
    def made(self) -> Tensor:
        """What has become of every image of the batch that came, the clean one until it is stored."""
        if self._made is None:  # copied only once an image leaves before the others
            self._made = self._whole.clone()
        return self._made

    def leave(self, images: Tensor, leaving: Tensor) -> Tensor | None:
        """Store what the leaving images end as; give the places of the others, or None if none leaves.

        All rows are written, which no host has to wait for; those that stay are written again when they end.
        ``nonzero`` is the one point of a step at which the host waits for the device.

        Args:
            images: What each image would end as, ``(n, C, H, W)``.
            leaving: Whether it ends now, bool ``(n,)``.
        """
        places = (~leaving).nonzero().squeeze(1)
        if len(places) == len(leaving):
            return None
        self.made[self.rows] = images.detach()
        return places

    def keep(self, places: Tensor | None) -> None:
        """Go on with the images at these places; None keeps all.

        The pass that an image shares with others while it leaves is not counted as its own, nor the second forward
        of those that stay: what an image costs must not depend on its batch mates.
        """
        if places is None:
            return
        chosen = places.tolist()
        self.ids = [self.ids[place] for place in chosen]
        if not isinstance(self.targets, Tensor):
            self.targets = [self.targets[place] for place in chosen]
        for name, value in list(vars(self).items()):
            if isinstance(value, Tensor) and name not in self.WHOLE:
                setattr(self, name, value[places])
        self.directions.keep(places)

    def finish(self, images: Tensor) -> Crafted:
        """Put the images still under attack, as they end, beside the others."""
        if len(self.rows) == len(self._whole):  # none has left, and all are in their order
            made = images.detach()
        else:
            made = self.made
            made[self.rows] = images.detach()
        return Crafted(made, self.forwards, self.backwards, self.zeros, self.directions.measures())


def each(values: Tensor) -> Tensor:
    """One value an image, ``(N,)``, in the shape that meets its pixels, ``(N, 1, 1, 1)``."""
    return values.view(-1, 1, 1, 1)


def no_slope(gradients: Tensor) -> Tensor:
    """Which images' gradients are zero throughout, bool ``(N,)``; ``any`` would be several times slower."""
    return torch.linalg.vector_norm(gradients.flatten(1), ord=1, dim=1) == 0
