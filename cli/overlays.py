"""Files laid over each other: a later one replaces the attacks and studies of earlier ones, or changes some."""

from collections.abc import Mapping
from typing import Any

import yaml
from jsonargparse import ActionConfigFile

from cli.config_files import ConfigFile, line_of
from cli.likeness import nearest
from cli.suggestions import known_options, subparsers

MOVED = ("attacks", "detectors")  # packages that lay at the top level once
NAMED = (("attack", "attacks", "an attack"), ("study", "studies", "a study"))  # section, option and one of its values


class OverlayFile(ActionConfigFile):
    """A configuration file that says of the attacks and studies of earlier files whether it replaces or changes them.

    ``attack: {attacks: ...}`` replaces them all. The parser alone would merge attacks of the same name, and a suite's
    PGD would take its radius from an earlier file's. ``attack: {attacks+: {NAME: {init_args: ...}}}`` changes the
    attacks that it names, and leaves everything else of them, and all other attacks, as they are; one of a new name
    with a ``class_path`` joins them. ``study: {studies: ...}`` and ``study: {studies+: ...}`` do the same of studies.
    """

    @staticmethod
    def apply_config(parser: Any, cfg: Any, dest: str, value: str) -> None:
        """Read the file on top of what earlier files have configured."""
        file = ConfigFile(value)
        parser.files = (*parser.files, file)
        if not list(subparsers(parser)):  # before the command's name a file holds the options of commands
            file.check_options(list(known_options(parser)))
        file.check_classes()
        content: Any = file.content
        if (renamed := with_moved_classes(content)) != content:
            content, value = renamed, yaml.safe_dump(renamed, sort_keys=False)
        joined = False
        for section, option, one in NAMED:
            given, name = content.get(section), f"{section}.{option}"
            if isinstance(given, dict) and f"{option}+" in given:
                given[option] = _laid_over(file, cfg.get(name) or {}, given, section, option, one)
                joined = True
            elif isinstance(given, dict) and option in given and cfg.get(name) is not None:
                cfg[name] = None
        if joined:
            value = yaml.safe_dump(content, sort_keys=False)  # the parser takes a file's content as well as its path
        ActionConfigFile.apply_config(parser, cfg, dest, value)


def _laid_over(
    file: ConfigFile, configured: Mapping[str, Any], given: dict[str, Any], section: str, option: str, one: str
) -> dict[str, Any]:
    """What becomes of the earlier files' attacks or studies; the changes are taken from the section ``given``.

    Raises:
        ValueError: The section replaces them, too, or a change cannot be made; the message names the line.
    """
    name = f"{section}.{option}"
    if option in given:
        raise ValueError(
            f"{file.path} has both {name}, which replaces all {option}, and {name}+, which changes some; "
            "give one of them"
        )
    try:
        return changed(configured, given.pop(f"{option}+"), name, one)
    except ValueError as error:
        named = str(error).removeprefix(f"{name}+.").partition(":")[0].partition(" ")[0]
        place = line_of([file], (section, option, named)) or line_of([file], (section, option))
        raise ValueError(f"{place}{error}") from error


def with_moved_classes(content: Any) -> Any:
    """A configuration as this version reads it: runs of version 0.1 name classes of ``attacks`` and ``detectors``.

    These packages lie in ``medrobust`` now. A class's own name is enough for the parser to find it.
    """
    if isinstance(content, dict):
        return {
            key: _own_name(inner) if key == "class_path" else with_moved_classes(inner)
            for key, inner in content.items()
        }
    return [with_moved_classes(inner) for inner in content] if isinstance(content, list) else content


def _own_name(class_path: Any) -> Any:
    moved = isinstance(class_path, str) and class_path.partition(".")[0] in MOVED
    return class_path.rpartition(".")[2] if moved else class_path


def changed(configured: Mapping[str, Any], changes: Any, option: str, one: str) -> dict[str, Any]:
    """Lay out all attacks, or all studies, for the parser, which adds the settings that they have already.

    Args:
        configured: Those of the earlier files by name, each with its ``class_path``.
        changes: For some of these names, ``{init_args: {...}}`` with the settings that change; for a new name an attack
            or a study with its ``class_path``, which comes after them.
        option: The option that holds them, such as ``attack.attacks``.
        one: What one of them is called, with its article.

    Raises:
        ValueError: A change is not of that form, or no earlier file configures one of its name and class.
    """
    kinds = option.rpartition(".")[2]
    if not isinstance(changes, dict):
        raise ValueError(f"{option}+ maps names of {kinds} to their changes, got {changes!r}")
    added = {
        name: change
        for name, change in changes.items()
        if name not in configured and isinstance(change, dict) and change.get("class_path")
    }
    for name, change in changes.items():
        if name in added:
            continue
        if name not in configured:
            hint = (
                nearest(str(name), [str(known) for known in configured]) or "; give that file before this one, with -c"
            )
            raise ValueError(f"{option}+.{name}: no earlier file configures {one} {name!r}{hint}")
        settings = change.get("init_args", {}) if isinstance(change, dict) else None
        if not isinstance(settings, dict) or not change.keys() <= {"class_path", "init_args"}:
            raise ValueError(f"{option}+.{name} takes {{init_args: {{...}}}} with what changes, got {change!r}")
        kind = configured[name].class_path.rpartition(".")[2]
        if str(change.get("class_path", kind)).rpartition(".")[2] != kind:
            raise ValueError(
                f"{option}+.{name} cannot turn {kind} into {change['class_path']}; "
                f"list all {kinds} under {option} instead"
            )
    return {
        name: {"class_path": found.class_path, "init_args": changes.get(name, {}).get("init_args", {})}
        for name, found in configured.items()
    } | added
