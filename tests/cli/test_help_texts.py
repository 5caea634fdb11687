"""What --help says: what each program does here, and none of Lightning's own words about it."""

from typing import Any

import pytest

import compare
from cli.main import main


def shown(program: Any, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The help of a command, in one line."""
    with pytest.raises(SystemExit) as ending:
        main(program, arguments)
    assert ending.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_the_programs_say_what_they_do(capsys: pytest.CaptureFixture[str]) -> None:
    train, evaluate = (shown(program, ["--help"], capsys) for program in ("train", "evaluate"))
    assert "python train.py fit -c configs/demo.yaml" in train
    assert "python evaluate.py test -c runs/demo/train.yaml -c configs/attacks/linf.yaml --ckpt_path best" in evaluate
    for text in (train, evaluate):
        assert "test Attack a victim on the split AdvTest" in text
        assert "Lightning" not in text


def test_a_subcommand_says_what_checkpoint_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown("evaluate", ["test", "--help"], capsys)
    assert "Checkpoint to load: best or last, those of the run's folder, or a path." in text
    assert "default: null" in text.partition("Checkpoint to load")[2][:250]
    assert "separated from fit" not in text


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("transfer", "print how often attacks made on one victim fool the others"),
        ("table", "print the results and measurements of one run, in Markdown"),
        ("detection", "print how well detectors do on one run, in Markdown"),
        ("records", "tell whether two evaluations have the same records"),
        ("dashboard", "write one page that puts runs side by side"),
        ("list", "print a line for each run"),
        ("diff", "print where two runs differ"),
        ("export", "write the tables of the dashboard to files"),
    ],
)
def test_every_comparison_says_what_it_does(command: str, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for arguments in (["--help"], [command, "--help"]):
        with pytest.raises(SystemExit):
            compare.main(arguments)
        texts.append(" ".join(capsys.readouterr().out.split()))
    assert f"{command} {what}" in texts[0]
    assert f"{what[0].upper()}{what[1:]}" in texts[1]
