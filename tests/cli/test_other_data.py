"""Judging a victim on another hospital's data: all of them, under their own name, with detectors fitted at home."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from jsonargparse import Namespace
from PIL import Image

import cli.main
from cli.other_data import distinct_name, folder_name, name_other_data, with_data_files
from medrobust.results.records import read_records
from tests.programs import PAIR, run, small_config

CONFIG = small_config(
    """attack: {attacks: {fgsm: {class_path: FGSM, init_args: {epsilon: 8/255}}}, controls: false}
quality: {download: false}
panels: {count: 0}
""",
    root="home",
    patients=60,
    batch_size=16,
    fractions=(0.5, 0.1, 0.2, 0.2),
    normalisation="mean: 0.4, std: 0.3",
    trainer="max_epochs: 1, logger: false",
)
AWAY = """
name: not used
data:
  class_path: PhantomChestXRay
  init_args: {root: away, patients: 12, side: 40, generator_seed: 5, image_size: 24}
"""
DETECTORS = """
attack: {attacks: {pgd: {class_path: PGD, init_args: {epsilon: 1, step_size: 0.1, steps: 10}}}}
detection:
  detectors: {distance: {class_path: Mahalanobis}}
  fit_on: [pgd]
"""


def command(program: str, subcommand: str, *more: Any) -> None:
    """Run a command line in this process."""
    cli.main.main(program, [subcommand, *map(str, more)])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a victim that was fine-tuned on phantoms."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "small.yaml").write_text(CONFIG)
    (folder / "away.yaml").write_text(AWAY)
    (folder / "detectors.yaml").write_text(DETECTORS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["train.py"])
        command("train", "fit", "-c", "small.yaml")
    return folder


def evaluate(*more: Any) -> None:
    """Evaluate the victim."""
    command("evaluate", "test", "-c", "runs/small/train.yaml", "-c", "small.yaml", "--ckpt_path", "best", *more)


@pytest.fixture
def refused(refusal: Callable[..., str]) -> Callable[..., str]:
    """``refused(...)``: the one sentence of an evaluation that is refused."""
    return partial(refusal, evaluate)


def manifest(name: str) -> dict[str, Any]:
    """The manifest of an evaluation on other data."""
    return dict(json.loads(Path(f"runs/small/evaluate_on/{name}/manifest.json").read_text()))


def write_images(root: Path, folders: dict[str, int], classes: int = 0) -> None:
    """Noise in the layout of the public X-rays, so many images of each class."""
    random = np.random.default_rng(classes)
    for kind, count in folders.items():
        (root / "train" / kind).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (30, 36)).astype(np.uint8)
            Image.fromarray(pixels).save(root / "train" / kind / f"{kind.lower()}{number}.png")


OTHER_CLASSES = """
from datamodules import ChestXRay

class Clinic(ChestXRay):
    name = "clinic"
    class_names = ("covid", "healthy", "unclear")
"""


@pytest.fixture
def clinic(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A set with other classes in another order; its configuration."""
    (folder / "clinic_data.py").write_text(OTHER_CLASSES)
    monkeypatch.syspath_prepend(folder)
    write_images(folder / "clinic", {"covid": 3, "healthy": 4, "unclear": 2})
    (folder / "clinic.yaml").write_text("class_path: clinic_data.Clinic\ninit_args: {root: clinic}\n")
    return folder


def test_all_images_of_another_hospital_are_judged_under_its_own_name(folder: Path, capsys: Any) -> None:
    with pytest.warns(UserWarning, match=r"away.yaml: image_size 24 is not used, .* trained with 32"):
        evaluate("--data", "away.yaml")
    name = "phantom_chest_xray@away"
    records = read_records(folder / "runs/small/evaluate_on" / name)
    images = sorted(path.relative_to(folder / "away").as_posix() for path in (folder / "away").glob("*/*/*.jpeg"))
    assert sorted(records["id"]) == images and len(images) == 16
    assert set(records["dataset"]) == {name} and set(records["split"]) == {"all"}
    data = manifest(name)["data"]
    assert (data["name"], data["split"], data["test_split"]) == (name, "all", "all")
    assert (data["image_size"], data["channels"], data["references"]) == (32, 1, "phantom_chest_xray")
    assert list(data["splits"]) == ["all"] and data["splits"]["all"]["images"] == 16
    told = "The victim was trained on phantom_chest_xray and is evaluated on phantom_chest_xray@away."
    assert told in manifest(name)["binding"]["differences"]
    assert name in (folder / "runs/small/evaluate_on" / name / "report.html").read_text()
    assert not (folder / "runs/small/evaluate").exists()
    evaluated = yaml.safe_load((folder / "runs/small/evaluate_on" / name / "evaluate.yaml").read_text())
    assert evaluated["data"]["init_args"]["alias"] == name


def test_another_root_is_enough_and_the_work_goes_on(folder: Path, crafted: list[tuple[str, int]]) -> None:
    shutil.copytree(folder / "home", folder / "elsewhere")  # the right images, to be replaced by others of those names
    options = (
        "--data.root",
        "elsewhere",
        "--data.generator_seed",
        5,
        "--data.patients",
        12,
        "--data.test_split",
        "all",
    )
    evaluate(*options)
    results = folder / "runs/small/evaluate_on/phantom_chest_xray@elsewhere"
    (journal,) = (results / "journal").glob("*.jsonl")
    whole = read_records(results)
    journal.write_text("".join(line for line in journal.read_text().splitlines(keepends=True)[:9]))
    crafted.clear()
    evaluate(*options)
    assert 0 < sum(count for _, count in crafted) < 16
    for column in ("id", "success", "linf"):
        assert list(read_records(results)[column]) == list(whole[column])
    records = read_records("runs/small/evaluate_on/phantom_chest_xray@elsewhere")
    assert len(records["id"]) == len(set(records["id"])) == 16
    evaluate(*options, "--data.alias", "St. Mary/2024")
    assert set(read_records("runs/small/evaluate_on/St._Mary_2024")["dataset"]) == {"St. Mary/2024"}


def test_detectors_are_fitted_on_the_victims_own_data(folder: Path) -> None:
    evaluate("-c", "detectors.yaml")
    evaluate("-c", "detectors.yaml", "--data", "away.yaml")
    home = json.loads(Path("runs/small/evaluate/manifest.json").read_text())
    away = manifest("phantom_chest_xray@away")
    for part in away["listeners"]["detection"]:
        assert away["listeners"]["detection"][part] == home["listeners"]["detection"][part]
    places = ("evaluate", "evaluate_on/phantom_chest_xray@away")
    found = [read_records(f"runs/small/{place}") for place in places]
    positives = [set(records["fitted_pgd_positives"]) for records in found]
    assert positives[0] == positives[1] and min(positives[0]) > 0
    assert any(score is not None for score in found[1]["detector_distance_pgd"])


def test_without_the_victims_own_data_only_what_needs_them_is_refused(folder: Path, refused: Any) -> None:
    shutil.rmtree("home")
    evaluate("--data", "away.yaml")
    said = refused("-c", "detectors.yaml", "--data", "away.yaml")
    assert "fitted on the victim's own data, which cannot be read" in said and "home" in said
    Path("best.ckpt").write_bytes(Path("runs/small/checkpoints/best.ckpt").read_bytes())
    said = refused("-c", "detectors.yaml", "--data", "away.yaml", "--ckpt_path", "best.ckpt", "--name", "moved")
    assert "test_split is all, so that every image is judged and none is left for train" in said


def test_images_that_were_seen_are_refused_under_any_name(folder: Path, refused: Any) -> None:
    said = refused("--data.test_split", "all")
    assert "the victim has seen" in said and "(the same file)" in said
    shutil.copytree("home", "copy")
    said = refused("--data.test_split", "all", "--data.root", "copy", "--data.alias", "elsewhere")
    assert "the victim has seen" in said and "(the same file)" in said


def test_images_that_detectors_are_fitted_on_are_refused(folder: Path, refused: Any) -> None:
    evaluate("--data", "away.yaml")
    rows = [row.split(",") for row in Path("runs/small/splits.csv").read_text().splitlines()]
    image = next(row[0] for row in rows if row[1] == "adv_train")
    class_name = Path(image).parts[1]
    write_images(Path("mixed"), {"NORMAL": 2, "PNEUMONIA": 2})
    shutil.copy(Path("home") / image, Path("mixed/train") / class_name / "copy.jpeg")
    Path("mixed.yaml").write_text("data: {class_path: ChestXRay, init_args: {root: mixed}}")
    evaluate("--data", "mixed.yaml")
    said = refused("-c", "detectors.yaml", "--data", "mixed.yaml")
    assert "1 image of chest_xray is also in the victim's own data" in said
    assert f"first train/{class_name}/copy.jpeg, which is {image} there" in said


def test_other_classes_are_refused_until_they_are_mapped(clinic: Path, refused: Any) -> None:
    said = refused("--data", "clinic.yaml")
    assert "trained on the classes NORMAL, PNEUMONIA, and clinic has covid, healthy, unclear: give each" in said
    said = refused("--data", "clinic.yaml", "--data.class_map", "{covid: PNEUMONIA}")
    assert "NORMAL, PNEUMONIA, and clinic has PNEUMONIA, healthy, unclear" in said
    said = refused("--data", "clinic.yaml", "--data.class_map", "{corona: PNEUMONIA}")
    assert "class_map renames classes of clinic (covid, healthy, unclear), got 'corona'" in said
    evaluate("--data", "clinic.yaml", "--data.class_map", "{covid: PNEUMONIA, healthy: NORMAL, unclear: null}")
    records = read_records("runs/small/evaluate_on/clinic")
    targets = dict(zip(records["id"], records["target"], strict=True))
    assert targets == {
        **{f"train/covid/covid{number}.png": 1 for number in range(3)},
        **{f"train/healthy/healthy{number}.png": 0 for number in range(4)},
    }
    assert manifest("clinic")["data"]["class_names"] == ["NORMAL", "PNEUMONIA"]


@pytest.mark.parametrize(
    ("kind", "options", "name"),
    [
        ("ImageFolder", {"root": "data/clinic", "name": None}, "clinic"),
        ("ImageFolder", {"root": "data/clinic", "name": "St. Mary"}, "St. Mary"),
        ("MedMNIST", {"root": "data/medmnist", "dataset": "bloodmnist"}, "bloodmnist"),
        ("PhantomChestXRay", {"root": "data/clinic"}, "phantom_chest_xray@clinic"),
    ],
)
def test_data_are_named_by_their_class_or_their_options(
    folder: Path, kind: str, options: dict[str, Any], name: str
) -> None:
    data = Namespace(class_path=f"datamodules.{kind}", init_args=Namespace(**options, alias=None))
    best = str(folder / "runs/small/checkpoints/best.ckpt")
    assert name_other_data(Namespace(ckpt_path=best, data=data)) == name


def test_a_class_without_an_image_is_told(clinic: Path) -> None:
    with pytest.warns(UserWarning, match="the split all has no image of PNEUMONIA"):
        evaluate("--data", "clinic.yaml", "--data.class_map", "{covid: null, healthy: NORMAL, unclear: null}")
    assert set(read_records("runs/small/evaluate_on/clinic")["target"]) == {0}


def test_classes_of_the_same_names_in_another_order_are_the_victims(clinic: Path, folder: Path) -> None:
    (folder / "clinic_turned.py").write_text(
        OTHER_CLASSES.replace('("covid", "healthy", "unclear")', '("PNEUMONIA", "NORMAL")')
    )
    write_images(folder / "turned", {"NORMAL": 3, "PNEUMONIA": 1}, 1)
    (folder / "turned.yaml").write_text("class_path: clinic_turned.Clinic\ninit_args: {root: turned}\n")
    evaluate("--data", "turned.yaml")
    records = read_records("runs/small/evaluate_on/clinic")
    assert sorted(records["target"]) == [0, 0, 0, 1]


def test_what_needs_splits_refuses_data_without_them(folder: Path, capsys: Any) -> None:
    for program, subcommand in (("evaluate", "validate"), ("train", "fit")):
        with pytest.raises(SystemExit):
            command(program, subcommand, "-c", "small.yaml", "--data.test_split", "all", "--ckpt_path", "best")
        assert f"leaves no Train and no Val: {subcommand} needs data with splits" in capsys.readouterr().err


def test_data_that_take_their_name_from_their_folder_keep_it(folder: Path, refused: Any) -> None:
    for number, place in enumerate(("clinic_a", "clinic_b")):
        write_images(folder / place, {"NORMAL": 2, "PNEUMONIA": 3}, number)
        Path(f"{place}.yaml").write_text(f"{{class_path: ImageFolder, init_args: {{root: {place}}}}}")
        evaluate("--data", f"{place}.yaml")
    assert sorted(path.name for path in Path("runs/small/evaluate_on").iterdir()) == ["clinic_a", "clinic_b"]
    assert [manifest(name)["data"]["name"] for name in ("clinic_a", "clinic_b")] == ["clinic_a", "clinic_b"]
    (folder / "clinic_a/train/NORMAL").rename(folder / "clinic_a/train/HEALTHY")
    assert "such as --data.class_map '{HEALTHY: NORMAL}'" in refused("--data", "clinic_a.yaml")


def test_data_in_a_folder_of_the_same_name_get_another(folder: Path) -> None:
    evaluate("--data", "away.yaml", "--data.root", "clinic/home")
    assert manifest("phantom_chest_xray@clinic")["data"]["name"] == "phantom_chest_xray@clinic"
    xray = Path("/sets/xray")
    names = [distinct_name(Path(place), xray) for place in ("/sets/away", "/a/xray", "/b/sets/xray", "/xray", "/")]
    assert names == ["away", "a", "b", "xray", "data"]


def test_a_file_without_data_is_refused(folder: Path, refused: Any) -> None:
    Path("none.yaml").write_text("trainer: {max_epochs: 1}")
    assert "none.yaml is given by --data and is expected to have a section data" in refused("--data", "none.yaml")
    assert "there is no configuration file gone.yaml" in refused("--data=gone.yaml")


def test_a_file_of_data_is_laid_over_the_last_configuration() -> None:
    words = ["test", "--data=b.yaml", "-c", "a.yaml", "--config=c.yaml", "--data.root", "x"]
    assert with_data_files(words) == [
        *("test", "-c", "a.yaml", "--config=c.yaml", "--config=--data=b.yaml", "--data.root", "x")
    ]
    assert with_data_files(["test", "--data", "ChestXRay"]) == ["test", "--data", "ChestXRay"]
    assert folder_name("..") == "data" and folder_name("a/b") == "a_b"


@pytest.mark.slow
def test_two_processes_judge_the_same_images(folder: Path) -> None:
    evaluate("-c", "detectors.yaml", "--data", "away.yaml")
    one = read_records("runs/small/evaluate_on/phantom_chest_xray@away")
    shutil.move("runs/small/evaluate_on", "one")
    words = (
        "test",
        "-c",
        "runs/small/train.yaml",
        "--ckpt_path",
        "best",
        "-c",
        "detectors.yaml",
        "--data",
        "away.yaml",
    )
    run(folder, "evaluate.py", *words, *PAIR, "--data.cache", "ram")
    two = read_records("runs/small/evaluate_on/phantom_chest_xray@away")
    for key in ("id", "target", "success", "linf"):
        assert sorted(map(str, one[key])) == sorted(map(str, two[key]))
