"""A victim as an attack sees it: it cannot change the images, and what it answers is watched."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from medrobust.networks.finite import all_finite, finite_outputs
from medrobust.networks.victims import (
    BOX_METHODS,
    Outcome,
    Outputs,
    Targets,
    Victim,
    check_known,
    is_classes,
    probability_like,
)


class WatchedVictim:
    """A victim that is handed copies of an attack's images, and whose answers are watched for NaN and infinity.

    What it notes stays on the device, so that the host waits for none of it before the attack is over. The notes about
    ``probabilities`` and ``right`` are taken at the first forward, ``right`` only where that is on the clean images.

    Args:
        victim: The victim.
        images: The clean images that are attacked, ``(N, C, H, W)``.
        targets: Their true targets, or the goals of a targeted attack.

    Attributes:
        passes: Number of forward passes so far, of whole batches.
        on_pass: Called after each of them; None to call nothing.
    """

    def __init__(self, victim: Victim, images: Tensor, targets: Targets) -> None:
        """Nothing has been asked yet."""
        self.victim, self.images, self.targets = victim, images, targets
        self.finite_outputs = self.finite_losses = torch.ones((), dtype=torch.bool, device=images.device)
        self.any_broken = torch.zeros((), dtype=torch.bool, device=images.device)
        self.probabilities: Tensor | None = None  # whether the outputs look like probabilities, bool ()
        self.right: Tensor | None = None  # number of clean images that it is right about; NaN if others were seen
        self.classes = self.passes = 0
        self.on_pass: Callable[[], None] | None = None
        self._asked = False
        self._broken: list[tuple[Sequence[str], Tensor | None, Tensor]] = []

    def __getattr__(self, name: str) -> Any:
        """Anything else that the victim has; what a ``BoxVictim`` says of its stages is watched, too."""
        value = getattr(self.victim, name)
        return partial(self._looked_into, name, value) if name in BOX_METHODS else value

    def __call__(self, images: Tensor) -> Outputs:
        """Outputs for N images."""
        return self._watched(self.victim(images.clone()), images)

    def features(self, images: Tensor, layers: Sequence[str]) -> tuple[Outputs, dict[str, Tensor]]:
        """Outputs and the named layers' activations averaged over space, ``(N, C)`` each, in one forward."""
        outputs, features = self.victim.features(images.clone(), layers)
        return self._watched(outputs, images), features

    def loss(self, images: Tensor, targets: Targets) -> Tensor:
        """Loss of each image, ``(N,)``."""
        loss = self.victim.loss(images.clone(), targets)
        self._count()
        self.finite_losses = self.finite_losses & all_finite(loss).to(self.images.device)
        return loss

    def _looked_into(self, name: str, method: Callable[..., Any], images: Tensor, *arguments: Any) -> Any:
        """What one of ``BOX_METHODS`` answers."""
        answer = method(images.clone(), *arguments)
        self._count()
        finite = all_finite(answer).to(self.images.device)
        if name == "loss_parts":
            self.finite_losses = self.finite_losses & finite
        else:
            self.finite_outputs = self.finite_outputs & finite
        return answer

    def outcome(self, outputs: Outputs, targets: Targets) -> Outcome:
        """How well outputs fit their targets, for each image."""
        return self.victim.outcome(outputs, targets)

    def is_sound(self) -> bool:
        """Whether all outputs and losses so far were finite; the host waits for the device."""
        return bool(self.finite_outputs & self.finite_losses)

    def note_broken(self, ids: Sequence[str], broken: Tensor, rows: Tensor | None = None) -> None:
        """Count backward passes whose gradients were not finite.

        Args:
            ids: Ids of the images.
            broken: Number of such passes of each image, or whether its pass was one, ``(n,)`` or ``(n, R)``.
            rows: Places of the n images among ``ids``, ``(n,)``; None if there is one id for each.
        """
        self.any_broken = self.any_broken | broken.any()
        self._broken.append((ids, rows, broken.sum(1) if broken.ndim > 1 else broken))

    def broken_passes(self, ids: Sequence[str]) -> Tensor:
        """Number of each image's backward passes whose gradients were not finite, NaN in place of 0, ``(N,)``.

        The host waits for the device.

        Args:
            ids: Ids of the images. One that stands here more than once stands for as many equal images, which have
                equal shares of its passes.
        """
        found: Counter[str] = Counter()
        for names, rows, broken in self._broken:
            noted = names if rows is None else [names[row] for row in rows.tolist()]
            for name, count in zip(noted, broken.tolist(), strict=True):
                found[name] += count
        equal = Counter(ids)
        return torch.tensor([found[name] / equal[name] or torch.nan for name in ids])

    def see_clean(self, names: Sequence[str]) -> None:
        """Look at the clean images, if the first look was at others; the host waits for the device.

        Args:
            names: The images' names, for what is raised.

        Raises:
            ValueError: An output is not finite.
        """
        if isinstance(self.targets, Tensor) and len(self.images) and (self.right is None or bool(self.right.isnan())):
            outputs = finite_outputs(self.victim(self.images.clone()), names, "clean")
            if isinstance(outputs, Tensor):
                self._look_once(outputs, self.images)

    def _count(self) -> None:
        self.passes += 1
        if self.on_pass is not None:
            self.on_pass()

    def _watched(self, outputs: Outputs, images: Tensor) -> Outputs:
        self._count()
        if (
            isinstance(outputs, Tensor)
            and images.requires_grad
            and torch.is_grad_enabled()
            and not outputs.requires_grad
        ):
            raise ValueError(
                "a victim's outputs are expected to depend on the images, and these have no gradient: its forward must "
                "not detach them, nor run without gradients"
            )
        self.finite_outputs = self.finite_outputs & all_finite(outputs).to(self.images.device)
        if not self._asked and isinstance(outputs, Tensor) and isinstance(self.targets, Tensor):
            check_known(self.targets, outputs)  # before a loss that would index beyond them
            self._look_once(outputs.detach(), images.detach())
        self._asked = True
        return outputs

    def _look_once(self, outputs: Tensor, images: Tensor) -> None:
        """Note whether logits are probabilities, and how many clean images the victim is right about."""
        alike = probability_like(outputs, self.targets)
        if alike is None:
            return
        self.probabilities = alike.all()
        if is_classes(self.targets) and len(images) == len(self.images):
            self.classes = outputs.shape[1]
            right = (outputs.argmax(1) == self.targets).sum()  # not the outcome, which may not know these targets
            self.right = torch.where((images == self.images).all(), right, torch.nan)


def note_broken(victim: Victim, ids: Sequence[str], broken: Tensor, rows: Tensor | None = None) -> None:
    """Let a watched victim count backward passes whose gradients were not finite, as its ``note_broken`` does."""
    if isinstance(victim, WatchedVictim):
        victim.note_broken(list(ids), broken, rows)
