"""Numbers of labels and calibration: counted by hand, and compared with scikit-learn and torchmetrics."""

import math

import pytest
import torch
from sklearn.metrics import cohen_kappa_score, recall_score, roc_auc_score
from torchmetrics.functional.classification import multiclass_calibration_error

from medrobust.metrics.calibration import calibration_error
from medrobust.metrics.classification import ClassifierQuality
from medrobust.metrics.labels import LabelQuality


def test_labels_are_counted_by_hand_and_unknown_ones_nowhere() -> None:
    metric = LabelQuality(["a", "b"])
    metric.update(torch.tensor([[1.0, -1.0], [0.0, 9.0]]), torch.tensor([[1, 1], [0, -1]]))
    metric.update(torch.tensor([[-2.0, 2.0], [7.0, 7.0]]), torch.tensor([[0, 0], [-1, -1]]))
    values = {name: float(value) for name, value in metric.compute().items()}

    first = [math.log1p(math.exp(x)) for x in (-1, 0, -2)]
    second = [math.log1p(math.exp(x)) for x in (1, 2)]
    images = [(first[0] + second[0]) / 2, first[1], (first[2] + second[1]) / 2]
    assert values["loss"] == pytest.approx(sum(images) / 3)
    assert values["accuracy"] == pytest.approx(1 / 3)  # the second image alone; the last one has no known label
    assert values["quality"] == pytest.approx(3 / 5)
    assert values["loss_a"] == pytest.approx(sum(first) / 3) and values["loss_b"] == pytest.approx(sum(second) / 2)
    assert (values["auroc_a"], values["sensitivity_a"], values["specificity_a"]) == (1, 1, 1)
    assert (values["auroc_b"], values["sensitivity_b"], values["specificity_b"]) == (0, 0, 0)
    assert (values["auroc"], values["sensitivity"], values["specificity"]) == (0.5, 0.5, 0.5)


def test_a_label_of_which_one_state_never_occurs_is_left_out_of_the_means() -> None:
    metric = LabelQuality()
    metric.update(torch.tensor([[1.0, -1.0], [-1.0, -2.0]]), torch.tensor([[1, 0], [0, 0]]))
    values = {name: float(value) for name, value in metric.compute().items()}
    assert values["auroc"] == values["auroc_0"] == 1 and math.isnan(values["auroc_1"])


def test_the_mean_auroc_of_labels_is_scikit_learns_macro_average() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 2, (80, 4), generator=generator)
    logits = torch.randn(80, 4, generator=generator) + targets
    metric = LabelQuality()
    metric.update(logits, targets)
    expected = roc_auc_score(targets.numpy(), logits.numpy(), average="macro")
    assert float(metric.compute()["auroc"]) == pytest.approx(expected)


def test_the_calibration_error_is_counted_by_hand() -> None:
    # (0.4, 0.4667]: 1 of 2 right at 0.44; (0.9333, 1]: 3 of 4 right at 0.975; 0.2 closes the third bin
    confidence = torch.tensor([0.42, 0.46, 1.0, 0.95, 0.95, 1.0], dtype=torch.float64)
    right = torch.tensor([True, False, True, True, True, False])
    assert float(calibration_error(confidence, right)) == pytest.approx((2 * 0.06 + 4 * 0.225) / 6)
    edge = torch.tensor([0.2, 0.19], dtype=torch.float64)
    assert float(calibration_error(edge, torch.tensor([False, True]))) == pytest.approx(abs(1 - 0.39) / 2)
    assert math.isnan(float(calibration_error(torch.empty(0), torch.empty(0, dtype=torch.bool))))


def test_five_grades_have_the_numbers_of_scikit_learn_and_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(4)
    targets = torch.randint(0, 5, (200,), generator=generator)
    logits = 2 * torch.randn(200, 5, generator=generator)
    logits[torch.arange(200), targets] += 2
    metric = ClassifierQuality(["none", "mild", "moderate", "severe", "proliferative"], ordered=True)
    for part, truth in zip(logits.chunk(3), targets.chunk(3), strict=True):
        metric.update(part, truth)
    values = {name: float(value) for name, value in metric.compute().items()}
    probabilities, predictions = logits.softmax(1), logits.argmax(1)

    assert values["kappa"] == pytest.approx(cohen_kappa_score(targets, predictions, weights="quadratic"), abs=1e-6)
    expected = multiclass_calibration_error(probabilities, targets, 5, n_bins=15, norm="l1")
    assert values["calibration_error"] == pytest.approx(float(expected), abs=1e-6)
    sensitivities = recall_score(targets, predictions, average=None)
    assert [values[f"sensitivity_{name}"] for name in metric.names] == pytest.approx(list(sensitivities))
    assert values["sensitivity"] == pytest.approx(sensitivities.mean())
    severe = targets == 3
    assert values["specificity_severe"] == pytest.approx(float((predictions[~severe] != 3).double().mean()))
    # scikit-learn ranks by probabilities, in the same order as far as these do not tie
    macro = roc_auc_score(targets, probabilities.double(), multi_class="ovr", average="macro", labels=range(5))
    assert values["auroc"] == pytest.approx(macro, abs=1e-6)


def test_two_classes_and_unordered_ones_have_fewer_numbers() -> None:
    metric = ClassifierQuality(["a", "b"])
    metric.update(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 0]))
    assert set(metric.compute()) == {"loss", "accuracy", "auroc", "sensitivity", "specificity", "calibration_error"}
