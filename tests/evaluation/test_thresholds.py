"""Thresholds: the quantile that a known distribution has, and scores of patients that a classifier has not seen."""

from typing import Any

import pytest
import torch
from scipy.stats import norm
from torch import Tensor

from medrobust.detectors import BayesianUncertainty, Detector, Features, Groups, Mahalanobis
from medrobust.evaluation.thresholds import held_out_threshold


class Itself(Detector):
    """Scores by its only measurement, without learning anything."""

    def measure(self, features: Features) -> Tensor:
        return features.penultimate

    def fit_classifier(self, negative: Tensor, positive: Tensor, groups: Groups | None = None) -> None:
        pass

    def classify(self, measured: Tensor) -> Tensor:
        return measured[:, 0]


class Memory(Itself):
    """Knows the negatives that it has learnt from by heart: they score -1, and any other image its measurement."""

    def fit_classifier(self, negative: Tensor, positive: Tensor, groups: Groups | None = None) -> None:
        self.keep(known=negative[:, 0])

    def classify(self, measured: Tensor) -> Tensor:
        return torch.where(torch.isin(measured[:, 0], self.get_buffer("known")), -1.0, measured[:, 0])


def numbers(*values: float) -> Tensor:
    """Measurements of images, one number each."""
    return torch.tensor(values)[:, None]


def apart(negatives: int, positives: int) -> Groups:
    """Every negative is a patient of its own, of whom the first ones also have a positive."""
    return Groups(torch.arange(negatives), torch.arange(positives))


def test_a_threshold_is_the_score_that_nine_in_ten_clean_images_do_not_exceed() -> None:
    clean, positive = numbers(*range(30)), numbers(*range(100, 110))
    assert float(held_out_threshold(Itself(), clean, positive, apart(30, 10), 30)) == 26  # 27, 28 and 29 lie above


def test_noisy_images_do_not_move_it() -> None:
    negative = numbers(*range(30), *range(1000, 1030))
    groups = Groups(torch.arange(30).repeat(2), torch.arange(10))
    assert float(held_out_threshold(Itself(), negative, numbers(*range(10)), groups, 30)) == 26


def test_gaussian_scores_have_the_gaussian_quantile_and_its_false_alarms_on_other_images() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, other = torch.randn(2, 20_000, 1, generator=generator, dtype=torch.float64)
    attacked = 2 + torch.randn(20_000, generator=generator)
    threshold = held_out_threshold(Itself(), clean, clean[:100] + 2, apart(20_000, 100), 20_000)
    assert float(threshold) == pytest.approx(norm.ppf(0.9), abs=0.02)
    assert float((other > threshold).double().mean()) == pytest.approx(0.1, abs=0.01)
    assert float((attacked > threshold).double().mean()) == pytest.approx(norm.sf(norm.ppf(0.9) - 2), abs=0.01)


def test_a_classifier_scores_only_images_that_it_has_not_learnt_from() -> None:
    clean, positive = numbers(*range(30)), numbers(*range(100, 110))
    detector = Memory()
    detector.fit_classifier(clean, positive)
    assert float(detector.classify(clean).max()) == -1  # of its own images it says nothing
    assert float(held_out_threshold(detector, clean, positive, apart(30, 10), 30)) == 26
    assert torch.equal(detector.get_buffer("known"), clean[:, 0])  # it stays what it was
    assert float(held_out_threshold(detector, clean, positive, apart(30, 10), 30, folds=2)) == 26


def test_all_images_of_a_patient_are_left_out_together() -> None:
    clean, positive = numbers(*[patient for patient in range(15) for _ in range(2)]), numbers(*range(100, 110))
    together = Groups(torch.arange(15).repeat_interleave(2), torch.arange(10))
    assert float(held_out_threshold(Memory(), clean, positive, together, 30)) == 13  # 3 of 30 lie above: 14, 14, and 13
    split = Groups(torch.arange(30), torch.arange(10))  # its twin tells an image's score
    assert float(held_out_threshold(Memory(), clean, positive, split, 30)) < 13


def test_undefined_scores_have_no_rank() -> None:
    clean = numbers(*range(30), *[torch.nan] * 10)
    assert float(held_out_threshold(Itself(), clean, numbers(*range(10)), apart(40, 10), 40)) == 26


def test_a_measurement_itself_needs_no_other_patient_and_a_classifier_does() -> None:
    clean, positive = numbers(*range(30)), numbers(1.0)
    detector: Any = BayesianUncertainty()
    assert float(held_out_threshold(detector, clean, positive, None, 30)) == 26
    for groups, words in ((apart(30, 1), "of at least 2 patients"), (None, "know the images' patients")):
        with pytest.raises(ValueError, match=words):
            held_out_threshold(Mahalanobis(), clean, positive, groups, 30)
    with pytest.raises(ValueError, match="score of a clean image"):
        held_out_threshold(detector, numbers(torch.nan), positive, None, 1)


def test_a_detector_flags_what_lies_above_its_threshold() -> None:
    features = Features({"layer": numbers(1.0, 2.0, 3.0)}, torch.zeros(3, dtype=torch.long))
    detector = Itself()
    with pytest.raises(ValueError, match="Itself has no threshold"):
        detector.flags(features)
    detector.keep(threshold=torch.tensor(2.0))
    assert detector.flags(features).tolist() == [False, False, True]
