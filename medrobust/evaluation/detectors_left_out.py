"""Which detectors can be fitted at all; each of the others is left out with a sentence in the log."""

import logging
from collections.abc import Callable, Mapping

import torch

from medrobust.detectors import Detector

logger = logging.getLogger(__name__)


def servable(
    detectors: Mapping[str, Detector], one_class: bool, without_dropout: str, on_first: bool
) -> dict[str, Detector]:
    """The detectors that can be given what they ask for; the first process logs why others are left out.

    Args:
        detectors: Detectors by name.
        one_class: Whether each image of the data has one class.
        without_dropout: Why the victim cannot make passes with dropout; empty if it can.
        on_first: Whether this is the first process.
    """
    good = {}
    for name, detector in detectors.items():
        why = ""
        if detector.needs_class and not one_class:
            why = f"{type(detector).__name__} asks for an image's one class, and images of these data have none"
            why += f"; with {detector.without_classes} it takes them all for one" if detector.without_classes else ""
        elif detector.views.draws:
            why = without_dropout
        if not why:
            good[name] = detector
        elif on_first:
            logger.warning("detector %s is left out: %s", name, why)
    return good


def fitted_ones(
    detectors: Mapping[str, Detector],
    fit: Callable[[Detector], str],
    device: torch.device,
    on_first: bool,
    where: str = "",
) -> dict[str, Detector]:
    """The detectors that could be fitted; the first process logs what each lacks, or why it could not be.

    Args:
        detectors: Detectors by name.
        fit: Fits one, and says why it has no threshold; empty if it has one, or needs none yet.
        device: Where they are to be used.
        on_first: Whether this is the first process.
        where: What they are fitted on, to complete the sentence.
    """
    good = {}
    for name, detector in detectors.items():
        try:
            lacks = fit(detector)
            good[name] = detector.to(device)
            if lacks and on_first:
                logger.warning("detector %s%s has no threshold: %s", name, where, lacks)
        except (ValueError, torch.linalg.LinAlgError) as error:
            if on_first:
                logger.warning("detector %s%s is left out: %s", name, where, error)
    return good
