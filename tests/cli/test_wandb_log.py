"""What W&B is sent of an evaluation: curves, headline numbers, tables, chosen pictures, the report and the files."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars
import pytest
from PIL import Image

from cli.wandb_log import log_checkpoints, log_results
from cli.wandb_pictures import caption, chosen_panels, outcome, picture_of
from cli.wandb_run import RunLogger, WandbOptions, run_id
from medrobust.results.columns import TYPES
from tests.sample_record import record as record_of

KEYS = [f"{place:016d}" for place in range(3)]  # of three attacks


class Run:
    """Stands for a run of W&B, and keeps what it is given."""

    disabled, id = False, "tiny-test-1"

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.metrics: dict[str, dict[str, Any]] = {}
        self.artifacts: list[Any] = []

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def define_metric(self, name: str, **options: Any) -> None:
        self.metrics[name] = options

    def log_artifact(self, artifact: Any) -> None:
        self.artifacts.append(artifact)


def logger_of(folder: Path, **options: Any) -> tuple[RunLogger, Run]:
    """A logger whose run has begun, and that run."""
    log, run = RunLogger(folder, WandbOptions(**options)), Run()
    log.begun, log._experiment = True, run
    return log, run


def panel(folder: Path, id: str, key: str, target: int, before: int, after: int, **more: Any) -> None:
    """A panel of an image with its three pictures."""
    folder = folder / "panels"
    folder.mkdir(exist_ok=True)
    names = {kind: f"{kind}.png" for kind in ("clean", "perturbation", "adversarial")}
    for place, name in enumerate(names.values()):
        Image.new("L", (8, 8), 60 * place).save(folder / name)
    said = {"target": target, "clean_prediction": before, "adversarial_prediction": after}
    said |= {"clean_confidence": 0.9, "adversarial_confidence": 0.6}
    about = {"id": id, "key": key, "attack": f"attack-{key[-1]}", "epsilon": 1 / 255, "success": before != after}
    (folder / f"{id}-{key}.json").write_text(json.dumps(about | said | {"images": names} | more))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of an evaluation: two attacks on three images, and a panel."""
    folder = tmp_path / "evaluate"
    folder.mkdir()
    rows = [{"schema": 2, **record_of(f"image-{place}", key)} for key in KEYS[:2] for place in range(3)]
    polars.DataFrame(rows, schema=TYPES).write_parquet(folder / "records.parquet")
    (folder / "report.html").write_text("<!doctype html><title>report</title>")
    for name in ("summary.json", "manifest.json"):
        (folder / name).write_text("{}")
    panel(folder, "image-0", KEYS[0], 0, 0, 1)
    panel(folder, "image-1", "of an earlier victim", 0, 0, 1)
    run_id(folder, "tiny", "test", True)
    return folder


def summary_of() -> dict[str, Any]:
    """What ``finish`` returns, as far as it is sent."""
    head = {"kind": "attack", "n": 3, "images": 3, "attack": "fgsm", "clean_accuracy": 1.0}
    rows = [
        {**head, "attack": "clean", "kind": "clean", "epsilon": None, "accuracy_under_attack": 1.0},
        {**head, "epsilon": 1 / 255, "accuracy_under_attack": 0.25, "accuracy_under_attack_interval": [0.1, 0.5]},
        {**head, "epsilon": 8 / 255, "accuracy_under_attack": 0.0, "accuracy_under_attack_interval": [0.0, 0.3]},
    ]
    attacks = [{"key": key, "attack": f"attack-{key[-1]}"} for key in KEYS]
    return {
        "rows": rows,
        "worst_case": [
            {"epsilon": row["epsilon"], "n": 3, "accuracy": row["accuracy_under_attack"]} for row in rows[1:]
        ],
        "flags": [{"message": "Only 3 images.", "severity": "warning"}],
        "manifest": {"run": "tiny", "data": {"class_names": ["healthy", "ill"]}, "attacks": attacks},
    }


def test_curves_have_epsilon_as_their_axis_and_headlines_are_in_the_table_of_runs(folder: Path) -> None:
    log, run = logger_of(folder)
    log_results(log, folder, summary_of(), step=40)

    assert run.metrics["epsilon"]["hidden"] and run.metrics["epsilon"]["summary"] == "none"
    names = {"curves/fgsm/accuracy", "curves/worst_case/accuracy", "curves/clean/accuracy"}
    assert {name: run.metrics[name] for name in run.metrics if name != "epsilon"} == {
        name: {"step_metric": "epsilon", "summary": "none"} for name in names
    }
    first, second, last = run.rows
    assert first == {"epsilon": 1 / 255} | dict.fromkeys(names, 0.25) | {"curves/clean/accuracy": 1.0}
    assert second == {"epsilon": 8 / 255} | dict.fromkeys(names, 0.0) | {"curves/clean/accuracy": 1.0}
    assert last["trainer/global_step"] == 40 and last["worst_case_accuracy_1_255"] == 0.25
    assert not [name for name in last if name.startswith("attacks/")]  # they would make a panel each
    assert run.summary["attacks/fgsm/1_255/accuracy_under_attack"] == 0.25
    assert run.summary["worst_case_accuracy_8_255"] == 0.0 and run.summary["flags"] == ["Only 3 images."]


def test_tables_pictures_report_and_files_are_sent(folder: Path) -> None:
    log, run = logger_of(folder)
    log_results(log, folder, summary_of(), step=0)

    media = run.rows[-1]
    results = media["results"]
    assert [row[results.columns.index("radius")] for row in results.data] == ["–", "1/255", "8/255"]
    assert results.data[1][results.columns.index("accuracy_under_attack_upper")] == 0.5
    assert "success_rate" not in results.columns  # of which no row has a value
    assert [row[media["worst_case"].columns.index("accuracy")] for row in media["worst_case"].data] == [0.25, 0.0]
    assert len(media["records"].data) == 6 and run.summary["records_shown"] == run.summary["records_in_all"] == 6
    (picture,) = media["panels"]  # not those of an earlier victim
    assert (picture._width, picture._height) == (24, 8)
    assert picture._caption == "attack-0 1/255, fooled: image-0, truth healthy, victim healthy (90.0 %) -> ill (60.0 %)"
    assert media["report"].html == "<!doctype html><title>report</title>"
    (artifact,) = run.artifacts
    assert (artifact.name, artifact.type) == ("evaluation-tiny-test-1", "evaluation")
    assert set(artifact.manifest.entries) == {"report.html", "records.parquet", "summary.json", "manifest.json"}


def test_records_are_cut_to_whole_images(folder: Path) -> None:
    log, run = logger_of(folder, records=5)
    log_results(log, folder, summary_of(), step=0)
    table = run.rows[-1]["records"]
    shown = Counter(row[table.columns.index("id")] for row in table.data)
    assert list(shown.values()) == [2, 2] and (run.summary["records_shown"], run.summary["records_in_all"]) == (4, 6)

    log, run = logger_of(folder, records=0, pictures=0)
    log_results(log, folder, summary_of(), step=0)
    assert not {"records", "panels"} & set(run.rows[-1])


def test_curves_are_sent_once(folder: Path) -> None:
    for expected in (3, 1):  # the run would draw them twice
        log, run = logger_of(folder)
        log_results(log, folder, summary_of(), step=0)
        assert len(run.rows) == expected and run.summary["clean_accuracy"] == 1.0


@pytest.mark.parametrize(("begun", "disabled"), [(False, False), (True, True)])
def test_nothing_is_sent_to_a_run_that_is_switched_off(folder: Path, begun: bool, disabled: bool) -> None:
    log, run = logger_of(folder)
    log.begun, run.disabled = begun, disabled
    log_results(log, folder, summary_of(), step=0)
    log_checkpoints(log, SimpleNamespace(best_model_path=str(folder / "report.html"), last_model_path=""))
    assert not run.rows and not run.artifacts


def test_checkpoints_are_an_artifact(folder: Path) -> None:
    log, run = logger_of(folder)
    for name in ("best.ckpt", "last.ckpt"):
        (folder / name).write_text(name)
    kept = {"best_model_path": str(folder / "best.ckpt"), "last_model_path": str(folder / "last.ckpt")}
    log_checkpoints(log, SimpleNamespace(monitor="val/loss", best_model_score=0.25, **kept))
    (artifact,) = run.artifacts
    assert (artifact.name, artifact.type) == ("model-tiny-test-1", "model")
    assert set(artifact.manifest.entries) == {"best.ckpt", "last.ckpt"}
    assert artifact.metadata == {"monitor": "val/loss", "best_score": 0.25}


def test_pictures_are_chosen_evenly_over_classes_and_outcomes(folder: Path) -> None:
    """30 healthy images are fooled by each of three attacks; of the ill ones one withstands and one was wrong before.

    The first 6 files are all of the same kind; of 6 chosen ones, 4 are healthy, and no attack has more than 2 of them.
    """
    for place in range(30):
        for key in KEYS:
            panel(folder, f"a-{place:02d}", key, 0, 0, 1)
    panel(folder, "z-0", KEYS[1], 1, 1, 1)
    panel(folder, "z-1", KEYS[2], 1, 0, 0)
    (folder / "panels" / "broken.json").write_text("{")
    chosen = chosen_panels(folder, summary_of()["manifest"], 6)
    kinds = Counter((one["target"], outcome(one)) for one in chosen)
    assert kinds == {(0, "fooled"): 4, (1, "withstood"): 1, (1, "wrong before"): 1}
    assert max(Counter(one["key"] for one in chosen if one["target"] == 0).values()) == 2
    assert len({one["id"] + one["key"] for one in chosen}) == 6
    assert [one["key"] for one in chosen] == sorted(one["key"] for one in chosen)  # in the order of the attacks
    assert chosen_panels(folder, summary_of()["manifest"], 0) == []
    assert len(chosen_panels(folder, summary_of()["manifest"], 1000)) == 93


def test_overlays_are_burnt_into_the_pictures(tmp_path: Path) -> None:
    kinds = ("clean", "perturbation", "adversarial", "truth", "found_before", "found_after")
    for place, kind in enumerate(kinds):
        side = 8 if place < 3 else 16
        Image.new("RGB", (side, side), (0, 0, 40 * place)).save(tmp_path / f"{kind}.png")
    verdict = {"right_before": True, "quality_before": None, "right_after": False, "quality_after": 0.25}
    about = {"attack": "dag", "epsilon": None, "id": "a", "success": True, "folder": tmp_path, "class_names": []}
    shown = {**about, **verdict, "images": {kind: f"{kind}.png" for kind in kinds}}
    picture, words = picture_of(shown)
    assert picture.size == (6 * 16, 16)  # the small ones are enlarged
    assert [picture.getpixel((16 * place + 15, 15))[2] for place in range(6)] == [0, 40, 80, 120, 160, 200]
    assert words == "dag, fooled: a, right -> wrong (0.25)"


def test_captions_have_no_control_characters_and_no_missing_class() -> None:
    said = {"target": 3, "clean_prediction": 3, "adversarial_prediction": 3, "success": False}
    about = {"attack": "a\nb", "epsilon": 2 / 255, "id": "x", "class_names": ["healthy"]}
    assert caption({**about, **said}) == "a\\nb 2/255, withstood: x, truth class 3, victim class 3 -> class 3"
