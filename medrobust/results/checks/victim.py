"""Self-checks of the victim and its images: what makes all numbers of an evaluation doubtful."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import polars as pl

from medrobust.results.checks.evaluation import CheckedEvaluation, Flag, counted, doubted, flag
from medrobust.results.formats import format_interval, format_percent
from medrobust.results.labels import mean_auroc
from medrobust.results.wording import is_dense, quality_phrase

MIN_IMAGES = 30
LEAST_QUALITY = 0.5  # mean over the clean images, of masks and boxes
LEAST_AUROC = 0.5  # mean over the labels
ROUNDED = 0.01  # share of the clean images that may be judged otherwise by another device or batch


def incomplete(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    """Whether every attack has tried every image."""
    clean = evaluation.clean
    for row in evaluation.rows:
        # while the evaluation is under way, the flag of the clean row speaks for all
        said_by_clean = row is not clean and not clean["complete"] and row["n"] <= row["images"]
        who = "The evaluation" if row is clean else row["attack"]
        if row["complete"] or said_by_clean:
            yield None
        elif row["n"] > row["images"]:
            message = f"{who} has {row['n']} images where the manifest says {row['images']}."
            yield flag("error", row, message)
        else:
            message = f"{who} has tried {row['n']} of {row['images']} images: its numbers are preliminary."
            yield flag("warning", row, message)


def few_images(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    """Whether enough images were right before the attack."""
    n = evaluation.clean["n_correct_before"]
    message = (
        f"Only {counted(n, 'image')} {'was' if n == 1 else 'were'} right before the attack, fewer than {MIN_IMAGES}: "
        "the intervals are wide."
        if n
        else "No image was right before the attack: there is nothing to fool, and no success rate."
    )
    yield None if n >= MIN_IMAGES else flag("warning", evaluation.clean, message)


def weak_victim(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    """Whether the victim surely beats guessing, by the lower end of an interval over patients.

    Guessing is to name always the largest class, or one of K at random if all images are of one class; with several
    labels, an AUROC of one half, as the mean over the labels. Masks and boxes cannot be guessed: the victim has to find
    half of them on average, and is in doubt where the interval reaches below that.
    """
    if is_dense(evaluation.manifest):
        yield from _weak_dense(evaluation)
        return
    images = evaluation.records.unique("id", keep="first", maintain_order=True)
    targets = images["target"].drop_nulls()
    if len(targets):
        yield from _weak_classifier(evaluation, Counter(targets))
    elif (found := mean_auroc(images, evaluation.manifest["data"].get("class_names") or [])) is not None:
        area, limits = found
        message = (
            f"The victim tells images with a label from those without it by an AUROC of {_with_limits(area, limits)}, "
            "as the mean over the labels, and guessing by 50.0 %: what attacks take from so weak a victim says nothing."
        )
        yield None if limits[0] > LEAST_AUROC else flag("error", evaluation.clean, message)


def _weak_classifier(evaluation: CheckedEvaluation, counts: Mapping[int, int]) -> Iterator[Flag | None]:
    """Whether a victim that names one class for each image beats naming the largest, or any at random."""
    clean, names = evaluation.clean, evaluation.manifest["data"].get("class_names") or []
    rival, by_rival = max(counts.values()) / sum(counts.values()), "always naming the largest class"
    if len(counts) == 1:  # nothing beats always naming the only class that there is
        if len(names) < 2:
            return
        rival, by_rival = 1 / len(names), "naming one of the classes at random"
    accuracy, limits = clean["clean_accuracy"], clean["clean_accuracy_interval"]
    beaten = " does not surely beat that" if accuracy > rival else " does not beat that"
    message = (
        f"The victim is right about {_with_limits(accuracy, limits)} of the clean images; {by_rival} is right about "
        f"{format_percent(rival)}. What attacks take from a victim that{beaten} says nothing."
    )
    yield None if limits[0] > rival else flag("error", clean, message)


def _weak_dense(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    """Whether a victim finds half of its masks or boxes: an error if not, a warning if that is in doubt."""
    clean, quality = evaluation.clean, evaluation.clean["quality_before"]
    if quality is None:
        return
    limits = clean["quality_before_interval"]
    surely = limits is None or limits[0] >= LEAST_QUALITY
    told = "" if limits is None else f" (95 % interval {format_interval(limits)})"
    message = (
        f"The victim answers for the clean images with {quality_phrase(evaluation.manifest, quality)}{told}: what "
        "attacks take from so weak a victim says little."
    )
    severity = "error" if quality < LEAST_QUALITY else "warning"
    yield None if surely and severity == "warning" else flag(severity, clean, message)


def _with_limits(value: float, limits: Sequence[float]) -> str:
    return f"{format_percent(value)} (95 % interval {format_interval(limits)})"


def clean(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    """Whether all records, and the victim's own metric, agree about the clean images."""
    images = evaluation.records.group_by("id").agg(pl.col("correct_before").n_unique() > 1)
    if not len(images):
        return
    both = int(images["correct_before"].sum())
    message = (
        f"The victim is both right and wrong about {both} of {len(images)} clean images, depending on the attack: "
        "the records are of different images or victims."
    )
    # a clean image on the boundary may change sides with the number of images in a batch
    yield flag("error", evaluation.clean, message) if both > _few(len(images)) else None
    victim = evaluation.manifest.get("victim", {})
    measured = victim.get("quality", {}).get("accuracy")
    accuracy, n = evaluation.clean["clean_accuracy"], evaluation.clean["n"]
    if measured is None or accuracy is None or not evaluation.clean["complete"]:
        return
    if victim.get("quality_images", n) != n:  # the metric is of the batches of the last run, the records of all runs
        return
    message = (
        f"The records say that the victim is right about {format_percent(accuracy)} of the clean images, and its own "
        f"metric says {format_percent(measured)}: the records are of other images or another victim."
    )
    yield flag("error", evaluation.clean, message) if abs(accuracy - measured) * n > _few(n) else None


def _few(images: int) -> float:
    """Images that may be judged otherwise by rounding."""
    return max(1.5, ROUNDED * images)


def seen(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    """Whether a victim has seen images under evaluation in its training."""
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
        yield flag("error" if known else "warning", evaluation.clean, message) if message else None


def preparation(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    """Whether the images are prepared as they were for the victim's training."""
    binding = evaluation.manifest.get("binding")
    if binding is None or binding["unknown"]:
        return
    yield from (flag("warning", evaluation.clean, sentence) for sentence in binding["differences"])
    if not binding["differences"]:
        yield None


def probabilities(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    """Whether the victim's outputs look like probabilities."""
    row = next((row for row in evaluation.rows[1:] if row["n"]), None)
    if row is None:
        return
    found = doubted(evaluation, row, "probability_outputs")
    message = (
        "The victim's outputs are at least 0 and sum to 1: they look like probabilities, on which attacks are weaker "
        "than they ought to be, and not like logits."
    )
    yield flag("warning", evaluation.clean, message) if len(found) == row["n"] else None
