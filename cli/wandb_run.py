"""A run of Weights & Biases: it needs no account and no network, has a stable id, and begins only when all is good."""

import json
import logging
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.loggers.logger import DummyExperiment
from pytorch_lightning.utilities import rank_zero_only

from medrobust.results import wandb_server
from medrobust.results.manifest import replace_file

logger = logging.getLogger(__name__)

PROJECT = "medrobust"
RUN_FILE = "wandb_run.json"  # in the folder of a training or of an evaluation: the id of its run
# by which a user, or an agent of a sweep, says the same
VARIABLES = {"id": "WANDB_RUN_ID", "group": "WANDB_RUN_GROUP", "job_type": "WANDB_JOB_TYPE", "name": "WANDB_NAME"}
PLACEHOLDERS = {"dir": ".", "project": "lightning_logs"}  # what Lightning takes where nothing is given
SENT = "sent"
LONGEST_TAG = 64  # characters; W&B refuses longer ones
LONGEST_NAME = 40  # characters of a run's name in its id, of which W&B takes 64

_set_here: dict[str, str] = {}  # environment variables and the values that we gave them


@dataclass(frozen=True, kw_only=True)
class WandbOptions:
    """What Weights & Biases is given of a run.

    Args:
        project: Project of the runs; null for the environment variable WANDB_PROJECT, or medrobust.
        entity: User or team that owns the project; null for WANDB_ENTITY, or whoever is logged in.
        tags: Tags besides those of the task, the data, the victim and its defence.
        checkpoints: Upload the best and the last checkpoint of a training as an artifact.
        pictures: How many panels of an evaluation are sent, chosen evenly over classes and outcomes; 0 for none.
        records: How many rows of the table of records are sent at most, whole images only; records.parquet is an
            artifact and has all of them.

    Raises:
        ValueError: A number is negative, or a tag is empty or longer than 64 characters.
    """

    project: str | None = None
    entity: str | None = None
    tags: list[str] = field(default_factory=list)
    checkpoints: bool = False
    pictures: int = 60
    records: int = 10_000

    def __post_init__(self) -> None:
        """Refuse what W&B would refuse after the work is done."""
        for name in ("pictures", "records"):
            if getattr(self, name) < 0:
                raise ValueError(f"wandb.{name} is a number of {name} and not negative, got {getattr(self, name)}")
        for tag in self.tags:
            if not 1 <= len(tag) <= LONGEST_TAG:
                raise ValueError(f"a tag of W&B has 1 to {LONGEST_TAG} characters, got {tag!r}")


class RunLogger(WandbLogger):
    """Lightning's W&B logger, whose run begins when `begin` is called and not before.

    Lightning begins the run of a logger before it reads any data; a run of a misspelt option, of data that are not
    there or of a plan that is refused would stay behind. Until it begins, hyper-parameters are kept and nothing else is
    logged. A run that cannot begin costs a warning; the training or the evaluation goes on without it.

    Args:
        folder: Folder of the run, below which all files of W&B are written.
        options: What W&B is given.
        **given: As WandbLogger's.
    """

    begun = False

    def __init__(self, folder: Path | None = None, options: WandbOptions | None = None, **given: Any) -> None:
        """Keep the settings; nothing is written yet."""
        super().__init__(**given)
        self._settle(folder or Path(), options or WandbOptions())

    @classmethod
    def of(cls, log: WandbLogger, folder: Path, options: WandbOptions) -> Self:
        """A user's own logger of W&B, which from now on begins its run late; what he has set stays as it is."""
        if not isinstance(log, cls):
            log.__class__ = cls
        assert isinstance(log, cls)
        log._settle(folder, options)
        return log

    def _settle(self, folder: Path, options: WandbOptions) -> None:
        """Fill in what has not been chosen, where Lightning and W&B have values of their own."""
        ours = {"dir": str(folder.absolute()), "project": options.project or os.environ.get("WANDB_PROJECT") or PROJECT}
        for name, value in {**ours, "entity": options.entity, "resume": "allow"}.items():
            if value is not None and self._wandb_init.get(name) in (None, PLACEHOLDERS.get(name)):
                self._wandb_init[name] = value
        self._project, self._save_dir = self._wandb_init["project"], self._wandb_init["dir"]
        self.folder, self.options = folder, options

    @property
    def experiment(self) -> Any:
        """The run of W&B; before it has begun, and in all processes but the first, something that takes all calls."""
        return super().experiment if self.begun else DummyExperiment()

    @rank_zero_only
    def log_hyperparams(self, params: Any) -> None:
        """Log hyper-parameters, or keep them until the run begins."""
        if self.begun:
            super().log_hyperparams(params)
        elif isinstance(params, Mapping):
            self.kept = {**getattr(self, "kept", {}), **params}

    @rank_zero_only
    def begin(self, name: str, about: Mapping[str, Any], **identity: Any) -> None:
        """Begin the run.

        Args:
            name: What it is called.
            about: Its configuration, a nested dictionary of plain values.
            **identity: ``id``, ``group``, ``job_type`` and ``tags``; what the user has given himself stays.
        """
        tags = list(dict.fromkeys([*(self._wandb_init.get("tags") or ()), *identity.pop("tags", ()), *_tags_of_user()]))
        for option, value in {**identity, "name": name}.items():
            if self._wandb_init.get(option) is None and not os.environ.get(VARIABLES[option]):
                self._wandb_init[option] = value
        self._wandb_init["tags"] = [tag[:LONGEST_TAG] for tag in [*tags, *self.options.tags]]
        self._wandb_init.pop("anonymous", None)  # it is None, and W&B warns about it at each start
        _stay_below(self.folder)
        if not self._offline and self._wandb_init.get("mode") is None:
            self._wandb_init["mode"] = mode()
        self.begun = True
        try:
            self.log_hyperparams({**getattr(self, "kept", {}), **about})
        except Exception as error:  # of many kinds, and none of them may lose an evaluation
            self.begun, self._experiment = False, None
            said = " ".join(str(error).split())
            logger.warning("W&B is not used: its run could not begin (%s: %s)", type(error).__name__, said)

    def end(self) -> None:
        """End the run, so that the next command of the same process gets one of its own."""
        if self.begun and self._experiment is not None:
            self._experiment.finish()
        self.begun, self._experiment = False, None


def mode() -> str:
    """How W&B works: online if the user is logged in and the server answers, offline otherwise, or as he has set."""
    if (chosen := os.environ.get("WANDB_MODE")) in ("disabled", "offline", "shared"):
        return str(chosen)
    return "online" if wandb_server.logged_in() and wandb_server.reachable() else "offline"


def run_id(folder: Path, name: str, job: str, keep: bool, **same: str) -> str:
    """The id of the run that a folder's results belong to; it is kept in the folder.

    W&B adds what is sent under an id that it knows to what it has, and so does ``wandb sync`` with the files of offline
    runs. Results that have been sent once are therefore not sent again under the same id with other numbers.

    Args:
        folder: The folder of a training or of an evaluation.
        name: The run's name, which the id begins with.
        job: ``fit``, ``validate`` or ``test``.
        keep: Whether what is there goes on; otherwise the id is a new one.
        **same: What else has to be as it was, such as the victim's weights and the plan.

    Returns:
        The id that the folder holds, if it is to be kept and the folder is not a copy of another one; else a new id,
        which is written there.
    """
    path = folder / RUN_FILE
    place = sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    here: dict[str, Any] = {"place": place, "inode": folder.stat().st_ino}
    held = _held(path)
    moved = held.get("place") != place and held.get("inode") != here["inode"]  # a copy has another place and inode
    if keep and held.get("id") and not moved and all(held.get(what) == value for what, value in same.items()):
        identity = str(held["id"])
    else:
        stem = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:LONGEST_NAME] or "run"
        identity = f"{stem}-{job}-{secrets.token_hex(4)}"
    sent = {SENT: True} if identity == held.get("id") and held.get(SENT) else {}
    replace_file(path, (json.dumps({"id": identity, **here, **same, **sent}) + "\n").encode())
    return identity


def is_sent(folder: Path) -> bool:
    """Whether the results in a folder have been sent to the run whose id it holds."""
    return bool(_held(folder / RUN_FILE).get(SENT))


def note_sent(folder: Path) -> None:
    """Note that the results in a folder have been sent to the run whose id it holds."""
    if held := _held(folder / RUN_FILE):
        replace_file(folder / RUN_FILE, (json.dumps({**held, SENT: True}) + "\n").encode())


def victim_group(run: Path | None, name: str, weights: str | None) -> str:
    """The group of all runs of one victim: its training and its evaluations.

    Args:
        run: Folder of the run whose training the weights come from; None if there is none.
        name: What the group begins with if that training is not known.
        weights: Hash of the weights; None before they are trained.
    """
    if run is not None and (trained := _held(run / RUN_FILE).get("id")):
        stem, _, token = str(trained).rpartition("-")
        return f"{stem.removesuffix('-fit')}-{token}"
    return f"{run.name if run is not None else name}-{weights[:8]}" if weights else name


def _held(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        content = json.loads(path.read_bytes())
        return content if isinstance(content, dict) else {}
    return {}


def _tags_of_user() -> Sequence[str]:
    return [tag.strip() for tag in os.environ.get("WANDB_TAGS", "").split(",") if tag.strip()]


def _stay_below(folder: Path) -> None:
    """Let W&B write all its files below a run's folder, where a later ``wandb sync`` finds them."""
    folder.mkdir(parents=True, exist_ok=True)
    home = (folder / "wandb").resolve()
    for variable, place in (
        ("WANDB_DATA_DIR", home / "data"),
        ("WANDB_ARTIFACT_DIR", home / "artifacts"),
        ("WANDB_CACHE_DIR", home / "cache"),
        ("WANDB_CONFIG_DIR", home / "config"),
    ):
        if os.environ.get(variable) in (None, _set_here.get(variable)):  # what the user has set is kept
            _set_here[variable] = os.environ[variable] = str(place)
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB__SERVICE_WAIT", "60")
