"""Features for detectors: one forward for all layers, passes behind the dropout, images moved for Mahalanobis."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_modules import Classifier
from medrobust.detectors import Features, Mahalanobis
from medrobust.evaluation import EvaluationContext
from medrobust.evaluation.extraction import Extractor, clean_features, gather
from medrobust.networks import Outcome, class_outcome
from tests.in_memory import InMemoryData

ACTIVATIONS = ["activations"]
CLASSES = torch.tensor([0, 1, 0])


@pytest.fixture(scope="module")
def victim() -> Classifier:
    torch.manual_seed(0)
    return Classifier("resnet18", 2, "dense").eval()


def pictures(count: int, seed: int = 0) -> Tensor:
    return torch.rand((count, 3, 32, 32), generator=torch.Generator().manual_seed(seed))


def test_all_layers_cost_one_forward(victim: Any) -> None:
    calls: list[int] = []
    handle = victim.network.conv1.register_forward_hook(lambda *_: calls.append(1))
    features = Extractor(victim, ACTIVATIONS, passes=5)(pictures(3), CLASSES, ["a", "b", "c"])
    handle.remove()
    assert len(calls) == 1
    assert len(features.layers) == 18  # 17 activations, the last of them as the pooled layer, and the dense one
    assert features.draws is not None and features.draws.shape == (3, 5, 2)
    assert features.penultimate.shape == (3, 128)
    assert torch.equal(features.predictions, victim(pictures(3)).argmax(1))


def test_features_are_those_of_the_victim_in_eval_mode(victim: Any) -> None:
    victim.train()
    features = Extractor(victim, ["layer1.*.act1", "global_pool"])(pictures(2), CLASSES[:2], ["a", "b"])
    assert victim.training
    victim.eval()
    with torch.no_grad():
        _, expected = victim.features(pictures(2), ["layer1.0.act1", "layer1.1.act1", "global_pool"])
    assert list(features.layers) == ["layer1.0.act1", "layer1.1.act1", "global_pool"]
    for name, values in expected.items():
        torch.testing.assert_close(features.layers[name], values)


def test_a_victim_without_dropout_has_no_draws() -> None:
    extractor = Extractor(Classifier("resnet18", 2), ACTIVATIONS, passes=5)
    assert "the victim has no dropout" in extractor.without_dropout
    assert extractor(pictures(1), CLASSES[:1], ["a"]).draws is None


class Pixels(nn.Module):
    """A victim whose only layer is the image itself."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.ModuleDict({"pixels": nn.Flatten()})

    def layers_named(self, patterns: Any) -> tuple[str, ...]:
        return ("pixels",)

    def features(self, images: Tensor, layers: Any) -> tuple[Tensor, dict[str, Tensor]]:
        seen = self.network["pixels"](images)
        return seen[:, :2], {"pixels": seen}

    def outcome(self, outputs: Tensor, targets: Tensor) -> Outcome:
        return class_outcome(outputs, targets)


def test_images_are_moved_towards_the_nearest_class() -> None:
    """With an isotropic covariance the distance falls along the sign of (mean - image), by hand."""
    generator = torch.Generator().manual_seed(1)
    clean = 0.5 + 0.01 * torch.randn((400, 4), generator=generator)
    known = Features({"pixels": clean}, torch.zeros(400, dtype=torch.long))
    detector = Mahalanobis(shrinkage=1.0, perturbation=0.05)
    detector.fit_reference(known, torch.zeros(400, dtype=torch.long))
    images = torch.tensor([0.2, 0.8, 0.98, 0.01]).view(1, 1, 2, 2)
    extractor = Extractor(Pixels(), ["pixels"])
    extractor.stepping = detector
    features = extractor(images, CLASSES[:1], ["a"])
    assert features.stepped is not None
    torch.testing.assert_close(features.stepped["pixels"], torch.tensor([[0.25, 0.75, 0.93, 0.06]]))
    plain = Mahalanobis(shrinkage=1.0)
    plain.fit_reference(known, torch.zeros(400, dtype=torch.long))
    assert float(detector.measure(features)) < float(plain.measure(features))
    with pytest.raises(ValueError, match="needs features of moved images"):
        detector.measure(known)
    with pytest.raises(ValueError, match=r"perturbation is a length in the \[0, 1\] image range, got -1"):
        Mahalanobis(perturbation=-1)


def test_a_victim_that_names_no_class_has_no_features_for_detectors() -> None:
    class Nameless(Pixels):
        def outcome(self, outputs: Tensor, targets: Tensor) -> Outcome:
            return Outcome(outputs[:, 0] > 0, outputs[:, 0])

    with pytest.raises(ValueError, match="a victim that names one class per image"):
        Extractor(Nameless(), ["pixels"])(pictures(1), CLASSES[:1], ["a"])


class OneOfTwo(EvaluationContext):
    """The first of two processes; the other one's values are given."""

    def __init__(self, of_the_other: Any) -> None:
        super().__init__()
        self.ranks, self.of_the_other = 2, of_the_other

    def gather(self, value: Any) -> list[Any]:
        return [value, self.of_the_other]


def part(*values: float) -> Features:
    """Features of one layer with one channel; the predictions count the images."""
    return Features({"layer": torch.tensor(values)[:, None]}, torch.arange(len(values)))


def test_gathered_images_are_in_the_order_of_their_ids() -> None:
    alone = EvaluationContext()
    ids, features, labels = gather(
        alone, ["c", "a", "b"], [part(3, 1), part(2)], [torch.tensor([2, 0]), torch.tensor([1])]
    )
    assert ids == ["a", "b", "c"]
    assert features.layers["layer"].squeeze(1).tolist() == [1, 2, 3]
    assert labels.tolist() == [0, 1, 2]
    assert gather(alone, [], [])[1] is None


def test_labels_of_all_processes_are_in_the_order_of_the_ids_also_on_one_without_an_image() -> None:
    context = OneOfTwo((["c", "a"], Features({"layer": torch.tensor([[3.0], [1.0]])}, CLASSES[1:]), CLASSES[1:]))
    assert gather(context, [], [])[2].tolist() == [0, 1]
    mine = Features({"layer": torch.tensor([[2.0]])}, torch.tensor([1]))
    ids, features, labels = gather(context, ["b"], [mine], [torch.tensor([1])])
    assert ids == ["a", "b", "c"]
    assert features.penultimate.flatten().tolist() == [1.0, 2.0, 3.0]
    assert features.predictions.tolist() == [0, 1, 1]
    assert labels.tolist() == [0, 1, 1]


def test_clean_features_are_those_of_a_whole_loader_and_none_is_an_error(victim: Any) -> None:
    data = InMemoryData({"train": (pictures(3), CLASSES)}, {"train": ["b", "c", "a"]}, batch_size=2)
    extractor = Extractor(victim, ["layer1.0.act1"])
    ids, features, labels = clean_features(EvaluationContext(), extractor, data.reference_dataloader(), "features")
    assert ids == ["a", "b", "c"]
    assert labels.tolist() == [0, 0, 1]
    with torch.no_grad():
        _, expected = victim.features(pictures(3)[[2, 0, 1]], ["layer1.0.act1"])
    torch.testing.assert_close(features.penultimate, expected["layer1.0.act1"])
    with pytest.raises(ValueError, match="features: there is no image"):
        clean_features(EvaluationContext(), extractor, [], "features")
