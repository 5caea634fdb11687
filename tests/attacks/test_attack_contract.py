"""What every attack promises, checked on each one that ``attacks`` exports, also on tomorrow's."""

import copy
import dataclasses
import inspect
import json
import math
import pickle
import re
from typing import Any

import pytest
import torch

from medrobust import attacks
from medrobust.attacks import Attack, Attacked, SignGradient
from medrobust.attacks.budgets import Fraction
from medrobust.networks import as_victim
from medrobust.objectives import CrossEntropy, Margin

EXPORTED = [getattr(attacks, name) for name in attacks.__all__]
ATTACKS = [cls for cls in EXPORTED if inspect.isclass(cls) and issubclass(cls, Attack) and not inspect.isabstract(cls)]
GRADIENT = [cls for cls in ATTACKS if issubclass(cls, SignGradient)]
STOPPING = [cls for cls in ATTACKS if "stop_when_fooled" in {field.name for field in dataclasses.fields(cls)}]
# attacks whose defaults cost thousands of passes, cut short here; their own tests run them in full
SHORT: dict[Any, dict[str, Any]] = {
    attacks.CWL2: {"search_steps": 3, "steps": 40},
    attacks.JSMA: {"steps": 60},
    attacks.Square: {"queries": 300},
    attacks.SquareRefinement: {"queries": 300},
    attacks.WorstCase: {"attacks": (attacks.APGD(steps=10), attacks.FAB(steps=5), attacks.Square(queries=100))},
}


def made_of(cls: Any, **fields: Any) -> Any:
    """An attack at its defaults, or cut short."""
    return cls(**SHORT.get(cls, {}) | fields)


CONFIGURED = [made_of(cls) for cls in ATTACKS] + [made_of(cls, stop_when_fooled=True) for cls in STOPPING]
each_attack = pytest.mark.parametrize("cls", ATTACKS, ids=lambda cls: cls.__name__)


def in_ball(attack: Any, images: torch.Tensor, made: torch.Tensor) -> bool:
    """Whether images are within the attack's radius, in the terms of its domain; True where it has none."""
    epsilon = getattr(attack, "epsilon", None)
    if epsilon is None:
        return True
    if getattr(attack, "domain", "pixel") == "log":
        upper = (images * math.exp(epsilon)).clamp(max=1)
        return bool((made <= upper + 1e-6).all() and (made >= images * math.exp(-epsilon) - 1e-6).all())
    return float((made - images).abs().max()) <= epsilon + 1e-6


def test_the_sign_gradient_family_is_exported() -> None:
    names = {cls.__name__ for cls in ATTACKS}
    assert names >= {"FGSM", "BIM", "PGD", "CWLinf", "MIM", "DIM", "TIM", "LogDomain", "SignGradient", "UniformNoise"}
    assert sorted(attacks.__all__) == list(attacks.__all__)


@each_attack
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("count", [1, 4])
def test_the_result_has_the_shape_type_and_range_of_the_images(
    cls: Any, count: int, dtype: torch.dtype, conv_net: Any, images_of: Any
) -> None:
    victim, images = as_victim(conv_net().to(dtype), 0.5, 0.25), images_of(count, 3).to(dtype)
    attack = made_of(cls)
    attacked = attack(victim, images, torch.arange(count) % 3)
    assert isinstance(attacked, Attacked)
    assert (attacked.images.shape, attacked.images.dtype) == (images.shape, dtype)
    assert attacked.images.device == images.device
    assert bool(attacked.images.isfinite().all())
    assert 0 <= float(attacked.images.min()) <= float(attacked.images.max()) <= 1
    assert in_ball(attack, images, attacked.images)
    assert not attacked.images.requires_grad
    assert attacked.images.data_ptr() != images.data_ptr()
    assert (attacked.success.shape, attacked.success.dtype) == ((count,), torch.bool)
    for field in (attacked.forwards, attacked.backwards, attacked.zero_gradients):
        assert (field.shape, field.dtype) == ((count,), torch.int64)
        assert bool((field >= 0).all())
    assert bool((attacked.forwards >= 1).all())
    assert bool((attacked.zero_gradients <= attacked.backwards).all())
    with torch.no_grad():
        wrong = victim.eval()(attacked.images).argmax(1) != torch.arange(count) % 3
    assert torch.equal(attacked.success, wrong)


@each_attack
def test_success_of_a_targeted_attack_is_reaching_the_goal(cls: Any, conv_net: Any, images_of: Any) -> None:
    victim, images, goals = as_victim(conv_net()), images_of(4, 3), torch.tensor([0, 1, 2, 0])
    attacked = made_of(cls, targeted=True)(victim, images, goals)
    with torch.no_grad():
        assert torch.equal(attacked.success, victim.eval()(attacked.images).argmax(1) == goals)


@each_attack
def test_nothing_of_the_callers_is_changed(cls: Any, conv_net: Any, images_of: Any) -> None:
    victim, images, targets = as_victim(conv_net()), images_of(4, 3), torch.tensor([0, 1, 2, 0])
    ids = ["a", "b", "c", "d"]
    images.requires_grad_()
    kept, classes, weights = images.detach().clone(), targets.clone(), copy.deepcopy(victim.state_dict())
    torch.manual_seed(11)
    stream = torch.get_rng_state()
    attack = made_of(cls)
    first = attack(victim, images, targets, ids)
    assert torch.equal(torch.get_rng_state(), stream)
    assert torch.equal(images, kept)
    assert images.requires_grad
    assert images.grad is None
    assert torch.equal(targets, classes)
    assert ids == ["a", "b", "c", "d"]
    assert all(torch.equal(value, weights[key]) for key, value in victim.state_dict().items())
    assert attack == made_of(cls)
    torch.manual_seed(12)
    again = attack(victim, images, targets, ids)
    assert torch.equal(first.images, again.images)


@each_attack
def test_the_result_follows_the_ids_and_not_the_places(cls: Any, linear: Any, images_of: Any) -> None:
    victim, images, targets, ids = linear(3), images_of(4, 3), torch.tensor([0, 1, 0, 1]), ["a", "b", "c", "d"]
    order = [2, 0, 3, 1]
    straight = made_of(cls)(victim, images, targets, ids)
    turned = made_of(cls)(victim, images[order], targets[order], [ids[i] for i in order])
    torch.testing.assert_close(turned.images, straight.images[order], atol=1e-6, rtol=0)
    assert torch.equal(turned.success, straight.success[order])


@pytest.mark.parametrize("kind", ["linear", "network"])
@pytest.mark.parametrize("attack", CONFIGURED, ids=lambda a: f"{type(a).__name__}-{getattr(a, 'stop_when_fooled', '')}")
def test_batch_mates_have_no_influence(attack: Any, kind: str, linear: Any, conv_net: Any, images_of: Any) -> None:
    victim = linear(3, 3) if kind == "linear" else as_victim(conv_net())
    images = images_of(8, 3, 1, 8 if kind == "linear" else 20)
    ids = [str(i) for i in range(8)]
    with torch.no_grad():
        targets = victim.eval()(images).argmax(1)
    together = attack(victim, images, targets, ids)
    for i in range(8):
        alone = attack(victim, images[i : i + 1], targets[i : i + 1], ids[i : i + 1])
        assert bool(alone.success[0]) == bool(together.success[i])
        ours, theirs = (made - images[i] for made in (together.images[i], alone.images[0]))
        assert float(ours.norm()) == pytest.approx(float(theirs.norm()), rel=0.01, abs=1e-6)
        assert float(((ours - theirs).abs() > 1e-5).double().mean()) <= 0.01


@each_attack
def test_a_configuration_is_a_value(cls: Any) -> None:
    attack = made_of(cls)
    assert dataclasses.is_dataclass(attack)
    assert attack == made_of(cls)
    assert hash(attack) == hash(made_of(cls))
    assert pickle.loads(pickle.dumps(attack)) == attack
    assert copy.deepcopy(attack) == attack
    other = dataclasses.replace(attack, seed=attack.seed + 1)
    assert other != attack
    assert type(other) is cls
    with pytest.raises(dataclasses.FrozenInstanceError):
        attack.seed = 3


@each_attack
def test_parameters_are_plain_and_complete(cls: Any) -> None:
    attack = made_of(cls, seed=3)
    parameters = json.loads(json.dumps(attack.parameters(), allow_nan=False))
    assert parameters["class"] == cls.__name__
    assert set(parameters) == {field.name for field in dataclasses.fields(cls)} | {"class"}
    assert parameters["seed"] == 3
    assert parameters != json.loads(json.dumps(made_of(cls).parameters()))


def test_parameters_describe_nested_objectives_and_fractions() -> None:
    attack = SignGradient(epsilon=Fraction("8/255"), objective=CrossEntropy() + 0.5 * Margin(2.0))
    parameters = json.loads(json.dumps(attack.parameters()))
    assert parameters["epsilon"] == 8 / 255
    assert parameters["objective"] == {
        "class": "WeightedSum",
        "terms": [
            {"class": "CrossEntropy", "saturated": "margin"},
            {"class": "WeightedSum", "terms": [{"class": "Margin", "kappa": 2.0}], "weights": [0.5]},
        ],
        "weights": [1.0, 1.0],
    }
    assert hash(attack) == hash(SignGradient(epsilon=8 / 255, objective=CrossEntropy() + 0.5 * Margin(2.0)))


@each_attack
def test_the_docstring_names_a_source_and_every_field(cls: Any) -> None:
    docstring = cls.__doc__ or ""
    assert re.search(r"(19|20)\d\d|arXiv|Ma20|SBF20|SMIA21|HFC21", docstring), "no paper is named"
    assert not docstring.startswith(f"{cls.__name__}("), "the docstring is the one that dataclasses make"
    described = "\n".join(base.__dict__.get("__doc__") or "" for base in cls.__mro__ if issubclass(base, Attack))
    for field in dataclasses.fields(cls):
        assert re.search(rf"^\s+{field.name}: \S", described, re.M), f"{field.name} is not described"


@each_attack
def test_an_empty_batch_gives_an_empty_result(cls: Any, conv_net: Any) -> None:
    attacked = made_of(cls)(as_victim(conv_net()), torch.zeros(0, 3, 8, 8), torch.zeros(0).long(), [])
    assert attacked.images.shape == (0, 3, 8, 8)
    for field in (attacked.success, attacked.forwards, attacked.backwards, attacked.zero_gradients):
        assert field.shape == (0,)


@each_attack
def test_crafting_is_attacking_without_the_judgement(cls: Any, linear: Any, images_of: Any) -> None:
    victim, images, targets = linear(), images_of(3), torch.tensor([0, 1, 0])
    crafted, attacked = made_of(cls).craft(victim, images, targets), made_of(cls)(victim, images, targets)
    assert torch.equal(crafted.images, attacked.images)
    assert torch.equal(crafted.forwards + 1, attacked.forwards)


def test_stopped_images_are_spared_passes(linear: Any, images_of: Any) -> None:
    victim, images = linear(scale=3.0), images_of(8)
    targets = victim(images).argmax(1)
    for cls in GRADIENT:  # tomorrow's minimal-norm attacks have no radius and no steps to compare
        full, stopped = (
            made_of(cls, epsilon=0.4)(victim, images, targets),
            made_of(cls, epsilon=0.4, stop_when_fooled=True)(victim, images, targets),
        )
        assert torch.equal(full.success, stopped.success)
        if full.backwards[0] > 1:
            assert int(stopped.backwards.sum()) < int(full.backwards.sum())
        assert bool((stopped.forwards <= full.forwards + full.backwards).all())


@pytest.mark.parametrize(
    "cls", [cls for cls in ATTACKS if hasattr(made_of(cls), "epsilon")], ids=lambda cls: cls.__name__
)
@pytest.mark.parametrize("epsilon", [8, 0, -0.1, math.nan, math.inf])
def test_a_radius_that_is_none_is_refused(cls: Any, epsilon: float) -> None:
    with pytest.raises(ValueError, match=r"epsilon is in units of .* and lies in \(0, 1\], got"):
        made_of(cls, epsilon=epsilon)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("steps", 0, "steps counts gradient steps and is a whole number of at least 1, got 0"),
        ("steps", -3, "got -3"),
        ("step_size", 2, r"step_size is in units of the \[0, 1\] image range and lies in \(0, 1\], got 2"),
        ("step_size", 0, "step_size"),
        ("step_size", math.nan, "step_size"),
        ("momentum", -1.0, "momentum is a decay factor and is not negative, got -1.0"),
        ("momentum", math.nan, "momentum"),
        ("diversity", 1.5, r"diversity is a probability and lies in \[0, 1\], got 1.5"),
        ("diversity", math.nan, "diversity"),
        ("smallest_side", -0.1, "smallest_side"),
        ("smallest_side", 0.0, "smallest_side"),
        ("smoothing", 4, "smoothing is the side of a kernel, odd, or 0 for none, got 4"),
        ("smoothing", -1, "got -1"),
        ("smoothing_deviations", 0.0, "smoothing_deviations is positive, got 0.0"),
    ],
)
def test_a_field_out_of_range_is_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SignGradient(**{field: value})


def test_a_negative_confidence_of_an_attack_is_refused() -> None:
    with pytest.raises(ValueError, match="kappa is a confidence"):
        attacks.CWLinf(kappa=-1.0)


@each_attack
def test_bad_batches_are_refused_with_what_came(cls: Any, conv_net: Any, images_of: Any) -> None:
    victim, good, targets = as_victim(conv_net()), images_of(2, 3), torch.tensor([0, 1])
    broken = good.clone()
    broken[0, 0, 0, 0] = math.nan
    cases: list[tuple[Any, Any, Any, str]] = [
        (good * 255, targets, None, r"expected finite images in \[0, 1\], got values from 0 to 255"),
        (good - 0.5, targets, None, r"got values from -0.5 to 0.5"),
        (broken, targets, None, "expected finite images"),
        (good.to(torch.uint8), targets, None, r"expected float32 images \(N, C, H, W\), got torch.uint8"),
        (good.half(), targets, None, "got torch.float16"),
        (good[0], targets, None, r"expected float32 images \(N, C, H, W\), got torch.float32 \(3, 8, 8\)"),
        (good, targets[:1], None, "got 2 images, 1 targets and 2 ids"),
        (good, targets, ["a"], "got 2 images, 2 targets and 1 ids"),
        (good, targets, ["a", "b", "c"], "3 ids"),
    ]
    for images, classes, ids, message in cases:
        with pytest.raises(ValueError, match=message):
            made_of(cls)(victim, images, classes, ids)


def test_a_target_without_a_length_is_refused_like_other_bad_batches(linear: Any, images_of: Any) -> None:
    with pytest.raises(ValueError, match="targets"):
        attacks.FGSM()(linear(), images_of(1), torch.tensor(0))


@each_attack
def test_a_victim_without_slopes_is_reported_in_full(cls: Any, images_of: Any) -> None:
    class Flat(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return 0 * images.flatten(1)[:, :4] + torch.tensor([0.0, 3.0, 2.0, 1.0])

    attacked = made_of(cls)(as_victim(Flat()), images_of(2, 3), torch.tensor([1, 1]), ["a", "b"])
    assert attacked.zero_gradients.tolist() == attacked.backwards.tolist()
    assert not attacked.success.any()
