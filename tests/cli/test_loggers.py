"""Loggers of a training and of an evaluation: what each is told, when, and that none of them loses a result."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jsonargparse import Namespace
from pytorch_lightning.loggers import CSVLogger

import cli.main
from cli.logged_settings import logged_settings, plain, tags
from cli.loggers import guard, log_evaluation
from medrobust.attacks.budgets import Fraction
from medrobust.results.scalars import curves, scalars
from medrobust.results.summary import read_summary
from tests.programs import small_config
from tests.strict_logger import StrictLogger, check_settings

CONFIG = small_config(
    """quality: {download: false}
panels: {count: 2}
""",
    trainer="max_epochs: 1, limit_train_batches: 3",
)
ATTACKS = """
attack:
  attacks: {"C&W: fast": {class_path: FGSM}}
  epsilons: [1/255, 4/255]
"""
LOGGERS = """
trainer:
  logger:
    - {class_path: WandbLogger, init_args: {tags: [pilot]}}
    - {class_path: CSVLogger, init_args: {save_dir: csv}}
    - {class_path: tests.strict_logger.StrictLogger}
"""
COMMAND = ("-c", "small.yaml", "-c", "attacks.yaml", "--data.limit", "8")


def command(program: str, *words: str) -> None:
    """Run a command line in this process."""
    cli.main.main(program, list(words))  # type: ignore[arg-type]


@pytest.fixture(scope="module", autouse=True)
def offline() -> Iterator[None]:
    """W&B writes files and asks no server."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("WANDB"):
                patch.delenv(name)
        for name in ("DATA_DIR", "ARTIFACT_DIR", "CACHE_DIR", "CONFIG_DIR", "SILENT", "_SERVICE_WAIT"):
            patch.setenv(f"WANDB_{name}", "to be restored")  # the logger sets these for the rest of the process
            patch.delenv(f"WANDB_{name}")
        patch.setenv("WANDB_MODE", "offline")
        patch.setattr("sys.argv", ["evaluate.py"])
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a victim that was trained and evaluated with three loggers."""
    folder = tmp_path_factory.mktemp("trained")
    for name, text in (("small", CONFIG), ("attacks", ATTACKS), ("loggers", LOGGERS)):
        (folder / f"{name}.yaml").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        command("train", "fit", "-c", "small.yaml", "--wandb.checkpoints", "true")
        StrictLogger.made.clear()
        command("evaluate", "test", *COMMAND, "-c", "loggers.yaml", "--ckpt_path", "best")
    return folder


def runs_of(folder: Path) -> dict[str, Path]:
    """The offline runs below a folder, by their ids."""
    return {path.stem.removeprefix("run-"): path for path in sorted(folder.rglob("*.wandb"))}


def inspected(file: Path) -> dict[str, Any]:
    """What W&B's own reader finds in the file of an offline run."""
    reader = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    lines = subprocess.run(reader, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
    found: dict[str, Any] = {"config": {}, "summary": {}, "history": [], "metric": {}, "artifact": []}
    for record in map(json.loads, lines):
        kind, content = record["type"], record[record["type"]] if record["type"] in record else None
        if kind == "run":
            found["run"] = content
        elif kind in ("config", "summary"):
            found[kind] |= content.get("update", {})
        elif kind == "history":
            found[kind].append(content["item"])
        elif kind == "metric":
            found[kind][content.get("name") or content["glob_name"]] = content
        elif kind == "artifact":
            found[kind].append(content)
    return found


@pytest.mark.processes
def test_an_offline_evaluation_holds_all_that_it_is_found_by(trained: Path) -> None:
    folder = trained / "runs" / "small"
    identity = json.loads((folder / "evaluate" / "wandb_run.json").read_text())
    training = json.loads((folder / "wandb_run.json").read_text())["id"]
    file = runs_of(folder)[identity["id"]]
    found, summary = inspected(file), read_summary(folder)
    manifest = summary["manifest"]

    run = found["run"]
    assert run["job_type"] == "test" and run["project"] == "medrobust"
    assert run["run_group"] == f"small-{training[-8:]}" and run["resume"]
    assert run["tags"] == ["pilot", "classification", "phantom_chest_xray", "resnet10t", "undefended"]
    config = found["config"]
    assert config["victim"]["backbone"] == "resnet10t" and config["victim"]["weights"] == manifest["victim"]["weights"]
    assert config["data"]["fingerprint"] == manifest["data"]["fingerprint"] and config["data"]["images"] == 8
    assert config["attack"]["names"] == ["C&W: fast"] and config["attack"]["methods"] == ["FGSM"]
    assert config["attack"]["epsilons"] == [1 / 255, 4 / 255] and config["attack"]["largest_epsilon"] == 4 / 255
    assert config["configuration"]["attack"]["epsilons"] == [1 / 255, 4 / 255]
    assert config["run"]["job"] == "test" and config["trainer"]["accelerator"] == "cpu"
    check_settings(config)

    numbers = scalars(summary)
    assert len(numbers) > 10 and {name: found["summary"][name] for name in numbers} == pytest.approx(numbers)
    rows = [row for row in found["history"] if "epsilon" in row]
    expected = curves(summary)
    assert [{name: row[name] for name in one} for row, one in zip(rows, expected, strict=True)] == expected
    curve = found["metric"]["curves/C_W_fast/accuracy"]
    assert curve["step_metric"] == "epsilon" and found["metric"]["epsilon"]["options"]["hidden"]

    media = found["history"][-1]
    assert media["results.nrows"] == len(summary["rows"]) and media["records.nrows"] == 8 * 4
    assert media["panels.count"] == 2 * 2 * 4 and "truth" in media["panels.captions"][0]
    for path in (media["results.path"], media["report.path"], *media["panels.filenames"]):
        assert (file.parent / "files" / path).is_file(), path
    page = (file.parent / "files" / media["report.path"]).read_bytes()
    assert page == (folder / "evaluate" / "report.html").read_bytes()
    staged = [Path(entry["local_path"]) for one in found["artifact"] for entry in one["manifest"]["contents"]]
    assert staged and all(path.is_file() and path.is_relative_to(folder) for path in staged)  # a later sync finds them
    files = next(one for one in found["artifact"] if one["type"] == "evaluation")["manifest"]["contents"]
    assert {one["path"] for one in files} == {"manifest.json", "records.parquet", "report.html", "summary.json"}


@pytest.mark.processes
def test_an_offline_training_holds_its_settings_and_checkpoints(trained: Path) -> None:
    folder = trained / "runs" / "small"
    training = json.loads((folder / "wandb_run.json").read_text())["id"]
    found = inspected(runs_of(folder)[training])
    run = found["run"]
    assert (run["job_type"], run["project"], run["display_name"]) == ("fit", "medrobust", "small-fit")
    assert found["config"]["training"]["optimizer"] == "torch.optim.AdamW" and found["config"]["victim"]["class"]
    assert found["metric"]["val/loss"]["summary"] == {"min": True}
    assert any("val/loss" in row for row in found["history"])
    (model,) = [one for one in found["artifact"] if one["type"] == "model"]
    assert {one["path"] for one in model["manifest"]["contents"]} == {"best.ckpt", "last.ckpt"}


def test_every_other_logger_is_told_the_same_numbers(trained: Path) -> None:
    summary = read_summary(trained / "runs" / "small")
    (strict,) = StrictLogger.made
    numbers, drawn = scalars(summary), curves(summary)
    assert (3, numbers) in strict.rows  # at the training step of the checkpoint
    assert [row for row in strict.rows if "epsilon" in row[1]] == [(3922, drawn[0]), (15686, drawn[1])]
    assert strict.settings["victim"]["backbone"] == "resnet10t" and strict.settings["attack"]["parameters"].keys() == {
        "C_W_fast"
    }
    assert strict.saved

    (file,) = (trained / "csv").rglob("metrics.csv")
    written = [{name: value for name, value in row.items() if value} for row in csv.DictReader(file.open())]
    whole = next(row for row in written if row.get("clean_accuracy"))
    assert {name: float(whole[name]) for name in numbers} == numbers and whole["step"] == "3"
    assert [int(row["step"]) for row in written if row.get("epsilon")] == [3922, 15686]


@pytest.mark.processes
def test_an_evaluation_that_goes_on_has_its_run_and_another_plan_has_not(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    identity = Path("runs/small/evaluate/wandb_run.json")

    def evaluated(*more: str) -> str:
        command("evaluate", "test", *COMMAND, "--ckpt_path", "best", *more)
        return str(json.loads(identity.read_text())["id"])

    first = json.loads(identity.read_text())["id"]
    copied = evaluated()
    assert copied != first  # this folder is a copy
    assert evaluated() == copied
    assert len(list(tmp_path.rglob(f"run-{copied}.wandb"))) == 2
    later = inspected(runs_of(tmp_path)[copied])
    assert later["run"]["run_id"] == copied and later["run"]["resume"]  # by which a sync adds one to the other
    assert not [row for row in later["history"] if "epsilon" in row]  # the curves are there already
    assert later["summary"]["worst_case_accuracy_4_255"] is not None
    wider = evaluated("--data.limit", "9", "--journal.resume", "false")
    assert wider != copied
    assert evaluated("--data.limit", "9", "--journal.resume", "false") not in (copied, wider)


@pytest.mark.parametrize(
    "words",
    [
        ("--attack.epsilonss", "[1/255]"),
        ("--ckpt_path", "nothing.ckpt"),
        ("--data.root", "small.yaml"),
        ("--attack.goals", "erase", "--attack.attacks", "{t: {class_path: FGSM, init_args: {targeted: true}}}"),
        ("--attack.surrogate", "runs/nothing"),
    ],
    ids=lambda words: words[0],
)
def test_what_is_refused_leaves_no_run_behind(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], capsys: Any
) -> None:
    for name in ("small.yaml", "attacks.yaml"):
        shutil.copy(trained / name, tmp_path)
    os.symlink(trained / "phantom", tmp_path / "phantom")
    monkeypatch.chdir(tmp_path)
    checkpoint = ("--ckpt_path", str(trained / "runs" / "small" / "checkpoints" / "best.ckpt"))
    with pytest.raises(SystemExit) as stopped:
        command("evaluate", "test", *COMMAND, *checkpoint, *words)
    assert stopped.value.code in (1, 2), capsys.readouterr().err
    assert not [path for path in tmp_path.rglob("*") if "wandb" in path.name]


def test_a_training_without_data_leaves_no_run_behind(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    shutil.copy(trained / "small.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "phantom").write_text("no folder")
    with pytest.raises(SystemExit) as stopped:
        command("train", "fit", "-c", "small.yaml")
    assert stopped.value.code in (1, 2), capsys.readouterr().err
    assert not [path for path in tmp_path.rglob("*") if "wandb" in path.name]


@pytest.mark.parametrize("off", ["WANDB_MODE", "dry run"])
def test_logging_can_be_switched_off(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: str) -> None:
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    before = set(runs_of(tmp_path))
    if off == "WANDB_MODE":
        monkeypatch.setenv("WANDB_MODE", "disabled")
    more = ("--trainer.fast_dev_run", "true") if off == "dry run" else ()
    (tmp_path / "runs" / "small" / "evaluate" / "summary.json").unlink()
    command("evaluate", "test", *COMMAND, "--ckpt_path", "best", *more)
    assert set(runs_of(tmp_path)) == before
    assert (tmp_path / "runs" / "small" / "evaluate" / "summary.json").is_file() == (off != "dry run")


class Broken(StrictLogger):
    """Fails from its second call on."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.calls += 1
        if self.calls > 1:
            raise ConnectionError("the server\nis gone")


def test_a_logger_that_fails_costs_one_line(caplog: pytest.LogCaptureFixture) -> None:
    broken = Broken()
    guard(broken)
    guard(broken)  # once
    for _ in range(4):
        broken.log_metrics({"a": 1.0}, step=0)
    broken.save()
    assert broken.calls == 2 and broken.saved == 0
    assert len(caplog.records) == 1 and "Broken failed (ConnectionError: the server is gone)" in caplog.text


def summary_of() -> dict[str, Any]:
    """A summary with a row and a radius."""
    rows = [
        {"attack": "clean", "kind": "clean", "epsilon": None, "accuracy_under_attack": 1.0},
        {"attack": "pgd", "kind": "attack", "epsilon": 1 / 255, "accuracy_under_attack": 0.5},
    ]
    return {"rows": rows, "flags": [], "worst_case": [], "manifest": {"data": {}}}


@pytest.mark.parametrize("guarded", [True, False])
def test_a_broken_logger_costs_one_line_and_no_evaluation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, guarded: bool
) -> None:
    broken, working = Broken(), StrictLogger()
    if guarded:
        guard(broken)
    log_evaluation([broken, SimpleNamespace(), working], tmp_path, summary_of(), None)
    assert [record.message.split()[0] for record in caplog.records] == ["Broken", "SimpleNamespace"]
    assert [step for step, _ in working.rows] == [0, 3922]  # the next logger is served all the same
    log_evaluation([], tmp_path, summary_of(), None)


def test_csv_takes_every_name(tmp_path: Path) -> None:
    log = CSVLogger(tmp_path)
    log_evaluation([log], tmp_path, summary_of(), None)
    rows = list(csv.DictReader((Path(log.log_dir) / "metrics.csv").open()))
    assert [row["curves/pgd/accuracy"] for row in rows] == ["", "0.5"]


def settings(change: Callable[[dict[str, Any]], None] = lambda manifest: None) -> dict[str, Any]:
    """Settings of an evaluation, whose manifest is changed before."""
    pgd = {"class": "PGD", "steps": 20}
    attacks = [
        {"attack": "noise", "key": "n", "epsilon": 1 / 255, "control": True, "parameters": {"class": "UniformNoise"}},
        {"attack": "pgd", "key": "a", "epsilon": 2 / 255, "parameters": {**pgd, "epsilon": 2 / 255}},
        {"attack": "pgd", "key": "b", "epsilon": 1 / 255, "parameters": {**pgd, "epsilon": 1 / 255}},
    ]
    data = {"name": "xray", "task": "classification", "images": 3, "fingerprint": "f", "split": "adv_test"}
    manifest: dict[str, Any] = {"victim": {"name": "resnet", "weights": "w"}, "data": data, "attacks": attacks}
    change(manifest)
    config = Namespace(name="a", seed_everything=1, attack=Namespace(epsilons=[Fraction("2/255")], surrogate=None))
    return logged_settings(config, "test", {"backbone": "resnet", "secret": 1}, {}, manifest)


def test_settings_are_those_of_the_manifest() -> None:
    found = settings()
    assert found["attack"]["names"] == ["pgd"] and found["attack"]["epsilons"] == [1 / 255, 2 / 255]
    assert found["attack"]["radii"] == "1/255, 2/255" and found["attack"]["parameters"]["pgd"]["steps"] == 20
    assert found["configuration"]["attack"]["epsilons"] == [2 / 255] and "secret" not in found["victim"]
    assert type(found["configuration"]["attack"]["epsilons"][0]) is float
    check_settings(found)
    assert tags(found) == ["classification", "xray", "resnet", "undefended"]


def test_defences_detectors_and_surrogates_are_tags() -> None:
    def defend(manifest: dict[str, Any]) -> None:
        manifest["victim"]["defence"] = {"defence": {"class": "Trades"}}
        manifest["victim"]["input_defence"] = [{"class": "JPEGCompression"}]
        manifest["listeners"] = {"detection": {"detectors": ["kd"], "fits": ["same"]}}

    found = settings(defend)
    assert tags(found) == ["classification", "xray", "resnet", "TRADES", "JPEG compression", "detection"]
    assert found["detection"] == {"detectors": ["kd"], "fits": ["same"]}


def test_runs_are_comparable_by_images_and_attacks() -> None:
    def changed(part: str, **new: Any) -> str:
        def change(manifest: dict[str, Any]) -> None:
            (manifest[part] if part != "attacks" else manifest["attacks"][1]).update(new)

        return str(settings(change)["run"]["comparable"])

    same = settings()["run"]["comparable"]
    assert changed("victim", weights="other") == same
    others = [changed("data", fingerprint="g"), changed("data", images=4), changed("data", split="val")]
    others += [changed("attacks", epsilon=8 / 255), changed("attacks", parameters={"class": "PGD", "steps": 40})]
    assert len({same, *others}) == 6
    assert settings(lambda manifest: manifest["attacks"].reverse())["run"]["comparable"] == same
    assert settings(lambda manifest: manifest["attacks"].pop(0))["run"]["comparable"] == same  # a control


def test_plain_values_are_plain() -> None:
    found = plain({"a": (Fraction("1/4"), {2}), "b": Path("x"), "c": float("inf"), "d": int, "e/f": None, "e_f": True})
    assert found == {"a": [0.25, [2]], "b": "x", "c": "inf", "d": "builtins.int", "e_f": None, "e_f-2": True}
    check_settings(found)
