"""One call of ``evaluate``: what was given becomes an evaluation, which runs to its end."""

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from medrobust.evaluation import Crafter, Evaluation, EvaluationContext, EvaluationData, EvaluationListener
from medrobust.evaluation.data import DataOffered, evaluation_data
from medrobust.evaluation.first_look import look_first
from medrobust.evaluation.loaded_data import LoadedData
from medrobust.evaluation.pace import has_bar
from medrobust.evaluation.settings import CONTROL, check_settings, planned_attacks
from medrobust.listeners import Detection, Panels, Quality, RecordJournal, Studies, Transfer
from medrobust.networks.victim_of import task_of, victim_of
from medrobust.networks.victims import EvaluatedVictim
from medrobust.one_call.checked_options import checked_options
from medrobust.one_call.console_progress import ConsoleProgress
from medrobust.one_call.evaluated import Evaluated
from medrobust.one_call.judges import ModelJudges
from medrobust.one_call.named_attacks import named_attacks, radii
from medrobust.results.records import read_records
from medrobust.results.report import finish
from medrobust.results.writer import Writer

logger = logging.getLogger(__name__)
IN_PYTHON = {  # options of the command line that sentences name, as they are written here
    " by --evaluation NAME": "",
    "--journal.resume false": "resume=False",
    "journal.resume false": "resume=False",
    "journal.probabilities": "probabilities",
    "--attack.seen report": "seen='report'",
}
OF_DATA = ("reference", "class_names", "name", "batch_size", "limit")  # options that data of their own kind have not


class Call:
    """An evaluation that has been asked for.

    Args:
        model: As ``evaluate``.
        data: As ``evaluate``.
        attacks: As ``evaluate``.
        epsilons: As ``evaluate``.
        folder: As ``evaluate``.
        options: Its options, by name.

    Raises:
        ValueError: Attacks, radii or a model cannot be meant.
    """

    def __init__(
        self, model: object, data: Any, attacks: Any, epsilons: Any, folder: Path, options: Mapping[str, Any]
    ) -> None:
        """Check what can be checked before any image is read."""
        options = checked_options(options)
        self.data, self.folder, self.options = data, folder, options
        self.run_name = folder.absolute().parent.name if folder.name == "evaluate" else folder.absolute().name
        self.crafter: Crafter = options.get("crafter") or Crafter()
        self.controls = bool(options.get("controls", True))
        self.limit: int | None = options.get("limit")
        named = named_attacks(attacks)
        swept = radii(epsilons, "epsilons"), radii(options.get("log_epsilons"), "log_epsilons")
        goal_file = self.crafter.goal_file
        check_settings(named, *swept, controls=self.controls, label=self.crafter.label, goal_mask=goal_file)
        self.attacks = planned_attacks(named, *swept, self.controls, options.get("seed"))
        self.victim = victim_of(model)
        self.judges = ModelJudges(options.get("judges") or {})
        for one in (self.victim, *self.judges.models.values()):
            if any(parameter.is_inference() for parameter in one.parameters()):
                raise ValueError("no gradient flows through weights made in torch.inference_mode(): load them outside")
        first = next(iter(self.victim.parameters()), None)
        device = options.get("device") or ("cpu" if first is None else first.device)
        self.shows = bool(options.get("progress", True))
        self.context = EvaluationContext(device, show_progress=self.shows and has_bar())
        self.progress = ConsoleProgress(self.run_name, self.limit)
        self.journal: RecordJournal | None = None

    def run(self) -> Evaluated:
        """Attack what is still to be attacked, and write the report."""
        models = [self.victim, *self.judges.models.values()]
        devices = [self.context.device] if self.context.device.type == "cuda" else []
        try:
            with (
                torch.random.fork_rng(devices),
                plain_arithmetic(self.context.device),
                on_device(models, self.context.device),
                self._writing(),
            ):
                self._evaluate()
                self.context.barrier()  # or records of other processes might be missing
                summary = finish(self.folder) if self.context.is_first else {}
        except KeyboardInterrupt:
            if self.context.is_first:
                logger.warning("stopped: the records in %s are kept, and the same call goes on from there", self.folder)
            raise
        except ValueError as error:
            if (said := in_python(str(error))) != str(error):
                raise ValueError(said) from error
            raise
        finally:
            self.progress.close()
            if self.journal is not None:
                self.journal.close()
        summary = self.context.broadcast(summary)
        summary.pop("paths", None)
        return Evaluated(self.folder, read_records(self.folder), summary)

    def _evaluate(self) -> None:
        data = self._data()
        evaluation = Evaluation(
            self.context,
            self.victim,
            data,
            data.test_split,
            self.attacks,
            self.crafter,
            self._listeners(),
            control=CONTROL if self.controls else "",
            seen=self.options.get("seen", "refuse"),
        )
        evaluation.start()
        for batch in data.dataloader_of(data.test_split):
            evaluation.attack(self.context.moved(batch))
        evaluation.end()

    def _data(self) -> EvaluationData:
        """The data, read once if they are somebody's batches."""
        given = self.data
        if isinstance(given, DataOffered | EvaluationData):
            if needless := [name for name in OF_DATA if self.options.get(name) is not None]:
                raise ValueError(f"{type(given).__name__} decides for itself, and {needless[0]} is not asked of it")
            return evaluation_data(given)
        data = LoadedData(
            self.context,
            given,
            reference=self.options.get("reference"),
            name=self.options.get("name", "images"),
            class_names=self.options.get("class_names"),
            batch_size=self.options.get("batch_size", 32),
            task=task_of(self.victim),
        )
        data.split("test").limit = self.limit
        look_first(self.context, self.victim, data, "test")
        for name, judge in self.judges.models.items():
            try:
                look_first(self.context, judge, data, "test")
            except ValueError as error:
                raise ValueError(f"judge {name}: {error}") from error
        return data

    def _listeners(self) -> list[EvaluationListener]:
        """The listeners of the command line, those that were given in the place of their kind, and further ones."""
        given = [self._with_folder(one) for one in self.options.get("listeners") or ()]
        if any(isinstance(one, RecordJournal) for one in given):
            raise ValueError(
                "the journal is kept by evaluate itself: give its folder, resume and probabilities as options"
            )
        detectors = self.options.get("detectors")
        if detectors and any(isinstance(one, Detection) for one in given):
            raise ValueError("detectors are given twice, as detectors and in a Detection among the listeners")
        self.journal = RecordJournal(
            str(self.folder),
            self.run_name,
            bool(self.options.get("resume", True)),
            self.options.get("seed"),
            bool(self.options.get("probabilities", False)),
        )
        usual: list[EvaluationListener] = [
            Detection(dict(detectors or {}), folder=str(self.folder)),
            self.journal,
            Panels(str(self.folder)),
            Quality(download=False),
        ]
        kept = [next((one for one in given if isinstance(one, type(kind))), kind) for kind in usual]
        further = [one for one in given if one not in kept]
        if not any(isinstance(one, Transfer) for one in further):
            further.append(self.judges)
        elif self.judges.judges:
            raise ValueError("judges are given twice, as judges and in a Transfer among the listeners")
        return [*kept, *further, *([self.progress] if self.shows else [])]

    def _with_folder(self, listener: EvaluationListener) -> EvaluationListener:
        """A listener that writes into the folder of the results, unless it was given one."""
        if isinstance(listener, Panels | Detection | Studies) and not listener.folder:
            listener = copy.copy(listener)
            listener.folder = str(self.folder)
        return listener

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the folder, and leave it to others also after an exception, since this process may live on."""
        writer, refused = Writer(self.folder, "an evaluation"), ""
        if self.context.is_first:
            try:
                writer.take()
            except ValueError as error:
                refused = str(error)
            except OSError as error:
                refused = f"no results can be written into {self.folder}: {(error.strerror or str(error)).lower()}"
        if refused := self.context.broadcast(refused):
            raise ValueError(refused)
        try:
            yield
        finally:
            writer.release()


def in_python(sentence: str) -> str:
    """A sentence in which the options of the command line are called as those of ``evaluate`` are.

    >>> in_python("replace the one that is there by --journal.resume false")
    'replace the one that is there by resume=False'
    """
    for option, here in IN_PYTHON.items():
        sentence = sentence.replace(option, here)
    return sentence


@contextmanager
def plain_arithmetic(device: torch.device) -> Iterator[None]:
    """Compute in float32, whatever precision the caller computes in, and give that back."""
    before = torch.get_default_dtype()
    with torch.autocast(device.type, enabled=False):
        torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


@contextmanager
def on_device(victims: Sequence[EvaluatedVictim], device: torch.device) -> Iterator[None]:
    """Have victims on a device, and take them back to where they were."""
    homes = [next((parameter.device for parameter in victim.parameters()), device) for victim in victims]
    moved = [(victim, home) for victim, home in zip(victims, homes, strict=True) if home != device]
    try:
        for victim, _ in moved:
            if isinstance(victim, nn.Module):
                victim.to(device)
        yield
    finally:
        for victim, home in moved:
            if isinstance(victim, nn.Module):
                victim.to(home)
