"""Weights & Biases: no account, no network, no prompt, no failure, and everything below the run's folder."""

import json
import logging
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars
import pytest
from PIL import Image

from cli import wandb_log
from cli.wandb_log import log_evaluation, logged_in, reachable, run_logger
from medrobust.results.columns import TYPES
from tests.sample_record import record as record_of

PLACES = ("WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR")
KEY = "0123456789" * 4
CONNECT = socket.create_connection


def sample(id: str, key: str = "k" * 16) -> dict[str, Any]:
    """A record of FGSM."""
    return record_of(id, key, attack="fgsm", method="FGSM", target=0, clean_prediction=0, adversarial_prediction=1)


class WandbLogger:
    """Stands for Lightning's logger of that name, and keeps what it is given."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.logged, self.summary = error, {}, {}

    @property
    def experiment(self) -> Any:
        if self.error:
            raise self.error
        return SimpleNamespace(log=self.logged.update, summary=self.summary)


@pytest.fixture(autouse=True)
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A user without a key, whose home is empty, on a machine without a network."""
    for name in list(os.environ):
        if name.startswith("WANDB"):
            monkeypatch.delenv(name)
    for name in (*PLACES, "WANDB_SILENT", "WANDB__SERVICE_WAIT"):
        monkeypatch.setenv(name, "to be restored")  # the logger sets these for the rest of the process
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("NETRC", raising=False)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("W&B asked something"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The results of an evaluation: three records and a panel."""
    folder = tmp_path / "evaluate"
    (folder / "panels").mkdir(parents=True)
    rows = [{"schema": 2, **sample(f"image-{place}")} for place in range(3)]
    polars.DataFrame(rows, schema=TYPES).write_parquet(folder / "records.parquet")
    names = {kind: f"a-{kind}.png" for kind in ("clean", "perturbation", "adversarial")}
    for place, name in enumerate(names.values()):
        Image.new("L", (8, 8), 60 * place).save(folder / "panels" / name)
    for key in ("k" * 16, "o" * 16):  # the second of an earlier victim
        panel = {**sample("image-0", key), "images": names}
        (folder / "panels" / f"a-{key}.json").write_text(json.dumps(panel))
    return folder


def summary_of() -> dict[str, Any]:
    """What ``finish`` returns, as far as it is sent."""
    row = {"attack": "fgsm", "epsilon": 1 / 255, "accuracy_under_attack": 0.25, "success_rate": 0.75}
    return {
        "rows": [
            {"attack": "clean", "epsilon": None, "accuracy_under_attack": 1.0, "success_rate": None},
            row,
            {**row, "epsilon": 8 / 255, "accuracy_under_attack": 0.0, "success_rate": 1.0},
        ],
        "flags": [{"message": "Only 3 images."}],
        "manifest": {"data": {"name": "items"}, "attacks": [{"key": "k" * 16, "attack": "fgsm"}]},
    }


def test_a_logger_without_key_and_network_is_offline_and_stays_below_the_run(tmp_path: Path) -> None:
    log = run_logger(tmp_path / "runs" / "tiny", "tiny", "fit")

    assert log._wandb_init["mode"] == "offline" and log._wandb_init["group"] == "tiny"
    assert log._wandb_init["job_type"] == "fit" and log._wandb_init["project"] == "medrobust"
    for place in PLACES:
        assert Path(os.environ[place]).is_relative_to(tmp_path / "runs" / "tiny"), place
    assert Path(log._wandb_init["dir"]).resolve().is_relative_to(tmp_path / "runs" / "tiny")


def test_the_folders_of_a_second_run_in_one_process_are_its_own(tmp_path: Path) -> None:
    run_logger(tmp_path / "first", "first", "fit")
    run_logger(tmp_path / "second", "second", "fit")

    assert all(Path(os.environ[place]).is_relative_to(tmp_path / "second") for place in PLACES)


def test_folders_that_the_user_has_set_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "mine"))
    run_logger(tmp_path / "first", "first", "fit")
    assert os.environ["WANDB_CACHE_DIR"] == str(tmp_path / "mine")


def test_a_key_without_a_network_is_offline_and_quick(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    start = time.monotonic()
    with caplog.at_level(logging.INFO):
        log = run_logger(tmp_path / "runs", "tiny", "test")

    assert log._wandb_init["mode"] == "offline" and time.monotonic() - start < 3
    assert "offline" in caplog.text and "wandb sync" in caplog.text


def test_a_key_and_a_server_that_answers_are_online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(wandb_log, "reachable", lambda: True)
    assert run_logger(tmp_path, "tiny", "fit")._wandb_init["mode"] == "online"
    monkeypatch.delenv("WANDB_API_KEY")
    assert run_logger(tmp_path, "tiny", "fit")._wandb_init["mode"] == "offline"


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_a_mode_that_the_user_has_set_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.setattr(wandb_log, "reachable", lambda: True)
    assert run_logger(tmp_path, "tiny", "fit")._wandb_init["mode"] == mode


def test_a_server_that_does_not_answer_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def slow(address: tuple[str, int], timeout: float) -> None:
        asked.update(address=address, timeout=timeout)
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", slow)
    assert not reachable()
    assert asked["address"] == ("api.wandb.ai", 443) and asked["timeout"] <= 5


def test_a_server_of_ones_own_is_asked_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setattr(socket, "create_connection", CONNECT)
        assert reachable()
    assert not reachable()  # now that it is gone


def test_who_has_a_key_is_logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not logged_in()
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert logged_in()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (f"machine api.wandb.ai\n  login user\n  password {KEY}\n", True),
        (f"machine example.org login user password {KEY}\n", False),
        ("this is no netrc\n", False),
        ("", False),
    ],
)
@pytest.mark.parametrize("place", ["home", "NETRC"])
def test_who_is_in_the_netrc_file_is_logged_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, expected: bool, place: str
) -> None:
    """``wandb login`` writes there, or into the file that the variable NETRC names."""
    file = tmp_path / "home" / ".netrc" if place == "home" else tmp_path / "elsewhere"
    file.write_text(content)
    file.chmod(0o600)
    if place == "NETRC":
        monkeypatch.setenv("NETRC", str(file))
    assert logged_in() == expected


def test_detectors_are_sent_as_scalars(folder: Path) -> None:
    log, summary = WandbLogger(), summary_of()
    row = {"attack": "pgd", "epsilon": 1 / 256, "detector": "kd", "fit": "same", "auroc": 0.9, "tpr": None}
    shares = {"successful": {"rate": 0.4}, "clean": {"rate": 0.1}, "signs": {"rate": None}}
    other = {**row, "epsilon": None, "tpr": 0.5, "controls": {"signs": 0.98}, "flagged": shares}
    log_evaluation([log], folder, {**summary, "detection": {"rows": [row, other]}})
    sent = {name: value for name, value in log.logged.items() if "detection" in name}
    assert sent == {
        "pgd/1|256/detection/kd fitted on same/auroc": 0.9,
        "pgd/detection/kd fitted on same/auroc": 0.9,
        "pgd/detection/kd fitted on same/auroc of signs": 0.98,
        "pgd/detection/kd fitted on same/flagged successful": 0.4,
        "pgd/detection/kd fitted on same/flagged clean": 0.1,
        "pgd/detection/kd fitted on same/tpr": 0.5,
    }


def test_an_evaluation_is_sent_as_scalars_table_and_pictures(folder: Path) -> None:
    log = WandbLogger()
    log_evaluation([log], folder, summary_of())

    scalars = {name: value for name, value in log.logged.items() if name not in ("records", "panels")}
    assert scalars == {
        "clean/accuracy_under_attack": 1.0,
        "fgsm/1|255/accuracy_under_attack": 0.25,
        "fgsm/1|255/success_rate": 0.75,
        "fgsm/8|255/accuracy_under_attack": 0.0,
        "fgsm/8|255/success_rate": 1.0,
    }
    assert {name: log.summary[name] for name in scalars} == scalars
    assert log.summary["flags"] == ["Only 3 images."]
    table = log.logged["records"]
    assert len(table.data) == 3 and {"id", "attack", "success", "linf"} <= set(table.columns)
    assert [row[table.columns.index("id")] for row in table.data] == ["image-0", "image-1", "image-2"]
    assert len(log.logged["panels"]) == 1  # not those of an earlier victim
    picture = log.logged["panels"][0]
    assert (picture._width, picture._height) == (24, 8) and "fgsm 1/255: image-0, 0 -> 1" in picture._caption


def test_qualities_are_sent_of_victims_that_do_not_classify(folder: Path) -> None:
    qualities = {"quality_before": 0.75, "quality_after": 0.5}
    for task, sent in (("classification", {}), ("segmentation", {f"pgd/{k}": v for k, v in qualities.items()})):
        log, summary = WandbLogger(), summary_of()
        summary["manifest"]["data"]["task"] = task
        log_evaluation([log], folder, {**summary, "rows": [{"attack": "pgd", "epsilon": None, **qualities}]})
        assert {name: value for name, value in log.logged.items() if name.startswith("pgd/")} == sent


def test_numbers_of_masks_and_boxes_are_sent_with_their_classes(folder: Path) -> None:
    head = {"attack": "pgd", "epsilon": 2 / 255, "key": "k", "kind": "attack"}
    lung = {"name": "lung", "n": 3, "jaccard": 0.5, "jaccard_interval": [0.4, 0.6], "hausdorff95": None}
    masks = {"names": ["lung"], "rows": [{**head, "n": 3, "pixel_accuracy": 0.75, "classes": [lung]}]}
    spot = {"name": "spot", "n_boxes": 4, "ap50": 0.25}
    boxes = {"rows": [{**head, "n": 3, "n_boxes": 4, "map50": 0.5, "lost": 2, "invented": None, "classes": [spot]}]}
    worst = {"epsilon": 2 / 255, "accuracy": 0.0, "quality": 0.125}
    log, summary = WandbLogger(), summary_of()
    log_evaluation([log], folder, {**summary, "rows": [], "masks": masks, "boxes": boxes, "worst_case": [worst]})
    assert {name: value for name, value in log.logged.items() if name not in ("records", "panels")} == {
        "pgd/2|255/masks/pixel_accuracy": 0.75,
        "pgd/2|255/masks/lung/jaccard": 0.5,
        "pgd/2|255/boxes/map50": 0.5,
        "pgd/2|255/boxes/lost": 2,
        "pgd/2|255/boxes/spot/ap50": 0.25,
        "worst case/2|255/accuracy": 0.0,
        "worst case/2|255/quality": 0.125,
    }


def test_overlays_are_burnt_into_the_pictures(folder: Path) -> None:
    path = folder / "panels" / f"a-{'k' * 16}.json"
    panel = json.loads(path.read_text())
    for name in [name for name in panel if name.endswith(("_prediction", "_confidence"))]:
        del panel[name]
    for place, kind in enumerate(("truth", "found_before", "found_after")):
        Image.new("RGB", (16, 16), (0, 80 * place, 255)).save(folder / "panels" / f"a-{kind}.png")
        panel["images"][kind] = f"a-{kind}.png"
    verdict = {"right_before": True, "quality_before": None, "right_after": False, "quality_after": 0.25}
    path.write_text(json.dumps(panel | verdict))
    log = WandbLogger()
    log_evaluation([log], folder, summary_of())
    (picture,) = log.logged["panels"]
    assert (picture._width, picture._height) == (6 * 16, 16)  # the small ones are enlarged
    assert "fgsm 1/255: image-0, right -> wrong (0.25)" in picture._caption
    assert [picture.image.getpixel((16 * place + 15, 15))[2] for place in range(6)] == [0, 60, 120, 255, 255, 255]


@pytest.mark.parametrize("error", [RuntimeError("broken"), OSError("gone"), KeyError("x"), ImportError("no wandb")])
def test_a_broken_logger_costs_one_line_and_no_evaluation(
    folder: Path, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    working = WandbLogger()
    log_evaluation([WandbLogger(error), working], folder, summary_of())

    assert type(error).__name__ in caplog.text and caplog.text.count("did not take") == 1
    assert working.logged  # the next logger is served all the same


def test_an_evaluation_without_files_costs_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log_evaluation([WandbLogger()], tmp_path, summary_of())
    assert "did not take" in caplog.text


def test_other_loggers_are_passed_over(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    log_evaluation([SimpleNamespace(), None], folder, summary_of())
    log_evaluation([], folder, summary_of())
    assert not caplog.records  # one that was asked for its experiment would have failed, with a warning


@pytest.mark.processes
def test_an_offline_run_holds_config_scalars_table_and_pictures(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read back by W&B's own reader of its files."""
    monkeypatch.setattr(socket, "create_connection", CONNECT)  # W&B talks to a process of its own
    log = run_logger(tmp_path / "runs", "tiny", "test")
    log.log_hyperparams({"config": "epsilon: 1/255"})
    log_evaluation([log], folder, summary_of())
    log.experiment.finish()

    (file,) = (tmp_path / "runs" / "wandb").rglob("*.wandb")
    reader = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    lines = subprocess.run(reader, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
    found: dict[str, dict[str, Any]] = {"config": {}, "history": {}, "summary": {}}
    for record in map(json.loads, lines):
        if record["type"] in found:
            content = record[record["type"]]
            found[record["type"]] |= content.get("update", content.get("item", {}))
        elif record["type"] == "artifact":  # a later sync finds its content
            staged = [Path(entry["local_path"]) for entry in record["artifact"]["manifest"]["contents"]]
            assert staged and all(path.is_file() and path.is_relative_to(tmp_path / "runs") for path in staged)

    assert found["config"]["config"] == "epsilon: 1/255"
    for place in ("history", "summary"):
        assert found[place]["fgsm/1|255/success_rate"] == 0.75
    assert found["summary"]["flags"] == ["Only 3 images."]
    table = found["history"]["records.path"]
    assert found["history"]["records.nrows"] == 3
    assert len(json.loads((file.parent / "files" / table).read_text())["data"]) == 3
    assert len(list((file.parent / "files").rglob("*.png"))) == 1
