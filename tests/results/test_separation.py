"""Separation of scores: by hand, by all pairs, against scikit-learn, and both versions of AUROC together."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from sklearn.metrics import roc_curve as sklearn_roc_curve

from medrobust.metrics.separation import auroc as auroc_in_torch
from medrobust.results import separation


def scores(seed, n=60, m=45, levels=None, scale=1.0, shift=0.8):
    """Two groups that overlap; a few levels make many ties."""
    random = np.random.default_rng(seed)
    negative, positive = random.normal(0, 1, n), random.normal(shift, 1, m)
    if levels:
        negative, positive = np.round(negative * levels) / levels, np.round(positive * levels) / levels
    return negative * scale, positive * scale


CASES = [scores(0), scores(1, levels=2), scores(2, levels=1, n=30), scores(3, scale=1e300), scores(4, n=1, m=7)]


@pytest.mark.parametrize(("negative", "positive"), CASES)
def test_auroc_is_scikit_learns_and_the_share_of_pairs(negative, positive):
    pairs = np.mean([(p > n) + 0.5 * (p == n) for p, n in itertools.product(positive, negative)])
    labels = np.repeat([0, 1], [len(negative), len(positive)])
    assert separation.auroc(negative, positive) == pytest.approx(pairs, abs=1e-12)
    assert separation.auroc(negative, positive) == pytest.approx(roc_auc_score(labels, np.r_[negative, positive]))
    in_torch = auroc_in_torch(torch.from_numpy(negative), torch.from_numpy(positive))
    assert separation.auroc(negative, positive) == pytest.approx(float(in_torch), abs=1e-12)


def test_tpr_at_tnr_by_hand():
    negative = np.arange(1.0, 11.0)  # nine of ten pass a threshold of 9
    assert separation.tpr_at_tnr(negative, np.array([8.9, 9.0, 9.1, 10.0, 99.0])) == 3 / 5
    assert separation.tpr_at_tnr(negative, np.array([9.0])) == 0  # a tie is missed
    assert separation.tpr_at_tnr(negative, np.array([9.0, 10.0]), tnr=1.0) == 0
    assert separation.tpr_at_tnr(negative, np.array([10.5]), tnr=1.0) == 1
    assert separation.tpr_at_tnr(negative, np.array([1.0, 1.5]), tnr=0.01) == 1 / 2
    tied = np.array([0.0] * 8 + [5.0] * 2)  # to flag the two would be 20 %, so nothing at 5 is
    assert separation.tpr_at_tnr(tied, np.array([5.0, 5.0, 6.0, 4.0])) == 1 / 4


@pytest.mark.parametrize("count", [10, 20, 30, 70, 110])
def test_a_tenth_of_the_negatives_may_be_flagged_whatever_products_round_to(count):
    negative = np.arange(float(count))
    expected = count // 10
    assert separation.tpr_at_tnr(negative, negative) == expected / count


@pytest.mark.parametrize(("negative", "positive"), CASES)
@pytest.mark.parametrize("tnr", [0.5, 0.9, 0.95, 1.0])
def test_tpr_is_the_highest_of_the_curve_at_that_fpr(negative, positive, tnr):
    labels = np.repeat([0, 1], [len(negative), len(positive)])
    false, true, _ = sklearn_roc_curve(labels, np.r_[negative, positive], drop_intermediate=False)
    assert separation.tpr_at_tnr(negative, positive, tnr) == true[false <= 1 - tnr + 1e-12].max()


@pytest.mark.parametrize(("negative", "positive"), CASES)
def test_roc_curves_are_scikit_learns(negative, positive):
    labels = np.repeat([0, 1], [len(negative), len(positive)])
    expected = sklearn_roc_curve(labels, np.r_[negative, positive], drop_intermediate=False)[:2]
    corners = separation.roc_curve(negative, positive)
    # scikit-learn's points lie on our corners or on the straight lines between them, vertical ones included
    along = [rates[0] + rates[1] for rates in (expected, corners)]
    for theirs, rates in zip(expected, corners, strict=True):
        np.testing.assert_allclose(np.interp(along[0], along[1], rates), theirs, atol=1e-12)
    assert np.trapezoid(corners[1], corners[0]) == pytest.approx(separation.auroc(negative, positive))
    assert len(corners[0]) <= len(expected[0])


def test_a_curve_of_few_points_stays_on_the_curve_and_keeps_its_ends():
    negative, positive = scores(5, n=900, m=700)
    false, true = separation.roc_curve(negative, positive, points=60)
    corners = set(zip(*separation.roc_curve(negative, positive), strict=True))
    assert 30 < len(false) <= 60
    assert corners >= set(zip(false, true, strict=True))
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(true, false) == pytest.approx(separation.auroc(negative, positive), abs=2e-3)
    with pytest.raises(ValueError, match="2 points or more, got points=1"):
        separation.roc_curve(negative, positive, points=1)


def test_nothing_comes_of_an_empty_group():
    some, none = np.array([1.0, 2.0]), np.empty(0)
    numbers = np.arange(2)
    for negative, positive in ((some, none), (none, some), (none, none)):
        assert separation.auroc(negative, positive) is None
        assert separation.tpr_at_tnr(negative, positive) is None
        assert [len(rates) for rates in separation.roc_curve(negative, positive)] == [0, 0]
        images = numbers[: len(negative)], numbers[: len(positive)]
        assert separation.bootstrap_intervals(negative, images[0], positive, images[1]) == (None, None)


def test_scores_that_cannot_be_ranked_and_rates_that_cannot_be_are_refused():
    some, undefined = np.array([1.0, 2.0]), np.array([1.0, np.nan])
    for measure in (separation.auroc, separation.tpr_at_tnr, separation.roc_curve):
        with pytest.raises(ValueError, match="must not be NaN"):
            measure(some, undefined)
    for tnr in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="true negative rate"):
            separation.tpr_at_tnr(some, some, tnr)


def intervals(negative, positive, copies=1, **options):
    """Intervals where each image has one positive and `copies` equal negatives."""
    images = np.arange(len(negative))
    return separation.bootstrap_intervals(
        np.tile(negative, copies), np.tile(images, copies), positive, images[: len(positive)], **options
    )


def test_the_bootstrap_equals_one_that_draws_images_in_a_loop():
    negative, positive = scores(6, n=25, m=25, levels=2)
    noisy = np.random.default_rng(0).normal(0, 1, 25)
    images, has = np.arange(25), np.arange(25) % 3 > 0  # a third of the images has no positive
    both, owners = np.r_[negative, noisy], np.r_[images, images]
    given = separation.bootstrap_intervals(both, owners, positive[has], images[has], resamples=300, seed=7)
    weights = np.concatenate([block.T for block in separation._draws(25, 300, 50, 7)])
    assert weights.shape == (300, 25)
    assert (weights.sum(axis=1) == 25).all()
    areas, rates = [], []
    for weight in weights:
        drawn = np.repeat(images, weight)
        negatives = np.r_[negative[drawn], noisy[drawn]]
        positives = positive[drawn[has[drawn]]]
        areas.append(separation.auroc(negatives, positives))
        rates.append(separation.tpr_at_tnr(negatives, positives))
    assert given.auroc == pytest.approx(np.percentile(areas, [2.5, 97.5]).tolist())
    assert given.tpr == pytest.approx(np.percentile(rates, [2.5, 97.5]).tolist())


def test_intervals_shrink_with_n_and_are_the_same_each_time():
    widths = []
    for n in (50, 200, 800):
        negative, positive = scores(8, n=n, m=n)
        found = intervals(negative, positive)
        assert found == intervals(negative, positive)
        assert found.auroc[0] < separation.auroc(negative, positive) < found.auroc[1]
        assert found.tpr[0] <= separation.tpr_at_tnr(negative, positive) <= found.tpr[1]
        widths.append(found.auroc[1] - found.auroc[0])
    assert widths[0] > 1.5 * widths[1] > 2.25 * widths[2]


def test_copies_of_an_image_add_no_certainty():
    negative, positive = scores(9, n=80, m=80)
    assert intervals(negative, positive, copies=2).auroc == pytest.approx(intervals(negative, positive).auroc)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    truth = 0.5 * (1 + torch.erf(torch.tensor(0.8 / 2)).item())  # P(N(0.8, 2) > 0)
    covered = 0
    for seed in range(200):
        lower, upper = intervals(*scores(100 + seed, n=60, m=60), resamples=400).auroc
        covered += lower <= truth <= upper
    assert 176 <= covered <= 199


def test_blocks_of_resamples_make_no_difference(monkeypatch):
    negative, positive = scores(10, n=50, m=50)
    whole = intervals(negative, positive)
    monkeypatch.setattr(separation, "BLOCK", 50 * 130)
    assert intervals(negative, positive).auroc == pytest.approx(whole.auroc, abs=0.02)


def test_few_patients_have_no_interval_of_an_auroc_and_a_wide_one_of_a_rate():
    negative, images = np.arange(20.0), np.arange(20)
    area, rate = separation.bootstrap_intervals(negative, images, np.array([25.0]), images[:1])
    assert area is None
    assert rate == pytest.approx([1 / (1 + 1.959964**2), 1])  # Wilson, 1 of 1
    many = separation.bootstrap_intervals(negative, images, np.arange(10.0), images[:10])
    assert many.auroc is not None


def test_where_no_pair_is_in_the_wrong_order_the_bootstrap_does_not_claim_certainty():
    negative, positive = np.arange(43.0), np.arange(100.0, 143.0)
    for one, other, certain in ((negative, positive, 1.0), (positive, negative, 0.0)):
        area, rate = intervals(one, other)
        assert certain in area
        assert 0.04 < area[1] - area[0] < 0.05
        assert certain in rate
        assert rate[1] - rate[0] == pytest.approx(1.959964**2 / (43 + 1.959964**2))  # Wilson, 43 of 43 or none


@pytest.mark.parametrize(("area", "m", "n"), [(1.0, 43, 191), (0.5, 20, 30), (0.8, 12, 200), (0.97, 60, 15)])
def test_the_score_interval_holds_the_areas_that_the_observed_one_does_not_contradict(area, m, n):
    k = (m + n) / 2 - 1

    def contradiction(t):
        variance = t * (1 - t) * (1 + k * (1 - t) / (2 - t) + k * t / (1 + t)) / (m * n)
        return abs(area - t) - 1.959963984540054 * np.sqrt(variance)

    low, high = separation.auroc_score_interval(area, n, m)
    assert low == pytest.approx(brentq(contradiction, 1e-9, area - 1e-6), abs=1e-6)
    assert high == 1 if area == 1 else high == pytest.approx(brentq(contradiction, area + 1e-6, 1 - 1e-9), abs=1e-6)
    assert separation.auroc_score_interval(1 - area, n, m) == pytest.approx([1 - high, 1 - low])


def test_intervals_of_detectors_that_miss_little_cover_the_truth_too():
    """By the bootstrap alone, one in five missed it: where the sample shows no error, resamples show none either."""
    truth, covered = 0.99, 0
    shift = norm.ppf(truth) * 2**0.5
    for seed in range(100):
        negative, positive = scores(1000 + seed, n=60, m=30, shift=shift)
        lower, upper = intervals(negative, positive, resamples=300).auroc
        covered += lower <= truth <= upper
    assert covered >= 90
