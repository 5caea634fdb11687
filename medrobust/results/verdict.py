"""The verdict of an evaluation in plain words: what its numbers say to those who have to decide, and no more."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medrobust.results.formats import (
    capitalised,
    format_epsilon,
    format_interval,
    format_linf,
    format_measure,
    format_percent,
)
from medrobust.results.manifest import task_of
from medrobust.results.wording import is_dense, quality_name

FEW_CLASSES = 3  # that a sentence names one by one
FEW_IMAGES = 30  # right before the attack, as the self-checks have it
NORMS = {"linf": "L∞", "l2": "L2"}

Row = Mapping[str, Any]


def decisive_radius(summary: Mapping[str, Any]) -> float | None:
    """The radius of which a verdict speaks: the smallest at which the worst case halves what is right, or the largest.

    Args:
        summary: As `summarise` returns it.

    Returns:
        None if no attack of a radius has a record.
    """
    worst = [one for one in summary["worst_case"] if one["n"]]
    clean = summary["rows"][0]["clean_accuracy"] or 0.0
    halved = [one["epsilon"] for one in worst if one["accuracy"] <= clean / 2]
    radii = [one["epsilon"] for one in worst]
    return min(halved) if halved else max(radii, default=None)


def verdict(summary: Mapping[str, Any]) -> list[str]:
    """What an evaluation found, in whole sentences, the main one first.

    Each sentence is there only if the summary has its numbers; no sentence judges what no number measures, such as
    whether anybody would see a change.

    Args:
        summary: As `summarise` returns it.
    """
    if not any(row["kind"] == "attack" and row["n"] for row in summary["rows"]):
        return ["No attack has been recorded yet.", *_natural(summary)]
    radius = decisive_radius(summary)
    sentences = _unbounded(summary) if radius is None else _at_radius(summary, radius)
    others = [*_natural(summary), *_smallest(summary), *_detectors(summary, radius)]
    return [sentence for sentence in [*sentences, *others] if sentence]


def worst_at(summary: Mapping[str, Any], radius: float | None, what: str = "worst_case") -> Row:
    """The entry of a radius in `worst_case` or `worst_case_classes`; empty in summaries without it."""
    return next((one for one in summary.get(what) or () if one["epsilon"] == radius), {})


def rows_at(summary: Mapping[str, Any], radius: float | None, kind: str) -> list[Row]:
    """The rows of the attacks, or of the controls, of a radius that have records."""
    rows = [row for row in summary["rows"] if row["kind"] == kind and row["n"] and row["epsilon"] is not None]
    return [row for row in rows if radius is not None and math.isclose(row["epsilon"], radius, rel_tol=1e-6)]


def _at_radius(summary: Mapping[str, Any], radius: float) -> Iterator[str]:
    attacks, worst = rows_at(summary, radius, "attack"), worst_at(summary, radius, "worst_case_classes")
    all_right = worst_at(summary, radius)
    before, turned = worst.get("n_right_before"), worst.get("n_turned")
    if before is None or turned is None:
        yield (
            f"At ε = {format_epsilon(radius)}, {_who(summary, attacks)} leaves {_share(all_right)} of "
            f"{all_right['n']} images right."
        )
    elif before == 0:
        yield f"The model was right about none of the {worst['n']} images, so that no attack can make it wrong."
    else:
        yield (
            f"At ε = {format_epsilon(radius)}, {_who(summary, attacks)} makes it wrong about "
            f"{_of(turned, before)} that it was right about{_by(attacks)}{_noise(summary, radius)}."
        )
        yield (
            f"Of all {all_right['n']} images the model is then right about {_share(all_right)}; without an attack "
            f"about {before} ({format_percent(before / worst['n'])})."
        )
    yield _preliminary(all_right["n"], summary, before)
    yield _of_classes(worst, summary)
    yield from _of_outputs(summary, radius, attacks)
    yield _change(summary, radius, attacks)
    yield _goals(summary, attacks)


def _unbounded(summary: Mapping[str, Any]) -> Iterator[str]:
    """Where no attack has a radius: all look for the smallest perturbation, or bound something else."""
    attacks = [row for row in summary["rows"] if row["kind"] == "attack" and row["n"]]
    row = min(attacks, key=lambda one: one["accuracy_under_attack"])
    yield (
        f"{_without_radius(summary, row)}, {_who(summary, [row])} makes it wrong about "
        f"{_of(row['n_success'], row['n_correct_before'])} that it was right about, with {row['attack']}"
        f"{_distance(row)}."
    )
    yield _goals(summary, [row])
    yield _preliminary(row["n"], summary, row["n_correct_before"])


def _without_radius(summary: Mapping[str, Any], row: Row) -> str:
    """How far an attack without a radius may change an image."""
    parameters = {one["key"]: one.get("parameters") or {} for one in summary["manifest"]["attacks"]}
    stops = parameters.get(row["key"], {}).get("max_stops")
    if stops is None:
        return "Without a bound on its change of an image"
    most = f"{stops:g} photographic stop{'' if stops == 1 else 's'}"
    return f"With no value of an image brightened or darkened by more than {most}"


def _of(count: int, all_of_them: int) -> str:
    """A number of images among others.

    >>> _of(0, 5), _of(2, 5), _of(5, 5), _of(1, 1)
    ('none of the 5 images', '2 of the 5 images', 'all 5 images', 'the only image')
    """
    if count == all_of_them:
        return f"all {count} images" if count > 1 else "the only image"
    return f"{count or 'none'} of the {all_of_them} {'image' if all_of_them == 1 else 'images'}"


def _distance(row: Row) -> str:
    return "" if row["median_l2"] is None else f", at a median L2 distance of {row['median_l2']:.3g}"


def _who(summary: Mapping[str, Any], attacks: Sequence[Row]) -> str:
    """What the attacker of these attacks knows."""
    if (summary["manifest"].get("listeners") or {}).get("surrogate"):
        return "an attacker who knows another model instead of this one"
    if any(row["mean_backwards"] for row in attacks):
        return "an attacker who knows the model"
    return "an attacker who sees only the model's answers"


def _by(attacks: Sequence[Row]) -> str:
    return (
        f", with {attacks[0]['attack']}" if len(attacks) == 1 else f", with the worst of {len(attacks)} attacks on each"
    )


def _noise(summary: Mapping[str, Any], radius: float) -> str:
    """What the controls of the same radius do."""
    told = []
    for row in rows_at(summary, radius, "control"):
        name = "noise of the same size" if row["method"] == "UniformNoise" else f"the control {row['attack']}"
        told.append(f"{name} does so for {row['n_success'] or 'none'} of {row['n_correct_before']}")
    return f"; {' and '.join(told)}" if told else ""


def _natural(summary: Mapping[str, Any]) -> Iterator[str]:
    """What the harshest of the controls without a radius does, such as corruptions."""
    rows = [row for row in summary["rows"] if row["kind"] == "control" and row["n"] and row["epsilon"] is None]
    if not rows or not any(row["n_correct_before"] for row in rows):
        return
    harshest = max(rows, key=lambda row: row["n_success"] / max(row["n_correct_before"], 1))
    whose = f"the harshest of {len(rows)} controls, {harshest['attack']}," if len(rows) > 1 else harshest["attack"]
    yield (
        f"Without an attacker, {whose} makes it wrong about "
        f"{_of(harshest['n_success'], harshest['n_correct_before'])} that it was right about."
    )


def _share(worst: Row) -> str:
    return f"{worst['n_correct_after']} ({format_percent(worst['accuracy'])}{_limits(worst['accuracy_interval'])})"


def _limits(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f"; 95 % interval {format_interval(interval)}"


def _of_classes(worst: Row, summary: Mapping[str, Any]) -> str:
    names = (summary.get("classes") or {}).get("names") or []
    found = [(name, one["right"]) for name, one in zip(names, worst.get("classes") or (), strict=False) if one["n"]]
    if len(found) < 2:
        return ""
    if len(found) <= FEW_CLASSES:
        shares = [f"{format_percent(right)} of {name}" for name, right in found]
        return f"Class by class it is still right about {', '.join(shares[:-1])} and {shares[-1]}."
    least, most = min(found, key=lambda one: one[1]), max(found, key=lambda one: one[1])
    if least[1] == most[1]:
        return f"Class by class it is still right about {format_percent(least[1])} of each."
    return (
        f"Class by class it is still right about between {format_percent(least[1])} (of {least[0]}) and "
        f"{format_percent(most[1])} (of {most[0]})."
    )


def _of_outputs(summary: Mapping[str, Any], radius: float, attacks: Sequence[Row]) -> Iterator[str]:
    """How good masks, boxes and labels still are."""
    manifest, clean, worst = summary["manifest"], summary["rows"][0], worst_at(summary, radius)
    labels_right = task_of(manifest) == "multilabel"
    if (
        (is_dense(manifest) or labels_right)
        and worst.get("quality") is not None
        and clean["quality_before"] is not None
    ):
        name, limits = quality_name(manifest), _limits(worst["quality_interval"]).removeprefix("; ")
        whose = "The share of boxes found, averaged over the images," if name == "boxes found" else f"The {name}"
        whose = "The share of labels that are right, averaged over the images," if labels_right else whose
        yield (
            f"{whose} falls from {format_percent(clean['quality_before'])} to {format_percent(worst['quality'])}"
            f"{f' ({limits})' if limits else ''}, with the worst attack on each image."
        )
    boxes = _rows_of(summary, "boxes", attacks)
    if boxes and boxes[0].get("lost") is not None:
        most = max(boxes, key=lambda row: row["lost"] + row["relabelled"])
        yield (
            f"Under {most['attack']} it loses {most['lost']} of {most['n_boxes']} true boxes, gives another class to "
            f"{most['relabelled']} and invents {most['invented']}."
        )
    labels, before = _rows_of(summary, "labels", attacks), (summary.get("labels") or {}).get("rows") or [{}]
    areas = [row for row in labels if row["auroc"] is not None]
    if task_of(manifest) == "multilabel" and areas and before[0].get("auroc") is not None:
        least = min(areas, key=lambda row: row["auroc"])
        yield (
            f"The AUROC, as the mean over the labels, falls from {format_percent(before[0]['auroc'])} to "
            f"{format_percent(least['auroc'])} under {least['attack']} (50 % is guessing)."
            if least["auroc"] < before[0]["auroc"]
            else ""
        )


def _rows_of(summary: Mapping[str, Any], part: str, attacks: Sequence[Row]) -> list[Row]:
    keys = {row["key"] for row in attacks}
    return [row for row in (summary.get(part) or {}).get("rows") or () if row["key"] in keys]


def _change(summary: Mapping[str, Any], radius: float, attacks: Sequence[Row]) -> str:
    """How large the change is, by what was measured."""
    norms = {entry["key"]: entry.get("norm", "linf") for entry in summary["manifest"]["attacks"]}
    parts = []
    if attacks and all(norms.get(row["key"], "linf") == "linf" for row in attacks):
        parts.append(
            f"no value of an image, from 0 (black) to 1 (white), changes by more than {format_epsilon(radius)}"
        )
    ssim: list[float] = [row["means"]["ssim"] for row in attacks if row["means"].get("ssim") is not None]
    if ssim and len(ssim) == len(attacks):
        least = "is" if len(ssim) == 1 else "is at least"
        shown = math.floor(1000 * min(ssim)) / 1000  # never more than it is
        parts.append(f"the changed images' mean SSIM with the clean ones {least} {shown:.3f} (1 is equal)")
    return f"{capitalised(', and '.join(parts))}." if parts else ""


def _goals(summary: Mapping[str, Any], attacks: Sequence[Row]) -> str:
    """How often attacks that aim at something reach it, where all do."""
    parameters = {entry["key"]: entry.get("parameters") or {} for entry in summary["manifest"]["attacks"]}
    if not attacks or not all(parameters.get(row["key"], {}).get("targeted") for row in attacks):
        return ""
    best = max(attacks, key=lambda row: row["success_rate"] or 0.0)
    return (
        f"{'Every attack here aims' if len(attacks) > 1 else 'The attack aims'} at a chosen goal: {best['attack']} "
        f"reaches it for {best['n_success']} of {best['n_correct_before']} images that were right before."
    )


def _preliminary(tried: int, summary: Mapping[str, Any], before: int | None) -> str:
    expected = summary["rows"][0]["images"]
    if tried < expected:
        return f"This is preliminary: {tried} of {expected} images have been tried."
    if before is not None and 0 < before < FEW_IMAGES:
        return f"With so few images ({before} right before the attack) all shares are uncertain: see their intervals."
    return ""


def _smallest(summary: Mapping[str, Any]) -> Iterator[str]:
    """The median of the smallest perturbations."""
    found = summary.get("smallest") or {}
    if not found or found["n_wrong_before"] * 2 >= found["n"]:
        return
    norm = NORMS[found["norm"]]

    def write(length: float) -> str:
        return format_linf(length, [found["largest"]]) if found["norm"] == "linf" else format_measure(length)

    if found["median"] is not None:
        yield (
            f"A perturbation of {write(found['median'])} ({norm}) is known to suffice to make half of the images wrong"
            f"{', counting those that were wrong before' if found['n_wrong_before'] else ''}."
        )
    elif found["largest"] is not None:
        yield (
            f"The median smallest perturbation is more than {write(found['largest'])} ({norm}), the largest that was "
            f"tried: {found['n_never']} of {found['n']} images stood every attack."
        )


def _detectors(summary: Mapping[str, Any], radius: float | None) -> Iterator[str]:
    """What passes the detector that lets least pass, under the attack of which most passes it."""
    rows = (summary.get("detection") or {}).get("rows") or []
    if not rows:
        return
    every = len({row["detector"] for row in rows})
    found = best_detector(rows, radius)
    if found is None:
        yield f"None of the {every} detectors could be judged." if every > 1 else "The detector could not be judged."
        return
    share, clean = found["flagged"]["successful"], found["flagged"]["clean"]["rate"]
    whose = f"{found['detector']}, fitted on {'the same attack' if found['fit'] == 'same' else found['fit']},"
    alarms = "" if clean is None else f", and flags {format_percent(clean)} of the clean ones"
    yield (
        f"{f'The best of {every} detectors, ' if every > 1 else 'The detector '}{whose} lets "
        f"{format_percent(1 - share['rate'])} of the {share['n']} images pass with which {found['attack']} fools the "
        f"model{alarms}."
    )


def best_detector(rows: Sequence[Row], radius: float | None) -> Row | None:
    """Of the detector that lets least pass at a radius, the row of the attack of which most passes it.

    Args:
        rows: Those of `detection`.
        radius: Of the attacks that count; those without a radius count if None.

    Returns:
        None where no detector has a threshold and a successful attack to judge. A detector that has not judged as many
        attacks as another is not compared with it.
    """
    judged = [row for row in rows if row["epsilon"] == radius and _passes(row) is not None]
    by_detector: dict[tuple[str, str], list[Row]] = {}
    for row in judged:
        by_detector.setdefault((row["detector"], row["fit"]), []).append(row)
    most = max(map(len, by_detector.values()), default=0)
    worst = [max(own, key=lambda row: _passes(row) or 0.0) for own in by_detector.values() if len(own) == most]
    return min(worst, key=lambda row: _passes(row) or 0.0, default=None)


def _passes(row: Row) -> float | None:
    """Share of the successful adversarial images that a detector lets pass at its fitted threshold."""
    share = (row.get("flagged") or {}).get("successful") or {}
    return None if share.get("rate") is None or not share.get("n") else 1 - share["rate"]
