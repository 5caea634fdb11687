"""Turns the parser's account of everything that it tried into one sentence about the mistake, and says where it is."""

import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from pytorch_lightning.cli import LightningArgumentParser

from cli.config_files import ConfigFile, line_of
from cli.likeness import nearest
from cli.suggestions import (
    KINDS,
    expected_base,
    fields_of,
    found_class,
    kind_of,
    known_classes,
    known_options,
    subparsers,
)
from medrobust.attacks import Attack
from medrobust.results.formats import printable

IMPORT_FAILURE = r"(No module named '[^']+'|cannot import name '[^']+'|module '[^']+' has no attribute '[^']+')"
CALLABLE = r"Got value: Namespace\(class_path='([^']+)'"
NO_CAUSE = (
    "Expected a <class|Does not validate|Problem with given class_path|Not a valid subclass|a class path|a dict with"
)
MISSING = r"Requirement '([^']+)' not met"  # as Lightning says which package a class needs
LONGEST = 240  # characters of a message of the parser's that no better sentence is known for


class OneSentenceParser(LightningArgumentParser):
    """Lightning's parser, whose error is one sentence on standard error and exit status 2."""

    files: tuple[ConfigFile, ...] = ()  # that were given to it

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """End the program with the sentence; a nested parser raises instead."""
        if not self.exit_on_error:
            super().error(message, ex)
        if os.environ.get("MEDROBUST_TRACEBACK"):
            sys.stderr.write(f"{message}\n")
            traceback.print_exc()
        place = place_of(message, list(given_files(self)))
        sys.stderr.write(f"error: {place}{printable(sentence(message, list(known_options(self))))}\n")
        sys.exit(2)


def given_files(parser: Any) -> Iterable[ConfigFile]:
    """The configuration files that a parser and its subcommands were given."""
    yield from parser.files
    for sub in subparsers(parser):
        yield from given_files(sub)


def place_of(message: str, files: Sequence[ConfigFile]) -> str:
    """File and line of a mistake, to be put before its sentence; empty if it is in no file or already named.

    Args:
        message: The parser's message, or what a class said when it was built.
        files: The configuration files, in the order in which they were given.
    """
    if any(message.startswith(file.path) for file in files):
        return ""
    keys = re.findall(r'Parser key "([^"]+)"', message)
    within = tuple(keys[0].split(".")) if keys else ()
    if option := re.search(r"Option '([^']+)' is not accepted|does not accept option '([^']+)'", message):
        name = (option[1] or option[2]).removeprefix("init_args.").partition(".")[0]
        return line_of(files, within, name)
    if unknown := re.search(r"dot import path string: (\S+)|Import path (\S+)|class, but (\S+) is abstract", message):
        return line_of(files, within, None, unknown[1] or unknown[2] or unknown[3])
    if re.search(IMPORT_FAILURE, message) and (owners := re.findall(CALLABLE, message) or _owners(message)):
        return line_of(files, within, None, owners[-1])
    if (called := re.search(CALLABLE, message)) and (place := line_of(files, (), None, called[1])):
        return place
    values = re.findall(r"(?:Got|Given) value: (.+)", message) + re.findall(
        r"fraction such as 8/255, got '(.+)'", message
    )
    for value in values if keys else []:
        name = keys[-1].rpartition(".")[2]
        if place := line_of(files, within, name, value) or line_of(files, within, None, value):
            return place
    return _built_from(message, files)


def _built_from(message: str, files: Sequence[ConfigFile]) -> str:
    """Place of the value that a class refused when it was built: one whose name and value its sentence contains."""
    words, quoted = set(re.findall(r"\w+", message)), re.findall(r"'([^']+)'", message)
    values = re.findall(r"(?:got|passed in|devices) ([^\s,;)]*[^\s,;.)])", message) or quoted
    for file in reversed(files):
        for entry in file.entries():
            if entry.names[-1] in words and any(entry.means(value) for value in values):
                return file.at(entry.line)
    named = [place for value in quoted if (place := line_of(files, ("attack", "attacks", value)))]
    if not named and "got " not in message:  # else quoted words may be what was expected
        named = [place for value in quoted if (place := line_of(files, (), None, value))]
    return named[0] if named else ""


def place_of_class(message: str, files: Sequence[ConfigFile]) -> str:
    """File and line of the class that refused its values, if the files name it only once; empty otherwise."""
    built = re.search(r"Given value: Namespace\(class_path='([^']+)'", message)
    names = (built[1], built[1].rpartition(".")[2]) if built else ()
    found = {file.at(entry.line) for file in files for entry in file.entries() if any(map(entry.means, names))}
    return found.pop() if len(found) == 1 else ""


def sentence(message: str, options: list[str]) -> str:
    """Summarise a parser's message in one sentence.

    Args:
        message: The message; for classes and unions it has several lines.
        options: All options, of which the sentence suggests the nearest to an unknown one; none for what a class says.
    """
    if not options and "\n" not in message:
        return message
    keys = re.findall(r'Parser key "([^"]+)"', message)
    place = "" if not keys else f"{keys[0]}: " if keys[-1] == keys[0] else f"{keys[0]}, {keys[-1]}: "
    about = _about_a_class(message, place) or _about_an_option(message, place, options)
    if about:
        return about
    if keys and (owners := _owners(message)):
        place = f"{keys[0]}, {keys[-1]} of {owners[-1].rpartition('.')[2]}: "
    return _about_a_value(message, place)


def _about_a_class(message: str, place: str) -> str:
    """Sentence about a class that does not exist, cannot be imported or is of another kind; empty if it is not that."""
    base = expected_base((re.findall(r"Subtypes: (.+)|subclass of (.+)", message) or [("", "")])[-1][0] or message)
    kind = KINDS[base] if base else ""
    unknown = re.search(r"Expected a dot import path string: (\S+)", message)
    foreign = re.search(r"Import path (\S+) does not correspond to a subclass of (\w+)", message)
    if foreign or (unknown and kind_of(unknown[1])):
        name = foreign[1] if foreign else unknown[1]  # type: ignore[index]
        own = kind_of(name.rpartition(".")[2])
        return f"{place}{name} is {own or 'not ' + kind}{', and ' + kind + ' is expected' if own and kind else ''}"
    if unknown:
        choices = re.search(r"Expected a typing.Literal\[(.+?)\]", message)
        beside = f", nor is it one of {choices[1]}" if choices else ""
        return f"{place}there is no class {unknown[1]!r}{beside}{nearest(unknown[1], known_classes(base))}"
    if abstract := re.search(r"Expected an instantiatable class, but (\S+) is abstract", message):
        if given := re.search(r"NestedArg\(key='([^']+)'", message):
            return f"{place}no class is configured that {given[1]} could be given to; give a class_path first"
        name = abstract[1].rpartition(".")[2]
        return f"{place}{name} only says what {kind or 'such a class'} is; name a class of that kind"
    if (lacking := re.findall(MISSING, message)) and (owners := _owners(message)):
        wanted = " or ".join(repr(package) for package in dict.fromkeys(lacking))
        return f"{place}{owners[-1].rpartition('.')[2]} needs a package that is not installed: pip install {wanted}"
    if failed := re.search(IMPORT_FAILURE, message):
        owners = re.findall(CALLABLE, message) or _owners(message) or ["a class"]
        missing = failed[1].startswith("No module")
        name = owners[-1].rpartition(".")[2]
        hint = "; its folder has to be on PYTHONPATH" if missing else nearest(name, known_classes(base))
        return f"{place}{owners[-1]} cannot be imported ({failed[1]}){hint}"
    return ""


def _about_an_option(message: str, place: str, options: list[str]) -> str:
    """Sentence about an option that does not exist or is missing; empty if it is not that."""
    if option := re.search(r"Option '([^']+)' is not accepted", message):
        owners = re.findall(CALLABLE, message) or _owners(message) or [""]
        name = option[1].removeprefix("init_args.").partition(".")[0]
        owner = owners[-1].rpartition(".")[2] or "it"
        return f"{place}{owner} has no option {name!r}{_meant(name, owners[-1])}"
    if refused := re.search(r"does not accept option '([^']+)'|unrecognized arguments: --([^\s=]+)", message):
        name = refused[1] or refused[2]
        if refused[2] and name in options:
            return f"the option {name!r} stands behind the command, as in: fit --{name} ..."
        return f"there is no option {name!r}{nearest(name, options)}"
    if word := re.search(r"unrecognized arguments: (\S+)", message):
        if word[1].endswith((".yaml", ".yml")):
            return f"configuration files are given with -c: write -c {word[1]}"
        hint = nearest(word[1].lstrip("-"), options)
        return f"options begin with two hyphens, got {word[1]!r}{hint.replace('mean ', 'mean --')}"
    if missing := re.search(r"the following arguments are required: (.+)", message):
        names = " and ".join(name.rpartition(".")[2] for name in missing[1].split(", "))
        if owners := _owners(message):
            return f"{place}{owners[-1].rpartition('.')[2]} needs {names}: give it under init_args, or as an option"
        return f"the command needs {names}: give a configuration with -c, such as a run's train.yaml, or options"
    if commands := re.search(r'expected "subcommand" to be one of \{(.+?)\}, but it was not provided', message):
        return f"expected a command among {commands[1].replace(',', ', ')}, got none"
    return ""


def _about_a_value(message: str, place: str) -> str:
    """Sentence about a value of the wrong type; what the parser said if nothing better is known."""
    given = re.findall(r"(?:Got|Given) value: (.+)", message)
    if fraction := re.search(r"Not of type Fraction: (.+)", message):
        return place + fraction[1]
    if loaded := re.search(r"Unable to load config ['\"](.+?)['\"]", message):
        return f"{place}expected options of its own, or a file of them, got {loaded[1]!r}"
    if literal := re.search(r"Expected a typing.Literal\[(.+?)\]\. Got value: (.+)", message):
        return f"{place}expected one of {literal[1]}, got {literal[2]!r}"
    if given and (literals := re.findall(r"Expected a typing.Literal\[(.+?)\]", message)):
        return f"{place}expected one of {', '.join(literals)}, got {given[-1][:120]!r}"
    if plain := re.search(r"Expected a <class '(.+?)'>\. Got value: (.+)", message):
        return f"{place}expected {_type(plain[1])}, got {plain[2][:120]!r}"
    tried = re.search(r"Errors:\n(.+?)(?:\n\s*Given value|$)", message, re.DOTALL)
    causes = re.findall(rf"^\s*- (?!{NO_CAUSE})(.+)$", tried[1], re.MULTILINE) if tried else []
    problem = re.search(r"- Problem with given class_path '([^']+)':\n +(?!-)(.+)", tried[1]) if tried else None
    if problem and not causes:
        return f"{place}{problem[1].rpartition('.')[2]}: {problem[2]}"
    if called := re.search(r"expects a function or a callable class: (.+?)\.* Got value", message):
        return place + re.sub(r"<class '(\w+)'>", r"\1", called[1])
    if causes:
        return place + causes[0]
    types = [_type(kind) for kind in re.findall(r"Expected a <class '(.+?)'>", message)]
    if types and given:
        return f"{place}expected {' or '.join(dict.fromkeys(types))}, got {given[-1][:120]!r}"
    said = " ".join(re.sub(r'Parser key "[^"]+":', " ", message).split())
    return place + (said if len(said) <= LONGEST else f"{said[:LONGEST]}...") if place else said


def _owners(message: str) -> list[str]:
    return re.findall(r"Problem with given class_path '([^']+)'", message)


def _meant(name: str, class_path: str) -> str:
    """What an option that a class does not have may have been meant as, to be appended to a sentence."""
    owner = found_class(class_path)
    if name == "epsilon" and inspect.isclass(owner) and issubclass(owner, Attack):
        return "; it has no radius" + (": it looks for the smallest perturbation that fools" if owner.minimal else "")
    return nearest(name, [*fields_of(class_path), "init_args"])


def _type(name: str) -> str:
    return {
        "NoneType": "nothing",
        "int": "a whole number",
        "float": "a number",
        "str": "text",
        "bool": "true or false",
    }.get(name, {"list": "a list", "dict": "a mapping"}.get(name, name))
