"""Judging a victim on data that it was not trained on: another hospital's, of which every image is judged."""

import re
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace
from pytorch_lightning.utilities import rank_zero_warn

from cli.config_files import ConfigFile, shown
from cli.overlays import OverlayFile, with_moved_classes
from cli.runs import SPLITS, run_of, settings_of, trained_on
from datamodules import ClassificationDataModule, MedicalDataModule

ALL = "all"
PREFIX = "--data="  # of the value of --config that stands for --data FILE
# of the victim, whatever other data are usually read with
PREPROCESSING = ("image_size", "channels", "resize")
# of the machine, unless the file has its own
COMFORT = ("batch_size", "num_workers", "cache")


def with_data_files(words: Sequence[str]) -> list[str]:
    """Command-line words in which ``--data FILE`` stands behind the last configuration file, over which it is laid.

    ``--data CLASS`` is left to the parser.

    >>> with_data_files(["test", "--data", "b.yaml", "-c", "a.yaml", "--name", "x"])
    ['test', '-c', 'a.yaml', '--config=--data=b.yaml', '--name', 'x']
    """
    kept, files, rest = [], [], list(words)
    while rest:
        word = rest.pop(0)
        if word == "--data" and rest and _is_file(rest[0]):
            files.append(rest.pop(0))
        elif word.startswith("--data=") and _is_file(word.removeprefix("--data=")):
            files.append(word.removeprefix("--data="))
        else:
            kept.append(word)
    configs = [place + 1 for place, word in enumerate(kept) if word in ("-c", "--config")]
    configs += [place for place, word in enumerate(kept) if word.startswith(("--config=", "-c="))]
    end = max(configs) + 1 if configs else len(kept)
    return [*kept[:end], *(f"--config={PREFIX}{file}" for file in files), *kept[end:]]


def _is_file(word: str) -> bool:
    return word.endswith((".yaml", ".yml", ".json")) or Path(word).is_file()


class OverlayOrData(OverlayFile):
    """A configuration file as `OverlayFile`, or one of which only the data are taken."""

    @staticmethod
    def apply_config(parser: Any, cfg: Any, dest: str, value: str) -> None:
        """Read the file on top of what earlier files have configured."""
        if value.startswith(PREFIX):
            lay_over(parser, cfg, dest, value.removeprefix(PREFIX))
        else:
            OverlayFile.apply_config(parser, cfg, dest, value)


def lay_over(parser: Any, cfg: Any, dest: str, path: str) -> None:
    """Take the data of a file instead of those that are configured, judge all of them, and prepare them as before.

    Args:
        parser: The parser of the subcommand.
        cfg: What is configured so far.
        dest: Name of the option for configuration files.
        path: A file with a section ``data``, or with ``class_path`` and ``init_args`` alone.

    Raises:
        ValueError: It has neither.
    """
    file = ConfigFile(path)
    parser.files = (*parser.files, file)
    file.check_classes()
    section = with_moved_classes(file.content.get("data", file.content))
    if not isinstance(section, dict) or not section.keys() & {"class_path", "init_args"}:
        raise ValueError(
            f"{path} is given by --data and is expected to have a section data: {{class_path: NAME, init_args: "
            f"{{...}}}}, got {shown(file.root)}"
        )
    before = cfg.get("data")
    known: Mapping[str, Any] = {} if before is None else before.as_dict().get("init_args") or {}
    given = dict(section.get("init_args") or {})
    for name in PREPROCESSING:
        if name in known and given.get(name, known[name]) != known[name]:
            rank_zero_warn(
                f"{path}: {name} {given[name]} is not used, since the victim was trained with {known[name]}; give "
                f"--data.{name} to evaluate it with another one"
            )
    kept = {name: known[name] for name in PREPROCESSING if name in known}
    comfort = {name: known[name] for name in COMFORT if name in known}
    class_path = section.get("class_path") or (None if before is None else before.class_path)
    data = {"class_path": class_path, "init_args": {**comfort, **given, **kept, "test_split": ALL}}
    cfg["data"] = None
    ActionConfigFile.apply_config(parser, cfg, dest, yaml.safe_dump({"data": data}, sort_keys=False))


def judges_all(config: Namespace) -> bool:
    """Whether every image of the data is judged."""
    return bool(config.data.get("init_args", {}).get("test_split") == ALL)


def name_other_data(config: Namespace) -> str:
    """Give data that are called as the victim's own, and lie elsewhere, a name of their own.

    Args:
        config: The configuration of the command, with its checkpoint.

    Returns:
        The name of the data in all results.
    """
    options = config.data.init_args
    own = _name_of(config.data.class_path)
    if not own:  # a class that reads several datasets: each is named by its options, or by its folder
        own = str(options.get("name") or options.get("dataset") or _folder(options.root).name)
    run, seen = run_of(config.ckpt_path), trained_on(Path(config.ckpt_path))
    before = _data_of(run)
    known = seen.facts.get("name") if seen is not None else _name_of(str(before.get("class_path", "")))
    root = (before.get("init_args") or {}).get("root")
    if options.get("alias") is None and known == own and (root is None or _folder(root) != _folder(options.root)):
        options.alias = f"{own}@{_folder(options.root).name}"
    return str(options.get("alias") or own)


def folder_name(name: str) -> str:
    """A name as that of a folder.

    >>> folder_name("chest_xray@St. Mary/2024")
    'chest_xray@St._Mary_2024'
    """
    return re.sub(r"[^\w@.+-]", "_", name).lstrip(".") or "data"


def prepare_other_data(data: MedicalDataModule, checkpoint: str) -> None:
    """Let data whose images are all judged take the victim's classes, and its own data for what has to be fitted.

    Args:
        data: The data, before they are set up.
        checkpoint: The victim's checkpoint.

    Raises:
        ValueError: The classes are not the victim's.
    """
    run, seen = run_of(checkpoint), trained_on(Path(checkpoint))
    home = None if run is None else _training_data(run)
    classes = (seen.facts.get("class_names") if seen is not None else None) or (home and list(home.class_names))
    if classes and isinstance(data, ClassificationDataModule):
        data.take_classes_of(classes)
    if home is not None:
        data.take_references_of(home)


def _training_data(run: Path) -> MedicalDataModule | None:
    """The data of a run, as its configuration builds them; None if that cannot be built any more."""
    section = with_moved_classes(_data_of(run))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(MedicalDataModule, "data", fail_untyped=False)
    try:
        home = parser.instantiate(parser.parse_object({"data": section})).data
    except Exception as error:  # whatever is wrong, only who needs these data has to know
        rank_zero_warn(f"the data of {run} cannot be built from its train.yaml ({str(error).splitlines()[0]})")
        return None
    if (run / SPLITS).is_file():
        home.take_splits_of_run(run / SPLITS)
    return home if isinstance(home, MedicalDataModule) else None


def _data_of(run: Path | None) -> dict[str, Any]:
    section = {} if run is None else settings_of(run).get("data")
    return section if isinstance(section, dict) else {}


def _folder(root: Any) -> Path:
    return Path(str(root)).resolve()


def _name_of(class_path: str) -> str:
    """The name of the dataset that a class reads; empty for a class that reads several."""
    module, _, name = class_path.rpartition(".")
    found = getattr(import_module(module or "datamodules"), name, None)
    return str(getattr(found, "name", name) or "")
