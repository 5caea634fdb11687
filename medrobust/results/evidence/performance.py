"""Accuracy and robustness of a victim as single fields, which several sources ask for."""

from collections.abc import Mapping, Sequence
from typing import Any

from medrobust.results.evidence.fields import Field, answered, attacks_of, either, listed, named, open_field, rate
from medrobust.results.formats import format_epsilon, format_interval, format_linf, format_percent, format_score
from medrobust.results.wording import is_dense, quality_name

BINDING = "the victim has no way to tell which images it has seen"


def accuracy(summary: Mapping[str, Any], asks: str) -> Field:
    """How good the victim is on clean images, with intervals."""
    clean = summary["rows"][0]
    if not clean["n"]:
        return open_field(asks, "no image has a record yet")
    found: dict[str, Any] = {
        "images": clean["n"],
        "right": {"value": clean["clean_accuracy"], "interval": clean["clean_accuracy_interval"]},
    }
    words = [f"{rate(clean['clean_accuracy'], clean['clean_accuracy_interval'])} of {clean['n']} images right"]
    if is_dense(summary["manifest"]) and clean["quality_before"] is not None:
        name, interval = quality_name(summary["manifest"]), clean["quality_before_interval"]
        found[name] = {"value": clean["quality_before"], "interval": interval}
        words.append(f"{name} {rate(clean['quality_before'], interval)}")
    for part in ("classes", "labels"):
        first = _clean_row(summary, part)
        if first.get("auroc") is not None:
            found["auroc"] = {"value": first["auroc"], "interval": first.get("auroc_interval")}
            between = format_interval(first.get("auroc_interval"))
            words.append(f"AUROC {format_score(first['auroc'])} of 100" + (f" ({between})" if between else ""))
    boxes = _clean_row(summary, "boxes")
    if boxes.get("map50") is not None:
        found["map50"] = {"value": boxes["map50"], "interval": boxes.get("map50_interval")}
        words.append(f"mAP at IoU 0.5 {rate(boxes['map50'], boxes.get('map50_interval'))}")
    return answered(asks, "; ".join(words), found)


def by_class(summary: Mapping[str, Any], asks: str) -> Field:
    """How good the victim is on each class, clean."""
    names, found = [], {}
    for part, numbers in (
        ("classes", ("sensitivity", "specificity")),
        ("labels", ("sensitivity", "specificity")),
        ("masks", ("jaccard", "dice")),
        ("boxes", ("ap50",)),
    ):
        section = summary.get(part) or {}
        every = section.get("names") or []
        for name, one in zip(every, _clean_row(summary, part).get("classes") or _labels(summary, part), strict=False):
            values = {number: _with_interval(one, number) for number in numbers}
            found[str(one.get("name", name))] = {"n": one.get("n", one.get("n_boxes")), **values}
            shown = ", ".join(f"{number} {rate(*values[number].values())}" for number in numbers)
            names.append(f"{one.get('name', name)}: {shown}")
    if not found:
        return open_field(asks, "the records name no class of an image")
    return answered(asks, listed(names, 14), found)


def _labels(summary: Mapping[str, Any], part: str) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = _clean_row(summary, part).get("labels") or []
    return found


def _clean_row(summary: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    """The clean row of a part of the summary; empty if there is none."""
    rows = (summary.get(part) or {}).get("rows") or [{}]
    first: Mapping[str, Any] = rows[0]
    return first if first.get("kind") == "clean" else {}


def _with_interval(one: Mapping[str, Any], number: str) -> dict[str, Any]:
    return {"value": one.get(number), "interval": one.get(f"{number}_interval")}


def calibration(summary: Mapping[str, Any], asks: str) -> Field:
    """Whether the victim's confidence is what it seems."""
    error = _clean_row(summary, "classes").get("calibration_error")
    why = "the calibration error is defined for victims that name one class of each image"
    words = None if error is None else f"expected calibration error {100 * error:.1f} % on clean images"
    return either(asks, words, why, {"calibration_error": error})


def under_attack(summary: Mapping[str, Any], asks: str) -> Field:
    """What is left at each radius if each image meets the attack that harms it most."""
    found, words = {}, []
    for one in summary["worst_case"]:
        if one["n"] and one["accuracy"] is not None:
            radius = format_epsilon(one["epsilon"])
            found[radius] = {
                "value": one["accuracy"],
                "interval": one["accuracy_interval"],
                "n": one["n"],
                "attacks": one["attacks"],
            }
            words.append(f"{rate(one['accuracy'], one['accuracy_interval'])} at {radius}")
    if words:
        return answered(asks, f"images right under the worst case of all attacks: {listed(words, 12)}", found)
    free = [row for row in attacks_of(summary) if row["epsilon"] is None]
    left = [
        f"{rate(row['accuracy_under_attack'], row['accuracy_under_attack_interval'])} under {named(row)}"
        for row in free
    ]
    values = {
        row["attack"]: {"value": row["accuracy_under_attack"], "interval": row["accuracy_under_attack_interval"]}
        for row in free
    }
    return either(asks, listed(left) if left else None, "no attack has a record yet", values)


def under_noise(summary: Mapping[str, Any], asks: str) -> Field:
    """What is left under the controls: they stand for errors, not for an attacker."""
    controls = [row for row in summary["rows"] if row["control"] and row["n"]]
    rows = [row for row in controls if row["epsilon"] is not None]
    words = [
        f"{rate(row['accuracy_under_attack'], row['accuracy_under_attack_interval'])} at "
        f"{format_epsilon(row['epsilon'])}"
        for row in rows
    ]
    values = {
        format_epsilon(row["epsilon"]): {
            "value": row["accuracy_under_attack"],
            "interval": row["accuracy_under_attack_interval"],
        }
        for row in rows
    }
    parts = [f"images right under uniform noise of the attacks' radius: {listed(words, 12)}"] if words else []
    natural = [row for row in controls if row["epsilon"] is None]
    if natural:
        least = min(natural, key=lambda row: row["accuracy_under_attack"])
        left = rate(least["accuracy_under_attack"], least["accuracy_under_attack_interval"])
        parts.append(f"images right under the harshest of {len(natural)} corruptions, {least['attack']}: {left}")
        values |= {
            row["attack"]: {"value": row["accuracy_under_attack"], "interval": row["accuracy_under_attack_interval"]}
            for row in natural
        }
    else:
        parts.append("no other disturbance is tried")
    answer = "; ".join(parts) if controls else None
    return either(asks, answer, "no noise was run as control (attack.controls)", values)


def smallest(summary: Mapping[str, Any], asks: str) -> Field:
    """How little a minimal-norm attack has to change."""
    rows = [row for row in attacks_of(summary) if row["entry"].get("minimal") and row["median_l2"] is not None]
    radii = [row["epsilon"] for row in summary["rows"]]
    words = [
        f"{named(row)}: median L2 {row['median_l2']:.3g}, median L-infinity {format_linf(row['median_linf'], radii)}"
        for row in rows
    ]
    values = {row["attack"]: {"median_l2": row["median_l2"], "median_linf": row["median_linf"]} for row in rows}
    why = "only given radii were tried: no attack looks for the smallest change"
    answer = f"the smallest perturbations that were found, for values of an image from 0 to 1: {listed(words)}"
    return either(asks, answer if words else None, why, values)


def sensitivity(summary: Mapping[str, Any], asks: str) -> Field:
    """How far the quality of the output moves: the lowest mean that an attack leaves at each radius."""
    name = quality_name(summary["manifest"]) if is_dense(summary["manifest"]) else "probability of the truth"
    lowest: dict[float, Mapping[str, Any]] = {}
    for row in attacks_of(summary):
        epsilon, after = row["epsilon"], row["quality_after"]
        if epsilon is not None and after is not None:
            held = lowest.get(epsilon)
            lowest[epsilon] = row if held is None or after < held["quality_after"] else held
    values = {
        format_epsilon(epsilon): {
            "attack": row["attack"],
            "before": {"value": row["quality_before"], "interval": row["quality_before_interval"]},
            "after": {"value": row["quality_after"], "interval": row["quality_after_interval"]},
        }
        for epsilon, row in sorted(lowest.items())
    }
    words = [
        f"from {format_percent(row['quality_before'])} to {format_percent(row['quality_after'])} at "
        f"{format_epsilon(epsilon)} ({row['attack']})"
        for epsilon, row in sorted(lowest.items())
    ]
    answer = f"mean {name.removeprefix('mean ')} falls {listed(words)}" if words else None
    return either(asks, answer, "no attack with a radius has a record yet", values)


def detectors(summary: Mapping[str, Any], asks: str) -> Field:
    """Detectors of adversarial images that watch the victim."""
    names = sorted({str(row["detector"]) for row in (summary.get("detection") or {}).get("rows") or ()})
    return either(asks, f"watched by {listed(names)}" if names else None, "no detector watches", names)


def test_data(summary: Mapping[str, Any], asks: str) -> Field:
    """The images that were judged, and whether the victim has seen any of them."""
    data, binding = summary["manifest"]["data"], summary["manifest"].get("binding")
    words = f"{data.get('name')}, {data.get('split')}: {summary['rows'][0]['n']} of {data['images']} images"
    split = (data.get("splits") or {}).get(data.get("split")) or {}
    if split.get("patients") is not None:
        words += f" of {split['patients']} patients"
    if binding is None or binding.get("unknown"):
        why = BINDING if binding is None else str(binding["unknown"])
        return answered(
            asks, f"{words}; whether the victim was trained on any of them is not known: {why}", data_of(data)
        )
    seen = sum((binding.get("seen") or {}).values())
    told = f"{seen or 'none'} of them was seen in the victim's training"
    if seen > 1:
        told = f"{seen} of them were seen in the victim's training"
    by = "by hashes of names, patients, files and pixels"
    return answered(asks, f"{words}; {by}, {told}", {**data_of(data), "seen": seen})


def data_of(data: Mapping[str, Any]) -> dict[str, Any]:
    """What the manifest says of the data, without what differs between machines."""
    names = ("name", "split", "images", "fingerprint", "image_size", "channels", "resize", "splits", "references")
    return {name: data[name] for name in names if name in data}
