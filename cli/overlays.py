"""Configuration files laid over each other: a later file replaces the attacks of the earlier ones, or changes some."""

from collections.abc import Mapping
from typing import Any

import yaml
from jsonargparse import ActionConfigFile

from cli.config_files import ConfigFile, line_of
from cli.likeness import nearest
from cli.suggestions import known_options, subparsers

MOVED = ("attacks", "detectors")  # packages that lay at the top level once


class OverlayFile(ActionConfigFile):
    """A configuration file that says of the attacks of earlier files whether it replaces or changes them.

    ``attack: {attacks: ...}`` replaces them all. The parser alone would merge attacks of the same name, and a suite's
    PGD would take its radius from an earlier file's. ``attack: {attacks+: {NAME: {init_args: ...}}}`` changes the
    attacks that it names, and leaves everything else of them, and all other attacks, as they are; one of a new name
    with a ``class_path`` joins them.
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
        attack = content.get("attack")
        if isinstance(attack, dict) and "attacks+" in attack:
            if "attacks" in attack:
                raise ValueError(
                    f"{file.path} has both attack.attacks, which replaces all attacks, and attack.attacks+, "
                    "which changes some; give one of them"
                )
            try:
                attack["attacks"] = changed_attacks(cfg.get("attack.attacks") or {}, attack.pop("attacks+"))
            except ValueError as error:
                named = str(error).removeprefix("attack.attacks+.").partition(":")[0].partition(" ")[0]
                place = line_of([file], ("attack", "attacks", named)) or line_of([file], ("attack", "attacks"))
                raise ValueError(f"{place}{error}") from error
            value = yaml.safe_dump(content, sort_keys=False)  # the parser takes a file's content as well as its path
        elif isinstance(attack, dict) and "attacks" in attack and cfg.get("attack.attacks") is not None:
            cfg["attack.attacks"] = None
        ActionConfigFile.apply_config(parser, cfg, dest, value)


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


def changed_attacks(configured: Mapping[str, Any], changes: Any) -> dict[str, Any]:
    """Lay out all attacks for the parser, which adds the settings that they have already.

    Args:
        configured: Attacks of the earlier files by name, each with its ``class_path``.
        changes: For some of these names, ``{init_args: {...}}`` with the settings that change; for a new name an attack
            with its ``class_path``, which comes after them.

    Raises:
        ValueError: A change is not of that form, or no earlier file configures an attack of its name and class.
    """
    if not isinstance(changes, dict):
        raise ValueError(f"attack.attacks+ maps names of attacks to their changes, got {changes!r}")
    added = {
        name: change
        for name, change in changes.items()
        if name not in configured and isinstance(change, dict) and change.get("class_path")
    }
    for name, change in changes.items():
        if name in added:
            continue
        if name not in configured:
            hint = nearest(str(name), [str(one) for one in configured]) or "; give that file before this one, with -c"
            raise ValueError(f"attack.attacks+.{name}: no earlier file configures an attack {name!r}{hint}")
        settings = change.get("init_args", {}) if isinstance(change, dict) else None
        if not isinstance(settings, dict) or not change.keys() <= {"class_path", "init_args"}:
            raise ValueError(f"attack.attacks+.{name} takes {{init_args: {{...}}}} with what changes, got {change!r}")
        method = configured[name].class_path.rpartition(".")[2]
        if str(change.get("class_path", method)).rpartition(".")[2] != method:
            raise ValueError(
                f"attack.attacks+.{name} cannot turn {method} into {change['class_path']}; "
                "list all attacks under attack.attacks instead"
            )
    return {
        name: {"class_path": attack.class_path, "init_args": changes.get(name, {}).get("init_args", {})}
        for name, attack in configured.items()
    } | added
