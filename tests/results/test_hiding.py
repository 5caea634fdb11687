"""Attacks that hide and are recognised better for it are flagged: by intervals laid out by hand, and in a report."""

import pytest

from medrobust import objectives
from medrobust.attacks import BIM, CWLinf, WorstCase
from medrobust.objectives import CrossEntropy, DensityGuide, FeatureConstraint, LayerMean, Margin, Smoothed
from medrobust.objectives.fitted import HidingObjective
from medrobust.results.hiding import FOOLING, HIDING, comparisons, hiding_terms
from medrobust.results.manifest import read_manifest, write_manifest
from medrobust.results.report.page import finish
from tests.results.test_detection import ATTACKS, RADIUS, evaluation, flags_of, row_of

SUM = CrossEntropy() + 2.0 * FeatureConstraint(components=1)
PLAIN, HFC = BIM(epsilon=RADIUS), BIM(epsilon=RADIUS, objective=SUM)


def test_every_objective_is_known_to_fool_or_to_hide():
    found = [getattr(objectives, name) for name in objectives.__all__]
    kinds = [one for one in found if isinstance(one, type) and issubclass(one, objectives.Objective)]
    named = {kind.__name__: kind for kind in kinds if kind not in (objectives.Objective, objectives.WeightedSum)}
    assert {name for name, kind in named.items() if issubclass(kind, HidingObjective)} == HIDING
    assert named.keys() - HIDING == FOOLING


@pytest.mark.parametrize(
    ("attack", "terms"),
    [
        (BIM(), []),
        (CWLinf(), []),
        (WorstCase(), []),
        (BIM(objective=CrossEntropy() + 0.5 * Margin()), []),
        (BIM(objective=LayerMean("layer")), []),
        (BIM(objective=FeatureConstraint()), ["FeatureConstraint"]),
        (HFC, ["FeatureConstraint"]),
        (BIM(objective=SUM + 0.5 * DensityGuide()), ["FeatureConstraint", "DensityGuide"]),
        (BIM(objective=CrossEntropy() - 1.0 * FeatureConstraint()), []),
        (BIM(objective=Smoothed(SUM)), ["FeatureConstraint"]),
    ],
)
def test_what_hides_is_read_from_the_recorded_parameters(attack, terms):
    assert hiding_terms(attack.parameters()) == terms


def test_an_objective_of_somebody_else_hides_where_it_is_added():
    mine, fools = {"class": "Mine"}, {"class": "CrossEntropy"}
    assert hiding_terms({"objective": mine}) == []
    assert hiding_terms({"objective": {"class": "WeightedSum", "terms": [fools, mine], "weights": [1, 1]}}) == ["Mine"]


def laid_out(areas, parameters):
    """Rows of attacks of one radius, and of one detector: `areas` are (AUROC, lower, upper) by the attack's name."""
    attacks = [{"attack": name, "key": name, "epsilon": 0.1, "method": "BIM"} for name in areas]
    detectors = {
        ("same", name): [{"detector": "kd", "auroc": area, "auroc_interval": None if low is None else [low, high]}]
        for name, (area, low, high) in areas.items()
    }
    return list(comparisons(attacks, parameters, detectors, lambda fit: f" ({fit})"))


TWINS = {"bim": PLAIN.parameters(), "hfc": HFC.parameters()}


@pytest.mark.parametrize(
    ("plain", "hidden", "flagged"),
    [
        ((0.7, 0.6, 0.8), (0.9, 0.81, 0.95), True),
        ((0.7, 0.6, 0.8), (0.9, 0.8, 0.95), False),  # they touch
        ((0.9, 0.81, 0.95), (0.7, 0.6, 0.8), False),  # it hides
    ],
)
def test_intervals_that_are_apart_decide(plain, hidden, flagged):
    ((row, message),) = laid_out({"bim": plain, "hfc": hidden}, TWINS)
    assert row["attack"] == "hfc"
    expected = (
        "hfc uses FeatureConstraint to hide, and yet some detectors recognise it better than bim, the same attack "
        "without it (same): kd (AUROC 90.0 instead of 70.0); the intervals do not overlap."
    )
    assert message == (expected if flagged else None)


@pytest.mark.parametrize(("second", "flagged"), [((0.75, 0.7, 0.8), True), ((0.85, 0.8, 0.9), False)])
def test_without_its_twin_an_attack_is_compared_with_all_that_do_not_hide(second, flagged):
    """Two with other steps, of which one may overlap; one more that hides does not count."""
    parameters = {
        "short": BIM(epsilon=RADIUS, steps=2).parameters(),
        "long": BIM(epsilon=RADIUS, steps=9).parameters(),
        "hfc": HFC.parameters(),
        "other": BIM(epsilon=RADIUS, steps=3, objective=SUM).parameters(),
    }
    areas = {"short": (0.6, 0.5, 0.7), "long": second, "hfc": (0.93, 0.85, 0.95), "other": (0.93, 0.85, 0.95)}
    found = [(row["attack"], message) for row, message in laid_out(areas, parameters)]
    assert [name for name, _ in found] == ["hfc", "other"]
    assert [bool(message) for _, message in found] == [flagged, flagged]
    if flagged:
        assert (
            "any attack that does not hide (short and long) (same): kd (AUROC 93.0 against 75.0 at most)" in found[0][1]
        )


@pytest.mark.parametrize("silent", ["bim", "short"])
def test_an_attack_without_success_does_not_silence_the_comparison(silent):
    """Nothing is known of one of two that do not hide, the twin or the other; the remaining one is the rival."""
    parameters = {**TWINS, "short": BIM(epsilon=RADIUS, steps=2).parameters()}
    areas = {"bim": (0.7, 0.6, 0.8), "short": (0.7, 0.6, 0.8), "hfc": (0.9, 0.85, 0.95), silent: (None, None, None)}
    ((row, message),) = laid_out(areas, parameters)
    assert row["attack"] == "hfc"
    whom = "bim, the same attack without it" if silent == "short" else "any attack that does not hide (short)"
    assert f"better than {whom} (same): kd (AUROC 90.0 instead of 70.0)" in message


def test_nothing_is_compared_without_rivals_radius_or_interval():
    areas = {"bim": (0.7, None, None), "hfc": (0.9, 0.85, 0.95)}
    assert laid_out(areas, TWINS) == []
    assert laid_out({"hfc": (0.9, 0.85, 0.95)}, TWINS) == []
    attacks = [
        {"attack": name, "key": name, "epsilon": radius, "method": "BIM"}
        for name, radius in (("bim", 0.2), ("hfc", 0.1))
    ]
    rows = [{"detector": "kd", "auroc": 0.9, "auroc_interval": [0.8, 0.95]}]
    assert list(comparisons(attacks, TWINS, {("same", "bim"): rows, ("same", "hfc"): rows}, str)) == []


def test_the_flag_stands_in_the_summary_and_the_report(tmp_path):
    """Scores of bim-hfc lie a standard deviation and a half further out than those of bim."""
    folder = evaluation(
        tmp_path, [*ATTACKS[:2], ("bim", RADIUS, False, 0.5), ("bim-hfc", RADIUS, False, 2.0)], images=120
    )
    manifest = read_manifest(folder)
    for entry, attack in zip(manifest["attacks"][2:], (PLAIN, HFC), strict=True):
        entry["parameters"] = attack.parameters()
    write_manifest(folder, manifest)
    summary = finish(folder)
    (message,) = flags_of(summary, "hiding")
    areas = [100 * row_of(summary, name, "kd")["auroc"] for name in ("bim-hfc", "bim")]
    assert message.startswith(
        "bim-hfc uses FeatureConstraint to hide, and yet some detectors recognise it better than bim,"
    )
    assert f"kd (AUROC {areas[0]:.1f} instead of {areas[1]:.1f})" in message
    assert message in (folder / "report.html").read_text()
    assert {check["check"]: check["comparisons"] for check in summary["checks"]}["hiding"] == 1
