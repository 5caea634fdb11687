"""All self-checks of an evaluation, in the order in which they are made."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from medrobust.results.checks import attacks, data, detectors, victim
from medrobust.results.checks.evaluation import CheckedEvaluation, Flag, Row


class Check(NamedTuple):
    """One self-check: what holds where nothing is wrong, and how it is tested.

    `made` yields one item for each comparison that can be made: a flag without its name, or None where all is well.
    """

    description: str
    made: Callable[[CheckedEvaluation], Iterator[Flag | None]]


def check(
    rows: Sequence[Row],
    tables: Mapping[str, pl.DataFrame],
    manifest: Mapping[str, Any],
    records: pl.DataFrame,
    detection: Mapping[str, Any],
) -> tuple[list[dict[str, Any]], list[Flag]]:
    """Make all self-checks of `CHECKS`.

    Whether one attack is "beaten" by another or gets "weaker" is judged on the same images by a one-sided exact McNemar
    test at 5 %, among the images that the victim got right before: of the images that only one of two attacks fooled,
    more than chance explains were fooled by the one that ought to be the weaker.

    Args:
        rows: The rows of the summary, the clean one first.
        tables: Records by the key of the attack.
        manifest: The manifest of the evaluation.
        records: All records.
        detection: How well detectors do, as `results.detection` says; empty without detectors.

    Returns:
        The checks, `{"check", "description", "comparisons", "flags"}` with the number of comparisons that could be made
        (0 where the check does not apply) and of flags raised; and the flags, errors first.
    """
    evaluation = CheckedEvaluation(rows, tables, manifest, records, detection)
    checks: list[dict[str, Any]] = []
    flags: list[Flag] = []
    for name, one in CHECKS.items():
        found = list(one.made(evaluation))
        raised = [{"check": name, **flag} for flag in found if flag is not None]
        checks.append({"check": name, "description": one.description, "comparisons": len(found), "flags": len(raised)})
        flags += raised
    return checks, sorted(flags, key=lambda flag: flag["severity"] != "error")


CHECKS = {
    "seen": Check("no victim has seen an image under evaluation in its training", victim.seen),
    "clean": Check("all records agree about the clean images", victim.clean),
    "preparation": Check("the images are prepared as they were for the victim's training", victim.preparation),
    "shortcuts": Check(
        "no number such as the bytes per pixel tells the classes apart, if the data were described",
        data.shortcut,
    ),
    "near_duplicates": Check(
        "no split has nearly the same picture as another, if the data were described", data.near_duplicates
    ),
    "incomplete": Check("every attack has tried every image", victim.incomplete),
    "few_images": Check(f"at least {victim.MIN_IMAGES} images were right before the attack", victim.few_images),
    "weak_victim": Check(
        "the victim surely beats guessing and always naming the largest class, or finds half of masks and boxes",
        victim.weak_victim,
    ),
    "norm": Check("no perturbation is larger than its radius", attacks.norm),
    "noise": Check(
        "no attack is beaten by uniform noise of the same radius, or random bias fields of the same bound",
        attacks.noise,
    ),
    "radius": Check("no attack gets weaker with a larger radius", attacks.radius),
    "steps": Check("no attack gets weaker with more steps", attacks.steps),
    "one_step": Check("no attack of many steps is beaten by a single one of the same radius", attacks.one_step),
    "zero_gradients": Check(
        f"at most {100 * attacks.MAX_ZERO_GRADIENTS:.0f} % of an attack's gradients vanish", attacks.zero_gradients
    ),
    "masked_gradients": Check(
        "no attack without gradients does better than all that follow the victim's", attacks.masked_gradients
    ),
    "broken_gradients": Check("every gradient is finite", attacks.broken_gradients),
    "refused": Check("every attack's images are finite and inside [0, 1] and their ball", attacks.refused),
    "probabilities": Check("the victim's outputs do not look like probabilities", victim.probabilities),
    "unbounded": Check(
        "attacks that look for the smallest perturbation, however large, fool every image", attacks.unbounded
    ),
    "few_positives": Check(
        f"detectors learn from and are judged on at least {detectors.MIN_POSITIVES} successful adversarial images",
        detectors.few_positives,
    ),
    "wrong_signs": Check("no detector weighs a measurement the wrong way round", detectors.wrong_signs),
    "worse_than_guessing": Check("no detector does worse than guessing", detectors.worse_than_guessing),
    "false_alarms": Check(
        "no detector flags more clean images than its threshold was set for, beyond chance", detectors.false_alarms
    ),
    "hiding": Check(
        "no attack that hides is easier to detect than the same attack without its hiding", detectors.hiding
    ),
    "transfer": Check("no attack fools another victim more often than the one that it was made for", attacks.transfer),
}
