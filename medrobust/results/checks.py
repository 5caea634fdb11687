"""Self-checks of an evaluation: what makes its numbers doubtful, in one sentence each.

A flag is `{"check", "severity", "attack", "epsilon", "message"}`: an "error" says that something is broken, a "warning"
that a number means less than it seems to. `attack` and `epsilon` are None for a flag of the whole evaluation.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, NamedTuple

import polars as pl

from medrobust.results.formats import format_epsilon, format_percent, format_score
from medrobust.results.hiding import comparisons
from medrobust.results.statistics import paired_p_value

SAME = "same"  # the fit where every attack has a classifier of its own
SIGNIFICANCE = 0.05
TOLERANCE = 1e-6  # an L-infinity norm may exceed its radius by the rounding of float32
MAX_ZERO_GRADIENTS = 0.1
MIN_IMAGES = 30
ROUNDED = 0.01  # share of the clean images that may be judged otherwise by another device or batch
MIN_POSITIVES = 50

Row = Mapping[str, Any]
Flag = dict[str, Any]


@dataclass(frozen=True)
class CheckedEvaluation:
    """What the checks look at.

    Args:
        rows: The rows of the summary, the clean one first.
        tables: Records by the key of the attack.
        manifest: The manifest of the evaluation.
        records: All records.
        detection: How well detectors do, as `results.detection` says; empty without detectors.
    """

    rows: Sequence[Row]
    tables: Mapping[str, pl.DataFrame]
    manifest: Mapping[str, Any]
    records: pl.DataFrame
    detection: Mapping[str, Any]

    @property
    def clean(self) -> Row:
        """The row of the clean images."""
        return self.rows[0]

    @property
    def attacks(self) -> list[Row]:
        """The rows of the attacks, without the noise controls."""
        return [row for row in self.rows if row["kind"] == "attack"]

    @property
    def controls(self) -> list[Row]:
        """The rows of the noise controls."""
        return [row for row in self.rows if row["kind"] == "control"]

    @cached_property
    def entries(self) -> dict[str, Mapping[str, Any]]:
        """The attacks of the manifest by their key."""
        return {entry["key"]: entry for entry in self.manifest["attacks"]}

    @cached_property
    def parameters(self) -> dict[str, Mapping[str, Any]]:
        """The parameters of each attack by its key."""
        return {key: entry.get("parameters") or {} for key, entry in self.entries.items()}

    @cached_property
    def fooled(self) -> dict[str, dict[str, bool]]:
        """Whether each attack succeeded, by its key and the image, for the images that were right before."""
        return {
            key: dict(table.filter("correct_before").select("id", "success").iter_rows())
            for key, table in self.tables.items()
        }

    @cached_property
    def detectors(self) -> dict[tuple[str, str], list[Row]]:
        """The rows of detection by the fit and the key of the attack, without detectors that have no score."""
        found: dict[tuple[str, str], list[Row]] = {}
        for row in self.detection.get("rows", ()):
            if row["n_positive"] + row["n_negative"]:
                found.setdefault((row["fit"], row["key"]), []).append(row)
        return found

    def beats(self, first: Row, second: Row) -> bool:
        """Whether the first attack fools more of the images that both have tried than chance explains."""
        one, other = self.fooled[first["key"]], self.fooled[second["key"]]
        both = one.keys() & other.keys()
        only_first = sum(one[image] and not other[image] for image in both)
        only_second = sum(other[image] and not one[image] for image in both)
        return paired_p_value(only_first, only_second) < SIGNIFICANCE


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


def _flag(severity: str, row: Row, message: str) -> Flag:
    whole = row["kind"] == "clean"
    return {
        "severity": severity,
        "attack": None if whole else row["attack"],
        "epsilon": None if whole else row["epsilon"],
        "message": message,
    }


def _incomplete(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    clean = evaluation.clean
    for row in evaluation.rows:
        # while the evaluation is under way, the flag of the clean row speaks for all
        said_by_clean = row is not clean and not clean["complete"] and row["n"] <= row["images"]
        who = "The evaluation" if row is clean else row["attack"]
        if row["complete"] or said_by_clean:
            yield None
        elif row["n"] > row["images"]:
            message = f"{who} has {row['n']} images where the manifest says {row['images']}."
            yield _flag("error", row, message)
        else:
            message = f"{who} has tried {row['n']} of {row['images']} images: its numbers are preliminary."
            yield _flag("warning", row, message)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _few_images(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    n = evaluation.clean["n_correct_before"]
    message = (
        f"Only {_counted(n, 'image')} {'was' if n == 1 else 'were'} right before the attack, fewer than {MIN_IMAGES}: "
        "the intervals are wide."
    )
    yield None if n >= MIN_IMAGES else _flag("warning", evaluation.clean, message)


def _weak_victim(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    clean = evaluation.clean
    targets = evaluation.records.unique("id", keep="first")["target"].drop_nulls()
    if targets.n_unique() < 2:  # not one class per image, or a single class, which nothing can beat
        return
    largest = max(Counter(targets).values()) / len(targets)
    message = (
        f"The victim is right about {format_percent(clean['clean_accuracy'])} of the images; "
        f"always naming the largest class is right about {format_percent(largest)}."
    )
    yield None if clean["clean_accuracy"] > largest else _flag("error", clean, message)


def _norm(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    for row in evaluation.rows[1:]:
        bounded = row["epsilon"] is not None and evaluation.entries[row["key"]].get("norm", "linf") == "linf"
        if not bounded or not row["n"]:
            continue
        above = [norm for norm in evaluation.tables[row["key"]]["linf"] if norm > row["epsilon"] + TOLERANCE]
        if not above:
            yield None
            continue
        message = (
            f"{row['attack']} left its radius of {row['epsilon']:.6g} on {len(above)} of {row['n']} images, "
            f"with norms of up to {max(above):.6g}."
        )
        yield _flag("error", row, message)


def _noise(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    for row in evaluation.attacks:
        if evaluation.parameters[row["key"]].get("targeted"):
            continue  # reaching a goal is more than leaving the truth, which is all that noise is asked for
        for noise in evaluation.controls:
            if not row["n"] or not noise["n"] or not _same_radius(row, noise):
                continue
            message = (
                f"Uniform noise of the same radius fools {format_percent(noise['success_rate'])} and {row['attack']} "
                f"{format_percent(row['success_rate'])}: the attack's gradients do not help it."
            )
            yield _flag("error", row, message) if evaluation.beats(noise, row) else None


def _radius(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    tried = [row for row in evaluation.attacks if row["epsilon"] is not None and row["n_correct_before"]]
    for name in dict.fromkeys(row["attack"] for row in tried):
        sweep = [row for row in tried if row["attack"] == name]
        for index, larger in enumerate(sweep[1:], 1):
            smaller = max(sweep[:index], key=lambda row: row["success_rate"])
            message = (
                f"{name} fools {format_percent(smaller['success_rate'])} at {format_epsilon(smaller['epsilon'])} "
                f"and only {format_percent(larger['success_rate'])} at {format_epsilon(larger['epsilon'])}, "
                "although the larger radius contains the smaller one."
            )
            yield _flag("warning", larger, message) if evaluation.beats(smaller, larger) else None


def _steps(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    parameters = evaluation.parameters
    for pair in combinations(evaluation.attacks, 2):
        one, other = (parameters[row["key"]] for row in pair)
        alike = len({(row["method"], row["epsilon"]) for row in pair}) == 1
        if not alike or not all(row["n"] for row in pair) or not _only_steps_differ(one, other):
            continue
        few, many = sorted(pair, key=lambda row: parameters[row["key"]]["steps"])
        message = " and ".join(
            f"{row['attack']} fools {format_percent(row['success_rate'])} in {parameters[row['key']]['steps']} steps"
            for row in (many, few)
        )
        yield _flag("warning", many, f"{message}: more steps should not hurt.") if evaluation.beats(few, many) else None


def _only_steps_differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two attacks differ in the number of their steps, and in nothing else except the size of a step."""
    differing = {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}
    return bool(one.get("steps") and other.get("steps") and {"steps"} <= differing <= {"steps", "step_size"})


def _zero_gradients(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    for row in evaluation.attacks:
        if not row["mean_backwards"]:
            continue
        message = (
            f"{format_percent(row['zero_gradient_share'])} of the gradients of {row['attack']} vanished: "
            "a saturated victim looks robust to an attack that cannot see it."
        )
        yield None if row["zero_gradient_share"] <= MAX_ZERO_GRADIENTS else _flag("warning", row, message)


def _broken_gradients(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    for row in evaluation.attacks:
        if not row["mean_backwards"]:
            continue
        found, table = _doubted(evaluation, row, "broken_gradients"), evaluation.tables[row["key"]]
        message = (
            f"The gradients of {row['attack']} were not finite on {len(found)} of {row['n']} images, in "
            f"{format_percent(sum(found) / int(table['backwards'].sum()))} of its backward passes; they were "
            "replaced, and a victim whose gradients break looks robust to an attack that needs them."
        )
        yield _flag("warning", row, message) if found else None


def _refused(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    for row in evaluation.rows[1:]:
        if not row["n"]:
            continue
        found = _doubted(evaluation, row, "refused")
        message = (
            f"{row['attack']} made {len(found)} of {row['n']} images that are not finite or leave [0, 1] or their "
            "ball; each counts as a failure, with the clean image in its place."
        )
        yield _flag("error", row, message) if found else None


def _probabilities(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    row = next((row for row in evaluation.rows[1:] if row["n"]), None)
    if row is None:
        return
    found = _doubted(evaluation, row, "probability_outputs")
    message = (
        "The victim's outputs are at least 0 and sum to 1: they look like probabilities, on which attacks are weaker "
        "than they ought to be, and not like the logits that confidences are computed from."
    )
    yield _flag("warning", evaluation.clean, message) if len(found) == row["n"] else None


def _doubted(evaluation: CheckedEvaluation, row: Row, column: str) -> list[float]:
    """An attack's values of a column that is there only for images that raise a doubt."""
    table = evaluation.tables[row["key"]]
    return table[column].drop_nulls().to_list() if column in table.columns else []


def _unbounded(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    for row in evaluation.attacks:
        entry = evaluation.entries[row["key"]]
        if entry.get("epsilon") is not None or not entry.get("minimal", True) or not row["n_correct_before"]:
            continue
        left = row["n_correct_before"] - row["n_success"]
        message = (
            f"{row['attack']} has no bound and still fails on {left} of {row['n_correct_before']} images: "
            "it stopped too early or its gradients mislead it."
        )
        yield _flag("warning", row, message) if left else None


def _seen(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    binding = evaluation.manifest.get("binding")
    if binding is None:  # a victim without a memory
        return
    for who, one in {"the victim": binding, **binding["others"]}.items():
        message = ""
        if one["unknown"]:
            message = f"Nobody can tell whether {who} has seen these images in its training: {one['unknown']}."
        elif one["seen"]:
            where = " and ".join(f"{count} in its {home.capitalize()}" for home, count in one["seen"].items())
            message = (
                f"Of the {one['images']} images under evaluation, {who} has seen {where}: "
                "its accuracy on them says nothing about new images."
            )
        known = bool(one["seen"]) and who == "the victim"
        yield _flag("error" if known else "warning", evaluation.clean, message) if message else None


def _preparation(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    binding = evaluation.manifest.get("binding")
    if binding is None or binding["unknown"]:
        return
    yield from (_flag("warning", evaluation.clean, sentence) for sentence in binding["differences"])
    if not binding["differences"]:
        yield None


def _clean(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    images = evaluation.records.group_by("id").agg(pl.col("correct_before").n_unique() > 1)
    if not len(images):
        return
    both = int(images["correct_before"].sum())
    message = (
        f"The victim is both right and wrong about {both} of {len(images)} clean images, depending on the attack: "
        "the records are of different images or victims."
    )
    # a clean image on the boundary may change sides with the number of images in a batch
    yield _flag("error", evaluation.clean, message) if both > _few(len(images)) else None
    measured = evaluation.manifest.get("victim", {}).get("quality", {}).get("accuracy")
    accuracy, n = evaluation.clean["clean_accuracy"], evaluation.clean["n"]
    if measured is None or accuracy is None or not evaluation.clean["complete"]:
        return
    message = (
        f"The records say that the victim is right about {format_percent(accuracy)} of the clean images, and its own "
        f"metric says {format_percent(measured)}: the records are of other images or another victim."
    )
    yield _flag("error", evaluation.clean, message) if abs(accuracy - measured) * n > _few(n) else None


def _few(images: int) -> float:
    """Images that may be judged otherwise by rounding."""
    return max(1.5, ROUNDED * images)


def _transfer(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    for row in evaluation.attacks:
        for judge, judged in row.get("transfer", {}).items():
            white_box, black_box = row["success_rate_interval"], judged["success_rate_interval"]
            if judged.get("same_weights") or white_box is None or black_box is None:
                continue
            message = (
                f"{row['attack']} fools {judge} on {format_percent(judged['success_rate'])} of its images, and the "
                f"victim that it was made for on only {format_percent(row['success_rate'])}: "
                "its gradients mislead it there."
            )
            yield _flag("warning", row, message) if black_box[0] > white_box[1] else None


def _few_positives(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    judged: dict[str, Row] = {}
    for rows in evaluation.detectors.values():
        for row in rows:
            judged[row["key"]] = max(row, judged.get(row["key"], row), key=lambda one: one["n_positive"])
    for row in judged.values():
        message = (
            f"Only {_counted(row['n_positive'], 'adversarial image')} of {row['attack']} could be used to judge the "
            f"detectors, fewer than {MIN_POSITIVES}: AUROC and TPR from so few are rough."
        )
        yield None if row["n_positive"] >= MIN_POSITIVES else _detector_flag(row, message)
    for fitted_on, rows in _fits(evaluation, "fitted_positives"):
        count = rows[0]["fitted_positives"]
        message = (
            f"The detectors fitted on {fitted_on} learnt from {_counted(round(count), 'adversarial image')}, "
            f"fewer than {MIN_POSITIVES}: fitted on others, they may turn out differently."
        )
        yield None if count >= MIN_POSITIVES else _detector_flag(rows[0], message)


def _wrong_signs(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    for fitted_on, rows in _fits(evaluation, "wrong_signs"):
        wrong = [f"{row['detector']} ({row['wrong_signs']:.0f})" for row in rows if row["wrong_signs"]]
        message = (
            f"Fitted on {fitted_on}, some detectors weigh measurements the wrong way round, in brackets how many: "
            f"{', '.join(wrong)}. The more suspicious such a measurement is, the less adversarial they take the image "
            "for."
        )
        yield _detector_flag(rows[0], message) if wrong else None


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


def _worse_than_guessing(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
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


def _hiding(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    for row, message in comparisons(
        evaluation.attacks,
        evaluation.parameters,
        evaluation.detectors,
        lambda fit: "" if fit == SAME else f", with detectors fitted on {fit}",
    ):
        yield None if message is None else _detector_flag(row, message)


def _detector_flag(row: Row, message: str) -> Flag:
    """A warning about detectors, beside the attack that the row is of."""
    return {"severity": "warning", "attack": row["attack"], "epsilon": row["epsilon"], "message": message}


def _same_radius(one: Row, other: Row) -> bool:
    radii = one["epsilon"], other["epsilon"]
    return None not in radii and math.isclose(*radii, rel_tol=1e-6)


CHECKS = {
    "seen": Check("no victim has seen an image under evaluation in its training", _seen),
    "clean": Check("all records agree about the clean images", _clean),
    "preparation": Check("the images are prepared as they were for the victim's training", _preparation),
    "incomplete": Check("every attack has tried every image", _incomplete),
    "few_images": Check(f"at least {MIN_IMAGES} images were right before the attack", _few_images),
    "weak_victim": Check("the victim beats always naming the largest class", _weak_victim),
    "norm": Check("no perturbation is larger than its radius", _norm),
    "noise": Check("no attack is beaten by uniform noise of the same radius", _noise),
    "radius": Check("no attack gets weaker with a larger radius", _radius),
    "steps": Check("no attack gets weaker with more steps", _steps),
    "zero_gradients": Check(
        f"at most {100 * MAX_ZERO_GRADIENTS:.0f} % of an attack's gradients vanish", _zero_gradients
    ),
    "broken_gradients": Check("every gradient is finite", _broken_gradients),
    "refused": Check("every attack's images are finite and inside [0, 1] and their ball", _refused),
    "probabilities": Check("the victim's outputs do not look like probabilities", _probabilities),
    "unbounded": Check("attacks that look for the smallest perturbation, however large, fool every image", _unbounded),
    "few_positives": Check(
        f"detectors learn from and are judged on at least {MIN_POSITIVES} successful adversarial images", _few_positives
    ),
    "wrong_signs": Check("no detector weighs a measurement the wrong way round", _wrong_signs),
    "worse_than_guessing": Check("no detector does worse than guessing", _worse_than_guessing),
    "hiding": Check("no attack that hides is easier to detect than the same attack without its hiding", _hiding),
    "transfer": Check("no attack fools another victim more often than the one that it was made for", _transfer),
}
