"""Random numbers of a corruption: a stream for each image, the same for all severities."""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from medrobust.random_streams import per_image_normal, per_image_uniform


class Draws(NamedTuple):
    """Where the random numbers of some images come from.

    The stream is named after the kind of corruption and not after its severity, so that a stronger corruption is the
    same one, only stronger.

    Args:
        ids: Names of the images.
        seed: Seed of the streams.
        stream: Name of the streams.
        like: Images whose device and type the numbers get.
    """

    ids: Sequence[str]
    seed: int
    stream: str
    like: Tensor

    def uniform(self, *shape: int) -> Tensor:
        """Numbers from -1 to 1, ``(N, *shape)``."""
        return per_image_uniform(self.ids, shape, self.seed, self.stream, self.like)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, ``(N, *shape)``."""
        return per_image_normal(self.ids, shape, self.seed, self.stream, self.like)
