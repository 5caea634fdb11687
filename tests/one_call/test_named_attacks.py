"""Attacks and radii as they are written in Python."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from medrobust.attacks import FGSM, PGD, WorstCase
from medrobust.one_call.named_attacks import named_attacks, radii


def test_attacks_are_named_by_their_class_unless_they_have_names() -> None:
    pgd = PGD(steps=3)
    assert named_attacks(pgd) == {"pgd": pgd}
    assert named_attacks([pgd, "FGSM", PGD(), "pgd"]) == {"pgd": pgd, "fgsm": FGSM(), "pgd-2": PGD(), "pgd-3": PGD()}
    assert named_attacks({"mine": pgd, "suite": "standard"}) == {"mine": pgd, "suite": WorstCase(attacks="standard")}
    assert list(named_attacks("standard")) == ["standard"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("pgdd", "there is no attack or suite 'pgdd'; the nearest names are pgd"),
        ("Attack", "no attack or suite 'Attack'"),
        (PGD, r"an attack is an object, got the class PGD: write PGD\(\)"),
        ([PGD], r"an attack is an object, got the class PGD: write PGD\(\)"),
        ([3], "an attack is an Attack or the name of one, got a int"),
        (3, "attacks are Attack objects or names, .* got a int"),
        ([], "no attack is given"),
        ({}, "no attack is given"),
    ],
    ids=str,
)
def test_what_is_no_attack_is_refused(given: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        named_attacks(given)


def test_radii_remember_how_they_were_written() -> None:
    assert radii(None, "epsilons") is None
    assert [str(one) for one in radii(["2/255", 0.5], "epsilons") or ()] == ["2/255", "0.5"]
    assert radii("1/4", "epsilons") == radii(0.25, "epsilons") == [0.25]
    assert radii(Fraction(1, 4), "epsilons") == radii(np.float32(0.25), "epsilons") == [0.25]  # type: ignore[arg-type]
    for wrong in (True, [True], b"1/4"):
        with pytest.raises(ValueError, match="epsilons are radii such as"):
            radii(wrong, "epsilons")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="epsilons are radii such as 2 / 255 or '2/255', got 'x/3'"):
        radii("x/3", "epsilons")
    with pytest.raises(ValueError, match="log_epsilons are radii"):
        radii([None], "log_epsilons")  # type: ignore[list-item]
