"""BRISQUE, how unnatural an image looks with nothing to compare it to: the regression, and where its model is found."""

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
PIQ_WEIGHTS, PIQ_GAMMA, PIQ_RHO = "brisque_svm_weights.pt", 0.05, -153.591  # as piq has them inside its functions
DOWNLOAD_SECONDS = 30.0


class Brisque(nn.Module):
    """Blind image quality from natural scene statistics (Mittal et al., IEEE TIP 2012), as LIVE's release has it.

    A support-vector regression on ``natural_scene_statistics``: about 0 for the best and 100 for the worst quality,
    and legitimately below and above. Its state is buffers, so that it moves to a device as any module does.

    Args:
        vectors: Support vectors ``(M, 36)``, of features that are scaled.
        coefficients: Their coefficients ``(M,)``.
        lowest: The value of each feature that is scaled to -1, ``(36,)``.
        highest: The value that is scaled to 1.
        gamma: Factor of the squared distance in the kernel ``exp(-gamma ||x - v||^2)``.
        rho: Number that is subtracted from the weighted sum of kernels.

    Raises:
        ValueError: The shapes do not fit each other, or a number is not finite.
    """

    vectors: Tensor
    coefficients: Tensor
    lowest: Tensor
    highest: Tensor

    def __init__(
        self, vectors: Tensor, coefficients: Tensor, lowest: Tensor, highest: Tensor, gamma: float, rho: float
    ) -> None:
        """Keep the numbers in float64."""
        super().__init__()
        parts = {"vectors": vectors, "coefficients": coefficients, "lowest": lowest, "highest": highest}
        shapes, count = [list(part.shape) for part in parts.values()], len(coefficients)
        if shapes != [[count, FEATURES], [count], [FEATURES], [FEATURES]]:
            raise ValueError(
                f"a BRISQUE model has vectors (M, {FEATURES}), coefficients (M,) and bounds ({FEATURES},), lowest and "
                f"highest, got the shapes {shapes}"
            )
        self.gamma, self.rho = float(gamma), float(rho)
        for name, part in parts.items():
            if not bool(part.isfinite().all()):
                raise ValueError(f"the {name} of a BRISQUE model are finite numbers, and some came that are not")
            self.register_buffer(name, part.detach().double())
        if not bool((self.highest > self.lowest).all()):
            raise ValueError("the highest values of a BRISQUE model's features lie above the lowest, and some do not")

    @classmethod
    def from_files(cls, model: Path, ranges: Path) -> Self:
        """Read the model of LIVE's release, which libsvm wrote: ``allmodel``, and the ranges in ``allrange``.

        Raises:
            ValueError: A file cannot be read, or is none of libsvm's for this regression.
        """
        try:
            head, _, rows = model.read_text().partition("\nSV\n")
            about = dict(line.split(maxsplit=1) for line in head.splitlines())
            kind = about["svm_type"], about["kernel_type"]
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
            if kind != ("epsilon_svr", "rbf") or target != ["-1", "1"] or len(table) != int(about["total_sv"]):
                raise ValueError(f"{len(table)} vectors of {' '.join(kind)}, scaled to {target}")
            return cls(vectors, coefficients, limits[:, 0], limits[:, 1], float(about["gamma"]), float(about["rho"]))
        except (OSError, ValueError, KeyError, IndexError, RuntimeError) as error:
            raise ValueError(
                f"{model} and {ranges.name} are not the model and ranges of BRISQUE ({type(error).__name__}: {error})"
            ) from error

    @classmethod
    def from_piq(cls, weights: Path) -> Self:
        """Read a weight file of the package piq, whose own code holds the ranges of the features.

        Raises:
            ValueError: The file cannot be read, holds something else, or this piq keeps its ranges elsewhere.
        """
        try:
            from piq.brisque import _scale_features

            coefficients, vectors = torch.load(weights, map_location="cpu", weights_only=True)
            scaled = _scale_features(torch.tensor([[0.0], [1.0]], dtype=torch.float64).expand(2, FEATURES))
            slope = scaled[1] - scaled[0]
            bounds = (-1 - scaled[0]) / slope, (1 - scaled[0]) / slope
            return cls(vectors, coefficients.flatten(), *bounds, PIQ_GAMMA, PIQ_RHO)
        except Exception as error:  # whatever a pickle or another version of a package may raise
            raise ValueError(f"{weights} is not a BRISQUE weight file of piq ({_sentence(error)})") from error

    @property
    def fingerprint(self) -> str:
        """16 hex digits over all that decides a score."""
        digest = hashlib.sha256(f"{self.gamma} {self.rho}".encode())
        for part in (self.vectors, self.coefficients, self.lowest, self.highest):
            digest.update(part.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def forward(self, features: Tensor) -> Tensor:
        """Regress features ``(N, 36)`` to scores ``(N,)``."""
        scaled = 2 * (features - self.lowest) / (self.highest - self.lowest) - 1
        # by differences: a matrix product loses digits, and not the same ones in every batch
        distances = torch.cdist(scaled, self.vectors, compute_mode="donot_use_mm_for_euclid_dist")
        return ((-self.gamma * distances.square()).exp() * self.coefficients).sum(1) - self.rho

    @torch.no_grad()
    def score(self, images: Tensor) -> Tensor:
        """Score each image by itself, on the device where the images and this module are.

        Args:
            images: Images ``(N, C, H, W)`` in [0, 1], grey (C = 1) or RGB (C = 3).

        Returns:
            Scores, float64 ``(N,)``; NaN for an image without statistics: below 16 pixels on a side, of a single grey
            value, or with neighbours whose products have one sign only.

        Raises:
            ValueError: The images have neither one channel nor three.
        """
        scores: Tensor = self(in_parts(natural_scene_statistics, images))
        return scores


def read_brisque(path: Path) -> Brisque:
    """Read a model from a folder with ``allmodel`` and ``allrange`` of LIVE's release, or from a weight file of piq.

    Raises:
        ValueError: There is none at that place.
    """
    if not path.exists():
        raise ValueError(f"brisque is a folder with allmodel and allrange, or a file, and there is no {path}")
    return Brisque.from_files(path / "allmodel", path / "allrange") if path.is_dir() else Brisque.from_piq(path)


def find_brisque(path: str | None = None, download: bool = True) -> Brisque | None:
    """Find a model: by a path, by the environment variable MEDROBUST_BRISQUE, or as piq's weights.

    Args:
        path: A folder with ``allmodel`` and ``allrange`` of LIVE's release, or a weight file of piq.
        download: Let piq download its weights where there are none; it is given 30 seconds.

    Returns:
        The model; None, with one sentence in the log, where there is none or it cannot be read.
    """
    named = path or os.environ.get(VARIABLE)
    try:
        return read_brisque(Path(named) if named else _piq_weights(download))
    except ValueError as error:
        logger.warning(
            "BRISQUE stays empty, for %s; a folder with LIVE's allmodel and allrange, or piq's %s, can be named by the "
            "option brisque or the environment variable %s",
            error,
            PIQ_WEIGHTS,
            VARIABLE,
        )
        return None


def _piq_weights(download: bool) -> Path:
    """File of piq's weights, which piq downloads if it must.

    Raises:
        ValueError: There are none, and none can be had.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / PIQ_WEIGHTS
    if file.is_file():
        return file
    if not download:
        raise ValueError("no model is at hand and downloads are switched off")
    failures: list[str] = []

    def fetch() -> None:
        try:
            from piq.brisque import _score_svr

            _score_svr(torch.zeros(1, FEATURES))
        except Exception as error:  # no network, no such file, another piq
            failures.append(_sentence(error))

    thread = threading.Thread(target=fetch, daemon=True)  # a request may hang for ever, and must not keep us
    thread.start()
    thread.join(DOWNLOAD_SECONDS)
    if not file.is_file():
        why = failures[0] if failures else f"no answer within {DOWNLOAD_SECONDS:g} seconds"
        raise ValueError(f"piq could not download its weights ({why})")
    return file


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
