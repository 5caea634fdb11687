"""Mistakes of the user: one sentence that names the mistake, exit status 2, and no data read."""

import errno
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

import cli.main
from cli.console import quiet
from cli.errors import sentence
from cli.work_kept import describe
from lightning_modules import Classifier

ROOT = Path(__file__).resolve().parents[2]
DEMO, LINF = ROOT / "configs" / "demo.yaml", ROOT / "configs" / "attacks" / "linf.yaml"
QUIET = ("--trainer.logger=false", "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.max_epochs=1")
LONGEST = 300  # characters; a longer sentence is not read

Complaint = Callable[..., str]


def attack(text: str) -> str:
    """An overlay with one attack."""
    return f"attack:\n  attacks:\n    mine: {text}\n"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the demo's victim, as Lightning writes it."""
    victim = Classifier("resnet10t", channels=1)
    trainer = pl.Trainer(logger=False, accelerator="cpu", devices=1, enable_checkpointing=False, barebones=True)
    trainer.strategy.connect(victim)
    path = tmp_path_factory.mktemp("checkpoints") / "demo.ckpt"
    trainer.save_checkpoint(path)
    return path


@pytest.fixture
def complaint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], checkpoint: Path
) -> Complaint:
    """Runs a command line that contains a mistake and returns the one sentence about it."""
    monkeypatch.chdir(tmp_path)

    def run(program: str, *arguments: Any, text: str = "", configs: tuple[Path, ...] = (DEMO,)) -> str:
        monkeypatch.setattr("sys.argv", [f"{program}.py"])
        if text:
            (tmp_path / "wrong.yaml").write_text(text)
            configs = (*configs, tmp_path / "wrong.yaml")
        files = [part for config in configs for part in ("-c", str(config))]
        given = [str(argument).replace("GOOD", str(checkpoint)) for argument in arguments]
        if program == "evaluate":  # by the demo's own attack, which is there to watch its training
            given = ["--attack.fit_batches", "0", *given]
        root = ["--data.root", "nowhere", "--data.patients", "40", "--data.side", "32"] if configs else []
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main.main(program, ["fit" if program == "train" else "test", *files, *root, *QUIET, *given])
        lines = capfd.readouterr().err.strip().splitlines()
        assert stopped.value.code == 2
        assert len(lines) <= 4, "\n".join(lines)
        assert lines[-1].startswith("error: ") and not any("Traceback" in line for line in lines)
        assert len(lines[-1]) <= LONGEST, lines[-1]
        assert not re.search(r"Union|Namespace|NestedArg|<class|typing\.|NoneType", lines[-1]), lines[-1]
        assert not (tmp_path / "nowhere").exists(), "data were generated before the mistake was seen"
        return lines[-1]

    return run


@pytest.mark.parametrize(
    ("what", "arguments", "text", "expected"),
    [
        ("model", ["--model", "Clasifier"], "", "Clasifier"),
        ("model in a file", [], "model: {class_path: Clasifier}", "Clasifier"),
        ("data", ["--data", "ChestXray"], "", "ChestXray"),
        ("data in a file", [], "data: {class_path: ChestXray}", "ChestXray"),
        ("optimizer", ["--model.optimizer", "Adamm"], "", "Adamm"),
        ("attack", [], attack("{class_path: PDG}"), "did you mean PGD"),
        ("detector", [], "detection: {detectors: {kd: {class_path: KernelDensty}}}", "did you mean KernelDensity"),
        ("data class as model", ["--model", "PhantomChestXRay"], "", "PhantomChestXRay"),
    ],
)
def test_an_unknown_class_is_named(complaint: Complaint, what: str, arguments: list, text: str, expected: str) -> None:
    assert expected in complaint("train", *arguments, text=text)


@pytest.mark.parametrize(
    ("program", "arguments", "text", "expected"),
    [
        ("train", ["--nme", "x"], "", "nme"),
        ("train", [], "nme: x", "nme"),
        ("train", ["--trainer.max_epohcs", "3"], "", "max_epohcs"),
        ("train", ["--trainer.max_epoch", "3"], "", "max_epoch"),  # no more an abbreviation here than in a file
        ("train", ["--model.bakbone", "resnet18"], "", "bakbone"),
        ("train", ["--model.init_args.bakbone", "resnet18"], "", "bakbone"),
        ("train", [], "model: {init_args: {bakbone: resnet18}}", "bakbone"),
        ("train", ["--data.imagesize", "3"], "", "imagesize"),
        ("train", ["--attack.attacks.fgsm.epsilo", "0.1"], "", "epsilo"),
        ("evaluate", ["--ckpt_path", "GOOD"], attack("{class_path: PGD, init_args: {stpes: 3}}"), "stpes"),
        ("evaluate", ["--ckpt_path", "GOOD"], "attack: {epsilon: [0.1]}", "epsilon"),
    ],
)
def test_a_misspelt_option_is_named(
    complaint: Complaint, program: str, arguments: list, text: str, expected: str
) -> None:
    assert re.search(rf"\b{expected}\b", complaint(program, *arguments, text=text))


@pytest.mark.parametrize(
    ("arguments", "text", "expected"),
    [
        ([], attack("{class_path: PGD, init_args: {epsilon: 8}}"), r"epsilon .*got 8 \(did you mean 8/255\?\)"),
        ([], attack("{class_path: PGD, init_args: {step_size: 3}}"), r"step_size .*got 3 \(did you mean 3/255\?\)"),
        (["--attack.epsilons", "[8]"], "", r"epsilons .*got 8 \(did you mean 8/255\?\)"),
        (["--attack.attacks.fgsm.epsilon", "8"], "", r"epsilon .*got 8 \(did you mean 8/255\?\)"),
        ([], attack("{class_path: PGD, init_args: {epsilon: 8/0}}"), "8/0"),
        ([], attack("{class_path: PGD, init_args: {epsilon: eight}}"), "eight"),
        ([], attack("{class_path: PGD, init_args: {steps: many}}"), r"steps.*many|many.*steps"),
        ([], attack("{class_path: PGD, init_args: {steps: 0}}"), "steps .*got 0"),
        (["--attack.goals", "nxt"], "", "goals.*nxt|nxt.*goals"),
        (["--data.test_split", "tst"], "", "test_split.*tst|tst.*test_split"),
        (["--data.batch_size", "many"], "", "batch_size.*many|many.*batch_size"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused(
    complaint: Complaint, arguments: list, text: str, expected: str
) -> None:
    assert re.search(expected, complaint("evaluate", "--ckpt_path", "GOOD", *arguments, text=text))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--model.weights", "nofile.safetensors"], "no file nofile.safetensors"),
        (["--model.backbone", "resnet1000"], "resnet1000"),
        (["--model.label_smoothing", "2"], r"label_smoothing .*got 2"),
        (["--model.class_weights", "[1, 2, 3]"], "class_weights .*2 classes"),
        (["--model.head", "denss"], "head.*denss|denss.*head"),
        (["--model.schedule", "cosinus"], "schedule.*cosinus|cosinus.*schedule"),
        (["--model.num_classes", "1"], "num_classes .*got 1"),
        (["--name", "null"], "needs a name"),
        (["-c", "nofile.yaml"], "nofile.yaml"),
    ],
)
def test_a_victim_that_cannot_be_built_is_refused(complaint: Complaint, arguments: list, expected: str) -> None:
    assert re.search(expected, complaint("train", *arguments))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--ckpt_path", "best"], r"checkpoints/best\.ckpt.*fine-tune"),
        (["--ckpt_path", "last"], r"checkpoints/last\.ckpt.*fine-tune"),
        (["--ckpt_path", "gone.ckpt"], r"no checkpoint gone\.ckpt"),
        ([], "no checkpoint is given: add --ckpt_path best"),
    ],
)
def test_a_checkpoint_that_does_not_exist_is_refused(complaint: Complaint, arguments: list, expected: str) -> None:
    assert re.search(expected, complaint("evaluate", *arguments, configs=(DEMO, LINF)))


@pytest.mark.parametrize(
    ("arguments", "held", "asked"),
    [
        (["--model.backbone", "resnet18"], "resnet10t", "resnet18"),
        (["--model.head", "dense"], "linear", "dense"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused_and_both_are_named(
    complaint: Complaint, arguments: list, held: str, asked: str
) -> None:
    sentence = complaint("evaluate", "--ckpt_path", "GOOD", *arguments, configs=(DEMO, LINF))
    assert held in sentence and asked in sentence and "demo.ckpt" in sentence


@pytest.mark.parametrize("kind", ["text", "empty", "other object", "no checkpoint of Lightning's"])
@pytest.mark.parametrize("program", ["evaluate", "train"])
def test_a_file_that_is_no_checkpoint_is_refused(complaint: Complaint, tmp_path: Path, kind: str, program: str) -> None:
    file = tmp_path / "junk.ckpt"
    if kind in ("text", "empty"):
        file.write_text("hello" if kind == "text" else "")
    else:
        torch.save([1, 2] if kind == "other object" else {"weights": torch.ones(2)}, file)
    assert "junk.ckpt" in complaint(program, "--ckpt_path", file, configs=(DEMO, LINF))


def test_bare_weights_are_no_checkpoint(complaint: Complaint, tmp_path: Path) -> None:
    victim = Classifier("resnet10t", channels=1)
    torch.save({"state_dict": victim.state_dict()}, tmp_path / "bare.ckpt")
    assert "bare.ckpt" in complaint("evaluate", "--ckpt_path", "bare.ckpt", configs=(DEMO, LINF))


@pytest.mark.parametrize("attacks", ["null", "{}"])
def test_an_evaluation_without_an_attack_is_refused(complaint: Complaint, attacks: str) -> None:
    text = f"attack: {{attacks: {attacks}}}"
    assert "no attack is configured" in complaint("evaluate", "--ckpt_path", "GOOD", text=text)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ("{bmi: {init_args: {steps: 3}}}", "no earlier file configures an attack 'bmi'; did you mean bim"),
        ("{jsma: {init_args: {steps: 3}}}", "no earlier file configures an attack 'jsma'; give that file before"),
        ("{bim: {class_path: PGD}}", "bim cannot turn BIM into PGD"),
        ("{bim: {init_args: {stpes: 3}}}", r"BIM has no option 'stpes'; did you mean .*steps"),
        ("{bim: {init_args: {epsilon: 8}}}", r"epsilon .*got 8 \(did you mean 8/255\?\)"),
        ("{bim: {steps: 3}}", r"bim takes \{init_args: .*got \{'steps': 3\}"),
        ("{bim: {init_args: 3}}", r"bim takes \{init_args: .*got \{'init_args': 3\}"),
        ("{bim: 3}", r"bim takes \{init_args: .*got 3"),
        ("[bim]", r"maps names of attacks to their changes, got \['bim'\]"),
        ("{}, attacks: {}", "wrong.yaml has both"),
    ],
)
def test_a_change_of_attacks_that_cannot_be_made_is_refused(complaint: Complaint, changes: str, expected: str) -> None:
    text = f"attack: {{attacks+: {changes}}}"
    assert re.search(expected, complaint("evaluate", "--ckpt_path", "GOOD", text=text, configs=(DEMO, LINF)))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ("{maps: {init_args: {images: 3}}}", r"wrong.yaml, line 1: .*no earlier file configures a study 'maps'"),
        ("{}, studies: {}", "wrong.yaml has both study.studies, which replaces all studies, and study.studies+"),
    ],
)
def test_a_change_of_studies_that_cannot_be_made_is_refused(complaint: Complaint, changes: str, expected: str) -> None:
    text = f"study: {{studies+: {changes}}}"
    assert re.search(expected, complaint("evaluate", "--ckpt_path", "GOOD", text=text, configs=(DEMO, LINF)))


def test_an_attack_named_like_the_control_is_refused(complaint: Complaint) -> None:
    text = "attack: {attacks: {noise: {class_path: FGSM}}}"
    assert "noise" in complaint("evaluate", "--ckpt_path", "GOOD", text=text)


@pytest.mark.parametrize("arguments", [[], ["predict"], ["fit"], ["fit", "--name", "x"]])
def test_an_incomplete_command_is_refused(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["train.py"])
    with pytest.raises(SystemExit) as stopped:
        cli.main.main("train", arguments)
    lines = capfd.readouterr().err.strip().splitlines()
    assert stopped.value.code == 2 and len(lines) <= 4 and lines[-1].startswith("error: ")


def test_a_broken_file_is_refused_by_its_name(complaint: Complaint) -> None:
    assert "wrong.yaml" in complaint("train", text="a: [1\n b: }")


def test_a_class_of_ones_own_that_cannot_be_imported_is_named_with_the_cause(complaint: Complaint) -> None:
    found = complaint("train", text=attack("{class_path: my_attack.Checker}"))
    assert "my_attack.Checker cannot be imported (No module named 'my_attack')" in found and "PYTHONPATH" in found


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "there is no configuration file"), (b"", "is empty"), (b"\xff\xfe\x00", "is not text in UTF-8")],
)
def test_a_file_that_is_no_configuration_is_refused_by_its_name(
    content: bytes | None, expected: str, complaint: Complaint, tmp_path: Path
) -> None:
    file = tmp_path / "odd.yaml"
    if content is not None:
        file.write_bytes(content)
    found = complaint("train", "-c", str(file))
    assert expected in found and "odd.yaml" in found


def test_a_mistake_in_a_process_of_its_own_leaves_a_short_screen(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "evaluate.py"), "test", "-c", str(DEMO), "-c", str(LINF)]
    command += ["--attack.epsilons", "[8]", "--ckpt_path", "best", *QUIET]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    assert done.returncode == 2 and not done.stdout
    lines = done.stderr.strip().splitlines()
    assert len(lines) <= 4 and lines[-1].startswith("error: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--runs", "x" * 300], "the name is too long"),
        (["--runs", "a-file"], "a part of the path is a file, not a folder"),
        (["--data.root", "x" * 300], "the name is too long"),
        (["--ckpt_path", "x" * 300], "the name is too long"),
    ],
)
def test_what_the_system_refuses_is_told_in_one_sentence_with_the_file(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a-file").write_text("")
    small = ("--data.root", "set", "--data.patients", "20", "--data.side", "32", "--trainer.max_epochs", "1")
    with pytest.raises(SystemExit) as stopped:
        cli.main.main("train", ["fit", "-c", str(DEMO), *small, *QUIET, *arguments])
    (said,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert stopped.value.code == 1 and words in said and arguments[1][:50] in said and len(said) <= LONGEST


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left on device"),
        (errno.EDQUOT, "no space left"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
        (errno.EIO, "input/output error"),
    ],
)
def test_an_error_of_the_system_is_described_with_its_file(number: int, words: str) -> None:
    assert describe(OSError(number, os.strerror(number), "runs/a/b")).startswith("runs/a/b: ")
    assert words in describe(OSError(number, os.strerror(number), "runs/a/b"))
    assert "a file could not be read or written" in describe(OSError(number, os.strerror(number)))


@pytest.mark.parametrize(("subcommand", "limit"), [("test", "limit_test_batches"), ("validate", "limit_val_batches")])
def test_an_evaluation_of_no_batch_is_refused(
    subcommand: str, limit: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["evaluate.py"])
    with pytest.raises(SystemExit) as stopped:
        cli.main.main(
            "evaluate", [subcommand, "-c", str(DEMO), "-c", str(LINF), f"--trainer.{limit}=0", "--ckpt_path=best"]
        )
    assert stopped.value.code == 2 and not (tmp_path / "runs").exists()
    assert f"error: no batch is asked for: trainer.{limit} is 0" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("/tmp/x", "is an absolute path"),
        ("../x", "leads out of that folder"),
        (".", "is that folder itself"),
        (" x", "begins or ends with a space"),
        ("a\tb", "has a control character"),
        ("a\\b", "has a backslash"),
        ("a//b", "would be written 'a/b'"),
    ],
)
def test_what_is_wrong_with_a_name_is_said(complaint: Complaint, name: str, wrong: str) -> None:
    assert f", which {wrong}" in complaint("train", f"--name={name}")


def test_a_suggestion_names_an_option_in_full(complaint: Complaint) -> None:
    found = complaint("train", text="attack: {atacks: {}}")
    assert "no option 'attack.atacks'" in found and "did you mean attack.attacks?" in found
    assert "did you mean attack.attacks?" in complaint("train", "--attack.atacks", "{}")


def test_a_warning_of_ours_is_its_sentence_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = warnings.formatwarning("is odd", UserWarning, "/elsewhere/torch/x.py", 7)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    quiet()
    quiet()
    ours = str(ROOT / "cli" / "runs.py")
    assert warnings.formatwarning(UserWarning("is\x1b odd"), UserWarning, ours, 147) == "warning: is\\x1b odd\n"
    assert warnings.formatwarning("is odd", UserWarning, "/elsewhere/torch/x.py", 7) == before


def test_an_option_before_the_command_is_not_suggested_as_itself() -> None:
    said = sentence("unrecognized arguments: --name", ["name", "runs"])
    assert said == "the option 'name' stands behind the command, as in: fit --name ..."
    assert sentence("unrecognized arguments: --nme", ["name", "runs"]) == "there is no option 'nme'; did you mean name?"


def test_a_package_that_is_missing_is_named_with_its_class() -> None:
    message = (
        'Parser key "trainer.logger":\n'
        "  Problem with given class_path 'pytorch_lightning.loggers.TensorBoardLogger':\n"
        "    Neither `tensorboard` nor `tensorboardX` is available.\n    Requirement 'tensorboard' not met. HINT: ...\n"
    )
    assert sentence(message, ["name"]) == (
        "trainer.logger: TensorBoardLogger needs a package that is not installed: pip install 'tensorboard'"
    )


LISTED = """Does not validate against any of the Union subtypes
Subtypes: [<class 'pytorch_lightning.loggers.logger.Logger'>, collections.abc.Iterable[x.Logger]]
Errors:
  - Not a valid subclass of Logger
    Subclass types expect one of:
    - a class path (str)
    - a dict with class_path entry
    - a dict without class_path but with init_args entry (class path given previously)
  - Problem with given class_path 'pytorch_lightning.loggers.MLFlowLogger':
      REASON
  - Expected a <class 'bool'>
  - Expected a <class 'NoneType'>
Given value type: <class 'list'>
Given value: [Namespace(class_path='pytorch_lightning.loggers.MLFlowLogger', init_args=Namespace(run_name=None))]"""


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (
            "Requirement 'mlflow>=1.0.0' not met. HINT: Try running `pip install -U 'mlflow>=1.0.0'`",
            "MLFlowLogger needs a package that is not installed: pip install 'mlflow>=1.0.0'",
        ),
        ("run_name is expected to be a name", "MLFlowLogger: run_name is expected to be a name"),
    ],
    ids=range(2),
)
def test_a_logger_in_a_list_that_cannot_be_built_says_why(reason: str, said: str) -> None:
    assert sentence(LISTED.replace("REASON", reason), []) == said
