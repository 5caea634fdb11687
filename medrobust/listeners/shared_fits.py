"""Detectors that another evaluation of the same run has fitted, on the same images under the same attack."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medrobust.detectors import Detector, load_detectors, read_header
from medrobust.evaluation.plan import record_key
from medrobust.results.evaluations import evaluations_of, run_folder_of

logger = logging.getLogger(__name__)

FITS = "fits"  # what a file of detectors says about each of its fits that others may use


def fit_digest(*decides: Any) -> str:
    """16 hex digits over all that decides what detectors fitted on one attack are."""
    return record_key("detectors", *decides)


def offered(fitted: Mapping[str, Mapping[str, Detector]], digests: Mapping[str, str], names: Sequence[str]) -> Any:
    """The fits that other evaluations may use, by name: those in which every detector is fitted and has a threshold.

    A fit that lacks something is made again, and says again what it lacks.

    Args:
        fitted: Detectors by the name of the fit and by their own.
        digests: Digest of each fit by its name.
        names: Names of all detectors.
    """
    return {
        fit: digests[fit]
        for fit, detectors in fitted.items()
        if all(name in detectors and detectors[name]._buffers.get("threshold") is not None for name in names)
    }


def found_elsewhere(folder: Path, weights: str, digests: Mapping[str, str]) -> Path | None:
    """A file of another evaluation of the run that holds these fits, whole and readable; None if there is none.

    Args:
        folder: Folder of the evaluation that asks.
        weights: Hash of the victim's weights.
        digests: Digest of each fit that is needed, by its name.
    """
    others = [one for one in evaluations_of(run_folder_of(folder)) if one.resolve() != folder.resolve()]
    for path in [path for one in others for path in sorted((one / "detectors").glob("*.safetensors"))]:
        try:
            header = read_header(path)
            there = header["about"].get(FITS)
            if isinstance(there, dict) and digests and all(there.get(fit) == one for fit, one in digests.items()):
                load_detectors(path, weights, names=of_fits(header, digests))
                return path
        except ValueError as error:
            logger.debug("no detectors are taken from %s: %s", path, error)
    return None


def of_fits(header: Mapping[str, Any], fits: Mapping[str, Any]) -> list[str]:
    """Names of the detectors in a file that belong to some of its fits."""
    return [name for name in header["detectors"] if name.rpartition("/")[0] in fits]
