"""Times the measurements of detectors against loops over single images, as in the code of the papers."""

import argparse
import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.covariance import EmpiricalCovariance
from sklearn.neighbors import KernelDensity as NeighbourDensity
from torch import Tensor

from benchmarks.contenders import Block, Run
from benchmarks.sign_gradient import (
    DOCUMENTATION,
    RESULTS,
    against,
    described,
    interleave,
    store,
    timed,
)
from benchmarks.tables import cost, heading, table, write_documentation
from medrobust.detectors.features import Features
from medrobust.detectors.kernel_density import KernelDensity
from medrobust.detectors.local_dimension import LocalDimension
from medrobust.detectors.mahalanobis import Mahalanobis
from medrobust.detectors.weighted_measurements import WeightedMeasurements

LIBRARIES = ("torch", "numpy", "scipy", "scikit-learn")
NEIGHBOURS = 20
BY_ROW = "row by row"
EXACT = 1e-4  # largest permitted difference
AIMS = {
    "LID": 8.0,
    "KD, 2 classes": 60.0,
    "KD, 10 classes": 60.0,
    "Mahalanobis, 2 classes": 4.0,
    "Mahalanobis, 10 classes": 10.0,
}
Array = NDArray[np.float64]
Score = Callable[[Array], Any]


@dataclass(frozen=True)
class Match(Block):
    """Contenders that measure the same images.

    Args:
        exact: The exact values, ``(N,)`` float64.
    """

    exact: Tensor = field(default_factory=lambda: torch.zeros(0))

    @property
    def name(self) -> str:
        """The method."""
        return self.method


def features_like(count: int, channels: int, classes: int, seed: int) -> tuple[Features, Tensor]:
    """Correlated features around one centre per class, distributed like activations, and their classes."""
    generator = torch.Generator().manual_seed(1)
    mixing = torch.randn((channels, channels), generator=generator) * torch.logspace(0, -1, channels).unsqueeze(1)
    centres = torch.randn((classes, channels), generator=generator)
    labels = torch.arange(count) % classes
    noise = torch.randn((count, channels), generator=torch.Generator().manual_seed(seed))
    values = noise @ mixing / math.sqrt(channels) + centres[labels]
    return Features({"penultimate": torch.nn.functional.leaky_relu(values, 0.1)}, labels), labels


def each_row(rows: Array, score: Score) -> Tensor:
    """Score each row in a Python loop."""
    return torch.tensor([float(score(row)) for row in rows], dtype=torch.float64)


def plain(features: Features) -> Array:
    """Penultimate features as float64 arrays, for scipy and scikit-learn."""
    values: Array = features.penultimate.double().numpy()
    return values


def ours(detector: WeightedMeasurements, features: Features) -> Run:
    """Our measurement of the only layer."""
    return lambda: detector.measure(features)[:, 0]


def local_dimension(reference: Features, labels: Tensor, asked: Features) -> Match:
    """LID: one row of distances at a time, and 100 images at a time as in the original code."""
    known, rows = plain(reference), plain(asked)

    def estimate(sorted_distances: Array) -> float:
        return float(-len(sorted_distances) / np.log(sorted_distances / sorted_distances[-1]).sum())

    def by_row(row: Array) -> float:
        distances = cdist(row[None], known)[0]
        return estimate(np.sort(distances[np.argpartition(distances, NEIGHBOURS)[:NEIGHBOURS]]))

    def original() -> Tensor:
        parts = []
        for start in range(0, len(rows), 100):
            nearest = np.apply_along_axis(np.sort, 1, cdist(rows[start : start + 100], known))[:, :NEIGHBOURS]
            parts.append(np.apply_along_axis(estimate, 1, nearest))
        return torch.from_numpy(np.concatenate(parts))

    detector = LocalDimension(NEIGHBOURS, max(len(known), NEIGHBOURS + 1))
    detector.fit_reference(reference, labels)
    runs = {"ours": ours(detector, asked), BY_ROW: lambda: each_row(rows, by_row), "Ma et al. 2018": original}
    distances = torch.cat(
        [torch.linalg.vector_norm(row - torch.from_numpy(known), dim=1, keepdim=True).T for row in torch.tensor(rows)]
    )
    nearest = distances.sort(1).values[:, :NEIGHBOURS]
    return Match("LID", 1, 1, runs, exact=-1 / (nearest / nearest[:, -1:]).log().mean(1))


def kernel_density(reference: Features, labels: Tensor, asked: Features) -> Match:
    """KD: one call of scikit-learn per image, as in the original code, and one per class."""
    detector = KernelDensity()
    detector.fit_reference(reference, labels)
    sigma, known, rows = float(detector.sigma), plain(reference), plain(asked)
    predictions = asked.predictions.numpy()
    classes = range(int(labels.max()) + 1)
    fitted = [NeighbourDensity(bandwidth=sigma / math.sqrt(2)).fit(known[labels.numpy() == one]) for one in classes]

    def by_row() -> Tensor:
        pairs = zip(rows, predictions, strict=True)
        return torch.tensor(
            [-float(fitted[one].score_samples(row.reshape(1, -1))[0]) for row, one in pairs], dtype=torch.float64
        )

    def by_class() -> Tensor:
        densities = np.empty(len(rows))
        for one in classes:
            densities[predictions == one] = -fitted[one].score_samples(rows[predictions == one])
        return torch.from_numpy(densities)

    runs: dict[str, Run] = {"ours": ours(detector, asked), BY_ROW: by_row, "class by class": by_class}
    exact = []
    for row, one in zip(rows, predictions, strict=True):
        of_class = torch.from_numpy(known[labels.numpy() == one])
        exponents = -(of_class - torch.from_numpy(row)).square().sum(1) / sigma**2
        exact.append(math.log(len(of_class)) + len(row) / 2 * math.log(math.pi * sigma**2) - exponents.logsumexp(0))
    return Match(f"KD, {len(classes)} classes", 1, 1, runs, exact=torch.stack(exact))


def mahalanobis(reference: Features, labels: Tensor, asked: Features) -> Match:
    """Mahalanobis: one quadratic form per image and class, and batches of 100 images as in the original code."""
    detector = Mahalanobis(0.0)
    detector.fit_reference(reference, labels)
    known, rows = plain(reference), plain(asked)
    classes = range(int(labels.max()) + 1)
    means = np.stack([known[labels.numpy() == one].mean(0) for one in classes])
    peer = EmpiricalCovariance(assume_centered=True).fit(known - means[labels.numpy()])
    precision, tensors = torch.from_numpy(peer.precision_), torch.from_numpy(rows)

    def by_row(row: Array) -> float:
        return min(float(peer.mahalanobis((row - mean)[None])[0]) for mean in means)

    def form(row: Array) -> float:
        return min(float((row - mean) @ peer.precision_ @ (row - mean)) for mean in means)

    def original() -> Tensor:
        parts = []
        for batch in tensors.split(100):
            apart = [batch - torch.from_numpy(mean) for mean in means]
            parts.append(torch.stack([(one @ precision @ one.T).diagonal() for one in apart]).amin(0))
        return torch.cat(parts)

    runs = {
        "ours": ours(detector, asked),
        BY_ROW: lambda: each_row(rows, by_row),
        "row by row, numpy": lambda: each_row(rows, form),
        "Lee et al. 2018": original,
    }
    deviations = torch.from_numpy(known - means[labels.numpy()])
    covariance = deviations.T @ deviations / len(known)
    apart = tensors.unsqueeze(1) - torch.from_numpy(means)
    solved = torch.linalg.solve(covariance, apart.flatten(0, 1).T).T.view_as(apart)
    return Match(f"Mahalanobis, {len(means)} classes", 1, 1, runs, exact=(apart * solved).sum(2).amin(1))


def measure(matches: list[Match], rounds: int, device: torch.device) -> list[dict[str, Any]]:
    """Measure all contenders, each relative to ours in the same round."""
    for match in matches:
        for run in match.runs.values():
            timed(run, 1, device)
    seconds, made = interleave(matches, rounds, device, "detectors")
    rows = []
    for match in matches:
        spent = seconds[match.name]
        for key in match.runs:
            found = made[match.name][key]
            assert isinstance(found, Tensor)
            difference = float((found.double() - match.exact).abs().max())
            row = {"method": match.name, "contender": key, "difference": difference}
            rows.append(row | against(spent[key], spent["ours"]))
    return rows


def render(result: dict[str, Any]) -> str:
    """All results of one machine, as Markdown."""
    rows, size = result["rows"], result["size"]
    body = [
        [row["method"], row["contender"], f"{1e3 * row['seconds']:.1f}", cost(row), f"{row['difference']:.1e}"]
        for row in rows
    ]
    found = {(row["method"], row["contender"]): row for row in rows}
    judged = []
    for method, least in AIMS.items():
        ratio, difference = found[method, BY_ROW]["ratio"], found[method, "ours"]["difference"]
        verdict = "reached" if ratio >= least and difference <= EXACT else "missed"
        judged.append([method, f"{least:.0f}", f"{ratio:.1f}", f"{EXACT:.0e}", f"{difference:.1e}", verdict])
    about = (
        f"{size['images']} images, {size['channels']} channels, {size['references']} reference images, "
        f"{result['rounds']} rounds; medians of the rounds (quartiles)."
    )
    return "\n\n".join(
        [
            *heading(result),
            about,
            table(["detector", "contender", "ms", "time / ours", "largest difference to float64"], body),
            table(["aim", "row by row / ours, at least", "measured", "difference, at most", "measured", ""], judged),
        ]
    )


def main() -> None:
    """Read the command line, measure, store and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="a short trial with small sizes that stores nothing")
    parser.add_argument("--tables", action="store_true", help="measure nothing; only rewrite the documentation")
    arguments = parser.parse_args()
    if arguments.tables:
        write_documentation(DOCUMENTATION, RESULTS, "detectors", render)
        return
    count, channels = (200, 32) if arguments.quick else (1000, 512)
    load, device = os.getloadavg()[0], torch.device("cpu")
    matches = []
    for classes, methods in ((2, (local_dimension, kernel_density, mahalanobis)), (10, (kernel_density, mahalanobis))):
        reference, labels = features_like(count, channels, classes, seed=2)
        asked, _ = features_like(count, channels, classes, seed=3)
        matches += [method(reference, labels, asked) for method in methods]
    result = described("detectors", device, LIBRARIES, load) | {
        "size": {"images": count, "channels": channels, "references": count},
        "rounds": arguments.rounds,
        "rows": measure(matches, arguments.rounds, device),
    }
    print(render(result))
    if not arguments.quick:
        store(result)
        write_documentation(DOCUMENTATION, RESULTS, "detectors", render)


if __name__ == "__main__":
    main()
