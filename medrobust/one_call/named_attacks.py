"""Attacks and radii as they are written in Python: objects, names of classes and suites, fractions as text."""

import difflib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, TypeAlias, cast

from medrobust import attacks as library
from medrobust.attacks import Attack, WorstCase
from medrobust.attacks.budgets import Fraction
from medrobust.attacks.worst_case import SUITES

GivenAttack: TypeAlias = Attack | str
GivenAttacks: TypeAlias = GivenAttack | Sequence[GivenAttack] | Mapping[str, GivenAttack]
Radius: TypeAlias = float | str


def named_attacks(given: GivenAttacks) -> dict[str, Attack]:
    """Attacks by name.

    Args:
        given: Attacks, or names of classes in any case (``pgd``) and of suites (``standard``, ``masks``, ``boxes``: the
            worst case over several attacks), one or several; in a dictionary under names of your own.

    Returns:
        Attacks without a name of your own are called by their class, the second of a class ``pgd-2``.

    Raises:
        ValueError: There is no attack, or none of that name; the message lists the nearest names.

    >>> list(named_attacks(["fgsm", "pgd", "PGD"]))
    ['fgsm', 'pgd', 'pgd-2']
    """
    if isinstance(given, Mapping):
        found = {name: _attack(value) for name, value in given.items()}
    else:
        found = {}
        for value in [given] if isinstance(given, Attack | str) else _listed(given):
            attack = _attack(value)
            name = value if isinstance(value, str) and value in SUITES else type(attack).__name__.lower()
            count = sum(other == name or other.startswith(f"{name}-") for other in found)
            found[f"{name}-{count + 1}" if count else name] = attack
    if not found:
        raise ValueError("no attack is given: an evaluation needs at least one, such as 'pgd' or PGD(steps=40)")
    return found


def radii(given: "Radius | Sequence[Radius] | None", what: str) -> list[float] | None:
    """Radii as numbers that remember how they were written.

    Args:
        given: One or several, as numbers or as text such as ``8/255``; None for each attack's own.
        what: Their name, for the messages.

    Raises:
        ValueError: One is no number.

    >>> [str(radius) for radius in radii(["1/255", 0.5], "epsilons")]
    ['1/255', '0.5']
    """
    if given is None:
        return None
    try:
        alone = isinstance(given, str | Real) or getattr(given, "ndim", 1) == 0
        listed: list[Any] = [given] if alone else list(cast(Iterable[Any], given))
        if isinstance(given, bytes) or any(isinstance(one, bool) for one in listed):
            raise TypeError(f"a {type(listed[0] if listed else given).__name__} is no radius")
        return [Fraction(one) if isinstance(one, str) else float(one) for one in listed]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} are radii such as 2 / 255 or '2/255', got {given!r} ({error})") from None


def _listed(given: Any) -> list[Any]:
    if inspect.isclass(given):
        return [given]
    if not isinstance(given, Sequence):
        raise ValueError(
            f"attacks are Attack objects or names, one or several or in a dictionary, got a {type(given).__name__}"
        )
    return list(given)


def _attack(given: Any) -> Attack:
    """An attack itself, or the one of a name with its default settings."""
    if isinstance(given, Attack):
        return given
    if inspect.isclass(given) and issubclass(given, Attack):
        raise ValueError(f"an attack is an object, got the class {given.__name__}: write {given.__name__}()")
    if not isinstance(given, str):
        raise ValueError(f"an attack is an Attack or the name of one, got a {type(given).__name__}")
    if given in SUITES:
        suite: Any = given
        return WorstCase(attacks=suite)
    kinds = {name.lower(): getattr(library, name) for name in library.__all__}
    kinds = {name: kind for name, kind in kinds.items() if issubclass(kind, Attack) and not inspect.isabstract(kind)}
    if given.lower() not in kinds:
        names = [*SUITES, *kinds]
        near = difflib.get_close_matches(given.lower(), names, n=3, cutoff=0.4)
        raise ValueError(f"there is no attack or suite {given!r}; the nearest names are {', '.join(near or names)}")
    attack: Attack = kinds[given.lower()]()
    return attack
