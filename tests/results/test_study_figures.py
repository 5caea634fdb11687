"""The figures of Grad-CAM, loss landscapes and sensitive regions: their numbers by hand, and that they are drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from medrobust.results.figures.grad_cam import grad_cam
from medrobust.results.figures.loss_landscape import loss_landscape
from medrobust.results.figures.pictures import show_blended
from medrobust.results.figures.sensitive_regions import sensitive_regions
from medrobust.results.figures.sheet import NothingToDrawError, Sheet, panels, write_sheet
from medrobust.results.figures.studied_run import StudiedRun, attacks_of
from medrobust.results.studied import Kept, Studied

SIDE = 20
NAN = float("nan")


def about(
    attack: str | None = None, epsilon: float | None = None, right: bool = True, after: bool = False
) -> dict[str, Any]:
    own = {"attack": attack, "epsilon": epsilon} if attack else {}
    return {"right_before": right, "right_after": after if attack else right, **own}


def image(value: float = 0.5, channels: int = 1) -> np.ndarray:
    return np.full((channels, SIDE, SIDE), value, np.float16)


def run_of(studied: Studied, label: str = "a", rows: Sequence[dict[str, Any]] = ()) -> StudiedRun:
    return StudiedRun(label, {"rows": list(rows)}, studied)


def drawn(sheets: Sequence[Sheet], folder: Path) -> None:
    for sheet in sheets:
        assert "<svg" in write_sheet(folder, sheet).svg and sheet.label and sheet.source


CAM = {"explains": "prediction", "layer": None}


def cam(label: str, overlaps: Sequence[float], channels: int = 1) -> StudiedRun:
    ids = [f"{place}" for place in range(len(overlaps))]
    maps = np.linspace(0, 1, SIDE * SIDE, dtype=np.float16).reshape(SIDE, SIDE)
    clean = [
        Kept(id, about(), {"image": image(channels=channels), "map": maps, "cells": np.array([2, 3])}) for id in ids
    ]
    arrays = [{"image": image(channels=channels), "map": maps.T, "overlap": np.float64(one)} for one in overlaps]
    attacked = {
        "of pgd": [
            Kept(id, about("pgd", 0.1, after=place == 0), own)
            for place, (id, own) in enumerate(zip(ids, arrays, strict=True))
        ],
        "of noise": [Kept(id, about("noise", 0.1, after=True), arrays[0]) for id in ids],
    }
    rows = [{"key": "of pgd", "kind": "attack"}, {"key": "of noise", "kind": "control"}]
    return run_of(Studied("cam", "GradCAM", CAM, ids, clean, attacked), label, rows)


def test_grad_cam_shows_the_overlap_of_every_attack_and_the_control_last(tmp_path: Path) -> None:
    runs = [cam("a", [0.9, 0.2, NAN]), cam("b", [0.5, 0.7], channels=3)]
    assert [attack.label for attack in attacks_of(runs[0])] == ["pgd", "noise"]
    maps, overlap = grad_cam(runs)
    own = overlap.table.filter((pl.col("run") == "a") & (pl.col("attack") == "pgd"))
    assert own["overlap"].to_list() == [0.9, 0.2, None] and own["fooled"].to_list() == [False, True, True]
    assert "a, pgd: median 0.55 of 2 images" in overlap.note and "b, pgd: median 0.60 of 2 images" in overlap.note
    assert "Pairs left out, since a map is 0 everywhere: 1." in overlap.note
    line = overlap.draw().axes[0].lines[0]
    assert line.get_xydata().tolist() == [[0.0, 0.0], [0.2, 0.5], [0.9, 1.0], [1.0, 1.0]]
    assert "a: 2 x 3 of the last spatial layer" in maps.note and "fewer than 4 x 4 places" in overlap.note
    drawn([maps, overlap], tmp_path)


def test_grad_cam_needs_clean_and_attacked_images() -> None:
    run = cam("a", [0.5])
    with pytest.raises(NothingToDrawError, match="No image has been looked at yet, clean and under an attack"):
        grad_cam([run._replace(studied=run.studied._replace(attacked={}))])


def landscape(label: str, slopes: Sequence[float], surrogates: Sequence[str] = ()) -> StudiedRun:
    """The margin of an image is slope * e1 - 1 for e1 from 0 to 2, and its loss twice that of e2."""
    ids = [str(place) for place in range(len(slopes))]
    first, second = np.meshgrid([0.0, 1.0, 2.0], [0.0, 1.0, 2.0], indexing="ij")
    kept = [
        Kept(
            id,
            about(),
            {"image": image(), "margin": slope * first - 1, "loss": 2 * second}
            | {"cosine": np.float32(0.25), "lost": np.bool_(id == "0")},
        )
        for id, slope in zip(ids, slopes, strict=True)
    ]
    parameters = {"epsilon": "2/255", "points": 3, "surrogates": list(surrogates)}
    return run_of(Studied("plane", "LossLandscape", parameters, ids, kept, {}), label)


def test_a_landscape_has_each_point_of_its_images_and_their_mean(tmp_path: Path) -> None:
    images, mean = loss_landscape([landscape("a", [1.0, 3.0]), landscape("b", [0.0], ["other"])])
    point = (pl.col("run") == "a") & ((pl.col("epsilon_1") * 255 - 1).abs() < 1e-9) & (pl.col("epsilon_2") == 0)
    (row,) = mean.table.filter(point).to_dicts()
    assert row["margin"] == pytest.approx((0.0 + 2.0) / 2) and row["wrong"] == 0.5 and row["images"] == 2
    assert images.table.filter(point)["margin"].to_list() == [0.0, 2.0]
    (corner,) = mean.table.filter((pl.col("run") == "a") & (pl.col("epsilon_1") == 0)).tail(1).to_dicts()
    assert corner["epsilon_2"] == pytest.approx(2 / 255) and corner["loss"] == 4 and corner["margin"] == -1
    told = "a, 2 images up to 2/255: mean loss 0 at the images (0.0 % wrong), 0 at the end of ε₁ (100.0 % wrong), 4 at"
    assert (
        told in mean.note and "mean cosine of both directions 0.25" in mean.note and "Of 2 images the loss" in mean.note
    )
    assert "the sign of the surrogates' gradient or random signs" in mean.note
    drawn([images, mean], tmp_path)


def test_a_flat_landscape_is_drawn(tmp_path: Path) -> None:
    run = landscape("a", [0.0])
    flat = run.studied.clean[0]._replace(arrays={**run.studied.clean[0].arrays, "loss": np.zeros((3, 3))})
    drawn(loss_landscape([run._replace(studied=run.studied._replace(clean=[flat]))])[1:], tmp_path)


def regions(label: str, masks: Sequence[np.ndarray], turned: Sequence[bool]) -> StudiedRun:
    ids = [str(place) for place in range(len(masks))]
    kept = [
        Kept(
            id,
            about("sbf", None, after=not fooled),
            {"image": image(0.25), "adversarial": image(0.75), "mask": mask}
            | {"score_clean": np.float32(0.9), "score_adversarial": np.float32(0.1), "score_masked": np.float32(0.2)},
        )
        for id, mask, fooled in zip(ids, masks, turned, strict=True)
    ]
    return run_of(Studied("regions", "SensitiveRegions", {}, ids, [], {"of sbf": kept}), label)


def test_the_mean_mask_is_that_of_the_images_that_were_fooled(tmp_path: Path) -> None:
    top, all_of_it, none = np.zeros((SIDE, SIDE)), np.ones((SIDE, SIDE)), np.full((SIDE, SIDE), NAN)
    top[:4] = 1  # two bands of ten
    masks, mean = sensitive_regions([regions("a", [top, all_of_it, none], [True, True, False])])
    assert masks.table["share"].to_list() == [pytest.approx(0.2), 1.0]
    assert masks.table["score_masked"].to_list() == pytest.approx([0.2, 0.2])
    bands = mean.table.filter(pl.col("along") == "top to bottom")
    assert bands["mask"].to_list() == [1.0] * 2 + [0.5] * 8 and bands["images"].to_list() == [2] * 10
    assert mean.table.filter(pl.col("along") == "left to right")["mask"].to_list() == pytest.approx([0.6] * 10)
    assert bands["change"].to_list() == pytest.approx([0.5] * 10)
    assert "a, sbf: a mean mask of 0.600, 2 images" in masks.note
    drawn([masks, mean], tmp_path)


def test_a_map_lies_over_its_image_the_more_opaque_the_larger_it_is() -> None:
    """Black at 0, with 0.15 of the sum, and 0.65 of inferno's yellow (252, 255, 164) / 255 at 1, over grey 0.4."""
    _, ((axis,),) = panels(1, 1)
    show_blended(axis, np.full((1, 1, 3), 0.4), np.array([[0.0, 1.0, NAN]]))
    (seen,) = axis.images
    shown = np.asarray(seen.get_array())
    np.testing.assert_allclose(shown[0, 0], 0.85 * 0.4, atol=0.005)
    np.testing.assert_allclose(shown[0, 1], 0.35 * 0.4 + 0.65 * np.array([252, 255, 164]) / 255, atol=0.005)
    np.testing.assert_allclose(shown[0, 2], shown[0, 0])


def test_without_a_fooled_image_there_is_no_mask_to_draw() -> None:
    with pytest.raises(NothingToDrawError, match="No attack has turned any of the images from right to wrong yet"):
        sensitive_regions([regions("a", [np.zeros((SIDE, SIDE))], [False])])
