"""The two sides of a batch: clean images with the victim's outputs, and what an attack made of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from medrobust.evaluation.plan import EvaluationPlan, PlannedAttack
from medrobust.networks.victims import Outcome, Outputs, Targets


@dataclass(frozen=True, kw_only=True)
class CleanBatch:
    """Clean images and the victim's outputs for them, computed in float32.

    Args:
        ids: The images' ids, N of them.
        images: ``(N, C, H, W)`` in [0, 1], no inference tensors.
        targets: True targets.
        outputs: The victim's outputs.
        outcome: How well these fit the targets.
    """

    ids: list[str]
    images: Tensor
    targets: Targets
    outputs: Outputs
    outcome: Outcome

    def __len__(self) -> int:
        """Number of images."""
        return len(self.ids)

    def take(self, places: Sequence[int]) -> "CleanBatch":
        """The images at some places; the batch itself if that is all of them in their order."""
        if list(places) == list(range(len(self))):
            return self
        return CleanBatch(
            ids=[self.ids[place] for place in places],
            images=self.images[list(places)],
            targets=take(self.targets, places),
            outputs=take(self.outputs, places),
            outcome=self.outcome[list(places)],
        )


def take(values: Outputs, places: Sequence[int]) -> Outputs:
    """Entries of a tensor, or of a list, at some places."""
    return values[list(places)] if isinstance(values, Tensor) else [values[place] for place in places]


@dataclass(frozen=True, kw_only=True)
class AdversarialBatch:
    """An adversarial batch: crafted once and handed to every listener, which must not change its tensors in place.

    Args:
        planned: The attack that made it.
        plan: The evaluation that it belongs to.
        ids: The images' ids, N of them.
        targets: True targets.
        goals: Targets that the attack aimed at; None for an untargeted attack.
        clean: Clean images, ``(N, C, H, W)`` in [0, 1].
        adversarial: Adversarial images, ``(N, C, H, W)`` in [0, 1].
        clean_outputs: The victim's outputs for the clean images, in float32.
        adversarial_outputs: Its outputs for the adversarial images, in float32.
        before: How well the clean outputs fit the true targets.
        after: How well the adversarial outputs fit the true targets.
        reached: Whether the attack reached its aim, bool ``(N,)``: the victim is wrong, or names the goal.
        forwards: Forward passes spent on each image, ``(N,)``.
        backwards: Backward passes spent on each image, ``(N,)``.
        zero_gradients: Backward passes of each image whose gradient vanished, ``(N,)``.
        measures: Further numbers that the attack gives for each image, ``(N,)`` by name, NaN where undefined.
        pictures: What else the attack made, ``(N, C, H, W)`` by name.
        columns: Further columns of the records, ``(N,)`` tensors by name, NaN where undefined. Listeners add them, and
            the journal writes them in ``on_adversarial_batch_end``.
        seconds: Wall-clock seconds that crafting the batch took, without judging it; None if nobody measured.
    """

    planned: PlannedAttack
    plan: EvaluationPlan
    ids: list[str]
    targets: Targets
    goals: Targets | None
    clean: Tensor
    adversarial: Tensor
    clean_outputs: Outputs
    adversarial_outputs: Outputs
    before: Outcome
    after: Outcome
    reached: Tensor
    forwards: Tensor
    backwards: Tensor
    zero_gradients: Tensor
    measures: Mapping[str, Tensor] = field(default_factory=dict)
    pictures: Mapping[str, Tensor] = field(default_factory=dict)
    columns: dict[str, Tensor] = field(default_factory=dict)
    seconds: float | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.ids)

    @property
    def success(self) -> Tensor:
        """Whether the attack turned a right answer into what it wanted, bool ``(N,)``."""
        return self.before.right & self.reached
