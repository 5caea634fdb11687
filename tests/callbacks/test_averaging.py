"""The average of the weights: its value by hand, what is measured and kept, and that a resumed training is the same."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from callbacks import AveragedWeights, Checkpoints
from lightning_modules import Classifier
from tests.in_lightning import InMemoryModule, trainer_of
from tests.in_memory import random_data


def data_of() -> InMemoryModule:
    """The same random images as Train and as Val."""
    data: InMemoryModule = random_data(23, kind=InMemoryModule)
    return data


class Watch(Callback):
    """Notes the weights after each step, those on which Val is measured, and the losses of each epoch."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []
        self.measured: list[Tensor] = []
        self.curve: list[tuple[float, float]] = []

    def weights(self, victim: pl.LightningModule) -> Tensor:
        *_, (_, weights), (_, _) = victim.network.named_parameters()  # type: ignore[union-attr,operator]
        return weights.detach().clone()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.steps.append(self.weights(pl_module))

    def on_validation_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.measured.append(self.weights(pl_module))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.curve.append(tuple(float(trainer.callback_metrics[name]) for name in ("train/loss", "val/loss")))


def victim_of(**options: Any) -> Classifier:
    pl.seed_everything(5)
    return Classifier("resnet10t", channels=1, head="dense" if options else "linear", **options)


def test_the_average_is_what_paper_says_and_what_val_and_checkpoints_show(tmp_path: Path) -> None:
    victim, watch = victim_of(), Watch()
    begun = watch.weights(victim)
    kept = Checkpoints(tmp_path, monitor="val/loss", filename="best", save_last=True)
    averaged = AveragedWeights(decay=0.4)
    trainer_of(averaged, watch, kept, max_epochs=2, num_sanity_val_steps=0, enable_checkpointing=True).fit(
        victim, data_of()
    )
    expected, after = begun, []
    for step, weights in enumerate(watch.steps, start=1):
        decay = min(0.4, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weights
        after.append(expected)
    assert len(watch.steps) == 8 and (1 + 8) / (10 + 8) > 0.4 > (1 + 1) / (10 + 1)
    torch.testing.assert_close(watch.measured[0], after[3])
    torch.testing.assert_close(watch.measured[-1], after[7])
    torch.testing.assert_close(watch.weights(victim), after[7])
    held = torch.load(tmp_path / "last.ckpt", weights_only=True)
    torch.testing.assert_close(held["state_dict"]["network.fc.weight"], after[7])
    torch.testing.assert_close(held["averaged_weights"]["weights"]["network.fc.weight"], watch.steps[-1])
    torch.testing.assert_close(watch.weights(Classifier.from_checkpoint(tmp_path / "last.ckpt")), after[7])


class Interrupted(Exception):
    pass


class Stop(Callback):
    """Interrupts a training in the middle of an epoch."""

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.current_epoch == 2 and trainer.fit_loop.batch_idx == 1:
            raise Interrupted


@pytest.mark.parametrize("ema", [False, True])
def test_a_training_that_goes_on_has_the_curve_of_one_that_was_not_interrupted(tmp_path: Path, ema: bool) -> None:
    """Momentum, plateau, early stopping, dropout, clipping and averages all go on where they were."""

    def fit(folder: Path, *callbacks: Callback, path: str | None = None) -> tuple[Watch, Classifier]:
        watch = Watch()
        kept = Checkpoints(folder, monitor="val/loss", filename="best", save_last=True)
        stopping = EarlyStopping("val/loss", patience=3, min_delta=10.0)  # after the first epoch nothing counts
        averaged = [AveragedWeights(decay=0.9)] if ema else []
        trainer = trainer_of(
            *averaged, watch, stopping, kept, *callbacks, max_epochs=9, enable_checkpointing=True, gradient_clip_val=0.5
        )
        victim = victim_of(
            optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
            schedule=lambda optimizer: ReduceLROnPlateau(optimizer, patience=0, threshold=0.5),
        )
        trainer.fit(victim, data_of(), ckpt_path=path)
        return watch, victim

    whole, expected = fit(tmp_path / "whole")
    with pytest.raises(Interrupted):
        fit(tmp_path / "parts", Stop())
    rest, found = fit(tmp_path / "parts", path=str(tmp_path / "parts" / "last.ckpt"))
    assert len(whole.curve) == 4 and rest.curve == whole.curve[2:]
    for (name, one), other in zip(found.state_dict().items(), expected.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_gradients_are_clipped_to_the_norm_that_is_asked_for() -> None:
    victim = victim_of(
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0), schedule="constant", weights=None
    )
    before = torch.cat([parameter.detach().flatten().clone() for parameter in victim.parameters()])
    trainer_of(max_epochs=1, limit_train_batches=1, limit_val_batches=0, gradient_clip_val=1e-3).fit(victim, data_of())
    after = torch.cat([parameter.detach().flatten() for parameter in victim.parameters()])
    assert float((after.double() - before.double()).norm()) == pytest.approx(1e-3, rel=1e-2)


def test_a_training_without_averages_goes_on_with_them_from_its_weights(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, monitor="val/loss", filename="best", save_last=True)
    trainer_of(kept, max_epochs=1, enable_checkpointing=True).fit(victim_of(), data_of())
    victim, watch = victim_of(), Watch()
    trainer = trainer_of(AveragedWeights(0.5), watch, max_epochs=2)
    trainer.fit(victim, data_of(), ckpt_path=str(tmp_path / "last.ckpt"))
    begun = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]["network.fc.weight"]
    expected = begun
    for step, weights in enumerate(watch.steps, start=5):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weights
    torch.testing.assert_close(watch.weights(victim), expected)


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="decay is a share"):
        AveragedWeights(decay)


def test_a_dry_run_trains_one_batch_and_keeps_nothing(tmp_path: Path) -> None:
    watch = Watch()
    trainer_of(AveragedWeights(), watch, fast_dev_run=True).fit(victim_of(), data_of())
    assert len(watch.steps) == len(watch.measured) == 1 and not list(tmp_path.iterdir())
