"""Colours of figures: told apart by protanopes and deuteranopes, and readable on the page, light and dark."""

from itertools import combinations

import numpy as np
import pytest
from numpy.typing import NDArray

from medrobust.results.report.svg import DARK, LIGHT, SHAPES, series_style

PAGES = {"light": (LIGHT, ("#ffffff", "#f6f7f9")), "dark": (DARK, ("#1a2027", "#12161b"))}
# Machado, Oliveira & Fernandes (2009): what is left of linear red, green and blue without a kind of cones
SEEN = {
    "all": np.eye(3),
    "protanope": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranope": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
}
NINE = 9  # detectors
APART = 14.0  # CIE 1976; 2.3 is just noticeable


def linear(colour: str) -> NDArray[np.float64]:
    """Linear red, green and blue of a colour as web pages write it (IEC 61966-2-1)."""
    values = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIE L*a*b* (1976) of linear values, for the white point D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = to_xyz @ np.clip(values, 0, 1) / np.array([0.9505, 1.0, 1.089])
    fx, fy, fz = (np.cbrt(one) if one > 216 / 24389 else (24389 / 27 * one + 16) / 116 for one in (x, y, z))
    return np.array([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)])


def contrast(one: str, other: str) -> float:
    """Contrast of two colours (WCAG 2.2)."""
    low, high = sorted(float(linear(colour) @ np.array([0.2126, 0.7152, 0.0722])) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


def test_the_measures_by_known_values() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21) and contrast("#777777", "#ffffff") == pytest.approx(
        4.48, abs=0.01
    )
    np.testing.assert_allclose(lab(linear("#ff0000")), [53.2, 80.1, 67.2], atol=0.1)


@pytest.mark.parametrize("scheme", PAGES)
def test_words_in_every_colour_can_be_read(scheme: str) -> None:
    colours, pages = PAGES[scheme]
    assert min(contrast(colour, page) for colour in colours for page in pages) >= 4.5


@pytest.mark.parametrize("eyes", SEEN)
@pytest.mark.parametrize("scheme", PAGES)
def test_any_two_of_nine_series_differ_in_dashes_and_shapes_or_in_colours(scheme: str, eyes: str) -> None:
    colours, _ = PAGES[scheme]
    for one, other in combinations(range(NINE), 2):
        (hue, dash), (other_hue, other_dash) = (series_style(number).split() for number in (one, other))
        shown = [lab(SEEN[eyes] @ linear(colours[int(name[1:])])) for name in (hue, other_hue)]
        if dash == other_dash or one % SHAPES == other % SHAPES:
            assert np.linalg.norm(shown[0] - shown[1]) >= APART, (one, other)


def test_no_two_of_thirty_two_series_are_drawn_alike() -> None:
    assert len({series_style(number) for number in range(32)}) == 32
