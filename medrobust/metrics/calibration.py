"""Calibration: how far a classifier's confidence is from how often it is right."""

import torch
from torch import Tensor

BINS = 15  # of equal width over [0, 1], as in Guo et al. (2017)


def calibration_error(confidence: Tensor, right: Tensor, bins: int = BINS) -> Tensor:
    """Expected calibration error, ECE (Guo et al., ICML 2017, arXiv:1706.04599, eq. 3).

    The images are sorted into bins ((m - 1) / M, m / M] by the probability of their predicted class. The error is the
    mean over the images of how far the share of right ones in their bin is from the bin's mean probability.

    Args:
        confidence: Probability of the predicted class, ``(N,)`` in (0, 1].
        right: Whether the prediction is right, bool ``(N,)``.
        bins: Number of bins M.

    Returns:
        A number in [0, 1], float64; NaN without images.

    >>> calibration_error(torch.tensor([0.9, 0.9, 0.6]), torch.tensor([True, False, True]))  # (2 * 0.4 + 0.4) / 3
    tensor(0.4000, dtype=torch.float64)
    """
    confidence = confidence.double()
    edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=confidence.device)
    places = (torch.bucketize(confidence, edges) - 1).clamp(0, bins - 1)
    gaps = torch.zeros(bins, dtype=torch.float64, device=confidence.device)
    return gaps.index_add(0, places, right.double() - confidence).abs().sum() / len(confidence)
