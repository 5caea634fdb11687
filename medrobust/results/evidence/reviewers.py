"""What reviewers ask for, source by source, and what an evaluation says to it."""

from collections.abc import Mapping
from typing import Any

from medrobust.results.defences import defences_of
from medrobust.results.evidence import performance
from medrobust.results.evidence.fields import Field, answered, attacks_of, either, listed, open_field
from medrobust.results.evidence.threat_model import balls

FDA = {
    "title": "Artificial Intelligence-Enabled Device Software Functions: Lifecycle Management and Marketing Submission "
    "Recommendations (draft guidance)",
    "issuer": "US Food and Drug Administration",
    "date": "7 January 2025",
}
ISO = {
    "title": "Artificial intelligence (AI) - Assessment of the robustness of neural networks. Part 1: Overview. Part "
    "2: Methodology for the use of formal methods",
    "issuer": "ISO/IEC TR 24029-1 and ISO/IEC 24029-2",
    "date": "March 2021 and August 2023",
}
AI_ACT = {
    "title": "Artificial Intelligence Act, article 15: accuracy, robustness and cybersecurity",
    "issuer": "Regulation (EU) 2024/1689",
    "date": "13 June 2024",
}
OUTSIDE = "an evaluation of robustness does not see it"
PERSONS = "the data say nothing of age, sex, site or scanner"


def fda(summary: Mapping[str, Any]) -> dict[str, Field]:
    """The parts of the FDA's draft on which an evaluation has something to say, and those on which it has not."""
    return {
        "model_description": _model(summary),
        "data_management": performance.test_data(summary, "On which data the model is tested, apart from development"),
        "data_provenance": open_field(
            "How data were collected, by which reference standard, and whom they represent", OUTSIDE
        ),
        "performance_validation": performance.accuracy(summary, "How well the model does on test data, with intervals"),
        "performance_by_class": performance.by_class(summary, "How well it does on each class"),
        "subgroups": open_field("How well it does in subgroups of patients", PERSONS),
        "uncertainty": performance.calibration(summary, "How sure the model may be of its output"),
        "other_sites": _other_sites(summary),
        "repeatability": open_field(
            "Whether the output is the same for the same patient, imaged again or by others",
            "each image is judged once (evaluate.py replay makes single records again)",
        ),
        "human_team": open_field("How users do together with the model", OUTSIDE),
        "model_evasion": performance.under_attack(
            summary, "Cybersecurity: whether altered inputs mislead the model (evasion)"
        ),
        "data_poisoning": open_field(
            "Cybersecurity: whether training data can be altered", "no attack on training is run"
        ),
        "model_stealing": open_field(
            "Cybersecurity: whether the model can be inverted or stolen, or leaks data", "no privacy attack is run"
        ),
        "performance_drift": open_field("Whether performance changes over time", "one evaluation is one point in time"),
        "monitoring": open_field("How performance is monitored in use, and the device labelled", OUTSIDE),
    }


def iso(summary: Mapping[str, Any]) -> dict[str, Field]:
    """The properties of ISO/IEC 24029-2, the methods of TR 24029-1, and the domain on which they are looked at."""
    worst = performance.under_attack(summary, "Stability: whether the output stays the same all over a domain")
    if worst["assessed"]:
        worst = {**worst, "answer": f"searched, not proven, around each image: {worst['answer']}"}
    return {
        "domain": _domain(summary),
        "stability": worst,
        "stability_to_noise": performance.under_noise(summary, "Stability to a statistical disturbance"),
        "sensitivity": performance.sensitivity(
            summary, "Sensitivity: how far the output moves when the input is changed"
        ),
        "smallest_perturbation": performance.smallest(summary, "How small a change of the input suffices"),
        "relevance": open_field(
            "Relevance: which parts of the input an output depends on", "no attribution of outputs to pixels is made"
        ),
        "reachability": open_field(
            "Reachability: which states a system that acts can come to",
            "single images are judged, of which none follows from another",
        ),
        "statistical_methods": _statistics(summary),
        "formal_methods": open_field(
            "Formal methods: a proof that no counterexample exists in a domain",
            "attacks find counterexamples; where they find none, there may be some all the same",
        ),
    }


def ai_act(summary: Mapping[str, Any]) -> dict[str, Field]:
    """The metrics that article 15 wants declared, and the threats that it names."""
    return {
        "accuracy": performance.accuracy(summary, "Accuracy, and its metrics, for the instructions for use"),
        "accuracy_by_class": performance.by_class(summary, "Accuracy for each class"),
        "accuracy_of_groups": open_field("Accuracy for groups of persons", PERSONS),
        "patients": _patients(summary),
        "robustness_to_errors": performance.under_noise(summary, "Robustness to errors and faults of the input"),
        "redundancy": open_field("Backup and fail-safe plans", OUTSIDE),
        "feedback_loops": open_field("Feedback loops of systems that go on learning", "the weights are fixed"),
        "adversarial_examples": performance.under_attack(summary, "Cybersecurity: adversarial examples, model evasion"),
        "smallest_perturbation": performance.smallest(summary, "How small a change of the input suffices"),
        "data_poisoning": open_field("Cybersecurity: data and model poisoning", "no attack on training is run"),
        "confidentiality": open_field("Cybersecurity: confidentiality attacks", "no privacy attack is run"),
        "prevention": _defences(summary),
        "detection": performance.detectors(summary, "Measures that detect attacks"),
    }


def _model(summary: Mapping[str, Any]) -> Field:
    victim = summary["manifest"].get("victim") or {}
    words = f"{victim.get('name')}, {victim.get('parameters'):,} parameters" if victim.get("parameters") else None
    size = "x".join(map(str, victim.get("input") or ()))
    values = {name: victim[name] for name in ("name", "class", "parameters", "input") if name in victim}
    return either(
        "What the model is, its inputs and outputs",
        f"{words}, input {size} (channels, height, width), task {summary['manifest']['data'].get('task')}"
        if words
        else None,
        "the manifest does not describe the victim",
        values,
    )


def _other_sites(summary: Mapping[str, Any]) -> Field:
    asks = "How well it does at sites that the model was not developed at"
    data = summary["manifest"]["data"]
    binding = summary["manifest"].get("binding") or {}
    others = [line for line in binding.get("differences") or [] if "is evaluated on" in line]
    why = "the victim was trained on other images of the same data (evaluate.py test --data FILE takes others)"
    if not binding or binding.get("unknown"):
        why = "it is not known on which data the victim was trained"
    answer = " ".join(others) or (
        f"data other than the victim's ({data['references']})" if "references" in data else None
    )
    return either(asks, answer, why, {"trained_on": data.get("references"), "judged_on": data.get("name")})


def _domain(summary: Mapping[str, Any]) -> Field:
    asks = "The domain in which robustness is looked at"
    data, rows = summary["manifest"]["data"], attacks_of(summary)
    if not rows:
        return open_field(asks, "no attack has a record yet")
    bounded = any(row["epsilon"] is not None for row in rows)
    around = (
        f"around each what differs from it by: {balls(rows)}" if bounded else "what lies near each, without a bound"
    )
    words = f"{summary['rows'][0]['n']} images of {data.get('name')} ({data.get('split')}), and {around}"
    size = data.get("image_size")
    return answered(
        asks,
        words + (f"; images of {size} x {size} pixels, resized by {data.get('resize')}" if size else ""),
        performance.data_of(data),
    )


def _statistics(summary: Mapping[str, Any]) -> Field:
    asks = "Statistical methods: measures of performance on data, and how sure they are"
    rows = [row for row in summary["rows"] if row["n"]]
    if not rows:
        return open_field(asks, "no image has a record yet")
    words = f"rates of {len(rows)} rows, each with its number of images and a 95 % interval"
    checks = [one for one in summary["checks"] if one["comparisons"]]
    raised = [one["check"] for one in checks if one["flags"]]
    flags = (
        f"{len(raised)} of {len(checks)} self-checks have something to say ({listed(raised)})"
        if raised
        else (f"none of {len(checks)} self-checks has anything to say")
    )
    return answered(asks, f"{words}; {flags}", {"checks": [one["check"] for one in checks], "flagged": raised})


def _patients(summary: Mapping[str, Any]) -> Field:
    asks = "For how many patients an attack changes what was right"
    found = summary.get("patients_under_attack")
    if not found:
        return open_field(asks, "the records name no patients")
    words = (
        f"{found['fooled']} of {found['patients']} patients have an image that some attack turned from right to wrong"
    )
    return answered(asks, words, found)


def _defences(summary: Mapping[str, Any]) -> Field:
    lines = [defence.line() for defence in defences_of(summary["manifest"])]
    why = "the victim is trained plainly, and nothing is done to its images"
    return either("Measures that prevent attacks", "; ".join(lines) or None, why, lines)
