"""Self-checks of detectors: what makes their numbers doubtful."""

from collections.abc import Iterator

from medrobust.results.checks.evaluation import CheckedEvaluation, Flag, Row, counted
from medrobust.results.formats import format_percent, format_score
from medrobust.results.hiding import comparisons

SAME = "same"  # the fit where every attack has a classifier of its own
MIN_POSITIVES = 50
ALARMS = 0.1  # share of the clean images that thresholds are set to flag


def few_positives(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    """Whether detectors learn from and are judged on enough successful adversarial images."""
    judged: dict[str, Row] = {}
    for rows in evaluation.detectors.values():
        for row in rows:
            judged[row["key"]] = max(row, judged.get(row["key"], row), key=lambda one: one["n_positive"])
    for row in judged.values():
        message = (
            f"Only {counted(row['n_positive'], 'adversarial image')} of {row['attack']} could be used to judge the "
            f"detectors, fewer than {MIN_POSITIVES}: AUROC and TPR from so few are rough."
        )
        yield None if row["n_positive"] >= MIN_POSITIVES else _detector_flag(row, message)
    for fitted_on, rows in _fits(evaluation, "fitted_positives"):
        count = rows[0]["fitted_positives"]
        message = (
            f"The detectors fitted on {fitted_on} learnt from {counted(round(count), 'adversarial image')}, "
            f"fewer than {MIN_POSITIVES}: fitted on others, they may turn out differently."
        )
        yield None if count >= MIN_POSITIVES else _detector_flag(rows[0], message)


def wrong_signs(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    """Whether a regression of a detector has weights of the wrong sign."""
    for fitted_on, rows in _fits(evaluation, "wrong_signs"):
        wrong = [f"{row['detector']} ({row['wrong_signs']:.0f})" for row in rows if row["wrong_signs"]]
        message = (
            f"Some detectors fitted on {fitted_on} give measurements the wrong sign, with the number in brackets: "
            f"{', '.join(wrong)}. The more suspicious such a measurement is, the less adversarial they take the image "
            "for."
        )
        yield _detector_flag(rows[0], message) if wrong else None


def worse_than_guessing(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    """Whether a detector does worse than guessing."""
    for (fit, _), rows in evaluation.detectors.items():
        defined = [row for row in rows if row["auroc"] is not None]
        below = [f"{row['detector']} ({format_score(row['auroc'])})" for row in defined if row["auroc"] < 0.5]
        if not defined:
            continue
        message = (
            f"AUROC below 50 on {rows[0]['attack']}{'' if fit == SAME else f', fitted on {fit}'}: {', '.join(below)}. "
            "To these detectors, an adversarial image looks cleaner than a clean or noisy one more often than not. An "
            "attack that hides can cause that; the scores may then tell the images apart the other way round."
        )
        yield _detector_flag(rows[0], message) if below else None


def false_alarms(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    """Whether detectors flag many more clean images than their thresholds were set for."""
    told: set[tuple[str, float]] = set()
    for (fit, _), rows in evaluation.detectors.items():
        clean = {row["detector"]: (row.get("flagged") or {}).get("clean") or {} for row in rows}
        intervals = {name: share["interval"] for name, share in clean.items() if share.get("interval")}
        if not intervals:
            continue
        above = [
            f"{name} ({format_percent(clean[name]['rate'])})"
            for name, interval in intervals.items()
            if interval[0] > ALARMS and (name, clean[name]["rate"]) not in told
        ]
        told |= {(name, clean[name]["rate"]) for name in intervals}
        message = (
            f"Detectors judged on {rows[0]['attack']}{'' if fit == SAME else f', fitted on {fit}'} flag more clean "
            f"images than the {format_percent(ALARMS)} that their thresholds were set for, beyond chance: "
            f"{', '.join(above)}. What they flag of adversarial images says little."
        )
        yield _detector_flag(rows[0], message) if above else None


def hiding(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    """Whether an attack that hides is easier to detect than the same attack without its hiding."""
    for row, message in comparisons(
        evaluation.attacks,
        evaluation.parameters,
        evaluation.detectors,
        lambda fit: "" if fit == SAME else f", with detectors fitted on {fit}",
    ):
        yield None if message is None else _detector_flag(row, message)


def _fits(evaluation: CheckedEvaluation, what: str) -> Iterator[tuple[str, list[Row]]]:
    """What detectors were fitted on, with the rows of those of which a number is known; each fit once.

    A fit of a name judges several attacks with the same classifiers, and may be that of an attack itself.
    """
    seen = set()
    for (fit, _), rows in evaluation.detectors.items():
        known = [row for row in rows if row[what] is not None]
        fitted_on = rows[0]["attack"] if fit == SAME else fit
        identity = (fitted_on, *(row[what] for row in known))
        if known and identity not in seen:
            seen.add(identity)
            yield fitted_on, known


def _detector_flag(row: Row, message: str) -> Flag:
    """A warning about detectors, beside the attack that the row is of."""
    return {"severity": "warning", "attack": row["attack"], "epsilon": row["epsilon"], "message": message}
