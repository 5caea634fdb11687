"""Studies that ship for figures of features, detection and iterations: each runs on two images of a phantom."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

import cli.main
from medrobust.results.summary import read_summary

STUDIES = Path(__file__).resolve().parents[2] / "configs" / "studies"
DEMO = STUDIES.parent / "demo.yaml"
SMALL = ("--data.root", "phantom", "--data.patients", "100", "--data.side", "32", "--data.image_size", "32")
LAYERS = {"layer1": "layer1.0.act1", "layer2": "layer2.0.act1", "layer3": "layer3.0.act1", "layer4": "global_pool"}
# what makes each of them short, and the figures that it draws
SHORT: dict[str, tuple[tuple[str, ...], set[str]]] = {
    "ma20_figure9": ((), {"embedding_pca", "embedding_tsne"}),
    "ma20_figure10": ((), {"layer_maps_maps", "layer_maps_change"}),
    "hfc21_figure1": (("bim",), {"embedding_pca", "embedding_tsne"}),
    "hfc21_figure3a": (("bim", "bim-hfc", "bim-strong"), {"embedding_pca", "embedding_tsne"}),
    "hfc21_figure3b": (("bim", "bim-hfc", "bim-strong"), {"detection_sweep"}),
    "hfc21_figure2": ((), {"directions_weights", "directions_attacks"}),
    "hfc21_table1": ((), {"stress_test"}),
    "smia21_figure2": (
        ("dev", "dev-sta", "dev-margin", "dev-sta-margin"),
        {"trajectory_iterations", "trajectory_perturbations"},
    ),
}


def run(program: str, *words: Any) -> None:
    quiet = ("--trainer.logger", "false", "--trainer.enable_progress_bar", "false")
    one = ("--trainer.accelerator", "cpu", "--trainer.devices", "1")
    cli.main.main(program, [*map(str, words), *quiet, *one])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the demo's victim was fine-tuned, on fewer and smaller images."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["train.py"])
        run("train", "fit", "-c", DEMO, *SMALL, "--trainer.max_epochs", 10, "--data.batch_size", 8)
    return folder


def options(name: str) -> list[str]:
    """Fewer steps, fewer images to fit on, and the layers of the demo's network."""
    words = [word for attack in SHORT[name][0] for word in (f"--attack.attacks.{attack}.steps", "4")]
    if name == "hfc21_figure3b":
        words += ["--attack.epsilons", "[8/255, 64/255]", "--detection.fit_per_class", "6", "--detection.folds", "2"]
        words += [word for attack in SHORT[name][0] for word in (f"--attack.attacks.{attack}.step_size", "16/255")]
    if name == "hfc21_table1":
        words += ["--representation.layers", f"[{', '.join(LAYERS.values())}]"]
        for layer, place in LAYERS.items():
            for sign in ("up", "down"):
                words += [f"--attack.attacks.{layer}-{sign}.objective.layer", place]
    return words


@pytest.mark.parametrize("name", SHORT)
def test_a_study_of_a_paper_runs_on_two_images(name: str, folder: Path) -> None:
    two = ("--trainer.limit_test_batches", "1", "--data.batch_size", "2")
    train = folder / "runs" / "demo" / "train.yaml"
    run("evaluate", "test", "-c", train, "-c", STUDIES / f"{name}.yaml", "--ckpt_path", "best", *two, *options(name))
    evaluated = folder / "runs" / "demo" / "evaluate"
    assert {row["n"] for row in read_summary(evaluated)["rows"]} == {2}
    drawn = {path.stem for path in (evaluated / "figures").glob("*.svg")}
    report = (evaluated / "report.html").read_text()
    assert drawn == SHORT[name][1] and all(f"figures/{one}.svg" in report for one in drawn)
    assert all(len(pl.read_parquet(evaluated / "figures" / f"{one}.parquet")) for one in drawn)
