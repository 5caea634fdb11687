"""Uncertainty compared with passes by hand, the law of a binary vote, and the variance of numpy."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medrobust.detectors.bayesian_uncertainty import BayesianUncertainty, KernelDensityUncertainty
from medrobust.detectors.features import Features, Views
from medrobust.detectors.kernel_density import KernelDensity
from medrobust.metrics.separation import auroc


def normal(count: int, channels: int, seed: int = 0) -> Tensor:
    return torch.randn((count, channels), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def passes(count: int, spread: float, seed: int = 0, number: int = 50, classes: int = 3) -> Tensor:
    """Class probabilities of logits that vary by ``spread`` from pass to pass."""
    logits = spread * normal(count * number, classes, seed).view(count, number, classes)
    return (logits + torch.tensor([1.0, 0.0, -1.0])[:classes]).softmax(2)


def seen(draws: Tensor | None, values: Tensor | None = None) -> Features:
    values = normal(0 if draws is None else len(draws), 4) if values is None else values
    return Features({"late": values}, torch.zeros(len(values)).long(), draws)


def fitted(draws: Tensor, **settings: Any) -> BayesianUncertainty:
    return BayesianUncertainty(**settings).fit(seen(draws), torch.zeros(len(draws)).long())


def test_two_passes_by_hand() -> None:
    """(.9, .1) and (.5, .5) deviate by .2 from their means: variance .04 in each class. Equal passes have none."""
    draws = torch.tensor([[[0.9, 0.1], [0.5, 0.5]], [[0.7, 0.3], [0.7, 0.3]], [[1.0, 0.0], [0.0, 1.0]]])
    measured = fitted(draws).measure(seen(draws))
    assert measured.shape == (3, 1) and measured.dtype == torch.float64
    torch.testing.assert_close(measured[:, 0], torch.tensor([0.04, 0.0, 0.25]).double(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_vote_for_one_class_or_the_other_has_the_variance_of_a_coin(share: float) -> None:
    """p (1 - p) in the expectation of T passes is p (1 - p) (1 - 1 / T)."""
    chosen = torch.rand((2000, 10), generator=torch.Generator().manual_seed(1)) < share
    measured = fitted(torch.stack([chosen, ~chosen], 2).double()).measure(
        seen(torch.stack([chosen, ~chosen], 2).double())
    )
    assert measured.mean().item() == pytest.approx(share * (1 - share) * 0.9, abs=0.006)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [1, 2, 3])
def test_it_is_numpys_variance(classes: int, dtype: torch.dtype) -> None:
    draws = passes(8, 1.0, classes=3)[..., :classes].to(dtype)
    expected = np.var(draws.double().numpy(), axis=1).mean(1)
    torch.testing.assert_close(fitted(draws).measure(seen(draws))[:, 0], torch.from_numpy(expected))


def test_the_variance_of_a_certain_victim_keeps_its_digits() -> None:
    """Deviations of 1e-9 around 1 would cancel in the mean of the squares minus the square of the mean."""
    draws = 1 - 1e-9 * torch.tensor([[[1.0], [3.0]]], dtype=torch.float64)
    assert fitted(draws).measure(seen(draws)).item() == pytest.approx(1e-18, rel=1e-5)


def test_images_of_which_the_victim_is_less_certain_are_found() -> None:
    detector = BayesianUncertainty().fit(
        seen(passes(200, 0.3)), torch.zeros(200).long(), seen(passes(200, 1.0, 1)), seen(passes(200, 0.35, 2))
    )
    negative = torch.cat([passes(100, 0.3, 3), passes(100, 0.35, 4)])
    assert auroc(detector.score(seen(negative)), detector.score(seen(passes(100, 1.0, 5)))).item() > 0.99


@pytest.mark.parametrize("spread", [0.3, 1.0])
def test_larger_is_more_adversarial_also_where_the_victim_is_certain_of_adversarial_images(spread: float) -> None:
    """Images of which the victim is more certain score lower; a regression on this one number turns it round."""
    known = seen(passes(200, 0.6)), torch.zeros(200).long(), seen(passes(200, spread, 1))
    raw, weighted = BayesianUncertainty().fit(*known), BayesianUncertainty(raw=False).fit(*known)
    clean, adversarial = seen(passes(200, 0.6, 2)), seen(passes(200, spread, 3))
    torch.testing.assert_close(raw.score(clean), raw.measure(clean)[:, 0])
    areas = [auroc(one.score(clean), one.score(adversarial)).item() for one in (raw, weighted)]
    assert raw.wrong_signs() == []
    if spread < 0.6:
        assert areas[0] < 0.1 and areas[1] == pytest.approx(1 - areas[0])
        assert weighted.wrong_signs() == ["uncertainty"]
    else:
        assert areas[0] > 0.8 and areas[1] == pytest.approx(areas[0])
        assert weighted.wrong_signs() == []


def test_the_measurement_of_a_wrong_sign_is_named() -> None:
    """Rare images of which the victim is more certain: the density counts as it should, the uncertainty against it."""
    clean, known = seen(passes(300, 0.6), normal(300, 2)), seen(passes(300, 0.6, 4), normal(300, 2, 5))
    adversarial, labels = seen(passes(300, 0.2, 2), normal(300, 2, 1) + 2), torch.zeros(300).long()
    detector = KernelDensityUncertainty().fit(clean, labels, adversarial, None, known, labels)
    assert detector.wrong_signs() == ["uncertainty"]
    detector.fit_reference(known, labels)
    assert detector.wrong_signs() == []  # no classifier any more


def test_both_measurements_stand_beside_each_other_and_are_weighed_together() -> None:
    """Half of the adversarial images are rare, the rest uncertain: only both measurements together find all of them."""
    labels = torch.zeros(400).long()
    clean = seen(passes(400, 0.3), normal(400, 2))
    values, draws = normal(400, 2, 1), passes(400, 0.3, 2)
    values[::2] += 6
    draws[1::2] = passes(200, 1.0, 3)
    adversarial = seen(draws, values)
    known = (None, seen(passes(400, 0.3, 4), normal(400, 2, 5)), labels)
    detectors = [kind().fit(clean, labels, adversarial, *known) for kind in (BayesianUncertainty, KernelDensity)]
    both = KernelDensityUncertainty().fit(clean, labels, adversarial, *known)
    columns = torch.cat([detectors[1].measure(adversarial), detectors[0].measure(adversarial)], 1)
    assert torch.equal(both.measure(adversarial), columns)
    single = [auroc(one.score(clean), one.score(adversarial)).item() for one in detectors]
    assert auroc(both.score(clean), both.score(adversarial)).item() > 0.95 > 0.85 > max(single)


def test_scores_are_the_same_alone_in_any_batch_and_after_restoring() -> None:
    clean = seen(passes(60, 0.3), normal(60, 4))
    zeros, known = torch.zeros(60).long(), seen(passes(60, 0.3, 3), normal(60, 4, 3))
    adversarial = seen(passes(60, 0.6, 1), normal(60, 4, 1))
    detector = KernelDensityUncertainty(max_references=50).fit(clean, zeros, adversarial, None, known, zeros)
    points = seen(passes(9, 0.5, 2), normal(9, 4, 2))
    together = detector.score(points)
    alone = torch.cat([detector.score(points[i : i + 1]) for i in range(9)])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=0)
    assert detector.parameters_given() == {"bandwidth": None, "max_references": 50}
    other = KernelDensityUncertainty(**detector.parameters_given())
    other.layer_names = detector.layer_names
    other.keep(**dict(detector.named_buffers()))
    assert torch.equal(other.score(points), together)


@pytest.mark.parametrize("kind", [BayesianUncertainty, KernelDensityUncertainty])
def test_features_without_usable_passes_are_refused(kind: type[BayesianUncertainty]) -> None:
    labels, values = torch.zeros(5).long(), normal(5, 4)
    assert kind().views == Views(draws=True)
    with pytest.raises(ValueError, match=f"{kind.__name__} needs passes with dropout, and the features have none"):
        kind().fit(seen(None, values), labels)
    with pytest.raises(ValueError, match=r"draws \(N, T, K\) of at least T = 2 passes, got \(5, 1, 3\)"):
        kind().fit(seen(passes(5, 1.0, number=1), values), labels)
    with pytest.raises(ValueError, match=r"draws \(N, T, K\) of at least T = 2 passes, got \(5, 3\)"):
        kind().fit(seen(passes(5, 1.0)[:, 0], values), labels)
    with pytest.raises(ValueError, match="the 50 passes are the same for all 5 .* dropout needs a probability above 0"):
        kind().fit(seen(passes(5, 0.0), values), labels)
    detector = kind().fit(seen(passes(5, 1.0), values), labels)
    with pytest.raises(ValueError, match="needs passes with dropout"):
        detector.score(seen(None, values))
    broken = passes(5, 1.0)
    broken[1, 7, 0] = math.nan
    with pytest.raises(ValueError, match="the draws are not finite for 1 of 5 images"):
        detector.score(seen(broken, values))
    with pytest.raises(ValueError, match="expected features of the layers"):
        detector.score(Features({"early": values}, labels, passes(5, 1.0)))
    with pytest.raises(ValueError, match=f"{kind.__name__} is not fitted yet"):
        kind().score(seen(passes(5, 1.0), values))
