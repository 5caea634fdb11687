"""Self-checks of the data: what a description of them has found that makes all numbers on them doubtful."""

from collections.abc import Iterator, Mapping
from typing import Any

from medrobust.results.checks.evaluation import CheckedEvaluation, Flag, counted, flag
from medrobust.results.formats import format_interval, format_score
from medrobust.results.shortcuts import SHORTCUT

SPLIT_NAMES = {"train": "Train", "val": "Val", "adv_train": "AdvTrain", "adv_test": "AdvTest"}


def shortcut(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    """Whether a single number that says nothing of the findings tells the classes apart."""
    findings = findings_of(evaluation)
    found, tried = told_apart(findings), compared(findings)
    if found:
        yield flag("warning", evaluation.clean, str(shortcut_message(findings)))
    yield from [None] * (len(tried) - bool(found))


def near_duplicates(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    """Whether images of different splits are the same picture."""
    found = findings_of(evaluation)
    if found.get("near_duplicates") is not None:
        message = near_duplicate_message(found)
        yield None if message is None else flag("warning", evaluation.clean, message)


def findings_of(evaluation: CheckedEvaluation) -> Mapping[str, Any]:
    """What a description has found in the data; empty if nobody has described them."""
    return evaluation.manifest["data"].get("findings") or {}


def compared(findings: Mapping[str, Any]) -> list[str]:
    """The numbers of which there are enough to say how well they tell the classes apart."""
    return list(dict.fromkeys(row["feature"] for row in findings.get("shortcuts") or () if row["interval"] is not None))


def told_apart(findings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each number that is a shortcut, the row of the class that it tells best; the best number first."""
    best: dict[str, dict[str, Any]] = {}
    for row in findings.get("shortcuts") or ():
        known = best.get(row["feature"])
        if row["interval"] and row["interval"][0] > SHORTCUT and (known is None or row["auroc"] > known["auroc"]):
            best[row["feature"]] = row
    return sorted(best.values(), key=lambda row: -row["auroc"])


def shortcut_message(findings: Mapping[str, Any]) -> str | None:
    """A sentence about the numbers that are shortcuts; None if there are none."""
    found = told_apart(findings)
    if not found:
        return None
    first, others = found[0], found[1:]
    alike = all(row["class"] == first["class"] for row in found)
    more = ", ".join(
        f"{row['feature']} {'' if alike else row['class'] + ' '}with {format_score(row['auroc'])}" for row in others
    )
    return (
        f"{first['feature'].capitalize()} alone tells {first['class']} from {first['against']} with an AUROC of "
        f"{format_score(first['auroc'])} ({format_interval(first['interval'])}; {first['n_positive']} and "
        f"{first['n_negative']} images){', ' + more if more else ''}: a victim may be right for a reason that has "
        "nothing to do with the findings."
    )


def near_duplicate_message(findings: Mapping[str, Any]) -> str | None:
    """A sentence about images of different splits that are nearly the same; None if there are none."""
    pairs = findings["near_duplicates"]["images"]
    if not pairs:
        return None
    places = " and ".join(
        f"{counted(pair['images'], 'image')} of {split_name(pair['split'])} "
        f"{'is' if pair['images'] == 1 else 'are'} nearly the same as one of {split_name(pair['as'])}"
        for pair in pairs
    )
    return f"Splits share pictures: {places}; what was learnt from one split is judged on the other."


def split_name(split: str) -> str:
    """A split as reports write it."""
    return SPLIT_NAMES.get(split, split)
