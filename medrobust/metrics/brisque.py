"""BRISQUE, how unnatural an image looks by itself, without a reference: the regression, and how its model is found."""

import hashlib
import logging
import os
import threading
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from medrobust.metrics.quality import in_parts
from medrobust.metrics.scene_statistics import FEATURES, natural_scene_statistics

logger = logging.getLogger(__name__)

VARIABLE = "MEDROBUST_BRISQUE"
PIQ_WEIGHTS, PIQ_GAMMA, PIQ_RHO = "brisque_svm_weights.pt", 0.05, -153.591  # which piq writes inside its functions
DOWNLOAD_SECONDS = 30.0  # that piq is given to download its weights


class Brisque(nn.Module):
    """Blind image quality from natural scene statistics (Mittal et al., IEEE TIP 2012), as in LIVE's release.

    A support-vector regression on ``natural_scene_statistics``: about 0 for the best and 100 for the worst quality;
    values below 0 and above 100 are legitimate. Its state lies in buffers, so it moves to a device like any module.

    Args:
        vectors: Support vectors ``(M, 36)``, as scaled features.
        coefficients: Coefficients of the support vectors, ``(M,)``.
        lowest: The value of each feature that is scaled to -1, ``(36,)``.
        highest: The value of each feature that is scaled to 1, ``(36,)``.
        gamma: Factor of the squared distance in the kernel ``exp(-gamma ||x - v||^2)``.
        rho: Number that is subtracted from the weighted sum of kernels.

    Raises:
        ValueError: The shapes do not match, a number is not finite, or a lowest value is not below the highest.
    """

    vectors: Tensor
    coefficients: Tensor
    lowest: Tensor
    highest: Tensor

    def __init__(
        self, vectors: Tensor, coefficients: Tensor, lowest: Tensor, highest: Tensor, gamma: float, rho: float
    ) -> None:
        """Store the numbers in float64."""
        super().__init__()
        parts = {"vectors": vectors, "coefficients": coefficients, "lowest": lowest, "highest": highest}
        shapes, count = [list(part.shape) for part in parts.values()], len(coefficients)
        if shapes != [[count, FEATURES], [count], [FEATURES], [FEATURES]]:
            raise ValueError(
                f"a BRISQUE model has vectors (M, {FEATURES}), coefficients (M,) and lowest and highest values "
                f"({FEATURES},), got the shapes {shapes}"
            )
        self.gamma, self.rho = float(gamma), float(rho)
        for name, part in parts.items():
            if not bool(part.isfinite().all()):
                raise ValueError(f"the {name} of a BRISQUE model are expected to be finite, got non-finite numbers")
            self.register_buffer(name, part.detach().double())
        if not bool((self.highest > self.lowest).all()):
            raise ValueError("the highest values of a BRISQUE model's features must lie above the lowest, some do not")

    @classmethod
    def from_files(cls, model: Path, ranges: Path) -> Self:
        """Read the model of LIVE's release, as libsvm wrote it.

        Args:
            model: The regression, ``allmodel``.
            ranges: The ranges of the features, ``allrange``.

        Raises:
            ValueError: A file cannot be read, or is not one that libsvm wrote for this regression.
        """
        try:
            head, _, rows = model.read_text().partition("\nSV\n")
            settings = dict(line.split(maxsplit=1) for line in head.splitlines())
            kind = settings["svm_type"], settings["kernel_type"]
            table = [line.split() for line in rows.splitlines()]
            vectors = torch.zeros(len(table), FEATURES, dtype=torch.float64)  # libsvm leaves zeros out
            for row, (_, *entries) in enumerate(table):
                for place, value in (entry.split(":") for entry in entries):
                    vectors[row, int(place) - 1] = float(value)
            coefficients = torch.tensor([float(row[0]) for row in table], dtype=torch.float64)
            _, target, *bounds = (line.split() for line in ranges.read_text().splitlines())
            limits = torch.full((FEATURES, 2), float("nan"), dtype=torch.float64)
            for place, *ends in bounds:
                limits[int(place) - 1] = torch.tensor([float(end) for end in ends], dtype=torch.float64)
            if kind != ("epsilon_svr", "rbf") or target != ["-1", "1"] or len(table) != int(settings["total_sv"]):
                raise ValueError(f"{len(table)} vectors of {' '.join(kind)}, scaled to {target}")
            gamma, rho = float(settings["gamma"]), float(settings["rho"])
            return cls(vectors, coefficients, limits[:, 0], limits[:, 1], gamma, rho)
        except (OSError, ValueError, KeyError, IndexError, RuntimeError) as error:
            raise ValueError(
                f"{model} and {ranges.name} are not the model and ranges of BRISQUE ({type(error).__name__}: {error})"
            ) from error

    @classmethod
    def from_piq(cls, weights: Path) -> Self:
        """Read a weight file of the package piq, whose code holds the ranges of the features.

        Raises:
            ValueError: The file cannot be read or holds something else, or this version of piq keeps the ranges
                elsewhere.
        """
        try:
            from piq.brisque import _scale_features

            coefficients, vectors = torch.load(weights, map_location="cpu", weights_only=True)
            scaled = _scale_features(torch.tensor([[0.0], [1.0]], dtype=torch.float64).expand(2, FEATURES))
            slope = scaled[1] - scaled[0]
            bounds = (-1 - scaled[0]) / slope, (1 - scaled[0]) / slope
            return cls(vectors, coefficients.flatten(), *bounds, PIQ_GAMMA, PIQ_RHO)
        except Exception as error:  # whatever a pickle or another version of piq may raise
            raise ValueError(f"{weights} is not a BRISQUE weight file of piq ({_sentence(error)})") from error

    @property
    def fingerprint(self) -> str:
        """16 hex digits of a hash of everything that determines a score."""
        digest = hashlib.sha256(f"{self.gamma} {self.rho}".encode())
        for part in (self.vectors, self.coefficients, self.lowest, self.highest):
            digest.update(part.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def forward(self, features: Tensor) -> Tensor:
        """Regress features ``(N, 36)`` to scores ``(N,)``."""
        scaled = 2 * (features - self.lowest) / (self.highest - self.lowest) - 1
        # from differences: a matrix product would lose digits, and different ones in each batch
        distances = torch.cdist(scaled, self.vectors, compute_mode="donot_use_mm_for_euclid_dist")
        return ((-self.gamma * distances.square()).exp() * self.coefficients).sum(1) - self.rho

    @torch.no_grad()
    def score(self, images: Tensor) -> Tensor:
        """Score each image by itself, on the device of the images and of this module.

        Args:
            images: Images ``(N, C, H, W)`` in [0, 1], grey (C = 1) or RGB (C = 3).

        Returns:
            Scores, float64 ``(N,)``; NaN for an image that has no statistics because it is smaller than 16 pixels on a
            side, has a single grey value, or has neighbours whose products all have the same sign.

        Raises:
            ValueError: The images have neither one channel nor three.
        """
        scores: Tensor = self(in_parts(natural_scene_statistics, images))
        return scores


def read_brisque(path: Path) -> Brisque:
    """Read a model from a folder with ``allmodel`` and ``allrange`` of LIVE's release, or from a weight file of piq.

    Raises:
        ValueError: The path does not exist or holds no such model.
    """
    if not path.exists():
        raise ValueError(f"brisque is a folder with allmodel and allrange or a weight file, and there is no {path}")
    return Brisque.from_files(path / "allmodel", path / "allrange") if path.is_dir() else Brisque.from_piq(path)


def find_brisque(path: str | None = None, download: bool = False) -> Brisque | None:
    """Find a model by its path, by the environment variable MEDROBUST_BRISQUE, or else among the weights of piq.

    Args:
        path: A folder with ``allmodel`` and ``allrange`` of LIVE's release, or a weight file of piq.
        download: Whether piq may download its weights if they are missing; it is given 30 seconds.

    Returns:
        The model, or None, with one sentence in the log, if there is none or it cannot be read.
    """
    named = path or os.environ.get(VARIABLE)
    try:
        return read_brisque(Path(named) if named else _piq_weights(download))
    except ValueError as error:
        logger.log(
            logging.WARNING if named or download else logging.INFO,  # nobody who asked for none is to be warned
            "BRISQUE, a measure of image quality, is left out: %s (--quality.download true has piq download one; "
            "--quality.brisque FILE takes your own)",
            error,
        )
        return None


def _piq_weights(download: bool) -> Path:
    """File of piq's weights, which piq downloads if necessary.

    Raises:
        ValueError: There is no such file, and it is not or cannot be downloaded.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / PIQ_WEIGHTS
    if file.is_file():
        return file
    if not download:
        raise ValueError("there is no model on this machine")
    failures: list[str] = []

    def fetch() -> None:
        try:
            from piq.brisque import _score_svr

            _score_svr(torch.zeros(1, FEATURES))
        except Exception as error:  # no network, no such file, another version of piq
            failures.append(_sentence(error))

    thread = threading.Thread(target=fetch, daemon=True)  # a request may hang for ever and must not block the run
    thread.start()
    thread.join(DOWNLOAD_SECONDS)
    if not file.is_file():
        reason = failures[0] if failures else f"no answer within {DOWNLOAD_SECONDS:g} seconds"
        raise ValueError(f"piq could not download its weights ({reason})")
    return file


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
