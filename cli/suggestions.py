"""The names that a command line and its classes have."""

import inspect
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from pytorch_lightning.callbacks import Callback

from datamodules import MedicalDataModule
from lightning_modules import VictimModule
from medrobust.attacks import Attack
from medrobust.defences import Defence
from medrobust.detectors import Detector
from medrobust.networks import InputDefence
from medrobust.objectives import Objective

NO_OPTIONS = ("help", "h", "print_config")
KINDS: dict[type, str] = {
    Attack: "an attack",
    Objective: "an objective",
    Detector: "a detector",
    Defence: "a defence",
    InputDefence: "an input defence",
    VictimModule: "a victim",
    MedicalDataModule: "a data module",
    Callback: "a callback",
}


def subparsers(parser: Any) -> Iterator[Any]:
    """The parsers of a parser's subcommands."""
    for action in parser._actions:
        yield from getattr(action, "_name_parser_map", {}).values()


def known_options(parser: Any) -> Iterator[str]:
    """Names of a parser's options, including those of its subcommands, without those that show help."""
    for action in parser._actions:
        names = (option.lstrip("-") for option in action.option_strings)
        yield from (name for name in names if name.rpartition(".")[2] not in NO_OPTIONS and not name.endswith("+"))
    for sub in subparsers(parser):
        yield from known_options(sub)


def known_classes(base: type | None = None) -> list[str]:
    """Names of the classes below a base that a configuration may name; None for all kinds of them."""
    bases = KINDS if base is None else [base]
    return [found.__name__ for one in bases for found in _below(one) if not inspect.isabstract(found)]


def expected_base(description: str) -> type | None:
    """The kind of class that a parser's description of a type names; None if it names none of ours."""
    return next((base for base in KINDS if f"{base.__name__}" in _words(description)), None)


def kind_of(name: str) -> str:
    """What a class of this name is, such as ``a detector``; empty if it is none of ours."""
    return next((kind for base, kind in KINDS.items() if name in known_classes(base)), "")


def found_class(class_path: str) -> Any:
    """The class that a path names; None if it cannot be imported."""
    module, _, name = class_path.rpartition(".")
    try:
        return getattr(import_module(module), name, None)
    except (ImportError, ValueError):
        return None


def fields_of(class_path: str) -> list[str]:
    """Names of what a class and those that it derives from are given; none if it cannot be imported."""
    found = found_class(class_path)
    try:
        signatures = [inspect.signature(one) for one in (found.__mro__ if inspect.isclass(found) else [found])[:-1]]
    except (TypeError, ValueError):
        return []
    return list(dict.fromkeys(name for signature in signatures for name in signature.parameters))


def _words(text: str) -> set[str]:
    return set("".join(letter if letter.isalnum() or letter == "_" else " " for letter in text).split())


def _below(base: type) -> Iterator[type]:
    direct: type
    for direct in base.__subclasses__():
        yield direct
        yield from _below(direct)
