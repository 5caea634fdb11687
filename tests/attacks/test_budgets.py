"""Radii written as fractions, their check, and one random stream per image."""

import copy
import json
import math
import pickle
from typing import Any

import pytest
import torch

from medrobust.attacks.budgets import Fraction, check_radius
from medrobust.random_streams import image_generator, per_image_uniform


@pytest.mark.parametrize(
    ("text", "value"),
    [("8/255", 8 / 255), ("0.3/255", 0.3 / 255), (" 1 / 256 ", 1 / 256), ("0.5", 0.5), (0.25, 0.25), (1e-7, 1e-7)],
)
def test_a_fraction_is_the_number_that_it_names(text: Any, value: float) -> None:
    assert Fraction(text) == value
    assert isinstance(Fraction(text), float)


def test_a_fraction_remembers_how_it_was_written_also_after_copies_and_pickles() -> None:
    original = Fraction("8/255")
    for again in (
        copy.copy(original),
        copy.deepcopy(original),
        pickle.loads(pickle.dumps(original)),
        Fraction(original),
    ):
        assert (str(again), f"{again}", again) == ("8/255", "8/255", 8 / 255)
    assert hash(original) == hash(8 / 255)
    assert json.loads(json.dumps(original)) == 8 / 255


@pytest.mark.parametrize("text", ["eight", "8/0", "8/255/2", "", "/", "8/"])
def test_a_text_that_is_no_fraction_is_refused_and_shown(text: str) -> None:
    with pytest.raises(ValueError, match="expected a number or a fraction such as 8/255") as error:
        Fraction(text)
    assert repr(text) in str(error.value)


@pytest.mark.parametrize("value", [0.0, -0.1, 1.0001, 8.0, math.nan, math.inf, -math.inf])
def test_a_radius_outside_the_unit_interval_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"epsilon is in units of the \[0, 1\] image range and lies in \(0, 1\], got"):
        check_radius("epsilon", value)


def test_a_radius_in_grey_levels_gets_a_hint_and_another_one_none() -> None:
    with pytest.raises(ValueError, match=r"got 8 \(did you mean 8/255\?\)"):
        check_radius("epsilon", 8)
    with pytest.raises(ValueError, match=r"got -1$"):
        check_radius("epsilon", -1)


@pytest.mark.parametrize("value", [1e-9, 8 / 255, 1.0, Fraction("1/256")])
def test_a_radius_inside_the_unit_interval_is_accepted(value: float) -> None:
    check_radius("epsilon", value)
    for outside in (-value, 1 + value):
        with pytest.raises(ValueError, match="lies in"):
            check_radius("epsilon", outside)


def test_a_stream_depends_on_seed_method_and_id_and_on_nothing_else() -> None:
    def draw(*name: Any) -> list[float]:
        return torch.rand(4, generator=image_generator(*name)).tolist()

    assert draw(0, "PGD", "a") == draw(0, "PGD", "a")
    names = [(0, "PGD", "a"), (1, "PGD", "a"), (0, "BIM", "a"), (0, "PGD", "b"), (0, "PGD", ""), (-1, "PGD", "a")]
    assert len({tuple(draw(*name)) for name in names}) == len(names)


def test_an_id_with_a_slash_does_not_meet_another_stream() -> None:
    """``DIM/diversity`` is a stream of its own; an image in a folder of that name must not share it."""
    one = torch.rand(4, generator=image_generator(0, "DIM", "diversity/a"))
    other = torch.rand(4, generator=image_generator(0, "DIM/diversity", "a"))
    assert not torch.equal(one, other)


def test_noise_of_an_image_is_the_same_in_any_batch_and_order_and_precision() -> None:
    like = torch.empty(0)
    together = per_image_uniform(["a", "b", "c"], (3, 5, 4), 7, "PGD", like)
    turned = per_image_uniform(["c", "a"], (3, 5, 4), 7, "PGD", like)
    assert torch.equal(turned, together[[2, 0]])
    double = per_image_uniform(["b"], (3, 5, 4), 7, "PGD", like.double())
    assert double.dtype == torch.float64
    assert torch.equal(double[0].float(), together[1])
    assert per_image_uniform([], (3, 5, 4), 7, "PGD", like).shape == (0, 3, 5, 4)


def test_noise_is_uniform_and_leaves_the_global_stream_alone() -> None:
    """Mean 0, variance 1/3, and for n draws the standard error of the mean is sqrt(1/3n)."""
    torch.manual_seed(3)
    before = torch.get_rng_state()
    noise = per_image_uniform([str(i) for i in range(100)], (1, 40, 40), 0, "noise", torch.empty(0)).double()
    assert torch.equal(torch.get_rng_state(), before)
    error = math.sqrt(1 / 3 / noise.numel())
    assert abs(float(noise.mean())) < 5 * error
    assert float(noise.var()) == pytest.approx(1 / 3, abs=3e-3)
    assert -1 <= float(noise.min()) < -0.9999
    assert 0.9999 < float(noise.max()) <= 1
    counts = torch.histc(noise.float(), 20, -1, 1)
    assert float((counts / counts.mean() - 1).abs().max()) < 0.06  # each of 20 cells holds 8,000 +- 87
