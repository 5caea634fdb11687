"""An objective averaged over noisy copies of the image: a slope where the victim's own is rugged or flat."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from medrobust.objectives.base import Objective, Step
from medrobust.objectives.margin import Margin
from medrobust.random_streams import image_generator


@dataclass(frozen=True)
class Smoothed(Objective):
    """Mean of an objective over noisy copies of the image, E[J(x + s n)] with normal n (Athalye et al., ICML 2018).

    The deviation s is a share of the largest change that the image has undergone so far, so that it suits every
    radius; an image that is still clean has no noise. The mean over the copies estimates the slope of the smoothed
    victim: it looks past the kinks and small plateaus at which the slope of a single point stops an ascent. The
    victim sees the copies clipped to [0, 1], as it knows no other images; the slope goes through the clip, or pixels
    near their bounds would have none.

    Args:
        objective: What is averaged.
        deviation: Standard deviation of the noise, as a share of the image's largest change, > 0.
        copies: Number of copies; each costs a forward and a backward.

    Raises:
        ValueError: A field is out of its range.
    """

    objective: Objective = field(default_factory=Margin)
    deviation: float = 1 / 3
    copies: int = 1

    def __post_init__(self) -> None:
        """Refuse settings that would give wrong numbers."""
        if not 0 < self.deviation < float("inf"):
            raise ValueError(f"deviation is a share of the image's change and is positive, got {self.deviation}")
        if not isinstance(self.copies, int) or self.copies < 1:
            raise ValueError(f"copies counts noisy images and is a whole number of at least 1, got {self.copies}")

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers of the averaged objective."""
        return self.objective.layers

    def __call__(self, step: Step) -> Tensor:
        """Value of each image, ``(N,)``."""
        change = (step.images.detach() - step.clean).flatten(1).abs().amax(1)
        change = change.view(-1, *[1] * (step.images.ndim - 1))
        total = torch.zeros(len(step.images), dtype=step.images.dtype, device=step.images.device)
        for copy in range(self.copies):
            noise = _normal(step, f"{type(self).__name__}:{step.index}:{copy}")
            noisy = step.images + self.deviation * change * noise
            noisy = noisy + (noisy.clamp(0, 1) - noisy).detach()
            look = step.at(noisy, self.layers)
            total = total + self.objective(look)
            step.count(look.forwards, look.backwards if copy else look.backwards - 1)
        return total / self.copies


def _normal(step: Step, stream: str) -> Tensor:
    """Normal noise like the images, ``(N, C, H, W)``: each image's own, drawn on the CPU, the same on every device."""
    noise = torch.empty(step.images.shape, pin_memory=step.images.is_cuda)
    for row, id in zip(noise, step.ids, strict=True):
        row.normal_(generator=image_generator(0, stream, id))
    return noise.to(step.images.device, step.images.dtype, non_blocking=True)
