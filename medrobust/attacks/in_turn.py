"""Several attacks in turn: each goes on with the images that none before it has broken, or all run on every image."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from medrobust.attacks.active_batch import ActiveBatch, each
from medrobust.attacks.base import Attack, Crafted
from medrobust.attacks.basin_hopping import BasinHopping
from medrobust.attacks.kept_attempts import Keep, closeness
from medrobust.networks.victims import Outcome, Victim
from medrobust.networks.watched_victim import WatchedVictim
from medrobust.objectives.base import Step
from medrobust.objectives.weakest_label import deciding_margin

SEED_STRIDE = 1_000_003  # from one run's seed to the next: further than the seeds that anybody chooses for attacks


class Turn(NamedTuple):
    """Whose turn it is among several attacks.

    Args:
        attack: Class of the attack at work.
        number: Its place, from 1.
        attacks: Number of attacks.
        images: Images that it attacks: those of the batch that none before it has broken, or all.
        passes: Forward passes that it has made so far, each of several images.
    """

    attack: str
    number: int
    attacks: int
    images: int
    passes: int = 0


_TELL: ContextVar[Callable[[Turn], None] | None] = ContextVar("tell", default=None)


@contextmanager
def told_of_turns(tell: Callable[[Turn], None]) -> Iterator[None]:
    """Call a function at the beginning of each turn and after each of its forward passes, inside a ``with`` block.

    It is told nothing that the attacks do not know anyway, so that the host does not wait for the device.
    """
    token = _TELL.set(tell)
    try:
        yield
    finally:
        _TELL.reset(token)


def attack_in_turn(
    attacks: Sequence[Attack],
    victim: Victim,
    images: Tensor,
    targets: Any,
    ids: Sequence[str],
    keep: Keep = "first_success",
) -> tuple[Crafted, Tensor]:
    """Run one attack after the other on an ever smaller batch, or for ``lowest_quality`` on all; all have the same aim.

    ``BasinHopping`` starts from the best attempt of those before it.

    After each attack one forward judges its images (two for boxes, whose loss does not come with their outputs); it is
    counted. The first success on an image is kept, or the attempt with the largest margin (of labels, that of the label
    that decides; for boxes, the largest loss of the victim) if there is none; for ``lowest_quality`` the attempt whose
    outputs have the lowest quality (of goals, the highest), and of several such ones that with the largest margin; the
    clean image is one of the attempts, as it lies in every ball, so that no image is better after than before. The
    measures are those of the attack whose image is kept.

    Args:
        attacks: The attacks; all of them targeted, or none.
        victim: The victim, frozen.
        images: Clean images, ``(N, C, H, W)``.
        targets: True targets, or goals.
        ids: The images' ids.
        keep: Which attempt on an image is kept.

    Returns:
        What they made, and the place in ``attacks`` of the one that broke each image, ``(N,)``, NaN for none: the
        first, or the one whose attempt is kept.
    """
    unbroken = _Unbroken(images, targets, ids)
    if keep == "lowest_quality":
        outcome, values, spent = _judged(victim, images, unbroken, attacks[0].targeted)
        unbroken.close, unbroken.value = closeness(outcome, attacks[0].targeted).to(values), values
        unbroken.forwards += spent
    for index, attack in enumerate(attacks):
        if not unbroken.ids:
            break
        batch = (victim, unbroken.clean, unbroken.targets, unbroken.ids)
        with _told(victim, Turn(type(attack).__name__, index + 1, len(attacks), len(unbroken.ids))):
            if isinstance(attack, BasinHopping):
                crafted = attack.perturb_from(*batch, unbroken.attempt)
            else:
                crafted = attack.attempt(*batch)
        outcome, values, spent = _judged(victim, crafted.images, unbroken, attack.targeted)
        fooled = outcome.right if attack.targeted else ~outcome.right
        unbroken.spend(crafted, spent)
        if keep == "lowest_quality":
            close = closeness(outcome, attack.targeted).to(values)
            better = (close > unbroken.close) | ((close == unbroken.close) & (values > unbroken.value))
            unbroken.close = torch.where(better, close, unbroken.close)
        else:
            better = fooled | (values > unbroken.value)
        unbroken.note_first(torch.where(fooled, index, torch.nan), better)
        unbroken.keep_better(crafted, better, values)
        if keep == "first_success":
            unbroken.keep(unbroken.leave(crafted.images, fooled))
    return replace(unbroken.finish(unbroken.attempt), measures=unbroken.measures), unbroken.first


def _judged(victim: Victim, images: Tensor, of: "_Unbroken", targeted: bool) -> tuple[Outcome, Tensor, int]:
    """What the victim makes of attempts on the images that are left, their margins, and the forwards that it took."""
    with torch.no_grad():
        step = Step(victim, images, of.clean, of.targets, of.ids, targeted)
        values = deciding_margin(of.targets)(step)
        return victim.outcome(step.outputs, of.targets), values, step.forwards


@contextmanager
def _told(victim: Victim, turn: Turn) -> Iterator[None]:
    """Tell of a turn, and of the passes that it makes through a watched victim."""
    tell = _TELL.get()
    if tell is None:
        yield
        return
    tell(turn)
    if not isinstance(victim, WatchedVictim):
        yield
        return
    first, before = victim.passes, victim.on_pass
    victim.on_pass = lambda: tell(turn._replace(passes=victim.passes - first))
    try:
        yield
    finally:
        victim.on_pass = before


class _Unbroken(ActiveBatch):
    """The images that no attack has fooled yet, and the attempt on each that came closest."""

    WHOLE = ActiveBatch.WHOLE | {"first"}

    def __init__(self, images: Tensor, targets: Any, ids: Sequence[str]) -> None:
        super().__init__(images, targets, ids)
        self.attempt, self.value = images, images.new_full((len(images),), -torch.inf)
        self.close = self.value  # how close the attempt came, where the lowest quality is kept
        self.first = torch.full_like(self.value, torch.nan)  # place of the attack that fooled each image
        self.measures: dict[str, Tensor] = {}  # of the kept images, for the whole batch

    def spend(self, crafted: Crafted, judging: int) -> None:
        """Add the passes of an attack and of the forwards that judged it."""
        self.forwards[self.rows] += crafted.forwards + judging
        self.backwards[self.rows] += crafted.backwards
        self.zeros[self.rows] += crafted.zero_gradients

    def note_first(self, places: Tensor, better: Tensor) -> None:
        """Note the place of the attack that broke each image, NaN for none, of those that are better than before."""
        self.first[self.rows] = torch.where(better, places.to(self.first), self.first[self.rows])

    def keep_better(self, crafted: Crafted, better: Tensor, values: Tensor) -> None:
        """Keep the images that are better than the attempts before, and their measures."""
        self.value = torch.where(better, values, self.value)
        self.attempt = torch.where(each(better), crafted.images, self.attempt)
        for name in {**self.measures, **crafted.measures}:
            kept = self.measures.setdefault(name, torch.full_like(self.first, torch.nan))
            made = crafted.measures.get(name, torch.full_like(values, torch.nan))
            kept[self.rows] = torch.where(better, made.to(kept), kept[self.rows])
