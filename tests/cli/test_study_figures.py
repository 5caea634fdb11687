"""Shipped configurations of figures that need a victim, each run on two phantoms from the command line to the files."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest

import cli.main
from medrobust.results.records import read_records
from tests.programs import small_config

ROOT = Path(__file__).resolve().parents[2]
STUDIES = ROOT / "configs" / "studies"

CONFIG = small_config(
    """attack: {attacks: {fgsm: {class_path: FGSM, init_args: {epsilon: 2/255}}}, fit_batches: 1}
quality: {download: false}
panels: {count: 1}
""",
    root="home",
    patients=40,
    side=64,
    fractions=(0.5, 0.1, 0.2, 0.2),
    normalisation="mean: 0.4, std: 0.3",
    trainer="max_epochs: 1, logger: false",
)
# what is smaller than in the configuration, and the figures
FIGURES: dict[str, tuple[list[str], list[str]]] = {
    "ma20_figure6": ([], ["saliency_maps", "saliency_concentration"]),
    "ma20_figure7": (
        ["--study.studies.loss_landscape.points", "3"],
        ["loss_landscape_images", "loss_landscape_mean"],
    ),
    "ma20_figure11": ([], ["grad_cam_maps", "grad_cam_overlap"]),
    "sbf20_figure4": (["--study.studies.sensitive_regions.iterations", "3"], []),
}


def command(program: str, *words: Any) -> None:
    """Run a command line in this process."""
    cli.main.main(program, list(map(str, words)))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a victim that was fine-tuned on phantoms."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "small.yaml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sys.argv", ["train.py"])
        command("train", "fit", "-c", "small.yaml")
    return folder


@pytest.mark.parametrize("name", FIGURES)
def test_the_figures_of_a_configuration_are_drawn(name: str, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    smaller, figures = FIGURES[name]
    monkeypatch.chdir(trained)
    monkeypatch.setattr("sys.argv", ["evaluate.py"])
    run = ("test", "-c", "runs/small/train.yaml", "-c", STUDIES / f"{name}.yaml", "--ckpt_path", "best")
    command("evaluate", *run, "--data.limit", 2, "--evaluation", name, *smaller)
    folder = trained / "runs" / "small" / "evaluations" / name
    records = read_records(folder)
    assert records["id"].n_unique() == 2
    for figure in figures:
        assert {path.suffix for path in (folder / "figures").glob(f"{figure}.*")} == {
            *(".svg", ".pdf", ".png", ".csv", ".parquet")
        }
        assert len(pl.read_parquet(folder / "figures" / f"{figure}.parquet"))
    page = (folder / "report.html").read_text()
    assert page.count('class="paper"') >= len(figures)
    if name == "ma20_figure11":  # the maps of a victim of one epoch may be 0 everywhere
        known = records["grad_cam_overlap"].drop_nulls()
        assert known.is_between(0, 1).all() and ("Grad-CAM IoU" in page) == bool(len(known))
    if name == "sbf20_figure4":  # a victim of one epoch may be wrong about both before
        drawn = (folder / "figures" / "sensitive_regions_mean.svg").is_file()
        assert drawn == bool(records["success"].any()) and (drawn or "No attack has turned any" in page)
