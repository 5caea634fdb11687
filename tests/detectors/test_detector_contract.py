"""What every detector that the package exports must fulfil, including future ones."""

import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from medrobust import detectors
from medrobust.detectors import (
    Detector,
    Features,
    LayerConvolutions,
    LayerNetworks,
    load_detectors,
    save_detectors,
)
from medrobust.metrics.separation import auroc

CLASSES = [
    kind
    for name in detectors.__all__
    for kind in (getattr(detectors, name),)
    if inspect.isclass(kind) and issubclass(kind, Detector) and not inspect.isabstract(kind)
]
SHORT = {LayerNetworks: {"epochs": 20, "hidden": 8}, LayerConvolutions: {"epochs": 20, "hidden": 4}}
pytestmark = pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)


def made(kind: type[Detector]) -> Detector:
    return kind(**SHORT.get(kind, {}))


def drawn(count: int, seed: int, shift: float = 0.0) -> tuple[Features, Tensor]:
    """Two classes, 6 apart in the late layer; shifted images lie off both, and their passes with dropout scatter."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    late = torch.randn((count, 6), generator=generator)
    late[:, 0] += 6 * labels
    late[:, 1:] += shift
    early = torch.randn((count, 4), generator=generator) + shift
    noise = (0.02 + 0.1 * abs(shift)) * torch.randn((count, 8, 2), generator=generator)
    scatter = torch.randn((count, 4, 3, 3), generator=generator)
    maps = {"early": early[:, :, None, None] + scatter, "late": late[:, :, None, None]}
    draws = (noise + labels[:, None, None]).softmax(2)
    return Features({"early": early, "late": late}, labels, draws, maps=maps), labels


@pytest.fixture(scope="module")
def fitted() -> dict[type, Detector]:
    known: dict[type, Detector] = {}
    for kind in CLASSES:
        reference, reference_labels = drawn(200, 0)
        clean, labels = drawn(80, 1)
        known[kind] = made(kind).fit(clean, labels, drawn(80, 2, 3.0)[0], drawn(80, 3)[0], reference, reference_labels)
    return known


def test_adversarial_images_score_higher(kind: type[Detector], fitted: Any) -> None:
    detector = fitted[kind]
    clean, adversarial = detector.score(drawn(100, 4)[0]), detector.score(drawn(100, 5, 3.0)[0])
    assert clean.shape == (100,)
    assert float(auroc(clean, adversarial)) > 0.9


def test_a_score_that_is_smooth_has_the_gradient_of_its_finite_differences(kind: type[Detector], fitted: Any) -> None:
    """By each layer and by the passes, so that an objective can attack it; a step function says that it is one."""
    features, labels = drawn(12, 21, 1.0)
    step, generator = 1e-6, torch.Generator().manual_seed(22)
    given = {**features.layers, "draws": features.draws, **{f"maps {n}": v for n, v in features.maps.items()}}
    parts = {name: values.double() for name, values in given.items()}
    ways = {name: torch.randn(values.shape, generator=generator).double() for name, values in parts.items()}

    def score(shift: float | Tensor) -> Tensor:
        moved = {name: values + shift * ways[name] for name, values in parts.items()}
        maps = {name: moved[f"maps {name}"] for name in features.layers}
        layers = {name: moved[name] for name in features.layers}
        return fitted[kind].score(Features(layers, labels, moved["draws"], maps=maps))

    differences = (score(step) - score(-step)) / (2 * step)
    along = torch.zeros((), dtype=torch.float64, requires_grad=True)
    if not kind.differentiable:
        assert not score(along).requires_grad or bool((differences == 0).all())
        return
    slopes = torch.stack([torch.autograd.grad(one, along, retain_graph=True)[0] for one in score(along)])
    assert bool((slopes != 0).any())
    torch.testing.assert_close(slopes, differences, rtol=1e-4, atol=1e-6)


def test_weights_of_the_wrong_sign_are_named(kind: type[Detector], fitted: Any) -> None:
    detector = fitted[kind]
    assert set(detector.wrong_signs()) <= {"early", "late", "density", "uncertainty"}
    if "weights" in dict(detector.named_buffers()):
        assert len(detector.wrong_signs()) == int((detector.weights < 0).sum())


def test_a_predicted_class_that_no_reference_image_has_does_not_stop_it(kind: type[Detector], fitted: Any) -> None:
    features, labels = drawn(6, 23)
    assert fitted[kind].score(replace(features, predictions=labels + 5)).isfinite().all()


def test_a_score_is_the_same_alone_in_any_order_and_in_any_batch(kind: type[Detector], fitted: Any) -> None:
    features, _ = drawn(17, 6, 1.0)
    together = fitted[kind].score(features)
    alone = torch.cat([fitted[kind].score(features[i : i + 1]) for i in range(17)])
    backwards = fitted[kind].score(features[torch.arange(16, -1, -1)]).flip(0)
    torch.testing.assert_close(alone, together, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(backwards, together, rtol=1e-9, atol=1e-9)


def test_fitting_twice_gives_the_same_and_leaves_the_global_stream_alone(kind: type[Detector], fitted: Any) -> None:
    reference, reference_labels = drawn(200, 0)
    clean, labels = drawn(80, 1)
    state = torch.get_rng_state()
    again = made(kind).fit(clean, labels, drawn(80, 2, 3.0)[0], drawn(80, 3)[0], reference, reference_labels)
    assert torch.equal(torch.get_rng_state(), state)
    features, _ = drawn(20, 7)
    assert torch.equal(again.score(features), fitted[kind].score(features))


def test_a_second_fit_forgets_the_first(kind: type[Detector], fitted: Any) -> None:
    clean, labels = drawn(120, 8)
    adversarial, noisy = drawn(60, 9, 2.0)[0], drawn(60, 10)[0]
    first, second = drawn(90, 18), drawn(90, 19)
    once = made(kind).fit(clean, labels, adversarial, noisy, *second)
    twice = made(kind).fit(*drawn(90, 11), drawn(30, 12, -1.0)[0], None, *first)
    twice.fit(clean, labels, adversarial, noisy, *second)
    features, _ = drawn(20, 13)
    assert torch.equal(once.score(features), twice.score(features))


def test_saved_and_loaded_it_scores_the_same(kind: type[Detector], fitted: Any, tmp_path: Any) -> None:
    path = save_detectors(tmp_path / "one.safetensors", {"one": fitted[kind]}, "victim", "pgd", {})
    features, _ = drawn(20, 14)
    assert torch.equal(load_detectors(path, "victim")["one"].score(features), fitted[kind].score(features))
    with pytest.raises(ValueError, match="victim"):
        load_detectors(path, "another")


def test_it_moves_with_its_buffers(kind: type[Detector], fitted: Any) -> None:
    """Every fitted tensor is a buffer: a tensor in a plain attribute would stay behind."""
    tensors = [value for value in vars(fitted[kind]).values() if isinstance(value, Tensor)]
    assert not tensors
    assert len(list(fitted[kind].buffers())) > 0


def test_it_works_in_inference_mode(kind: type[Detector], fitted: Any) -> None:
    reference, reference_labels = drawn(200, 0)
    clean, labels = drawn(80, 1)
    with torch.inference_mode():
        detector = made(kind).fit(clean, labels, drawn(80, 2, 3.0)[0], drawn(80, 3)[0], reference, reference_labels)
    features, _ = drawn(20, 15)
    torch.testing.assert_close(detector.score(features), fitted[kind].score(features))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_features_of_either_precision_are_taken(kind: type[Detector], dtype: torch.dtype, fitted: Any) -> None:
    features, _ = drawn(10, 16)
    other = replace(features, layers={n: v.to(dtype) for n, v in features.layers.items()})
    torch.testing.assert_close(fitted[kind].score(other), fitted[kind].score(features))


def test_it_reads_no_view_that_it_does_not_ask_for(kind: type[Detector], fitted: Any) -> None:
    detector, (features, labels) = fitted[kind], drawn(10, 18)
    plain = Features(features.layers, labels)
    assert detector.views.step == 0  # of the defaults: a step costs passes of the victim
    if detector.views.draws:
        with pytest.raises(ValueError, match=f"{kind.__name__} needs passes with dropout, and the features have none"):
            detector.score(plain)
    elif detector.views.maps:
        with pytest.raises(ValueError, match=f"{kind.__name__} needs maps of the layers, and the features have none"):
            detector.score(plain)
    else:
        assert torch.equal(detector.score(plain), detector.score(features))


def test_what_it_cannot_take_gets_one_sentence(kind: type[Detector], fitted: Any) -> None:
    features, labels = drawn(60, 17)
    broken = Features({**features.layers, "early": features.layers["early"] * torch.nan}, labels, features.draws)
    renamed = Features({"other": features.layers["early"], "late": features.penultimate}, labels, features.draws)
    wider = Features({**features.layers, "early": torch.zeros(60, 5)}, labels, features.draws)
    none = features[:0]
    with pytest.raises(ValueError, match="layer 'early' are not finite for 60 of 60 images"):
        fitted[kind].score(broken)
    with pytest.raises(ValueError, match="expected features of the layers"):
        fitted[kind].score(renamed)
    with pytest.raises(ValueError, match=r"expected layers of \[4, 6\] channels, got \[5, 6\]"):
        fitted[kind].score(wider)
    with pytest.raises(ValueError, match="not fitted yet"):
        made(kind).score(features)
    with pytest.raises(ValueError, match="no successful adversarial image"):
        made(kind).fit(features, labels, none)
    with pytest.raises(ValueError, match="not finite"):
        made(kind).fit(broken, labels, features, None, broken, labels)
    with pytest.raises(ValueError, match="one label for each of 60 images, got 3"):
        made(kind).fit(features, labels[:3], features)
    with pytest.raises(ValueError, match="belong together, and only one of them was given"):
        made(kind).fit(features, labels, features, reference=features)
    if kind.needs_reference:
        with pytest.raises(ValueError, match="give clean training images as reference and reference_labels"):
            made(kind).fit(features, labels, features)
