"""Attacks on the deployment copy, judged by the victim itself."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_modules import Classifier
from medrobust.attacks import BIM, PGD, Attack
from medrobust.evaluation.deployment import Deployment, check_precision, judging, layers_read
from medrobust.networks.deployment import BFloat16, DeployedNetwork
from medrobust.networks.features import tapped
from medrobust.objectives import CrossEntropy, Objective, Step
from tests import recording
from tests.in_lightning import random_resnet
from tests.in_memory import InMemoryData, random_split
from tests.recording import Recorder

SIDE = 32


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


def victim_of(**changes: Any) -> Classifier:
    """An untrained classifier with BatchNorms that are not the identity."""
    return random_resnet(**changes)


def evaluate(victim: Any, attacks: dict[str, Attack], **options: Any) -> Recorder:
    """Evaluate in a plain loop, and record."""
    return recording.evaluate(victim, InMemoryData({"adv_test": random_split(6, side=SIDE)}), attacks, **options)


@pytest.mark.parametrize(("deployment", "kind"), [(True, DeployedNetwork), (False, nn.Module)])
def test_the_attack_meets_the_copy_and_the_victim_keeps_its_own_network(deployment: bool, kind: type) -> None:
    victim, objective = victim_of(), Reads()
    network, state = victim.network, {name: value.clone() for name, value in victim.state_dict().items()}
    attacks: dict[str, Attack] = {"bim": BIM(epsilon=0.05, steps=2, objective=objective)}
    recorder = evaluate(victim, attacks, deployment=deployment)
    assert len(objective.seen) == 4  # 2 batches, 2 steps
    assert all(issubclass(one, DeployedNetwork) == deployment for one in objective.seen)
    assert all(issubclass(one, kind) for one in objective.seen)
    assert victim.network is network
    assert state.keys() == victim.state_dict().keys()
    assert all(torch.equal(value, victim.state_dict()[name]) for name, value in state.items())
    with torch.no_grad():
        for batch in recorder.batches:
            torch.testing.assert_close(batch.adversarial_outputs, victim(batch.adversarial))


def test_the_copy_gives_the_same_adversarial_images_except_for_rounding() -> None:
    made = []
    for deployment in (True, False):
        recorder = evaluate(victim_of(), {"pgd": PGD(epsilon=0.05, steps=3)}, deployment=deployment)
        made.append(recorder.of("pgd", "adversarial"))
    differing = (made[0] - made[1]).abs() > 1e-5
    assert float(differing.double().mean()) < 0.01


def test_an_attack_that_reads_a_folded_layer_gets_the_network_itself() -> None:
    victim = victim_of()
    folded, plain = Reads("layer1.0.conv1"), Reads("layer1.0.act1")
    attacks: dict[str, Attack] = {
        "folded": BIM(epsilon=0.05, steps=1, objective=folded),
        "plain": BIM(epsilon=0.05, steps=1, objective=CrossEntropy() + 0.5 * plain),
    }
    evaluate(victim, attacks)
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
        Deployment(precision=16)  # type: ignore[arg-type]


def test_bf16_changes_the_key_and_gives_float32_outputs() -> None:
    assert Deployment(precision="bf16").identity() == {"precision": "bf16"}
    assert Deployment().identity() == {}
    victim, images = victim_of(), torch.rand(2, 1, SIDE, SIDE)
    with torch.no_grad(), Deployment(precision="bf16").used(victim, BIM(), images):
        assert isinstance(victim.network, BFloat16)
        outputs = victim(images)
    assert outputs.dtype == torch.float32
    assert 0 < float((outputs - victim(images)).abs().max().detach()) < 0.1


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


def test_judging_freezes_the_victim_and_records_no_gradients() -> None:
    victim = victim_of().train()
    with judging(victim):
        assert not victim.training and not torch.is_grad_enabled()
        assert not any(parameter.requires_grad for parameter in victim.parameters())
    assert victim.training and torch.is_grad_enabled()
