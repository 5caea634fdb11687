"""Turns the parser's account of everything that it tried into one sentence about the mistake."""

import difflib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterator
from importlib import import_module
from typing import Any, NoReturn

from pytorch_lightning.callbacks import Callback
from pytorch_lightning.cli import LightningArgumentParser

from datamodules import MedicalDataModule
from lightning_modules import VictimModule
from medrobust.attacks import Attack
from medrobust.detectors import Detector
from medrobust.objectives import Objective
from medrobust.results.formats import printable

IMPORT_FAILURE = r"(No module named '[^']+'|cannot import name '[^']+'|module '[^']+' has no attribute '[^']+')"


class OneSentenceParser(LightningArgumentParser):
    """Lightning's parser, whose error is one sentence on standard error and exit status 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End the program with the sentence; a nested parser raises instead."""
        if not self.exit_on_error:
            super().error(message, ex)
        if os.environ.get("MEDROBUST_TRACEBACK"):
            sys.stderr.write(f"{message}\n")
            traceback.print_exc()
        sys.stderr.write(f"error: {printable(sentence(message, list(known_options(self))))}\n")
        sys.exit(2)


def sentence(message: str, options: list[str]) -> str:
    """Summarise a parser's message in one sentence.

    Args:
        message: The message; for classes and unions it has several lines.
        options: All options, of which the sentence suggests the nearest to an unknown one.
    """
    where = re.search(r'Parser key "([^"]+)"', message)
    place = f"{where[1]}: " if where else ""
    inner = re.findall(r'Parser key "([^"]+)"', message)
    place = f"{where[1]}, {inner[-1]}: " if where and inner[-1] != where[1] else place
    if unknown := re.search(r"Expected a dot import path string: (\S+)", message):
        choices = re.search(r"Expected a typing.Literal\[(.+?)\]", message)
        beside = f", nor is it one of {choices[1]}" if choices else ""
        return f"{place}there is no class {unknown[1]!r}{beside}{nearest(unknown[1], known_classes())}"
    owners = re.findall(r"Problem with given class_path '([^']+)'", message)
    if option := re.search(r"Option '([^']+)' is not accepted", message):
        owner = owners[-1] if owners else ""
        name = option[1].rpartition(".")[2]
        return f"{place}{owner.rpartition('.')[2] or 'it'} has no option {name!r}{nearest(name, _fields(owner))}"
    if refused := re.search(r"does not accept option '([^']+)'|unrecognized arguments: --([^\s=]+)", message):
        name = refused[1] or refused[2]
        return f"there is no option {name!r}{nearest(name, options)}"
    if failed := re.search(IMPORT_FAILURE, message):
        hint = "; its folder has to be on PYTHONPATH" if failed[1].startswith("No module") else ""
        return f"{inner[0] + ': ' if inner else ''}{(owners or ['a class'])[-1]} cannot be imported ({failed[1]}){hint}"
    if missing := re.search(r"the following arguments are required: (.+)", message):
        names = " and ".join(name.rpartition(".")[2] for name in missing[1].split(", "))
        return f"the command needs {names}: give a configuration with -c, such as a run's train.yaml, or options"
    if commands := re.search(r'expected "subcommand" to be one of \{(.+?)\}, but it was not provided', message):
        return f"expected a command among {commands[1].replace(',', ', ')}, got none"
    if owners and inner:
        place = f"{inner[0]}, {inner[-1]} of {owners[-1].rpartition('.')[2]}: "
    if fraction := re.search(r"Not of type Fraction: (.+)", message):
        return place + fraction[1]
    if literal := re.search(r"Expected a typing.Literal\[(.+?)\]\. Got value: (.+)", message):
        return f"{place}expected one of {literal[1]}, got {literal[2]!r}"
    if plain := re.search(r"Expected a <class '(.+?)'>\. Got value: (.+)", message):
        return f"{place}expected {_type(plain[1])}, got {plain[2]!r}"
    tried = re.search(r"Errors:\n(.+?)(?:\n\s*Given value|$)", message, re.DOTALL)
    causes = re.findall(r"^\s*- (?!Expected a <class)(.+)$", tried[1], re.MULTILINE) if tried else []
    if causes:
        return place + causes[0]
    kinds = [_type(kind) for kind in re.findall(r"Expected a <class '(.+?)'>", message)]
    given = re.search(r"Given value: (.+)", message)
    if kinds and given:
        return f"{place}expected {' or '.join(dict.fromkeys(kinds))}, got {given[1][:120]!r}"
    return " ".join(message.split())


def known_options(parser: Any) -> Iterator[str]:
    """Names of a parser's options, including those of its subcommands."""
    for action in parser._actions:
        yield from (option.lstrip("-") for option in action.option_strings)
        for sub in getattr(action, "_name_parser_map", {}).values():
            yield from known_options(sub)


def known_classes() -> list[str]:
    """Names of the project's classes that a configuration may name."""
    return [
        found.__name__
        for base in (Attack, Objective, Detector, VictimModule, MedicalDataModule, Callback)
        for found in _below(base)
        if not inspect.isabstract(found)
    ]


def _below(base: type) -> Iterator[type]:
    direct: type
    for direct in base.__subclasses__():
        yield direct
        yield from _below(direct)


def _fields(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    try:
        return list(inspect.signature(getattr(import_module(module), name)).parameters)
    except (ImportError, AttributeError, TypeError, ValueError):
        return []


def nearest(name: str, names: list[str]) -> str:
    """Suggestion of the most similar names, to be appended to a sentence; empty if none is similar."""
    near = list(dict.fromkeys(difflib.get_close_matches(name, names, n=3, cutoff=0.6)))
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _type(name: str) -> str:
    return {
        "NoneType": "nothing",
        "int": "a whole number",
        "float": "a number",
        "str": "text",
        "bool": "true or false",
    }.get(name, {"list": "a list", "dict": "a mapping"}.get(name, name))
