"""Attacks on the deployment copy, judged by the victim itself, and other victims that look on."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks import AdversarialBatch, RecordJournal, Robustness, Transfer
from lightning_modules import Classifier
from medrobust.attacks import BIM, FAB, PGD, AdvSBF, Attack, DeepFool
from medrobust.evaluation.deployment import Deployment, check_precision, judging, layers_read
from medrobust.evaluation.plan import PlannedAttack, expand
from medrobust.networks.deployment import BFloat16, DeployedNetwork
from medrobust.networks.features import tapped
from medrobust.objectives import CrossEntropy, Margin, Objective, Step
from medrobust.results.records import merge
from medrobust.results.summary import write_summary

COUNT, SIDE = 6, 32


class Items(pl.LightningDataModule):
    """Random images with known targets."""

    test_split, num_classes, channels = "adv_test", 2, 1

    def __init__(self) -> None:
        super().__init__()
        images = torch.rand(COUNT, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(5))
        self.items = [{"image": image, "target": place % 2, "id": f"{place}"} for place, image in enumerate(images)]
        self.splits = {"adv_test": [SimpleNamespace(id=item["id"], target=item["target"]) for item in self.items]}

    def fingerprint(self, split: str) -> str:
        return split

    def describe(self) -> dict[str, Any]:
        return {"name": "items", "image_size": SIDE, "channels": 1}

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        return DataLoader(self.items, batch_size=4)  # type: ignore[arg-type]


class Watch(Callback):
    """Keeps the batches and adds columns of its own."""

    def __init__(self) -> None:
        self.batches: list[AdversarialBatch] = []

    def on_adversarial_batch(self, trainer: pl.Trainer, victim: Any, batch: AdversarialBatch) -> None:
        self.batches.append(batch)
        batch.columns["kind"] = torch.full((len(batch.ids),), float("nan"))
        batch.columns["place"] = torch.arange(len(batch.ids)).double()


class Reads(Objective):
    """Cross-entropy that also reads layers, and remembers what network it was given."""

    seen: list[type]

    def __init__(self, *layers: str) -> None:
        self.names, self.seen = layers, []

    @property
    def layers(self) -> tuple[str, ...]:
        return self.names

    def __call__(self, step: Step) -> Tensor:
        self.seen.append(type(step.victim.network))  # type: ignore[attr-defined]
        assert all(tap.isfinite().all() for tap in step.features.values())
        return CrossEntropy()(step)


def victim_of(seed: int = 0, **changes: Any) -> Classifier:
    """An untrained classifier with BatchNorms that are not the identity."""
    torch.manual_seed(seed)
    victim = Classifier(**{"backbone": "resnet10t", "channels": 1, **changes})
    for module in victim.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return victim.eval()


def evaluate(victim: Classifier, attacks: dict[str, Attack], *callbacks: Callback, **options: Any) -> None:
    """Attack in the test loop."""
    silent = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False)
    robustness = Robustness(attacks, **options)
    trainer = pl.Trainer(**silent, accelerator="cpu", devices=1, callbacks=[robustness, *callbacks])
    trainer.test(victim, Items(), verbose=False)


@pytest.mark.parametrize(("deployment", "kind"), [(True, DeployedNetwork), (False, nn.Module)])
def test_the_attack_meets_the_copy_and_the_victim_keeps_its_own_network(deployment: bool, kind: type) -> None:
    victim, objective = victim_of(), Reads()
    network, state = victim.network, {name: value.clone() for name, value in victim.state_dict().items()}
    watch = Watch()
    attacks: dict[str, Attack] = {"bim": BIM(epsilon=0.05, steps=2, objective=objective)}
    evaluate(victim, attacks, watch, controls=False, deployment=deployment)
    assert len(objective.seen) == 4  # 2 batches, 2 steps
    assert all(issubclass(one, DeployedNetwork) == deployment for one in objective.seen)
    assert all(issubclass(one, kind) for one in objective.seen)
    assert victim.network is network
    assert state.keys() == victim.state_dict().keys()
    assert all(torch.equal(value, victim.state_dict()[name]) for name, value in state.items())
    with torch.no_grad():
        for batch in watch.batches:
            torch.testing.assert_close(batch.adversarial_outputs, victim(batch.adversarial))


def test_the_copy_gives_the_same_adversarial_images_but_for_rounding() -> None:
    made = []
    for deployment in (True, False):
        watch = Watch()
        evaluate(victim_of(), {"pgd": PGD(epsilon=0.05, steps=3)}, watch, controls=False, deployment=deployment)
        made.append(torch.cat([batch.adversarial for batch in watch.batches]))
    differing = (made[0] - made[1]).abs() > 1e-5
    assert float(differing.double().mean()) < 0.01


def test_an_attack_that_reads_a_folded_layer_gets_the_network_itself() -> None:
    victim = victim_of()
    folded, plain = Reads("layer1.0.conv1"), Reads("layer1.0.act1")
    attacks: dict[str, Attack] = {
        "folded": BIM(epsilon=0.05, steps=1, objective=folded),
        "plain": BIM(epsilon=0.05, steps=1, objective=CrossEntropy() + 0.5 * plain),
    }
    evaluate(victim, attacks, controls=False)
    assert not any(issubclass(one, DeployedNetwork) for one in folded.seen)
    assert all(issubclass(one, DeployedNetwork) for one in plain.seen)
    assert sorted(layers_read(attacks["plain"])) == ["layer1.0.act1"]


def test_taps_of_the_copy_are_those_of_the_network_and_folded_layers_are_refused() -> None:
    victim = victim_of()
    images = torch.rand(3, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    layers = ["layer1.0.act1", "layer2.0.bn2", "layer4.0.act2"]
    deployment, attack = Deployment(), BIM()
    with torch.no_grad():
        outputs, expected = victim.features(images, layers)
        with deployment.used(victim, attack, images):
            assert isinstance(victim.network, DeployedNetwork)
            copied, found = victim.features(images, layers)
            with pytest.raises(ValueError, match="does not compute what it did"), tapped(victim.network, ["conv1.0"]):
                pass
    torch.testing.assert_close(copied, outputs, rtol=1e-4, atol=1e-4)
    for layer in layers:
        torch.testing.assert_close(found[layer], expected[layer], rtol=1e-4, atol=1e-4)


def test_the_network_is_given_back_after_an_exception() -> None:
    victim, images = victim_of(), torch.rand(2, 1, SIDE, SIDE)
    network = victim.network
    with pytest.raises(RuntimeError, match="stop"), Deployment().used(victim, BIM(), images):
        assert victim.network is not network
        raise RuntimeError("stop")
    assert victim.network is network


def test_bf16_is_refused_on_a_cpu_with_the_reason() -> None:
    with pytest.raises(ValueError, match="13 to 15 times slower"):
        evaluate(victim_of(), {"bim": BIM(steps=1)}, precision="bf16")
    check_precision("bf16", torch.device("cuda"))
    check_precision(32, torch.device("cpu"))
    with pytest.raises(ValueError, match="32 or bf16, got 16"):
        Robustness({}, precision=16)  # type: ignore[arg-type]


def test_bf16_changes_the_key_and_gives_float32_outputs() -> None:
    assert Deployment(precision="bf16").identity() == {"precision": "bf16"}
    assert Deployment().identity() == {}
    victim, images = victim_of(), torch.rand(2, 1, SIDE, SIDE)
    with Deployment(precision="bf16").used(victim, BIM(), images):
        assert isinstance(victim.network, BFloat16)
        outputs = victim(images)
    assert outputs.dtype == torch.float32
    assert 0 < float((outputs - victim(images)).abs().max()) < 0.1


def test_columns_of_listeners_reach_the_records(tmp_path: Path) -> None:
    evaluate(victim_of(), {"bim": BIM(epsilon=0.05, steps=3)}, RecordJournal(str(tmp_path), "run"), Watch())
    records = merge(tmp_path)
    assert records["kind"].null_count() == len(records) == 2 * COUNT
    assert sorted(records.filter(attack="bim")["place"].to_list()) == [0, 0, 1, 1, 2, 3]
    bim, noise = records.filter(attack="bim"), records.filter(attack="noise")
    assert bim["cos"].null_count() == 0
    assert noise["cos"].null_count() == COUNT
    assert all(0 < var <= 1 for var in bim["var"])
    assert noise["var"].to_list() == pytest.approx([1 / 3] * COUNT, abs=0.06)  # of uniform numbers in [-1, 1]


def test_judges_say_what_they_make_of_the_images(tmp_path: Path, run_of: Any) -> None:
    victim, other = victim_of(0), victim_of(1, backbone="resnet18", mean=0.4, std=0.3)
    judges = {"same": run_of(tmp_path / "a", victim), "other": run_of(tmp_path / "b", other)}
    watch = Watch()
    attacks: dict[str, Attack] = {"bim": BIM(epsilon=0.2, steps=3), "aim": BIM(epsilon=0.2, steps=3, targeted=True)}
    evaluate(victim, attacks, Transfer(judges), RecordJournal(str(tmp_path / "e"), "run"), watch, controls=False)
    records, summary = merge(tmp_path / "e"), write_summary(tmp_path / "e")
    other.eval()
    for batch in watch.batches:
        aims = batch.targets if batch.goals is None else batch.goals
        with torch.no_grad():
            before, after = (other(images).argmax(1) for images in (batch.clean, batch.adversarial))
        assert batch.columns["judge_other_before"].tolist() == (before == batch.targets).tolist()
        assert batch.columns["judge_other_after"].tolist() == (after == batch.targets).tolist()
        reached = after == aims if batch.goals is not None else after != aims
        assert batch.columns["judge_other_success"].tolist() == reached.tolist()
    for row in summary["rows"][1:]:
        assert row["transfer"]["same"]["same_weights"]
        assert row["transfer"]["same"]["success_rate"] == row["success_rate"]
        assert not row["transfer"]["other"]["same_weights"]
    assert records["judge_same_after"].to_list() == records["correct_after"].to_list()


def test_other_judges_are_other_records(tmp_path: Path, run_of: Any) -> None:
    victim, journal = victim_of(), str(tmp_path / "e")
    judges = {"a": run_of(tmp_path / "a", victim_of(1))}
    evaluate(victim, {"bim": BIM(steps=1)}, RecordJournal(journal, "run"), controls=False)
    evaluate(victim, {"bim": BIM(steps=1)}, RecordJournal(journal, "run"), Transfer(judges), controls=False)
    assert merge(tmp_path / "e")["judge_a_after"].null_count() == 0


@pytest.mark.parametrize(
    ("judge", "words"),
    [
        ("nowhere", "there is no checkpoint .*nowhere"),
        ("torn", "not a checkpoint that train.py wrote"),
        ("three", "num_classes 3, the victim 2"),
    ],
)
def test_judges_that_cannot_be_had_get_one_sentence(judge: str, words: str, tmp_path: Path, run_of: Any) -> None:
    (tmp_path / "torn").write_bytes(b"no checkpoint")
    run_of(tmp_path / "three", victim_of(num_classes=3))
    with pytest.raises(ValueError, match=words):
        evaluate(victim_of(), {"bim": BIM(steps=1)}, Transfer({"x": str(tmp_path / judge)}))
    with pytest.raises(ValueError, match="letters, digits"):
        Transfer({"a b": "x"})


def test_a_judge_from_a_checkpoint_is_the_victim_that_was_saved(tmp_path: Path, run_of: Any) -> None:
    victim = victim_of(3, mean=0.3, std=0.7, head="dense")
    again = Classifier.from_checkpoint(Path(run_of(tmp_path / "v", victim)) / "checkpoints" / "best.ckpt").eval()
    images = torch.rand(2, 1, SIDE, SIDE)
    torch.testing.assert_close(again(images), victim(images))
    assert math.isclose(float(again.mean), 0.3, rel_tol=1e-6)


def test_an_attack_without_a_bound_stays_so_in_a_sweep_and_is_to_fool_everything() -> None:
    attacks: dict[str, Attack] = {"fab": FAB(), "bounded": FAB(epsilon=0.1), "deepfool": DeepFool(), "sbf": AdvSBF()}
    laid_out = expand(attacks, [0.1, 0.2], controls=False)
    assert [(name, getattr(attack, "epsilon", None)) for name, attack in laid_out] == [
        ("fab", None),
        ("bounded", 0.1),
        ("bounded", 0.2),
        ("deepfool", None),
        ("sbf", None),
    ]
    entries = [PlannedAttack(name, attack, None, "", False).entry() for name, attack in laid_out]
    assert [entry["minimal"] for entry in entries] == [True, False, False, True, False]
    assert [entry["norm"] for entry in entries] == ["linf", "linf", "linf", "l2", "none"]


@pytest.mark.parametrize("backbone", ["mobilenetv2_100", "densenet121"])
def test_activations_inside_a_folded_norm_keep_their_names(backbone: str) -> None:
    victim = victim_of(backbone=backbone)
    images = torch.rand(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    layers = [name for name, module in victim.network.named_modules() if name.endswith("act")][:3]
    with torch.no_grad():
        _, expected = victim.features(images, layers)
        with Deployment().used(victim, BIM(), images):
            _, found = victim.features(images, layers)
    assert len(layers) == 3
    for layer in layers:
        torch.testing.assert_close(found[layer], expected[layer], rtol=1e-4, atol=1e-4)


def test_judging_keeps_torchs_settings_whatever_they_are() -> None:
    victim = victim_of()
    if hasattr(torch.backends.cudnn, "conv"):
        places = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.mkldnn.matmul)
        kept = torch.backends.mkldnn.matmul.fp32_precision
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        before = [place.fp32_precision for place in places]
        with judging(victim):
            assert [place.fp32_precision for place in places] == ["ieee"] * 3
        assert [place.fp32_precision for place in places] == before
        torch.backends.mkldnn.matmul.fp32_precision = kept


def test_an_endless_kappa_is_a_parameter_like_any_other() -> None:
    assert BIM(objective=Margin(math.inf)).parameters()["objective"] == {"class": "Margin", "kappa": "inf"}
