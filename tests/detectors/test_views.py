"""The views of an image that detectors ask for: what features of them hold, who asks, and that only one may step."""

import pytest
import torch
from torch import Tensor

from medrobust.detectors import (
    BayesianUncertainty,
    Features,
    KernelDensity,
    KernelDensityUncertainty,
    LocalDimension,
    Mahalanobis,
    SupportVectors,
    Views,
    concatenate,
    views_needed,
)


def seen(values: Tensor, draws: Tensor | None = None, stepped: Tensor | None = None) -> Features:
    """Features of one layer, with the given views."""
    labels = torch.arange(len(values)) % 2
    return Features({"layer": values}, labels, draws, None if stepped is None else {"layer": stepped})


def normal(count: int, seed: int = 0) -> Tensor:
    return torch.randn((count, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_nothing_but_plain_features_is_needed_unless_a_detector_asks() -> None:
    assert views_needed([]) == (False, None, 0)
    assert views_needed([KernelDensity(), LocalDimension(), Mahalanobis(), SupportVectors()]) == (False, None, 0)


@pytest.mark.parametrize("asking", [BayesianUncertainty(), KernelDensityUncertainty()])
def test_draws_are_needed_if_one_detector_reads_them(asking: BayesianUncertainty) -> None:
    assert asking.views == Views(draws=True)
    assert views_needed(one for one in (KernelDensity(), asking, Mahalanobis())) == (True, None, 0)


def test_the_detector_that_asks_for_a_step_is_found_fitted_or_not() -> None:
    stepping = Mahalanobis(perturbation=0.01)
    assert stepping.views == Views(step=0.01)
    assert views_needed([Mahalanobis(), stepping, BayesianUncertainty()]) == (True, stepping, 0)
    stepping.fit_reference(seen(normal(20)), torch.arange(20) % 2)
    assert views_needed([stepping, KernelDensity()]).stepping is stepping


def test_two_detectors_that_ask_for_a_step_are_refused() -> None:
    both = [Mahalanobis(perturbation=0.01), KernelDensity(), Mahalanobis(perturbation=0.002)]
    with pytest.raises(ValueError, match="only one .* step of the images, got Mahalanobis of step 0.01, Mahalanobis"):
        views_needed(both)


@pytest.mark.parametrize("step", [-0.1, 1.0, float("nan")])
def test_a_step_out_of_range_is_refused(step: float) -> None:
    with pytest.raises(ValueError, match=r"step is a length in the \[0, 1\] image range, .* below 1, got"):
        Views(step=step)


def test_a_detector_without_scores_of_single_layers_says_so() -> None:
    with pytest.raises(NotImplementedError, match="KernelDensity has no scores of single layers"):
        KernelDensity().layer_scores(normal(2), 0)


def test_with_a_step_the_features_of_the_moved_images_are_measured() -> None:
    plain, stepping = Mahalanobis(), Mahalanobis(perturbation=0.01)
    for detector in (plain, stepping):
        detector.fit_reference(seen(normal(40)), torch.arange(40) % 2)
    before, after = normal(5, 1), normal(5, 2)
    measured = stepping.measure(seen(before, stepped=after))
    assert torch.equal(measured, plain.measure(seen(after)))
    assert not torch.equal(measured, plain.measure(seen(before, stepped=after)))
    with pytest.raises(ValueError, match="Mahalanobis with a perturbation needs features of moved images"):
        stepping.measure(seen(before))


def test_views_are_indexed_and_concatenated_with_their_images() -> None:
    draws = torch.rand((5, 4, 2), generator=torch.Generator().manual_seed(3))
    whole = seen(normal(5), draws, normal(5, 1))
    parts = concatenate([whole[:2], whole[2:]])[torch.tensor([4, 0])]
    assert torch.equal(parts.draws, draws[[4, 0]])
    assert torch.equal(parts.stepped["layer"], normal(5, 1)[[4, 0]])
    for view, other in (("draws", seen(normal(2), stepped=normal(2))), ("stepped", seen(normal(2), draws[:2]))):
        with pytest.raises(ValueError, match=f"features with and without {view} cannot be concatenated"):
            concatenate([whole, other])
    with pytest.raises(ValueError, match="expected to be of the same number of images, got .*'stepped layer': 3"):
        seen(normal(5), stepped=normal(3))
