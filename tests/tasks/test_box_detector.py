"""A Faster R-CNN goes through ``evaluate.py test``: its records hold the boxes and what an attack did to them."""

import json
from typing import Any

import polars as pl
import pytest

from medrobust.results.boxes import box_results
from medrobust.results.manifest import read_manifest
from medrobust.results.summary import read_summary
from tests.bright_boxes import SETTINGS, SIDE, BrightBoxes, scene_of, trained
from tests.tasks import conftest


def test_pgd_takes_boxes_away(evaluate: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    options = conftest.OPTIONS.replace("image_size 8", f"image_size {SIDE}").replace("channels 1", "channels 3")
    built = {"num_classes": 2, **SETTINGS}
    options += "".join(f" --model.{name} {value}" for name, value in built.items())
    monkeypatch.setattr(conftest, "OPTIONS", options + " --data.resize squash")
    records = evaluate(
        trained(),
        BrightBoxes,
        {"pgd": {"class_path": "PGD", "init_args": {"epsilon": 0.1, "step_size": 0.02, "steps": 8}}},
    )

    pgd, noise = (records.filter(pl.col("attack").str.starts_with(name)) for name in ("pgd", "noise"))
    assert len(pgd) == len(noise) == len(records) / 2 >= 10
    for row in pgd.iter_rows(named=True):
        scene = scene_of(int(row["id"]))
        true = [[label, *box] for label, box in zip(scene.labels.tolist(), scene.boxes.tolist(), strict=True)]
        assert json.loads(row["boxes_true"]) == true
        assert (row["quality_before"] is None) == (row["iou_before"] is None) == (not true)
        for when in ("before", "after"):
            scores = [score for _, score, *_ in json.loads(row[f"boxes_{when}"])]
            assert scores == sorted(scores, reverse=True) and all(score >= 0.05 for score in scores)
        assert 0 <= row["boxes_lost"] + row["boxes_relabelled"] <= len(true)
        if true and not any(score >= 0.5 for _, score, *_ in json.loads(row["boxes_after"])):
            assert row["quality_after"] == row["iou_after"] == 0
    assert pgd["quality_before"].mean() > 0.9 and pgd["quality_after"].mean() < noise["quality_after"].mean() - 0.2

    folder = tmp_path / "toy" / "evaluate"
    summary = read_summary(folder)
    assert not any(name.startswith(("boxes_", "iou_")) for row in summary["rows"] for name in row["means"])
    tables = {None: records} | {key: rows for (key,), rows in records.group_by("key")}
    found = box_results(summary["rows"], tables, read_manifest(folder))
    clean, control, attacked = found["rows"]
    assert found["names"] == ["bright", "dark"] and [row["kind"] for row in found["rows"]] == [
        "clean",
        "control",
        "attack",
    ]
    assert clean["map50"] > 0.9 and control["map50"] > attacked["map50"] and attacked["lost"] > control["lost"]
    assert clean["n_boxes"] == sum(len(scene_of(int(id)).labels) for id in pgd["id"])
