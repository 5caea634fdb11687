"""Self-checks of an evaluation: what makes its numbers doubtful, said in one sentence each.

A flag is `{"check", "severity", "attack", "epsilon", "message"}`: an "error" says that something is broken, a "warning"
that a number means less than it seems. `attack` and `epsilon` are None if the whole evaluation is meant.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any

import polars as pl

from medrobust.results.formats import format_epsilon, format_percent
from medrobust.results.statistics import paired_p_value

SIGNIFICANCE = 0.05
TOLERANCE = 1e-6  # an l-infinity norm may exceed its radius by the rounding of float32
MAX_ZERO_GRADIENTS = 0.1
MIN_IMAGES = 30

CHECKS = {
    "incomplete": "every attack has tried every image",
    "few_images": f"at least {MIN_IMAGES} images were right before the attack",
    "weak_victim": "the victim beats always naming the largest class",
    "norm": "no perturbation is larger than its radius",
    "noise": "no attack is beaten by uniform noise of the same radius",
    "radius": "no attack gets weaker with a larger radius",
    "steps": "no attack gets weaker with more steps",
    "zero_gradients": f"at most {100 * MAX_ZERO_GRADIENTS:.0f} % of an attack's gradients vanish",
    "unbounded": "attacks that look for the smallest perturbation, however large, fool every image",
    "transfer": "no attack fools another victim more often than the one that it was made for",
}

Row = Mapping[str, Any]
Flag = dict[str, Any]


def check(
    rows: Sequence[Row], tables: Mapping[str, pl.DataFrame], manifest: Mapping[str, Any], records: pl.DataFrame
) -> tuple[list[dict[str, Any]], list[Flag]]:
    """Make all self-checks of `CHECKS`.

    "Beaten" and "weaker" are judged on the same images by a one-sided exact McNemar test at 5 %, among the images that
    the victim had right before: of the images that only one of two attacks fooled, the wrong one has more than chance
    explains.

    Args:
        rows: The rows of the summary, the clean one first.
        tables: Records by key of the attack.
        manifest: The manifest of the evaluation.
        records: All records.

    Returns:
        The checks, `{"check", "description", "comparisons", "flags"}` with the number of comparisons that could be made
        (0: not applicable) and of flags raised; and the flags, errors first.
    """
    norms = {entry["key"]: entry.get("norm", "linf") for entry in manifest["attacks"]}
    minimal = {
        entry["key"]
        for entry in manifest["attacks"]
        if entry.get("minimal", entry.get("epsilon") is None) and entry.get("epsilon") is None
    }
    parameters = {entry["key"]: entry.get("parameters") or {} for entry in manifest["attacks"]}
    attacks = [row for row in rows if row["kind"] == "attack"]
    bounded = [row for row in rows[1:] if row["epsilon"] is not None and norms[row["key"]] == "linf"]
    fooled = {key: _fooled(table) for key, table in tables.items()}
    results: dict[str, list[Flag | None]] = {
        "incomplete": [_incomplete(row, rows[0]) for row in rows],
        "few_images": [_few_images(rows[0])],
        "weak_victim": list(_weak_victim(rows[0], records)),
        "norm": [_norm(row, tables[row["key"]]) for row in bounded if row["n"]],
        "noise": [
            _noise(row, noise, fooled)
            for row in attacks
            for noise in rows
            if noise["kind"] == "control"
            and row["n"]
            and noise["n"]
            and _same(row["epsilon"], noise["epsilon"])
            # reaching a goal is more than leaving the truth, which is all that noise is asked for
            and not parameters[row["key"]].get("targeted")
        ],
        "radius": list(_radius(attacks, fooled)),
        "steps": list(_steps(attacks, parameters, fooled)),
        "zero_gradients": [_zero_gradients(row) for row in attacks if row["mean_backwards"]],
        "unbounded": [_unbounded(row) for row in attacks if row["key"] in minimal and row["n_correct_before"]],
        "transfer": list(_transfer(attacks)),
    }
    checks = [
        {
            "check": name,
            "description": description,
            "comparisons": len(results[name]),
            "flags": sum(flag is not None for flag in results[name]),
        }
        for name, description in CHECKS.items()
    ]
    flags = [{"check": name, **flag} for name in CHECKS for flag in results[name] if flag is not None]
    return checks, sorted(flags, key=lambda flag: flag["severity"] != "error")


def _flag(severity: str, row: Row | None, message: str) -> Flag:
    named = row is not None and row["kind"] != "clean"
    return {
        "severity": severity,
        "attack": row["attack"] if row is not None and named else None,
        "epsilon": row["epsilon"] if row is not None and named else None,
        "message": message,
    }


def _incomplete(row: Row, clean: Row) -> Flag | None:
    told = row is not clean and not clean["complete"] and row["n"] <= row["images"]
    if row["complete"] or told:  # of an evaluation that is under way one flag says it all
        return None
    who = "The evaluation" if row["kind"] == "clean" else row["attack"]
    if row["n"] > row["images"]:
        return _flag("error", row, f"{who} has {row['n']} images where the manifest says {row['images']}.")
    return _flag("warning", row, f"{who} has tried {row['n']} of {row['images']} images: its numbers are preliminary.")


def _few_images(clean: Row) -> Flag | None:
    n = clean["n_correct_before"]
    if n >= MIN_IMAGES:
        return None
    message = f"Only {n} images were right before the attack, fewer than {MIN_IMAGES}: the intervals are wide."
    return _flag("warning", clean, message)


def _weak_victim(clean: Row, records: pl.DataFrame) -> Iterator[Flag | None]:
    targets = records.unique("id", keep="first")["target"].drop_nulls()
    if targets.n_unique() < 2:  # not one class per image, or a single class, which nothing can beat
        return
    largest = max(Counter(targets).values()) / len(targets)
    if clean["clean_accuracy"] > largest:
        yield None
        return
    yield _flag(
        "error",
        clean,
        f"The victim has {format_percent(clean['clean_accuracy'])} of the images right; "
        f"always naming the largest class has {format_percent(largest)}.",
    )


def _norm(row: Row, table: pl.DataFrame) -> Flag | None:
    above = [norm for norm in table["linf"] if norm > row["epsilon"] + TOLERANCE]
    if not above:
        return None
    message = (
        f"{row['attack']} left its radius of {row['epsilon']:.6g} on {len(above)} of {row['n']} images, "
        f"up to {max(above):.6g}."
    )
    return _flag("error", row, message)


def _noise(row: Row, noise: Row, fooled: Mapping[str, dict[str, bool]]) -> Flag | None:
    if not _beats(fooled[noise["key"]], fooled[row["key"]]):
        return None
    message = (
        f"Uniform noise of the same radius fools {format_percent(noise['success_rate'])} and {row['attack']} "
        f"{format_percent(row['success_rate'])}: the attack's gradients do not help it."
    )
    return _flag("error", row, message)


def _radius(attacks: Sequence[Row], fooled: Mapping[str, dict[str, bool]]) -> Iterator[Flag | None]:
    for name in dict.fromkeys(row["attack"] for row in attacks):
        sweep = [
            row for row in attacks if row["attack"] == name and row["epsilon"] is not None and row["n_correct_before"]
        ]
        for index, larger in enumerate(sweep[1:], 1):
            smaller = max(sweep[:index], key=lambda row: row["success_rate"])
            if not _beats(fooled[smaller["key"]], fooled[larger["key"]]):
                yield None
                continue
            yield _flag(
                "warning",
                larger,
                f"{name} fools {format_percent(smaller['success_rate'])} at {format_epsilon(smaller['epsilon'])} "
                f"and only {format_percent(larger['success_rate'])} at {format_epsilon(larger['epsilon'])}, "
                "although the larger radius contains the smaller one.",
            )


def _steps(
    attacks: Sequence[Row], parameters: Mapping[str, dict[str, Any]], fooled: Mapping[str, dict[str, bool]]
) -> Iterator[Flag | None]:
    for one, other in combinations(attacks, 2):
        mine, theirs = parameters[one["key"]], parameters[other["key"]]
        differing = {name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name)}
        alike = (one["method"], one["epsilon"]) == (other["method"], other["epsilon"])
        if not alike or not one["n"] or not other["n"] or not _only_steps(differing, mine, theirs):
            continue
        short, long = sorted((one, other), key=lambda row: parameters[row["key"]]["steps"])
        if not _beats(fooled[short["key"]], fooled[long["key"]]):
            yield None
            continue
        message = " and ".join(
            f"{row['attack']} fools {format_percent(row['success_rate'])} in {parameters[row['key']]['steps']} steps"
            for row in (long, short)
        )
        yield _flag("warning", long, f"{message}: more steps should not hurt.")


def _only_steps(differing: set[str], mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Whether two attacks differ in how many steps they take, and at most in the size of these besides."""
    return bool(mine.get("steps") and theirs.get("steps") and {"steps"} <= differing <= {"steps", "step_size"})


def _zero_gradients(row: Row) -> Flag | None:
    if row["zero_gradient_share"] <= MAX_ZERO_GRADIENTS:
        return None
    message = (
        f"{format_percent(row['zero_gradient_share'])} of the gradients of {row['attack']} vanished: "
        "a saturated victim looks robust to an attack that cannot see it."
    )
    return _flag("warning", row, message)


def _unbounded(row: Row) -> Flag | None:
    left = row["n_correct_before"] - row["n_success"]
    if not left:
        return None
    message = (
        f"{row['attack']} has no bound and still fails on {left} of {row['n_correct_before']} images: "
        "it stopped too early or its gradients mislead it."
    )
    return _flag("warning", row, message)


def _transfer(attacks: Sequence[Row]) -> Iterator[Flag | None]:
    for row in attacks:
        for judge, judged in row.get("transfer", {}).items():
            own, theirs = row["success_rate_interval"], judged["success_rate_interval"]
            if judged.get("same_weights") or own is None or theirs is None:
                continue
            if theirs[0] <= own[1]:
                yield None
                continue
            yield _flag(
                "warning",
                row,
                f"{row['attack']} fools {format_percent(judged['success_rate'])} of {judge}'s images and only "
                f"{format_percent(row['success_rate'])} of the victim's own that it was made for: "
                "its gradients mislead it there.",
            )


def _same(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and math.isclose(one, other, rel_tol=1e-6)


def _fooled(table: pl.DataFrame) -> dict[str, bool]:
    return dict(table.filter("correct_before").select("id", "success").iter_rows())


def _beats(first: Mapping[str, bool], second: Mapping[str, bool]) -> bool:
    """Whether the first attack fools more of the images that both have tried than chance explains."""
    both = first.keys() & second.keys()
    only_first = sum(first[image] and not second[image] for image in both)
    only_second = sum(second[image] and not first[image] for image in both)
    return paired_p_value(only_first, only_second) < SIGNIFICANCE
