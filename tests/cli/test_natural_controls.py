"""Studies of what nature does beside an enemy: shipped configurations, run on two phantoms."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

import cli.main
from medrobust.results.summary import read_summary

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
CONFIG = """
name: small
runs: runs
model:
  class_path: Classifier
  init_args: {backbone: resnet10t, channels: 1, mean: 0.4, std: 0.3}
data:
  class_path: PhantomChestXRay
  init_args: {root: data, patients: 20, side: 48, image_size: 32, channels: 1, batch_size: 4}
trainer: {max_epochs: 1, logger: false, accelerator: cpu, devices: 1, enable_progress_bar: false}
attack: {attacks: {fgsm: {class_path: FGSM, init_args: {epsilon: 2/255}}}}
quality: {download: false}
panels: {count: 1}
"""


def command(program: str, *words: Any) -> None:
    """Run a command line in this process."""
    cli.main.main(program, list(map(str, words)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a victim that was fine-tuned on phantoms."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "small.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["train.py"])
        command("train", "fit", "-c", "small.yaml")
    return folder


def test_bounded_fields_and_corruptions_stand_beside_each_other(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_run = ("-c", "runs/small/train.yaml")
    last = ("--ckpt_path", "best", "--data.limit", 2)
    command("evaluate", "test", *of_run, "-c", CONFIGS / "studies" / "sbf20_max_stops.yaml", *last)
    files = (CONFIGS / "attacks" / "corruptions.yaml", CONFIGS / "studies" / "medmnist_c.yaml")
    command("evaluate", "test", *of_run, *(part for file in files for part in ("-c", file)), *last)
    printed = capsys.readouterr().out
    assert "sbf-0.5" in printed and "smooth-1 (control)" in printed and "jpeg (control)" in printed

    found = Path("runs/small/evaluate")
    summary = read_summary(found)
    kinds = {row["attack"]: row["kind"] for row in summary["rows"]}
    assert [list(kinds.values()).count(kind) for kind in ("control", "attack")] == [9 + 15 + 1, 8 + 1]
    assert kinds["sbf-0.5"] == kinds["low"] == kinds["fgsm"] == "attack" and kinds["smooth-1"] == "control"
    entries = {entry["attack"]: entry for entry in summary["manifest"]["attacks"]}
    assert entries["jpeg"]["control"] and entries["jpeg"]["parameters"]["strength"] == 15
    assert summary["worst_case"][0]["attacks"] == ["fgsm"] and not entries["sbf-1"]["control"]

    bounds = pl.read_parquet(found / "figures" / "bias_fields_bounds.parquet")
    largest = dict(bounds.select("attack", "largest").iter_rows())
    assert all(largest[f"{name}-{stops}"] <= stops for name in ("sbf", "low", "warped") for stops in (0.5, 1, 2))
    assert set(bounds["line"]) == {"sbf", "low", "smooth", "warped", "smooth-low"}
    swept = pl.read_parquet(found / "figures" / "corruptions_accuracy.parquet")
    assert len(swept) == 15 and swept["severity"].unique().to_list() == [3]
    fields = pl.read_parquet(found / "figures" / "bias_fields_fields.parquet")
    assert len(fields) == 2 * 6 and float(fields.filter(pl.col("attack") == "sbf-1")["highest"].max()) <= 1
    report = (found / "report.html").read_text()
    assert "Bias fields over their images" in report and "Accuracy under corruptions" in report


def test_a_corruption_joins_the_attacks_of_a_run_and_is_its_control(folder: Path) -> None:
    more = folder / "more.yaml"
    more.write_text(
        "attack:\n  attacks+:\n    dark: {class_path: Corruption, init_args: {kind: exposure_down, severity: 5}}\n"
    )
    words = ("-c", "runs/small/train.yaml", "-c", more, "--ckpt_path", "best", "--data.limit", 2)
    command("evaluate", "test", *words)
    rows = {row["attack"]: row for row in read_summary("runs/small/evaluate")["rows"]}
    assert list(rows) == ["clean", "noise", "dark", "fgsm"]
    assert [row["kind"] for row in rows.values()] == ["clean", "control", "control", "attack"]
    assert rows["dark"]["means"]["ssim"] < 1 and rows["dark"]["mean_backwards"] == 0
