"""The callback that attacks: everything once in test, a few batches in fit, and no trace left in the victim."""

import math
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks import AdversarialBatch, AttackProgress, EvaluationPlan, PlannedAttack, Robustness
from lightning_modules import Classifier
from medrobust.attacks import BIM, DIM, FGSM, MIM, PGD, Attack, CWLinf, UniformNoise

SIDE = 8
COUNT = 23
FIELDS = ("correct_before", "correct_after", "success", "forwards", "backwards", "zero_gradients")


class Items(pl.LightningDataModule):
    """Random images with known targets, as a data module that evaluations can refer to."""

    test_split, channels = "adv_test", 1

    def __init__(self, classes: int = 2, batch_size: int = 7, count: int = COUNT) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.num_classes, self.batch_size = classes, batch_size
        self.images = torch.rand(count, 1, SIDE, SIDE, generator=generator)
        self.targets = torch.arange(count) * 7 % 5 % classes
        self.ids = [f"image-{place}" for place in range(count)]
        samples = [SimpleNamespace(id=id, target=int(t)) for id, t in zip(self.ids, self.targets, strict=True)]
        self.splits = {"adv_test": samples, "val": samples}

    def fingerprint(self, split: str) -> str:
        return f"fingerprint of {split}"

    def describe(self) -> dict[str, Any]:
        return {"name": "items", "image_size": SIDE, "channels": 1}

    def loader(self) -> DataLoader[dict[str, Any]]:
        items = [{"image": i, "target": t, "id": id} for i, t, id in zip(self.images, self.targets, self.ids)]
        return DataLoader(items, batch_size=self.batch_size, collate_fn=self.collate)

    train_dataloader = val_dataloader = test_dataloader = loader

    @staticmethod
    def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
        stacked = {name: torch.stack([item[name] for item in items]) for name in ("image", "target")}
        return {**stacked, "id": [item["id"] for item in items]}


class Linear(nn.Module):
    """Logits that are linear in the image, with weights of both signs."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        weight = torch.randn(classes, SIDE * SIDE, generator=torch.Generator().manual_seed(classes)) / 8
        self.weight = nn.Parameter(weight - weight.mean(1, keepdim=True))
        self.dropout = nn.Dropout(0.5)  # in train mode it would change every output

    def forward(self, images: Tensor) -> Tensor:
        return self.dropout(images.flatten(1)) @ self.weight.T


class Heard(Callback):
    """Listens to everything that the attack callback says."""

    def __init__(self) -> None:
        self.batches: list[AdversarialBatch] = []
        self.plans: list[EvaluationPlan] = []
        self.ended = 0
        self.started: list[str] = []

    def on_evaluation_start(self, trainer: pl.Trainer, victim: pl.LightningModule, plan: EvaluationPlan) -> None:
        self.plans.append(plan)

    def on_attack_start(self, trainer: pl.Trainer, planned: PlannedAttack, plan: EvaluationPlan) -> None:
        self.started.append(planned.key)

    def on_adversarial_batch(self, trainer: pl.Trainer, victim: pl.LightningModule, batch: AdversarialBatch) -> None:
        self.batches.append(batch)

    def on_evaluation_end(self, trainer: pl.Trainer, victim: pl.LightningModule, plan: EvaluationPlan) -> None:
        self.ended += 1

    def rows(self, name: str | None = None) -> dict[tuple[str, float | None, str], dict[str, Any]]:
        """What became of each image under each attack and radius."""
        found = {}
        for batch in self.batches:
            for row, id in enumerate(batch.ids):
                if name in (None, batch.planned.name):
                    values = {field: getattr(batch, field)[row].item() for field in FIELDS}
                    difference = (batch.adversarial[row] - batch.clean[row]).double()
                    norms = {"linf": difference.abs().max().item(), "l2": difference.norm().item()}
                    values |= norms | {"key": batch.planned.key, "adversarial": batch.adversarial[row]}
                    found[batch.planned.name, batch.planned.epsilon, id] = values
        return found


def victim_of(classes: int = 2) -> Classifier:
    """A classifier whose network is linear in the image."""
    victim = Classifier("resnet10t", num_classes=classes, channels=1, mean=0.5, std=0.25)
    victim.network = Linear(classes)
    return victim


def trainer_of(*callbacks: Callback, **options: Any) -> pl.Trainer:
    """A silent trainer on one CPU, in inference mode."""
    silent = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False)
    settings = {"accelerator": "cpu", "devices": 1, "inference_mode": True, "use_distributed_sampler": False}
    return pl.Trainer(**{**silent, **settings, **options}, callbacks=list(callbacks))


def hear(robustness: Robustness, data: Items | None = None, victim: Classifier | None = None) -> Heard:
    """Evaluate in test and listen."""
    heard = Heard()
    data = Items() if data is None else data
    trainer_of(robustness, heard).test(victim or victim_of(data.num_classes), data, verbose=False)
    return heard


def same(first: dict[Any, dict[str, Any]], second: dict[Any, dict[str, Any]]) -> bool:
    """Whether two evaluations have the same images, judgements and counts, and norms within rounding."""
    if first.keys() != second.keys():
        return False
    return all(
        all(one[field] == other[field] for field in (*FIELDS, "key"))
        and math.isclose(one["linf"], other["linf"], abs_tol=1e-6)
        and math.isclose(one["l2"], other["l2"], abs_tol=1e-5)
        for one, other in ((first[place], second[place]) for place in first)
    )


@pytest.fixture
def crafted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Every batch that any attack crafts: the method and the number of images."""
    calls: list[tuple[str, int]] = []
    craft = Attack.craft

    def watched(self: Attack, victim: Any, images: Tensor, *arguments: Any) -> Any:
        calls.append((type(self).__name__, len(images)))
        return craft(self, victim, images, *arguments)

    monkeypatch.setattr(Attack, "craft", watched)
    return calls


def test_fgsm_in_inference_mode_reaches_the_optimum_of_a_linear_victim() -> None:
    data, victim = Items(), victim_of()
    weight = (victim.network.weight[1] - victim.network.weight[0]).detach().view(1, SIDE, SIDE)
    heard = hear(Robustness({"fgsm": FGSM(epsilon=0.05)}, controls=False), data, victim)

    rows = heard.rows()
    assert len(rows) == COUNT
    for image, target, id in zip(data.images, data.targets, data.ids, strict=True):
        away = -weight.sign() if target == 1 else weight.sign()
        expected = (image + 0.05 * away).clamp(0, 1)
        torch.testing.assert_close(rows["fgsm", 0.05, id]["adversarial"], expected)
        lead = float((weight * (expected - 0.5) / 0.25).sum())
        assert rows["fgsm", 0.05, id]["success"] == ((lead > 0) != (target == 1))
        clean_lead = float((weight * (image - 0.5) / 0.25).sum())
        assert rows["fgsm", 0.05, id]["correct_before"] == ((clean_lead > 0) == (target == 1))


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_every_image_is_attacked_once_by_every_attack_at_every_radius(batch_size: int) -> None:
    attacks = {"fgsm": FGSM(), "pgd": PGD(steps=2, stop_when_fooled=True)}
    heard = hear(Robustness(attacks, epsilons=[0.01, 0.02], controls=True), Items(batch_size=batch_size))

    counts = Counter((b.planned.name, b.planned.epsilon, id) for b in heard.batches for id in b.ids)
    expected = {
        (name, radius, f"image-{place}")
        for name in ("noise", "fgsm", "pgd")
        for radius in (0.01, 0.02)
        for place in range(COUNT)
    }
    assert counts.keys() == expected and set(counts.values()) == {1}
    assert len(heard.plans) == heard.ended == 1
    assert len(heard.started) == len(heard.batches)


def test_validate_attacks_val_like_test() -> None:
    heard = Heard()
    trainer_of(Robustness({"fgsm": FGSM()}, controls=False), heard).validate(victim_of(), Items(), verbose=False)

    assert len(heard.rows()) == COUNT and heard.plans[0].split == "val" and heard.ended == 1


def test_the_plan_has_every_attack_at_every_radius_in_order_and_keys_of_their_own() -> None:
    attacks = {"fgsm": FGSM(), "bim": BIM(steps=2, stop_when_fooled=True)}
    plan = hear(Robustness(attacks, epsilons=[0.02, 0.01])).plans[0]

    laid_out = [(one.name, one.epsilon, one.control) for one in plan.attacks]
    assert laid_out == [
        ("noise", 0.01, True),
        ("noise", 0.02, True),
        ("fgsm", 0.02, False),
        ("fgsm", 0.01, False),
        ("bim", 0.02, False),
        ("bim", 0.01, False),
    ]
    assert len({one.key for one in plan.attacks}) == 6
    assert [one.attack.epsilon for one in plan.attacks] == [radius for _, radius, _ in laid_out]
    assert plan.images == [(id, int(t)) for id, t in zip(Items().ids, Items().targets, strict=True)]
    assert plan.split == "adv_test" and plan.data["fingerprint"] == "fingerprint of adv_test"


def test_without_a_sweep_every_attack_keeps_its_radius_and_noise_comes_once_for_each() -> None:
    attacks = {"a": FGSM(epsilon=0.02), "b": BIM(epsilon=0.01, steps=2), "c": CWLinf(epsilon=0.02, steps=2)}
    planned = Robustness(attacks).planned()

    radii = [(name, attack.epsilon) for name, attack in planned]
    assert radii == [("noise", 0.01), ("noise", 0.02), ("a", 0.02), ("b", 0.01), ("c", 0.02)]


def test_configured_noise_is_no_second_time_added_as_control() -> None:
    planned = Robustness({"grain": UniformNoise(), "fgsm": FGSM()}, epsilons=[0.01, 0.02]).planned()
    assert [name for name, _ in planned] == ["grain", "grain", "fgsm", "fgsm"]

    planned = Robustness({"grain": UniformNoise(epsilon=0.01), "fgsm": FGSM(epsilon=0.02)}).planned()
    assert [(name, attack.epsilon) for name, attack in planned] == [("noise", 0.02), ("grain", 0.01), ("fgsm", 0.02)]


def test_a_repeated_radius_is_run_once() -> None:
    assert len(Robustness({"fgsm": FGSM()}, epsilons=[0.01, 0.01], controls=False).planned()) == 1


def test_the_log_domain_has_no_uniform_noise_of_its_radius() -> None:
    from medrobust.attacks import LogDomain

    assert [name for name, _ in Robustness({"log": LogDomain(epsilon=0.3)}).planned()] == ["log"]


def test_controls_are_left_out_on_request() -> None:
    assert [name for name, _ in Robustness({"fgsm": FGSM()}, controls=False).planned()] == ["fgsm"]


def test_an_attack_named_noise_is_refused_where_controls_have_that_name() -> None:
    with pytest.raises(ValueError, match="noise.*rename"):
        Robustness({"noise": FGSM()})
    assert Robustness({"noise": FGSM()}, controls=False).planned()


@pytest.mark.parametrize("options", [{"epsilons": [8]}, {"epsilons": [0.0]}, {"fit_batches": -1}])
def test_settings_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="got"):
        Robustness({"fgsm": FGSM()}, **options)


def test_an_evaluation_without_an_attack_is_refused_in_one_sentence() -> None:
    with pytest.raises(ValueError, match="no attack is configured") as error:
        hear(Robustness({}))
    assert "\n" not in str(error.value)


def test_a_seed_for_all_attacks_replaces_their_own() -> None:
    attacks = {"pgd": PGD(seed=1), "noise-like": UniformNoise(seed=2)}
    assert {attack.seed for _, attack in Robustness(attacks, seed=9).planned()} == {9}
    assert {attack.seed for _, attack in Robustness(attacks, controls=False).planned()} == {1, 2}


def test_goals_are_the_next_class_or_the_one_that_is_least_likely() -> None:
    data, victim = Items(classes=3), victim_of(3)
    logits = ((data.images - 0.5) / 0.25).flatten(1) @ victim.network.weight.detach().T
    least = [min((k for k in range(3) if k != t), key=lambda k: row[k]) for row, t in zip(logits, data.targets)]
    expected = {"next": [(int(t) + 1) % 3 for t in data.targets], "least_likely": least}
    assert expected["next"] != least  # else one kind would pass for the other

    for goals, wanted in expected.items():
        attacks = {"aimed": FGSM(epsilon=0.1, targeted=True), "free": FGSM(epsilon=0.1)}
        heard = hear(Robustness(attacks, goals=goals, controls=False), data, victim)
        aimed = [batch for batch in heard.batches if batch.planned.name == "aimed"]
        assert torch.cat([batch.goals for batch in aimed]).tolist() == wanted
        assert all(batch.goals is None for batch in heard.batches if batch.planned.name == "free")
        reached = torch.cat([batch.adversarial_outputs.argmax(1) for batch in aimed])
        assert torch.cat([batch.success for batch in aimed]).tolist() == (reached == torch.tensor(wanted)).tolist()
        assert 0 < sum(row["success"] for row in heard.rows("aimed").values())


def test_a_random_goal_is_another_class_and_depends_on_the_image_alone() -> None:
    def goals(data: Items) -> dict[str, int]:
        heard = hear(Robustness({"aimed": FGSM(targeted=True)}, goals="random", controls=False), data)
        return {id: int(goal) for b in heard.batches for id, goal in zip(b.ids, b.goals, strict=True)}

    data = Items(classes=3)
    found, backwards = goals(data), Items(classes=3, batch_size=4)
    for name in ("images", "targets"):
        setattr(backwards, name, getattr(backwards, name).flip(0))
    backwards.ids.reverse()

    assert found == goals(backwards)
    assert all(found[id] != target for id, target in zip(data.ids, data.targets.tolist(), strict=True))
    ahead = {(found[id] - target) % 3 for id, target in zip(data.ids, data.targets.tolist(), strict=True)}
    assert ahead == {1, 2}  # drawn, not always the next


def test_all_listeners_hear_the_same_batches_once_with_fields_that_agree() -> None:
    first, last, data = Heard(), Heard(), Items(classes=3)
    attacks = {"pgd": PGD(epsilon=0.05, steps=3), "aimed": MIM(epsilon=0.05, steps=3, targeted=True)}
    victim = victim_of(3)
    trainer_of(first, Robustness(attacks), last).test(victim, data, verbose=False)

    assert [id(batch) for batch in first.batches] == [id(batch) for batch in last.batches]
    assert len(first.batches) == 3 * math.ceil(COUNT / data.batch_size)
    places = {id: place for place, id in enumerate(data.ids)}
    victim.eval()
    for batch in first.batches:
        rows = [places[id] for id in batch.ids]
        assert torch.equal(batch.clean, data.images[rows]) and torch.equal(batch.targets, data.targets[rows])
        assert batch.plan is first.plans[0] and batch.planned in batch.plan.attacks
        with torch.no_grad():
            torch.testing.assert_close(batch.clean_outputs, victim(batch.clean))
            torch.testing.assert_close(batch.adversarial_outputs, victim(batch.adversarial))
        right_before = batch.clean_outputs.argmax(1) == batch.targets
        right_after = batch.adversarial_outputs.argmax(1) == batch.targets
        assert torch.equal(batch.correct_before, right_before) and torch.equal(batch.correct_after, right_after)
        reached = ~right_after if batch.goals is None else batch.adversarial_outputs.argmax(1) == batch.goals
        assert torch.equal(batch.success, reached)
        steps = {"pgd": 3, "aimed": 3, "noise": 0}[batch.planned.name]
        assert batch.backwards.tolist() == [steps] * len(rows)
        assert batch.adversarial.min() >= 0 and batch.adversarial.max() <= 1
        assert (batch.adversarial - batch.clean).abs().max() <= batch.planned.epsilon + 1e-6
        tensors = [value for value in vars(batch).values() if isinstance(value, Tensor)]
        assert not any(tensor.is_inference() or tensor.requires_grad for tensor in tensors)


def test_an_attack_more_changes_no_record_of_the_first() -> None:
    attack = PGD(epsilon=0.03, steps=3)
    alone = hear(Robustness({"pgd": attack}))
    others = {"dim": DIM(epsilon=0.03, steps=2), "pgd": attack, "cw": CWLinf(epsilon=0.03, steps=2)}
    together = hear(Robustness(others))

    for name in ("pgd", "noise"):
        one, other = alone.rows(name), together.rows(name)
        assert one and same(one, other)
        assert all(torch.equal(one[place]["adversarial"], other[place]["adversarial"]) for place in one)


def test_the_batch_size_changes_no_judgement_and_no_norm() -> None:
    attacks = {"pgd": PGD(epsilon=0.03, steps=3), "dim": DIM(epsilon=0.03, steps=3, stop_when_fooled=True)}
    reference = hear(Robustness(attacks), Items(batch_size=7)).rows()

    assert 0 < sum(row["success"] and row["correct_before"] for row in reference.values()) < len(reference)
    for batch_size in (1, 64):
        assert same(reference, hear(Robustness(attacks), Items(batch_size=batch_size)).rows())


def test_ids_that_a_listener_calls_done_are_not_attacked(crafted: list[tuple[str, int]]) -> None:
    class Done(Callback):
        def on_evaluation_start(self, trainer: Any, victim: Any, plan: EvaluationPlan) -> None:
            fgsm, bim = plan.attacks
            plan.done[fgsm.key] = {f"image-{place}" for place in range(COUNT)} - {"image-3", "image-20"}
            plan.done[bim.key] = {f"image-{place}" for place in range(COUNT)}

    heard = Heard()
    robustness = Robustness({"fgsm": FGSM(), "bim": BIM(steps=2)}, controls=False)
    trainer_of(Done(), robustness, heard).test(victim_of(), Items(), verbose=False)

    assert sorted(id for _, _, id in heard.rows()) == ["image-20", "image-3"]
    assert crafted == [("FGSM", 1), ("FGSM", 1)]
    whole = hear(Robustness({"fgsm": FGSM()}, controls=False)).rows()
    assert same(heard.rows(), {place: whole[place] for place in heard.rows()})


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

    watch, victim = Watch(), victim_of()
    trainer_of(watch, Robustness({"pgd": PGD(steps=2)}), watch).test(victim, Items(), verbose=False)

    assert len(watch.seen) > 2 and all(state == watch.seen[0] for state in watch.seen)


@pytest.mark.parametrize("when", ["clean", "adversarial"])
def test_outputs_that_are_no_numbers_give_one_sentence_naming_the_image(when: str) -> None:
    class Breaks(Linear):
        def forward(self, images: Tensor) -> Tensor:
            pixel = 0.5 + 0.25 * images[:, :, 0, 0]
            bad = (pixel - 0.25).abs() < 1e-6 if when == "clean" else ((pixel - 0.25).abs() - 0.02).abs() < 1e-6
            return super().forward(images) / (~bad).float()

    data, victim = Items(), victim_of()
    data.images[10, :, 0, 0], victim.network = 0.25, Breaks(2)
    with pytest.raises(ValueError, match=r"not finite.*image-10") as error:
        hear(Robustness({"fgsm": FGSM(epsilon=0.02)}, controls=False), data, victim)
    assert "\n" not in str(error.value) and ("fgsm" in str(error.value)) == (when == "adversarial")


def test_an_evaluation_without_a_data_module_is_refused() -> None:
    with pytest.raises(ValueError, match="data module"):
        trainer_of(Robustness({"fgsm": FGSM()})).test(victim_of(), Items().loader(), verbose=False)


class Sanity(Callback):
    """Notes what had been crafted when the sanity check ended."""

    def __init__(self, crafted: list[tuple[str, int]]) -> None:
        self.crafted, self.batches, self.before = crafted, 0, -1

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.batches += trainer.sanity_checking

    def on_sanity_check_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.before = len(self.crafted)


def fitted(seed: int, *callbacks: Callback, epochs: int = 2) -> tuple[pl.Trainer, Classifier]:
    """A victim with BatchNorm and dropout, fine-tuned on the items."""
    pl.seed_everything(seed)
    victim = Classifier("resnet10t", channels=1, head="dense", label_smoothing=0.1)
    trainer = trainer_of(*callbacks, max_epochs=epochs, num_sanity_val_steps=2)
    trainer.fit(victim, Items())
    return trainer, victim


def test_in_fit_the_first_batches_of_each_epoch_are_attacked_and_the_training_is_the_same_to_the_last_bit(
    crafted: list[tuple[str, int]],
) -> None:
    attacks = {"fgsm": FGSM(epsilon=0.02), "pgd": PGD(epsilon=0.02, steps=2), "aimed": MIM(steps=1, targeted=True)}
    heard, sanity = Heard(), Sanity(crafted)
    robustness = Robustness(attacks, epsilons=[0.1], fit_batches=2, goals="random")
    trainer, victim = fitted(3, robustness, heard, sanity)
    watched = list(crafted)
    _, alone = fitted(3)

    assert sanity.batches == 2 and sanity.before == 0
    assert watched == [("FGSM", 7), ("PGD", 7), ("MIM", 7)] * 2 * 2  # two batches of two epochs
    assert not heard.batches and not heard.plans and not heard.ended
    for (name, with_attacks), without in zip(victim.state_dict().items(), alone.state_dict().values(), strict=True):
        assert torch.equal(with_attacks, without), name
    data, right = Items(), dict.fromkeys(attacks, 0)
    batches = list(data.loader())[:2]
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


def test_the_progress_bar_says_which_attack_is_at_work(capfd: pytest.CaptureFixture[str]) -> None:
    bar, shown, attacks = AttackProgress(), [], {"fgsm": FGSM(epsilon=0.02), "bim": BIM(epsilon=0.02, steps=2)}

    class Look(Callback):
        def on_attack_start(self, trainer: Any, planned: PlannedAttack, plan: EvaluationPlan) -> None:
            shown.append(bar.test_progress_bar.postfix)

    trainer_of(Robustness(attacks), bar, Look(), enable_progress_bar=True).test(victim_of(), Items(), verbose=False)
    assert shown == ["noise 0.02 (1/3)", "fgsm 0.02 (2/3)", "bim 0.02 (3/3)"] * 4
    printed = capfd.readouterr()
    assert "bim 0.02 (3/3)" in printed.out + printed.err


@pytest.mark.parametrize(("run", "shown"), [("validate", "fgsm 0.02 (2/2)"), ("fit", "robustness/fgsm=")])
def test_the_progress_bar_runs_in_every_stage(run: str, shown: str, capfd: pytest.CaptureFixture[str]) -> None:
    bar = AttackProgress(refresh_rate=1)
    robustness = Robustness({"fgsm": FGSM(epsilon=0.02)}, fit_batches=1)
    trainer = trainer_of(robustness, bar, enable_progress_bar=True, max_epochs=1)
    call: Callable[..., Any] = getattr(trainer, run)
    call(victim_of(), datamodule=Items())

    assert "v_num" not in str(trainer.progress_bar_metrics)
    printed = capfd.readouterr()
    assert shown in printed.out + printed.err


def test_a_progress_bar_that_is_off_stays_silent(capfd: pytest.CaptureFixture[str]) -> None:
    robustness = Robustness({"fgsm": FGSM()})
    trainer_of(robustness, AttackProgress(refresh_rate=0), enable_progress_bar=True).test(
        victim_of(), Items(), verbose=False
    )
    printed = capfd.readouterr()
    assert "fgsm" not in printed.out + printed.err
