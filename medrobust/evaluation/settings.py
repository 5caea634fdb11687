"""The attacks of an evaluation as they are configured, on a command line or in Python, and what cannot be meant."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from medrobust.attacks import Attack
from medrobust.attacks.budgets import check_radius
from medrobust.evaluation.plan import lay_out

CONTROL = "noise"  # name of the control rows
LARGEST_SEED = 2**63 - 1  # that records can hold


def check_settings(
    attacks: Mapping[str, Attack],
    epsilons: Sequence[float] | None = None,
    log_epsilons: Sequence[float] | None = None,
    controls: bool = True,
    label: str | None = None,
    goal_mask: str | None = None,
) -> None:
    """Refuse attacks and radii that cannot be meant.

    Args:
        attacks: Attacks by name.
        epsilons: Radii of the sweep, in units of the [0, 1] image range; None for each attack's own.
        log_epsilons: Radii of attacks in the log domain, in units of the natural logarithm of an image.
        controls: Whether noise of the same radii is added.
        label: Name of the one label that targeted attacks turn.
        goal_mask: File of the mask that targeted attacks aim at.

    Raises:
        ValueError: A radius is out of its range, a name is not text or that of the control, or no attack aims at what
            targeted attacks are to aim at.
    """
    for option, radii in (("epsilons", epsilons), ("log_epsilons", log_epsilons)):
        if radii is not None and not radii:
            raise ValueError(f"{option} is a list of radii, or null for each attack's own, got []")
    for radius in epsilons or []:
        check_radius("epsilons", radius, zero=True)
    for radius in log_epsilons or []:
        check_radius("log_epsilons", radius, "the natural logarithm of an image", zero=True)
    for name in attacks:
        if not isinstance(name, str) or name.strip() != name or not name:
            raise ValueError(f"the name of an attack is text without spaces around it, got {name!r}")
    untargeted = bool(attacks) and not any(attack.targeted for attack in attacks.values())
    if label is not None and untargeted:
        raise ValueError(f"label {label!r} is turned by targeted attacks, and none of these is: set targeted: true")
    if goal_mask is not None and untargeted:
        raise ValueError(f"targeted attacks aim at goal_mask {goal_mask}, and none of these is: set targeted: true")
    if controls and CONTROL in attacks:
        raise ValueError(f"an attack named {CONTROL!r} would be taken for the control of that name; rename one of them")


def planned_attacks(
    attacks: Mapping[str, Attack],
    epsilons: Sequence[float] | None,
    log_epsilons: Sequence[float] | None,
    controls: bool,
    seed: int | None,
) -> list[tuple[str, Attack]]:
    """Names and attacks in the order in which they run, as ``lay_out`` gives them; names repeat over radii.

    Args:
        attacks: Attacks by name.
        epsilons: As ``check_settings``.
        log_epsilons: As ``check_settings``.
        controls: As ``check_settings``.
        seed: Seed of all attacks' random streams; None leaves each attack its own.

    Raises:
        ValueError: Records cannot hold a seed.
    """
    laid_out = lay_out(attacks, epsilons, controls, log_epsilons)
    if seed is not None:
        laid_out = [(name, replace(attack, seed=seed)) for name, attack in laid_out]
    for name, attack in laid_out:
        if not isinstance(attack.seed, int) or not -LARGEST_SEED <= attack.seed <= LARGEST_SEED:
            raise ValueError(f"the seed of {name} is a whole number of at most 63 bits, got {attack.seed!r}")
    return laid_out
