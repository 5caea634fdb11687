"""Models of any origin as victims: what a wrapped one answers, what is held still, and what tells two apart."""

import functools
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medrobust.attacks import FGSM, PGD
from medrobust.evaluation.plan import weights_hash
from medrobust.metrics.segmentation import overlaps, quality_of_masks
from medrobust.networks import WrappedClassifier, WrappedLabels, WrappedSegmenter, as_victim, is_evaluated_victim
from medrobust.networks.deployment import deployment_copy
from medrobust.networks.victim_of import task_of, victim_of
from tests.tiny_networks import LinearNet

IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
TARGETS = torch.arange(6) % 2


@dataclass
class Answer:
    logits: Tensor


class Huggish(nn.Module):
    """Returns an object, as models of transformers do."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))

    def forward(self, pixel_values: Tensor) -> Answer:
        return Answer(self.body(pixel_values))


def test_a_model_that_returns_an_object_is_attacked_as_its_logits_are() -> None:
    model = Huggish().eval()
    plain, wrapped = as_victim(model.body, 0.5, 0.25), as_victim(model, 0.5, 0.25)
    assert torch.equal(plain(IMAGES), wrapped(IMAGES))
    one, other = (PGD(steps=3)(victim, IMAGES, TARGETS) for victim in (plain, wrapped))
    assert torch.equal(one.images, other.images) and torch.equal(one.success, other.success)
    assert wrapped.layers_named(["activations"]) == ("body.2",)


def test_the_deployment_copy_of_a_model_that_returns_an_object_is_folded_and_compared() -> None:
    model = Huggish().eval()
    copied, folded = deployment_copy(model, IMAGES)
    assert folded == 1
    torch.testing.assert_close(copied(IMAGES).logits, model(IMAGES).logits)

    class Silent(nn.Module):
        def forward(self, images: Tensor) -> Any:
            return {"what": "nothing"}

    with pytest.raises(ValueError, match="outputs of a Silent cannot be compared"):
        deployment_copy(Silent(), IMAGES)


@pytest.mark.parametrize(
    ("output", "kind", "task"),
    [
        ("logits", WrappedClassifier, "classification"),
        ("one_sigmoid", WrappedClassifier, "classification"),
        ("label_sigmoids", WrappedLabels, "multilabel"),
        ("masks", WrappedSegmenter, "segmentation"),
    ],
)
def test_the_kind_of_output_decides_the_task(output: Any, kind: type, task: str) -> None:
    victim = as_victim(LinearNet(2), output=output)
    assert type(victim) is kind and task_of(victim) == task and is_evaluated_victim(victim)
    assert victim.description().get("output", "logits") == output


def test_an_output_may_be_a_function_that_finds_the_logits() -> None:
    class Pair(LinearNet):
        def forward(self, images: Tensor) -> Any:
            return "attention", super().forward(images)

    victim = as_victim(Pair(2).eval(), output=lambda outputs: outputs[1])
    assert torch.equal(victim(IMAGES), LinearNet(2).eval()(IMAGES))
    other = as_victim(Pair(2).eval(), output=lambda outputs: -outputs[1])
    assert victim.description() != other.description()


def test_the_logarithm_of_probabilities_has_the_gradient_of_their_logits() -> None:
    net = LinearNet(3).eval()
    softmax = as_victim(nn.Sequential(net, nn.Softmax(1)), output="probabilities").eval()
    attacks = FGSM(epsilon=0.02)
    one, other = (attacks(victim, IMAGES, TARGETS) for victim in (as_victim(net), softmax))
    torch.testing.assert_close(one.images, other.images)
    sigmoid = as_victim(nn.Sequential(net, nn.Sigmoid()), output="label_sigmoids").eval()
    labels = torch.stack([TARGETS, 1 - TARGETS, TARGETS], 1)
    one, other = (attacks(victim, IMAGES, labels) for victim in (as_victim(net, output="label_logits"), sigmoid))
    torch.testing.assert_close(one.images, other.images)


def test_a_function_holds_the_modules_that_it_uses_still_and_is_known_by_their_weights() -> None:
    net, other = LinearNet(2).train(), nn.BatchNorm2d(1).train()

    def model(images: Tensor) -> Tensor:
        return net(other(images))

    victim = as_victim(model)
    assert set(victim.network.used) == {net, other}
    before = other.running_mean.clone()
    result = PGD(steps=2)(victim, IMAGES, TARGETS)
    assert net.training and other.training and torch.equal(other.running_mean, before)
    again = PGD(steps=2)(as_victim(nn.Sequential(other, net)), IMAGES, TARGETS)
    assert torch.equal(result.images, again.images)
    before = weights_hash(victim.state_dict())
    with torch.no_grad():
        net.weight.add_(1)
    assert weights_hash(victim.state_dict()) != before


def test_modules_are_found_wherever_a_function_keeps_them() -> None:
    net = LinearNet(2)

    class Holder:
        def __init__(self) -> None:
            self.net = net

        def predict(self, images: Tensor) -> Tensor:
            return self.net(images)

        __call__ = predict

    def scaled(module: nn.Module, images: Tensor) -> Tensor:
        return module(images)

    for function in (Holder(), Holder().predict, functools.partial(scaled, net), net.forward, lambda x: net(x)):
        assert list(as_victim(function).network.used) == [net], function
    nets, named = [net], {"deep": (net,)}

    def through(images: Tensor) -> Tensor:
        return scaled(net, images)

    for function in (lambda x: nets[0](x), lambda x: named["deep"][0](x), lambda x: through(x)):
        assert list(as_victim(function).network.used) == [net]
    assert not list(as_victim(lambda images: images.flatten(1)).network.used)
    assert as_victim(scaled).description()["network"] == "scaled"
    one, other = (as_victim(f).description()["code"] for f in (lambda x: x.flatten(1), lambda x: x.flatten(1) * 2))
    assert one != other


def test_functions_of_other_plain_values_are_other_ones() -> None:
    def made(factor: float) -> Any:
        return lambda images: images.flatten(1) * factor

    def scaled(images: Tensor, factor: Any = 1.0) -> Tensor:
        return images.flatten(1) * factor

    partial, weights = functools.partial, torch.ones(2)
    pairs = [(made(1.0), made(2.0)), (partial(scaled, factor=1.0), partial(scaled, factor=2.0))]
    pairs += [(partial(scaled, factor=weights), partial(scaled, factor=2 * weights))]
    for one, other in pairs:
        first, second, again = (as_victim(function).description()["code"] for function in (one, other, one))
        assert first == again != second


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        (127.5, 127.5, r"mean is subtracted from images in \[0, 1\], got 127.5: .* divided by 255"),
        (float("nan"), 1.0, "mean is one finite number or one for each channel, got nan"),
        ("imagenet", 1.0, "mean is one number or one for each channel, got 'imagenet'"),
        (0.5, None, "std is one number or one for each channel, got None"),
        (0.5, [], "std is one finite number or one for each channel"),
    ],
    ids=range(5),
)
def test_a_normalisation_that_cannot_be_meant_is_refused(mean: Any, std: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        as_victim(LinearNet(2), mean, std)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (IMAGES.numpy(), r"got a ndarray: convert them by torch.from_numpy\(images\).float\(\)"),
        (
            (IMAGES.permute(0, 2, 3, 1).numpy() * 255).astype("uint8"),
            r"got a ndarray: convert them by torch.from_numpy\(images\).permute\(0, 3, 1, 2\) / 255",
        ),
        (IMAGES.permute(0, 2, 3, 1), r"channels second, .* by images.permute\(0, 3, 1, 2\)"),
        ((IMAGES * 255).byte(), r"got uint8 \(6, 1, 8, 8\): convert them by images / 255"),
        (IMAGES[0], r"got float32 \(1, 8, 8\): a batch of one image is images\[None\]"),
        ("x.png", "got a str"),
    ],
    ids=range(6),
)
def test_a_victim_names_the_conversion_of_other_images(images: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        as_victim(LinearNet(2))(images)


@pytest.mark.slow
@pytest.mark.processes
def test_the_hash_of_a_function_is_the_same_in_every_process() -> None:
    code = """
from medrobust.networks.model_function import code_hash
print(code_hash(lambda images: images if images in {"a", "b", "c", "d"} else 0.5))
"""
    given = {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1"}
    found = {
        subprocess.run([sys.executable, "-c", code], env={**given, "PYTHONHASHSEED": seed}, capture_output=True).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1 and len(found.pop().strip()) == 12


def test_a_function_is_not_copied_without_its_modules() -> None:
    with pytest.raises(TypeError, match="cannot be copied together with the modules"):
        deployment_copy(as_victim(lambda images: images.flatten(1)).network, IMAGES)


def test_masks_are_judged_by_their_jaccard_index() -> None:
    class Bright(nn.Module):
        def forward(self, images: Tensor) -> dict[str, Tensor]:
            return {"out": 10 * images - 5}

    images = torch.zeros(2, 1, 4, 4)
    images[:, :, :2] = 1
    targets = torch.zeros(2, 4, 4, dtype=torch.long)
    targets[0, :2] = 1  # right
    targets[1] = 1  # half of it is found
    targets[1, 3, 3] = -1
    victim = as_victim(Bright(), output="masks", threshold=0.6)
    outputs = victim(images)
    outcome = victim.outcome(outputs, targets)
    assert outcome.right.tolist() == [True, False]
    assert outcome.quality.tolist() == pytest.approx([1.0, 8 / 15])
    assert torch.equal(outcome.quality, quality_of_masks(overlaps(outputs.argmax(1), targets, 2)))
    expected = nn.functional.cross_entropy(outputs, targets, ignore_index=-1, reduction="none")
    torch.testing.assert_close(victim.loss(images, targets), expected.sum((1, 2)) / torch.tensor([16, 15]))
    with pytest.raises(ValueError, match="threshold is a Jaccard index"):
        as_victim(Bright(), output="masks", threshold=0)


def test_a_model_gets_images_of_its_own_precision() -> None:
    victim = as_victim(LinearNet(2).double(), 0.5, 0.25)
    assert victim(IMAGES).dtype == torch.float64
    assert as_victim(LinearNet(2).bfloat16(), 0.5, 0.25).eval()(IMAGES).dtype == torch.float32


def test_what_names_no_output_or_is_no_model_is_refused() -> None:
    with pytest.raises(ValueError, match="output is a function or one of logits, probabilities, .*, got 'sigmoid'"):
        as_victim(LinearNet(2), output="sigmoid")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a model is a torch module or a function of images, got str"):
        as_victim("resnet18")  # type: ignore[arg-type]


def test_the_victim_in_a_value() -> None:
    victim, net = as_victim(LinearNet(2), 0.5, 0.25), LinearNet(2)
    assert victim_of(victim) is victim
    assert victim_of(net).network is net

    class Offers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = LinearNet(2)

        @property
        def victim(self) -> Any:
            return as_victim(self.body, 0.5)

    class Holds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.victim = victim

    offers = Offers()
    assert victim_of(offers).network is offers.body
    assert victim_of(Holds()) is victim

    class Lacks(nn.Module):
        def outcome(self, outputs: Any, targets: Any) -> Any: ...

    with pytest.raises(ValueError, match="Lacks lacks description, features, layers_named, loss, normalised"):
        victim_of(Lacks())
    with pytest.raises(ValueError, match="a model is a torch module or a function that maps images to logits, got int"):
        victim_of(3)
