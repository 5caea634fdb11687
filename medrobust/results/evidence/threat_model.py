"""The threat model of an evaluation, in the terms of NIST AI 100-2 E2025."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from medrobust.results.evidence.fields import (
    Field,
    answered,
    attacks_of,
    either,
    listed,
    named,
    names_of,
    open_field,
    parameters_of,
)
from medrobust.results.formats import format_epsilon
from medrobust.results.hiding import hiding_terms

SOURCE = {
    "title": "Adversarial Machine Learning: A Taxonomy and Terminology of Attacks and Mitigations",
    "issuer": "NIST AI 100-2 E2025",
    "date": "March 2025",
}
NO_ATTACK = "no attack has a record yet"
NORMS = {"linf": "L-infinity", "l2": "L2", "l0": "L0", "log": "L-infinity of the logarithm of the image"}
BLIND = ("Square",)  # methods that ask for outputs alone, also within an attack that runs several


def threat_model(summary: Mapping[str, Any]) -> dict[str, Field]:
    """The threat model card, field by field.

    Args:
        summary: As `results.summary.summarise` returns it.
    """
    rows = attacks_of(summary)
    return {
        "attack_stage": either(
            "At which stage of the life cycle the attack happens",
            "deployment: evasion, by changed images at the input of a trained model; attacks during training "
            "(poisoning) are not part of this evaluation"
            if rows
            else None,
            NO_ATTACK,
        ),
        "attacker_goals": _goals(rows),
        "privacy": open_field("Whether training data or the model can be extracted", "no privacy attack is run"),
        "availability": open_field(
            "Whether the system can be made unusable, or slow", "no attack on availability is run"
        ),
        "capabilities": _capabilities(rows),
        "knowledge": _knowledge(rows, summary["manifest"]),
        "transfer": _transfer(rows),
        "budget": _budget(rows),
        "effort": _effort(rows),
        "objective": _objectives(rows),
        "adaptive_to_defences": _adaptive_to_defences(rows, summary["manifest"]),
        "adaptive_to_detectors": _adaptive_to_detectors(rows, summary),
    }


def _goals(rows: Sequence[Mapping[str, Any]]) -> Field:
    asks = "What the attacker wants, and whether a certain wrong output"
    targeted = names_of([row for row in rows if parameters_of(row).get("targeted")])
    others = names_of([row for row in rows if not parameters_of(row).get("targeted")])
    parts = [f"any wrong output ({listed(others)})"] if others else []
    parts += [f"a chosen wrong output, targeted ({listed(targeted)})"] if targeted else ["no targeted attack"]
    answer = f"integrity of the output: {'; '.join(parts)}" if rows else None
    return either(asks, answer, NO_ATTACK, {"untargeted": others, "targeted": targeted})


def _capabilities(rows: Sequence[Mapping[str, Any]]) -> Field:
    asks = "What the attacker can do"
    if not rows:
        return open_field(asks, NO_ATTACK)
    words = (
        "change the digital image that the model is given, within the budget below, and as often as they like; no "
        "control of training data, labels, model, source code or of the scanner"
    )
    return answered(asks, words, {"testing_data": True, "training_data": False, "model": False, "labels": False})


def _knowledge(rows: Sequence[Mapping[str, Any]], manifest: Mapping[str, Any]) -> Field:
    """White box, black box or transfer: told by the passes that an attack spent and by the surrogate."""
    asks = "What the attacker knows of the model"
    if not rows:
        return open_field(asks, NO_ATTACK)
    found: dict[str, list[str]] = {}
    for row in rows:
        for kind in _kinds(row, bool((manifest.get("listeners") or {}).get("surrogate"))):
            if row["attack"] not in found.setdefault(kind, []):
                found[kind].append(row["attack"])
    meaning = {
        "white_box": "white box, with the model's weights and gradients",
        "black_box": "black box, by queries of its outputs alone",
        "transfer": "transfer: images crafted on another model, without access to this one",
        "none": "no access to the model",
    }
    parts = [f"{words}: {listed(found[kind])}" for kind, words in meaning.items() if kind in found]
    every = {"white_box": "white box", "black_box": "black box", "transfer": "transfer"}
    absent = [words for kind, words in every.items() if kind not in found]
    rest = f"; not run: {', '.join(absent)}" if absent else ""
    return answered(asks, "; ".join(parts) + rest, found)


def _kinds(row: Mapping[str, Any], surrogate: bool) -> Iterator[str]:
    if surrogate:
        yield "transfer"
        return
    members = {str(one.get("class")) for one in parameters_of(row).get("attacks") or ()}
    backwards, forwards = row["mean_backwards"] or 0, row["mean_forwards"] or 0
    if backwards:
        yield "white_box"
    if (forwards and not backwards) or members & set(BLIND):
        yield "black_box"
    if not forwards and not backwards:
        yield "none"


def _transfer(rows: Sequence[Mapping[str, Any]]) -> Field:
    asks = "Whether adversarial images of this model fool others"
    judges = sorted({judge for row in rows for judge in row["transfer"]})
    why = "no other model has judged the images (transfer.judges)"
    values = {named(row): {judge: one["success_rate"] for judge, one in row["transfer"].items()} for row in rows}
    return either(asks, f"judged by {listed(judges)}" if judges else None, why, values)


def _budget(rows: Sequence[Mapping[str, Any]]) -> Field:
    asks = "How far an image may be changed"
    if not rows:
        return open_field(asks, NO_ATTACK)
    free = [row for row in rows if row["epsilon"] is None]
    parts = [balls(rows)] if len(free) < len(rows) else []
    for row in free:
        length = "–" if row["median_l2"] is None else f"{row['median_l2']:.3g}"
        stops = parameters_of(row).get("max_stops")
        bound = "without a bound" if stops is None else f"within {stops:g} photographic stop{'' if stops == 1 else 's'}"
        parts.append(f"{row['attack']} {bound}, with a median L2 distance of {length}")
    unbounded = [row for row in free if parameters_of(row).get("max_stops") is None]
    values = {"radii": radii_of(rows), "unbounded": {row["attack"]: row["median_l2"] for row in unbounded}}
    within = {row["attack"]: parameters_of(row)["max_stops"] for row in free if row not in unbounded}
    values |= {"photographic_stops": within} if within else {}
    return answered(asks, "; ".join(parts) + ", in units of the [0, 1] image range", values)


def radii_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """The radii of attacks by their norm, in increasing order."""
    found: dict[str, set[float]] = {}
    for row in rows:
        if row["epsilon"] is not None:
            found.setdefault(str(row["entry"].get("norm", "linf")), set()).add(row["epsilon"])
    return {norm: sorted(radii) for norm, radii in sorted(found.items())}


def balls(rows: Sequence[Mapping[str, Any]]) -> str:
    """The norms and radii of attacks, in words."""
    return "; ".join(
        f"{NORMS.get(norm, norm)} norm at most {', '.join(map(format_epsilon, radii))}"
        for norm, radii in radii_of(rows).items()
    )


def _effort(rows: Sequence[Mapping[str, Any]]) -> Field:
    asks = "How much the attacker may compute"
    passes = {named(row): (row["mean_forwards"] or 0) + (row["mean_backwards"] or 0) for row in rows}
    if not passes:
        return open_field(asks, NO_ATTACK)
    most = max(passes, key=lambda name: passes[name])
    words = f"up to {passes[most]:.3g} passes through a model for each image on average ({most})"
    return answered(asks, words, passes)


def _objectives(rows: Sequence[Mapping[str, Any]]) -> Field:
    asks = "What the attack raises"
    found = {str(row["attack"]): _objective(row) for row in rows}
    own = list(dict.fromkeys(str(row["method"]) for row in rows if not found[str(row["attack"])]))
    kinds = list(dict.fromkeys(kind for kind in found.values() if kind))
    words = ([listed(kinds)] if kinds else []) + ([f"its method's own ({listed(own)})"] if own else [])
    return either(asks, "; ".join(words) or None, NO_ATTACK, {name: kind or "own" for name, kind in found.items()})


def _objective(row: Mapping[str, Any]) -> str:
    """The class of an attack's objective, or of the terms of a sum; empty where the attack names none."""
    objective = parameters_of(row).get("objective")
    if not isinstance(objective, Mapping):
        return ""
    terms = [str(term.get("class")) for term in objective.get("terms", ()) if isinstance(term, Mapping)]
    return " + ".join(terms) or str(objective.get("class"))


def _adaptive_to_defences(rows: Sequence[Mapping[str, Any]], manifest: Mapping[str, Any]) -> Field:
    asks = "Whether the attacker adapts to what is done to the image before the model sees it"
    victim = manifest.get("victim") or {}
    if not victim.get("input_defence"):
        return open_field(asks, "nothing is done to the images before the victim sees them (attack.input_defence)")
    oblivious = names_of([row for row in rows if row["method"] == "Oblivious"])
    seen = victim.get("input_defence_under_attack") or []
    ways = [str(one.get("gradient") or "") for one in seen if isinstance(one, Mapping)]
    if (manifest.get("listeners") or {}).get("surrogate"):
        return answered(asks, "no: images are crafted on a surrogate, which is not behind the defence")
    through = f", by {listed([way for way in ways if way])}" if any(ways) else ""
    words = f"attacks see through the input defence{through}"
    return answered(asks, words + (f"; not {listed(oblivious)}" if oblivious else ""), {"under_attack": seen})


def _adaptive_to_detectors(rows: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> Field:
    asks = "Whether the attacker adapts to detectors of adversarial images"
    hiding = {str(row["attack"]): terms for row in rows if (terms := hiding_terms(parameters_of(row)))}
    detected = summary.get("detection") or {}
    if not hiding:
        why = "no attack hides from detectors" if detected else "no detector watches, and no attack hides from one"
        return open_field(asks, why)
    words = f"{listed(list(hiding))} hide in the model's features; they do not know the detectors themselves"
    return answered(asks, words if detected else f"{words}, and no detector watches in this evaluation", hiding)
