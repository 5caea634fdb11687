"""The worst case over several attacks: the strength check that a claim of robustness has to pass."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from medrobust.attacks.active_batch import ActiveBatch, each
from medrobust.attacks.auto_pgd import APGD
from medrobust.attacks.base import Attack, Crafted
from medrobust.attacks.budgets import Fraction, check_radius
from medrobust.attacks.fab import FAB
from medrobust.attacks.square import Square
from medrobust.networks.victims import Victim
from medrobust.objectives.base import Step
from medrobust.objectives.difference_of_logits import DifferenceOfLogits
from medrobust.objectives.margin import Margin


def strength_check() -> tuple[Attack, ...]:
    """AutoAttack's four attacks, untargeted, with its numbers of steps (Croce & Hein, ICML 2020, arXiv:2003.01690).

    Two climb, one projects onto boundaries and one needs no gradient: a defence that stops some seldom stops all. FAB
    needs the logits of at least two classes; leave it out for other targets.
    """
    return (
        APGD(steps=100),
        APGD(steps=100, objective=DifferenceOfLogits()),
        FAB(steps=100, stop_when_fooled=True),
        Square(queries=5000),
    )


@dataclass(frozen=True, kw_only=True)
class WorstCase(Attack):
    """Several attacks in turn, each on the images that none before it fooled (AutoAttack: Croce & Hein, ICML 2020).

    An image is broken as soon as one attack succeeds: the first success is returned, and the later attacks are spared
    their passes on it. For an image that none of them breaks, the attempt with the largest margin is returned (for
    boxes, the one with the largest loss of the victim). After each attack one forward judges its images in the
    victim's precision; it is counted. The measure ``first_success`` is the place of the attack that broke an image,
    counted from 0, and NaN for none; the order of the attacks affects only this measure, which success is returned,
    and the passes.

    All attacks run at one radius in one norm, or the worst case would not be one at that radius: their own
    ``epsilon``, ``targeted`` and ``seed`` are replaced by those given here. An attack that is then equal to an earlier
    one is its restart, and runs with the next seed.

    Args:
        attacks: The attacks; none means those of ``strength_check``. The field holds them as they will run.
        epsilon: Radius of every attack, in units of the [0, 1] image range.
        targeted: The targets are goals to reach instead of truths to leave.
        seed: Seed of the per-image random streams of every attack.

    Raises:
        ValueError: An attack has no radius, or not the norm of the first one; or the radius is out of its range.
    """

    attacks: tuple[Attack, ...] = ()
    epsilon: Fraction | float = Fraction("8/255")

    def __post_init__(self) -> None:
        """Refuse attacks that have no common worst case, and hand the shared fields down to the others."""
        check_radius("epsilon", self.epsilon, zero=True)
        members: list[Attack] = []
        for given in tuple(self.attacks) or strength_check():
            if not isinstance(given, Attack):
                raise ValueError(f"attacks lists configured attacks, got {given!r}")
            if "epsilon" not in {field.name for field in fields(given)}:
                raise ValueError(f"a worst case is one at a radius, and {type(given).__name__} has no epsilon")
            shared: dict[str, Any] = {"epsilon": self.epsilon, "targeted": self.targeted, "seed": self.seed}
            member = replace(given, **shared)
            while member in members:
                member = replace(member, seed=member.seed + 1)
            if members and member.norm != members[0].norm:
                first = f"{type(members[0]).__name__} with {members[0].norm}"
                raise ValueError(
                    f"a worst case is one in a norm, got {first} and {type(given).__name__} with {member.norm}"
                )
            members.append(member)
        object.__setattr__(self, "attacks", tuple(members))

    @property
    def norm(self) -> Literal["linf", "l2", "l0", "log", "none"]:
        """The norm that all attacks share."""
        return self.attacks[0].norm

    def perturb(self, victim: Victim, images: Tensor, targets: Any, ids: Sequence[str]) -> Crafted:
        """Run one attack after the other on an ever smaller batch."""
        unbroken = _Unbroken(images, targets, ids)
        for index, attack in enumerate(self.attacks):
            if not unbroken.ids:
                break
            crafted = attack.attempt(victim, unbroken.clean, unbroken.targets, unbroken.ids)
            with torch.no_grad():
                step = Step(victim, crafted.images, unbroken.clean, unbroken.targets, unbroken.ids, self.targeted)
                values = Margin()(step)
                fooled = self.reached(victim, step.outputs, unbroken.targets)
            unbroken.spend(crafted, step.forwards)
            unbroken.first[unbroken.rows] = torch.where(fooled, index, torch.nan).to(unbroken.first)
            better = values > unbroken.value
            unbroken.value = torch.where(better, values, unbroken.value)
            unbroken.attempt = torch.where(each(better), crafted.images, unbroken.attempt)
            unbroken.keep(unbroken.leave(crafted.images, fooled))
        return replace(unbroken.finish(unbroken.attempt), measures={"first_success": unbroken.first})


class _Unbroken(ActiveBatch):
    """The images that no attack has fooled yet, and the attempt on each that came closest."""

    WHOLE = ActiveBatch.WHOLE | {"first"}

    def __init__(self, images: Tensor, targets: Any, ids: Sequence[str]) -> None:
        super().__init__(images, targets, ids)
        self.attempt, self.value = images, images.new_full((len(images),), -torch.inf)
        self.first = torch.full_like(self.value, torch.nan)  # place of the attack that fooled each image

    def spend(self, crafted: Crafted, judging: int) -> None:
        """Add the passes of an attack and of the forwards that judged it."""
        self.forwards[self.rows] += crafted.forwards + judging
        self.backwards[self.rows] += crafted.backwards
        self.zeros[self.rows] += crafted.zero_gradients
