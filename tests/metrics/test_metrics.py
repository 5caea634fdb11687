"""Metrics compared with their definitions and with numbers worked out by hand."""

import math

import pytest
import torch
from torch import Tensor

from medrobust.metrics.classification import ClassifierQuality
from medrobust.metrics.separation import auroc


def auroc_by_pairs(negative: Tensor, positive: Tensor) -> float:
    """The definition: every pair counts 1, 1/2 or 0."""
    wins = [1.0 if p > n else 0.5 if p == n else 0.0 for n in negative.tolist() for p in positive.tolist()]
    return sum(wins) / len(wins)


def quality(logits: list[list[float]], targets: list[int], batches: int = 1) -> dict[str, float]:
    """All values for hand-made logits, given in this number of batches."""
    metric = ClassifierQuality()
    for part, labels in zip(torch.tensor(logits).chunk(batches), torch.tensor(targets).chunk(batches), strict=True):
        metric.update(part, labels)
    return {name: float(value) for name, value in metric.compute().items()}


def test_auroc_counts_pairs_and_ties_one_half() -> None:
    # pairs (1,2) (1,3) (3,2) (3,3): win, win, loss, tie
    assert float(auroc(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 3.0]))) == 2.5 / 4


@pytest.mark.parametrize("levels", [3, 1000], ids=["many ties", "few ties"])
def test_auroc_is_the_definition_over_all_pairs(levels: int) -> None:
    generator = torch.Generator().manual_seed(levels)
    negative = torch.randint(levels, (37,), generator=generator).double()
    positive = torch.randint(levels, (53,), generator=generator).double() + 0.2 * levels // 1

    assert float(auroc(negative, positive)) == pytest.approx(auroc_by_pairs(negative, positive), abs=1e-12)


def test_auroc_takes_raw_scores_far_outside_the_unit_interval() -> None:
    negative, positive = torch.tensor([2e6, 4e6, 6e6]), torch.tensor([3e6, 5e6, 7e6])
    assert float(auroc(negative, positive)) == pytest.approx(6 / 9)  # 3>2; 5>2,4; 7>2,4,6
    assert float(auroc(-negative, -positive)) == pytest.approx(3 / 9)
    assert float(auroc(1e-9 * negative, 1e-9 * positive)) == pytest.approx(6 / 9)


def test_auroc_is_independent_of_order_and_leaves_its_arguments_alone() -> None:
    negative, positive = torch.tensor([3.0, 1.0, 2.0]), torch.tensor([2.5, 0.5])
    before = negative.clone(), positive.clone()

    assert float(auroc(negative, positive)) == float(auroc(negative.flip(0), positive.flip(0))) == 2 / 6
    assert torch.equal(negative, before[0]) and torch.equal(positive, before[1])


def test_auroc_of_an_empty_group_is_nan() -> None:
    some, none = torch.tensor([1.0]), torch.tensor([])
    assert math.isnan(auroc(some, none)) and math.isnan(auroc(none, some)) and math.isnan(auroc(none, none))
    assert auroc(some, none).dtype == auroc(some, some).dtype == torch.float64


def test_two_classes_have_class_1_as_the_positive_one() -> None:
    # leads z1 - z0: -2, 1 for class 0; 3, 1, -1 for class 1
    values = quality([[2, 0], [0, 1], [0, 3], [0, 1], [1, 0]], [0, 0, 1, 1, 1])

    assert values["accuracy"] == 3 / 5
    assert values["sensitivity"] == pytest.approx(2 / 3)
    assert values["specificity"] == 1 / 2
    assert values["auroc"] == pytest.approx((2 + 1.5 + 1) / 6)
    losses = [math.log1p(math.exp(lead)) for lead in (-2, 1, -3, -1, 1)]
    assert values["loss"] == pytest.approx(sum(losses) / 5)


def test_three_classes_are_averaged_one_against_the_rest() -> None:
    values = quality([[2, 0, 0], [0, 2, 0], [0, 0, 2], [0, 2, 0]], [0, 1, 2, 2])

    assert values["accuracy"] == 3 / 4
    assert values["sensitivity"] == pytest.approx((1 + 1 + 1 / 2) / 3)
    assert values["specificity"] == pytest.approx((1 + 2 / 3 + 1) / 3)
    # class 0: 1 of all; class 1: its one image ties with the last, 2.5 of 3; class 2: 2 + 2 * 0.5 of 4 pairs
    assert values["auroc"] == pytest.approx((1 + 2.5 / 3 + 3 / 4) / 3)
    assert values["loss"] == pytest.approx(math.log(math.exp(2) + 2) - 6 / 4)


def test_saturated_logits_are_still_ordered_where_softmax_ties_at_1() -> None:
    logits = [[0.0, 200.0], [0.0, 300.0], [0.0, 400.0], [0.0, 500.0]]
    assert torch.tensor(logits).softmax(1)[:, 1].unique().numel() == 1  # what a softmax would leave to rank by

    assert quality(logits, [0, 1, 0, 1])["auroc"] == 3 / 4
    assert quality([[-z, 0.0] for _, z in logits], [0, 1, 0, 1])["auroc"] == 3 / 4


def test_saturated_logits_of_three_classes_are_ordered_too() -> None:
    values = quality([[900, 0, 0], [700, 0, 0], [0, 800, 0], [600, 0, 0], [0, 0, 500]], [0, 1, 1, 0, 2])
    # leads of class 0 (pairs 900 and 600 against 700, -800, -500.): 5 of 6; of class 1 (-700, 800 against -900, -600,
    # -500): 1 + 3 of 6; class 2 leads by 500 against negative ones: all
    assert values["auroc"] == pytest.approx((5 / 6 + 4 / 6 + 1) / 3)


def test_a_class_that_never_occurs_is_left_out_of_the_mean_of_three() -> None:
    values = quality([[2, 0, 1], [0, 2, 1], [0, 3, 1]], [0, 1, 1])

    assert values["accuracy"] == values["sensitivity"] == values["specificity"] == values["auroc"] == 1


def test_two_classes_of_which_one_never_occurs_have_no_auroc() -> None:
    values = quality([[2, 0], [0, 2]], [0, 0])

    assert math.isnan(values["auroc"]) and math.isnan(values["sensitivity"])
    assert values["specificity"] == values["accuracy"] == 1 / 2


def test_batches_of_any_size_give_the_same_values() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(12, 3, generator=generator).tolist()
    targets = torch.randint(3, (12,), generator=generator).tolist()

    assert quality(logits, targets, batches=4) == quality(logits, targets)


def test_reset_forgets_every_image() -> None:
    metric = ClassifierQuality()
    metric.update(torch.tensor([[0.0, 1.0]]), torch.tensor([0]))
    assert float(metric.compute()["accuracy"]) == 0
    metric.reset()
    metric.update(torch.tensor([[0.0, 1.0]]), torch.tensor([1]))

    assert float(metric.compute()["accuracy"]) == 1
    assert float(metric.compute()["loss"]) == pytest.approx(math.log1p(math.exp(-1)))


def test_half_precision_logits_are_kept_without_their_graph() -> None:
    metric = ClassifierQuality()
    metric.update(torch.tensor([[0.0, 1.0]], dtype=torch.bfloat16, requires_grad=True), torch.tensor([1]))

    assert not metric.logits[0].requires_grad and float(metric.compute()["accuracy"]) == 1
