"""The worst case over several attacks: the strength check that a claim of robustness has to pass."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from torch import Tensor

from medrobust.attacks.auto_pgd import APGD
from medrobust.attacks.base import Attack, Crafted
from medrobust.attacks.basin_hopping import BasinHopping
from medrobust.attacks.budgets import Fraction, check_radius
from medrobust.attacks.dense_adversary import DAG
from medrobust.attacks.fab import FAB
from medrobust.attacks.in_turn import SEED_STRIDE, attack_in_turn
from medrobust.attacks.kept_attempts import Keep, check_choice
from medrobust.attacks.sign_family import PGD
from medrobust.attacks.square import Square
from medrobust.networks.victims import Victim
from medrobust.objectives.base import Objective
from medrobust.objectives.difference_of_logits import DifferenceOfLogits
from medrobust.objectives.empty_truth import Invention, Vanishing
from medrobust.objectives.jensen_shannon import JensenShannon
from medrobust.objectives.loss_parts import LossParts
from medrobust.objectives.margin import Margin
from medrobust.objectives.masked_cross_entropy import MaskedCrossEntropy

FIRST_SUCCESS = "first_success"


def standard(keep: Keep = "first_success") -> tuple[Attack, ...]:
    """AutoAttack's ``standard`` (Croce & Hein, ICML 2020, arXiv:2003.01690, section 4), and hops from its best attempt.

    APGD with cross-entropy (100 steps), APGD with the targeted difference-of-logits ratio (100 steps towards each of 9
    goals), targeted FAB (the same) and Square (5,000 queries). Two climb, one projects onto boundaries and one needs no
    gradient: a defence that stops some seldom stops all. The goals are at most all other classes, the largest clean
    logit first. The fifth, ``BasinHopping`` (100 ascents of 50 steps), goes on from the best attempt of these four.

    The second APGD starts elsewhere than the first. With two classes, where there is no ratio (``DifferenceOfLogits``),
    and a margin would have the signs of cross-entropy's gradient, it raises the margin of noisy copies of the image
    instead; with three, the ratio's divisor is z_(1) - (z_(2) + z_(3)) / 2. The targeted attacks need the logits of at
    least two classes, or of labels: masks and boxes have suites of their own.
    """
    if keep == "lowest_quality":
        raise ValueError("the suite 'standard' stops at the first success; keep 'lowest_quality' is for other suites")
    return (
        APGD(steps=100),
        APGD(steps=100, goals=9, objective=DifferenceOfLogits(two_classes="smoothed"), seed=1),
        FAB(steps=100, goals=9, stop_when_fooled=True),
        Square(queries=5000),
        BasinHopping(),
    )


def masks(keep: Keep = "first_success") -> tuple[Attack, ...]:
    """SEA, the ensemble for masks (Croce, Singh & Hein, ECCV 2024, arXiv:2306.12941, section 2), and two on logits.

    APGD of 300 steps, at 2, 1.5 and 1 times the radius, with each of three losses: the masked cross-entropy with equal
    weights of the classes, the masked cross-entropy, and the Jensen-Shannon divergence. The paper keeps the worst of
    the three, ``keep="lowest_quality"``, and begins at the clean image; these begin at a random point. The gradients of
    all three vanish at pixels about which the victim is certain, those of logits do not: PGD of 300 steps on their
    margin, and ``DAG``.
    """
    losses = (MaskedCrossEntropy(balanced=True), MaskedCrossEntropy(), JensenShannon())
    climbs = (_climb(keep, loss, steps=300, radii=(2.0, 1.5, 1.0)) for loss in losses)
    return (*climbs, PGD(steps=300, objective=Margin(), stop_when_fooled=keep == "first_success"), _dag())


def boxes(keep: Keep = "first_success") -> tuple[Attack, ...]:
    """APGD of 100 steps on each thing that a victim that finds boxes in two stages may get wrong, and ``DAG``.

    Its whole loss; of its parts objectness, classes, and the regression of both stages; and for an image in which
    nothing is to be found, ``Vanishing`` and ``Invention`` (Chow et al. 2020).
    """
    parts = (LossParts(("objectness",)), LossParts(("classes",)), LossParts(("proposals", "boxes")))
    return (*(_climb(keep, loss, steps=100) for loss in (None, *parts, Vanishing(), Invention())), _dag())


def _climb(keep: Keep, objective: Objective | None, steps: int, radii: tuple[float, ...] = (1.0,)) -> APGD:
    """APGD that stops at the first success, or goes to the end for the lowest quality."""
    if keep == "first_success":
        return APGD(steps=steps, objective=objective, radii=radii)
    return APGD(steps=steps, objective=objective, radii=radii, stop_when_fooled=False, keep="lowest_quality")


def _dag() -> DAG:
    """DAG within a radius, which a worst case sets."""
    return DAG(epsilon=Fraction("8/255"))


Suite = Literal["standard", "masks", "boxes"]
SUITES: dict[str, Callable[[Keep], tuple[Attack, ...]]] = {"standard": standard, "masks": masks, "boxes": boxes}


@dataclass(frozen=True, kw_only=True)
class WorstCase(Attack):
    """Several attacks in turn, each on the images that none before it fooled (AutoAttack: Croce & Hein, ICML 2020).

    An image is broken as soon as one attack succeeds: the first success is returned, and the later attacks are spared
    their passes on it. For an image that none of them breaks, the attempt with the largest margin is returned (of
    labels, the largest margin of the one that decides: the nearest to turning, or of the goals the one that lacks most;
    for boxes, the largest loss of the victim). After each attack one forward judges its images in the
    victim's precision; it is counted. An image's measures are those of the attack whose image is returned; the measure
    ``first_success`` is the place of the attack that broke it, counted from 0, and NaN for none. Records give that
    attack's name instead, in the column ``broken_by``. The order of the attacks affects only this, which success is
    returned, and the passes.

    With ``keep="lowest_quality"`` every attack runs on every image, and of each image the attempt is returned whose
    outputs have the lowest quality (of a targeted attack, the highest with respect to its goals): the worst of the mean
    Jaccard index of a mask, or of the share of boxes that are found. The clean image is one of the attempts. The
    attacks then have to go on after a success and to keep their own point of the lowest quality:
    ``APGD(stop_when_fooled=False, keep="lowest_quality")``.

    All attacks run at one radius in one norm, or the worst case would not be one at that radius: their own
    ``epsilon`` and ``targeted`` are replaced by those given here. Their objectives, goals and seeds are their own. An
    attack that is then equal to an earlier one is its restart, and runs with the next seed.

    Args:
        attacks: The attacks, or the suite of the function of that name: ``standard`` for classes and labels, ``masks``
            or ``boxes``. The field holds the attacks.
        keep: Which attempt on an image is returned: the ``first_success``, or the one of the ``lowest_quality``.
        epsilon: Radius of every attack, in units of the [0, 1] image range.
        targeted: The targets are goals to reach instead of truths to leave.
        seed: Moves the seeds of all attacks; with 0 they run with their own.

    Raises:
        ValueError: An attack has no radius, or not the norm of the first one, or stops where the lowest quality is to
            be kept; or the radius is out of its range.
    """

    attacks: tuple[Attack, ...] | Suite = "standard"
    keep: Keep = "first_success"
    epsilon: Fraction | float = Fraction("8/255")

    def __post_init__(self) -> None:
        """Refuse attacks that have no common worst case, and hand the shared fields down to the others."""
        check_radius("epsilon", self.epsilon, zero=True)
        check_choice("keep", self.keep, ("first_success", "lowest_quality"))
        object.__setattr__(self, "attacks", _members(self._listed(), self))

    def _listed(self) -> Sequence[Attack]:
        """The attacks that are listed, or those of the suite that is named."""
        if isinstance(self.attacks, str):
            if self.attacks not in SUITES:
                raise ValueError(f"attacks is a list of attacks or one of {', '.join(SUITES)}, got {self.attacks!r}")
            return SUITES[self.attacks](self.keep)
        if not self.attacks:
            raise ValueError(f"attacks lists at least one attack, or is one of {', '.join(SUITES)}, got none")
        return tuple(self.attacks)

    @property
    def members(self) -> tuple[Attack, ...]:
        """The attacks, each at the radius of all."""
        assert isinstance(self.attacks, tuple)
        return self.attacks

    @property
    def norm(self) -> Literal["linf", "l2", "l0", "log", "none"]:
        """The norm that all attacks share."""
        return self.members[0].norm

    def perturb(self, victim: Victim, images: Tensor, targets: Any, ids: Sequence[str]) -> Crafted:
        """Run one attack after the other on an ever smaller batch, or all on all."""
        self._check_suite(targets)
        crafted, first = attack_in_turn(self.running(), victim, images, targets, ids, self.keep)
        return replace(crafted, measures={**crafted.measures, FIRST_SUCCESS: first})

    def _check_suite(self, targets: Any) -> None:
        """Refuse, before anything is spent, a suite that is not one for these targets."""
        task = "boxes" if not isinstance(targets, Tensor) else "masks" if targets.ndim > 2 else "standard"
        meant = {
            name: suite(self.keep)
            for name, suite in SUITES.items()
            if name != "standard" or self.keep == "first_success"
        }
        given = next((name for name, suite in meant.items() if self.members == _members(suite, self)), task)
        if given != task and not (given == "masks" and task == "standard"):
            kinds = {"standard": "classes or labels", "masks": "masks", "boxes": "boxes"}
            raise ValueError(
                f"the suite {given!r} is for {kinds[given]}, and the targets are {kinds[task]}: set attacks to {task!r}"
            )

    def running(self) -> tuple[Attack, ...]:
        """The attacks with the seeds that they run with: their own, moved by ``seed``."""
        return tuple(replace(attack, seed=attack.seed + SEED_STRIDE * self.seed) for attack in self.members)

    def names(self) -> tuple[str, ...]:
        """What each attack is called in records: its class, and whatever tells it from the others of its class.

        >>> WorstCase().names()
        ('APGD', 'APGD with DifferenceOfLogits towards 9 goals', 'FAB towards 9 goals', 'Square', 'BasinHopping')
        """
        names: list[str] = []
        for attack in self.members:
            name, objective, goals = type(attack).__name__, vars(attack).get("objective"), vars(attack).get("goals")
            name += f" with {objective.title}" if objective is not None else ""
            name += f" towards {goals} goals" if goals else ""
            alike = sum(other == name or other.startswith(f"{name} (") for other in names)
            names.append(f"{name} ({alike + 1})" if alike else name)
        return tuple(names)

    def recorded(self, measures: Mapping[str, Tensor]) -> dict[str, Tensor | list[str | None]]:
        """The measures with the name of the attack that broke each image in place of its number."""
        names = self.names()
        if FIRST_SUCCESS not in measures:  # at a radius of 0 none has run
            return dict(measures)
        broken_by = [None if place != place else names[int(place)] for place in measures[FIRST_SUCCESS].tolist()]
        rest = {name: values for name, values in measures.items() if name != FIRST_SUCCESS}
        return {**rest, "broken_by": broken_by}


def _members(listed: Sequence[Any], worst: WorstCase) -> tuple[Attack, ...]:
    """The listed attacks at the radius and with the aim of a worst case.

    Raises:
        ValueError: One of them is no attack, has no radius or not the norm of the first one, or stops too early.
    """
    members: list[Attack] = []
    for given in listed:
        if not isinstance(given, Attack):
            raise ValueError(f"attacks lists configured attacks, got {given!r}")
        if "epsilon" not in {field.name for field in fields(given)}:
            raise ValueError(f"a worst case is one at a radius, and {type(given).__name__} has no epsilon")
        shared: dict[str, Any] = {"epsilon": worst.epsilon, "targeted": worst.targeted}
        member = replace(given, **shared)
        while member in members:
            member = replace(member, seed=member.seed + 1)
        if members and member.norm != members[0].norm:
            first = f"{type(members[0]).__name__} with {members[0].norm}"
            raise ValueError(
                f"a worst case is one in a norm, got {first} and {type(given).__name__} with {member.norm}"
            )
        if worst.keep == "lowest_quality" and vars(member).get("stop_when_fooled"):
            raise ValueError(
                f"keep 'lowest_quality' takes attacks that go on after a success, and {type(given).__name__} stops: "
                "set its stop_when_fooled to False"
            )
        members.append(member)
    return tuple(members)
