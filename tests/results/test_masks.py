"""Numbers of masks: means over the images that have a value, by hand, with intervals over patients."""

import math
from typing import Any

import polars as pl
import pytest

from medrobust.results.columns import SCORE_PATTERNS, mask_column
from medrobust.results.masks import mask_results
from medrobust.results.statistics import Z95, mean_interval, wilson_interval

MANIFEST = {"data": {"class_names": ["background", "left lung", "right-lung"]}}
CLEAN = {"attack": "clean", "epsilon": None, "key": None, "kind": "clean"}
PGD = {"attack": "pgd", "epsilon": 0.1, "key": "k1", "kind": "attack"}
BIM = {"attack": "bim", "epsilon": 0.1, "key": "k2", "kind": "attack"}


def table_of(left: list[Any], right: list[Any], distances: list[Any], attack: str, **columns: Any) -> pl.DataFrame:
    count = len(left)
    held: dict[str, Any] = {
        "id": [f"image-{place}" for place in range(count)],
        "patient": [f"patient-{place // 2}" for place in range(count)],
        "pixel_accuracy_before": [0.9, 0.8, 1.0, None][:count],
        "pixel_accuracy_after": [0.5, 0.6, 0.7, None][:count],
        "flipped_pixels": [0.4, 0.2, 0.3, None][:count],
    }
    for name, values in (("left_lung", left), ("right_lung", right)):
        for what in ("before", "after"):
            share = 1.0 if what == "before" else 0.5
            scaled = [None if value is None else share * value for value in values]
            held[mask_column("jaccard", name, what)] = scaled
            held[mask_column("dice", name, what)] = [None if x is None else 2 * x / (1 + x) for x in scaled]
            held[mask_column("hausdorff95", name, what)] = distances
    types = {name: pl.Float64 for name in held if name not in ("id", "patient")}
    return pl.DataFrame({**held, **columns}, schema_overrides=types)


LEFT, RIGHT, DISTANCES = [0.8, 0.6, None, None], [0.4, None, None, None], [3.0, 8.0, None, None]


def test_means_over_the_images_that_have_a_value() -> None:
    pgd = table_of(LEFT, RIGHT, DISTANCES, "pgd")
    both = pl.concat([pgd, pgd])  # the clean row counts an image once
    found = mask_results([CLEAN, PGD], {None: both, "k1": pgd}, MANIFEST)
    clean, attacked = found["rows"]

    assert found["names"] == ["left lung", "right-lung"]
    assert {name: clean[name] for name in ("attack", "epsilon", "key", "kind")} == CLEAN
    assert clean["n"] == 3 and clean["pixel_accuracy"] == pytest.approx(0.9)
    assert clean["flipped_pixels"] is None and clean["n_flipped_pixels"] == 0
    assert clean["jaccard"] == pytest.approx((0.6 + 0.6) / 2) and clean["n_jaccard"] == 2
    left, right = clean["classes"]
    assert (left["name"], left["n"], right["n"]) == ("left lung", 2, 1)
    assert left["jaccard"] == pytest.approx(0.7) and left["dice"] == pytest.approx((1.6 / 1.8 + 1.2 / 1.6) / 2)
    assert right["jaccard"] == pytest.approx(0.4) and right["jaccard_interval"] is None
    assert left["hausdorff95"] == 5.5 and left["n_hausdorff95"] == 2 and left["hausdorff95_interval"] is None

    assert attacked["pixel_accuracy"] == pytest.approx(0.6) and attacked["flipped_pixels"] == pytest.approx(0.3)
    assert attacked["n_flipped_pixels"] == 3
    assert attacked["jaccard"] == pytest.approx(0.3)
    # of the two patients the first has images of 0.4 and 0.2, the second one of 0.3: both agree with the mean
    assert attacked["flipped_pixels_interval"] == pytest.approx(wilson_interval(0.6, 2))
    # deviations -0.1, 0, 0.1 from 0.6: those of the first patient sum to -0.1, s = sqrt(2 (0.01 + 0.01)) / 3
    half = Z95 * math.sqrt(2 * 0.02) / 3
    assert attacked["pixel_accuracy_interval"] == pytest.approx([0.6 - half, 0.6 + half])


def test_distances_are_not_cut_at_one() -> None:
    table = table_of(LEFT, RIGHT, [3.0, None, 8.0, None], "pgd")
    (row,) = mask_results([PGD], {"k1": table}, MANIFEST)["rows"]
    half = Z95 * math.sqrt(2 * (2.5**2 + 2.5**2)) / 2
    assert row["classes"][0]["hausdorff95_interval"] == pytest.approx([max(0, 5.5 - half), 5.5 + half])
    assert (
        mean_interval(
            table["hausdorff95_left_lung_after"].drop_nulls().to_numpy() / 10, table["id"].to_numpy()[:2] == "image-0"
        )[1]
        == 1
    )


def test_images_without_any_foreground_and_attacks_without_an_image() -> None:
    nothing = [None] * 4
    table = table_of(nothing, nothing, nothing, "pgd")
    found = mask_results([CLEAN, PGD, BIM], {None: table, "k1": table, "k2": table.clear()}, MANIFEST)
    assert [row["attack"] for row in found["rows"]] == ["clean", "pgd"]
    assert found["rows"][1]["jaccard"] is None and found["rows"][1]["jaccard_interval"] is None
    assert found["rows"][1]["classes"][0]["n"] == 0 and found["rows"][1]["pixel_accuracy"] == pytest.approx(0.6)


def test_records_of_other_tasks_have_none_and_unnamed_classes_are_found() -> None:
    assert mask_results([CLEAN], {None: pl.DataFrame({"id": ["a"], "dice_throws": [1]})}, MANIFEST) == {}
    table = table_of(LEFT, RIGHT, DISTANCES, "pgd")
    unnamed = table.rename(lambda name: name.replace("left_lung", "1").replace("right_lung", "2"))
    found = mask_results([PGD], {"k1": unnamed}, {"data": {}})
    assert found["names"] == ["1", "2"]
    named = mask_results([PGD], {"k1": table}, MANIFEST)["rows"][0]
    assert found["rows"][0]["classes"][1] == {**named["classes"][1], "name": "2"}


def test_the_columns_are_no_measurements() -> None:
    table = table_of(LEFT, RIGHT, DISTANCES, "pgd", dice_throws=[1, 2, 3, 4])
    assert table.select(pl.exclude(list(SCORE_PATTERNS))).columns == ["id", "patient", "dice_throws"]
