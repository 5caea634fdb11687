"""Self-checks of masks and boxes: by quality where rates say nothing, and what a metric of fewer images proves."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from cli.manifest_notes import note_quality
from medrobust.results.columns import TYPES
from medrobust.results.manifest import read_manifest, write_manifest
from medrobust.results.records import Journal
from medrobust.results.summary import summarise
from tests.sample_record import record

FULL = {"stop_when_fooled": False}
VICTIM = {"name": "unet", "threshold": 0.5}


def entry(name: str, control: bool = False, method: str = "PGD", epsilon: float = 0.1, **parameters: Any) -> Any:
    """An attack of the manifest that goes on to its last step."""
    about = {
        "attack": name,
        "key": f"{name}{epsilon}",
        "epsilon": epsilon,
        "control": control,
        "parameters": parameters,
    }
    return about | {"method": "UniformNoise" if control else method}


def summary_of(
    left: list[tuple[Any, list[float]]], task: str = "segmentation", clean: float = 0.9, **victim: Any
) -> dict[str, Any]:
    """Summary of attacks that leave images with some qualities, all of which are right from 0.5 on."""
    records = [
        {"schema": 2}
        | record(f"i{place}", one["key"], attack=one["attack"], epsilon=one["epsilon"], linf=one["epsilon"])
        | {"method": one["method"], "patient": f"p{place}", "target": None, "quality_before": clean}
        | {"quality_after": quality, "correct_after": quality >= 0.5}
        | {"reached": quality < 0.5, "success": quality < 0.5}
        for one, qualities in left
        for place, quality in enumerate(qualities)
    ]
    data = {"name": "d", "task": task, "images": len(left[0][1])}
    manifest = {"run": "r", "data": data, "attacks": [one for one, _ in left], "victim": {**VICTIM, **victim}}
    return summarise(pl.DataFrame(records, schema_overrides=TYPES), manifest)


def messages(summary: dict[str, Any], check: str) -> list[str]:
    """What one check has found."""
    return [flag["message"] for flag in summary["flags"] if flag["check"] == check]


def test_noise_that_leaves_masks_worse_is_flagged_where_all_images_are_wrong() -> None:
    attacks = [(entry("noise", True), [0.2] * 5), (entry("pgd", **FULL), [0.3] * 5)]  # 5 of 5: p = 1/32
    assert messages(summary_of(attacks), "noise") == [
        "Uniform noise of the same radius leaves the victim with a mean Jaccard of 20.0 % and pgd leaves the victim "
        "with a mean Jaccard of 30.0 %: the attack's gradients do not help it."
    ]
    assert not messages(summary_of(attacks, "classification"), "noise")


@pytest.mark.parametrize(
    ("noise", "attack", "parameters"),
    [
        ([0.2] * 4, [0.3] * 4, FULL),  # p = 1/16
        ([0.295] * 8, [0.3] * 8, FULL),  # by less than a point
        ([0.2] * 8, [0.3] * 8, {"stop_when_fooled": True}),  # it is done once the image is wrong
        ([0.2] * 8, [0.3] * 8, {}),  # nobody knows
        ([0.2] * 8, [0.3] * 8, FULL | {"targeted": True}),
        ([0.2] * 2 + [0.9] * 6, [0.3] * 8, FULL),  # it fools more, which is what counts
    ],
)
def test_what_proves_nothing_is_not_flagged(noise: list[float], attack: list[float], parameters: Any) -> None:
    assert not messages(summary_of([(entry("noise", True), noise), (entry("pgd", **parameters), attack)]), "noise")


def test_more_steps_a_larger_radius_and_many_steps_are_compared_by_quality() -> None:
    few, many = entry("few", steps=5, step_size=0.1, **FULL), entry("many", steps=50, step_size=0.1, **FULL)
    (said,) = messages(summary_of([(few, [0.1] * 6), (many, [0.4] * 6)]), "steps")
    assert "many leaves the victim with a mean Jaccard of 40.0 % in 50 steps and few leaves" in said
    small, large = (entry("pgd", epsilon=radius, **FULL) for radius in (0.1, 0.2))
    (said,) = messages(summary_of([(small, [0.1] * 6), (large, [0.4] * 6)]), "radius")
    assert "pgd leaves the victim with a mean Jaccard of 10.0 % at 0.1 and leaves the victim with" in said
    single = (entry("fgsm", method="FGSM"), [0.1] * 6)
    (said,) = messages(summary_of([single, (many, [0.4] * 6)]), "one_step")
    assert said.startswith("fgsm leaves the victim with a mean Jaccard of 10.0 % in one step and many leaves")


def test_a_victim_whose_clean_masks_are_poor_is_weak() -> None:
    attacks = [(entry("pgd", **FULL), [0.1] * 40)]
    (said,) = messages(summary_of(attacks, clean=0.49), "weak_victim")
    assert "with a mean Jaccard of 49.0 %" in said and not messages(summary_of(attacks, clean=0.75), "weak_victim")
    for clean, severity in ((0.49, "error"), (0.51, "warning")):  # half of the masks, of 40 patients who all agree
        (flag,) = [one for one in summary_of(attacks, clean=clean)["flags"] if one["check"] == "weak_victim"]
        assert flag["severity"] == severity and "(95 % interval 3" in flag["message"]


@pytest.mark.parametrize(("images", "flagged"), [(40, True), (8, False), (None, True)])
def test_a_metric_of_fewer_images_than_the_records_proves_nothing(images: int | None, flagged: bool) -> None:
    """As after an evaluation that is repeated with a smaller ``limit_test_batches``; older manifests do not count."""
    counted = {} if images is None else {"quality_images": images}
    summary = summary_of([(entry("pgd"), [0.9] * 40)], quality={"accuracy": 0.75}, **counted)
    assert bool(messages(summary, "clean")) == flagged
    (check,) = [one for one in summary["checks"] if one["check"] == "clean"]
    assert check["comparisons"] == 1 + flagged


def test_the_number_of_images_is_kept_beside_the_metrics_and_not_among_them(tmp_path: Path) -> None:
    attacks = [{"attack": "pgd", "key": "k1"}]
    manifest = {"schema": 1, "run": "r", "data": {"images": 8}, "attacks": attacks, "victim": {"name": "unet"}}
    write_manifest(tmp_path, manifest)
    with Journal(tmp_path) as journal:
        journal.append([record(f"{number}") for number in range(8)] + [record("of another attack", "k2")])
    metrics = {"test/accuracy": 0.75, "test/images": 8.0, "test/quality": float("nan")}
    assert note_quality(tmp_path, metrics) == [("accuracy", 0.75)]
    victim = read_manifest(tmp_path)["victim"]
    assert victim == {"name": "unet", "quality": {"accuracy": 0.75, "quality": None}, "quality_images": 8}
    for others in ({"test/images": 7.0}, {}):  # a resume with another limit of batches; a metric that does not say
        assert note_quality(tmp_path, {"test/accuracy": 0.5, **others}) == []
        assert read_manifest(tmp_path)["victim"]["quality"] == {"accuracy": 0.75, "quality": None}
