"""Progress outside a terminal: lines at most every half minute, with the time that is left."""

import itertools
import logging
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from callbacks import ProgressLines, Robustness
from lightning_modules import Classifier
from medrobust.attacks import BIM, FGSM
from medrobust.evaluation import EvaluationContext, pace
from tests.in_lightning import InMemoryModule, trainer_of, with_network
from tests.in_memory import random_data
from tests.tiny_networks import LinearNet

ATTACKS = {"fgsm": FGSM(epsilon=0.02), "bim": BIM(epsilon=0.02, steps=2)}


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock on which ten seconds pass between two looks."""
    now = itertools.count(0.0, 10.0)
    monkeypatch.setattr(pace, "monotonic", lambda: next(now))


def victim_of() -> Classifier:
    """A classifier whose network is linear in the image."""
    return with_network(LinearNet())


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was said of the progress."""
    return [one.message for one in caplog.records if one.name.startswith(("callbacks", "medrobust.eval"))]


def evaluated(caplog: pytest.LogCaptureFixture, bar: ProgressLines, **options: Any) -> list[str]:
    """What an evaluation of four batches says."""
    caplog.set_level(logging.INFO)
    data: InMemoryModule = random_data(kind=InMemoryModule)
    trainer_of(Robustness(ATTACKS), bar, enable_progress_bar=True, **options).test(victim_of(), data, verbose=False)
    return lines(caplog)


def test_the_first_batch_says_how_long_the_rest_will_take(caplog: pytest.LogCaptureFixture) -> None:
    said = evaluated(caplog, ProgressLines(every=1e6))
    assert said[0] == "3 attacks x 23 images"
    # the clock is looked at when the first attack begins, three times whether a line is due, and for what is left
    assert said[1:] == ["batch 1 of 4: noise 0.02 (1/3) is at work", "batch 1 of 4 is done; about 2 min left"]


def test_lines_name_the_attack_that_has_run(caplog: pytest.LogCaptureFixture) -> None:
    said = evaluated(caplog, ProgressLines(every=0.0))
    assert [line.split(";")[0] for line in said[:6]] == [
        "3 attacks x 23 images",
        "batch 1 of 4: noise 0.02 (1/3) is at work",
        "batch 1 of 4: noise 0.02 (1/3)",
        "batch 1 of 4: fgsm 0.02 (2/3)",
        "batch 1 of 4 is done",
        "batch 2 of 4: noise 0.02 (1/3)",
    ]
    assert said[-1] == "batch 4 of 4 is done"  # nothing is left, and no time is


def test_a_limit_of_batches_is_part_of_the_plan(caplog: pytest.LogCaptureFixture) -> None:
    said = evaluated(caplog, ProgressLines(every=1e6), limit_test_batches=1)
    assert said == ["3 attacks x 7 images", "batch 1 of 1: noise 0.02 (1/3) is at work", "batch 1 of 1 is done"]


def test_a_limit_counts_the_batches_of_a_batch_sampler(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    images = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    rows = [{"image": image, "target": number % 2, "id": str(number)} for number, image in enumerate(images)]
    loader: Any = DataLoader(rows, batch_sampler=[[0, 1, 2], [3, 4], [5, 6, 7, 8, 9]])
    trainer_of(Robustness(ATTACKS), limit_test_batches=2).test(victim_of(), loader, verbose=False)
    assert lines(caplog)[0] == "3 attacks x 5 images"


def test_a_loader_of_unknown_length_is_planned_by_its_images(caplog: pytest.LogCaptureFixture) -> None:
    class Rows(IterableDataset[Any]):
        def __iter__(self) -> Any:
            images = [torch.full((1, 8, 8), 0.1 * number) for number in range(5)]
            return iter([{"image": image, "target": 0, "id": str(float(image.sum()))} for image in images])

    caplog.set_level(logging.INFO)
    trainer_of(Robustness(ATTACKS)).test(victim_of(), DataLoader(Rows(), batch_size=2), verbose=False)
    assert lines(caplog)[0] == "3 attacks x 5 images"


def test_a_training_says_its_epoch_and_its_loss(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    trainer = trainer_of(ProgressLines(every=0.0), enable_progress_bar=True, max_epochs=2)
    trainer.fit(victim_of(), datamodule=random_data(kind=InMemoryModule))
    said = lines(caplog)
    assert said[0].startswith("epoch 1 of 2, batch 1 of ") and "; train/loss " in said[0] and said[0].endswith(" left")
    assert said[-1].startswith("epoch 2 of 2, ") and "val/" in said[-1]


def test_a_long_loop_says_how_far_it_is(caplog: pytest.LogCaptureFixture) -> None:
    """Ten seconds pass with each item, so that a line is due at the third of four."""
    caplog.set_level(logging.INFO)
    context = EvaluationContext(show_progress=True)
    assert list(context.progress([1, 2, 3, 4], "fitting detectors")) == [1, 2, 3, 4]
    # looks at 10, 20, 30 s: the third item is due after 30 s and leaves a quarter, at 40 s
    assert lines(caplog) == ["fitting detectors: 3 of 4; about 13 s left"]
