"""Every shipped study, from its files to its rows, tables and figures: on two images of a phantom, in few steps."""

import re
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from lightning_modules import Classifier
from medrobust import attacks
from medrobust.attacks.budgets import Fraction
from medrobust.results.columns import COLUMNS, judge_column
from medrobust.results.figures.drawing import SHEETS
from medrobust.results.records import read_records
from medrobust.results.summary import read_summary
from tests.programs import run_here

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
FILES = sorted((CONFIGS / "studies").glob("*.yaml"))
SLOW = {  # others run a study of each kind, masks, boxes, detectors and judges in the fast tests
    *("hfc21_ablation", "hfc21_defender", "hfc21_defender_small", "hfc21_figure1", "hfc21_figure3a", "hfc21_figure3b"),
    *("hfc21_table2", "hfc21_table2_small", "hfc21_table3", "hfc21_table3_small", "hfc21_table4"),
    "hfc21_table4_small",
    *(
        "ma20_figure4",
        "ma20_figure4_small",
        "ma20_figure9",
        "ma20_table4",
        "radii",
        "sbf20_table1",
        "sbf20_table2",
        "sbf20_white_box",
    ),
    *("smia21_table1_boxes", "smia21_table1_classification", "smia21_table2", "smia21_table2_classification"),
    *("smia21_table3", "smia21_table3_classification", "smia21_table4_classification"),
    *("smia21_table6_boxes", "smia21_table6_classification", "smia21_table6_masks"),
}
FEWER = {"steps": 4, "search_steps": 1, "queries": 5, "goals": 1}  # of an attack that has more
# an option of the command line that makes a study small, where the file says so
SMALLER = {
    "detectors": "--detection.fit_per_class 6 --detection.folds 2 --detection.passes 2",
    "dnn": "--detection.detectors.dnn.epochs 5",
    "dfeat": "--detection.detectors.dfeat.trees 5",
    "loss_landscape": "--study.studies.loss_landscape.points 3",
    "sensitive_regions": "--study.studies.sensitive_regions.iterations 3",
}
# so that what four steps reach is enough for a figure at two radii; and the layers of the victim here
LAYERS = ("layer1.0.act1", "layer2.0.act1", "layer3.0.act1", "global_pool")
NORMS = [{"class_path": "CrossEntropy"}, {"class_path": "FeatureConstraint", "init_args": {"taps": ["*bn1", "*bn2"]}}]
OWN: dict[str, dict[str, Any]] = {
    "hfc21_figure3b": {
        "attack": {
            "epsilons": ["8/255", "64/255"],
            "attacks+": {name: {"init_args": {"step_size": "16/255"}} for name in ("bim", "bim-hfc")},
        }
    },
    "hfc21_table1": {
        "attack": {
            "attacks+": {
                f"layer{number}-{sign}": {"init_args": {"objective": {"init_args": {"layer": layer}}}}
                for number, layer in enumerate(LAYERS, 1)
                for sign in ("up", "down")
            }
        },
        "representation": {"layers": list(LAYERS)},
    },
    "hfc21_ablation": {
        "attack": {"attacks+": {"hfc-norms": {"init_args": {"objective": {"init_args": {"terms": NORMS}}}}}}
    },
    "sbf20_figure4": {"attack": {"attacks+": {"sbf": {"init_args": {"steps": 10}}}}},
}
MODALITY = {"medmnist_c": "corruptions_xray"}  # what gives its attacks, beside those of the victim's file:
OF_VICTIM = {"fgsm": {"class_path": "FGSM", "init_args": {"epsilon": "1/255"}}}
# of each kind of study
FIGURES = {
    "BiasFields": {"bounds", "fields"},
    "CorruptionSweep": {"accuracy", "ssim"},
    "DetectionSweep": {""},
    "Directions": {"weights", "attacks"},
    "Embedding": {"pca", "tsne"},
    "GradCAM": {"maps", "overlap"},
    "LayerMaps": {"maps", "change"},
    "LossLandscape": {"images", "mean"},
    "RadiusSweep": {"accuracy", "smallest"},
    "Saliency": {"maps", "concentration"},
    "SensitiveRegions": {"masks", "mean"},
    "StressTest": {""},
    "Trajectory": {"iterations", "perturbations"},
}
VICTIMS = {
    "classes": """
model:
  class_path: Classifier
  init_args:
    backbone: resnet10t
    channels: 1
    options: {drop_rate: 0.1}
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 1.0e-3, weight_decay: 0.01}}
    schedule: cosine
data:
  class_path: PhantomChestXRay
  init_args: {root: phantoms, patients: 100, side: 32, image_size: 32, channels: 1, batch_size: 8}
trainer: {max_epochs: 10}
attack: {attacks: {fgsm: {class_path: FGSM, init_args: {epsilon: 1/255}}}}
""",
    "masks": """
model:
  class_path: Segmenter
  init_args:
    {num_classes: 3, channels: 1, mean: 0.5, std: 0.5, options: {encoder_depth: 3, decoder_channels: [16, 8, 8]}}
data:
  class_path: PhantomCT
  init_args: {root: ct, volumes: 4, depth: 6, side: 32, image_size: 32, channels: 1, batch_size: 8, cache: none}
trainer: {max_epochs: 1}
""",
    "boxes": """
model:
  class_path: BoxDetector
  init_args: {backbone: test_resnet, num_classes: 7, width: 32, anchor: 16, proposals: 30, mean: 0.5, std: 0.5}
data:
  class_path: PhantomEndoscopy
  init_args: {root: endoscopy, frames: 60, side: 64, image_size: 64, batch_size: 8}
trainer: {max_epochs: 1}
""",
}
QUIET = (
    "--seed_everything 7 --quality.download false --panels.count 1 --attack.fit_batches 0 --trainer.logger false "
    "--trainer.accelerator cpu --trainer.devices 1 --trainer.enable_progress_bar false"
).split()
TWO = "--ckpt_path best --trainer.limit_test_batches 1 --data.batch_size 2".split()


def whole_of(path: Path) -> Path:
    """The file of a study that a small form is laid over; the file itself if it is no small form."""
    return path.with_stem(path.stem.removesuffix("_small"))


def task_of(path: Path) -> str:
    """What a study attacks: classes, unless its first line says that it is on masks or boxes."""
    found = re.search(r" on (classes|masks|boxes)\b", path.read_text().partition("\n")[0])
    return found[1] if found else "classes"


def sections(path: Path) -> dict[str, Any]:
    """What a study's file says; if it has no attacks, with the corruptions that join those of the victim's file."""
    given: dict[str, Any] = yaml.safe_load(path.read_text())
    if path.stem in MODALITY:
        corruptions = yaml.safe_load((CONFIGS / "attacks" / f"{MODALITY[path.stem]}.yaml").read_text())["attack"]
        given["attack"] = {"attacks": {**OF_VICTIM, **corruptions["attacks+"]}}
    return given


def fewer(attack: dict[str, Any]) -> dict[str, Any]:
    """The settings of an attack by which it takes fewer steps."""
    given = attack.get("init_args", {})
    own = {item.name: item.default for item in fields(getattr(attacks, attack["class_path"])) if item.init}
    values = {name: given.get(name, own[name]) for name in FEWER if name in own}
    found = {name: FEWER[name] for name, value in values.items() if isinstance(value, int) and value > FEWER[name]}
    if "attacks" in given:
        inner = [{**one, "init_args": {**one.get("init_args", {}), **fewer(one)}} for one in given["attacks"]]
        found["attacks"] = inner
    return found


def smaller(path: Path) -> dict[str, Any]:
    """A configuration to be laid over a study: every attack in fewer steps."""
    changed = OWN.get(path.stem, {})
    own = changed.get("attack", {}).get("attacks+", {})
    given = sections(path)["attack"]["attacks"]
    steps = {name: {"init_args": fewer(one) | own.get(name, {}).get("init_args", {})} for name, one in given.items()}
    return {**changed, "attack": {**changed.get("attack", {}), "attacks+": steps}}


def evaluated(path: Path, folder: Path) -> Path:
    """Run a study in a folder of trained victims, as its first lines say; the folder of the evaluation."""
    whole, task = whole_of(path), task_of(whole_of(path))
    files = [whole, path] if whole != path else [path]
    if whole.stem in MODALITY:
        files.insert(0, CONFIGS / "attacks" / f"{MODALITY[whole.stem]}.yaml")
    last = folder / f"{path.stem}_smaller.yaml"
    last.write_text(yaml.safe_dump(smaller(whole)))
    words = [word for file in (f"runs/{task}/train.yaml", *files, last) for word in ("-c", str(file))]
    text = re.sub("(?m)^#.*", "", "".join(file.read_text() for file in files))
    words += [word for name, option in SMALLER.items() if re.search(rf"\b{name}:", text) for word in option.split()]
    for other in set(re.findall(r"\bruns/(\w+)", text)):  # judges and surrogates
        shutil.copytree(folder / "runs" / task, folder / "runs" / other, dirs_exist_ok=True)
    run_here(folder, "evaluate.py", "test", *words, *TWO, "--evaluation", path.stem)
    return folder / "runs" / task / "evaluations" / path.stem


def assert_every_attack_has_its_rows(found: Path, path: Path) -> None:
    """Every attack at every radius has a row of both images, and so has noise of every radius."""
    given, own = sections(path)["attack"], OWN.get(path.stem, {}).get("attack", {})
    radii = [float(Fraction(radius)) for radius in own.get("epsilons", given.get("epsilons", []))]
    expected = set()
    for name, attack in given["attacks"].items():
        known = {item.name: item.default for item in fields(getattr(attacks, attack["class_path"])) if item.init}
        radius = attack.get("init_args", {}).get("epsilon", known.get("epsilon"))
        own_radii = radii or [float(Fraction(radius))] if radius is not None else [None]
        expected |= {(name, None if one is None else round(one, 9)) for one in own_radii}
    rows = read_summary(found)["rows"]
    shown = {(row["attack"], None if row["epsilon"] is None else round(row["epsilon"], 9)) for row in rows}
    assert expected <= shown and {name for name, _ in shown - expected} <= {"clean", "noise"}
    assert {radius for _, radius in expected} - {None} <= {radius for name, radius in shown if name == "noise"}
    for row in rows:
        assert row["n"] == 2 and row["accuracy_under_attack"] in (0, 0.5, 1), row["attack"]


def assert_records_are_whole(found: Path) -> pl.DataFrame:
    """Two records of each attack at each radius, inside its ball, without a number that is missing or none."""
    records = read_records(found)
    assert set(records.group_by("attack", "epsilon").agg(pl.col("id").n_unique())["id"]) == {2}
    for name in records.columns:
        if records[name].dtype.is_float():
            assert records[name].drop_nulls().is_finite().all(), name
        assert name not in COLUMNS or COLUMNS[name].nullable or not records[name].null_count(), name
    assert (
        records.filter(pl.col("epsilon").is_not_null())
        .select((pl.col("linf") <= pl.col("epsilon") + 1e-6).all())
        .item()
    )
    steps = records.filter(pl.col("method") == "SMIA")
    assert not len(steps) or steps["var"].is_not_null().all()
    return records


def assert_detectors_judge_every_attack(found: Path, path: Path, records: pl.DataFrame) -> None:
    """Every detector has a cell for each attack and each fit, with an AUROC wherever an image was turned."""
    given = sections(path)
    detectors, fits = given["detection"]["detectors"], given["detection"]["fit_on"]
    cells = read_summary(found)["detection"]["rows"]
    named = {(cell["attack"], cell["fit"], cell["detector"]) for cell in cells}
    assert named == {(name, fit, one) for name in given["attack"]["attacks"] for fit in fits for one in detectors}
    sums = records.group_by("attack", "epsilon").agg(pl.col("success").sum())
    turned = {(attack, epsilon): count for attack, epsilon, count in sums.iter_rows()}
    for cell in cells:
        assert cell["n_positive"] in (0, turned[cell["attack"], cell["epsilon"]])
        assert (cell["auroc"] is None) == (cell["n_positive"] == 0) and 0 <= (cell["auroc"] or 0) <= 1


def assert_studies_are_drawn(found: Path, path: Path, records: pl.DataFrame) -> None:
    """Every study has its figures, as files, as numbers and in the report, or a sentence why there is none."""
    page = (found / "report.html").read_text()
    for name, study in sections(path).get("study", {}).get("studies", {}).items():
        kind = study["class_path"]
        drawn = {file.stem.removeprefix(name).strip("_") for file in (found / "figures").glob(f"{name}*.svg")}
        if kind == "SensitiveRegions" and not records.filter(pl.col("attack") != "noise")["success"].any():
            assert not drawn and "No attack has turned any of the images" in page
            continue
        points = records.filter(pl.col("correct_before"))["id"].n_unique() * (1 + records["attack"].n_unique())
        if kind == "Embedding" and points < 4:
            assert not drawn and "A plane needs four points" in page
            continue
        assert drawn >= FIGURES[kind] and "Not drawn" not in page
        for one in drawn:
            stem = found / "figures" / (f"{name}_{one}" if one else name)
            assert all(stem.with_suffix(f".{kind}").is_file() for kind in ("svg", "pdf", "png", "csv", "parquet"))
            table = pl.read_parquet(stem.with_suffix(".parquet"))
            assert len(table) and f"figures/{stem.name}.svg" in page
            for column in table:
                assert not column.dtype.is_float() or column.drop_nulls().is_finite().all(), (one, column.name)


def assert_fields_are_bounded(found: Path) -> None:
    """Each bounded bias field keeps its bound in stops, and random ones are controls."""
    summary = read_summary(found)
    kinds = [row["kind"] for row in summary["rows"]]
    assert (kinds.count("control"), kinds.count("attack")) == (9, 8)
    assert {row["attack"]: row["kind"] for row in summary["rows"]}["smooth-1"] == "control"
    bounds = pl.read_parquet(found / "figures" / "bias_fields_bounds.parquet")
    largest = dict(bounds.select("attack", "largest").iter_rows())
    assert all(largest[f"{name}-{stops}"] <= stops for name in ("sbf", "low", "warped") for stops in (0.5, 1, 2))
    assert set(bounds["line"]) == {"sbf", "low", "smooth", "warped", "smooth-low"}
    drawn = pl.read_parquet(found / "figures" / "bias_fields_fields.parquet")
    assert len(drawn) == 2 * 6 and float(drawn.filter(pl.col("attack") == "sbf-1")["highest"].max()) <= 1


def assert_nature_is_no_enemy(found: Path) -> None:
    """Corruptions of five severities are controls: none is an attack, and none in the worst case."""
    summary = read_summary(found)
    assert [row["attack"] for row in summary["rows"] if row["kind"] == "attack"] == ["fgsm"]
    nature = [row for row in summary["rows"] if row["attack"] not in ("clean", "noise", "fgsm")]
    assert all(row["mean_backwards"] == 0 for row in nature)
    assert all(row["means"]["ssim"] < 1 for row in nature if row["attack"].endswith("-5"))
    assert [one["attacks"] for one in summary["worst_case"]] == [["fgsm"]]
    swept = pl.read_parquet(found / "figures" / "corruptions_accuracy.parquet")
    assert sorted(swept["severity"].unique()) == [1, 2, 3, 4, 5]


def assert_maps_overlap_in_part(found: Path) -> None:
    """The overlap of Grad-CAM's maps is a share, where both maps are above 0 anywhere."""
    known = read_records(found)["grad_cam_overlap"].drop_nulls()
    assert known.is_between(0, 1).all() and ("Grad-CAM IoU" in (found / "report.html").read_text()) == bool(len(known))


# what else is known of one study
BESIDES = {
    "sbf20_max_stops": assert_fields_are_bounded,
    "medmnist_c": assert_nature_is_no_enemy,
    "ma20_figure11": assert_maps_overlap_in_part,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a victim of each task."""
    folder = tmp_path_factory.mktemp("shipped")
    for task, text in VICTIMS.items():
        (folder / f"{task}.yaml").write_text(f"name: {task}\n{text}")
        run_here(folder, "train.py", "fit", "-c", f"{task}.yaml", *QUIET)
    return folder


def marked(path: Path) -> Any:
    """A case, slow if it is named so."""
    return pytest.param(path, id=path.stem, marks=pytest.mark.slow if path.stem in SLOW else ())


@pytest.mark.parametrize("path", [marked(path) for path in FILES])
def test_a_shipped_study_runs_on_two_images(path: Path, trained: Path) -> None:
    found, whole = evaluated(path, trained), whole_of(path)
    assert_every_attack_has_its_rows(found, whole)
    records = assert_records_are_whole(found)
    if "detection" in sections(whole):
        assert_detectors_judge_every_attack(found, whole, records)
    for judge in sections(whole).get("transfer", {}).get("judges", {}):
        assert records[judge_column(judge, "after")].is_not_null().all()
    assert_studies_are_drawn(found, whole, records)
    if whole.stem in BESIDES:
        BESIDES[whole.stem](found)


def layers_in(value: Any) -> set[str]:
    """The layers that a part of a configuration names."""
    if isinstance(value, list):
        return set().union(*map(layers_in, value))
    if not isinstance(value, dict):
        return set()
    own = {one for name in ("layer", "layers", "taps") for one in _listed(value.get(name))}
    return own.union(*(layers_in(inner) for inner in value.values()))


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value] if isinstance(value, str) else []


def test_layers_that_are_replaced_here_are_those_of_a_mobilenet() -> None:
    victim = Classifier("mobilenetv2_100", channels=1, head="dense")
    named = {path.stem: layers_in(sections(path)) - {"activations"} for path in FILES}
    assert {name for name, layers in named.items() if layers} == {"hfc21_ablation", "hfc21_table1"}
    for layers in named.values():
        for layer in layers:
            assert victim.layers_named([layer])  # refuses what it does not have


def test_what_is_fast_has_every_kind_of_study_and_every_task() -> None:
    fast = [whole_of(path) for path in FILES if path.stem not in SLOW]
    studies = [
        one["class_path"] for path in fast for one in sections(path).get("study", {}).get("studies", {}).values()
    ]
    assert set(studies) == set(SHEETS) == set(FIGURES)
    assert {task_of(path) for path in fast} == set(VICTIMS)
    assert SLOW <= {path.stem for path in FILES}
