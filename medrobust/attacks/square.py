"""The square attack: a random search for adversarial images that needs the victim's outputs but no gradient."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from medrobust.attacks.active_batch import ActiveBatch, each
from medrobust.attacks.base import Attack, Crafted
from medrobust.attacks.budgets import Fraction, check_radius
from medrobust.networks.victims import Victim
from medrobust.objectives.base import Objective, Step
from medrobust.objectives.cross_entropy import CrossEntropy
from medrobust.objectives.weakest_label import deciding_margin
from medrobust.random_streams import image_generator

CHUNK = 64  # queries whose squares are drawn and moved to the device together


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Square attack in the maximum norm (Andriushchenko et al., ECCV 2020, arXiv:1912.00049, algorithms 1 and 2).

    Every pixel is always at one of its two bounds, x - epsilon or x + epsilon, clipped to [0, 1]. The search starts
    with vertical stripes one pixel wide, with a random sign for each column and channel; each query then tries a square
    at a random place with one random sign per channel, which is kept if it raises the objective. The squares' area is
    halved at query 10, 50, 200, 500, 1000, 2000, 4000, 6000 and 8000 of 10,000, rescaled to ``queries``. If a square
    would change nothing, its signs are inverted (the authors redraw it), so that no query is wasted. An image leaves
    the batch with the query that fools the victim; the clean image is never shown to it.

    Needing no gradient, the attack shows whether a victim merely hides its gradients. A query costs one forward, or
    two for victims that find boxes, whose loss does not come with their outputs.

    Args:
        epsilon: Radius, in units of the [0, 1] image range.
        queries: Largest number of queries per image, the stripes included; AutoAttack takes 5,000.
        share: Share of the image's area that the first squares cover, in (0, 1]; p in the paper.
        objective: What is raised; None means the paper's: the margin, of labels that of the one that turns most easily
            (``WeakestLabel``), or the cross-entropy of the goal if targeted. Masks and goals of labels take the mean
            over their labelled entries, box victims their own loss.
        targeted: The targets are goals to reach instead of truths to leave.
        seed: Seed of the per-image random streams.

    Raises:
        ValueError: A field is out of its range.
    """

    # of 10,000 queries: where the squares' area is halved
    milestones: ClassVar[tuple[int, ...]] = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)

    epsilon: Fraction | float = Fraction("8/255")
    queries: int = 5000
    share: float = 0.8
    objective: Objective | None = None

    def __post_init__(self) -> None:
        """Refuse settings that would give wrong numbers."""
        check_radius("epsilon", self.epsilon, zero=True)
        if not isinstance(self.queries, int) or self.queries < 1:
            raise ValueError(
                f"queries counts looks at the victim and is a whole number of at least 1, got {self.queries}"
            )
        if not 0 < self.share <= 1:
            raise ValueError(f"share is a part of the image's area and lies in (0, 1], got {self.share}")

    def raised(self, targets: Any) -> Objective:
        """Objective that is raised: ``objective``, or the paper's where it is None."""
        if self.objective is not None:
            return self.objective
        return CrossEntropy() if self.targeted else deciding_margin(targets)

    def area(self, index: int) -> float:
        """Share of the image that the square of a query covers; query 0 is that of the stripes.

        >>> [Square(queries=10_000).area(index) for index in (9, 10, 50, 8000)]
        [0.8, 0.4, 0.2, 0.0015625]
        """
        halved = sum(10_000 * index >= milestone * self.queries for milestone in self.milestones)
        return float(self.share / 2**halved)

    def side(self, index: int, height: int, width: int) -> int:
        """Side of the square of a query, in pixels: the whole number nearest to the root of its area, at least 1.

        >>> [Square(queries=10_000).side(index, 224, 224) for index in (9, 10, 50, 8000)]
        [200, 142, 100, 9]
        """
        return min(max(round(math.sqrt(self.area(index) * height * width)), 1), height, width)

    def perturb(self, victim: Victim, images: Tensor, targets: Any, ids: Sequence[str]) -> Crafted:
        """Try squares on an ever smaller batch, stripes first; the host waits once per query, to see who leaves."""
        search, objective = _Search(self, images, targets, ids), self.raised(targets)
        with torch.no_grad():
            for index in range(self.queries):
                if not search.ids:
                    break
                asked = search.offer(index)
                targets = search.targets
                step = Step(victim, asked, search.clean, targets, search.ids, self.targeted, objective.layers, index)
                values = objective(step)
                fooled = self.reached(victim, step.outputs, targets)
                search.forwards[search.rows] += step.forwards
                better = values > search.best
                search.best = torch.where(better, values, search.best)
                search.point = torch.where(each(better), asked, search.point)
                search.keep(search.leave(asked, fooled))
        crafted = search.finish(search.point)
        return replace(crafted, measures={})  # a random search has no direction


class _Search(ActiveBatch):
    """Each image's best point, and the squares that it tries, drawn from its own stream in any batch, on any device."""

    WHOLE = ActiveBatch.WHOLE | {"lines", "columns"}

    def __init__(self, attack: Square, images: Tensor, targets: Any, ids: Sequence[str]) -> None:
        super().__init__(images, targets, ids)
        self.attack, self.device = attack, images.device
        self.lower, self.upper = (images - attack.epsilon).clamp_(min=0), (images + attack.epsilon).clamp_(max=1)
        self.best = images.new_full((len(images),), -torch.inf)
        self.channels, self.height, self.width = images.shape[1:]
        self.lines = torch.arange(self.height, device=self.device)
        self.columns = torch.arange(self.width, device=self.device)
        self.generators = [image_generator(attack.seed, type(attack).__name__, id) for id in ids]
        stripes = (self._uniform(self.channels, 1, self.width) < 0.5).to(self.device)
        self.point = self.stripes = torch.where(stripes, self.upper, self.lower)  # the best image so far
        self.squares = torch.empty((len(images), 0), device=self.device)

    def offer(self, index: int) -> Tensor:
        """The best image with the square of this query drawn into it; at query 0 the first image itself."""
        if index == 0:
            return self.point
        place = (index - 1) % CHUNK
        if place == 0:
            self.squares = self._chunk(index)
        side = self.attack.side(index, self.height, self.width)
        square = self.squares[:, place]
        top, left, signs = square[:, :1], square[:, 1:2], square[:, 2:, None, None] > 0
        inside_lines = (self.lines >= top) & (self.lines < top + side)
        inside_columns = (self.columns >= left) & (self.columns < left + side)
        inside = inside_lines[:, None, :, None] & inside_columns[:, None, None, :]
        drawn = torch.where(signs, self.upper, self.lower)
        unchanged = ((self.point == drawn) | ~inside).flatten(1).all(1)
        drawn = torch.where(signs ^ each(unchanged), self.upper, self.lower)
        return torch.where(inside, drawn, self.point)

    def keep(self, places: Tensor | None, *values: Tensor) -> tuple[Tensor, ...]:
        """Go on with the images at these places and with their streams; None keeps all."""
        if places is not None:
            self.generators = [self.generators[place] for place in places.tolist()]
        return super().keep(places, *values)

    def _chunk(self, index: int) -> Tensor:
        """Squares of the next queries, ``(N, CHUNK, 2 + C)``: top, left, and each channel's sign as 0 or 1.

        Top and left are uniform over all places at which the square lies inside the image.
        """
        sides = [self.attack.side(later, self.height, self.width) for later in range(index, index + CHUNK)]
        room = torch.tensor([(self.height - side + 1, self.width - side + 1) for side in sides])
        draws = self._uniform(CHUNK, 2 + self.channels)
        draws[..., :2].mul_(room).floor_()  # less than room even after rounding: the largest draw is 1 - 2^-24
        draws[..., 2:] = (draws[..., 2:] < 0.5).to(draws.dtype)
        return draws.to(self.device, non_blocking=True)

    def _uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in [0, 1) from each image's stream, ``(N, *shape)``, on the CPU in float32."""
        draws = torch.empty((len(self.generators), *shape), pin_memory=self.device.type == "cuda")
        for row, generator in zip(draws, self.generators, strict=True):
            row.uniform_(generator=generator)
        return draws
