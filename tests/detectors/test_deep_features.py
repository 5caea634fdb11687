"""The forest of deep features compared with a stump on paper and with scikit-learn, also exactly at thresholds."""

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from torch import Tensor

from medrobust.detectors.deep_features import DeepFeatures
from medrobust.detectors.features import Features


def features(values: Tensor) -> Features:
    """Features whose last layer is given; the layer before it is constant."""
    return Features({"early": torch.ones(len(values), 2), "last": values}, torch.zeros(len(values), dtype=torch.long))


def normal(count: int, channels: int, seed: int, shift: float = 0.0) -> Tensor:
    values = torch.randn((count, channels), generator=torch.Generator().manual_seed(seed))
    return 3 * values + 5 + shift * (torch.arange(channels) < 4)


def fitted(clean: Tensor, adversarial: Tensor | None, **settings) -> DeepFeatures:
    positive = None if adversarial is None else features(adversarial)
    return DeepFeatures(**settings).fit(features(clean), torch.zeros(len(clean), dtype=torch.long), positive)


def scikit_learn(detector: DeepFeatures, clean: Tensor, adversarial: Tensor) -> tuple:
    """A forest of scikit-learn on the same scaled features, and the scaling."""
    low, high = clean.double().numpy().min(0), clean.double().numpy().max(0)

    def scale(values: Tensor) -> np.ndarray:
        return (values.double().numpy() - low) / (high - low)

    forest = RandomForestClassifier(detector.trees, class_weight="balanced", random_state=detector.seed)
    truth = [0] * len(clean) + [1] * len(adversarial)
    return forest.fit(np.concatenate([scale(clean), scale(adversarial)]), truth), scale


def test_a_single_cut_is_found_on_paper() -> None:
    """Clean 0 and 1, adversarial 3: scaled 0, 1 and 3, cut halfway at 2, that is at 2 before scaling."""
    detector = fitted(torch.tensor([[0.0], [1.0]] * 20), torch.full((20, 1), 3.0), trees=5)
    score = detector.score(features(torch.tensor([[-50.0], [0.0], [1.9], [2.1], [3.0], [50.0]])))
    assert score.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize(("trees", "seed"), [(1, 0), (40, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scikit_learn_gives_exactly_the_same_probability(trees: int, seed: int, dtype: torch.dtype) -> None:
    clean, adversarial, test = (normal(*size).to(dtype) for size in ((150, 20, 0), (70, 20, 1, 2.0), (200, 20, 2, 1.0)))
    detector = fitted(clean, adversarial, trees=trees, seed=seed)
    forest, scale = scikit_learn(detector, clean, adversarial)
    assert detector.score(features(test)).tolist() == forest.predict_proba(scale(test))[:, 1].tolist()


def test_values_exactly_at_a_threshold_go_where_scikit_learn_sends_them() -> None:
    """On a grid of quarters, thresholds are eighths, exact in float32: values at them and just below and above."""
    grid = torch.randint(0, 5, (120, 6), generator=torch.Generator().manual_seed(0)) / 4
    clean, adversarial = torch.cat([grid[:80], torch.zeros(1, 6), torch.ones(1, 6)]), grid[80:]
    detector = fitted(clean, adversarial, trees=20)
    forest, scale = scikit_learn(detector, clean, adversarial)
    eighths = torch.randint(-2, 11, (400, 6), generator=torch.Generator().manual_seed(1)) / 8
    used = torch.cat([torch.from_numpy(tree.tree_.threshold) for tree in forest.estimators_])
    assert torch.isin(used[used != -2], eighths.double()).all()
    for tested in (eighths, torch.nextafter(eighths, torch.tensor(9.0)), torch.nextafter(eighths, torch.tensor(-9.0))):
        assert detector.score(features(tested)).tolist() == forest.predict_proba(scale(tested))[:, 1].tolist()


def test_a_shift_is_found_on_new_images_and_larger_is_adversarial() -> None:
    detector = fitted(normal(150, 16, 0), normal(60, 16, 1, 6.0))
    clean, adversarial = detector.score(features(normal(100, 16, 2))), detector.score(features(normal(100, 16, 3, 6.0)))
    assert (adversarial[:, None] > clean).double().mean() > 0.95
    assert clean.dtype == torch.float64 and clean.shape == (100,)


def test_channels_that_never_change_carry_nothing() -> None:
    nothing = fitted(torch.ones(20, 3), torch.ones(10, 3), trees=5).score(features(torch.ones(4, 3)))
    assert nothing.isfinite().all() and len(set(nothing.tolist())) == 1
    clean, adversarial = normal(40, 4, 0), normal(20, 4, 1, 9.0)
    clean[:, 3], adversarial[:, 3] = 0.1, 0.1
    detector = fitted(clean, adversarial, trees=10)
    inner = detector.branches[:, 0] != detector.branches[:, 1]
    assert inner.any() and 3 not in detector.channels[inner].tolist()


def test_values_beyond_float32_after_scaling_are_clipped() -> None:
    clean = torch.tensor([[0.0], [1e-30]] * 10)
    detector = fitted(clean, torch.full((10, 1), 1e30), trees=5)
    assert detector.score(features(torch.tensor([[0.0], [3e38], [-3e38]]))).tolist() == [0, 1, 0]


def test_an_image_scores_the_same_alone_and_in_any_batch() -> None:
    detector, test = fitted(normal(80, 30, 0), normal(40, 30, 1, 3.0)), normal(33, 30, 2)
    together = detector.score(features(test))
    assert torch.equal(torch.cat([detector.score(features(test[i : i + 1])) for i in range(33)]), together)
    assert detector.score(features(test[:0])).shape == (0,)


def test_fitting_again_gives_the_same_and_draws_nothing_from_the_global_generators() -> None:
    clean, adversarial, test = normal(60, 8, 0), normal(30, 8, 1, 3.0), features(normal(20, 8, 2))
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = fitted(clean, adversarial, trees=10).score(test)
    assert torch.equal(torch.get_rng_state(), before) and (np.random.get_state()[1] == before_numpy).all()
    np.random.seed(7)
    torch.manual_seed(7)
    assert torch.equal(fitted(clean, adversarial, trees=10).score(test), first)
    assert not torch.equal(fitted(clean, adversarial, trees=10, seed=1).score(test), first)


def test_what_is_fitted_in_inference_mode_can_be_used_outside_it() -> None:
    with torch.inference_mode():
        detector = fitted(normal(60, 8, 0), normal(30, 8, 1, 3.0), trees=10)
    assert not any(values.is_inference() for values in detector.buffers())


def test_a_fork_is_fitted_to_another_attack_without_a_trace() -> None:
    clean, test = normal(60, 8, 0), features(normal(20, 8, 2))
    detector = fitted(clean, normal(30, 8, 1, 3.0), trees=10)
    before, other = detector.score(test), detector.fork()
    other.fit_classifier(clean, normal(30, 8, 1, -3.0))
    assert torch.equal(detector.score(test), before)
    assert not torch.equal(other.score(test), before)


def test_what_cannot_be_fitted_or_scored_is_refused_in_one_sentence() -> None:
    clean, adversarial = normal(20, 4, 0), normal(10, 4, 1)
    with pytest.raises(ValueError, match="no successful adversarial image"):
        fitted(clean, adversarial[:0])
    with pytest.raises(ValueError, match="no correctly classified clean image"):
        fitted(clean[:0], adversarial)
    with pytest.raises(ValueError, match="DeepFeatures has seen no adversarial images yet"):
        fitted(clean, None).score(features(clean))
    detector = fitted(clean, adversarial, trees=2)
    clean[3, 1] = float("nan")
    with pytest.raises(ValueError, match="'last' are not finite for 1 of 20 images"):
        detector.score(features(clean))
    with pytest.raises(ValueError, match="expected features of the layers"):
        detector.score(Features({"other": clean}, torch.zeros(20, dtype=torch.long)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"trees": 0}, "trees is a whole number of at least 1, got 0"),
        ({"trees": 1.5}, "trees is a whole number of at least 1, got 1.5"),
        ({"seed": -1}, "seed is a whole number of at least 0 and below 2 .. 32, got -1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        DeepFeatures(**settings)
