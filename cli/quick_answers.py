"""What the programs answer without importing torch, which takes seconds: ``--help``, and an option that does not exist.

The answers are those of the real parsers, stored in ``quick_answers.json`` by ``make answers``. They hold as long as
nothing has changed that the parsers are made of; otherwise the parsers answer themselves.
"""

import ast
import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from cli.likeness import nearest, no_such_file

ROOT = Path(__file__).resolve().parents[1]
STORED = Path(__file__).with_suffix(".json")
SOURCES = ("callbacks", "cli", "datamodules", "lightning_modules", "medrobust/defences", "medrobust/listeners")
PACKAGES = ("pytorch-lightning", "jsonargparse")
HELP = ("-h", "--help")
SECTIONS = ("model", "data", "defence")  # whose classes' options the stored answers know
OF_ANY_CLASS = ("class_path", "init_args", "dict_kwargs", "help")


def answer(program: str, words: Sequence[str]) -> None:
    """Answer what can be answered at once, and end the program with it; return where the real parser is needed.

    Args:
        program: The program's name, such as ``train.py``.
        words: The words of its command line.
    """
    commands = [word for word in words[:1] if not word.startswith("-")]
    place = " ".join([program, *commands])
    if (stored := read()).get("key") != key():
        return
    if commands and (mistake := unknown_command(program, commands[0], stored["help"])):
        _refuse(mistake)
    if place not in stored["help"]:
        return
    if not words:
        _refuse(no_command(program, stored["help"]))
    if any(word in HELP for word in words):
        sys.stdout.write(stored["help"][place])
        sys.exit(0)
    places = [place]
    if not commands:  # whose name may follow
        places += [one for one in stored["help"] if one.startswith(f"{program} ")]
    elif commands == ["replay"]:  # takes those of test, too
        places.append(f"{program} test")
    options = [name for one in places for name in options_in(stored["help"][one])]
    if mistake := missing_file(words[len(commands) :]):
        _refuse(mistake)
    if program == "prepare.py" and commands != ["describe"]:
        classes, words = {}, [word for word in words if not _abbreviates(word, options)]
    else:
        classes = stored["classes"]
    if mistake := unknown_option(words[len(commands) :], options, classes):
        _refuse(mistake)


def _refuse(mistake: str) -> NoReturn:
    sys.stderr.write(f"error: {mistake}\n")
    sys.exit(2)


def _abbreviates(word: str, options: Sequence[str]) -> bool:
    """Whether a word begins an option's name, which the parser of a dataset takes for the whole."""
    name = word.removeprefix("--").partition("=")[0]
    return word.startswith("--") and any(option.startswith(name) for option in options)


def no_command(program: str, answers: dict[str, str]) -> str:
    """The sentence about a command line without words."""
    listed = re.search(r"\{([\w,]+)\} \.\.\.", answers[program])
    if listed is None:
        return "the following arguments are required: NAME"
    return f"expected a command among {listed[1].replace(',', ', ')}, got none"


def unknown_command(program: str, word: str, answers: dict[str, str]) -> str:
    """The sentence about a command that a program does not have; empty if it has it.

    Args:
        program: The program's name.
        word: The first word of its command line.
        answers: The stored help of programs and of their commands.
    """
    known = [place.partition(" ")[2] for place in answers if place.startswith(f"{program} ")]
    known += listed_commands(answers.get(program, ""))  # also those whose help is not stored
    if word in known or not known:
        return ""
    kind = "dataset" if program == "prepare.py" else "command"
    choices = f"; choose from {', '.join(sorted(set(known)))}"
    return f"there is no {kind} {word!r}{nearest(word, known) or choices}"


def missing_file(words: Sequence[str]) -> str:
    """The sentence about the first configuration file that is not there; empty if all are."""
    named = [word.partition("=")[2] for word in words if word.startswith("--config=")]
    named += [value for word, value in pairwise(words) if word in ("-c", "--config")]
    for path in named:
        if not path.startswith("-") and path.strip() and "\n" not in path and not ("{" in path or os.path.exists(path)):
            return no_such_file(path)
    return ""


def listed_commands(text: str) -> list[str]:
    """The commands that a program's help lists."""
    listed = re.search(r"\{([\w,]+)\} \.\.\.", text)
    return listed[1].split(",") if listed else []


def read() -> dict[str, Any]:
    """The stored answers; empty if there are none."""
    try:
        stored = json.loads(STORED.read_bytes())
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}


def key() -> str:
    """16 hex digits over all that the parsers are made of: signatures and docstrings of classes, and versions."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        try:
            digest.update(f"{package} {version(package)}".encode())
        except PackageNotFoundError:
            return ""
    for folder in SOURCES:
        for path in sorted((ROOT / folder).glob("*.py")):
            for part in signatures(ast.parse(path.read_bytes())):
                digest.update(part.encode())
    return digest.hexdigest()[:16]


def signatures(module: ast.Module) -> Iterator[str]:
    """What a parser takes from a module: its constants, its functions that build parsers, and of classes the same."""
    for node in module.body:
        if isinstance(node, ast.ClassDef):
            yield f"{node.name}({', '.join(map(ast.unparse, node.bases))}) {ast.get_docstring(node)}"
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                    yield ast.unparse(method.args)
                elif isinstance(method, ast.FunctionDef) and "parser" in method.name:
                    yield ast.unparse(method)
        elif isinstance(node, ast.Assign | ast.AnnAssign) or (
            isinstance(node, ast.FunctionDef) and "parser" in node.name
        ):
            yield ast.unparse(node)


def options_in(text: str) -> list[str]:
    """Names of the options that a help text lists, without their hyphens."""
    lines = re.findall(r"^  (--?\w.*)$", text, re.MULTILINE)
    return list(dict.fromkeys(name for line in lines for name in re.findall(r"--([\w.]+)", line)))


def unknown_option(words: Sequence[str], options: Sequence[str], classes: dict[str, list[str]]) -> str:
    """The sentence about the first option that surely does not exist; empty if there is none.

    Args:
        words: The words after the command.
        options: Names of the command's options.
        classes: The arguments of the classes that ``model``, ``data`` and ``defence`` may name.
    """
    real = [name for name in options if not name.endswith(".help")]  # what has a class's help takes its options, too
    groups = {".".join(name.split(".")[:depth]) for name in real for depth in range(1, name.count(".") + 1)}
    leaves = tuple(f"{name}." for name in real if name not in groups)
    chosen: dict[str, str] = {}
    for place, word in enumerate(words):
        name, _, value = word.removeprefix("--").partition("=")
        value = value or "".join(words[place + 1 : place + 2])
        if word in ("-c", "--config") or word.startswith("--config="):
            chosen |= classes_named(Path(value))
        if not word.startswith("--") or name in ("config", "print_config") or not re.fullmatch(r"[\w.]+\+?", name):
            continue
        name = name.removesuffix("+")
        section, _, option = name.partition(".")
        if section in SECTIONS:
            if option in ("", "class_path"):
                chosen[section] = value.rpartition(".")[2]
            elif mistake := _unknown_argument(section, option, classes.get(chosen.get(section, ""))):
                return mistake.format(chosen[section])
        elif name not in options and not name.startswith(leaves) and not name.endswith((".help", "print_config")):
            return f"there is no option {name!r}{nearest(name, options)}"
    return ""


def _unknown_argument(section: str, option: str, known: list[str] | None) -> str:
    """The sentence about an argument that a class does not have, with a place for its name; empty if it has it."""
    name = option.removeprefix("init_args.").partition(".")[0]
    if known is None or name in known or name in OF_ANY_CLASS:
        return ""
    return f"{section}: {{}} has no option {name!r}{nearest(name, [*known, 'init_args'])}"


def classes_named(path: Path) -> dict[str, str]:
    """Names of the classes that a configuration file gives to ``SECTIONS``; empty ones where it is unclear."""
    import yaml  # only where a class's options are looked at

    try:
        content = yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (OSError, yaml.YAMLError):
        return dict.fromkeys(SECTIONS, "")
    named = {}
    for section in SECTIONS:
        value = content.get(section) if isinstance(content, dict) else None
        if isinstance(value, dict) and isinstance(value.get("class_path"), str):
            named[section] = value["class_path"].rpartition(".")[2]
        elif value is not None and not isinstance(value, dict):
            named[section] = ""
    return named
