"""How well the detectors of several runs do: over all attacks, and how much passes them."""

from collections.abc import Mapping, Sequence
from typing import Any

from medrobust.results import verdict
from medrobust.results.dashboard.tables import Column, Table

FLAGGED = {"passes": "successful", "clean_alarms": "clean", "noisy_alarms": "noisy"}

COLUMNS = (
    Column("run", "run"),
    Column("detector", "detector"),
    Column("fit", "fitted on"),
    Column("attacks", "attacks", "count", "attacks and radii at which it could be judged"),
    Column("auroc", "mean AUROC", "score", "over these attacks, in percent; 50 is guessing"),
    Column("lowest", "lowest AUROC", "score", "of any of them"),
    Column("weakest", "against"),
    Column("positives", "n", "count", "successful adversarial images of all attacks"),
    Column("passes", "passes", "rate", "share of them that is not flagged at the fitted threshold", "high"),
    Column("clean_alarms", "false alarms, clean", "rate", "share of clean images that is flagged"),
    Column("noisy_alarms", "false alarms, noisy", "rate", "share of noisy images that is flagged"),
)


def detector_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each detector of an evaluation over all of its attacks, the highest mean AUROC first.

    Args:
        summary: The summary.

    Returns:
        Rows as `COLUMNS` names them, without the run: shares are of all images of all attacks together, and None where
        no threshold was set.
    """
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in (summary.get("detection") or {}).get("rows", []):
        found.setdefault((row["detector"], row["fit"]), []).append(row)
    rows = []
    for (detector, fit), judged in found.items():
        known = [row for row in judged if row["auroc"] is not None]
        weakest = min(known, key=lambda row: row["auroc"], default=None)
        flagged = {name: pooled([row["flagged"][kind] for row in judged]) for name, kind in FLAGGED.items()}
        rows.append(
            {
                "detector": detector,
                "fit": "the same attack" if fit == "same" else fit,
                "attacks": len(known),
                "auroc": sum(row["auroc"] for row in known) / len(known) if known else None,
                "lowest": weakest and weakest["auroc"],
                "weakest": weakest and weakest["attack"],
                "positives": sum(row["n_positive"] for row in judged),
                **flagged,
                "passes": None if flagged["passes"] is None else 1 - flagged["passes"],
            }
        )
    return sorted(rows, key=lambda row: float("inf") if row["auroc"] is None else -row["auroc"])


def pooled(shares: Sequence[Mapping[str, Any]]) -> float | None:
    """Share of flagged images of several attacks together; None where no threshold was set, or there are no images."""
    counted = [share for share in shares if share["n"]]
    if not counted or any(share["rate"] is None for share in counted):
        return None
    return float(sum(share["rate"] * share["n"] for share in counted) / sum(share["n"] for share in counted))


def best_detector(summary: Mapping[str, Any]) -> dict[str, Any]:
    """The detector of which the run's verdict speaks, and what passes it, as a leaderboard shows them.

    That is the one that lets least pass under the attack of which most passes it, at the radius of the verdict. Where
    no threshold was set nothing is known to pass, and it is the one with the highest mean AUROC.
    """
    rows = (summary.get("detection") or {}).get("rows") or []
    found = verdict.best_detector(rows, verdict.decisive_radius(summary)) if rows else None
    if found is not None:
        fit = "the same attack" if found["fit"] == "same" else found["fit"]
        share = found["flagged"]["successful"]["rate"]
        shown = {"detector": f"{found['detector']}, fitted on {fit}", "detector_auroc": found["auroc"]}
        return {**shown, "passes_detector": 1 - share}
    judged = [row for row in detector_rows(summary) if row["auroc"] is not None]
    if not judged:
        return {"detector": None}
    most = max(row["attacks"] for row in judged)
    best = next(row for row in judged if row["attacks"] == most)
    named = f"{best['detector']}, fitted on {best['fit']}"
    return {"detector": named, "detector_auroc": best["auroc"], "passes_detector": None}


def detector_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The detectors of all runs.

    Args:
        rows: As `detector_rows` gives them, with the run.
    """
    note = (
        "Each detector over all attacks of its run. Runs of other data or attacks stand in one table here, and are not "
        "to be ranked by it."
    )
    return Table("detectors", "Detectors", note, COLUMNS, rows)
