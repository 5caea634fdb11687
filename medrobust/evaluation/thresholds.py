"""Where a detector starts to flag: a threshold on the scores of clean images that it has not learnt from."""

import math

import torch
from torch import Tensor

from medrobust.detectors import Detector, Groups
from medrobust.detectors.patient_groups import dealt
from medrobust.detectors.weighted_measurements import WeightedMeasurements

PASSING = 0.9  # share of the clean images that a threshold lets pass (HFC21 drops 10 % of the normal images)
FOLDS = 5


def held_out_threshold(
    detector: Detector, negative: Tensor, positive: Tensor, groups: Groups | None, clean: int, folds: int = FOLDS
) -> Tensor:
    """Threshold that ``PASSING`` of the clean images do not exceed, by scores of images that were held out.

    A classifier's scores of the images that it has learnt from are too low, so that their quantile would raise false
    alarms. Here the patients are dealt to at most `folds` parts, a classifier is fitted without each part in turn, and
    it scores the clean images of that part (cross-fitting). It learns from fewer patients than the detector itself has,
    so that the threshold is that of a slightly weaker classifier. Where the score has no fitted classifier, this is
    simply the score.

    Args:
        detector: The detector, whose classifier stays as it is.
        negative: Measured negatives, ``(N, D)``, of which the first ones are the clean images.
        positive: Measured positives, ``(M, D)``.
        groups: Patients of the rows.
        clean: Number of clean images.
        folds: Largest number of parts, at least 2.

    Returns:
        The smallest score that at least ``PASSING`` of the clean images do not exceed, float64 ``()``.

    Raises:
        ValueError: The patients are not known, only one of them has adversarial images, no clean image has a score, or
            a classifier cannot be fitted without some patients.
    """
    scores = _held_out_scores(detector, negative, positive, groups, clean, folds)
    known = scores[~scores.isnan()].sort().values
    if not len(known):
        raise ValueError("a threshold needs the score of a clean image")
    return known[max(1, math.ceil(PASSING * len(known) - 1e-9)) - 1]


def _held_out_scores(
    detector: Detector, negative: Tensor, positive: Tensor, groups: Groups | None, clean: int, folds: int
) -> Tensor:
    """Scores of the clean images, float64 ``(clean,)``, each by a classifier that has not seen its patient."""
    if isinstance(detector, WeightedMeasurements) and detector.raw:
        return detector.classify(negative[:clean]).double()
    if groups is None:
        raise ValueError("a threshold needs to know the images' patients")
    negative_parts, positive_parts = (parts.to(negative.device) for parts in dealt(groups, folds))
    if not bool(positive_parts.any()):  # then there is but one part
        raise ValueError("a threshold needs adversarial images of at least 2 patients")
    scores = negative.new_full((clean,), math.nan, dtype=torch.float64)
    for part in range(1 + int(positive_parts.max())):
        held, kept = negative_parts == part, positive_parts != part
        one = detector.fork()
        one.fit_classifier(
            negative[~held],
            positive[kept],
            groups=Groups(groups.negative[~held.cpu()], groups.positive[kept.cpu()]),
        )
        scores[held[:clean]] = one.classify(negative[:clean][held[:clean]]).double()
    return scores
