"""The images of a batch that are still under attack, and what has become of those that left it."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from medrobust.attacks.base import Crafted
from medrobust.attacks.update_cosines import UpdateCosines


class ActiveBatch:
    """The images still under attack, what the others ended as, and the passes that each has cost.

    Every tensor that an attack adds as an attribute has one row per image still under attack, and ``keep`` shortens
    all of them together. ``rows`` holds these images' places in the original batch; the tensors named in ``WHOLE``
    have a row for each image of that batch.

    A step of an iterative attack looks at the images, lets those that have fooled the victim leave, and goes backward
    for the others::

        while index < steps and batch.ids:
            outputs = victim(batch.current)
            batch.count_look(1)
            staying = batch.leave(batch.current, fooled)
            if batch.looks_again(staying):
                continue
            gradient = ...
            (gradient,) = batch.keep(staying, gradient)
            index += 1

    Args:
        images: Clean images, ``(N, C, H, W)``.
        targets: True targets, or the goals of a targeted attack.
        ids: Their ids.
    """

    WHOLE: ClassVar[frozenset[str]] = frozenset({"_whole", "_made", "forwards", "backwards", "zeros"})

    def __init__(self, images: Tensor, targets: Any, ids: Sequence[str]) -> None:
        self.clean, self.targets, self.ids = images, targets, list(ids)
        self.rows = torch.arange(len(images), device=images.device)
        self._whole = images
        self._made: Tensor | None = None
        self.forwards, self.backwards, self.zeros = (torch.zeros_like(self.rows) for _ in range(3))
        self.cosines = UpdateCosines(images)
        self._repeats = False

    @property
    def made(self) -> Tensor:
        """The final image of each member of the original batch; the clean image until one is stored."""
        if self._made is None:  # copied only once an image leaves before the others
            self._made = self._whole.clone()
        return self._made

    def leave(self, images: Tensor, leaving: Tensor) -> Tensor | None:
        """Store what the leaving images end as, and return the places of the others, or None if none leaves.

        All rows are written, so that the host need not wait; images that stay are written again when they end.

        Args:
            images: What each image would end as, ``(n, C, H, W)``.
            leaving: Whether it ends now, bool ``(n,)``.
        """
        places = staying_places(leaving)
        if places is not None:
            self.made[self.rows] = images.detach()
        return places

    def count_look(self, forwards: int) -> None:
        """Count the forwards of a look at the images, unless it repeats the previous one for those that stayed.

        The repetition is a cost of the batch: what an image costs must not depend on its batch mates.
        """
        if not self._repeats:
            self.forwards[self.rows] += forwards
        self._repeats = False

    def looks_again(self, staying: Tensor | None) -> bool:
        """Whether the step is to start over with the images that stay, because they are fewer than half.

        Their second forward costs less than a backward through the many that leave. If so, the batch is shortened
        here and the next look is not counted; otherwise it is left as it is, to be shortened by ``keep`` after the
        backward.

        Args:
            staying: Places of the images that stay, as ``leave`` returns them; None if none leaves.
        """
        if staying is None or 2 * len(staying) >= len(self.rows):
            return False
        self.keep(staying)
        self._repeats = True
        return True

    def keep(self, places: Tensor | None, *values: Tensor) -> tuple[Tensor, ...]:
        """Go on with the images at these places (None keeps all), and return their rows of the given tensors.

        A pass counted after this is not counted for the images that left, although they were part of it.
        """
        if places is None:
            return values
        chosen = places.tolist()
        self.ids = [self.ids[place] for place in chosen]
        if not isinstance(self.targets, Tensor):
            self.targets = [self.targets[place] for place in chosen]
        for name, value in list(vars(self).items()):
            if isinstance(value, Tensor) and name not in self.WHOLE:
                setattr(self, name, value[places])
        self.cosines.keep(places)
        return tuple(value[places] for value in values)

    def finish(self, images: Tensor) -> Crafted:
        """Join the images still under attack, as they end now, with those that have left."""
        if len(self.rows) == len(self._whole):  # none has left, so all are in their original order
            made = images.detach()
        else:
            made = self.made
            made[self.rows] = images.detach()
        return Crafted(made, self.forwards, self.backwards, self.zeros, self.cosines.measures())


def staying_places(leaving: Tensor) -> Tensor | None:
    """Places of the images that do not leave, or None if none leaves.

    ``nonzero`` is the only point in a step at which the host waits for the device.

    Args:
        leaving: Whether each image leaves, bool ``(n,)``.
    """
    places = (~leaving).nonzero().squeeze(1)
    return None if len(places) == len(leaving) else places


def each(values: Tensor) -> Tensor:
    """Per-image values ``(N,)`` as ``(N, 1, 1, 1)``, to be broadcast over each image's pixels."""
    return values.view(-1, 1, 1, 1)


def no_slope(gradients: Tensor) -> Tensor:
    """Which images' gradients are zero throughout or hold NaN, bool ``(N,)``; ``any`` would be several times slower."""
    return ~(torch.linalg.vector_norm(gradients.flatten(1), ord=1, dim=1) > 0)
