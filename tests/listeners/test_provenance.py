"""What an evaluation says of the code and the machine that made it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from medrobust.listeners import provenance
from medrobust.listeners.provenance import code_version, environment


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    """Forget what was asked before, and what this test is told."""
    code_version.cache_clear()
    yield
    code_version.cache_clear()


def git(folder: Path, *words: str) -> str:
    """Run git in a folder, as somebody."""
    who = ("-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", "-C", str(folder), *who, *words], capture_output=True, text=True, check=True).stdout


def test_a_checkout_has_a_commit_and_may_have_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "file.py").write_text("one = 1\n")
    git(tmp_path, "add", "file.py")
    git(tmp_path, "commit", "-qm", "one")
    monkeypatch.setattr(provenance, "ROOT", tmp_path.resolve())
    found = code_version()
    assert (found["commit"], found["changed"]) == (git(tmp_path, "rev-parse", "HEAD").strip(), False)
    code_version.cache_clear()
    (tmp_path / "file.py").write_text("one = 2\n")
    assert code_version()["changed"] is True
    code_version.cache_clear()
    inside = tmp_path / "site-packages"  # of an installation in somebody else's checkout
    inside.mkdir()
    monkeypatch.setattr(provenance, "ROOT", inside.resolve())
    assert (code_version()["commit"], code_version()["changed"]) == (None, None)


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert (code_version()["commit"], code_version()["changed"]) == (None, None)


def test_the_environment_says_on_what_rounding_depends() -> None:
    found = environment(torch.device("cpu"))
    assert set(found) == {"system", "machine", "instructions", "threads"}
    assert found["threads"] == torch.get_num_threads()
