"""Verdicts: what is said of an evaluation, and what is left out where no number supports it."""

from typing import Any

import pytest

from medrobust.results.report.page import headline
from medrobust.results.verdict import best_detector, decisive_radius, verdict

RADIUS = 2 / 255


def row(
    kind: str, name: str, epsilon: float | None = RADIUS, success: int = 0, right: int = 100, **changes: Any
) -> Any:
    """A row of a summary, of so many successes among the images that were right before."""
    return {
        "kind": kind,
        "attack": name,
        "method": "UniformNoise" if kind == "control" else "PGD",
        "epsilon": epsilon,
        "key": f"{name}{epsilon}",
        "n": 105,
        "images": 105,
        "n_correct_before": right,
        "n_success": success,
        "success_rate": success / right if right else None,
        "clean_accuracy": right / 105,
        "accuracy_under_attack": (right - success) / 105,
        "quality_before": None,
        "quality_after": None,
        "median_l2": 0.125,
        "mean_backwards": 0.0 if kind == "control" else 20.0,
        "means": {},
        **changes,
    }


def worst(turned: int, epsilon: float = RADIUS, before: int = 100, n: int = 105) -> tuple[Any, Any]:
    """The entries of the worst case, over all images and by class."""
    left = before - turned
    whole = {"epsilon": epsilon, "attacks": ["pgd"], "n": n, "n_correct_after": left, "accuracy": left / n}
    return whole | {"accuracy_interval": [0.1, 0.4]}, {
        **{"epsilon": epsilon, "n": n, "n_right_before": before, "n_turned": turned, "classes": [], "labels": []}
    }


def summary(rows: list[Any], *entries: tuple[Any, Any], **changes: Any) -> dict[str, Any]:
    attacks = [{"attack": one["attack"], "key": one["key"]} for one in rows]
    found = {
        "manifest": {"data": {"images": 105}, "attacks": attacks, "listeners": {}},
        "rows": [row("clean", "clean", None), *rows],
        "worst_case": [whole for whole, _ in entries],
        "worst_case_classes": [classes for _, classes in entries],
    }
    return found | changes


def test_the_main_sentence_counts_what_an_attacker_turns_and_what_noise_does() -> None:
    rows = [row("control", "noise", success=1), row("attack", "fgsm", success=60), row("attack", "pgd", success=70)]
    said = verdict(summary(rows, worst(75)))
    assert headline(summary(rows, worst(75))) == said[0]
    assert said == [
        "At ε = 2/255, an attacker who knows the model makes it wrong about 75 of the 100 images that it was right "
        "about, with the worst of 2 attacks on each; noise of the same size does so for 1 of 100.",
        "Of all 105 images the model is then right about 25 (23.8 %; 95 % interval 10.0–40.0); without an attack about "
        "100 (95.2 %).",
        "No value of an image, from 0 (black) to 1 (white), changes by more than 2/255.",
    ]


@pytest.mark.parametrize(
    ("turned", "spoken"),
    [({1: 10, 2: 60, 4: 100}, 2), ({1: 10, 2: 20}, 2), ({1: 60, 2: 70}, 1)],
)
def test_it_speaks_of_the_radius_that_halves_what_is_right_or_else_of_the_largest(
    turned: dict[int, int], spoken: int
) -> None:
    rows = [row("attack", "pgd", radius / 255, success) for radius, success in turned.items()]
    found = summary(rows, *(worst(count, radius / 255) for radius, count in turned.items()))
    assert decisive_radius(found) == spoken / 255
    assert verdict(found)[0].startswith(f"At ε = {spoken}/255")


def test_what_the_attacker_knows() -> None:
    blind = [row("attack", "square", success=75, mean_backwards=0.0)]
    assert "an attacker who sees only the model's answers" in verdict(summary(blind, worst(75)))[0]
    other = summary([row("attack", "pgd", success=75)], worst(75))
    other["manifest"]["listeners"] = {"surrogate": "hash"}
    assert "an attacker who knows another model instead of this one" in verdict(other)[0]
    assert ", with pgd." in verdict(other)[0]


def test_classes_are_named_one_by_one_or_by_the_extremes() -> None:
    def said(rights: dict[str, float], n: int = 20) -> str:
        whole, classes = worst(75)
        classes["classes"] = [{"n": n, "right": right} for right in rights.values()]
        found = summary([row("attack", "pgd")], (whole, classes), classes={"names": list(rights)})
        return next((words for words in verdict(found) if words.startswith("Class by class")), "")

    assert said({"NORMAL": 0.02, "PNEUMONIA": 0.48}) == (
        "Class by class it is still right about 2.0 % of NORMAL and 48.0 % of PNEUMONIA."
    )
    assert said(dict(zip("abcd", (0.1, 0.0, 0.5, 0.2), strict=True))) == (
        "Class by class it is still right about between 0.0 % (of b) and 50.0 % (of c)."
    )
    assert said(dict.fromkeys("abcd", 0.0)) == "Class by class it is still right about 0.0 % of each."
    assert said({"one": 0.3}) == "" and said({"a": 0.3, "b": 0.2}, n=0) == ""


def test_nothing_is_said_of_how_it_looks_without_a_number() -> None:
    def said(rows: list[Any], **norms: str) -> str:
        found = summary(rows, worst(75))
        for entry in found["manifest"]["attacks"]:
            entry["norm"] = norms.get(entry["attack"], "linf")
        return " ".join(verdict(found)[2:])

    both = [row("attack", "a", means={"ssim": 0.9989}), row("attack", "b", means={"ssim": 0.9876})]
    assert "the changed images' mean SSIM with the clean ones is at least 0.987 (1 is equal)" in said(both)
    assert "SSIM" not in said([*both, row("attack", "c")])
    assert "No value" in said(both) and "No value" not in said(both, b="log")


def test_incomplete_and_small_evaluations_say_so() -> None:
    some = summary([row("attack", "pgd")], worst(50, before=60, n=63))
    assert "This is preliminary: 63 of 105 images have been tried." in verdict(some)
    few = summary([row("attack", "pgd")], worst(5, before=12, n=105))
    assert any(words.startswith("With so few images (12 right before the attack)") for words in verdict(few))


def test_all_none_and_nothing_to_turn() -> None:
    assert "about all 100 images that" in verdict(summary([row("attack", "pgd")], worst(100)))[0]
    assert "about none of the 100 images that" in verdict(summary([row("attack", "pgd")], worst(0)))[0]
    hopeless = verdict(summary([row("attack", "pgd", right=0)], worst(0, before=0)))
    assert hopeless[0] == "The model was right about none of the 105 images, so that no attack can make it wrong."
    assert verdict(summary([])) == verdict(summary([row("attack", "pgd", n=0)])) == ["No attack has been recorded yet."]


def test_attacks_without_a_radius_say_how_far_they_went() -> None:
    rows = [row("attack", "cw", None, 90), row("attack", "deepfool", None, 100)]
    assert verdict(summary(rows))[0] == (
        "Without a bound on its change of an image, an attacker who knows the model makes it wrong about all 100 "
        "images that it was right about, with deepfool, at a median L2 distance of 0.125."
    )


def test_targeted_attacks_say_how_often_they_reach_their_goal() -> None:
    found = summary([row("attack", "pgd", success=40)], worst(75))
    found["manifest"]["attacks"][0]["parameters"] = {"targeted": True}
    assert "The attack aims at a chosen goal: pgd reaches it for 40 of 100 images that were right before." in verdict(
        found
    )


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({"median": 1 / 255}, "A perturbation of 1/255 (L∞) is known to suffice to make half of the images wrong"),
        (
            {"median": None},
            "The median smallest perturbation is more than 8/255 (L∞), the largest that was tried: 60 of",
        ),
        ({"median": None, "largest": None}, ""),
        ({"median": 0.0, "n_wrong_before": 60}, ""),
        ({"median": 0.5, "norm": "l2"}, "A perturbation of 0.500 (L2)"),
    ],
)
def test_the_median_smallest_perturbation(numbers: dict[str, Any], words: str) -> None:
    smallest = {"norm": "linf", "largest": 8 / 255, "n": 105, "n_wrong_before": 5, "n_never": 60} | numbers
    said = verdict(summary([row("attack", "pgd")], worst(75), smallest=smallest))[3:]
    assert [one[: len(words)] for one in said] == ([words] if words else [])


def judged(detector: str, attack: str, rate: float | None, clean: float = 0.1, n: int = 50, fit: str = "bim") -> Any:
    flagged = {"successful": {"rate": rate, "n": n}, "clean": {"rate": clean, "n": 100}}
    return {"detector": detector, "fit": fit, "attack": attack, "epsilon": RADIUS, "flagged": flagged}


def test_the_best_detector_is_that_which_lets_least_pass_under_its_worst_attack() -> None:
    # kd: 0.9 and 0.2, worst 80 % pass; lid: 0.6 and 0.7, worst 40 % pass; md has judged one attack only
    rows = [judged("kd", "pgd", 0.9), judged("kd", "mim", 0.2), judged("lid", "pgd", 0.6), judged("lid", "mim", 0.7)]
    rows += [judged("md", "pgd", 1.0), judged("md", "mim", None)]
    best = best_detector(rows, RADIUS)
    assert best is not None and (best["detector"], best["attack"]) == ("lid", "pgd")
    said = verdict(summary([row("attack", "pgd")], worst(75), detection={"rows": rows}))[-1]
    assert said == (
        "The best of 3 detectors, lid, fitted on bim, lets 40.0 % of the 50 images pass with which pgd fools the "
        "model, and flags 10.0 % of the clean ones."
    )
    none = {"rows": [judged("kd", "pgd", None), judged("lid", "pgd", None)]}
    assert verdict(summary([row("attack", "pgd")], worst(75), detection=none))[-1] == (
        "None of the 2 detectors could be judged."
    )


def test_summaries_of_earlier_versions_have_a_verdict() -> None:
    found = summary([row("attack", "pgd")], worst(75))
    del found["worst_case_classes"]
    assert verdict(found)[0] == (
        "At ε = 2/255, an attacker who knows the model leaves 25 (23.8 %; 95 % interval 10.0–40.0) of 105 images right."
    )
