"""Self-checks of attacks: what makes the numbers of one of them doubtful."""

import math
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from medrobust.results.checks.evaluation import SIGNIFICANCE, CheckedEvaluation, Flag, Row, counted, doubted, flag
from medrobust.results.formats import format_epsilon, format_percent
from medrobust.results.statistics import paired_p_value

TOLERANCE = 1e-6  # an L-infinity norm may exceed its radius by the rounding of float32
MAX_ZERO_GRADIENTS = 0.1
BLIND = {"Oblivious", "Square", "UniformNoise"}  # attacks that follow no gradient of the victim that they are judged on
MASKED = 0.05  # share of the images by which an attack without gradients may lead
GOAL = ("targeted", "objective")  # what two attacks must have in common if one is to be judged by the other
MIN_GRADIENTS = 5  # backward passes of an image, below which an attack is too short to be compared with


def norm(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    """Whether perturbations are no larger than their radius."""
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
        yield flag("error", row, message)


def noise(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    """Whether attacks do better than random changes of the same size: uniform noise, or random bias fields."""
    for row in evaluation.attacks:
        parameters = evaluation.parameters[row["key"]]
        if parameters.get("targeted"):
            continue  # reaching a goal is more than leaving the truth, which is all that noise is asked for
        if _only_moves_a_layer(parameters.get("objective")):
            continue  # it moves a layer and is not asked to fool
        for noise in evaluation.controls:
            bound = "radius" if _same_radius(row, noise) else "bound" if _same_stops(evaluation, row, noise) else ""
            if not row["n"] or not noise["n"] or not bound:
                continue
            blind, sighted = evaluation.deeds(noise, row)
            what = "Uniform noise" if bound == "radius" else f"The random bias field {noise['attack']}"
            message = (
                f"{what} of the same {bound} {blind} and {row['attack']} {sighted.removeprefix('fools ')}: the "
                "attack's gradients do not help it."
            )
            yield flag("error", row, message) if evaluation.beats(noise, row) else None


def _only_moves_a_layer(objective: Any) -> bool:
    """Whether an objective, as the manifest records it, consists of nothing but means of layers."""
    if not isinstance(objective, Mapping):
        return False
    inner = [*objective.get("terms", ()), *([objective["objective"]] if "objective" in objective else [])]
    return objective.get("class") == "LayerMean" or (bool(inner) and all(map(_only_moves_a_layer, inner)))


def _same_radius(one: Row, other: Row) -> bool:
    radii = one["epsilon"], other["epsilon"]
    return None not in radii and math.isclose(*radii, rel_tol=1e-6)


def _same_stops(evaluation: CheckedEvaluation, one: Row, other: Row) -> bool:
    """Whether two bias fields are of the same family and have the same bound."""
    first, second = (evaluation.parameters[row["key"]] for row in (one, other))
    one_bound, other_bound = first.get("max_stops"), second.get("max_stops")
    if one_bound is None or other_bound is None:
        return False
    alike = all(first.get(name) == second.get(name) for name in ("degree", "lowest_degree"))
    return alike and math.isclose(one_bound, other_bound, rel_tol=1e-6)


def radius(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    """Whether an attack gets weaker with a larger radius."""
    tried = [row for row in evaluation.attacks if row["epsilon"] is not None and row["n_correct_before"]]
    for name in dict.fromkeys(row["attack"] for row in tried):
        sweep = [row for row in tried if row["attack"] == name]
        for index, larger in enumerate(sweep[1:], 1):
            smaller = max(sweep[:index], key=lambda row: (row["success_rate"], -(row["quality_after"] or 0)))
            one, other = evaluation.deeds(smaller, larger)
            only = other.replace("fools ", "only ")
            message = (
                f"{name} {one} at {format_epsilon(smaller['epsilon'])} and {only} at "
                f"{format_epsilon(larger['epsilon'])}, although the larger radius contains the smaller one."
            )
            yield flag("warning", larger, message) if evaluation.beats(smaller, larger) else None


def steps(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    """Whether an attack gets weaker with more steps."""
    parameters = evaluation.parameters
    for pair in combinations(evaluation.attacks, 2):
        one, other = (parameters[row["key"]] for row in pair)
        alike = len({(row["method"], row["epsilon"]) for row in pair}) == 1
        if not alike or not all(row["n"] for row in pair) or not _only_steps_differ(one, other):
            continue
        few, many = sorted(pair, key=lambda row: parameters[row["key"]]["steps"])
        message = " and ".join(
            f"{row['attack']} {deed} in {parameters[row['key']]['steps']} steps"
            for row, deed in zip((many, few), reversed(evaluation.deeds(few, many)), strict=True)
        )
        yield flag("warning", many, f"{message}: more steps should not hurt.") if evaluation.beats(few, many) else None


def one_step(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    """Whether a single step does better than many of the same radius (Athalye et al., 2018)."""
    parameters = evaluation.parameters
    for single in (row for row in evaluation.attacks if row["method"] == "FGSM"):
        for many in evaluation.attacks:
            alike = all(parameters[single["key"]].get(name) == parameters[many["key"]].get(name) for name in GOAL)
            iterated = "step_size" in parameters[many["key"]] and parameters[many["key"]].get("steps", 0) > 1
            if not alike or not iterated or not _same_radius(single, many) or not (single["n"] and many["n"]):
                continue
            one, other = evaluation.deeds(single, many)
            message = (
                f"{single['attack']} {one} in one step and {many['attack']} {other.removeprefix('fools ')} in "
                f"{parameters[many['key']]['steps']}: its steps are too few or too short, or the victim's gradients "
                "mislead it."
            )
            yield flag("warning", many, message) if evaluation.beats(single, many) else None


def _only_steps_differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two attacks differ in the number of their steps, and in nothing else except the size of a step."""
    differing = {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}
    return bool(one.get("steps") and other.get("steps") and {"steps"} <= differing <= {"steps", "step_size"})


def zero_gradients(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    """Whether many of an attack's gradients vanish."""
    for row in evaluation.attacks:
        if not row["mean_backwards"]:
            continue
        message = (
            f"{format_percent(row['zero_gradient_share'])} of the gradients of {row['attack']} vanished: "
            "a saturated victim looks robust to an attack that cannot see it."
        )
        yield None if row["zero_gradient_share"] <= MAX_ZERO_GRADIENTS else flag("warning", row, message)


def broken_gradients(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    """Whether gradients were not finite."""
    for row in evaluation.attacks:
        if not row["mean_backwards"]:
            continue
        found, table = doubted(evaluation, row, "broken_gradients"), evaluation.tables[row["key"]]
        message = (
            f"The gradients of {row['attack']} were not finite on {len(found)} of {row['n']} images, in "
            f"{format_percent(sum(found) / int(table['backwards'].sum()))} of its backward passes; they were "
            "replaced, and a victim whose gradients break looks robust to an attack that needs them."
        )
        yield flag("warning", row, message) if found else None


def masked_gradients(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    """Whether attacks that have no gradient of the victim do better than all that follow it (Athalye et al., 2018)."""
    tried = [row for row in evaluation.attacks if row["n_correct_before"] and not _targeted(evaluation, row)]
    for blind in (row for row in tried if _blind(row)):
        sighted = [
            row
            for row in tried
            if not _blind(row) and (row["mean_backwards"] or 0) >= MIN_GRADIENTS and _same_ball(evaluation, blind, row)
        ]
        if not sighted:
            continue
        best = max(sighted, key=lambda row: row["success_rate"])
        lead = blind["success_rate"] - best["success_rate"]
        message = (
            f"{blind['attack']}, which has no gradient of the victim, fools {format_percent(blind['success_rate'])} "
            f"and {best['attack']}, which follows it, {format_percent(best['success_rate'])}: the victim's gradients "
            "are masked, and what attacks that need them find is no sign of robustness."
        )
        masked = lead >= MASKED and all(evaluation.beats(blind, row) for row in sighted)
        yield flag("error", blind, message) if masked else None
    for row in tried:
        members = [one["class"] for one in evaluation.parameters[row["key"]].get("attacks") or ()]
        before = members[: members.index("Square")] if "Square" in members else []
        if not set(before) - BLIND or "broken_by" not in evaluation.tables[row["key"]].columns:
            continue
        broken = evaluation.tables[row["key"]].filter("success")["broken_by"].to_list()
        blind_ones = sum(name == "Square" for name in broken)
        share = blind_ones / row["n_correct_before"]
        message = (
            f"Of {counted(row['n_correct_before'], 'image')}, Square broke {blind_ones} within {row['attack']}, which "
            "no attack before it had broken by the victim's gradients: these are masked, and what attacks that need "
            "them find is no sign of robustness."
        )
        found = share >= MASKED and paired_p_value(blind_ones, 0) < SIGNIFICANCE
        yield flag("error", row, message) if found else None


def _targeted(evaluation: CheckedEvaluation, row: Row) -> bool:
    return bool(evaluation.parameters[row["key"]].get("targeted"))


def _blind(row: Row) -> bool:
    """Whether an attack follows no gradient of the victim that it is judged on."""
    return row["method"] in BLIND or not row["mean_backwards"]


def _same_ball(evaluation: CheckedEvaluation, one: Row, other: Row) -> bool:
    norms = {evaluation.entries[row["key"]].get("norm", "linf") for row in (one, other)}
    return len(norms) == 1 and _same_radius(one, other)


def refused(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    """Whether an attack made images that are not finite, or lie outside [0, 1] or their ball."""
    for row in evaluation.rows[1:]:
        if not row["n"]:
            continue
        found = doubted(evaluation, row, "refused")
        message = (
            f"{row['attack']} made {len(found)} of {row['n']} images that are not finite or leave [0, 1] or their "
            "ball; each counts as a failure, with the clean image in its place."
        )
        yield flag("error", row, message) if found else None


def unbounded(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    """Whether attacks that look for the smallest perturbation fool every image."""
    for row in evaluation.attacks:
        entry = evaluation.entries[row["key"]]
        if entry.get("epsilon") is not None or not entry.get("minimal", True) or not row["n_correct_before"]:
            continue
        left = row["n_correct_before"] - row["n_success"]
        message = (
            f"{row['attack']} has no bound and still fails on {left} of {row['n_correct_before']} images: "
            "it stopped too early or its gradients mislead it."
        )
        yield flag("warning", row, message) if left else None


def transfer(evaluation: CheckedEvaluation) -> Iterator[Flag | None]:
    """Whether an attack fools another victim more often than the one that it was made for."""
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
            yield flag("warning", row, message) if black_box[0] > white_box[1] else None
