"""The numbers of a summary under names that every logger takes: single scalars, and curves over the radius."""

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medrobust.results.formats import format_epsilon
from medrobust.results.summary import columns_shown

LONGEST = 60  # characters of a part of a name: MLflow takes 250 for the whole
MOST_CLASSES = 30  # that get scalars of their own; summary.json has all of them
UNBOUNDED = "unbounded"
MILLIONTHS = 1e6
OF_ROWS = ("n", "success_rate", "median_linf", "median_l2", "mean_forwards", "mean_backwards", "zero_gradient_share")
OF_CLASSES = ("auroc", "kappa", "calibration_error")
OF_ONE_CLASS = ("sensitivity", "specificity", "auroc", "flipped")

Rows = Sequence[Mapping[str, Any]]


def scalars(summary: Mapping[str, Any]) -> dict[str, float]:
    """The single numbers of an evaluation, each under one name for all loggers; what is undefined is left out.

    Rates and qualities are those of `summary.json`, in [0, 1]. A name is made of parts with slashes between them. A
    part has only ASCII letters, digits, ``_`` and ``-``, which TensorBoard, MLflow and W&B all take; anything else in
    the name of an attack, a class or a detector becomes ``_``, and a part that would stand for two things gets a
    number, such as ``a_b-2``. A radius is written as in tables, ``8_255`` for 8/255 and ``0_5_255`` for 0.5/255, or
    ``unbounded``.

    - ``images`` that are to be evaluated, ``tried`` so far, ``flags_errors`` and ``flags_warnings``.
    - ``clean_accuracy``; ``clean_quality`` of masks and boxes.
    - ``worst_case_accuracy_RADIUS``, by which runs are compared, and ``worst_case_quality_RADIUS``; these names have no
      slash, so that every table of runs can sort by them.
    - ``best_detector_auroc_RADIUS``: of each detector the lowest AUROC over the attacks of a radius, and of these the
      highest.
    - ``attacks/ATTACK/RADIUS/NUMBER``, of noise controls too, where NUMBER is an entry of a summary's row.
    - ``classes/ATTACK/RADIUS/...``: AUROC, kappa and calibration error, ``CLASS/sensitivity`` and
      ``CLASS/specificity``; clean images stand under ``classes/clean/...``. ``labels/...`` likewise.
    - ``masks/...`` and ``boxes/...``: the numbers of their rows, those of a class under ``CLASS/``.
    - ``transfer/ATTACK/RADIUS/JUDGE/success_rate``.
    - ``detection/ATTACK/RADIUS/DETECTOR/FIT/...``: ``auroc``, ``tpr``, ``auroc_of_CONTROL`` and ``flagged_KIND``.

    Args:
        summary: As `results.summary.summarise` returns it.
    """
    names, found = _Names(summary), dict(_headlines(summary))
    shown = [name for name in columns_shown(summary["manifest"]) if name not in OF_ROWS]
    for row in summary["rows"]:
        if row.get("kind") != "clean":
            place = f"attacks/{names.place(row)}"
            found |= {f"{place}/{name}": row.get(name) for name in (*shown, *OF_ROWS)}
            judges = row.get("transfer") or {}
            parts = unique_parts(judges)
            found |= {
                f"transfer/{names.place(row)}/{parts[judge]}/success_rate": numbers.get("success_rate")
                for judge, numbers in judges.items()
            }
    found |= _of_classes(summary, names) | _of_outputs(summary, names) | _of_detectors(summary, names)
    return {name: float(value) for name, value in found.items() if _is_number(value)}


def curves(summary: Mapping[str, Any]) -> list[dict[str, float]]:
    """The same numbers by radius: one row for each, by increasing ``epsilon``, with the accuracies of all attacks.

    A row has ``epsilon``, in units of the [0, 1] image range, and

    - ``curves/worst_case/accuracy`` with the ends of its interval, ``accuracy_lower`` and ``accuracy_upper``.
    - ``curves/ATTACK/accuracy``, that of noise controls too, and ``curves/clean/accuracy``, the same at every radius.
    - ``curves/.../quality`` of masks and boxes.
    - ``curves/detection/DETECTOR/FIT/auroc``: the lowest over the attacks of the radius.

    Names follow the rules of `scalars`. Attacks that no radius bounds have no place in a curve.

    Args:
        summary: As `results.summary.summarise` returns it.
    """
    names, rows = _Names(summary), summary["rows"]
    clean: Mapping[str, Any] = next((row for row in rows if row.get("kind") == "clean"), {})
    dense = "quality_after" in columns_shown(summary["manifest"])
    found: dict[float, dict[str, Any]] = {}
    for row in rows:
        if row["epsilon"] is not None and row.get("kind") != "clean":
            at = found.setdefault(row["epsilon"], {})
            at[f"curves/{names.attacks[row['attack']]}/accuracy"] = row.get("accuracy_under_attack")
            if dense:
                at[f"curves/{names.attacks[row['attack']]}/quality"] = row.get("quality_after")
    for worst in summary.get("worst_case") or []:
        lower, upper = worst.get("accuracy_interval") or (None, None)
        numbers = {"accuracy": worst.get("accuracy"), "accuracy_lower": lower, "accuracy_upper": upper}
        at = found.setdefault(worst["epsilon"], {})
        at |= {f"curves/worst_case/{name}": value for name, value in numbers.items()}
        at |= {"curves/worst_case/quality": worst.get("quality")} if dense else {}
    for (epsilon, detector), area in _lowest_areas(summary).items():
        if epsilon is not None:
            found.setdefault(epsilon, {})[f"curves/detection/{names.detectors[detector]}/auroc"] = area
    for at in found.values():
        at["curves/clean/accuracy"] = clean.get("accuracy_under_attack")
        if dense:
            at["curves/clean/quality"] = clean.get("quality_before")
    return [
        {"epsilon": float(epsilon)} | {name: float(value) for name, value in at.items() if _is_number(value)}
        for epsilon, at in sorted(found.items())
    ]


def curve_step(epsilon: float) -> int:
    """The step at which loggers that count in whole steps keep a radius: its millionths of the image range.

    >>> curve_step(1 / 255), curve_step(8 / 255)
    (3922, 31373)
    """
    return round(epsilon * MILLIONTHS)


def unique_parts(texts: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Parts of names for some texts, no two alike, also where only capitals tell them apart.

    >>> unique_parts(["C&W", "C W", "Größe 3.5", "8/255"])
    {'C&W': 'C_W', 'C W': 'C_W-2', 'Größe 3.5': 'Groe_3_5', '8/255': '8_255'}
    """
    used, found = {part.lower() for part in taken}, {}
    for text in dict.fromkeys(map(str, texts)):
        plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
        part = stem = re.sub(r"[^A-Za-z0-9_-]+", "_", plain)[:LONGEST] or "_"
        number = 1
        while part.lower() in used:  # tables of some servers do not tell capitals from small letters
            number += 1
            part = f"{stem}-{number}"
        used.add(part.lower())
        found[text] = part
    return found


class _Names:
    """The parts of names that stand for the attacks, the radii and the detectors of a summary."""

    def __init__(self, summary: Mapping[str, Any]) -> None:
        rows = [row for row in summary["rows"] if row.get("kind") != "clean"]
        worst = summary.get("worst_case") or []
        reserved = ("clean", "worst_case", "detection")
        self.attacks = unique_parts((row["attack"] for row in rows), reserved)
        radii = sorted({row["epsilon"] for row in (*rows, *worst) if row["epsilon"] is not None})
        texts = [format_epsilon(radius) for radius in radii]
        parts = unique_parts(
            text if texts.count(text) == 1 else repr(radius) for radius, text in zip(radii, texts, strict=True)
        )
        self._radii = dict(zip(radii, parts.values(), strict=True))
        found = (summary.get("detection") or {}).get("rows", [])
        parts = unique_parts(row["detector"] for row in found)
        fits = unique_parts(row["fit"] for row in found)
        self.detectors = {
            (row["detector"], row["fit"]): f"{parts[row['detector']]}/{fits[row['fit']]}" for row in found
        }

    def radius(self, epsilon: float | None) -> str:
        """The part for a radius."""
        return UNBOUNDED if epsilon is None else self._radii[epsilon]

    def place(self, row: Mapping[str, Any]) -> str:
        """The parts for the attack and the radius of a row."""
        if row.get("kind") == "clean" or row["attack"] not in self.attacks:
            return "clean"
        return f"{self.attacks[row['attack']]}/{self.radius(row['epsilon'])}"


def _headlines(summary: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    """What runs are compared by, under names without a slash."""
    names = _Names(summary)
    clean: Mapping[str, Any] = next((row for row in summary["rows"] if row.get("kind") == "clean"), {})
    flags = [flag.get("severity") for flag in summary.get("flags") or []]
    yield "images", clean.get("images")
    yield "tried", clean.get("n")
    yield "flags_errors", flags.count("error")
    yield "flags_warnings", flags.count("warning")
    yield "clean_accuracy", clean.get("accuracy_under_attack")
    dense = "quality_after" in columns_shown(summary["manifest"])
    if dense:
        yield "clean_quality", clean.get("quality_before")
    for worst in summary.get("worst_case") or []:
        yield f"worst_case_accuracy_{names.radius(worst['epsilon'])}", worst.get("accuracy")
        if dense:
            yield f"worst_case_quality_{names.radius(worst['epsilon'])}", worst.get("quality")
    best: dict[float | None, float] = {}
    for (epsilon, _), area in _lowest_areas(summary).items():
        best[epsilon] = max(area, best.get(epsilon, -math.inf))
    for epsilon, area in best.items():
        yield f"best_detector_auroc_{names.radius(epsilon)}", area


def _lowest_areas(summary: Mapping[str, Any]) -> dict[tuple[float | None, tuple[str, str]], float]:
    """The lowest AUROC over the attacks of a radius, by radius and by detector and fit."""
    lowest: dict[tuple[float | None, tuple[str, str]], float] = {}
    for row in (summary.get("detection") or {}).get("rows", []):
        place = row["epsilon"], (row["detector"], row["fit"])
        if row.get("auroc") is not None:
            lowest[place] = min(row["auroc"], lowest.get(place, math.inf))
    return lowest


def _of_classes(summary: Mapping[str, Any], names: _Names) -> dict[str, Any]:
    """Numbers of the classes that a victim names, and of the labels that it gives."""
    found: dict[str, Any] = {}
    for kind in ("classes", "labels"):
        results = summary.get(kind) or {}
        parts = list(unique_parts(results.get("names") or [], OF_CLASSES).values())
        for row in results.get("rows", []):
            place = f"{kind}/{names.place(row)}"
            found |= {f"{place}/{name}": row.get(name) for name in OF_CLASSES}
            each = row.get(kind) or []
            if len(parts) == len(each) <= MOST_CLASSES:
                for part, numbers in zip(parts, each, strict=True):
                    found |= {f"{place}/{part}/{name}": numbers.get(name) for name in OF_ONE_CLASS}
    return found


def _of_outputs(summary: Mapping[str, Any], names: _Names) -> dict[str, Any]:
    """Numbers of the rows of masks and of boxes, those of each class under its name."""
    found: dict[str, Any] = {}
    for kind in ("masks", "boxes"):
        for row in (summary.get(kind) or {}).get("rows", []):
            place = f"{kind}/{names.place(row)}"
            found |= _plain(place, row)
            parts = unique_parts((one["name"] for one in row["classes"]), _plain("", row))
            if len(row["classes"]) <= MOST_CLASSES:
                for one in row["classes"]:
                    found |= _plain(f"{place}/{parts[one['name']]}", one)
    return found


def _plain(place: str, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """The single numbers of a row but its radius and its counts of images."""
    own = {name: value for name, value in numbers.items() if name not in ("epsilon", "n") and _is_number(value)}
    return {f"{place}/{name}" if place else name: value for name, value in own.items() if not name.startswith("n_")}


def _of_detectors(summary: Mapping[str, Any], names: _Names) -> dict[str, Any]:
    """AUROC and TPR of each detector, of the controls too, and what it flags at its threshold."""
    found: dict[str, Any] = {}
    for row in (summary.get("detection") or {}).get("rows", []):
        place = f"detection/{names.place(row)}/{names.detectors[row['detector'], row['fit']]}"
        numbers: dict[str, Any] = {"auroc": row.get("auroc"), "tpr": row.get("tpr")}
        numbers |= {f"auroc_of_{kind}": area for kind, area in (row.get("controls") or {}).items()}
        numbers |= {f"flagged_{kind}": share["rate"] for kind, share in (row.get("flagged") or {}).items()}
        found |= {f"{place}/{name}": value for name, value in numbers.items()}
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
