"""An attack that knows nothing of an input defence: what transfers from the victim without it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from torch import Tensor

from medrobust.attacks.base import Attack, Crafted
from medrobust.attacks.budgets import Fraction, check_radius
from medrobust.attacks.sign_family import PGD
from medrobust.networks.victims import Victim
from medrobust.networks.watched_victim import WatchedVictim


@dataclass(frozen=True, kw_only=True)
class Oblivious(Attack):
    """Another attack, crafted on the victim without its input defence (Carlini & Wagner, AISec 2017, section 2.2).

    The images are judged on the victim behind its defence. A defence that such an attack breaks more often than one
    that knows it only hides its gradient: the self-checks compare the two. On a victim without an input defence it is
    the other attack itself. Inside an attack that runs several, its passes count like those of one that knows it.

    Args:
        attack: The other attack; its ``epsilon`` and ``targeted`` are replaced by those given here.
        epsilon: Radius, in units of the [0, 1] image range.
        targeted: The targets are goals to reach instead of truths to leave.
        seed: Moves the seed of the other attack; with 0 it runs with its own.

    Raises:
        ValueError: The other attack has no radius, or the radius is out of its range.
    """

    sees_through: ClassVar[bool] = False

    attack: Attack = field(default_factory=PGD)
    epsilon: Fraction | float = Fraction("8/255")

    def __post_init__(self) -> None:
        """Refuse an attack without a radius, and hand the shared fields down."""
        check_radius("epsilon", self.epsilon, zero=True)
        if "epsilon" not in vars(self.attack):
            raise ValueError(f"attack is one with a radius, and {type(self.attack).__name__} has none")
        shared: dict[str, Any] = {"epsilon": self.epsilon, "targeted": self.targeted}
        object.__setattr__(self, "attack", replace(self.attack, **shared))

    @property
    def norm(self) -> Literal["linf", "l2", "l0", "log", "none"]:
        """The norm of the other attack."""
        return self.attack.norm

    def perturb(self, victim: Victim, images: Tensor, targets: Any, ids: Sequence[str]) -> Crafted:
        """Run the other attack on the victim without its defence."""
        attack = replace(self.attack, seed=self.attack.seed + self.seed)
        bare = getattr(victim, "undefended", None)
        if bare is None:
            return attack.attempt(victim, images, targets, ids)
        watch = WatchedVictim(bare, images, targets)
        crafted = attack.attempt(watch, images, targets, ids)
        if isinstance(victim, WatchedVictim):
            victim.finite_outputs = victim.finite_outputs & watch.finite_outputs
            victim.finite_losses = victim.finite_losses & watch.finite_losses
        return crafted
