"""The progress bar: which attack is at work, in every stage, and silence where it is off."""

from collections.abc import Callable
from typing import Any

import pytest
from pytorch_lightning.callbacks import Callback

from callbacks import AttackProgress, Robustness, progress
from lightning_modules import Classifier
from medrobust.attacks import BIM, FGSM, WorstCase
from medrobust.attacks.budgets import Fraction
from medrobust.evaluation import EvaluationListener
from tests.in_lightning import InMemoryModule, trainer_of, with_network
from tests.in_memory import random_data, random_split
from tests.tiny_networks import LinearNet


def data_of() -> InMemoryModule:
    """Random images in four batches."""
    data: InMemoryModule = random_data(kind=InMemoryModule)
    return data


def victim_of() -> Classifier:
    """A classifier whose network is linear in the image."""
    return with_network(LinearNet())


def test_the_progress_bar_says_which_attack_is_at_work(capfd: pytest.CaptureFixture[str]) -> None:
    bar, shown, attacks = AttackProgress(), [], {"fgsm": FGSM(epsilon=0.02), "bim": BIM(epsilon=0.02, steps=2)}

    class Look(EvaluationListener, Callback):
        def on_attack_start(self, *_: Any) -> None:
            shown.append(bar.test_progress_bar.postfix)

    trainer_of(Robustness(attacks), bar, Look(), enable_progress_bar=True).test(victim_of(), data_of(), verbose=False)
    assert shown == ["noise 0.02 (1/3)", "fgsm 0.02 (2/3)", "bim 0.02 (3/3)"] * 4
    printed = capfd.readouterr()
    assert "bim 0.02 (3/3)" in printed.out + printed.err


def test_the_turns_of_a_worst_case_are_shown_with_the_images_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first attack moves next to nothing and breaks none of three images, all of which are right before."""
    monkeypatch.setattr(progress, "EVERY", 0.0)
    bar, shown = AttackProgress(), []

    class Look(EvaluationListener, Callback):
        def on_attack_turn(self, *_: Any) -> None:
            shown.append(bar.test_progress_bar.postfix)

    worst = WorstCase(attacks=(BIM(steps=2, step_size=1e-9), FGSM()), epsilon=0.02)
    victim, (images, _) = victim_of(), random_split(3)
    data = InMemoryModule({"adv_test": (images, victim(images).argmax(1))})
    trainer = trainer_of(Robustness({"worst": worst}, controls=False), bar, Look(), enable_progress_bar=True)
    trainer.test(victim, data, verbose=False)
    bim, fgsm = "worst 0.02 (1/1): BIM (1/2), 3 images left", "worst 0.02 (1/1): FGSM (2/2), 3 images left"
    assert shown == [bim, f"{bim}, 1 pass", f"{bim}, 2 passes", fgsm, f"{fgsm}, 1 pass"]


def test_a_radius_is_shown_as_it_was_written(capfd: pytest.CaptureFixture[str]) -> None:
    robustness = Robustness({"fgsm": FGSM()}, [Fraction("2/255")], controls=False)
    trainer_of(robustness, AttackProgress(), enable_progress_bar=True).test(victim_of(), data_of(), verbose=False)
    printed = capfd.readouterr()
    assert "fgsm 2/255 (1/1)" in printed.out + printed.err


@pytest.mark.parametrize(("run", "shown"), [("validate", "fgsm 0.02 (2/2)"), ("fit", "robustness/fgsm=")])
def test_the_progress_bar_runs_in_every_stage(run: str, shown: str, capfd: pytest.CaptureFixture[str]) -> None:
    bar = AttackProgress(refresh_rate=1)
    robustness = Robustness({"fgsm": FGSM(epsilon=0.02)}, fit_batches=1)
    trainer = trainer_of(robustness, bar, enable_progress_bar=True, max_epochs=1)
    call: Callable[..., Any] = getattr(trainer, run)
    call(victim_of(), datamodule=data_of())

    assert "v_num" not in str(trainer.progress_bar_metrics)
    printed = capfd.readouterr()
    assert shown in printed.out + printed.err


def test_a_progress_bar_that_is_off_stays_silent(capfd: pytest.CaptureFixture[str]) -> None:
    robustness, bar = Robustness({"fgsm": FGSM()}), AttackProgress(refresh_rate=0)
    trainer_of(robustness, bar, enable_progress_bar=True).test(victim_of(), data_of(), verbose=False)
    printed = capfd.readouterr()
    assert "fgsm" not in printed.out + printed.err
