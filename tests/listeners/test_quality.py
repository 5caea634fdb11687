"""Quality of each image: PSNR and SSIM against numbers worked out by hand, and the callback that measures."""

import logging
import math
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import callbacks.quality
import pytest
import pytorch_lightning as pl
import torch
from callbacks.quality import Quality
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics.functional.image import structural_similarity_index_measure

from callbacks import AdversarialBatch, EvaluationPlan, PlannedAttack, RecordJournal, Robustness
from lightning_modules import Classifier
from medrobust.attacks import FGSM, UniformNoise
from medrobust.metrics import quality
from medrobust.metrics.brisque import VARIABLE, Brisque
from medrobust.metrics.quality import gaussian_filter, in_parts, psnr, ssim
from medrobust.results.records import read_journal

SIDE = 24


def pictures(count: int, channels: int = 1, seed: int = 0, side: int = SIDE) -> Tensor:
    """Noise on a slope: with structure, and no two alike."""
    generator = torch.Generator().manual_seed(seed)
    slope = torch.linspace(0.2, 0.6, side)
    return slope + 0.3 * torch.rand((count, channels, side, side), generator=generator)


def model() -> Brisque:
    """A small regression, of no meaning."""
    generator = torch.Generator().manual_seed(1)
    ends = torch.zeros(36, dtype=torch.float64), torch.full((36,), 3.0, dtype=torch.float64)
    return Brisque(torch.rand((5, 36), generator=generator) - 1, torch.linspace(-30, 50, 5), *ends, 0.05, -40.0)


def batch_of(ids: list[str], clean: Tensor, adversarial: Tensor) -> AdversarialBatch:
    """A batch of which nothing but ids and images matters."""
    plan, nothing = EvaluationPlan([], "test", [], {}, {}), torch.zeros(len(ids))
    planned = PlannedAttack("mine", FGSM(), None, "0123456789abcdef", control=False)
    return AdversarialBatch(planned, plan, ids, nothing, None, clean, adversarial, *[nothing] * 8)


def trainer_of(received: Any = None, first: bool = True) -> Any:
    """A trainer of the first rank, or of another one that receives what the first one sends."""
    return SimpleNamespace(
        is_global_zero=first,
        strategy=SimpleNamespace(broadcast=lambda sent: sent if first else pickle.loads(pickle.dumps(received))),
    )


def start(monkeypatch: pytest.MonkeyPatch, found: Brisque | None, **options: Any) -> Quality:
    """The callback, at the start of an evaluation, after this model was found."""
    monkeypatch.setattr(callbacks.quality, "find_brisque", lambda *_: found)
    measure = Quality(**options)
    measure.setup(trainer_of(), SimpleNamespace(), "test")
    measure.on_evaluation_start(trainer_of(), SimpleNamespace(), SimpleNamespace())
    return measure


def hear(measure: Quality, ids: list[str], clean: Tensor, adversarial: Tensor) -> dict[str, Tensor]:
    """Columns that a batch gets."""
    batch = batch_of(ids, clean, adversarial)
    measure.on_adversarial_batch(trainer_of(), SimpleNamespace(), batch)
    return batch.columns


class Items(pl.LightningDataModule):
    """Five pictures, the last of them constant."""

    test_split, num_classes, channels = "test", 2, 1

    def __init__(self) -> None:
        super().__init__()
        self.images = pictures(5)
        self.images[4] = 0.5
        self.splits = {"test": [SimpleNamespace(id=f"image-{place}", target=place % 2) for place in range(5)]}

    def fingerprint(self, split: str) -> str:
        return split

    def describe(self) -> dict[str, Any]:
        return {"name": "items", "image_size": SIDE, "channels": 1}

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        samples = self.splits["test"]
        items = [{"image": i, "target": s.target, "id": s.id} for i, s in zip(self.images, samples, strict=True)]
        return DataLoader(items, batch_size=2)


def test_psnr_of_an_even_difference_is_its_logarithm() -> None:
    clean = torch.full((3, 2, 4, 4), 0.5, dtype=torch.float64)
    difference = torch.tensor([0.1, 0.01, 0.25], dtype=torch.float64).view(3, 1, 1, 1)

    expected = torch.tensor([20, 40, -20 * math.log10(0.25)], dtype=torch.float64)
    torch.testing.assert_close(psnr(clean, clean + difference), expected)
    torch.testing.assert_close(psnr(clean, clean - difference), expected)


def test_psnr_is_the_mean_over_pixels_of_each_image() -> None:
    clean = torch.zeros(2, 1, 2, 2)
    adversarial = clean.clone()
    adversarial[0, 0, 0, 0], adversarial[1, 0] = 0.2, torch.tensor([[0.1, 0.1], [0.3, 0.1]])

    # mean squares 0.04 / 4 and 0.12 / 4
    torch.testing.assert_close(psnr(clean, adversarial), torch.tensor([20, -10 * math.log10(0.03)]).double())


def test_psnr_of_an_unchanged_image_is_undefined() -> None:
    clean = pictures(2)
    adversarial = clean.clone()
    adversarial[1, 0, 0, 0] += 1e-6

    values = psnr(clean, adversarial)
    assert math.isnan(values[0]) and 120 < values[1] < 160


def test_ssim_of_equal_images_is_one() -> None:
    for images in (pictures(3), pictures(2, 3), torch.zeros(1, 1, 11, 11), torch.full((1, 1, 20, 11), 0.9)):
        torch.testing.assert_close(ssim(images, images), torch.ones(len(images)).double(), rtol=0, atol=1e-12)


def test_ssim_of_constant_images_is_its_luminance_alone() -> None:
    clean, adversarial = (torch.full((1, 1, 16, 13), level, dtype=torch.float64) for level in (0.5, 0.7))
    expected = (2 * 0.5 * 0.7 + 1e-4) / (0.5**2 + 0.7**2 + 1e-4)
    assert float(ssim(clean, adversarial)) == pytest.approx(expected, abs=1e-12)


def test_ssim_of_an_image_of_one_window_is_the_formula() -> None:
    x, y = pictures(1, side=11)[0, 0].double(), pictures(1, seed=1, side=11)[0, 0].double()
    taps = torch.tensor([math.exp(-(place**2) / 4.5) for place in range(-5, 6)], dtype=torch.float64)
    window = taps[:, None] * taps / taps.sum() ** 2

    def mean(values: Tensor) -> Tensor:
        return (window * values).sum()

    mx, my = mean(x), mean(y)
    vx, vy, covariance = mean((x - mx) ** 2), mean((y - my) ** 2), mean((x - mx) * (y - my))
    expected = (2 * mx * my + 1e-4) * (2 * covariance + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    torch.testing.assert_close(ssim(x[None, None], y[None, None]), expected[None])


@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_is_torchmetrics_map_inside_the_edges(channels: int) -> None:
    clean = pictures(4, channels).double()
    adversarial = (clean + 0.05 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(5))).clamp(0, 1)

    _, full = structural_similarity_index_measure(
        adversarial, clean, data_range=1.0, reduction="none", return_full_image=True
    )
    torch.testing.assert_close(ssim(clean, adversarial), full[..., 5:-5, 5:-5].flatten(1).mean(1))


def test_ssim_of_an_image_below_a_window_is_undefined() -> None:
    assert ssim(torch.rand(2, 1, 10, 30), torch.rand(2, 1, 10, 30)).isnan().all()


def test_an_image_is_measured_alike_in_any_batch_and_the_batch_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    clean, adversarial = pictures(5, 3), pictures(5, 3, seed=1)
    before = clean.clone(), adversarial.clone()
    for measure in (psnr, ssim):
        whole = measure(clean, adversarial)
        assert whole.shape == (5,) and whole.dtype == torch.float64
        singly = torch.cat([measure(clean[row : row + 1], adversarial[row : row + 1]) for row in range(5)])
        torch.testing.assert_close(whole, singly, rtol=0, atol=1e-12)
        monkeypatch.setitem(quality.PART, "cpu", 2 * 3 * SIDE * SIDE)  # parts of two images
        torch.testing.assert_close(measure(clean, adversarial), whole, rtol=0, atol=1e-12)
    assert torch.equal(clean, before[0]) and torch.equal(adversarial, before[1])


def test_parts_keep_the_memory_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setitem(quality.PART, "cpu", 3 * 8 * 8)

    def score(images: Tensor) -> Tensor:
        sizes.append(len(images))
        return images.flatten(1).sum(1)

    assert in_parts(score, torch.ones(7, 1, 8, 8)).tolist() == [64.0] * 7 and sizes == [3, 3, 1]
    sizes.clear()
    assert in_parts(score, torch.ones(2, 1, 20, 20)).tolist() == [400.0] * 2 and sizes == [1, 1]


def test_a_gaussian_window_keeps_constants_and_slopes() -> None:
    slope = (3 * torch.arange(12.0) + 5 * torch.arange(10.0)[:, None]).double()
    torch.testing.assert_close(gaussian_filter(slope, 7 / 6, 3), slope[3:-3, 3:-3])


def test_the_columns_are_the_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    clean, adversarial = pictures(3), pictures(3, seed=1)
    columns = hear(start(monkeypatch, model()), ["a", "b", "c"], clean, adversarial)

    assert list(columns) == ["psnr", "ssim", "brisque_clean", "brisque"]
    torch.testing.assert_close(columns["psnr"], psnr(clean, adversarial))
    torch.testing.assert_close(columns["ssim"], ssim(clean, adversarial))
    torch.testing.assert_close(columns["brisque_clean"], model().score(clean))
    torch.testing.assert_close(columns["brisque"], model().score(adversarial))
    assert columns["brisque"].isfinite().all() and not columns["brisque"].equal(columns["brisque_clean"])
    assert all(column.shape == (3,) and not column.requires_grad for column in columns.values())


def test_ssim_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = hear(start(monkeypatch, model(), ssim=False), ["a"], pictures(1), pictures(1, seed=1))
    assert list(columns) == ["psnr", "brisque_clean", "brisque"]


def test_images_with_a_gradient_are_measured_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = hear(start(monkeypatch, model()), ["a"], pictures(1).requires_grad_(), pictures(1, seed=1))
    assert not any(column.requires_grad for column in columns.values())


def test_a_clean_image_is_scored_once_for_all_attacks(monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[int] = []
    watched = model()
    score = watched.score
    monkeypatch.setattr(watched, "score", lambda images: (scored.append(len(images)), score(images))[1])
    measure = start(monkeypatch, watched)
    clean = pictures(4)

    first = hear(measure, ["a", "b"], clean[:2], pictures(2, seed=1))
    assert scored == [2, 2]  # clean and adversarial
    second = hear(measure, ["b", "c", "a", "d"], clean[[1, 2, 0, 3]], pictures(4, seed=2))
    assert scored == [2, 2, 2, 4]
    assert first["brisque_clean"].tolist() == second["brisque_clean"][[2, 0]].tolist()
    torch.testing.assert_close(second["brisque_clean"], model().score(clean[[1, 2, 0, 3]]))

    measure.on_evaluation_end(trainer_of(), SimpleNamespace(), SimpleNamespace())
    measure.on_evaluation_start(trainer_of(), SimpleNamespace(), SimpleNamespace())
    hear(measure, ["a"], clean[3:], pictures(1, seed=1))  # another evaluation's "a" is another image
    assert scored[4:] == [1, 1]


def test_images_without_a_score_are_counted(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    measure = start(monkeypatch, model())
    clean, adversarial = pictures(3), pictures(3, seed=1)
    clean[1], adversarial[2] = 0.5, 1.0
    columns = hear(measure, ["a", "b", "c"], clean, adversarial)
    hear(measure, ["b"], clean[1:2], adversarial[1:2])  # its clean score, which it has not, is known by now

    assert columns["brisque_clean"].isnan().tolist() == [False, True, False]
    assert columns["brisque"].isnan().tolist() == [False, False, True]
    with caplog.at_level(logging.INFO):
        measure.on_evaluation_end(trainer_of(), SimpleNamespace(), SimpleNamespace())
    assert [record.getMessage()[:59] for record in caplog.records] == [
        "2 of 7 clean and adversarial images have no BRISQUE score, "
    ]


def test_nothing_is_said_where_every_image_has_a_score(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    measure = start(monkeypatch, model())
    hear(measure, ["a"], pictures(1), pictures(1, seed=1))
    with caplog.at_level(logging.INFO):
        measure.on_evaluation_end(trainer_of(), SimpleNamespace(), SimpleNamespace())
    assert not caplog.records


def test_without_a_model_the_columns_are_empty_and_one_sentence_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    measure = Quality(download=False)
    with caplog.at_level(logging.INFO):
        measure.setup(trainer_of(), SimpleNamespace(), "fit")  # where nothing is measured, nothing is missing
        assert not caplog.records
        measure.setup(trainer_of(), SimpleNamespace(), "test")
        measure.on_evaluation_start(trainer_of(), SimpleNamespace(), SimpleNamespace())
        columns = hear(measure, ["a", "b"], pictures(2), pictures(2, seed=1))
        measure.on_evaluation_end(trainer_of(), SimpleNamespace(), SimpleNamespace())

    assert len(caplog.records) == 1 and VARIABLE in caplog.text
    assert columns["brisque"].isnan().all() and columns["brisque_clean"].isnan().all()
    assert columns["psnr"].isfinite().all() and columns["ssim"].isfinite().all()


def test_every_rank_measures_with_the_first_ones_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks.quality, "find_brisque", lambda *_: pytest.fail("only the first rank looks"))
    for received in (model(), None):
        measure = Quality()
        measure.setup(trainer_of(received, first=False), SimpleNamespace(), "validate")
        found = measure._model
        assert (found and found.fingerprint) == (received and received.fingerprint)


def test_the_model_is_found_by_a_trainer_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callbacks.quality, "find_brisque", lambda *_: model())
    measure = Quality()
    trainer = pl.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    measure.setup(trainer, pl.LightningModule(), "test")
    assert measure._model is not None and measure._model.fingerprint == model().fingerprint


def test_a_path_that_leads_nowhere_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no .*nowhere"):
        Quality(brisque=str(tmp_path / "nowhere"))


def test_the_columns_stand_in_the_records(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(callbacks.quality, "find_brisque", lambda *_: model())
    silent = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False)
    attacks = Robustness({"noise": UniformNoise(epsilon=0.02), "none": FGSM(epsilon=1e-9)}, controls=False)
    trainer = pl.Trainer(
        **silent, accelerator="cpu", devices=1, callbacks=[attacks, RecordJournal(str(tmp_path), "tiny"), Quality()]
    )
    data = Items()
    trainer.test(Classifier("resnet10t", channels=1), data, verbose=False)

    records = read_journal(tmp_path).to_dicts()
    assert len(records) == 10
    clean = dict(zip((f"image-{place}" for place in range(5)), model().score(data.images).tolist(), strict=True))
    for record in records:
        constant = record["id"] == "image-4"
        assert record["brisque_clean"] == (None if constant else pytest.approx(clean[record["id"]], abs=1e-6))
        if record["attack"] == "none":  # below the resolution of float32, or nearly so
            assert record["psnr"] is None or record["psnr"] > 100
            assert record["ssim"] == pytest.approx(1) and (record["brisque"] is None) == constant
        else:
            assert 34 < record["psnr"] < 42 and 0 < record["ssim"] < 1 and math.isfinite(record["brisque"])


def test_a_named_model_that_is_none_is_refused_before_anything_runs(tmp_path: Path) -> None:
    for named in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(ValueError, match=r"there is no|allmodel"):
            Quality(brisque=str(named))
