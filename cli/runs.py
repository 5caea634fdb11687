"""A run's folder: its configuration, splits and checkpoints belong together, and stay so whatever is done to it."""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Self

import torch
import yaml
from pytorch_lightning.utilities import rank_zero_warn

from cli.config_files import ConfigFile, line_of
from datamodules import MedicalDataModule
from medrobust.networks import SeenImages
from medrobust.results.evaluations import NAMED

CONFIG = "train.yaml"
SPLITS = "splits.csv"
SHOWN = 3  # differing settings that a sentence names
# what decides the weights, without what only says where and with what comfort they are computed
DECISIVE = ("seed_everything", "model", "data", "defence", "ema", "checkpoint", "trainer")
OF_THE_MACHINE = (
    *("data.init_args.root", "data.init_args.num_workers", "data.init_args.test_split", "checkpoint.dirpath"),
    "data.init_args.cache",
    *("trainer.accelerator", "trainer.strategy", "trainer.devices", "trainer.num_nodes", "trainer.logger"),
    *("trainer.enable_progress_bar", "trainer.enable_model_summary", "trainer.default_root_dir"),
    *("trainer.log_every_n_steps", "trainer.profiler", "trainer.inference_mode", "trainer.limit_test_batches"),
)
# how long a training lasts, which may change when it goes on
HOW_LONG = (
    *("trainer.max_epochs", "trainer.min_epochs", "trainer.max_steps", "trainer.min_steps", "trainer.max_time"),
    *("trainer.limit_train_batches", "trainer.limit_val_batches", "trainer.limit_test_batches"),
    *("trainer.limit_predict_batches", "trainer.num_sanity_val_steps", "trainer.fast_dev_run"),
)


@dataclass(frozen=True)
class HeldRun:
    """A run that a folder holds: checkpoints, with the configuration and the splits that they came from.

    Args:
        folder: The run's folder.
        settings: Its configuration.
        trained_on: What each of its checkpoints was trained on; None for one that does not say.
    """

    folder: Path
    settings: Mapping[str, Any]
    trained_on: Mapping[Path, SeenImages | None]

    @classmethod
    def of(cls, folder: Path) -> Self | None:
        """The run in a folder; None if there is no checkpoint, so that nothing can be mixed."""
        checkpoints = sorted((folder / "checkpoints").glob("*.ckpt"))
        if not checkpoints:
            return None
        return cls(folder, settings_of(folder), {path: trained_on(path) for path in checkpoints})

    def check_settings(self, text: str, goes_on: bool = False) -> None:
        """Refuse a training that would put another configuration beside these checkpoints.

        Args:
            text: The new training's configuration, as it would be saved.
            goes_on: Whether it goes on from one of the checkpoints, and may last longer than was said before.

        Raises:
            ValueError: A setting that decides the weights differs; names some of them.
        """
        before, now = dict(_flat(self.settings)), dict(_flat(yaml.safe_load(text)))
        differing = [
            f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
            for name in before.keys() | now.keys()
            if before.get(name) != now.get(name)
            and _decisive(name, but=HOW_LONG if goes_on else ())
            and not _of_another_version(name, before, now)
        ]
        if differing:
            shown = "; ".join(sorted(differing)[:SHOWN]) + ("; ..." if len(differing) > SHOWN else "")
            remedy = f"Go on with its own settings (-c {self.folder / CONFIG}), or {ANEW}" if goes_on else REMEDY
            raise ValueError(f"the victim in {self.folder} was trained with other settings: {shown}. {remedy}")

    def check_data(self, data: MedicalDataModule) -> None:
        """Refuse a training that would put other splits beside these checkpoints; the data have been set up.

        Raises:
            ValueError: Train or Val are not those of a checkpoint.
        """
        now = SeenImages.stored(data.training_data())
        assert now is not None
        for path, before in self.trained_on.items():
            for split in ("train", "val"):
                counts = self._changes(data, split) if before is None else before.differences(split, now.splits[split])
                if any(counts.values()):
                    what = ", ".join(f"{count} {kind}" for kind, count in counts.items())
                    raise ValueError(f"{path} was trained on other data, of whose {split} images {what}. {REMEDY}")

    def remove_checkpoints(self) -> None:
        """Remove the checkpoints, before another configuration takes their place."""
        for path in self.trained_on:
            path.unlink(missing_ok=True)

    def _changes(self, data: MedicalDataModule, split: str) -> dict[str, int]:
        """How many images of a split are new or gone by the run's split file, for checkpoints that do not say."""
        file = self.folder / SPLITS
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        before = {row["id"] for row in csv.DictReader(io.StringIO(text, newline="")) if row.get("split") == split}
        now = {sample.id for sample in data.splits[split]}
        return {"gone": len(before - now), "new": len(now - before)}


ANEW = "train anew, without --ckpt_path, under another --name or with --overwrite true"
REMEDY = (
    "Give this training another --name, go on with that one (--ckpt_path last), or replace it with --overwrite true"
)


def run_folder(runs: str, name: str | None, files: Iterable[ConfigFile] = ()) -> Path:
    """Folder of a run, below the folder of all runs.

    Raises:
        ValueError: The run has no name, or one that leads elsewhere.
    """
    if not name:
        raise ValueError("a run needs a name: --name NAME, or name: NAME in a config")
    if wrong := _wrong_with(name):
        place = line_of(list(files), ("name",), None, name)
        raise ValueError(f"{place}name is that of a folder below {runs}, such as my_run, got {name!r}, which {wrong}")
    return Path(runs) / name


def evaluation_folder(run: Path, name: str | None, files: Iterable[ConfigFile] = ()) -> Path | None:
    """Folder of an evaluation that was given a name, below that of its run; None for one without a name.

    Raises:
        ValueError: The name leads elsewhere, or would not be found again.
    """
    if name is None:
        return None
    hidden = "begins with a dot" if name.startswith(".") else ""
    if wrong := "is empty" if not name else "has a slash" if "/" in name else hidden or _wrong_with(name):
        place = line_of(list(files), ("evaluation",), None, name)
        where = run / NAMED
        raise ValueError(
            f"{place}evaluation is the name of a folder in {where}, such as pgd, got {name!r}, which {wrong}"
        )
    return run / NAMED / name


def _wrong_with(name: str) -> str:
    """What keeps a name from being that of a folder below another one; empty if nothing does."""
    plain = PurePosixPath(name)
    wrong = {
        "is an absolute path: --runs says where the folder lies": plain.is_absolute(),
        "leads out of that folder with ..": ".." in plain.parts,
        "is that folder itself": name == ".",
        "begins or ends with a space": name.strip() != name,
        "has a control character, or another one that cannot be shown": not name.isprintable(),
        "has a backslash": "\\" in name,
        f"would be written {str(plain)!r}": str(plain) != name,
    }
    return next((what for what, is_so in wrong.items() if is_so), "")


def trained_on(checkpoint: Path) -> SeenImages | None:
    """What a checkpoint was trained on; None for one that does not say, or cannot be read."""
    try:
        held = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
        return SeenImages.stored(held.get("trained_on"))
    except Exception:  # whatever is wrong with it, whoever needs it will say so
        return None


def run_of(checkpoint: str | Path) -> Path | None:
    """The folder of the run that a checkpoint belongs to; None for a file that was moved out of its run."""
    folder = Path(checkpoint).absolute().parent
    run = folder.parent
    return run if folder.name == "checkpoints" and (run / CONFIG).is_file() else None


def splits_of_run(checkpoint: str | Path, data: Mapping[str, Any]) -> Path | None:
    """The splits that a victim was trained with, unless the configuration asks for others.

    Args:
        checkpoint: The victim's checkpoint.
        data: What is configured under ``data``: ``class_path`` and ``init_args``.

    Returns:
        ``splits.csv`` of the checkpoint's run; None if there is none, if the data are of another class than the run's,
        or if they name a ``split_file`` that the run does not.
    """
    run = run_of(checkpoint)
    if run is None or not (run / SPLITS).is_file():
        return None
    trained = settings_of(run).get("data") or {}
    before, now = trained.get("init_args") or {}, data.get("init_args") or {}
    if _name(trained.get("class_path")) != _name(data.get("class_path")):
        rank_zero_warn(
            f"the splits are computed anew, not taken from {run / SPLITS}: the victim was trained on data of the "
            f"class {_name(trained.get('class_path'))}, and {_name(data.get('class_path'))} is configured"
        )
        return None
    if now.get("split_file") is not None and str(now["split_file"]) != str(before.get("split_file")):
        return None
    for option in ("split_seed", "fractions"):
        if (
            option in before
            and option in now
            and dict(_flat({option: now[option]})) != dict(_flat({option: before[option]}))
        ):
            rank_zero_warn(f"data.{option} is not used: the splits are those of {run / SPLITS}, unless --splits is new")
    return run / SPLITS


def settings_of(run: Path) -> dict[str, Any]:
    """The configuration that a run was trained with; empty if it cannot be read."""
    try:
        settings = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _flat(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Single settings by their dotted names; a class's own name stands for its path."""
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _flat(inner, f"{place}.{name}" if place else str(name))
    else:
        yield place, _name(value) if place.endswith("class_path") else value


def _of_another_version(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a setting is missing on one side because that version has no such option."""
    parent = name.rpartition(".")[0]
    if name == "ema":  # which a run that names none was trained without
        return False
    if name.startswith("defence."):  # which a run that names none was trained without
        return before.get("defence.class_path") == now.get("defence.class_path") and (name in before) != (name in now)
    return (name in before) != (name in now) and (parent.endswith("init_args") or parent in (*DECISIVE, ""))


def _decisive(name: str, but: Sequence[str] = ()) -> bool:
    return name.partition(".")[0] in DECISIVE and not any(
        name == one or name.startswith(f"{one}.") for one in (*OF_THE_MACHINE, *but)
    )


def _name(class_path: Any) -> str:
    return str(class_path).rpartition(".")[2]
