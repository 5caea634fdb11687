"""Stores what the programs answer at once: ``make answers``."""

import contextlib
import inspect
import io
import json
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import datamodules
import lightning_modules
from cli import main, prepare
from cli.quick_answers import STORED, key
from cli.suggestions import fields_of
from datamodules import MedicalDataModule
from datamodules.catalogue import PUBLIC_SETS
from lightning_modules import VictimModule
from medrobust import defences
from medrobust.defences import Defence
from medrobust.results.manifest import replace_file

COLUMNS = "100"
COMMANDS: dict[main.Program, tuple[str, ...]] = {
    "train": ("fit", "validate", "test"),
    "evaluate": ("fit", "validate", "test", "replay"),
}


def made() -> dict[str, Any]:
    """The answers of the real parsers as they are now."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = COLUMNS
    try:
        texts = {}
        for program, commands in COMMANDS.items():
            for command in ("", *commands):
                words = [command, "--help"] if command else ["--help"]
                texts[f"{program}.py {command}".strip()] = _said(partial(main.main, program), words)
        texts["prepare.py"] = _said(prepare.main, ["--help"])
        for name in (*PUBLIC_SETS, "medmnist", "describe"):
            texts[f"prepare.py {name}"] = _said(prepare.main, [name, "--help"])
    finally:
        os.environ.pop("COLUMNS") if before is None else os.environ.update(COLUMNS=before)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {"key": key(), "python": python, "help": texts, "classes": _classes()}


def _said(program: Callable[[list[str]], Any], words: list[str]) -> str:
    """What a program prints before it ends."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        program(words)
    return said.getvalue()


def _classes() -> dict[str, list[str]]:
    """The arguments of each class that a configuration may name as victim, data or defence."""
    return {
        name: fields_of(f"{package.__name__}.{name}")
        for package, base in ((lightning_modules, VictimModule), (datamodules, MedicalDataModule), (defences, Defence))
        for name in package.__all__
        if inspect.isclass(getattr(package, name)) and issubclass(getattr(package, name), base)
    }


if __name__ == "__main__":
    replace_file(STORED, f"{json.dumps(made(), indent=1)}\n".encode())
