"""HFC: its value, gradient and choice of component on paper, what it is fitted to, and that fits are shared."""

import copy
import gc
import pickle
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from weakref import ref

import pytest
import torch
from torch import Tensor

from medrobust.attacks import BIM
from medrobust.attacks.base import describe
from medrobust.objectives import CrossEntropy
from medrobust.objectives.base import Step, WeightedSum
from medrobust.objectives.clean_features import CleanFeatures, fit_objectives, patterns_wanted
from medrobust.objectives.feature_constraint import FeatureConstraint, mixture_state
from medrobust.objectives.fitted import resembled_class
from medrobust.objectives.gaussian_mixture import Mixture, fit_mixture, joined

TAPS = ("layer*",)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def clean_features_of(layers: dict[str, Tensor], labels: Tensor, taps: tuple[str, ...] = TAPS) -> CleanFeatures:
    return CleanFeatures(layers, labels, [str(place) for place in range(len(labels))], {taps: tuple(layers)})


def step_of(victim: Any, images: Tensor, targets: Any, layers: Sequence[str] = (), targeted: bool = False) -> Step:
    ids = [str(place) for place in range(len(images))]
    return Step(victim, images, images.detach(), targets, ids, targeted, layers)


def fitted_by_hand(mixtures: dict[str, list[Mixture]], like: Tensor) -> FeatureConstraint:
    return FeatureConstraint(TAPS).with_state(mixture_state(mixtures, like))


def gaussian(mean: list[float], covariance: list[list[float]], weight: float = 1.0) -> Mixture:
    """One Gaussian with a given covariance, whose least eigenvalue is its floor."""
    spreads, vectors = torch.linalg.eigh(torch.tensor(covariance, dtype=torch.float64))
    floor = spreads.min()
    return Mixture(
        torch.tensor([weight], dtype=torch.float64).log(),
        torch.tensor([mean], dtype=torch.float64),
        floor[None],
        vectors.T,
        spreads - floor,
        torch.zeros(len(mean), dtype=torch.int64),
    )


def whitening(mixture: Mixture, component: int) -> Tensor:
    """W with W (f - mu) the whitened features of one component: its columns are those of the unit vectors."""
    identity = torch.eye(mixture.means.shape[1], dtype=torch.float64)
    chosen = torch.full((len(identity),), component)
    return mixture.whitened(mixture.means[component] + identity, chosen).T


def test_one_gaussian_by_hand(seen_victim: Any) -> None:
    # Sigma = [[2, 1], [1, 2]], so Sigma^-1 = [[2, -1], [-1, 2]] / 3; f - mu = (2, 1): 6 / 3 = 2; J = 2 / (2 * 2)
    known = gaussian([1.0, 0.0], [[2.0, 1.0], [1.0, 2.0]])
    far = gaussian([50.0, 50.0], [[1.0, 0.0], [0.0, 1.0]])
    image = torch.tensor([[[[3.0, 1.0]]]], dtype=torch.float64, requires_grad=True)
    objective = fitted_by_hand({"layer": [far, known]}, image)
    value = objective(step_of(seen_victim(2, {"layer": 1.0}), image, torch.tensor([0]), ("layer",)))
    assert value.tolist() == pytest.approx([-0.5])
    (gradient,) = torch.autograd.grad(value.sum(), image)
    # -Sigma^-1 (f - mu) / C = -(1, 0) / 2
    torch.testing.assert_close(gradient.flatten(), torch.tensor([-0.5, 0.0], dtype=torch.float64))


def test_unit_covariances_make_it_the_squared_distance_of_all_layers(seen_victim: Any) -> None:
    unit = [[1.0, 0.0], [0.0, 1.0]]
    images = drawn(3, 1, 1, 2)
    mixtures = {f"layer{k}": [gaussian([0.0, 0], unit), gaussian([1.0, 2], unit)] for k in (1, 2)}
    objective = fitted_by_hand(mixtures, images)
    assert objective.layers == ("layer1", "layer2")
    scales = {"layer1": 1.0, "layer2": -2.0}
    value = objective(step_of(seen_victim(2, scales), images, torch.tensor([0, 1, 0]), objective.layers))
    means = torch.tensor([[1.0, 2], [0, 0], [1, 2]], dtype=torch.float64)
    expected = sum(-(scale * images.flatten(1) - means).square().sum(1) / 4 for scale in scales.values())
    torch.testing.assert_close(value, expected)


def test_the_likeliest_component_counts_and_not_the_nearest_mean(seen_victim: Any) -> None:
    narrow = gaussian([0.0, 0], [[0.01, 0.0], [0.0, 0.01]], 0.5)
    wide = gaussian([3.0, 0], [[4.0, 0.0], [0.0, 4.0]], 0.5)
    image = torch.tensor([[[[1.0, 0.0]]]], dtype=torch.float64)
    # ln: narrow -50 + 4.6 (its determinant is 10^-4); wide -0.5 - 1.4; its J = (4 / 4) / (2 * 2)
    objective = fitted_by_hand({"layer": [joined([narrow, wide]), joined([wide, narrow])]}, image)
    for targets in ([0], [1]):
        value = objective(step_of(seen_victim(2, {"layer": 1.0}), image, torch.tensor(targets), ("layer",)))
        assert value.tolist() == pytest.approx([-0.25])


def test_the_heavier_of_two_equal_components_counts(seen_victim: Any) -> None:
    unit = [[1.0, 0.0], [0.0, 1.0]]
    image = torch.tensor([[[[0.9, 0.0]]]], dtype=torch.float64)  # nearer to the first mean
    for weight, expected in ((0.5, 0.9**2 / 4), (0.01, 1.1**2 / 4)):
        parts = joined([gaussian([0.0, 0], unit, weight), gaussian([2.0, 0], unit, 1 - weight)])
        objective = fitted_by_hand({"layer": [parts, parts]}, image)
        value = objective(step_of(seen_victim(2, {"layer": 1.0}), image, torch.tensor([0]), ("layer",)))
        assert value.tolist() == pytest.approx([-expected])


@pytest.mark.parametrize("components", [1, 3])
def test_the_gradient_is_the_precision_times_the_deviation(components: int, seen_victim: Any) -> None:
    layers, labels = {"layer1": drawn(60, 4), "layer2": drawn(60, 4, seed=1)}, torch.arange(60) % 2
    objective = FeatureConstraint(TAPS, components).fit(clean_features_of(layers, labels))
    images, targets = drawn(5, 1, 2, 2, seed=2).requires_grad_(), torch.tensor([0, 1, 1, 0, 1])
    scales = {"layer1": 0.7, "layer2": 1.3}
    value = objective(step_of(seen_victim(2, scales), images, targets, objective.layers))
    (gradient,) = torch.autograd.grad(value.sum(), images)
    expected, worth = torch.zeros(5, 4, dtype=torch.float64), torch.zeros(5, dtype=torch.float64)
    for name, features in layers.items():
        for row in range(5):
            mixture = fit_mixture(features[labels == 1 - targets[row]], components)
            seen = images[row].detach().flatten() * scales[name]
            best = mixture.log_densities(seen[None])[0].argmax()
            factor, apart = whitening(mixture, int(best)), seen - mixture.means[best]
            expected[row] -= scales[name] * (factor @ (factor @ apart)) / 4
            worth[row] -= (factor @ apart).square().sum() / 8
    torch.testing.assert_close(gradient.flatten(1), expected)
    torch.testing.assert_close(value.detach(), worth)


@pytest.mark.parametrize("components", [1, 4])
def test_batch_mates_change_nothing(components: int, seen_victim: Any) -> None:
    layers, labels = {"layer1": drawn(60, 4).float(), "layer2": drawn(60, 4, seed=1).float()}, torch.arange(60) % 3
    objective = FeatureConstraint(TAPS, components).fit(clean_features_of(layers, labels))
    victim = seen_victim(3, {"layer1": 0.7, "layer2": 1.3})
    images, targets = drawn(6, 1, 2, 2, seed=2).float(), torch.arange(6) % 3
    together = objective(step_of(victim, images, targets, objective.layers))
    for row in range(6):
        alone = objective(step_of(victim, images[row : row + 1], targets[row : row + 1], objective.layers))
        torch.testing.assert_close(alone[0], together[row], rtol=1e-4, atol=1e-5)


def test_the_class_to_resemble(seen_victim: Any) -> None:
    logits = torch.tensor([[5.0, 1.0, 2.0], [5.0, 1.0, 2.0], [5.0, 1.0, 2.0], [0.0, 3.0, -1.0]])[:, None, None]
    targets = torch.tensor([0, 1, 2, 1])
    assert resembled_class(step_of(seen_victim(3, {}), logits, targets)).tolist() == [2, 0, 0, 0]
    assert resembled_class(step_of(seen_victim(2, {}), logits, targets % 2)).tolist() == [1, 0, 1, 0]
    assert resembled_class(step_of(seen_victim(3, {}), logits, targets, targeted=True)).tolist() == [0, 1, 2, 1]
    for classes, unfit in ((3, [{}] * 4), (1, targets), (3, targets[:, None])):
        with pytest.raises(ValueError, match=r"classes \(N,\) and logits \(N, K\), K >= 2, are needed"):
            resembled_class(step_of(seen_victim(classes, {}), logits, unfit))


def test_fitting_keeps_the_parameters_and_shares_the_fit() -> None:
    clean_features = clean_features_of({"layer1": drawn(20, 3), "layer2": drawn(20, 5, seed=1)}, torch.arange(20) % 2)
    unfitted = FeatureConstraint(TAPS, max_channels=4)
    assert (unfitted.fitted_to, unfitted.layers) == (TAPS, ())
    first, second = unfitted.fit(clean_features), FeatureConstraint(TAPS, max_channels=4).fit(clean_features)
    assert (first.fitted_to, first.layers) == ((), ("layer1",))
    assert first.state is second.state
    assert first == second and hash(first) == hash(second)
    assert first != unfitted and unfitted == FeatureConstraint(list(TAPS), max_channels=4)  # type: ignore[arg-type]
    assert FeatureConstraint(TAPS).fit(clean_features).state is not first.state
    assert describe(first) == describe(unfitted)
    assert repr(first) == repr(unfitted) and "tensor" not in repr(first)
    assert replace(first, seed=1).fitted_to == TAPS
    for same in (copy.deepcopy(first), pickle.loads(pickle.dumps(first))):
        assert same.fitted_to == () and same.layers == first.layers
    attack = BIM(objective=WeightedSum((CrossEntropy(), unfitted), (1.0, 2.0)))
    assert patterns_wanted(attack) == [TAPS]
    ready = replace(fit_objectives(attack, clean_features), steps=3)
    assert ready.objective.terms[1] == first and ready.parameters()["objective"] == describe(attack.objective)


def test_fits_are_forgotten_with_their_reference() -> None:
    clean_features = clean_features_of({"layer": drawn(20, 3)}, torch.arange(20) % 2)
    state = ref(FeatureConstraint(TAPS).fit(clean_features).state)
    assert state() is not None
    del clean_features
    gc.collect()
    assert state() is None


def test_the_state_follows_the_images() -> None:
    clean_features = clean_features_of({"layer": drawn(20, 4).float()}, torch.arange(20) % 2)
    objective = FeatureConstraint(TAPS, 2).fit(clean_features)
    parts = {kind: objective.state.parts_for(torch.zeros(1, dtype=kind)) for kind in (torch.float32, torch.float64)}
    assert parts[torch.float64][0].mixture.means.dtype == torch.float64
    assert parts[torch.float64][0].mixture.owners.dtype == torch.int64
    assert objective.state.parts_for(torch.zeros(1, dtype=torch.float64)) is parts[torch.float64]
    assert objective.state.parts_for(torch.zeros(1, dtype=torch.bfloat16))[0].mixture.means.dtype == torch.float32


def test_it_can_be_fitted_in_inference_mode(seen_victim: Any) -> None:
    with torch.inference_mode():
        clean_features = clean_features_of({"layer": drawn(20, 4) + 0}, torch.arange(20) % 2)
        objective = FeatureConstraint(TAPS, 2).fit(clean_features)
    images = drawn(2, 1, 2, 2).requires_grad_()
    value = objective(step_of(seen_victim(2, {"layer": 1.0}), images, torch.tensor([0, 1]), ("layer",)))
    assert bool(torch.autograd.grad(value.sum(), images)[0].any())


def test_too_many_components_are_clamped_with_one_warning_a_class(seen_victim: Any) -> None:
    layers = {f"layer{k}": drawn(13, 6, seed=k) for k in range(4)}
    labels = torch.tensor([0] * 8 + [1] * 5)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        objective = FeatureConstraint(TAPS, 64).fit(clean_features_of(layers, labels))
    words = [str(one.message) for one in caught]
    assert len(words) == 2
    assert "class 0 has 8 clean images: 4 Gaussians at each layer instead of 64" in words[0]
    assert "class 1 has 5 clean images: 2 Gaussians" in words[1]
    images = drawn(4, 1, 2, 3)
    victim = seen_victim(2, dict.fromkeys(layers, 1.0))
    assert bool(objective(step_of(victim, images, torch.arange(4) % 2, objective.layers)).isfinite().all())


def test_two_images_of_a_class_are_enough_for_one_gaussian(seen_victim: Any) -> None:
    clean_features = clean_features_of({"layer": drawn(4, 6)}, torch.arange(4) % 2)
    objective = FeatureConstraint(TAPS).fit(clean_features)
    value = objective(step_of(seen_victim(2, {"layer": 1.0}), drawn(3, 1, 2, 3), torch.tensor([0, 1, 1]), ("layer",)))
    assert bool(value.isfinite().all()) and bool((value < 0).all())


def test_a_constant_layer_is_left_out_with_one_warning() -> None:
    constant = torch.full((10, 3), 0.1)
    layers = {"layer1": constant, "layer2": drawn(10, 3).float(), "layer3": constant}
    with pytest.warns(UserWarning, match="constant: layer1, layer3$") as caught:
        objective = FeatureConstraint(TAPS).fit(clean_features_of(layers, torch.arange(10) % 2))
    assert len(caught) == 1
    assert objective.layers == ("layer2",)
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="layer whose features vary"):
        FeatureConstraint(TAPS).fit(clean_features_of({"layer": constant}, torch.arange(10) % 2))


def test_layers_that_are_too_wide_are_left_out() -> None:
    clean_features = clean_features_of({"layer1": drawn(10, 3), "layer2": drawn(10, 4)}, torch.arange(10) % 2)
    assert FeatureConstraint(TAPS, max_channels=3).fit(clean_features).layers == ("layer1",)
    with pytest.raises(ValueError, match="of at most 2 channels"):
        FeatureConstraint(TAPS, max_channels=2).fit(clean_features)


@pytest.mark.parametrize(("labels", "words"), [([0, 0, 2, 2], "none of class 1"), ([0, 0, 0, 1], "got 1 of class 1")])
def test_missing_images_are_named(labels: list[int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FeatureConstraint(TAPS).fit(clean_features_of({"layer": drawn(4, 3)}, torch.tensor(labels)))


def test_a_victim_of_other_classes_is_refused(seen_victim: Any) -> None:
    objective = FeatureConstraint(TAPS).fit(clean_features_of({"layer": drawn(4, 4)}, torch.arange(4) % 2))
    with pytest.raises(ValueError, match="each of the victim's 3 classes, .* are of 2"):
        objective(step_of(seen_victim(3, {"layer": 1.0}), drawn(3, 1, 2, 2), torch.tensor([0, 1, 2]), ("layer",)))


def test_unfitted_it_says_so(waves: Any) -> None:
    from medrobust.networks import as_victim

    network, images, labels = waves
    attack = BIM(targeted=True, objective=WeightedSum((CrossEntropy(), FeatureConstraint()), (1.0, 1.0)))
    with pytest.raises(ValueError, match="FeatureConstraint is fitted to clean training images first"):
        attack(as_victim(network), images, labels)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"components": 0}, "at least 1, got 0"),
        ({"shrinkage": 1.5}, "lies in \\[0, 1\\], got 1.5"),
        ({"max_channels": 0}, "at least 1, or None"),
        ({"taps": ()}, "at least one pattern"),
        ({"taps": "activations"}, "a list of at least one"),
    ],
)
def test_bad_settings_get_one_sentence(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        FeatureConstraint(**settings)
