"""A corruption as an attack that has no aim: the control that says what nature does to the same images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from medrobust.attacks.base import Attack, Crafted
from medrobust.attacks.corruptions import blur, compression, light, noise
from medrobust.attacks.corruptions.draws import Draws
from medrobust.attacks.corruptions.strengths import Kind, Modality, strength_of
from medrobust.networks.victims import Victim

KINDS: dict[Kind, Callable[[Tensor, float, Draws], Tensor]] = {
    "bias_field": light.bias_field,
    "vignetting": light.vignetting,
    "exposure_up": light.exposure,
    "exposure_down": light.exposure,
    "gamma_up": light.gamma,
    "gamma_down": light.gamma,
    "contrast_up": light.contrast,
    "contrast_down": light.contrast,
    "gaussian_blur": blur.gaussian_blur,
    "defocus_blur": blur.defocus_blur,
    "motion_blur": blur.motion_blur,
    "gaussian_noise": noise.gaussian_noise,
    "speckle_noise": noise.speckle_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "jpeg": compression.jpeg,
    "pixelation": compression.pixelation,
}


@dataclass(frozen=True, kw_only=True)
class Corruption(Attack):
    """What acquisition or storage does to an image, regardless of the victim (MedMNIST-C, arXiv:2406.17536).

    It is a control: it stands beside the attacks in every table, and does not count in the worst case. An image is
    corrupted in the same way in any batch, and a higher severity of a kind draws the same random numbers.

    Args:
        kind: What happens: a random ``bias_field``, ``vignetting``, ``exposure``, ``gamma`` or ``contrast`` ``_up`` or
            ``_down``, ``gaussian``, ``defocus`` or ``motion`` ``_blur``, ``gaussian``, ``speckle``, ``shot`` or
            ``impulse`` ``_noise``, ``jpeg``, or ``pixelation``.
        severity: From 1, the mildest, to 5.
        modality: Whose strengths are meant; a kind that does not occur there is refused.
        targeted: Decides only what counts as success.
        seed: Seed of the per-image random streams.
        strength: What the severity of that modality stands for, in the kind's own unit; it cannot be set.

    Raises:
        ValueError: The severity is not from 1 to 5, or the modality has no such kind.

    >>> Corruption(kind="exposure_down", severity=5).strength
    0.5
    """

    natural: ClassVar[bool] = True
    sees_through: ClassVar[bool] = False

    kind: Kind = "gaussian_noise"
    severity: int = 3
    modality: Modality = "xray"
    strength: float = field(init=False)

    def __post_init__(self) -> None:
        """Refuse what does not exist, and look up the strength."""
        object.__setattr__(self, "strength", strength_of(self.modality, self.kind, self.severity))

    @property
    def norm(self) -> Literal["linf", "l2", "l0", "log", "none"]:
        """No norm is bounded."""
        return "none"

    def perturb(self, victim: Victim, images: Tensor, targets: Any, ids: Sequence[str]) -> Crafted:
        """Corrupt each image."""
        with torch.no_grad():
            made = KINDS[self.kind](images, self.strength, Draws(ids, self.seed, f"Corruption {self.kind}", images))
        none = torch.zeros(len(images), dtype=torch.long, device=images.device)
        return Crafted(made, none, none.clone(), none.clone())
