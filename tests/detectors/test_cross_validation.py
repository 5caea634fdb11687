"""The penalty of a regression is chosen on other patients than those that it learns from."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
from sklearn.metrics import roc_auc_score
from torch import Tensor

from medrobust.detectors import Features, Groups, Mahalanobis
from medrobust.detectors.cross_validation import STRENGTHS, _area, cross_validated_regression
from medrobust.detectors.patient_groups import dealt


def measured(count: int, layers: int, shift: float, seed: int) -> Tensor:
    """Positive measurements that share one factor, as those of neighbouring layers do."""
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn((count, 1), generator=generator, dtype=torch.float64)
    noise = torch.randn((count, layers), generator=generator, dtype=torch.float64)
    return 10 + factor + 0.3 * noise + shift


def rows_of(patients: int, images: int, layers: int = 8) -> tuple[Tensor, Tensor, Groups]:
    """Values, truth and groups: every image in two negative versions and a positive one."""
    groups = torch.arange(patients).repeat_interleave(images)
    negative = measured(2 * len(groups), layers, 0.0, 1)
    positive = measured(len(groups), layers, 1.5, 2)
    truth = torch.cat([torch.zeros(len(negative)), torch.ones(len(positive))])
    return torch.cat([negative, positive]) - 10, truth, Groups(torch.cat([groups, groups]), groups)


def test_it_is_scikit_learns_search_over_the_same_folds() -> None:
    values, truth, groups = rows_of(20, 3)
    ours = cross_validated_regression(values, truth, groups, 10_000)
    folds = torch.cat(dealt(groups, 5)).numpy()
    splits = [(np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)) for fold in range(5)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        peer = LogisticRegressionCV(
            Cs=10, cv=splits, scoring="roc_auc", class_weight="balanced", max_iter=10_000, tol=1e-8
        ).fit(values.numpy(), truth.numpy())
    areas = np.asarray(peer.scores_[1] if isinstance(peer.scores_, dict) else peer.scores_).reshape(5, 10).mean(0)
    expected = STRENGTHS[np.flatnonzero(areas > areas.max() - 1e-3)[0]]
    assert 1e-4 < expected < 1e4
    assert ours.C == pytest.approx(expected)
    direct = LogisticRegression(C=expected, class_weight="balanced", tol=1e-10, max_iter=10_000)
    np.testing.assert_allclose(ours.coef_, direct.fit(values.numpy(), truth.numpy()).coef_, rtol=1e-4, atol=1e-5)


def test_of_strengths_that_predict_equally_well_the_strongest_penalty_is_taken() -> None:
    """Far apart, every strength ranks every image right: then the weights are those of the most shrunken fit."""
    values, truth, groups = rows_of(10, 2)
    values[truth > 0] += 100
    regression = cross_validated_regression(values, truth, groups, 10_000)
    assert regression.C == STRENGTHS[0]
    assert (regression.coef_ > 0).all()


def test_a_patient_is_never_on_both_sides(monkeypatch: Any) -> None:
    """Each patient's rows carry its number: no fit has seen a patient whose rows it predicts."""
    values, truth, groups = rows_of(12, 2, layers=2)
    values[:, 1] = torch.cat([groups.negative, groups.positive])
    seen: list[tuple[set[float], set[float]]] = []

    class Watched:
        def __init__(self, **settings: Any) -> None:
            self.C = settings["C"]

        def fit(self, rows: Any, classes: Any) -> Any:
            self.patients = set(rows[:, 1])
            return self

        def decision_function(self, rows: Any) -> Any:
            seen.append((self.patients, set(rows[:, 1])))
            return np.zeros(len(rows))

    monkeypatch.setattr("medrobust.detectors.cross_validation.LogisticRegression", Watched)
    cross_validated_regression(values, truth, groups, 10)
    assert len(seen) == 5 * len(STRENGTHS)
    assert not any(learnt & judged for learnt, judged in seen)
    assert set.union(*(judged for _, judged in seen)) == set(range(12))


def test_twins_in_two_folds_would_hide_that_a_weak_penalty_learns_them_by_heart() -> None:
    """Few images of many layers, told apart by their sum: a weak penalty is right about copies of what it learnt."""
    negative, positive = measured(41, 60, 0.0, 1), measured(41, 60, 1.0, 2)
    values = torch.cat([negative, negative, positive, positive]) - 10
    truth = torch.cat([torch.zeros(82), torch.ones(82)])
    patients = torch.arange(41)
    together = Groups(torch.cat([patients, patients]), torch.cat([patients, patients]) + 100)
    apart = Groups(torch.arange(82), torch.arange(82, 164))  # dealt in turn: 41 rows on is another fold
    strengths = [cross_validated_regression(values, truth, groups, 10_000).C for groups in (together, apart)]
    assert strengths[0] < strengths[1]


def test_one_patient_with_adversarial_images_leaves_nothing_to_choose() -> None:
    values, truth, groups = rows_of(6, 2)
    assert cross_validated_regression(values, truth, Groups(groups.negative, groups.positive * 0), 10_000).C == 1


def test_mahalanobis_reads_the_patients_from_the_features_and_names_layers_of_a_wrong_sign() -> None:
    """The second layer is nearer to the clean images for adversarial ones: its weight is negative."""
    generator = torch.Generator().manual_seed(0)

    def seen(count: int, spreads: tuple[float, float], patients: Tensor) -> Features:
        layers = {
            name: spread * torch.randn((count, 6), generator=generator)
            for name, spread in zip(("far", "near"), spreads, strict=True)
        }
        return Features(layers, torch.zeros(count).long(), groups=patients)

    patients = torch.arange(100) // 2
    clean, adversarial = seen(100, (1, 1), patients), seen(100, (2, 0.3), patients)
    reference = seen(200, (1, 1), torch.arange(200))
    labels, known = torch.zeros(100).long(), torch.zeros(200).long()
    detector = Mahalanobis().fit(clean, labels, adversarial, None, reference, known)
    assert detector.wrong_signs() == ["near"]
    values = torch.cat([detector.measure(clean), detector.measure(adversarial)])
    scaled = (values - values[:100].mean(0)) / values[:100].std(0, correction=0)
    truth = torch.cat([torch.zeros(100), torch.ones(100)])
    expected = cross_validated_regression(scaled, truth, Groups(patients, patients), 10_000)
    assert detector.strength.item() == expected.C
    torch.testing.assert_close(
        detector.score(clean), torch.from_numpy(expected.decision_function(scaled[:100].numpy()))
    )


def test_an_area_is_a_share_of_pairs_and_ties_count_one_half() -> None:
    """Of the four pairs of (1, 2) and (2, 3), three are in order and one is a tie."""
    assert _area(np.array([2.0, 1.0]), np.array([3.0, 2.0])) == 3.5 / 4
    random = np.random.default_rng(0)
    negative, positive = random.normal(0, 1, 40).round(1), random.normal(0.5, 1, 25).round(1)
    truth = np.repeat([0, 1], [40, 25])
    assert _area(negative, positive) == pytest.approx(roc_auc_score(truth, np.r_[negative, positive]), abs=1e-12)
