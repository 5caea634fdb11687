"""The base alone: a task that it has never heard of takes a few lines."""

from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules import MedicalDataModule, Sample, Scene
from datamodules.splits import Fractions


class Findings(MedicalDataModule[tuple[int, ...]]):
    """Eight images in memory with any of three findings; the first finding is the stratum."""

    name, task, class_names = "findings", "multilabel", ("nodule", "mass", "effusion")

    def index(self) -> list[Sample[tuple[int, ...]]]:
        return [Sample(Path(f"{n}"), f"{n}", (n % 2, n // 2 % 2, 1), f"{n}", stratum=n % 2) for n in range(8)]

    def read(self, sample: Sample[tuple[int, ...]]) -> Scene:
        return Scene(np.full((8, 8, 1), int(sample.id) / 8, np.float32))


def findings(root: Path, **options: object) -> Findings:
    """The data module, set up, half of the images in Train and half in AdvTest."""
    module = Findings(root, **{"image_size": 4, "channels": 1, "fractions": Fractions(0.5, 0, 0, 0.5)} | options)
    module.setup()
    return module


def test_several_findings_for_each_image(tmp_path: Path) -> None:
    module = findings(tmp_path)
    (batch,) = module.test_dataloader()
    assert batch["target"].shape == (4, 3) and batch["target"].dtype == torch.int64
    for id, image, target in zip(batch["id"], batch["image"], batch["target"], strict=True):
        assert target.tolist() == [int(id) % 2, int(id) // 2 % 2, 1]
        torch.testing.assert_close(image, torch.full((1, 4, 4), int(id) / 8))
    assert sorted(sample.stratum for sample in module.splits["adv_test"]) == [0, 0, 1, 1]
    assert (module.describe()["task"], module.num_classes) == ("multilabel", 3)


def test_an_image_can_be_read_alone_or_with_its_batch(tmp_path: Path) -> None:
    module = findings(tmp_path, batch_size=3)
    ids = [sample.id for sample in module.splits["adv_test"]]
    # four images in batches of at most three are two batches of two
    assert [batch["id"] for batch in module.test_dataloader()] == [ids[:2], ids[2:]]
    assert module.batch_of("adv_test", ids[3]) == ids[2:] and module.batch_of("adv_test", ids[0]) == ids[:2]
    # two ranks are dealt every second image
    assert module.batch_of("adv_test", ids[2], ranks=2) == [ids[0], ids[2]]
    module.judged = frozenset(module.batch_of("adv_test", ids[2]))
    assert [batch["id"] for batch in module.test_dataloader()] == [ids[2:]]
    assert sum(len(batch["id"]) for batch in module.dataloader_of("adv_test")) == 4
    with pytest.raises(ValueError, match="the split adv_test has no image 'x'"):
        module.batch_of("adv_test", "x")


def test_targets_are_written_as_json(tmp_path: Path) -> None:
    module = findings(tmp_path)
    module.export_splits(tmp_path / "splits.csv")
    text = (tmp_path / "splits.csv").read_text()
    assert '5,train,"[1, 0, 1]",5\n' in text or '5,adv_test,"[1, 0, 1]",5\n' in text
    again = findings(tmp_path, split_file=tmp_path / "splits.csv")
    assert again.splits == module.splits and again.fingerprint("train") == module.fingerprint("train")
    (tmp_path / "wrong.csv").write_text(text.replace('"[1, 0, 1]",5', '"[1, 1, 1]",5'))
    with pytest.raises(
        ValueError, match=r"expected the target '\[1, 0, 1\]' as the dataset gives it, got '\[1, 1, 1\]'"
    ):
        findings(tmp_path, split_file=tmp_path / "wrong.csv")


def test_other_targets_are_other_data(tmp_path: Path) -> None:
    class Opposite(Findings):
        def index(self) -> list[Sample[tuple[int, ...]]]:
            return [
                Sample(s.path, s.id, tuple(1 - finding for finding in s.target), s.patient, s.stratum)
                for s in super().index()
            ]

    other = Opposite(tmp_path, image_size=4, channels=1, fractions=Fractions(0.5, 0, 0, 0.5))
    other.setup()
    module = findings(tmp_path)
    assert [s.id for s in other.splits["train"]] == [s.id for s in module.splits["train"]]
    assert other.fingerprint("train") != module.fingerprint("train")
