"""The callback that trains against a defence: what it lowers, what it measures on Val, and the passes it counts."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from callbacks import Checkpoints, Hardening
from lightning_modules import Classifier
from medrobust.attacks import PGD
from medrobust.defences import AdversarialTraining, Trades
from medrobust.results.defences import of_training
from tests.in_lightning import InMemoryModule, trainer_of
from tests.in_memory import random_data, random_split

COUNT, EPOCHS = 23, 2
ATTACK = PGD(epsilon=0.05, steps=2)


def data_of() -> InMemoryModule:
    """The same random images as Train and as Val, in batches of at most 7."""
    data: InMemoryModule = random_data(COUNT, kind=InMemoryModule)
    return data


def fitted(*callbacks: Callback, epochs: int = EPOCHS, **options: Any) -> tuple[pl.Trainer, Classifier]:
    """A victim with BatchNorm, fine-tuned on the images."""
    pl.seed_everything(3)
    victim = Classifier("resnet10t", channels=1, schedule="constant")
    trainer = trainer_of(*callbacks, max_epochs=epochs, **options)
    trainer.fit(victim, data_of(), ckpt_path=None)
    return trainer, victim


def test_the_training_lowers_the_loss_of_the_defence_and_measures_val_under_its_attack() -> None:
    epochs: list[int] = []

    class Heard(AdversarialTraining):
        def at(self, epoch: int) -> Any:
            epochs.append(epoch)
            return super().at(epoch)

    trainer, victim = fitted(Hardening(Heard(attack=ATTACK)))
    assert epochs == [0] * 4 + [1] * 4
    right = 0
    for batch in data_of().val_dataloader():
        right += int((~ATTACK(victim, batch["image"], batch["target"], batch["id"]).success).sum())
    assert float(trainer.callback_metrics["val/robust_accuracy"]) == pytest.approx(right / COUNT)
    assert float(trainer.callback_metrics["train/passes_per_image"]) == 2 + 2 + 1 + 1
    assert float(trainer.callback_metrics["train/passes"]) == 6 * COUNT * EPOCHS
    assert victim.defended == {
        "defence": Heard(attack=ATTACK).parameters(),
        "images": COUNT * EPOCHS,
        "forwards": 3 * COUNT * EPOCHS,
        "backwards": 3 * COUNT * EPOCHS,
        "choosing_forwards": 3 * COUNT * EPOCHS,
        "choosing_backwards": 2 * COUNT * EPOCHS,
    }
    assert of_training(victim.defended).line() == (
        "trained by Heard with weight 1 against PGD at ε = 0.05, 2 steps: 6.0 passes per image and epoch (plain "
        "training makes 2), 276 in all, and 230 on Val to choose the checkpoint"
    )
    assert all(parameter.requires_grad for parameter in victim.parameters())


def test_another_loss_gives_other_weights_and_the_same_one_the_same() -> None:
    weights = []
    for callbacks in ((), (Hardening(Trades(attack=ATTACK)),), (Hardening(Trades(attack=ATTACK)),)):
        _, victim = fitted(*callbacks, epochs=1)
        weights.append(torch.cat([parameter.detach().flatten() for parameter in victim.parameters()]))
    assert torch.equal(weights[1], weights[2]) and not torch.allclose(weights[0], weights[1])


def test_the_checkpoint_says_what_it_was_trained_against_and_the_count_goes_on(tmp_path: Path) -> None:
    def checkpoints() -> Checkpoints:
        return Checkpoints(tmp_path, monitor="val/robust_accuracy", mode="max", filename="best", save_last=True)

    kept = {"enable_checkpointing": True}
    fitted(Hardening(AdversarialTraining(attack=ATTACK)), checkpoints(), epochs=1, **kept)
    held = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert held["defence"]["images"] == COUNT and held["defence"]["forwards"] == 3 * COUNT
    again = Classifier.from_checkpoint(tmp_path / "best.ckpt")
    assert again.defended == held["defence"] and again.defended["defence"]["attack"]["epsilon"] == 0.05

    victim = Classifier("resnet10t", channels=1, schedule="constant")
    trainer = trainer_of(Hardening(AdversarialTraining(attack=ATTACK)), checkpoints(), max_epochs=2, **kept)
    trainer.fit(victim, data_of(), ckpt_path=str(tmp_path / "last.ckpt"))
    whole, _ = fitted(Hardening(AdversarialTraining(attack=ATTACK)))
    for (name, one), other in zip(
        victim.state_dict().items(), whole.lightning_module.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    assert victim.defended is not None and victim.defended["images"] == 2 * COUNT


def test_under_bf16_the_crafting_stays_in_float32() -> None:
    seen: list[tuple[torch.dtype, bool]] = []

    class Watch(Classifier):
        def forward(self, images: Any) -> Any:
            outputs = super().forward(images)
            seen.append((outputs.dtype, self.training))
            return outputs

    pl.seed_everything(3)
    victim = Watch("resnet10t", channels=1)
    trainer = trainer_of(
        Hardening(AdversarialTraining(attack=ATTACK)),
        max_epochs=1,
        precision="bf16-mixed",
        limit_train_batches=1,
        limit_val_batches=0,
    )
    trainer.fit(victim, data_of())
    assert seen == [(torch.float32, False)] * 2 + [(torch.bfloat16, True)]
    assert all(parameter.dtype == torch.float32 for parameter in victim.parameters())


def test_a_module_that_does_not_ask_for_a_defence_is_refused() -> None:
    class Other(Classifier):
        training_loss = None  # type: ignore[assignment]

    with pytest.raises(ValueError, match="a defence trains a victim such as"):
        Hardening(AdversarialTraining(attack=ATTACK)).setup(trainer_of(), Other("resnet10t"), "fit")


def test_an_evaluation_needs_nothing_of_it() -> None:
    data = InMemoryModule({"adv_test": random_split(3)})
    victim = Classifier("resnet10t", channels=1)
    trainer_of(Hardening(AdversarialTraining(attack=ATTACK))).test(victim, data, verbose=False)
    assert victim.defence is None and victim.defended is None
