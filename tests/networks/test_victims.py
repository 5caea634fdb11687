"""Victims: protected while attacked, wrapped from plain modules, and read through taps."""

import inspect
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medrobust.attacks import BIM, DIM, FGSM, MIM, PGD, SignGradient, UniformNoise
from medrobust.networks import (
    Outcome,
    Victim,
    WrappedClassifier,
    as_victim,
    class_outcome,
    frozen,
    is_evaluated_victim,
    is_stored_victim,
    victims,
)
from medrobust.networks.features import pooled, tapped
from medrobust.objectives import CrossEntropy

ATTACKS = [FGSM(), BIM(steps=2), PGD(steps=2), MIM(steps=2), DIM(steps=2, stop_when_fooled=True), UniformNoise()]


def state(victim: nn.Module) -> dict[str, Any]:
    """All that an attack must leave: modes, flags, gradients (as objects and by value), weights and buffers."""
    return {
        "modes": [module.training for module in victim.modules()],
        "flags": [parameter.requires_grad for parameter in victim.parameters()],
        "gradients": [(id(p.grad), None if p.grad is None else p.grad.clone()) for p in victim.parameters()],
        "parameters": [(id(p), p.detach().clone()) for p in victim.parameters()],
        "buffers": [(name, id(b), b.clone()) for name, b in victim.named_buffers()],
        "hooks": sum(len(module._forward_hooks) for module in victim.modules()),
    }


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(equal(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def mixed(net: nn.Module) -> nn.Module:
    """A victim in training, with one BatchNorm left in eval, one weight frozen and gradients half way."""
    net.train()
    net[1].eval()
    net[3].weight.requires_grad_(False)
    net[0].weight.grad = torch.full_like(net[0].weight, 0.25)
    return net


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: type(a).__name__)
def test_modes_flags_gradients_and_buffers_are_left_as_they_were(attack: Any, conv_net: Any, images_of: Any) -> None:
    victim = as_victim(mixed(conv_net()))
    before = state(victim)
    attack(victim, images_of(4, 3), torch.arange(4) % 3)
    after = state(victim)
    for key, value in before.items():
        assert equal(value, after[key]), key
    assert victim.network[0].training
    assert not victim.network[1].training


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: type(a).__name__)
def test_a_victim_in_training_is_attacked_in_eval_mode(attack: Any, conv_net: Any, images_of: Any) -> None:
    images, targets = images_of(4, 3), torch.arange(4) % 3
    in_eval = attack(as_victim(conv_net().eval()).eval(), images, targets)
    in_training = attack(as_victim(mixed(conv_net())), images, targets)
    assert torch.equal(in_eval.images, in_training.images)
    assert torch.equal(in_eval.success, in_training.success)


@pytest.mark.parametrize("call", [1, 2, 3])
def test_after_an_exception_the_victim_is_as_it_was(
    call: int, conv_net: Any, raises_at_call: Any, images_of: Any
) -> None:
    victim = raises_at_call(mixed(conv_net()), call)
    before = state(victim)
    with pytest.raises(RuntimeError, match="the victim fell over"):
        BIM(steps=2)(victim, images_of(2, 3), torch.tensor([0, 1]))
    after = state(victim)
    for key, value in before.items():
        assert equal(value, after[key]), key


class Restless(nn.Module):
    """Changes its buffers in eval mode too: one in place, one by assignment, one from None, one to another shape."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.register_buffer("counted", torch.zeros(()))
        self.register_buffer("assigned", torch.zeros(2))
        self.register_buffer("cache", None)

    def forward(self, images: Tensor) -> Tensor:
        self.counted += 1
        self.assigned = self.assigned + 1
        return self.linear(images.flatten(1))


class Caching(Restless):
    """Also fills a buffer that was None."""

    def forward(self, images: Tensor) -> Tensor:
        self.cache = images.detach().mean(0)
        return super().forward(images)


def test_buffers_that_change_in_eval_mode_are_put_back_as_the_same_objects() -> None:
    module = Restless()
    victim, kept = as_victim(module), (module.counted, module.assigned)
    BIM(steps=2)(victim, torch.rand(2, 1, 2, 2), torch.tensor([0, 1]))
    assert module.counted is kept[0]
    assert module.assigned is kept[1]
    assert module.counted == 0
    assert module.assigned.tolist() == [0, 0]


def test_a_buffer_that_was_none_is_none_again() -> None:
    module = Caching()
    BIM(steps=2)(as_victim(module), torch.rand(2, 1, 2, 2), torch.tensor([0, 1]))
    assert module.cache is None


def test_frozen_holds_the_victim_in_eval_mode_without_weight_gradients(conv_net: Any) -> None:
    net = mixed(conv_net())
    with frozen(net):
        assert not any(module.training for module in net.modules())
        assert not any(parameter.requires_grad for parameter in net.parameters())
    assert net.training


def test_frozen_puts_gradients_back_that_were_replaced_meanwhile(conv_net: Any) -> None:
    """An attack that calls ``backward`` or ``zero_grad`` must not reach the caller's half-made gradients."""
    net = mixed(conv_net())
    half_way = net[0].weight.grad
    with frozen(net):
        net.zero_grad(set_to_none=True)
        net[9].weight.grad = torch.ones_like(net[9].weight)
    assert net[0].weight.grad is half_way
    assert bool((half_way == 0.25).all())
    assert net[9].weight.grad is None


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference_mode"])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: type(a).__name__)
def test_an_attack_works_where_the_caller_records_no_gradients(
    attack: Any, context: Any, conv_net: Any, images_of: Any
) -> None:
    expected = attack(as_victim(conv_net()), images_of(4, 3), torch.arange(4) % 3)
    victim = as_victim(mixed(conv_net()))
    before = state(victim)
    with context():
        images, targets = images_of(4, 3), torch.arange(4) % 3
        attacked = attack(victim, images, targets)
        assert torch.is_inference_mode_enabled() == (context is torch.inference_mode)
        assert not torch.is_grad_enabled()
    assert torch.equal(attacked.images, expected.images)
    assert torch.equal(attacked.success, expected.success)
    assert not attacked.images.requires_grad
    assert not attacked.images.is_inference()
    after = state(victim)
    for key, value in before.items():
        assert equal(value, after[key]), key


def test_boxes_made_in_inference_mode_can_be_attacked() -> None:
    """Boxes arrive as inference tensors too, and a loss that multiplies by them needs to save them."""

    class Product(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean((1, 2, 3))

        def loss(self, images: Tensor, targets: Any) -> Tensor:
            return torch.stack([(mean * t["boxes"]).sum() for mean, t in zip(self(images), targets, strict=True)])

        def outcome(self, outputs: Tensor, targets: Any) -> Outcome:
            return Outcome(outputs <= 0.55, outputs)

        def features(self, images: Tensor, layers: Any) -> Any:
            return self(images), {}

    with torch.inference_mode():
        images = torch.full((2, 1, 4, 4), 0.5)
        boxes = [{"boxes": torch.tensor([[0.0, 0.0, 2.0, 2.0]]), "labels": torch.tensor([1])} for _ in range(2)]
        attacked = BIM(epsilon=0.1)(Product(), images, boxes)
    torch.testing.assert_close(attacked.images, torch.full((2, 1, 4, 4), 0.6))


def test_a_victim_wrapped_in_inference_mode_can_be_attacked(conv_net: Any, images_of: Any) -> None:
    """Its mean and std are inference tensors, which no graph may save and nothing may write outside that mode."""
    net = conv_net()
    expected = FGSM()(as_victim(net, 0.4, 0.3), images_of(4, 3), torch.arange(4) % 3).images
    with torch.inference_mode():
        victim = as_victim(net, 0.4, 0.3)
        made = FGSM()(victim, images_of(4, 3), torch.arange(4) % 3).images
    assert torch.equal(made, expected)


def test_the_wrapper_normalises_inside(conv_net: Any, images_of: Any) -> None:
    net, images = conv_net().eval(), images_of(4, 3)
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.25, 2.0]
    by_hand = torch.stack([(images[:, c] - mean[c]) / std[c] for c in range(3)], 1)
    victim = as_victim(net, mean, std).eval()
    torch.testing.assert_close(victim(images), net(by_hand))
    torch.testing.assert_close(as_victim(net)(images), net(images))
    torch.testing.assert_close(as_victim(net, 0.5, 0.5)(images), net(2 * images - 1))
    losses = nn.functional.cross_entropy(net(by_hand), torch.arange(4) % 3, reduction="none")
    torch.testing.assert_close(victim.loss(images, torch.arange(4) % 3), losses)
    assert torch.equal(victim.outcome(torch.eye(3), torch.tensor([0, 2, 2])).right, torch.tensor([True, False, True]))
    assert isinstance(victim, Victim)


def test_the_outcome_of_logits_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0, math.log(2)], [math.log(3), 0.0, 0.0], [0.0, math.log(8), 0.0]])
    outcome = class_outcome(logits, torch.tensor([2, 1, 1]))
    assert outcome.right.tolist() == [True, False, True]
    assert outcome.prediction.tolist() == [2, 0, 1]
    assert outcome.quality.tolist() == pytest.approx([2 / 4, 1 / 5, 8 / 10])
    assert outcome.confidence.tolist() == pytest.approx([2 / 4, 3 / 5, 8 / 10])
    assert class_outcome(logits.to(torch.bfloat16), torch.tensor([2, 1, 1])).quality.dtype == torch.float64


def test_targets_that_are_not_one_class_per_image_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one class per image \(3,\), got \(3, 2\)"):
        class_outcome(torch.eye(3), torch.zeros(3, 2, dtype=torch.long))


def test_an_outcome_of_some_images_has_their_rows_and_nothing_where_nothing_is_named() -> None:
    outcome = class_outcome(torch.eye(3), torch.tensor([0, 0, 2]))
    part = outcome[[2, 1]]
    assert part.right.tolist() == [True, False]
    assert part.prediction.tolist() == [2, 1]
    assert torch.equal(part.quality, outcome.quality[[2, 1]])
    assert torch.equal(part.confidence, outcome.confidence[[2, 1]])
    unnamed = Outcome(outcome.right, outcome.quality)[torch.tensor([False, True, True])]
    assert unnamed.right.tolist() == [False, True]
    assert unnamed.prediction is None and unnamed.confidence is None


def test_a_wrapped_classifier_can_be_evaluated_and_says_what_it_is(conv_net: Any) -> None:
    victim = as_victim(conv_net(), [0.5, 0.25, 0.125], 0.5)
    assert isinstance(victim, WrappedClassifier)
    assert is_evaluated_victim(victim)
    assert not is_stored_victim(victim)  # nothing is known of how to build it
    assert victim.description() == {
        "class": "WrappedClassifier",
        "network": "ConvNet",
        "mean": [0.5, 0.25, 0.125],
        "std": [0.5],
    }
    assert victim.layers_named(["2", "5"]) == ("2", "5")
    assert victim.state_dict().keys() == {f"network.{name}" for name in conv_net().state_dict()}


def test_what_lacks_a_network_or_a_method_cannot_be_evaluated(conv_net: Any, linear: Any) -> None:
    assert not is_evaluated_victim(conv_net())  # no victim at all
    assert isinstance(linear(), Victim) and not is_evaluated_victim(linear())
    victim = as_victim(conv_net())
    victim.renamed, _ = victim.network, victim._modules.pop("network")
    assert not is_evaluated_victim(victim)
    assert not is_evaluated_victim(None)


@pytest.mark.parametrize("protocol", [Victim, victims._EvaluatedMethods], ids=lambda protocol: protocol.__name__)
def test_what_isinstance_checks_is_found_without_the_modules_own_getattr(protocol: Any, conv_net: Any) -> None:
    """So looks Python 3.12, and submodules and buffers are not found that way."""
    victim = as_victim(conv_net())
    members = {name for base in protocol.__mro__ if base.__module__ == victims.__name__ for name in vars(base)}
    members |= set(inspect.get_annotations(protocol))
    asked = {name for name in members if not name.startswith("_")} | {"__call__"}
    assert {"loss", "outcome", "features"} <= asked
    for name in asked:
        inspect.getattr_static(victim, name)
    with pytest.raises(AttributeError):
        inspect.getattr_static(victim, "network")  # why EvaluatedVictim itself is not checked by isinstance


@pytest.mark.parametrize("std", [0.0, -1.0, [0.5, 0.0, 0.5], float("nan")], ids=str)
def test_a_deviation_that_cannot_divide_is_refused(std: Any, conv_net: Any) -> None:
    with pytest.raises(ValueError, match="std divides the images and must be positive, got"):
        as_victim(conv_net(), 0.0, std)


class Gives(nn.Module):
    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def forward(self, images: Tensor) -> Any:
        flat = images.flatten(1)
        made: dict[str, Any] = {"tuple": (flat, flat), "one logit": flat[:, :1], "maps": images, "flat": flat[:, 0]}
        return made[self.what]


@pytest.mark.parametrize(
    ("what", "received"),
    [("tuple", "tuple"), ("one logit", r"\(2, 1\)"), ("maps", r"\(2, 1, 2, 2\)"), ("flat", r"\(2,\)")],
)
def test_a_module_that_gives_no_logits_is_refused(what: str, received: str) -> None:
    with pytest.raises(
        ValueError, match=rf"classifiers that return logits \(N, K\) with K >= 2, this one returned {received}"
    ):
        FGSM()(as_victim(Gives(what)), torch.rand(2, 1, 2, 2), torch.tensor([0, 1]))


def test_features_equal_hooks_set_by_hand(conv_net: Any, images_of: Any) -> None:
    net, images = conv_net().eval(), images_of(4, 3)
    activations: dict[str, Tensor] = {}
    for layer in ("2", "5", "9"):
        net[int(layer)].register_forward_hook(lambda m, i, o, layer=layer: activations.update({layer: o.clone()}))
    outputs, features = as_victim(net, 0.2, 0.5).eval().features(images, ["2", "5", "9"])
    assert list(features) == ["2", "5", "9"]
    torch.testing.assert_close(features["2"], activations["2"].mean((2, 3)))
    torch.testing.assert_close(features["5"], activations["5"].mean((2, 3)))
    torch.testing.assert_close(features["9"], activations["9"])
    assert torch.equal(outputs, features["9"])
    assert features["2"].requires_grad


def test_taps_are_removed_also_after_an_exception_and_survive_inplace_layers(images_of: Any) -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True))
    images = images_of(2)
    before = nn.Conv2d.forward(net[0], images).mean((2, 3))
    with tapped(net, ["0"]) as taps:
        net(images)
    torch.testing.assert_close(taps["0"], before)
    with pytest.raises(RuntimeError, match="on purpose"), tapped(net, ["0", "1"]):
        raise RuntimeError("on purpose")
    assert not any(module._forward_hooks for module in net.modules())


def test_features_run_the_network_once(conv_net: Any, images_of: Any) -> None:
    net = conv_net().eval()
    calls: list[int] = []
    net.register_forward_hook(lambda *_: calls.append(1))
    as_victim(net).eval().features(images_of(2, 3), ["0", "3", "6"])
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("shape", "averaged"),
    [((2, 3), ()), ((2, 4, 3), (1,)), ((2, 3, 4, 5), (2, 3)), ((2, 3, 4, 4), (2, 3)), ((2, 4, 4, 3), (1, 2))],
    ids=["vectors", "tokens", "maps", "square maps", "maps with channels last"],
)
def test_pooling_averages_over_everything_but_the_channels(shape: tuple[int, ...], averaged: tuple[int, ...]) -> None:
    activation = torch.rand(shape)
    torch.testing.assert_close(pooled(activation), activation.mean(averaged) if averaged else activation)


def test_an_unknown_layer_is_refused_with_the_nearest_names(images_of: Any) -> None:
    net = nn.ModuleDict({"layer1": nn.Identity(), "layer2": nn.Identity(), "head": nn.Identity()})
    with (
        pytest.raises(ValueError, match="the network has no layer 'layer3'; the nearest names are ") as error,
        tapped(net, ["layer3"]),
    ):
        pass
    assert "layer1" in str(error.value)
    assert "layer2" in str(error.value)
    assert "head" not in str(error.value)
    with pytest.raises(ValueError, match="no layer ''"), tapped(net, [""]):
        pass


def test_an_unknown_layer_of_an_objective_is_refused_and_the_victim_left_alone(conv_net: Any, images_of: Any) -> None:
    class Reads(CrossEntropy):
        @property
        def layers(self) -> tuple[str, ...]:
            return ("10",)

    victim = as_victim(mixed(conv_net()))
    before = state(victim)
    with pytest.raises(ValueError, match="the network has no layer '10'"):
        SignGradient(objective=Reads())(victim, images_of(2, 3), torch.tensor([0, 1]))
    assert equal(before["modes"], state(victim)["modes"])
    assert equal(before["flags"], state(victim)["flags"])


def test_a_layer_that_returns_no_tensor_is_refused() -> None:
    class Pair(nn.Module):
        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            return images, images

    net = nn.Sequential(Pair())
    with pytest.raises(ValueError, match="layer '0' is expected to return a tensor, got tuple"), tapped(net, ["0"]):
        net(torch.zeros(1, 1, 2, 2))
