"""All that an evaluation knows of the machine: its device, its process and its console."""

import logging
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed
from torch.utils._pytree import tree_map
from tqdm import tqdm

from medrobust.evaluation.data import Batch
from medrobust.evaluation.pace import Pace, has_bar

T = TypeVar("T")
logger = logging.getLogger(__name__)


class EvaluationContext:
    """The process that evaluates, alone or as one of several that share the images.

    Several processes communicate through ``torch.distributed`` once Lightning or a script has initialised it. All of
    them have to make the same calls of ``gather``, ``broadcast`` and ``barrier``.

    Args:
        device: Where the victim is, and where batches are moved to.
        show_progress: Whether the first process shows progress bars.

    Attributes:
        rank: Number of this process, from 0.
        ranks: Number of processes.
    """

    def __init__(self, device: torch.device | str = "cpu", show_progress: bool = False) -> None:
        """Ask ``torch.distributed`` which process this is."""
        self.device, self.show_progress = torch.device(device), show_progress
        self.rank, self.ranks = 0, 1
        if distributed.is_available() and distributed.is_initialized():
            self.rank, self.ranks = distributed.get_rank(), distributed.get_world_size()

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and logs for all."""
        return self.rank == 0

    def gather(self, value: T) -> list[T]:
        """Every process's value, in the order of their ranks, on every process; CPU tensors and plain objects."""
        if self.ranks == 1:
            return [value]
        parts: list[Any] = [None] * self.ranks
        distributed.all_gather_object(parts, value)
        return parts

    def broadcast(self, value: T) -> T:
        """The first process's value, on every process."""
        if self.ranks == 1:
            return value
        parts: list[Any] = [value]
        distributed.broadcast_object_list(parts, src=0)
        result: T = parts[0]
        return result

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.gather(None)

    def progress(self, items: Iterable[T], what: str) -> Iterator[T]:
        """Go through items on the first process with a progress bar, or a line now and then outside a terminal."""
        shown = self.show_progress and self.is_first
        if not shown or has_bar():
            yield from tqdm(items, what, leave=False, disable=not shown, dynamic_ncols=True)
            return
        pace, total = Pace(), len(items) if isinstance(items, Sized) else 0
        for number, item in enumerate(items, 1):
            yield item
            if pace.due():
                of = f" of {total}; {pace.left(number / total)}" if number < total else ""
                logger.info("%s: %d%s", what, number, of)

    def batches(self, loader: Iterable[Batch], what: str) -> Iterator[Batch]:
        """Go through a loader's batches, moved to the device, with a progress bar."""
        for batch in self.progress(loader, what):
            yield self.moved(batch)

    def moved(self, batch: Batch) -> Batch:
        """A batch on the device."""
        return to_device(batch, self.device)


def to_device(value: T, device: torch.device) -> T:
    """Move all tensors in dicts and lists to a device, asynchronously where their memory is pinned."""
    moved: T = tree_map(lambda leaf: leaf.to(device, non_blocking=True) if isinstance(leaf, Tensor) else leaf, value)
    return moved
