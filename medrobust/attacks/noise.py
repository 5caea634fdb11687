"""Uniform noise: the control that every table shows beside its attacks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medrobust.attacks.base import Attack, Crafted
from medrobust.attacks.budgets import Fraction, check_radius
from medrobust.networks.victims import Victim
from medrobust.random_streams import per_image_uniform


@dataclass(frozen=True, kw_only=True)
class UniformNoise(Attack):
    """Noise drawn uniformly from the ball in the maximum norm, regardless of the victim (HFC21's control).

    Args:
        epsilon: Radius, in units of the [0, 1] image range.
        targeted: Decides only what counts as success.
        seed: Seed of the per-image random streams.
    """

    epsilon: Fraction | float = Fraction("8/255")

    def __post_init__(self) -> None:
        """Refuse a radius outside (0, 1]."""
        check_radius("epsilon", self.epsilon, zero=True)

    def perturb(self, victim: Victim, images: Tensor, targets: Any, ids: Sequence[str]) -> Crafted:
        """Add each image's noise."""
        noise = per_image_uniform(ids, images.shape[1:], self.seed, type(self).__name__, images)
        noisy = torch.clamp(images + self.epsilon * noise, (images - self.epsilon).clamp(0), images + self.epsilon)
        none = torch.zeros(len(images), dtype=torch.long, device=images.device)
        return Crafted(noisy.clamp(max=1), none, none.clone(), none.clone())
