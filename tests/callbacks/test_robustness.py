"""The callback that attacks inside Lightning's loops: what it hands to the engine, and a few batches in fit."""

import math
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from callbacks import Robustness
from callbacks.robustness import context_of
from lightning_modules import Classifier
from medrobust.attacks import FGSM, MIM, PGD, Attack, UniformNoise
from medrobust.networks.victims import evaluated_victim
from tests import recording
from tests.in_lightning import InMemoryModule, RecordingCallback, trainer_of, with_network
from tests.in_memory import random_data
from tests.tiny_networks import LinearNet

COUNT = 23


def data_of(classes: int = 2) -> InMemoryModule:
    """Random images with known targets."""
    data: InMemoryModule = random_data(COUNT, classes, kind=InMemoryModule)
    return data


def victim_of(classes: int = 2) -> Classifier:
    """A classifier whose network is linear in the image."""
    return with_network(LinearNet(classes), num_classes=classes, mean=0.5, std=0.25).train()


def hear(robustness: Robustness, *callbacks: Callback, stage: str = "test", **options: Any) -> RecordingCallback:
    """Evaluate with a trainer and listen."""
    heard = RecordingCallback()
    trainer = trainer_of(*callbacks, robustness, heard, **options)
    getattr(trainer, stage)(victim_of(), datamodule=data_of(), verbose=False)
    return heard


@pytest.mark.parametrize("inference_mode", [True, False])
def test_a_trainers_test_is_what_a_plain_loop_makes(inference_mode: bool) -> None:
    attacks: dict[str, Attack] = {"pgd": PGD(epsilon=0.03, steps=3), "aimed": MIM(steps=2, targeted=True)}
    heard = hear(Robustness(attacks, epsilons=[0.03], goals="random"), inference_mode=inference_mode)
    options: dict[str, Any] = {"epsilons": [0.03], "controls": True, "goals": "random"}
    alone = recording.evaluate(victim_of(), data_of(), attacks, **options)

    assert heard.hooks == alone.hooks
    assert heard.plans == alone.plans
    assert len(heard.batches) == 3 * math.ceil(COUNT / 7)
    for one, other in zip(heard.batches, alone.batches, strict=True):
        assert one.ids == other.ids and one.planned == other.planned
        assert torch.equal(one.adversarial, other.adversarial)
        assert torch.equal(one.reached, other.reached)
        tensors = [value for value in vars(one).values() if isinstance(value, Tensor)]
        assert not any(tensor.is_inference() or tensor.requires_grad for tensor in tensors)


def test_validate_evaluates_val_and_test_the_tested_split() -> None:
    for stage, split in (("validate", "val"), ("test", "adv_test")):
        heard = hear(Robustness({"fgsm": FGSM()}, controls=False), stage=stage)
        assert heard.plans[0].split == split
        assert heard.counts() == {"fgsm": COUNT}
        assert heard.hooks.count("on_evaluation_start") == heard.hooks.count("on_evaluation_end") == 1


def test_the_evaluation_has_the_callbacks_settings() -> None:
    robustness = Robustness({"fgsm": FGSM()}, [0.02], goals="least_likely", precision=32, deployment=False, seed=5)
    heard = hear(robustness)
    assert robustness.evaluation is not None
    assert robustness.evaluation.plan is heard.plans[0]
    assert robustness.evaluation.crafter is robustness.crafter
    assert robustness.crafter.goals == "least_likely" and not robustness.crafter.deployment.enabled
    planned = [(one.name, one.epsilon, one.attack.seed, one.control) for one in heard.plans[0].attacks]
    assert planned == [("noise", 0.02, 5, True), ("fgsm", 0.02, 5, False)]
    assert heard.plans[0].checkpoint is None


def test_the_plan_names_the_checkpoints_file_and_not_its_folder(tmp_path: Any) -> None:
    trainer = trainer_of()
    trainer.strategy.connect(victim_of())
    trainer.save_checkpoint(tmp_path / "weights.ckpt")
    heard = RecordingCallback()
    robustness = Robustness({"fgsm": FGSM()}, controls=False)
    checkpoint = str(tmp_path / "weights.ckpt")
    trainer_of(robustness, heard).test(victim_of(), data_of(), ckpt_path=checkpoint, verbose=False)
    assert heard.plans[0].checkpoint == "weights.ckpt"


def test_listeners_hear_in_the_order_of_the_trainers_callbacks_whatever_their_place_beside_the_attack() -> None:
    class First(RecordingCallback):
        def on_adversarial_batch(self, context: Any, victim: Any, batch: Any) -> None:
            batch.columns["first"] = torch.ones(len(batch))

    class Second(RecordingCallback):
        def on_adversarial_batch(self, context: Any, victim: Any, batch: Any) -> None:
            assert "first" in batch.columns
            super().on_adversarial_batch(context, victim, batch)

    first, second = First(), Second()
    trainer = trainer_of(first, Robustness({"fgsm": FGSM()}, controls=False), second)
    trainer.test(victim_of(), data_of(), verbose=False)
    assert second.counts() == {"fgsm": COUNT}
    assert first.hooks.count("on_attack_start") == second.hooks.count("on_attack_start") == 4


def test_the_context_is_filled_from_the_trainer() -> None:
    trainer = trainer_of()
    context = context_of(trainer)
    assert (context.rank, context.ranks, context.show_progress) == (0, 1, False)
    assert context.device == torch.device("cpu")
    assert context_of(trainer_of(enable_progress_bar=True)).show_progress


def test_a_seed_for_all_attacks_replaces_their_own() -> None:
    attacks: dict[str, Attack] = {"pgd": PGD(seed=1), "noise-like": UniformNoise(seed=2)}
    assert {attack.seed for _, attack in Robustness(attacks, seed=9).planned()} == {9}
    assert {attack.seed for _, attack in Robustness(attacks, controls=False).planned()} == {1, 2}


def test_an_attack_named_noise_is_refused_where_controls_have_that_name() -> None:
    with pytest.raises(ValueError, match="noise.*rename"):
        Robustness({"noise": FGSM()})
    assert Robustness({"noise": FGSM()}, controls=False).planned()


@pytest.mark.parametrize("options", [{"epsilons": [8]}, {"epsilons": [-0.1]}, {"fit_batches": -1}])
def test_settings_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="got"):
        Robustness({"fgsm": FGSM()}, **options)


def test_an_evaluation_without_an_attack_is_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="no attack is configured") as error:
        hear(Robustness({}))
    assert "\n" not in str(error.value)


def test_a_module_that_is_no_victim_is_refused() -> None:
    class Plain(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Flatten()

    with pytest.raises(
        ValueError,
        match="needs a victim .*, and Plain lacks .*, loss, .*, outcome",
    ):
        evaluated_victim(Plain())
    victim = victim_of()
    assert evaluated_victim(victim) is victim


def test_an_evaluation_leaves_modes_gradients_and_flags_of_the_victim_alone() -> None:
    class Watch(Callback):
        seen: list[tuple[Any, ...]]

        def state(self, victim: pl.LightningModule) -> tuple[Any, ...]:
            return (
                [module.training for module in victim.modules()],
                [(parameter.requires_grad, parameter.grad) for parameter in victim.parameters()],
            )

        def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            pl_module.network.dropout.train()  # somebody wants its dropout to stay on
            pl_module.network.weight.requires_grad_(False)
            self.seen = [self.state(pl_module)]

        def on_test_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
            self.seen.append(self.state(pl_module))

    watch = Watch()
    trainer_of(watch, Robustness({"pgd": PGD(steps=2)}), watch).test(victim_of(), data_of(), verbose=False)
    assert len(watch.seen) > 2 and all(state == watch.seen[0] for state in watch.seen)


class Sanity(Callback):
    """Notes what had been crafted when the sanity check ended."""

    def __init__(self, crafted: list[tuple[str, int]]) -> None:
        self.crafted, self.batches, self.before = crafted, 0, -1

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.batches += trainer.sanity_checking

    def on_sanity_check_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.before = len(self.crafted)


def fitted(seed: int, *callbacks: Callback, epochs: int = 2) -> tuple[pl.Trainer, Classifier]:
    """A victim with BatchNorm and dropout, fine-tuned on the images."""
    pl.seed_everything(seed)
    victim = Classifier("resnet10t", channels=1, head="dense", label_smoothing=0.1)
    trainer = trainer_of(*callbacks, max_epochs=epochs, num_sanity_val_steps=2)
    trainer.fit(victim, data_of())
    return trainer, victim


def test_in_fit_the_first_batches_of_each_epoch_are_attacked_and_the_training_is_the_same_to_the_last_bit(
    crafted: list[tuple[str, int]],
) -> None:
    attacks = {"fgsm": FGSM(epsilon=0.02), "pgd": PGD(epsilon=0.02, steps=2), "aimed": MIM(steps=1, targeted=True)}
    heard, sanity = RecordingCallback(), Sanity(crafted)
    robustness = Robustness(attacks, epsilons=[0.1], fit_batches=2, goals="random")
    trainer, victim = fitted(3, robustness, heard, sanity)
    watched = list(crafted)
    _, alone = fitted(3)

    assert sanity.batches == 2 and sanity.before == 0
    assert watched == [("FGSM", 7), ("PGD", 7), ("MIM", 7)] * 2 * 2  # two batches of two epochs
    assert not heard.hooks
    for (name, with_attacks), without in zip(victim.state_dict().items(), alone.state_dict().values(), strict=True):
        assert torch.equal(with_attacks, without), name
    right = dict.fromkeys(attacks, 0)
    batches = list(data_of().val_dataloader())[:2]
    for name in ("fgsm", "pgd"):  # each at its own radius, judged on the weights of the last epoch
        for batch in batches:
            attacked = attacks[name](victim, batch["image"], batch["target"], batch["id"])
            right[name] += int((~attacked.success).sum())
        assert float(trainer.callback_metrics[f"robustness/{name}"]) == pytest.approx(right[name] / 14)
    assert {name for name in trainer.callback_metrics if name.startswith("robustness/")} == {
        f"robustness/{name}" for name in attacks
    }
    assert victim.training and all(parameter.requires_grad for parameter in victim.parameters())


def test_in_fit_nothing_is_attacked_unless_asked_for(crafted: list[tuple[str, int]]) -> None:
    trainer, _ = fitted(3, Robustness({"fgsm": FGSM()}), epochs=1)
    assert not crafted and not [name for name in trainer.callback_metrics if name.startswith("robustness/")]


def test_fit_works_without_any_attack() -> None:
    trainer, _ = fitted(3, Robustness({}, fit_batches=1), epochs=1)
    assert "val/loss" in trainer.callback_metrics


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"label": "Mass"}, "label 'Mass' is turned by targeted attacks, and none of these is"),
        ({"goal_mask": "lung.png"}, "targeted attacks aim at goal_mask lung.png, and none of these is"),
    ],
)
def test_a_goal_that_no_attack_aims_at_is_refused(options: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Robustness({"pgd": PGD()}, **options)  # type: ignore[arg-type]
