"""What a study is: a configured look at images and victim during an evaluation, of which a figure is made."""

from abc import ABC
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

from torch import Tensor

from medrobust.attacks.base import describe
from medrobust.evaluation.batch import AdversarialBatch
from medrobust.networks.victims import EvaluatedVictim, Targets
from medrobust.objectives.plain_numbers import PlainNumbers


@dataclass(frozen=True, kw_only=True)
class Study(PlainNumbers, ABC):
    """Looks at some images while the victim is there; what it keeps of each is drawn when the evaluation is finished.

    A study is a configured pure function: it keeps nothing between batches, and what it computes of an image does not
    depend on the image's batch mates. Subclasses override ``of_clean``, ``of_attack`` or ``columns``; one that
    overrides none is made of the records alone. ``medrobust.results.figures`` has a function of the same name that
    draws what it kept; a class from elsewhere names its own by ``drawing``, the import path of a function of a list of
    ``medrobust.results.figures.StudiedRun`` that gives a list of ``Sheet``, such as ``my_figures.largest_changes``. It
    is imported when a figure is drawn, which may be long after: in a module of its own it needs no torch.

    Args:
        images: Number of images, chosen evenly over the classes, the same under every attack; None for all.
        attacks: Names of the attacks whose images it looks at; empty for all, without controls.

    Raises:
        ValueError: A number is out of its range.
    """

    images: int | None = 8
    attacks: tuple[str, ...] = ()

    sees_controls: ClassVar[bool] = False  # whether an empty `attacks` means the controls, too
    drawing: ClassVar[str] = ""  # import path of the function that draws it; empty for the one of this package
    of_classes: ClassVar[bool] = False  # looks at one class per image, and takes no labels, masks and boxes

    def __post_init__(self) -> None:
        """Refuse settings that would give wrong numbers."""
        if self.images is not None and self.images < 1:
            raise ValueError(f"images counts images and is at least 1, got {self.images}")

    def check(self, victim: EvaluatedVictim) -> None:
        """Refuse a victim that this cannot look at, before any image is read.

        Raises:
            ValueError: It cannot; the message says why.
        """

    @property
    def beside(self) -> tuple[str, ...]:
        """Runs or checkpoints of further victims of the same task that it asks; most studies ask none."""
        return ()

    @property
    def others(self) -> tuple[EvaluatedVictim, ...]:
        """The victims of ``beside``, frozen; none before they are read."""
        return self.__dict__.get("_others", ())

    def asking(self, others: Sequence[EvaluatedVictim]) -> Self:
        """A copy that asks these victims, one for each of ``beside``."""
        study = copy(self)
        object.__setattr__(study, "_others", tuple(others))
        return study

    def of_clean(
        self, victim: EvaluatedVictim, images: Tensor, targets: Targets, ids: Sequence[str]
    ) -> dict[str, Tensor]:
        """What is kept of clean images, ``(N, ...)`` by name; the victim is frozen, and gradients are enabled.

        Args:
            victim: The victim.
            images: ``(N, C, H, W)`` in [0, 1].
            targets: True targets.
            ids: Their ids.
        """
        return {}

    def of_attack(self, victim: EvaluatedVictim, batch: AdversarialBatch) -> dict[str, Tensor]:
        """What is kept of adversarial images, ``(N, ...)`` by name; the victim is frozen, and gradients are enabled."""
        return {}

    def columns(self, victim: EvaluatedVictim, batch: AdversarialBatch) -> dict[str, Tensor]:
        """Columns of the records, ``(N,)`` by name, of all images and attacks; NaN where undefined."""
        return {}

    @property
    def has_columns(self) -> bool:
        """Whether it adds columns to the records."""
        return type(self).columns is not Study.columns

    @property
    def keeps_clean(self) -> bool:
        """Whether it keeps anything of clean images."""
        return type(self).of_clean is not Study.of_clean

    @property
    def keeps_attacked(self) -> bool:
        """Whether it keeps anything of adversarial images."""
        return type(self).of_attack is not Study.of_attack

    def parameters(self) -> dict[str, Any]:
        """All fields as plain values."""
        return {item.name: describe(getattr(self, item.name)) for item in fields(self)}
