"""Attacks that hide from detectors, told by their recorded parameters, and whether hiding gives them away instead."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from medrobust.results.formats import format_score

Row = Mapping[str, Any]
Parameters = Mapping[str, Any]

# Objectives that fool, or move a layer at will, and hide nothing.
FOOLING = frozenset(
    (
        "CrossEntropy",
        "DifferenceOfLogits",
        "Divergence",
        "Invention",
        "JensenShannon",
        "LayerMean",
        "LossParts",
        "Margin",
        "MaskedCrossEntropy",
        "Smoothed",
        "Stabilization",
        "TypicalMargin",
        "Vanishing",
        "WeakestLabel",
    )
)
# Objectives that hide, also where they stand alone.
HIDING = frozenset(("FeatureConstraint", "RandomGuide", "ClosestGuide", "DensityGuide", "DimensionGuide"))


def hiding_terms(parameters: Parameters) -> list[str]:
    """Classes of the terms by which an attack's objective hides; empty for an attack that does not hide.

    A term counts if its weight is positive. One of a class that is not of this project, which may do anything, is taken
    to hide where it is added to an objective that fools, and to fool where it stands alone.

    Args:
        parameters: The attack's parameters, as its manifest records them.

    >>> fools, hides = {"class": "CrossEntropy"}, {"class": "FeatureConstraint", "components": 1}
    >>> both = {"class": "WeightedSum", "terms": [fools, hides], "weights": [1.0, 2.0]}
    >>> hiding_terms({"steps": 20, "objective": both}), hiding_terms({"steps": 20, "objective": fools})
    (['FeatureConstraint'], [])
    """
    found = list(dict.fromkeys(_raised(parameters.get("objective"), 1.0)))
    fools = any(name in FOOLING for name in found)
    return [name for name in found if name in HIDING or (fools and name not in FOOLING)]


def _raised(objective: Any, weight: float) -> Iterator[str]:
    """Classes of the terms that an objective raises, those of sums and of objectives within it included."""
    if not isinstance(objective, Mapping):
        return
    if objective.get("class") == "WeightedSum":
        for term, inner in zip(objective["terms"], objective["weights"], strict=True):
            yield from _raised(term, weight * float(inner))
    elif weight > 0:
        yield str(objective.get("class"))
        yield from _raised(objective.get("objective"), weight)


def differ_in_objective(one: Parameters, other: Parameters) -> bool:
    """Whether two attacks of the same method differ in nothing but their objective."""
    names = one.keys() | other.keys()
    return {name for name in names if one.get(name) != other.get(name)} == {"objective"}


def comparisons(
    attacks: Sequence[Row],
    parameters: Mapping[str, Parameters],
    detectors: Mapping[tuple[str, str], Sequence[Row]],
    fit_told: Callable[[str], str],
) -> Iterator[tuple[Row, str | None]]:
    """Compare each attack that hides with the same attack without its hiding, or else with all that do not hide.

    An attack is detected better by a detector if its AUROC is higher and the two intervals are apart. Only attacks of
    the same radius are compared, and detectors of the same fit; an attack of which no AUROC with an interval is known,
    such as one without success, is left out.

    Args:
        attacks: The rows of the attacks.
        parameters: Parameters of each attack by its key.
        detectors: The rows of detection by the fit and the key of the attack.
        fit_told: Says in words what a fit was fitted on, "" or something that begins with a comma.

    Yields:
        The row of the attack that hides for each comparison that can be made, and a sentence if any detector detects it
        better than the others, else None.
    """
    hiding = {row["key"]: hiding_terms(parameters[row["key"]]) for row in attacks}
    for row in (row for row in attacks if hiding[row["key"]]):
        others = [other for other in attacks if other["epsilon"] == row["epsilon"] and not hiding[other["key"]]]
        for fit in dict.fromkeys(fit for fit, key in detectors if key == row["key"]):
            judged = [other for other in others if _judged(detectors, fit, other)]
            twins = [
                other
                for other in judged
                if other["method"] == row["method"]
                and differ_in_objective(parameters[row["key"]], parameters[other["key"]])
            ]
            for rivals in [[twin] for twin in twins] or [judged]:
                found = list(_found_better(row, rivals, fit, detectors))
                if not found:
                    continue
                better = [words for words in found if words]
                names = " and ".join(dict.fromkeys(other["attack"] for other in rivals))
                whom = f"{names}, the same attack without it" if twins else f"any attack that does not hide ({names})"
                by = " and ".join(hiding[row["key"]])
                message = (
                    f"{row['attack']} uses {by} to hide, and yet some detectors recognise it "
                    f"better than {whom}{fit_told(fit)}: {', '.join(better)}; the intervals do not overlap."
                )
                yield row, message if better else None


def _found_better(
    row: Row, rivals: Sequence[Row], fit: str, detectors: Mapping[tuple[str, str], Sequence[Row]]
) -> Iterator[str]:
    """For each detector that has scores of an attack and all its rivals: how it does, or "" if none is worse off."""
    tables = [_judged(detectors, fit, one) for one in (row, *rivals)]
    for name in tables[0] if rivals else ():
        judged = [table.get(name) for table in tables]
        if None in judged:
            continue
        mine, *theirs = [one for one in judged if one is not None]
        apart = all(mine["auroc_interval"][0] > other["auroc_interval"][1] for other in theirs)
        best = format_score(max(other["auroc"] for other in theirs))
        instead = f"instead of {best}" if len(theirs) == 1 else f"against {best} at most"
        yield f"{name} (AUROC {format_score(mine['auroc'])} {instead})" if apart else ""


def _judged(detectors: Mapping[tuple[str, str], Sequence[Row]], fit: str, attack: Row) -> dict[str, Row]:
    """The rows of an attack's detectors that have an AUROC with an interval, by the detector."""
    rows = detectors.get((fit, attack["key"]), ())
    return {row["detector"]: row for row in rows if row["auroc_interval"] is not None}
