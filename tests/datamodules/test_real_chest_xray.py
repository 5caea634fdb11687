"""The real chest X-ray sample, where a checkout has it beside itself."""

import itertools
from pathlib import Path

import pytest

from datamodules import ChestXRay

ROOT = Path(__file__).resolve().parents[3] / "shared/data/chest_xray"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not ROOT.is_dir(), reason="no real chest X-rays beside the checkout"),
]


def test_real_chest_xrays() -> None:
    data = ChestXRay(ROOT, image_size=96, channels=1, batch_size=8)
    data.setup("test")

    assert sum(map(len, data.splits.values())) == 1332
    for one, other in itertools.combinations(data.splits.values(), 2):
        assert not {sample.patient for sample in one} & {sample.patient for sample in other}
    for members in data.splits.values():
        assert 0.24 < sum(sample.target == 0 for sample in members) / len(members) < 0.28

    batch = next(iter(data.test_dataloader()))
    assert batch["image"].shape == (8, 1, 96, 96) and batch["target"].shape == (8,)
    assert batch["image"].min() >= 0 and batch["image"].max() <= 1 and batch["image"].std() > 0.1
    assert batch["id"] == [sample.id for sample in data.splits["adv_test"][:8]]
