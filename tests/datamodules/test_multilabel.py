"""Several labels for each image: strata, weights, checks and descriptions."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules import MultiLabelDataModule, Sample, Scene
from datamodules.splits import Fractions

ROWS = [
    (1, 0, 0),
    (1, 0, 0),
    (1, 1, 0),
    (1, 1, 0),
    (0, 0, 0),
    (0, 0, 0),
    (1, 0, 1),
    (0, -1, 1),
    (0, 0, -1),
    (1, -1, -1),
]


class Findings(MultiLabelDataModule):
    """Ten images in memory, several times, each a patient; -1 is unknown."""

    name, class_names, rows, times = "findings", ("effusion", "mass", "hernia"), ROWS, 4

    def index(self) -> list[Sample[tuple[int, ...]]]:
        return [Sample(Path(f"{n}"), f"{n:03d}", row, f"{n}") for n, row in enumerate(self.rows * self.times)]

    def read(self, sample: Sample[tuple[int, ...]]) -> Scene:
        return Scene(np.full((8, 8, 1), int(sample.id) / 100, np.float32))


def made(root: Path, **options: Any) -> Findings:
    """The data module, set up."""
    fractions = Fractions(0.5, 0, 0, 0.5)
    module = Findings(root, **{"image_size": 4, "channels": 1, "fractions": fractions, "batch_size": 99} | options)
    module.setup()
    return module


def test_the_stratum_is_the_rarest_label(tmp_path: Path) -> None:
    # 6 of 10 have the first label, 2 each the second and the third: of equally rare ones the first counts
    module = made(tmp_path)
    strata = [sample.stratum for sample in module.stratified(module.index()[:10])]
    assert strata == ["effusion"] * 2 + ["mass"] * 2 + ["none"] * 2 + ["hernia"] * 2 + ["none", "effusion"]
    counts = [Counter(sample.stratum for sample in members) for members in module.splits.values() if members]
    assert counts == [{"effusion": 6, "mass": 4, "none": 6, "hernia": 4}] * 2


def test_batches_descriptions_and_weights(tmp_path: Path) -> None:
    module = made(tmp_path)
    (batch,) = module.test_dataloader()
    assert batch["target"].shape == (20, 3) and batch["target"].dtype == torch.int64
    assert {tuple(row) for row in batch["target"].tolist()} == set(ROWS)
    facts = module.describe()
    assert (facts["task"], facts["class_names"]) == ("multilabel", ["effusion", "mass", "hernia"])
    train = facts["splits"]["train"]
    assert train["labels"] == {"effusion": 12, "mass": 4, "hernia": 4} and train["without_label"] == 6
    samples = module.splits["train"]
    absent = [sum(sample.target[label] == 0 for sample in samples) for label in range(3)]
    # 12 of 20 have the first and all others lack it; of the others 4 have it, and some are unknown
    assert absent[0] == 8 and absent[1] < 16
    torch.testing.assert_close(module.positive_weights(), torch.tensor([8 / 12, absent[1] / 4, absent[2] / 4]))


def test_split_files_keep_the_labels(tmp_path: Path) -> None:
    module = made(tmp_path)
    module.export_splits(tmp_path / "splits.csv")
    again = made(tmp_path, split_file=tmp_path / "splits.csv")
    assert again.splits == module.splits and again.fingerprint("train") == module.fingerprint("train")


@pytest.mark.parametrize("row", [(1, 0), (1, 0, 2), (1, 0, -2)])
def test_wrong_labels_are_refused(tmp_path: Path, row: tuple[int, ...]) -> None:
    module = made(tmp_path)
    with pytest.raises(ValueError, match="7: expected 3 labels, each 0, 1 or -1 if unknown, got "):
        module.check(Sample(Path("7"), "7", row, "7"), Scene(np.zeros((8, 8, 1), np.float32)))


def test_every_label_needs_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Findings, "rows", [row for row in ROWS if row[2] != 1])
    with pytest.raises(ValueError, match="expected images of the class hernia, found none"):
        made(tmp_path)
    monkeypatch.setattr(Findings, "rows", ROWS)
    module = made(tmp_path)
    module.splits["train"] = [sample for sample in module.splits["train"] if sample.target[1] != 1]
    with pytest.raises(ValueError, match="images with every label in train, none has mass"):
        module.positive_weights()


def test_other_names_of_labels_are_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = made(tmp_path).fingerprint("train")
    monkeypatch.setattr(Findings, "class_names", ("effusion", "mass", "edema"))
    assert made(tmp_path).fingerprint("train") != before
