"""Configuration files as they were written: ambiguous ones are refused, and a mistake is found by its line."""

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from cli.likeness import nearest, no_such_file

CLASS_KEYS = ("class_path", "init_args", "dict_kwargs")
COMMANDS = ("fit", "validate", "test")
MERGE, TEXT, NULL = (f"tag:yaml.org,2002:{kind}" for kind in ("merge", "str", "null"))
MOST = 100_000  # values that are looked at: aliases of aliases can stand for any number of them
HINTS = {
    r"character '\\t' that cannot start any token": "indent by spaces, not by tabs",
    r"but found another document": "a configuration is one document, and here a second one begins",
    r"mapping values are not allowed": "a text that contains ': ' has to be quoted",
    r"undefined alias": "an alias *NAME needs an anchor &NAME before it",
    r"character '[%@`]'": "a text that begins with such a character has to be quoted",
}


@dataclass(frozen=True)
class Entry:
    """One value of a file.

    Args:
        names: Names that lead to it, each without its ``+``.
        line: Line that names it.
        node: Its node.
        changes: Whether a name above it ends in ``+``, so that it changes what an earlier file says.
    """

    names: tuple[str, ...]
    line: int
    node: yaml.Node
    changes: bool

    def means(self, value: str) -> bool:
        """Whether the value is this one, as it was written or as Python shows it."""
        if isinstance(self.node, yaml.ScalarNode) and self.node.value == value:
            return True
        try:
            mine = yaml.SafeLoader("").construct_object(self.node, deep=True)
        except (yaml.YAMLError, ValueError):
            return False
        if isinstance(mine, int | float) and not isinstance(mine, bool):
            try:
                return float(value) == mine or (value == "nan" and mine != mine)
            except ValueError:
                return False
        return value in (str(mine), repr(mine))


class ConfigFile:
    """A configuration file, read and checked.

    Args:
        path: As it was given on the command line.

    Raises:
        ValueError: It cannot be read, is not YAML, is not a mapping, or a name in it is given twice, is empty or is not
            text.
    """

    def __init__(self, path: str) -> None:
        """Read the file."""
        self.path = path
        text = read_text(path)
        with self._one_sentence():
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is None or root.tag == NULL:
            raise ValueError(f"the configuration file {path} is empty")
        if not isinstance(root, yaml.MappingNode):
            raise ValueError(f"{path} is expected to be a mapping of options to values, got {shown(root)}")
        self.root = root
        self._check_names(root, set())
        with self._one_sentence():
            self.content: dict[str, Any] = yaml.safe_load(text)

    @contextmanager
    def _one_sentence(self) -> Iterator[None]:
        """Turn what PyYAML raises into a sentence that names the file and the line."""
        try:
            yield
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            said = str(error.problem)
            hint = next((f": {hint}" for pattern, hint in HINTS.items() if re.search(pattern, said)), "")
            place = self.at(mark.line + 1) if mark else f"{self.path}: "
            raise ValueError(f"{place}this is not valid YAML ({said}){hint}") from error
        except (yaml.YAMLError, ValueError) as error:
            raise ValueError(f"{self.path} is not valid YAML ({' '.join(str(error).split())})") from error

    def at(self, line: int) -> str:
        """The file and a line of it, to be put before a sentence."""
        return f"{self.path}, line {line}: "

    def entries(self) -> Iterator[Entry]:
        """All values of the file; the members of a list have the list's names."""
        return islice(_entries(self.root, (), False, ()), MOST)

    def _check_names(self, node: yaml.Node, seen: set[int]) -> None:
        """Refuse names that are given twice, of which only the last would count, that are empty or are not text."""
        if id(node) in seen:
            return
        seen.add(id(node))
        for member in node.value if isinstance(node, yaml.SequenceNode) else []:
            self._check_names(member, seen)
        lines: dict[str, int] = {}
        for key, value in node.value if isinstance(node, yaml.MappingNode) else []:
            line = key.start_mark.line + 1
            if key.tag not in (TEXT, MERGE):
                if isinstance(key, yaml.ScalarNode):
                    raise ValueError(
                        f"{self.at(line)}YAML does not read the name {key.value} as text; write it in quotes"
                    )
                raise ValueError(f"{self.at(line)}a name is expected, got {shown(key)}")
            if not key.value.strip():
                raise ValueError(f"{self.at(line)}a name is empty")
            if key.value in lines:
                raise ValueError(f"{self.at(line)}{key.value!r} is given twice, first in line {lines[key.value]}")
            lines[key.value] = line
            self._check_names(value, seen)

    def check_options(self, options: Collection[str]) -> None:
        """Refuse sections and options that the command does not have.

        Args:
            options: All options, such as ``name`` and ``attack.epsilons``.

        Raises:
            ValueError: A name at the top level or inside a section is not among them, or a section is no mapping.
        """
        known = {option.partition(".")[0] for option in options}
        for key, value in self.root.value:
            place, name = self.at(key.start_mark.line + 1), key.value
            if key.tag == MERGE:
                continue
            if name in COMMANDS:
                raise ValueError(f"{place}a file holds the options of {name} itself, without the command's name above")
            self._check_dots(place, name)
            if name not in known:
                raise ValueError(f"{place}there is no option {name!r}{suggested('', name, options)}")
            if name in ("model", "data") and value.tag == NULL:
                raise ValueError(
                    f"{place}{name} is expected to be {{class_path: NAME, init_args: {{...}}}}, got nothing"
                )
            if name not in ("model", "data") and any(option.startswith(f"{name}.") for option in options):
                self._check_section(place, name, value, options)

    def _check_section(self, place: str, section: str, node: yaml.Node, options: Collection[str]) -> None:
        """Refuse a section that is no mapping, and options that it does not have."""
        known = {option.split(".")[1] for option in options if option.startswith(f"{section}.")}
        if not isinstance(node, yaml.MappingNode):
            some = ", ".join(sorted(known)[:3])
            raise ValueError(f"{place}{section} has options of its own, such as {some}, got {shown(node)}")
        for key, value in node.value:
            place, name = self.at(key.start_mark.line + 1), key.value
            if key.tag == MERGE or name.removesuffix("+") in known:
                continue
            self._check_dots(place, name)
            hint = suggested(section, name, options)
            if section == "attack" and isinstance(value, yaml.MappingNode) and not hint:
                hint = "; attacks stand under attack.attacks"
            raise ValueError(f"{place}there is no option '{section}.{name}'{hint}")

    @staticmethod
    def _check_dots(place: str, name: str) -> None:
        """Refuse ``attack.attacks: ...``, which the parser would take for a change of an earlier file's attacks."""
        outer, dot, inner = name.partition(".")
        if dot:
            raise ValueError(f"{place}names are nested in a file: write {outer}: {{{inner}: ...}} instead of {name}")

    def check_classes(self) -> None:
        """Refuse classes that are not written as ``{class_path: NAME, init_args: {...}}``.

        Raises:
            ValueError: Something else stands beside ``class_path``, or one of these is of the wrong kind.
        """
        for entry in self.entries():
            pairs = entry.node.value if _is_mapping(entry.node) else []
            keys, name = [key.value for key, _ in pairs], ".".join(entry.names)
            is_attack = len(entry.names) == 3 and entry.names[:2] == ("attack", "attacks") and not entry.changes
            if is_attack and not {"class_path", "<<"} & set(keys) and not _is_text(entry.node):
                raise ValueError(
                    f"{self.at(entry.line)}{name} is expected to be {{class_path: NAME, init_args: {{...}}}}, "
                    f"got {shown(entry.node)}"
                )
            for key, value in pairs if "class_path" in keys else []:
                place = f"{self.at(key.start_mark.line + 1)}{name}"
                if key.value not in (*CLASS_KEYS, "<<"):
                    raise ValueError(
                        f"{place}.{key.value} stands beside class_path; what a class is given stands under init_args"
                    )
                if key.value == "class_path" and not _is_text(value):
                    raise ValueError(f"{place}.class_path is the name of a class, got {shown(value)}")
                if key.value == "init_args" and not _is_mapping(value) and value.tag != NULL:
                    raise ValueError(f"{place}.init_args maps names to values, got {shown(value)}")


def read_text(path: str) -> str:
    """Content of a configuration file.

    Raises:
        ValueError: It cannot be read.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a YAML file: it is not text in UTF-8") from error
    except FileNotFoundError as error:
        raise ValueError(no_such_file(path)) from error
    except IsADirectoryError as error:
        raise ValueError(f"-c takes a configuration file, and {path} is a directory") from error
    except OSError as error:
        raise ValueError(f"the configuration file {path[:100]} cannot be read: {error.strerror}") from error


def _entries(node: yaml.Node, names: tuple[str, ...], changes: bool, above: tuple[int, ...]) -> Iterator[Entry]:
    if id(node) in above:  # an alias of what it stands in
        return
    above = (*above, id(node))
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            merges, adds = key.tag == MERGE, changes or key.value.endswith("+")
            inner = names if merges else (*names, key.value.removesuffix("+"))
            if not merges:
                yield Entry(inner, key.start_mark.line + 1, value, adds)
            yield from _entries(value, inner, adds, above)
    elif isinstance(node, yaml.SequenceNode):
        for member in node.value:
            yield Entry(names, member.start_mark.line + 1, member, changes)
            yield from _entries(member, names, changes, above)


def _is_mapping(node: yaml.Node) -> bool:
    return isinstance(node, yaml.MappingNode)


def _is_text(node: yaml.Node) -> bool:
    return node.tag == TEXT and bool(node.value.strip())


def shown(node: yaml.Node) -> str:
    """A value in a few words."""
    if isinstance(node, yaml.SequenceNode):
        return "a list"
    if isinstance(node, yaml.MappingNode):
        return "{" + ", ".join(f"{key.value}: ..." for key, _ in node.value[:3] if _is_text(key)) + "}"
    return "nothing" if node.tag == NULL else f"{node.value[:40]!r}"


def suggested(section: str, name: str, options: Collection[str]) -> str:
    """What an unknown option may have been meant as: one of that name elsewhere, or a similar one in its section."""
    elsewhere = [option for option in options if option.rpartition(".")[2] == name]
    if elsewhere:
        return nearest(name, elsewhere, cutoff=0.0)
    within = f"{section}." if section else ""
    beside = {option.removeprefix(within).partition(".")[0] for option in options if option.startswith(within)}
    return nearest(name, sorted(beside), within=within)


def line_of(
    files: Sequence[ConfigFile], within: tuple[str, ...], name: str | None = None, value: str | None = None
) -> str:
    """The last given file and its line that hold a value, to be put before a sentence; empty if none does.

    Args:
        files: The files, in the order in which they were given.
        within: Names that lead to the value, or the first of them.
        name: Its own name; None for any.
        value: The value as the parser shows it; None for any.
    """
    for file in reversed(files):
        for entry in file.entries():
            if entry.names[: len(within)] != within or (name is not None and entry.names[-1] != name):
                continue
            if value is None or entry.means(value):
                return file.at(entry.line)
    return ""
