"""What every attack promises, checked on each one that ``attacks`` exports, also on tomorrow's."""

import copy
import dataclasses
import inspect
import json
import math
import pickle
import re
import warnings
from typing import Any

import numpy as np
import pytest
import torch

from medrobust import attacks
from medrobust.attacks import Attack, Attacked, SignGradient
from medrobust.attacks.budgets import Fraction
from medrobust.networks import as_victim, class_outcome
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
    attacks.BasinHopping: {"hops": 3, "steps": 20},
    attacks.WorstCase: {"attacks": (attacks.APGD(steps=10), attacks.FAB(steps=5), attacks.Square(queries=100))},
}
# shorter still, where a few passes show what is asked for
BRIEF: dict[Any, dict[str, Any]] = SHORT | {
    attacks.APGD: {"steps": 10},
    attacks.BasinHopping: {"hops": 2, "steps": 5},
    attacks.CWL2: {"search_steps": 2, "steps": 10},
    attacks.FAB: {"steps": 5},
    attacks.JSMA: {"steps": 10},
    attacks.Square: {"queries": 30},
}

# what leaves a constant image nearly constant
GENTLE: dict[Any, dict[str, Any]] = {
    attacks.Corruption: {"kind": "gaussian_blur"},
    attacks.RandomBiasField: {"max_stops": 0.1},
}
UNASKED = (attacks.UniformNoise, attacks.RandomBiasField, attacks.Corruption)  # which do not ask the victim


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
    for rows in (slice(0, 1), slice(1, 3), slice(3, 8)):  # alone, or with fewer of the others
        apart = attack(victim, images[rows], targets[rows], ids[rows])
        assert torch.equal(apart.success, together.success[rows])
        for image, ours, theirs in zip(images[rows], together.images[rows], apart.images, strict=True):
            assert float((ours - image).norm()) == pytest.approx(float((theirs - image).norm()), rel=0.01, abs=1e-6)
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
@pytest.mark.parametrize("epsilon", [8, -0.1, math.nan, math.inf])
def test_a_radius_that_is_none_is_refused(cls: Any, epsilon: float) -> None:
    with pytest.raises(ValueError, match=r"epsilon is in units of .* and lies in \[0, 1\], got"):
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


class Roots(torch.nn.Module):
    """Two logits that lead each other by sum(w (sqrt(x) - 1/2)): a black pixel's slope is infinite."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.linspace(-1, 1, 64))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        lead = ((images.sqrt().flatten(1) - 0.5) * self.weight).sum(1)
        return torch.stack([-lead, lead], 1)


def rooted() -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]:
    """That victim; two images with black rows and two without; their classes; and the signs away from these."""
    victim = as_victim(Roots())
    images = 0.3 + 0.4 * torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(4))
    images[:2, :, 2:4] = 0
    with torch.no_grad():
        targets = victim(images).argmax(1)
    return victim, images, targets, (1 - 2 * targets).view(-1, 1, 1, 1) * victim.network.weight.sign().view(1, 1, 8, 8)


@pytest.mark.parametrize("attack", CONFIGURED, ids=lambda a: f"{type(a).__name__}-{getattr(a, 'stop_when_fooled', '')}")
def test_infinite_gradients_are_replaced_counted_and_told(attack: Any) -> None:
    victim, images, targets, _ = rooted()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        attacked = attack(victim, images, targets)
    assert bool(attacked.images.isfinite().all())
    assert 0 <= float(attacked.images.min()) <= float(attacked.images.max()) <= 1
    assert in_ball(attack, images, attacked.images)
    with torch.no_grad():
        assert torch.equal(attacked.success, victim.eval()(attacked.images).argmax(1) != targets)
    told = [str(warning.message) for warning in caught if "not finite" in str(warning.message)]
    if not attacked.backwards.any():
        assert not told
        assert "broken_gradients" not in attacked.measures
        return
    assert told == [
        "for 2 of 4 images the victim's gradients were not finite; they were replaced and count as vanished"
    ]
    broken = attacked.measures["broken_gradients"]
    assert bool((broken[:2] >= 1).all())
    assert bool((broken[:2] <= attacked.backwards[:2]).all())
    assert bool((attacked.zero_gradients[:2] >= 1).all())
    assert bool(broken[2:].isnan().all())
    if getattr(attack, "epsilon", None) is not None and not isinstance(attack, attacks.FAB | attacks.WorstCase):
        assert attacked.zero_gradients[2:].tolist() == [0, 0]  # those two are far from black
    for row in (0, 1):
        alone = attack.craft(victim, images[row : row + 1], targets[row : row + 1])
        assert alone.measures["broken_gradients"].tolist() == [float(broken[row])]


@pytest.mark.parametrize("cls", [attacks.FGSM, attacks.BIM, attacks.MIM, SignGradient, attacks.APGD])
def test_signed_steps_keep_the_sign_of_an_infinite_gradient(cls: Any) -> None:
    """The lead is monotonous in every pixel, so the best image of the ball is a corner, at black pixels too."""
    victim, images, targets, away = rooted()
    fields = {"stop_when_fooled": False} if cls is attacks.APGD else {}
    attacked = cls(epsilon=0.1, **fields)(victim, images, targets)
    torch.testing.assert_close(attacked.images, (images + 0.1 * away).clamp(0, 1), atol=1e-6, rtol=0)


@each_attack
def test_a_gradient_that_is_all_nan_is_no_success_and_no_robustness(cls: Any, images_of: Any) -> None:
    class Flat(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return (0 * images).sqrt().flatten(1)[:, :4] + torch.tensor([0.0, 3.0, 2.0, 1.0])  # slope 0 times infinity

    images = images_of(2, 3)
    attack = made_of(cls)
    attacked = attack(as_victim(Flat()), images, torch.tensor([1, 1]))
    assert bool(attacked.images.isfinite().all())
    assert in_ball(attack, images, attacked.images)
    assert not attacked.success.any()
    assert attacked.zero_gradients.tolist() == attacked.backwards.tolist()
    assert ("broken_gradients" in attacked.measures) == bool(attacked.backwards.any())


@each_attack
@pytest.mark.parametrize("ids", [None, ["a", "b", "c", "d"]])
def test_outputs_that_are_not_finite_are_refused_by_the_images_name(cls: Any, ids: Any, images_of: Any) -> None:
    class Standardising(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            centred = images - images.mean((1, 2, 3), keepdim=True)
            deviations = (centred.flatten(1).abs().amax(1) > 0.1) * 1.0  # 0 for a nearly constant image
            return (centred / deviations.view(-1, 1, 1, 1)).flatten(1)[:, :3]

    images = images_of(4)
    images[2] = 0.5
    with pytest.raises(ValueError, match=f"not finite for 1 of 4 images, first '{'2' if ids is None else 'c'}'"):
        made_of(cls, **GENTLE.get(cls, {}))(as_victim(Standardising()), images, torch.tensor([0, 1, 2, 0]), ids)


@pytest.mark.parametrize("cls", [attacks.PGD, attacks.BasinHopping])
def test_a_random_start_does_not_hide_that_a_clean_image_has_no_output(cls: Any, images_of: Any) -> None:
    """A constant image has a deviation of 0, and 0 / 0 is NaN; no other image of its ball has."""

    class Standardising(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            centred = images - images.mean((1, 2, 3), keepdim=True)
            return (centred / centred.flatten(1).std(1).view(-1, 1, 1, 1)).flatten(1)[:, :3]

    images, names = images_of(12), [f"image {i}" for i in range(12)]
    images[7] = 0.5
    with pytest.raises(ValueError, match=r"outputs \(clean\) are not finite for 1 of 12 images, first 'image 7'"):
        made_of(cls)(as_victim(Standardising()), images, torch.arange(12) % 3, names)


@pytest.mark.parametrize("cls", [attacks.FGSM, attacks.DeepFool, attacks.JSMA, attacks.CWL2, attacks.BasinHopping])
def test_a_victim_that_cuts_its_gradients_off_is_told(cls: Any, images_of: Any) -> None:
    class Detached(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.detach().flatten(1)[:, :3]

    images = images_of(2)
    with pytest.raises(ValueError, match="outputs are expected to depend on the images, and these have no gradient"):
        made_of(cls)(as_victim(Detached()), images, images.flatten(1)[:, :3].argmax(1))


@pytest.mark.parametrize(
    "attack",
    [attacks.BIM(epsilon=0.1), attacks.BIM(epsilon=0.1, stop_when_fooled=True), attacks.DIM(epsilon=0.1, steps=40)],
    ids=lambda attack: f"{type(attack).__name__}-{attack.stop_when_fooled}",
)
@pytest.mark.parametrize("bad", range(5))
def test_outputs_that_break_only_on_the_way_are_traced_to_their_image(attack: Any, bad: int) -> None:
    class Holed(torch.nn.Module):
        """Its outputs are NaN while an image's first pixel is between 0.03 and 0.06 above 0.5."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            lead = images.flatten(1)[:, 0]
            hole = torch.where((lead > 0.53) & (lead < 0.56), torch.nan, 0.0)
            return torch.stack([0.8 - lead, lead], 1) + hole[:, None]

    images = torch.full((5, 1, 8, 8), 0.1)
    images[bad, 0, 0, 0] = 0.5
    targets = torch.zeros(5, dtype=torch.long)
    images[:, 0, 0, 1] = 0.9  # something to see where an image is resized
    if attack.stop_when_fooled:
        images[bad, 0, 0, 0] = 0.35  # fools the victim from 0.4 on, before the hole
        attacked = attack(as_victim(Holed()), images, targets, list("abcde"))
        assert bool(attacked.success[bad])
        return
    with pytest.raises(ValueError, match=f"outputs are not finite at a step of .* for the image '{'abcde'[bad]}'"):
        attack(as_victim(Holed()), images, targets, list("abcde"))


@each_attack
def test_a_victim_that_works_in_place_changes_nothing(cls: Any, images_of: Any) -> None:
    class Scaled(torch.nn.Module):
        """Three weighted sums of the images after normalisation, in place or not."""

        def __init__(self, in_place: bool) -> None:
            super().__init__()
            self.in_place = in_place
            self.register_buffer("weight", torch.randn(3, 192, generator=torch.Generator().manual_seed(2)))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            images = images.sub_(0.5).div_(0.25) if self.in_place else (images - 0.5) / 0.25
            return images.flatten(1) @ self.weight.T

    class Bare(torch.nn.Module):
        """A victim that is nobody's wrapper, so that only the attack can protect its images."""

        def __init__(self, in_place: bool) -> None:
            super().__init__()
            self.network = Scaled(in_place)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.network(images)

        def loss(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(self(images), targets, reduction="none")

        def outcome(self, outputs: torch.Tensor, targets: torch.Tensor) -> Any:
            return class_outcome(outputs, targets)

        def features(self, images: torch.Tensor, layers: Any) -> Any:
            return self(images), {}

    images = images_of(4, 3)
    kept, targets = images.clone(), torch.tensor([0, 1, 2, 0])
    attack = cls(**BRIEF.get(cls, {}))
    expected = attack(Bare(in_place=False), images, targets)
    attacked = attack(Bare(in_place=True), images, targets)
    assert torch.equal(images, kept)
    assert torch.equal(attacked.images, expected.images)
    assert torch.equal(attacked.success, expected.success)
    assert in_ball(attack, images, attacked.images)


@pytest.mark.parametrize("attack", [attack for attack in CONFIGURED if isinstance(attack, SignGradient)], ids=repr)
def test_what_a_box_victim_says_has_to_be_finite(attack: Any, box_victim: Any, images_of: Any, boxes_of: Any) -> None:
    images, targets = 0.8 + 0.2 * images_of(3), boxes_of(3)  # bright, so that every box is found at first
    if isinstance(attack, attacks.SMIA):
        pytest.skip("it compares logits")

    class BrokenLoss(torch.nn.Module):
        def __init__(self, inner: Any, broken: str) -> None:
            super().__init__()
            self.inner, self.broken = inner, broken

        def forward(self, images: torch.Tensor) -> Any:
            outputs = self.inner(images)
            if self.broken == "outputs":
                outputs[-1]["map"] = outputs[-1]["map"] * torch.nan
            return outputs

        def loss(self, images: torch.Tensor, targets: Any) -> torch.Tensor:
            factors = torch.ones(len(images))
            if self.broken == "losses":
                factors[-1] = torch.nan
            return self.inner.loss(images, targets) * factors

        def outcome(self, outputs: Any, targets: Any) -> Any:
            return self.inner.outcome(outputs, targets)

        def features(self, images: torch.Tensor, layers: Any) -> Any:
            return self(images), {}

    with pytest.raises(ValueError, match="outputs .* are not finite for 1 of 3 images, first 'c'"):
        attack(BrokenLoss(box_victim(), "outputs"), images, targets, ["a", "b", "c"])
    losses = BrokenLoss(box_victim(), "losses")
    with pytest.raises(ValueError, match="losses are not finite at a step of"):
        attack(losses, images, targets, ["a", "b", "c"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wild(Attack):
    """Returns whatever it is told (no paper)."""

    epsilon: float = 0.1
    made: tuple[float, ...] = ()
    within: Any = "linf"

    @property
    def norm(self) -> Any:
        return self.within

    def perturb(self, victim: Any, images: torch.Tensor, targets: Any, ids: Any) -> Any:
        none = torch.zeros(len(images), dtype=torch.long)
        made = torch.tensor(self.made).view(-1, 1, 1, 1).expand_as(images)
        measures = {"distance": (made - images).flatten(1).norm(dim=1)}
        return attacks.Crafted(made, none, none, none, measures)


@pytest.mark.parametrize(
    ("norm", "made", "fine"),
    [
        ("linf", (math.nan, math.inf, 0.61, 0.6, 0.4), [False, False, False, True, True]),
        ("l2", (math.nan, 0.52, 0.55, -0.1, 0.5), [False, True, False, False, True]),  # 64 pixels: 8 times as long
        ("l0", (0.6, 0.5), [False, True]),
        ("log", (0.552, 0.553, 0.453, 0.452), [True, False, True, False]),  # 0.5 exp(0.1) = 0.55259, exp(-0.1): 0.45242
        ("none", (0.0, 1.0, 1.1, -0.1, math.nan), [True, True, False, False, False]),
    ],
)
def test_an_image_that_may_not_be_returned_gives_the_clean_one(norm: Any, made: Any, fine: list[bool]) -> None:
    class Threshold(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            lead = (images.flatten(1).mean(1) - 0.5).abs() - 1e-3  # fooled by any change
            return torch.stack([-lead, lead], 1)

    images, epsilon = torch.full((len(made), 1, 8, 8), 0.5), 0.2 if norm == "l2" else 0.1
    attack = Wild(epsilon=epsilon, made=made, within=norm)
    targets = torch.zeros(len(made), dtype=torch.long)
    with pytest.warns(UserWarning, match=f"for {fine.count(False)} of {len(fine)} images the attack made images that"):
        attacked = attack(as_victim(Threshold()), images, targets)
    expected = torch.where(torch.tensor(fine), torch.tensor(made), 0.5).view(-1, 1, 1, 1).expand_as(images)
    assert torch.equal(attacked.images, expected)
    assert attacked.success.tolist() == [good and value != 0.5 for good, value in zip(fine, made, strict=True)]
    assert attacked.measures["refused"].nan_to_num(0).tolist() == [not good for good in fine]
    assert attacked.measures["distance"].isnan().tolist() == [not good for good in fine]


@pytest.mark.parametrize(
    "cls", [cls for cls in ATTACKS if getattr(made_of(cls), "epsilon", None) is not None], ids=lambda cls: cls.__name__
)
def test_at_radius_0_the_clean_images_come_back(cls: Any, conv_net: Any, images_of: Any) -> None:
    victim, images, targets = as_victim(conv_net()), images_of(4, 3), torch.tensor([0, 1, 2, 0])
    attacked = made_of(cls, epsilon=0)(victim, images, targets)
    assert torch.equal(attacked.images, images)
    assert attacked.images.data_ptr() != images.data_ptr()
    with torch.no_grad():
        assert torch.equal(attacked.success, victim.eval()(images).argmax(1) != targets)
    assert attacked.forwards.tolist() == [1, 1, 1, 1]  # the judgement
    assert not attacked.backwards.any()


@each_attack
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_numpy_numbers_are_numbers(cls: Any, kind: Any) -> None:
    plain = made_of(cls, seed=3)
    numbers = {
        field.name: getattr(plain, field.name)
        for field in dataclasses.fields(cls)
        if field.init and isinstance(getattr(plain, field.name), bool | int | float)
    }
    assert "seed" in numbers
    given = {
        name: np.bool_(value) if isinstance(value, bool) else np.int64(value) if isinstance(value, int) else kind(value)
        for name, value in numbers.items()
    }
    attack = dataclasses.replace(plain, **given)
    json.dumps(attack.parameters(), allow_nan=False)
    for name, value in numbers.items():
        assert type(getattr(attack, name)) in (bool, int, float)
        assert getattr(attack, name) == pytest.approx(value, rel=1e-6)
    if kind is np.float64:
        assert attack == plain
        assert hash(attack) == hash(plain)


def test_numpy_numbers_are_numbers_in_objectives_too() -> None:
    objective = np.float32(2) * Margin(np.float32(0.5)) + CrossEntropy() * np.int64(3)
    attack = SignGradient(epsilon=np.float32(0.25), steps=np.int64(3), objective=objective)
    assert attack == SignGradient(epsilon=0.25, steps=3, objective=2 * Margin(0.5) + CrossEntropy() * 3)
    assert json.loads(json.dumps(attack.parameters()))["objective"]["weights"] == [1.0, 1.0]
    with pytest.raises(ValueError, match=r"steps counts gradient steps .* got 2.5"):
        SignGradient(steps=np.float64(2.5))


@each_attack
def test_without_ids_the_image_decides_and_not_its_place(cls: Any, linear: Any, images_of: Any) -> None:
    victim, images, targets = linear(3), images_of(4, 3), torch.tensor([0, 1, 0, 1])
    order = [2, 0, 3, 1]
    attack = cls(**BRIEF.get(cls, {}))
    straight = attack(victim, images, targets)
    turned = attack(victim, images[order], targets[order])
    torch.testing.assert_close(turned.images, straight.images[order], atol=1e-6, rtol=0)
    twins = attack(victim, images[[1, 1, 0]], targets[[1, 1, 0]])
    torch.testing.assert_close(twins.images, straight.images[[1, 1, 0]], atol=1e-6, rtol=0)


@each_attack
def test_an_id_that_stands_twice_is_refused(cls: Any, linear: Any, images_of: Any) -> None:
    with pytest.raises(ValueError, match="ids name the images of a batch .* got 'b' for 2 of 4"):
        made_of(cls)(linear(), images_of(4), torch.tensor([0, 1, 0, 1]), ["a", "b", "c", "b"])


def test_members_and_restarts_are_never_handed_an_id_twice(linear: Any, images_of: Any) -> None:
    handed: list[list[str]] = []

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Spying(attacks.PGD):
        def perturb(self, victim: Any, images: torch.Tensor, targets: Any, ids: Any) -> Any:
            handed.append(list(ids))
            return super().perturb(victim, images, targets, ids)

    worst = attacks.WorstCase(
        attacks=(Spying(steps=2), Spying(steps=2), attacks.APGD(steps=5, restarts=3)), epsilon=0.1
    )
    worst(linear(), images_of(6), torch.tensor([0, 1, 0, 1, 0, 1]), list("abcdef"))
    assert len(handed) == 2
    assert all(len(set(ids)) == len(ids) for ids in handed)


@each_attack
def test_a_plain_module_is_told_how_to_become_a_victim(cls: Any, conv_net: Any, images_of: Any) -> None:
    with pytest.raises(ValueError, match=r"ConvNet lacks loss, outcome, features: wrap .*as_victim\(module, mean, std"):
        made_of(cls)(conv_net(), images_of(2, 3), torch.tensor([0, 1]))


@pytest.mark.parametrize("kind", ["craft", "__call__"])
def test_images_in_other_forms_are_refused_with_their_conversion(kind: str, conv_net: Any, images_of: Any) -> None:
    attack, victim, targets = getattr(attacks.FGSM(), kind), as_victim(conv_net()), torch.tensor([0, 1])
    bytes_ = (images_of(2, 3) * 255).to(torch.uint8)
    cases: list[tuple[Any, str]] = [
        (bytes_, r"got torch.uint8 \(2, 3, 8, 8\): convert them by images.float\(\) / 255"),
        (images_of(2, 3).half(), r"convert them by images.float\(\)"),
        (bytes_.numpy(), r"got a NumPy array of uint8 .*: convert it by torch.from_numpy\(images\).float\(\) / 255"),
        (bytes_.permute(0, 2, 3, 1).numpy(), r"from_numpy\(images\).permute\(0, 3, 1, 2\).float\(\) / 255"),
        (images_of(2, 3).double().numpy(), r"NumPy array of float64 .*torch.from_numpy\(images\).float\(\)$"),
        ([image.numpy() for image in images_of(2, 3)], "in one tensor, got list"),
    ]
    for images, message in cases:
        with pytest.raises(ValueError, match=message):
            attack(victim, images, targets)
    with pytest.raises(ValueError, match=r"targets as a tensor, got a NumPy array of int64 \(2,\): convert it by"):
        attack(victim, images_of(2, 3), targets.numpy())


def warned(attack: Any, victim: Any, images: torch.Tensor, targets: torch.Tensor) -> list[str]:
    """What an attack warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        attack(victim, images, targets)
    return [str(warning.message) for warning in caught]


@each_attack
def test_probabilities_in_place_of_logits_are_told(cls: Any, conv_net: Any, images_of: Any) -> None:
    images = images_of(4, 3)
    victim = as_victim(torch.nn.Sequential(conv_net(), torch.nn.Softmax(1)))
    targets, attack = victim.eval()(images).argmax(1), cls(**BRIEF.get(cls, {}))
    assert [message for message in warned(attack, victim, images, targets) if "probabilities" in message] == (
        []
        if cls in UNASKED  # and four images are too few to ask for
        else [
            "the victim's outputs are at least 0 and sum to 1: they look like probabilities, on which attacks are "
            "weaker than they ought to be; let the victim return logits, without the softmax"
        ]
    )
    assert not warned(attack, as_victim(conv_net()), images, targets)


def test_a_victim_that_seems_to_guess_is_told(linear: Any, images_of: Any) -> None:
    victim, images = linear(), images_of(16)
    right = victim(images).argmax(1)
    half = torch.where(torch.arange(16) % 2 == 0, right, 1 - right)
    assert warned(attacks.FGSM(), victim, images, half) == [
        "the victim is right about 8 of 16 clean images, which guessing among 2 classes explains: its weights, its "
        "normalisation or the targets may be wrong"
    ]
    assert not warned(attacks.FGSM(), victim, images, right)
    assert not warned(attacks.FGSM(), victim, images[:8], half[:8])  # too few to say
    assert not warned(attacks.FGSM(targeted=True), victim, images, half)  # goals, not truths
    for other in (attacks.PGD(), attacks.APGD(steps=2), attacks.Square(queries=2), attacks.UniformNoise()):
        (told,) = warned(other, victim, images, half)  # although none of them begins with the clean images
        assert "right about 8 of 16" in told


@each_attack
def test_a_class_that_the_victim_does_not_know_is_refused(cls: Any, conv_net: Any, images_of: Any) -> None:
    images = images_of(12, 3)
    with pytest.raises(ValueError, match="the victim distinguishes 3 classes, counted from 0, got class 7"):
        made_of(cls)(as_victim(conv_net()), images, torch.tensor([0, 7, *[1] * 10]))


@pytest.mark.parametrize("ids", [torch.tensor([1, 1]), [1, 2]])
def test_ids_that_are_not_text_are_refused(ids: Any, linear: Any, images_of: Any) -> None:
    with pytest.raises(ValueError, match="ids are text, one name per image, got .*1"):
        attacks.PGD()(linear(), images_of(2), torch.tensor([0, 1]), ids)


def test_ids_of_numpy_are_the_same_text(linear: Any, images_of: Any) -> None:
    victim, images, targets = linear(), images_of(2), torch.tensor([0, 1])
    one, other = (attacks.PGD()(victim, images, targets, ids) for ids in (["a", "b"], np.array(["a", "b"])))
    assert torch.equal(one.images, other.images)
