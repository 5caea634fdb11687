"""A victim that a module of tests has trained, copied for each of them, and what commands print and refuse."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cli.prepare


@pytest.fixture
def folder(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder that the module's fixture ``trained`` gives, as the working directory."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["evaluate.py"])
    return tmp_path


@pytest.fixture
def prepare(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """``prepare(...)``: a call of ``prepare.py`` gives its exit status, standard output and standard error."""

    def call(*words: object) -> tuple[int, str, str]:
        status = 0
        try:
            cli.prepare.main([str(word) for word in words])
        except SystemExit as error:
            status = int(error.code or 0)
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """``refusal(run, ...)``: the one sentence of a call of ``run`` that ends with exit status 2."""

    def refused(run: Callable[..., Any], *arguments: Any) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            run(*arguments)
        printed = capsys.readouterr().err
        lines = [line for line in printed.splitlines() if line.startswith("error: ")]
        assert stopped.value.code == 2 and len(lines) == 1, printed
        return lines[0]

    return refused
