"""Which figures are made of which studies, of one run or of several side by side."""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medrobust.results.figures.bias_fields import bias_fields
from medrobust.results.figures.corruption_sweep import corruption_sweep
from medrobust.results.figures.detection_sweep import detection_sweep
from medrobust.results.figures.directions import directions
from medrobust.results.figures.elsewhere import sheets_of
from medrobust.results.figures.embedding import embedding
from medrobust.results.figures.grad_cam import grad_cam
from medrobust.results.figures.layer_maps import layer_maps
from medrobust.results.figures.loss_landscape import loss_landscape
from medrobust.results.figures.radius_sweep import radius_sweep
from medrobust.results.figures.saliency import saliency
from medrobust.results.figures.sensitive_regions import sensitive_regions
from medrobust.results.figures.sheet import Drawn, NothingToDrawError, Sheet, write_sheet
from medrobust.results.figures.stress_test import stress_test
from medrobust.results.figures.studied_run import StudiedRun
from medrobust.results.figures.trajectory import trajectory
from medrobust.results.manifest import replace_file
from medrobust.results.studied import FIGURES, read_studies
from medrobust.results.summary import read_summary

CAPTIONS = "captions.txt"  # what the figures of several evaluations show and how each is read
# by the name of a study's class
SHEETS: dict[str, Callable[[Sequence[StudiedRun]], list[Sheet]]] = {
    "BiasFields": bias_fields,
    "CorruptionSweep": corruption_sweep,
    "DetectionSweep": detection_sweep,
    "Directions": directions,
    "Embedding": embedding,
    "GradCAM": grad_cam,
    "LayerMaps": layer_maps,
    "LossLandscape": loss_landscape,
    "RadiusSweep": radius_sweep,
    "Saliency": saliency,
    "SensitiveRegions": sensitive_regions,
    "StressTest": stress_test,
    "Trajectory": trajectory,
}


def write_figures(folder: str | Path, summary: Mapping[str, Any]) -> list[Drawn]:
    """Draw the figures of an evaluation's studies into its ``figures/``.

    Args:
        folder: Folder of the evaluation.
        summary: Its summary.

    Returns:
        The figures in the order of the studies' names; where a study has not what its figure needs, a sentence says so.

    Raises:
        ValueError: The settings of a study are damaged.
    """
    found: list[Drawn] = []
    for studied in read_studies(folder, summary["manifest"]):
        run = StudiedRun(str(summary["manifest"]["run"]), summary, studied)
        found += _drawn(Path(folder) / FIGURES, studied.name, studied.kind, [run], [one.name for one in found])
    return found


def compare_figures(folders: Sequence[tuple[str, Path]], out: str | Path) -> list[Drawn]:
    """Draw the studies of several evaluations, those of one name and kind side by side, and write their captions.

    Args:
        folders: What each evaluation is called in the figures, and its folder; those without studies are passed over.
        out: Folder of the figures.

    Raises:
        ValueError: An evaluation cannot be read, or none has a study.
    """
    runs: dict[tuple[str, str], list[StudiedRun]] = {}
    names = [name for name, _ in folders]
    for name, folder in folders:
        label = name if names.count(name) == 1 else f"{name} ({folder})"
        summary = read_summary(folder)
        for studied in read_studies(folder, summary["manifest"]):
            runs.setdefault((studied.name, studied.kind), []).append(StudiedRun(label, summary, studied))
    if not runs:
        raise ValueError("none of these evaluations has a study; evaluate with one, such as those of configs/studies")
    found: list[Drawn] = []
    for (name, kind), own in runs.items():
        found += _drawn(Path(out), name, kind, own, [one.name for one in found])
    drawn = [one for one in found if one.svg]
    if drawn:
        replace_file(Path(out) / CAPTIONS, "\n".join(_caption(one) for one in drawn).encode())
    return found


def _caption(drawn: Drawn) -> str:
    source = f" (after {drawn.source})" if drawn.source else ""
    return f"{drawn.name}\n{drawn.title}{source}. {drawn.note}\n"


def _drawn(folder: Path, name: str, kind: str, runs: list[StudiedRun], taken: Sequence[str]) -> list[Drawn]:
    own = next((run.studied.drawing for run in runs if run.studied.drawing), "")
    try:
        if own:
            return _written(folder, name, sheets_of(own, runs), taken)
        if kind not in SHEETS:
            raise NothingToDrawError(f"This version draws no study of the kind {kind}, and its class names no drawing.")
        return _written(folder, name, SHEETS[kind](runs), taken)
    except NothingToDrawError as error:
        return [Drawn(name, name.replace("_", " "), "", str(error))]


def _written(folder: Path, name: str, made: Sequence[Sheet], taken: Sequence[str]) -> list[Drawn]:
    names = list(taken)
    for sheet in made:
        names.append(_free_name(f"{name}_{sheet.name}" if len(made) > 1 else name, names))
    own = names[len(taken) :]
    return [write_sheet(folder, sheet._replace(name=one)) for one, sheet in zip(own, made, strict=True)]


def _free_name(name: str, taken: Sequence[str]) -> str:
    """A name for files, without characters that lead elsewhere; with a number if it is taken.

    >>> _free_name("sweep_pgd 1/255", []), _free_name("sweep", ["sweep", "sweep-2"])
    ('sweep_pgd_1_255', 'sweep-3')
    """
    plain = re.sub(r"[^\w.-]", "_", name)
    known = {one.casefold() for one in taken}  # some disks do not tell capitals apart
    numbered = (f"{plain}-{number}" for number in itertools.count(2))
    return next(one for one in itertools.chain([plain], numbered) if one.casefold() not in known)
