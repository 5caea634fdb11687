"""How consistently an iterative attack moves: the cosine between consecutive updates (SMIA21 Table 1, Fig. 2)."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

import torch
from torch import Tensor


class Update(NamedTuple):
    """How the images of a batch that are still attacked have moved in one step.

    Args:
        moved: ``(n, values)``.
        rows: Places of these images in the whole batch, ``(n,)``.
    """

    moved: Tensor
    rows: Tensor


_HEARD: ContextVar[list[Update] | None] = ContextVar("updates that somebody listens to", default=None)


@contextmanager
def heard_updates() -> Iterator[list[Update]]:
    """Every update of the attacks that run inside the ``with`` block, in their order; what they return stays the same.

    Attacks of which ``cos`` is known are heard. All updates are kept, so give such an attack few images.
    """
    heard: list[Update] = []
    token = _HEARD.set(heard)
    try:
        yield heard
    finally:
        _HEARD.reset(token)


class UpdateCosines:
    """Cosines between consecutive updates of each image of a batch, which images may leave on the way.

    Args:
        images: The whole batch, ``(N, C, H, W)``.
    """

    def __init__(self, images: Tensor) -> None:
        self.pairs, self.positive, self.total = (
            torch.zeros(len(images), dtype=images.dtype, device=images.device) for _ in range(3)
        )
        self._last: Tensor | None = None
        self._norms: Tensor | None = None

    def follow(self, updates: Tensor, rows: Tensor) -> None:
        """Compare each image's update with its previous one.

        A pair in which one update is zero has no cosine and is left out.

        Args:
            updates: How each image has moved in this step, ``(n, ...)``.
            rows: Places of these images in the whole batch, ``(n,)``; only ``keep`` may change them between calls.
        """
        updates = updates.detach().flatten(1)
        if (heard := _HEARD.get()) is not None:
            heard.append(Update(updates, rows))
        norms = torch.linalg.vector_norm(updates, dim=1)
        if self._last is not None and self._norms is not None:
            scale = norms * self._norms
            cosines = torch.linalg.vecdot(updates, self._last) / torch.where(scale > 0, scale, 1)
            self.pairs.index_add_(0, rows, (scale > 0).to(cosines.dtype))
            self.positive.index_add_(0, rows, (cosines > 0).to(cosines.dtype))
            self.total.index_add_(0, rows, cosines)
        self._last, self._norms = updates, norms

    def keep(self, places: Tensor) -> None:
        """Go on with the images at these places among those followed last."""
        if self._last is not None and self._norms is not None:
            self._last, self._norms = self._last[places], self._norms[places]

    def measures(self) -> dict[str, Tensor]:
        """Each image's mean cosine ``cos`` and share of cosines above 0, ``positive_cosines``; NaN without a pair."""
        return {"cos": self.total / self.pairs, "positive_cosines": self.positive / self.pairs}
