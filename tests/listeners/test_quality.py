"""The listener of quality: its columns, the model that all processes share, and what it says where there is none."""

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from medrobust.attacks import FGSM, UniformNoise
from medrobust.evaluation import AdversarialBatch, EvaluationContext, EvaluationPlan, PlannedAttack
from medrobust.listeners import Quality, RecordJournal
from medrobust.listeners import quality as module
from medrobust.metrics.brisque import VARIABLE, Brisque
from medrobust.metrics.quality import psnr, ssim
from medrobust.networks import Outcome, as_victim
from medrobust.results.records import read_journal
from tests.in_memory import InMemoryData
from tests.recording import evaluate

SIDE = 24
VICTIM = as_victim(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(SIDE * SIDE, 2)))
DATA = InMemoryData({"adv_test": (torch.zeros(1, 1, SIDE, SIDE), torch.zeros(1))})
PLAN = EvaluationPlan(attacks=[], split="adv_test", images=[], victim={}, data={})


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
    nothing = torch.zeros(len(ids))
    outcome = Outcome(nothing.bool(), nothing)
    return AdversarialBatch(
        planned=PlannedAttack(name="mine", attack=FGSM(), key="0123456789abcdef"),
        plan=PLAN,
        ids=ids,
        targets=nothing,
        goals=None,
        clean=clean,
        adversarial=adversarial,
        clean_outputs=nothing,
        adversarial_outputs=nothing,
        before=outcome,
        after=outcome,
        reached=nothing.bool(),
        forwards=nothing,
        backwards=nothing,
        zero_gradients=nothing,
    )


class OtherProcess(EvaluationContext):
    """A process that is not the first, and receives what the first one sends."""

    def __init__(self, received: Any) -> None:
        super().__init__()
        self.rank, self.ranks, self.received = 1, 2, received

    def broadcast(self, value: Any) -> Any:
        assert value is None
        return self.received


def begin(measure: Quality, context: EvaluationContext | None = None) -> Quality:
    """Let the listener hear that an evaluation begins."""
    assert measure.on_evaluation_identity(context or EvaluationContext(), VICTIM, DATA, []) == {}
    return measure


def end(measure: Quality) -> None:
    """Let the listener hear that an evaluation ends."""
    measure.on_evaluation_end(EvaluationContext(), VICTIM, PLAN)


def start(monkeypatch: pytest.MonkeyPatch, found: Brisque | None, **options: Any) -> Quality:
    """The listener, at the start of an evaluation, after this model was found."""
    monkeypatch.setattr(module, "find_brisque", lambda *_: found)
    return begin(Quality(**options))


def hear(measure: Quality, ids: list[str], clean: Tensor, adversarial: Tensor) -> dict[str, Tensor]:
    """Columns that a batch gets."""
    batch = batch_of(ids, clean, adversarial)
    measure.on_adversarial_batch(EvaluationContext(), VICTIM, batch)
    return batch.columns


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

    end(measure)
    begin(measure)
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
        end(measure)
    assert [record.getMessage()[:59] for record in caplog.records] == [
        "2 of 7 clean and adversarial images have no BRISQUE score, "
    ]


def test_nothing_is_said_where_every_image_has_a_score(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    measure = start(monkeypatch, model())
    hear(measure, ["a"], pictures(1), pictures(1, seed=1))
    with caplog.at_level(logging.INFO):
        end(measure)
    assert not caplog.records


def test_without_a_model_the_columns_are_empty_and_one_sentence_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    measure = Quality(download=False)
    with caplog.at_level(logging.INFO):
        begin(measure)
        columns = hear(measure, ["a", "b"], pictures(2), pictures(2, seed=1))
        end(measure)

    assert len(caplog.records) == 1 and "--quality.brisque FILE" in caplog.text
    assert columns["brisque"].isnan().all() and columns["brisque_clean"].isnan().all()
    assert columns["psnr"].isfinite().all() and columns["ssim"].isfinite().all()


def test_every_process_measures_with_the_first_ones_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_brisque", lambda *_: pytest.fail("only the first process looks"))
    clean, adversarial = pictures(1), pictures(1, seed=1)
    for received in (model(), None):
        columns = hear(begin(Quality(), OtherProcess(received)), ["a"], clean, adversarial)
        expected = torch.full((1,), math.nan).double() if received is None else received.score(adversarial)
        torch.testing.assert_close(columns["brisque"], expected, equal_nan=True)


def test_a_path_that_leads_nowhere_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no .*nowhere"):
        Quality(brisque=str(tmp_path / "nowhere"))


def test_the_columns_stand_in_the_records(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "find_brisque", lambda *_: model())
    images = pictures(5)
    images[4] = 0.5  # constant
    names = [f"image-{place}" for place in range(5)]
    data = InMemoryData({"test": (images, torch.arange(5) % 2)}, {"test": names}, batch_size=2, test_split="test")
    attacks = {"noise": UniformNoise(epsilon=0.02), "none": FGSM(epsilon=1e-9)}
    evaluate(VICTIM, data, attacks, RecordJournal(str(tmp_path), "tiny"), Quality())

    records = read_journal(tmp_path).to_dicts()
    assert len(records) == 10
    clean = dict(zip(names, model().score(images).tolist(), strict=True))
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
