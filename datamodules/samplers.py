"""Which process reads which image, and when: orders for evaluation and for training, on any number of ranks."""

import math
from collections.abc import Iterator
from typing import Any

import torch.distributed as dist
from torch.utils.data import DistributedSampler, Sampler


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the number of ranks; (0, 1) outside torch.distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


class EachImageOnce(Sampler[list[int]]):
    """Batch sampler for evaluation: deals the images to the ranks in turn, without padding or duplicates.

    Rank r of W gets the images ``range(r, length, W)``. Every rank cuts its share into the same number of nearly
    equal batches, ``ceil(ceil(length / W) / batch_size)``, because DDP broadcasts the buffers of BatchNorm in each
    forward pass of a fit's validation: a rank with one batch more would wait forever. Only a rank that has fewer
    images than that number has fewer batches (of one image each, or none). Use it with
    ``Trainer(use_distributed_sampler=False)``.

    Args:
        length: Number of images, at least 0.
        batch_size: Largest number of images in a batch, at least 1.

    Raises:
        ValueError: A negative length or a batch size below 1.

    >>> list(EachImageOnce(5, batch_size=4))
    [[0, 1], [2, 3, 4]]
    """

    def __init__(self, length: int, batch_size: int) -> None:
        if length < 0 or batch_size < 1:
            raise ValueError(f"expected length >= 0 and batch_size >= 1, got {length} and {batch_size}")
        self.length = length
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[list[int]]:
        return self.of_rank(*rank_and_world())

    def of_rank(self, rank: int, world: int) -> Iterator[list[int]]:
        """The batches of one of several ranks, whichever this process is."""
        share = range(rank, self.length, world)
        batches = self._batches(world)
        for number in range(batches):
            batch = share[number * len(share) // batches : (number + 1) * len(share) // batches]
            if batch:
                yield list(batch)

    def __len__(self) -> int:
        rank, world = rank_and_world()
        return min(self._batches(world), len(range(rank, self.length, world)))

    @property
    def even(self) -> bool:
        """Whether every rank gets the same number of batches."""
        _, world = rank_and_world()
        return self._batches(world) <= self.length // world or self.length == 0

    def _batches(self, world: int) -> int:
        return math.ceil(math.ceil(self.length / world) / self.batch_size)


class ShuffledEpochs(DistributedSampler[Any]):
    """Sampler for training: pairs (index, epoch) in an order that depends on the seed and the epoch alone.

    The epoch travels with the index, so that the augmentation of an image depends on (seed, epoch, id) and not on
    the number of workers or ranks, even in persistent workers, which are never told of a new epoch. A trainer that
    calls ``set_epoch`` resumes a run with the order of an uninterrupted one; without such a call, each iteration is
    the next epoch.

    Args:
        length: Number of images, at least 1.
        seed: Seed of the order; the same on every rank.
    """

    def __init__(self, length: int, seed: int) -> None:
        rank, world = rank_and_world()
        super().__init__(range(length), num_replicas=world, rank=rank, shuffle=True, seed=seed)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        epoch = self.epoch
        indices = list(super().__iter__())
        self.epoch = epoch + 1
        return iter([(index, epoch) for index in indices])
