"""A run of W&B: no account, no network, no prompt, a stable id, nothing before it begins, all below its folder."""

import logging
import os
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
from pytorch_lightning.loggers import WandbLogger

from cli.wandb_run import RunLogger, WandbOptions, is_sent, mode, note_sent, run_id, victim_group
from medrobust.results import wandb_server
from medrobust.results.wandb_server import logged_in, reachable

PLACES = ("WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR")
KEY = "0123456789" * 4
CONNECT = socket.create_connection


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
def begun(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What W&B was begun with, without beginning anything."""
    calls: list[dict[str, Any]] = []

    def init(**options: Any) -> Any:
        calls.append({**options, "config": {}})
        return SimpleNamespace(config=SimpleNamespace(update=lambda new, **_: calls[-1]["config"].update(new)), id="x")

    monkeypatch.setattr(wandb, "init", init)
    return calls


def begin(log: RunLogger, **about: Any) -> None:
    """Begin a run as a training does."""
    log.begin("tiny-fit", about, id="tiny-fit-1", group="tiny-1", job_type="fit", tags=["classification", "x" * 70])


def test_nothing_is_there_before_the_run_begins(tmp_path: Path, begun: list[dict[str, Any]]) -> None:
    log = RunLogger(tmp_path / "runs" / "tiny")
    log.log_hyperparams({"lr": 0.1})
    log.log_metrics({"loss": 1.0}, step=3)
    log.experiment.log({"a": 1})
    log.finalize("success")
    log.end()
    assert not begun and not (tmp_path / "runs").exists() and not [name for name in PLACES if name in os.environ]


def test_a_run_without_key_and_network_is_offline_and_stays_below_its_folder(
    tmp_path: Path, begun: list[dict[str, Any]]
) -> None:
    log = RunLogger(tmp_path / "runs" / "tiny")
    log.log_hyperparams({"lr": 0.1})
    begin(log, victim={"backbone": "resnet"})

    (options,) = begun
    assert options["config"] == {"lr": 0.1, "victim": {"backbone": "resnet"}}
    assert options["mode"] == "offline" and options["project"] == "medrobust" and options["resume"] == "allow"
    assert (options["id"], options["group"], options["job_type"]) == ("tiny-fit-1", "tiny-1", "fit")
    assert options["tags"] == ["classification", "x" * 64]  # W&B refuses longer ones
    for place in (*(os.environ[name] for name in PLACES), options["dir"]):
        assert Path(place).resolve().is_relative_to(tmp_path / "runs" / "tiny"), place


def test_the_folders_of_a_second_run_in_one_process_are_its_own(tmp_path: Path, begun: list[dict[str, Any]]) -> None:
    for name in ("first", "second"):
        begin(RunLogger(tmp_path / name))
    assert all(Path(os.environ[place]).is_relative_to(tmp_path / "second") for place in PLACES)


def test_folders_that_the_user_has_set_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: list[dict[str, Any]]
) -> None:
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "mine"))
    begin(RunLogger(tmp_path / "first"))
    assert os.environ["WANDB_CACHE_DIR"] == str(tmp_path / "mine")


def test_what_the_user_says_goes_before_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: list[dict[str, Any]]
) -> None:
    options = WandbOptions(project="hearts", entity="clinic", tags=["pilot"])
    monkeypatch.setenv("WANDB_TAGS", "urgent, classification")
    monkeypatch.setenv("WANDB_RUN_GROUP", "mine")  # wandb.init reads it where no group is given
    begin(RunLogger(tmp_path, options))
    assert (begun[-1]["project"], begun[-1]["entity"]) == ("hearts", "clinic") and begun[-1].get("group") is None
    assert begun[-1]["tags"] == ["classification", "x" * 64, "urgent", "pilot"]

    monkeypatch.setenv("WANDB_PROJECT", "lungs")
    begin(RunLogger(tmp_path))
    assert begun[-1]["project"] == "lungs" and "entity" not in begun[-1]
    begin(RunLogger.of(WandbLogger(resume=None), tmp_path, WandbOptions()))  # as a command line leaves it
    assert (begun[-1]["project"], begun[-1]["dir"], begun[-1]["resume"]) == ("lungs", str(tmp_path), "allow")


def test_a_logger_of_the_users_own_begins_late_too(tmp_path: Path, begun: list[dict[str, Any]]) -> None:
    own = WandbLogger(project="own", name="mine", save_dir=tmp_path / "elsewhere", tags=["first"], group="theirs")
    log = RunLogger.of(own, tmp_path / "runs", WandbOptions(tags=["pilot"]))
    assert log is own
    log.log_metrics({"loss": 1.0})
    assert not begun
    begin(log)
    assert (begun[0]["project"], begun[0]["name"], begun[0]["group"]) == ("own", "mine", "theirs")
    assert begun[0]["dir"] == str(tmp_path / "elsewhere") and begun[0]["id"] == "tiny-fit-1"
    assert begun[0]["tags"] == ["first", "classification", "x" * 64, "pilot"]


def test_a_run_that_cannot_begin_costs_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def init(**_: Any) -> None:
        raise RuntimeError("quota\nexceeded")

    monkeypatch.setattr(wandb, "init", init)
    log = RunLogger(tmp_path)
    begin(log)
    log.log_metrics({"loss": 1.0})
    log.end()
    assert len(caplog.records) == 1 and "RuntimeError: quota exceeded" in caplog.text and not log.begun


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"pictures": -1}, "wandb.pictures"), ({"records": -1}, "wandb.records"), ({"tags": [""]}, "tag")],
)
def test_wrong_options_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        WandbOptions(**wrong)


def test_an_id_stays_with_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "evaluate"
    first = run_id(folder, "my run/1", "test", True, weights="w", plan="p")
    assert first.startswith("my-run-1-test-") and len(first) <= 64
    assert run_id(folder, "my run/1", "test", True, weights="w", plan="p") == first
    shutil.move(tmp_path / "run", tmp_path / "moved")
    folder = tmp_path / "moved" / "evaluate"
    assert run_id(folder, "my run/1", "test", True, weights="w", plan="p") == first

    others = [run_id(folder, "my run/1", "test", True, weights="other", plan="p")]
    others.append(run_id(folder, "my run/1", "test", True, weights="other", plan="changed"))
    others.append(run_id(folder, "my run/1", "test", False, weights="other", plan="changed"))
    assert len({first, *others}) == 4
    assert run_id(folder, "my run/1", "test", True, weights="other", plan="changed") == others[-1]


def test_a_copy_of_a_folder_has_an_id_of_its_own(tmp_path: Path) -> None:
    first = run_id(tmp_path / "a" / "tiny", "tiny", "fit", True)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    copied = run_id(tmp_path / "b" / "tiny", "tiny", "fit", True)
    assert copied != first and run_id(tmp_path / "b" / "tiny", "tiny", "fit", True) == copied
    assert run_id(tmp_path / "a" / "tiny", "tiny", "fit", True) == first
    assert run_id(tmp_path / "c" / "tiny", "tiny", "fit", True) not in (first, copied)  # of the same name elsewhere


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"id": null}', "\xff"])
def test_a_damaged_file_of_the_id_is_replaced(tmp_path: Path, content: str) -> None:
    (tmp_path / "wandb_run.json").write_text(content, encoding="latin-1")
    first = run_id(tmp_path, "tiny", "fit", True)
    assert run_id(tmp_path, "tiny", "fit", True) == first


def test_what_was_sent_is_remembered_for_one_id(tmp_path: Path) -> None:
    note_sent(tmp_path)
    assert not is_sent(tmp_path)  # nothing has begun
    first = run_id(tmp_path, "tiny", "test", True)
    assert not is_sent(tmp_path)
    note_sent(tmp_path)
    assert is_sent(tmp_path) and run_id(tmp_path, "tiny", "test", True) == first and is_sent(tmp_path)
    run_id(tmp_path, "tiny", "test", False)
    assert not is_sent(tmp_path)


def test_a_victim_is_a_group(tmp_path: Path) -> None:
    """That of its training, whose id ends with the same eight characters; else that of its weights."""
    run = tmp_path / "tiny-fit"
    assert victim_group(None, "tiny", None) == "tiny"
    assert victim_group(None, "tiny", "0123456789ab") == "tiny-01234567"
    assert victim_group(run, "other", "0123456789ab") == "tiny-fit-01234567"  # trained without W&B
    trained = run_id(run, "tiny-fit", "fit", True)
    assert victim_group(run, "other", "0123456789ab") == f"tiny-fit-{trained[-8:]}"
    again = run_id(run, "tiny-fit", "fit", False)  # with --overwrite
    assert victim_group(run, "other", None) == f"tiny-fit-{again[-8:]}" != f"tiny-fit-{trained[-8:]}"


def test_a_key_without_a_network_is_offline_and_quick(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with caplog.at_level(logging.INFO):
        assert mode() == "offline"
    assert "offline" in caplog.text and "wandb sync" in caplog.text


def test_a_key_and_a_server_that_answers_are_online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(wandb_server, "reachable", lambda: True)
    assert mode() == "online"
    monkeypatch.delenv("WANDB_API_KEY")
    assert mode() == "offline"


@pytest.mark.parametrize("chosen", ["offline", "disabled"])
def test_a_mode_that_the_user_has_set_is_kept(monkeypatch: pytest.MonkeyPatch, chosen: str) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_MODE", chosen)
    monkeypatch.setattr(wandb_server, "reachable", lambda: pytest.fail("the server was asked"))
    assert mode() == chosen


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


def test_who_has_a_key_is_logged_in(monkeypatch: pytest.MonkeyPatch) -> None:
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
