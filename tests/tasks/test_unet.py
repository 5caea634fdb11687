"""A U-Net goes through ``evaluate.py test``: attacks, the columns of its masks, a second U-Net as judge, a detector."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest
import torch

from cli.main import main
from datamodules import Sample, Scene, SegmentationDataModule
from lightning_modules import Segmenter
from medrobust.results.manifest import read_manifest
from medrobust.results.masks import mask_results
from medrobust.results.records import read_records
from medrobust.results.summary import read_summary

SIDE, RADIUS = 20, 0.12
OPTIONS = {"encoder_depth": 3, "decoder_channels": [16, 8, 8]}
ATTACKS: dict[str, dict[str, Any]] = {
    "uniform": {"class_path": "UniformNoise"},
    "pgd": {"class_path": "PGD", "init_args": {"steps": 5, "step_size": 0.04}},
    "mim": {"class_path": "MIM", "init_args": {"steps": 5, "step_size": 0.04}},
    "smia": {"class_path": "SMIA", "init_args": {"steps": 5, "step_size": 0.04}},
    "apgd": {"class_path": "APGD", "init_args": {"steps": 5}},
    "field": {"class_path": "AdvSBF", "init_args": {"steps": 5}},
}


def square(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A bright square and its mask; every seventh image has none."""
    random = np.random.default_rng(number)
    mask = np.zeros((SIDE, SIDE), np.int32)
    row, column = random.integers(0, SIDE // 2, 2)
    mask[row : row + SIDE // 2, column : column + SIDE // 2] = number % 7 > 0
    image = 0.4 + 0.2 * mask + 0.04 * random.standard_normal((SIDE, SIDE))
    return image.clip(0, 1).astype(np.float32)[:, :, None], mask


class BrightSquares(SegmentationDataModule):
    """Bright squares on a grey background, of which two rows are not labelled."""

    name, class_names = "squares", ("background", "bright square")

    def index(self) -> list[Sample[Path]]:
        return [Sample(Path(f"{n:03d}"), f"{n:03d}", Path(f"{n:03d}"), f"{n:03d}") for n in range(64)]

    def read(self, sample: Sample[Path]) -> Scene:
        image, mask = square(int(sample.id))
        mask[:2] = -1
        return Scene(image, mask=mask)


def trained(seed: int) -> Segmenter:
    """A U-Net that has learnt other squares than the data's."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        victim = Segmenter(2, options=OPTIONS).train()
        pairs = [square(1000 + number) for number in range(64)]
        images = torch.from_numpy(np.stack([image for image, _ in pairs])).movedim(3, 1)
        masks = torch.from_numpy(np.stack([mask for _, mask in pairs])).long()
        optimizer = torch.optim.Adam(victim.parameters(), 3e-3)
        for step in range(40):
            rows = torch.arange(16) + 16 * (step % 4)
            optimizer.zero_grad()
            victim.training_loss(images[rows], masks[rows]).backward()
            optimizer.step()
    return victim.eval()


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, run_of: Any) -> Path:
    """The folder of an evaluation of one U-Net, judged by another one."""
    folder = tmp_path_factory.mktemp("runs")
    run_of(folder / "toy", trained(0))
    run_of(folder / "other", trained(1))
    detectors = {"lid": {"class_path": "LocalDimension", "init_args": {"neighbours": 3}}}
    given = {
        "--model.options": json.dumps(OPTIONS),
        "--attack.attacks": json.dumps(ATTACKS),
        "--attack.epsilons": f"[{RADIUS}]",
        "--detection.detectors": json.dumps(detectors),
        "--transfer.judges": json.dumps({"other": str(folder / "other")}),
    }
    given["--detection.fit_on"] = "[smia]"
    given["--data.fractions"] = "{train: 0.3, val: 0.1, adv_train: 0.3, adv_test: 0.3}"
    plain = (
        f"--name toy --runs {folder} --ckpt_path best --model Segmenter --model.num_classes 2 --data BrightSquares "
        f"--data.root unused --data.image_size {SIDE} --data.channels 1 --data.batch_size 8 --detection.folds 2 "
        "--quality.download false --trainer.logger false --trainer.enable_progress_bar false --trainer.accelerator cpu"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["evaluate.py"])
        main("evaluate", ["test", *plain.split(), *(part for pair in given.items() for part in pair)])
    return folder / "toy" / "evaluate"


def test_attacks_ruin_masks_that_noise_of_their_radius_leaves(evaluated: Path) -> None:
    rows = {row["attack"]: row for row in read_summary(evaluated)["rows"]}
    assert rows["clean"]["quality_before"] > 0.8
    assert rows["uniform"]["quality_after"] > 0.9 * rows["clean"]["quality_before"]
    for name in ("pgd", "mim", "smia", "apgd"):
        assert rows[name]["quality_after"] < 0.6 * rows["clean"]["quality_before"], name
        assert rows[name]["accuracy_under_attack"] < 0.4 * rows["clean"]["accuracy_under_attack"], name
        assert rows[name]["median_linf"] <= RADIUS + 3e-8 and rows[name]["complete"]
    assert rows["field"]["quality_after"] < rows["clean"]["quality_before"]


def test_the_columns_of_a_record_fit_each_other(evaluated: Path) -> None:
    records = read_records(evaluated)
    for what in ("before", "after"):
        jaccard, dice = (records[f"{kind}_bright_square_{what}"] for kind in ("jaccard", "dice"))
        assert (jaccard.fill_null(1.0) - records[f"quality_{what}"]).abs().max() < 1e-6  # with one class it is the mean
        assert (dice - 2 * jaccard / (1 + jaccard)).abs().max() < 1e-9
        assert ((records[f"quality_{what}"] >= 0.5) == records[f"correct_{what}"]).all()
    empty = records.filter(polars.col("id").cast(int) % 7 == 0)
    assert len(empty) and empty["hausdorff95_bright_square_before"].null_count() == len(empty)
    unchanged = records.filter(linf=0.0)
    assert unchanged["flipped_pixels"].drop_nulls().is_in([0.0]).all()
    lost = records["pixel_accuracy_before"] - records["pixel_accuracy_after"]
    assert (lost <= records["pixel_accuracy_before"] * records["flipped_pixels"] + 1e-9).all()
    assert set(records["victim"]) == {"unet resnet18"}
    assert not any("square" in name for row in read_summary(evaluated)["rows"] for name in row.get("means", {}))


def test_masks_are_summed_up_class_by_class(evaluated: Path) -> None:
    records, rows = read_records(evaluated), read_summary(evaluated)["rows"]
    tables = {row["key"]: records.filter(key=row["key"]) if row["key"] else records for row in rows}
    found = mask_results(rows, tables, read_manifest(evaluated))
    assert found["names"] == ["bright square"] and [row["attack"] for row in found["rows"]] == [
        row["attack"] for row in rows
    ]
    for row in found["rows"]:
        assert row["jaccard"] == pytest.approx(row["classes"][0]["jaccard"])
        assert row["jaccard_interval"][0] < row["jaccard"] < row["jaccard_interval"][1]


def test_another_unet_judges_the_images_and_a_detector_sees_the_encoder(evaluated: Path) -> None:
    records = read_records(evaluated)
    assert records["judge_other_before"].mean() > 0.8
    smia = records.filter(attack="smia")
    assert smia["judge_other_after"].mean() < 0.5 * smia["judge_other_before"].mean()
    assert smia["detector_lid_smia"].is_not_null().all()
    layers = read_manifest(evaluated)["listeners"]["detection"]
    assert "encoder.layer2.1.relu" in json.dumps(layers) and "decoder" not in json.dumps(layers)
