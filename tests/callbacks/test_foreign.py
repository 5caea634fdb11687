"""The callbacks in the trainer of somebody else's module, with somebody else's loaders."""

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks import Panels, Quality, RecordJournal, Robustness
from medrobust import as_victim, evaluate
from medrobust.attacks import FGSM, PGD
from medrobust.results.records import read_records
from medrobust.results.report import finish
from tests.in_lightning import RecordingCallback, trainer_of
from tests.tiny_networks import LinearNet

COUNT = 11
IMAGES = torch.rand(COUNT, 1, 8, 8, generator=torch.Generator().manual_seed(0))
TARGETS = torch.arange(COUNT) % 2
ATTACKS: dict[str, Any] = {"fgsm": FGSM(), "pgd": PGD(steps=2)}


class Foreign(lightning.LightningModule):
    """A module that knows nothing of this project, as tutorials write it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = LinearNet(2)
        self.loss = nn.CrossEntropyLoss()

    def forward(self, images: Tensor) -> Any:
        return self.body(images)

    def step(self, batch: Any) -> Tensor:
        images, targets = (batch["image"], batch["target"]) if isinstance(batch, dict) else batch[:2]
        return self.loss(self(images), targets)

    def training_step(self, batch: Any, number: int) -> Tensor:
        return self.step(batch)

    def validation_step(self, batch: Any, number: int) -> None:
        self.log("val", self.step(batch))

    def test_step(self, batch: Any, number: int) -> None:
        self.log("test", self.step(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class Normalising(Foreign):
    """One whose network wants normalised images, and which offers a victim that normalises them."""

    @property
    def victim(self) -> Any:
        return as_victim(self.body, 0.5, 0.25)


def loader_of(images: Tensor = IMAGES, targets: Tensor = TARGETS, size: int = 4, **options: Any) -> Any:
    return DataLoader(TensorDataset(images, targets), batch_size=size, **options)


def run_on(module: Any, loader: Any, *callbacks: Any, robustness: Any = None, stage: str = "test") -> RecordingCallback:
    heard = RecordingCallback()
    trainer = trainer_of(robustness or Robustness(ATTACKS, epsilons=[0.05]), *callbacks, heard)
    getattr(trainer, stage)(module, loader, verbose=False)
    return heard


def test_a_foreign_module_and_its_loader_leave_records_and_a_report(tmp_path: Path) -> None:
    folder = tmp_path / "evaluate"
    listeners = (RecordJournal(str(folder), "foreign"), Panels(str(folder), 1), Quality(download=False))
    module = Foreign()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    run_on(module, loader_of(), *listeners)
    finish(folder)
    assert (folder / "report.html").is_file()
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())

    alone = evaluate(LinearNet(2), (IMAGES, TARGETS), ATTACKS, 0.05, folder=tmp_path / "call", progress=False)
    one, other = (frame.drop("run", "victim", "key") for frame in (read_records(folder), alone.records))
    assert len(one) == 3 * COUNT and one.equals(other)


def test_an_offered_victim_normalises(tmp_path: Path) -> None:
    heard, plain = run_on(Normalising(), loader_of()), run_on(Foreign(), loader_of())
    images = heard.of("fgsm", "clean")
    assert torch.equal(images, IMAGES)
    outputs = LinearNet(2).eval()((IMAGES - 0.5) / 0.25)
    torch.testing.assert_close(heard.of("fgsm", "clean_outputs"), outputs)
    assert heard.plans[0].victim["mean"] == [0.5] and plain.plans[0].victim["mean"] == [0.0]
    assert heard.plans[0].split == "test" and run_on(Foreign(), loader_of(), stage="validate").plans[0].split == "val"


def test_dictionaries_keep_their_ids_and_patients() -> None:
    rows = [
        {"image": image, "target": int(target), "id": f"n{place}", "patient": f"p{place // 2}"}
        for place, (image, target) in enumerate(zip(IMAGES, TARGETS))
    ]
    heard = run_on(Foreign(), DataLoader(rows, batch_size=4, shuffle=True))
    plan = heard.plans[0]
    assert sorted(plan.patients.items()) == sorted((row["id"], row["patient"]) for row in rows)
    order = [int(id[1:]) for batch in heard.batches if batch.planned.name == "fgsm" for id in batch.ids]
    assert sorted(order) == list(range(COUNT)) and torch.equal(heard.of("fgsm", "clean"), IMAGES[order])


def test_loaders_of_a_foreign_data_module_are_taken_too() -> None:
    class Plain(lightning.LightningDataModule):
        def test_dataloader(self) -> Any:
            return loader_of()

    heard = RecordingCallback()
    trainer_of(Robustness({"fgsm": FGSM()}, controls=False), heard).test(Foreign(), Plain(), verbose=False)
    assert heard.counts() == {"fgsm": COUNT} and heard.plans[0].data["name"] == "Plain"


def test_in_fit_a_foreign_module_is_attacked_for_a_few_batches() -> None:
    trainer = trainer_of(Robustness(ATTACKS, fit_batches=1), max_epochs=1)
    trainer.fit(Foreign(), loader_of(), loader_of())
    assert 0 <= float(trainer.callback_metrics["robustness/fgsm"]) <= 1


class Whole(Foreign):
    """Has no forward."""

    forward = lightning.LightningModule.forward

    def step(self, batch: Any) -> Tensor:
        return self.loss(self.body(batch[0]), batch[1])


class Half(Foreign):
    """Offers as a victim what is none."""

    @property
    def victim(self) -> Any:
        return self.body


@pytest.mark.parametrize(
    ("module", "loader", "words"),
    [
        (Whole, loader_of(), 'the model cannot take images .*missing the required "forward" function'),
        (Half, loader_of(), "needs a victim .* and LinearNet lacks description, features"),
        (Foreign, loader_of((IMAGES - 0.5) / 0.5), "batch 0 of data: .*normalised already .* as_victim"),
        (
            Foreign,
            loader_of(targets=TARGETS + 6),
            "distinguishes 2 classes, .* and image .* has the target",
        ),
        (Foreign, [loader_of(), loader_of()], "takes its images from one loader, and the trainer has 2"),
        (Foreign, loader_of(shuffle=True), r"second pass image \d+ \(counted from 0\) is another one: .*shuffle=False"),
    ],
    ids=["no forward", "no victim", "normalised", "targets", "two loaders", "shuffled"],
)
def test_what_is_missing_is_said_in_a_sentence(module: type, loader: Any, words: str, tmp_path: Path) -> None:
    class Patient(module):  # type: ignore[misc,valid-type]
        def test_step(self, batch: Any, number: int, dataloader_idx: int = 0) -> None:
            """Lets the callback speak first."""

    with pytest.raises(ValueError, match=words) as error:
        run_on(Patient(), loader, RecordJournal(str(tmp_path / "unused")))
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("*.jsonl"))


def test_records_are_named_by_the_module(tmp_path: Path) -> None:
    run_on(Foreign(), loader_of(), RecordJournal(str(tmp_path), "foreign"))
    finish(tmp_path)
    records = read_records(tmp_path)
    assert set(records["victim"]) == {"Foreign"} and records.filter(pl.col("attack") == "noise").height == COUNT


def test_a_second_callback_that_attacks_would_hide_the_first_ones_results(tmp_path: Path) -> None:
    others = (Robustness(ATTACKS, epsilons=[0.1]), RecordJournal(str(tmp_path), "foreign"))
    with pytest.raises(ValueError, match="evaluates by one Robustness, which takes several attacks, and has 2"):
        run_on(Foreign(), loader_of(), *others)
    assert not list(tmp_path.iterdir())
