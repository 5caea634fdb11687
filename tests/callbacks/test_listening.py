"""The listeners as callbacks: each is both, none adds anything, and together they write what a plain loop writes."""

import inspect
from pathlib import Path
from typing import Any

import polars
import pytest
from pytorch_lightning.callbacks import Callback

import callbacks
from callbacks import Robustness, listening
from medrobust import listeners
from medrobust.attacks import FGSM, PGD
from medrobust.detectors import Mahalanobis
from medrobust.evaluation import EvaluationListener
from medrobust.results.records import read_journal
from tests import recording
from tests.in_lightning import InMemoryModule, random_resnet, trainer_of
from tests.in_memory import InMemoryData, random_split

ATTACKS = {"fgsm": FGSM(epsilon=0.02), "pgd": PGD(epsilon=0.02, steps=2)}


@pytest.mark.parametrize("name", listeners.__all__)
def test_every_listener_is_a_callback_under_its_name_that_adds_nothing(name: str) -> None:
    thin, listener = vars(listening)[name], vars(listeners)[name]
    assert issubclass(thin, listener) and issubclass(thin, Callback) and issubclass(thin, EvaluationListener)
    assert vars(callbacks)[name] is thin
    assert not [member for member in vars(thin) if not member.startswith("__")]
    assert inspect.signature(thin) == inspect.signature(listener)  # what a configuration may set
    assert isinstance(thin(), listener)


def data_of(kind: Any) -> Any:
    """Images for detectors, and some to judge."""
    splits = {name: random_split(12, seed, side=32) for seed, name in enumerate(("train", "adv_train", "adv_test"))}
    return kind(splits, batch_size=5)


def heard_by(package: Any, folder: Path, judge: str) -> list[Any]:
    """One of each listener."""
    return [
        package.RecordJournal(str(folder), "all"),
        package.Panels(str(folder), 2),
        package.Quality(download=False),
        package.Representation(["layer1.0.act1"], directions=True),
        package.Transfer({"other": judge}),
        package.Detection({"maha": Mahalanobis()}, ["layer1.0.act1", "global_pool"], folder=str(folder)),
    ]


def table(folder: Path) -> polars.DataFrame:
    """Records, in a fixed order."""
    return read_journal(folder).sort("key", "id")


def test_a_trainer_and_a_plain_loop_write_the_same_records(tmp_path: Path, run_of: Any) -> None:
    judge = run_of(tmp_path / "judge", random_resnet(1))
    trainer = trainer_of(Robustness(ATTACKS), *heard_by(callbacks, tmp_path / "trainer", judge))
    trainer.test(random_resnet(), data_of(InMemoryModule), verbose=False)
    in_loop = heard_by(listeners, tmp_path / "loop", judge)
    recording.evaluate(random_resnet(), data_of(InMemoryData), ATTACKS, *in_loop, controls=True)

    one, other = table(tmp_path / "trainer"), table(tmp_path / "loop")
    assert len(one) == 3 * 12
    columns = {"psnr", "mean_layer1_0_act1", "direction_weights", "judge_other_after", "detector_maha_same_noisy"}
    assert columns <= set(one.columns)
    assert one.equals(other)
    pictures = [sorted(path.name for path in (tmp_path / name / "panels").iterdir()) for name in ("trainer", "loop")]
    assert pictures[0] == pictures[1] and len(pictures[0]) > 6
