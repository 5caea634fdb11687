"""A margin that fools with the confidence that clean images of the resembled class have, and no further."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medrobust.objectives.base import Step
from medrobust.objectives.clean_features import CleanFeatures
from medrobust.objectives.fitted import FittedObjective, FittedState, images_by_class
from medrobust.objectives.logit_gap import logit_gap


@dataclass(frozen=True, eq=False)
class TypicalMargin(FittedObjective):
    """Margin of the class to resemble, z_c - max_{j != c} z_j, up to the kappa that is typical of that class.

    Carlini and Wagner's margin (HFC21 eq. 3) with a kappa of its own for each class: the median margin of that class's
    clean training images, or 0 if that is negative. Its slope is 1 until the image is taken for the class as
    confidently as a clean one, and 0 from then on, so that a hiding objective has the rest of the steps; an image that
    is more confident than clean ones could be told from them by that alone. The class is the goal of a targeted attack,
    otherwise the one that is likeliest at present besides the true one, which is also the one that a
    ``FeatureConstraint`` beside it takes. With clean margins of 1, 2 and 6 of a class, kappa is 2.

    Raises:
        ValueError: When fitted, the clean features come without logits ``(M, K)``.
    """

    def fit_state(self, clean_features: CleanFeatures) -> FittedState:
        """Find the median clean margin of each class."""
        logits, labels = clean_features.logits, clean_features.labels
        counts = images_by_class(labels)
        if logits is None or logits.ndim != 2 or logits.shape[1] < len(counts):
            received = "none" if logits is None else f"{tuple(logits.shape)} for {len(counts)} classes"
            raise ValueError(f"a typical margin is fitted to the clean images' logits (M, K), got {received}")
        margins = -logit_gap(logits.double(), labels, soft=False)
        medians = [margins[labels == label].quantile(0.5) for label in range(len(counts))]
        return FittedState((), len(counts), (torch.stack(medians).clamp(min=0),))

    def value(self, step: Step, goals: Tensor, parts: Sequence[Any]) -> Tensor:
        """Value of each image, ``(N,)``."""
        kappas: Tensor = parts[0][goals]
        lead = -logit_gap(step.outputs, goals, soft=False)
        return torch.where(lead > kappas, kappas, lead)
