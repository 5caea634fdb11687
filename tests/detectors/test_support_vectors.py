"""Support vector detectors compared with a machine solved on paper, levels counted by hand, and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import Tensor

from medrobust.detectors.features import Features
from medrobust.detectors.quantized_features import QuantizedFeatures
from medrobust.detectors.support_vectors import SupportVectors

KINDS = [SupportVectors, QuantizedFeatures]


def features(values: Tensor) -> Features:
    """Features whose last layer is given; the layer before it is constant."""
    return Features({"early": torch.ones(len(values), 2), "last": values}, torch.zeros(len(values), dtype=torch.long))


def normal(count: int, channels: int, seed: int, shift: float = 0.0) -> Tensor:
    values = torch.randn((count, channels), generator=torch.Generator().manual_seed(seed))
    return 3 * values + 5 + shift * (torch.arange(channels) < 4)


def fitted(kind, clean: Tensor, adversarial: Tensor | None, **settings):
    positive = None if adversarial is None else features(adversarial)
    return kind(**settings).fit(features(clean), torch.zeros(len(clean), dtype=torch.long), positive)


def test_a_machine_of_two_images_is_solved_on_paper() -> None:
    """x = 0, 0 against 1, 1: mean 0, width 1, gamma 1 / var = 4, kernel e^-4 across the groups.

    The dual is symmetric: every coefficient is a, with 2 a (1 - e^-4) = 1 by the margin, or a = C where C is smaller.
    """
    clean, adversarial = torch.zeros(2, 1), torch.ones(2, 1)
    points, across = torch.tensor([[0.0], [0.5], [1.0], [2.0]]), math.exp(-4)
    for penalty, coefficient in ((100.0, 1 / (2 * (1 - across))), (0.1, 0.1)):
        detector = fitted(SupportVectors, clean, adversarial, penalty=penalty)
        score = detector.score(features(points))
        expected = [
            2 * coefficient * (math.exp(-4 * (point - 1) ** 2) - math.exp(-4 * point**2)) for point in (0, 0.5, 1, 2)
        ]
        torch.testing.assert_close(score, torch.tensor(expected, dtype=torch.float64), rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("penalty", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_scikit_learn_decides_the_same(penalty: float, dtype: torch.dtype) -> None:
    clean, adversarial, test = (normal(*size).to(dtype) for size in ((120, 20, 0), (50, 20, 1, 4.0), (80, 20, 2, 2.0)))
    ours = fitted(SupportVectors, clean, adversarial, penalty=penalty).score(features(test))
    scaler = StandardScaler().fit(clean.double().numpy())
    machine = SVC(C=penalty, gamma="scale", class_weight="balanced")
    rows = np.concatenate([clean.double().numpy(), adversarial.double().numpy()])
    theirs = make_pipeline(scaler, machine.fit(scaler.transform(rows), [0] * 120 + [1] * 50))
    np.testing.assert_allclose(ours.numpy(), theirs.decision_function(test.double().numpy()), rtol=1e-9, atol=1e-9)


def test_scikit_learn_decides_the_same_on_levels() -> None:
    clean, adversarial, test = normal(120, 20, 0), normal(50, 20, 1, 4.0), normal(80, 20, 2, 2.0)
    detector = fitted(QuantizedFeatures, clean, adversarial, levels=4)
    rows = torch.cat([clean, adversarial]).double()
    machine = SVC(gamma="scale", class_weight="balanced").fit(detector.prepare(rows).numpy(), [0] * 120 + [1] * 50)
    theirs = machine.decision_function(detector.prepare(test.double()).numpy())
    np.testing.assert_allclose(detector.score(features(test)).numpy(), theirs, rtol=1e-9, atol=1e-9)


def test_levels_are_counted_by_hand() -> None:
    """1 to 6 in three groups of two: the second above 2, the third above 4. For 1 to 5 the thresholds are the same."""
    column = torch.tensor([[3.0], [1.0], [6.0], [2.0], [5.0], [4.0]]).double()
    for rows in (column, column[column[:, 0] < 6]):
        detector = QuantizedFeatures()
        detector.fit_preparation(rows)
        assert detector.thresholds.tolist() == [[2.0], [4.0]]
    tested = torch.tensor([[-9.0], [2.0], [2.1], [4.0], [4.1], [99.0]]).double()
    assert detector.prepare(tested).flatten().tolist() == [0, 0, 1, 1, 2, 2]

    binary, many = QuantizedFeatures(levels=2), QuantizedFeatures(levels=6)
    binary.fit_preparation(column)
    many.fit_preparation(column)
    assert binary.thresholds.tolist() == [[3.0]]
    assert many.thresholds.flatten().tolist() == [1, 2, 3, 4, 5]
    assert many.prepare(column).flatten().tolist() == [2, 0, 5, 1, 4, 3]


def test_a_channel_that_is_mostly_off_has_its_own_level_for_on() -> None:
    detector = QuantizedFeatures()
    detector.fit_preparation(torch.tensor([[0.0]] * 9 + [[3.0]]).double())
    assert detector.prepare(torch.tensor([[0.0], [0.1]]).double()).flatten().tolist() == [0, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_a_shift_is_found_on_new_images_and_larger_is_adversarial(kind) -> None:
    detector = fitted(kind, normal(150, 16, 0), normal(60, 16, 1, 6.0))
    clean, adversarial = detector.score(features(normal(100, 16, 2))), detector.score(features(normal(100, 16, 3, 6.0)))
    assert (adversarial[:, None] > clean).double().mean() > 0.95
    assert clean.dtype == torch.float64 and clean.shape == (100,)


def test_channels_that_never_change_carry_nothing() -> None:
    """They count in gamma, but reduce the variance as much, up to the square of the mean of all values."""
    parts = [normal(60, 6, 0), normal(30, 6, 1, 3.0), normal(20, 6, 2)]
    alone = fitted(SupportVectors, *parts[:2])
    dead = [torch.cat([part, torch.full((len(part), 6), 0.1)], 1) for part in parts]
    beside = fitted(SupportVectors, *dead[:2])
    beside.keep(gamma=alone.gamma)
    values = beside.prepare(dead[2].double())
    torch.testing.assert_close(values[:, :6], alone.prepare(parts[2].double()))
    assert not values[:, 6:].abs().gt(1e-15).any()
    assert beside.gamma / fitted(SupportVectors, *dead[:2]).gamma == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_images_that_are_all_the_same_have_the_same_score(kind) -> None:
    score = fitted(kind, torch.ones(20, 3), torch.ones(10, 3)).score(features(torch.ones(4, 3)))
    assert score.isfinite().all() and len(set(score.tolist())) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_scores_the_same_alone_and_in_any_batch(kind) -> None:
    detector, test = fitted(kind, normal(80, 30, 0), normal(40, 30, 1, 3.0)), normal(33, 30, 2)
    together = detector.score(features(test))
    alone = torch.cat([detector.score(features(test[i : i + 1])) for i in range(33)])
    torch.testing.assert_close(alone, together, rtol=1e-12, atol=1e-12)
    assert detector.score(features(test[:0])).shape == (0,)


@pytest.mark.parametrize("kind", KINDS)
def test_fitting_again_gives_the_same_and_draws_nothing_from_the_global_generators(kind) -> None:
    clean, adversarial, test = normal(60, 8, 0), normal(30, 8, 1, 3.0), features(normal(20, 8, 2))
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = fitted(kind, clean, adversarial).score(test)
    assert torch.equal(torch.get_rng_state(), before) and (np.random.get_state()[1] == before_numpy).all()
    np.random.seed(7)
    torch.manual_seed(7)
    assert torch.equal(fitted(kind, clean, adversarial).score(test), first)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_fitted_in_inference_mode_can_be_used_outside_it(kind) -> None:
    with torch.inference_mode():
        detector = fitted(kind, normal(60, 8, 0), normal(30, 8, 1, 3.0))
    assert not any(values.is_inference() for values in detector.buffers())
    test = normal(5, 8, 2).requires_grad_()
    score = detector.score(features(test))
    if kind is SupportVectors:  # levels have no gradient
        (gradient,) = torch.autograd.grad(score.sum(), test)
        assert gradient.isfinite().all() and gradient.abs().sum() > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_fork_is_fitted_to_another_attack_without_a_trace(kind) -> None:
    clean, test = normal(60, 8, 0), features(normal(20, 8, 2))
    detector = fitted(kind, clean, normal(30, 8, 1, 3.0))
    before = detector.score(test)
    other = detector.fork()
    other.fit_classifier(clean, normal(30, 8, 1, -3.0))
    assert torch.equal(detector.score(test), before)
    assert not torch.equal(other.score(test), before)


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_fitted_or_scored_is_refused_in_one_sentence(kind) -> None:
    clean, adversarial = normal(20, 4, 0), normal(10, 4, 1)
    with pytest.raises(ValueError, match="no successful adversarial image"):
        fitted(kind, clean, adversarial[:0])
    with pytest.raises(ValueError, match="no correctly classified clean image"):
        fitted(kind, clean[:0], adversarial)
    with pytest.raises(ValueError, match=f"{kind.__name__} has seen no adversarial images yet"):
        fitted(kind, clean, None).score(features(clean))
    with pytest.raises(ValueError, match="is not fitted yet"):
        kind().score(features(clean))
    detector = fitted(kind, clean, adversarial)
    clean[3, 1] = float("nan")
    with pytest.raises(ValueError, match="'last' are not finite for 1 of 20 images"):
        detector.score(features(clean))
    with pytest.raises(ValueError, match="expected features of the layers"):
        detector.score(Features({"other": clean}, torch.zeros(20, dtype=torch.long)))


@pytest.mark.parametrize("penalty", [0, -1.0, float("nan"), float("inf"), "much"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_penalty_out_of_range_is_refused(kind, penalty) -> None:
    with pytest.raises(ValueError, match="penalty weighs"):
        kind(penalty=penalty)


@pytest.mark.parametrize("levels", [1, 0, 2.5])
def test_levels_out_of_range_are_refused(levels) -> None:
    with pytest.raises(ValueError, match=f"levels counts .* at least 2, got {levels}"):
        QuantizedFeatures(levels=levels)
