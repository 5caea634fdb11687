"""What a victim promises: to an attack (``Victim``) and to an evaluation (``EvaluatedVictim``)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias, TypeGuard, cast, runtime_checkable

import torch
from torch import Tensor, nn

# What a network returns and what it should have returned depend on the task alone; nobody but the victim, and code
# that asks with isinstance, may assume more. Outputs: logits (N, K) or (N, K, H, W), or a list of N dicts with
# ``boxes`` (D, 4), ``scores`` (D,) and ``labels`` (D,), the most certain first.
# Targets: classes (N,), 0/1 labels (N, L), masks (N, H, W) whose negative labels are ignored, or a list of N dicts
# with ``boxes`` (B, 4) and ``labels`` (B,), none of them where an image has no object. Corners are x1, y1, x2, y2 in
# pixels. The goals of a targeted attack may hold ``sought``, bool (B,): those that decide whether it is reached.
Outputs: TypeAlias = Any
Targets: TypeAlias = Any

SUM_TOLERANCE = 1e-3  # by which the sum of probabilities may miss 1


@dataclass(frozen=True)
class Outcome:
    """How well a victim's outputs fit their targets: one answer per image, of the same form for every task.

    Args:
        right: Whether the victim is right about the image, bool ``(N,)``; an untargeted attack wants it wrong.
        quality: How right it is, ``(N,)`` in [0, 1]: the probability of the true class, a mask's Jaccard index, the
            share of true boxes that were found.
        prediction: Predicted class, int64 ``(N,)``; None for a victim that does not name one class per image.
        confidence: Probability of the predicted class, ``(N,)`` in [0, 1]; None where ``prediction`` is.
    """

    right: Tensor
    quality: Tensor
    prediction: Tensor | None = None
    confidence: Tensor | None = None

    def __getitem__(self, rows: Any) -> "Outcome":
        """Outcome of some of the images, by anything that indexes a tensor's rows."""
        return Outcome(
            self.right[rows],
            self.quality[rows],
            None if self.prediction is None else self.prediction[rows],
            None if self.confidence is None else self.confidence[rows],
        )


def class_outcome(logits: Tensor, targets: Tensor) -> Outcome:
    """Outcome of a classifier whose largest logit names the class.

    Args:
        logits: ``(N, K)``, K >= 2.
        targets: True classes, ``(N,)``, whole numbers or bool.

    Raises:
        ValueError: The targets are not one class per image.

    >>> outcome = class_outcome(torch.tensor([[0.0, 0.0, 4.0]]), torch.tensor([1]))
    >>> outcome.right, outcome.prediction, outcome.quality, outcome.confidence
    (tensor([False]), tensor([2]), tensor([0.0177], dtype=torch.float64), tensor([0.9647], dtype=torch.float64))
    """
    if not is_classes(targets):
        received = tuple(targets.shape) if isinstance(targets, Tensor) else type(targets).__name__
        raise ValueError(f"a classifier's targets are one class per image ({len(logits)},), got {received}")
    predictions, targets = logits.argmax(1), targets.long()
    probabilities = logits.double().softmax(1)  # in float32 those of all confident answers would be 1
    quality, confidence = (probabilities.gather(1, chosen[:, None]).squeeze(1) for chosen in (targets, predictions))
    return Outcome(predictions == targets, quality, predictions, confidence)


OUTCOME_TYPES = {"right": "bool", "quality": "floating point", "prediction": "int64", "confidence": "floating point"}


def checked_outcome(outcome: Outcome, count: int) -> Outcome:
    """The outcome itself, if its tensors have the shapes and types that an evaluation reads; values are not looked at.

    Args:
        outcome: A victim's outcome for a batch.
        count: Number of images N of that batch.

    Raises:
        ValueError: A tensor is missing, or has another shape or type.
    """
    if not isinstance(outcome, Outcome):
        raise ValueError(f"a victim's outcome is expected to be an Outcome, got {type(outcome).__name__}")
    for name, expected in OUTCOME_TYPES.items():
        values = getattr(outcome, name)
        if values is None and name in ("prediction", "confidence"):
            continue
        received = type(values).__name__
        if isinstance(values, Tensor):
            kind = "floating point" if values.is_floating_point() else str(values.dtype).removeprefix("torch.")
            if values.shape == (count,) and kind == expected:
                continue
            received = f"{kind} {tuple(values.shape)}"
        raise ValueError(f"{name} of a victim's outcome is expected to be {expected} ({count},), got {received}")
    return outcome


def is_classes(targets: Targets) -> bool:
    """Whether targets are one class per image, ``(N,)``."""
    return isinstance(targets, Tensor) and targets.ndim == 1


def check_known(targets: Targets, outputs: Outputs) -> None:
    """Refuse a class that the victim's logits do not have; the host waits for the device.

    Args:
        targets: Targets of any kind; only classes ``(N,)`` and masks ``(N, H, W)`` are looked at.
        outputs: Outputs of any kind; only logits ``(N, K)`` or ``(N, K, H, W)`` are looked at, of which a single one
            tells two classes.

    Raises:
        ValueError: Names the class.
    """
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor) or not targets.numel():
        return
    if (outputs.ndim, targets.ndim) not in ((2, 1), (4, 3)):
        return
    classes, largest = max(outputs.shape[1], 2), int(targets.max())
    if largest >= classes:
        raise ValueError(f"the victim distinguishes {classes} classes, counted from 0, got class {largest}")


def check_box_labels(targets: Targets, victim: object) -> None:
    """Refuse a box of a class that the victim does not know; the host waits for the device.

    Args:
        targets: Targets of any kind; only boxes are looked at.
        victim: The victim, behind a defence or not; one that states no ``num_classes`` is not asked.

    Raises:
        ValueError: Names the class.
    """
    while hasattr(victim, "victim"):
        victim = victim.victim
    classes = getattr(victim, "num_classes", None)
    if isinstance(targets, Tensor) or not len(targets) or not isinstance(classes, int):
        return
    largest = max((int(target["labels"].max()) for target in targets if len(target["labels"])), default=-1)
    if largest >= classes:
        raise ValueError(f"the victim finds boxes of {classes} classes, counted from 0, got class {largest}")


def probability_like(outputs: Outputs, targets: Targets) -> Tensor | None:
    """Whether the outputs for an image look like probabilities instead of logits, bool ``(N,)``.

    They are at least 0 and sum to 1 over the classes, at every place of a mask. Logits do so by accident only.

    Args:
        outputs: A victim's outputs.
        targets: Their targets.

    Returns:
        None unless the outputs are ``(N, K, ...)`` with K >= 2 for classes or masks ``(N, ...)``.

    >>> probability_like(torch.tensor([[0.25, 0.75], [0.5, -0.5]]), torch.tensor([0, 1]))
    tensor([ True, False])
    """
    if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor) or outputs.ndim < 2 or outputs.shape[1] < 2:
        return None
    if (len(outputs), *outputs.shape[2:]) != targets.shape:
        return None
    alike = (outputs >= 0).all(1) & ((outputs.sum(1) - 1).abs() <= SUM_TOLERANCE)
    return alike if alike.ndim == 1 else alike.flatten(1).all(1)


@runtime_checkable
class Victim(Protocol):
    """A model under attack. Images are float ``(N, C, H, W)`` in [0, 1]; normalisation lives inside the victim."""

    def __call__(self, images: Tensor) -> Outputs:
        """Outputs for N images."""

    def loss(self, images: Tensor, targets: Targets) -> Tensor:
        """Loss of each image, ``(N,)``, never averaged over the batch."""

    def outcome(self, outputs: Outputs, targets: Targets) -> Outcome:
        """How well outputs fit their targets, for each image; an image's answer depends on that image alone."""

    def features(self, images: Tensor, layers: Sequence[str]) -> tuple[Outputs, dict[str, Tensor]]:
        """Outputs and the named layers' activations averaged over space, ``(N, C)`` each, in one forward."""


@runtime_checkable
class BoxVictim(Victim, Protocol):
    """A victim that finds boxes in two stages, proposals and their classes, and lets attacks look into both."""

    def loss_parts(self, images: Tensor, targets: Targets) -> dict[str, Tensor]:
        """The parts of each image's loss, ``(N,)`` each, which add up to ``loss``.

        They are ``objectness`` and ``proposals`` (regression) of the first stage, ``classes`` and ``boxes``
        (regression) of the second.
        """

    def proposals(self, images: Tensor, overlap: float) -> list[Tensor]:
        """Corners ``(P, 4)`` of each image's proposals, the most likely first, without a gradient.

        Args:
            images: ``(N, C, H, W)`` in [0, 1].
            overlap: IoU with a likelier proposal above which one is dropped, in (0, 1).
        """

    def proposal_logits(self, images: Tensor, proposals: Sequence[Tensor]) -> list[Tensor]:
        """Logits of given proposals ``(P, 4)``, of each image ``(P, K + 1)``: those of the K classes, then background.

        They carry a gradient to the images and none to the proposals; P may be 0.
        """


BOX_METHODS = ("loss_parts", "proposals", "proposal_logits")


def box_victim(value: object, asking: str) -> BoxVictim:
    """The value itself, if it lets attacks look into its proposals; ``isinstance`` overlooks what is passed on.

    Args:
        value: A victim, watched or behind a defence or not.
        asking: Who asks, for the message.

    Raises:
        ValueError: It does not; the message names what it lacks.
    """
    lacking = [name for name in BOX_METHODS if not hasattr(value, name)]
    if lacking:
        inner = value
        while hasattr(inner, "victim"):
            inner = inner.victim
        raise ValueError(
            f"{asking} looks into the stages of a victim that finds boxes in two, and {type(inner).__name__} lacks "
            f"{', '.join(lacking)}"
        )
    return cast(BoxVictim, value)


@runtime_checkable
class _EvaluatedMethods(Victim, Protocol):
    """The methods of an ``EvaluatedVictim``."""

    def normalised(self, images: Tensor) -> Tensor:
        """What the network is given for images ``(N, C, H, W)`` in [0, 1]."""

    def layers_named(self, patterns: Sequence[str]) -> tuple[str, ...]:
        """Names of the network's layers that match patterns, as ``networks.features.layers_named`` reads them."""

    def description(self) -> dict[str, Any]:
        """What the victim is, as plain values that JSON knows: part of every record's key."""

    def state_dict(self) -> Mapping[str, Tensor]:
        """Parameters and buffers by name, as ``nn.Module`` gives them."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """All parameters, as ``nn.Module`` gives them."""


class EvaluatedVictim(_EvaluatedMethods, Protocol):
    """What an evaluation additionally asks of a victim: it is an ``nn.Module`` around a network.

    Attributes:
        network: Maps what ``normalised`` returns to outputs. An evaluation puts a deployment copy in its place while
            it attacks, and puts it back.
    """

    network: nn.Module


@runtime_checkable
class _StoredMethods(Protocol):
    """The further methods of a ``StoredVictim``."""

    @classmethod
    def from_checkpoint(cls, path: str | Path) -> Self:
        """Build a victim of this class from a checkpoint.

        Raises:
            ValueError: It is no checkpoint of such a victim.
        """

    def to(self, device: torch.device) -> Self:
        """The victim, moved to a device."""

    def eval(self) -> Self:
        """The victim, in eval mode."""

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """The victim, with or without gradients of its weights."""


class StoredVictim(EvaluatedVictim, _StoredMethods, Protocol):
    """A victim whose kind can be built from a checkpoint alone: what judges and surrogates have to be."""


def is_evaluated_victim(value: object) -> TypeGuard[EvaluatedVictim]:
    """Whether an object satisfies the protocol ``EvaluatedVictim``.

    ``isinstance`` alone cannot tell: from Python 3.12 on it overlooks submodules, which ``nn.Module`` keeps aside.
    """
    is_module = isinstance(value, nn.Module) and "network" in dict(value.named_children())
    return is_module and isinstance(value, _EvaluatedMethods)


def evaluated_victim(value: object) -> EvaluatedVictim:
    """The value itself, if it promises what an evaluation asks of a victim.

    Raises:
        ValueError: It does not; the message names what is missing.
    """
    if is_evaluated_victim(value):
        return value
    methods = {name for kind in (Victim, _EvaluatedMethods) for name in vars(kind) if not name.startswith("_")}
    lacking = sorted(name for name in methods if name not in dir(value))
    what = ", ".join(lacking) or "network, an nn.Module"
    raise ValueError(
        "an evaluation needs a victim such as lightning_modules.VictimModule or the one that as_victim returns, "
        f"and {type(value).__name__} lacks {what}"
    )


def attackable(value: object) -> Victim:
    """The value itself, if it can be attacked: it can be called, and has an ``outcome``.

    The rest of what a ``Victim`` promises is left to the attacks that need it.

    Raises:
        ValueError: It cannot; the message names what it lacks, and how a plain module becomes a victim.
    """
    if callable(value) and hasattr(value, "outcome"):
        return cast(Victim, value)
    lacking = ", ".join(name for name in ("__call__", "loss", "outcome", "features") if not hasattr(value, name))
    raise ValueError(
        f"an attack needs a victim, and {type(value).__name__} lacks {lacking}: wrap a classifier that returns logits "
        "by medrobust.networks.as_victim(module, mean, std), which also knows the normalisation that it expects"
    )


def is_stored_victim(value: object) -> TypeGuard[StoredVictim]:
    """Whether a value is a victim whose kind can be built from a checkpoint."""
    return is_evaluated_victim(value) and isinstance(value, _StoredMethods)
