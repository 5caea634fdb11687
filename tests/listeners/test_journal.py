"""The journal: right records, a manifest without the machine, and runs that go on where they were."""

import json
import math
import platform
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks import AdversarialBatch, RecordJournal, Robustness
from lightning_modules import Classifier
from medrobust.attacks import FGSM, MIM, PGD, Attack, UniformNoise
from medrobust.results.manifest import read_manifest
from medrobust.results.records import Record, finished, merge, read_journal, read_records

COUNT = 11
ATTACKS: dict[str, Attack] = {"fgsm": FGSM(epsilon=0.05), "pgd": PGD(epsilon=0.05, steps=3, seed=4)}


class Items(pl.LightningDataModule):
    """Random 8 x 8 images with known targets."""

    test_split, num_classes, channels = "adv_test", 2, 1

    def __init__(self, print_of: str = "first") -> None:
        super().__init__()
        self.images = torch.rand(COUNT, 1, 8, 8, generator=torch.Generator().manual_seed(5))
        self.targets = torch.arange(COUNT) % 2
        self.ids, self.print_of = [f"image-{place}" for place in range(COUNT)], print_of
        samples = [SimpleNamespace(id=id, target=int(t)) for id, t in zip(self.ids, self.targets, strict=True)]
        self.splits = {"adv_test": samples, "val": samples}

    def fingerprint(self, split: str) -> str:
        return f"{self.print_of} {split}"

    def describe(self) -> dict[str, Any]:
        return {"name": "items", "image_size": 8, "channels": 1}

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        items = [{"image": i, "target": t, "id": id} for i, t, id in zip(self.images, self.targets, self.ids)]
        return DataLoader(items, batch_size=4, collate_fn=self.collate)

    val_dataloader = test_dataloader

    @staticmethod
    def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
        stacked = {name: torch.stack([item[name] for item in items]) for name in ("image", "target")}
        return {**stacked, "id": [item["id"] for item in items]}


class Linear(nn.Module):
    """Logits that are linear in the image."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 64, generator=torch.Generator().manual_seed(2)) / 8)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.T


class Kept(Callback):
    """Keeps the batches that were made."""

    def __init__(self) -> None:
        self.batches: list[AdversarialBatch] = []

    def on_adversarial_batch(self, trainer: pl.Trainer, victim: pl.LightningModule, batch: AdversarialBatch) -> None:
        self.batches.append(batch)


def victim_of() -> Classifier:
    """A classifier whose network is linear in the image."""
    victim = Classifier("resnet10t", channels=1)
    victim.network = Linear()
    return victim


def evaluate(
    folder: Path,
    attacks: dict[str, Attack] = ATTACKS,
    victim: Classifier | None = None,
    data: Items | None = None,
    resume: bool = True,
    stage: str = "test",
    **options: Any,
) -> list[AdversarialBatch]:
    """Evaluate with a journal and give the batches that were made."""
    kept, journal = Kept(), RecordJournal(str(folder), "tiny", resume=resume, seed=42)
    silent = dict.fromkeys(("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary"), False)
    trainer = pl.Trainer(
        **silent, accelerator="cpu", devices=1, callbacks=[Robustness(attacks, **options), journal, kept]
    )
    getattr(trainer, stage)(victim or victim_of(), data or Items(), verbose=False)
    return kept.batches


def lines(folder: Path) -> list[dict[str, Any]]:
    """Every journal line."""
    return [json.loads(line) for file in sorted(folder.glob("journal/*")) for line in file.read_text().splitlines()]


def made(batches: list[AdversarialBatch]) -> dict[str, int]:
    """Images attacked, by attack."""
    counts: dict[str, int] = {}
    for batch in batches:
        counts[batch.planned.name] = counts.get(batch.planned.name, 0) + len(batch.ids)
    return counts


def test_a_record_says_what_was_done_to_its_image(tmp_path: Path) -> None:
    attacks = {**ATTACKS, "aimed": MIM(epsilon=0.05, steps=2, targeted=True)}
    batches = evaluate(tmp_path, attacks)
    records = {(line["attack"], line["id"]): line for line in lines(tmp_path)}

    assert len(records) == len(lines(tmp_path)) == 4 * COUNT
    for batch in batches:
        for row, id in enumerate(batch.ids):
            record = records[batch.planned.name, id]
            assert set(record) == {"schema", "patient", "var", *batch.measures, *Record.__annotations__}
            difference = [a - c for a, c in zip(batch.adversarial[row].flatten().tolist(), batch.clean[row].flatten())]
            values = [float(value) for value in difference]
            assert record["linf"] == pytest.approx(max(map(abs, values)), abs=1e-9)
            assert record["l2"] == pytest.approx(math.sqrt(sum(value * value for value in values)), rel=1e-6)
            assert record["l0"] == sum(value != 0 for value in values)
            for name, outputs in (("clean", batch.clean_outputs), ("adversarial", batch.adversarial_outputs)):
                logits = outputs[row].tolist()
                assert record[f"{name}_prediction"] == logits.index(max(logits))
                confidence = 1 / sum(math.exp(logit - max(logits)) for logit in logits)
                assert record[f"{name}_confidence"] == pytest.approx(confidence, rel=1e-5)
            target = int(id.split("-")[1]) % 2
            aimed = batch.planned.name == "aimed"
            assert record["target"] == target and record["goal"] == (1 - target if aimed else None)
            assert record["correct_before"] == (record["clean_prediction"] == target)
            assert record["correct_after"] == (record["adversarial_prediction"] == target)
            assert record["success"] == (not record["correct_after"])  # of two classes, the goal is the other one
            assert record["forwards"] == int(batch.forwards[row])
            assert record["backwards"] == {"noise": 0, "fgsm": 1, "pgd": 3, "aimed": 2}[record["attack"]]
            methods = {"noise": "UniformNoise", "fgsm": "FGSM", "pgd": "PGD", "aimed": "MIM"}
            assert record["method"] == methods[record["attack"]]
            assert record["zero_gradients"] == 0 and record["epsilon"] == 0.05
            assert record["seed"] == (4 if record["attack"] == "pgd" else 0)
            assert record["key"] == batch.planned.key and record["schema"] == 1
            about = {name: record[name] for name in ("run", "victim", "dataset", "split")}
            assert about == {"run": "tiny", "victim": "resnet10t", "dataset": "items", "split": "adv_test"}


def test_the_manifest_says_what_was_attacked_with_what_and_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "/".join(("", "somewhere", "else", "evaluate.py"))
    monkeypatch.setattr(sys, "argv", [script, "test", "-c", "a file.yaml"])
    victim = victim_of()
    evaluate(tmp_path, {"fgsm": FGSM(epsilon=0.1)}, victim, epsilons=[0.05])
    manifest = read_manifest(tmp_path)

    assert manifest["schema"] == 1 and manifest["run"] == "tiny" and manifest["seed"] == 42
    assert manifest["command"] == "python evaluate.py test -c 'a file.yaml'"
    assert manifest["victim"]["name"] == "resnet10t" and manifest["victim"]["parameters"] == 128
    assert manifest["victim"]["input"] == [1, 8, 8] and manifest["victim"]["class"] == "Classifier"
    assert manifest["data"]["images"] == COUNT and manifest["data"]["split"] == "adv_test"
    assert manifest["data"]["fingerprint"] == "first adv_test"
    assert manifest["versions"]["torch"] == torch.__version__
    assert manifest["versions"]["python"] == platform.python_version()
    assert manifest["device"] == "cpu" and manifest["world_size"] == 1
    noise, fgsm = manifest["attacks"]
    assert (noise["attack"], noise["method"], noise["control"]) == ("noise", "UniformNoise", True)
    assert (fgsm["attack"], fgsm["method"], fgsm["control"]) == ("fgsm", "FGSM", False)
    assert fgsm["epsilon"] == fgsm["parameters"]["epsilon"] == 0.05 and fgsm["parameters"]["steps"] == 1
    assert {entry["key"] for entry in manifest["attacks"]} == {line["key"] for line in lines(tmp_path)}
    folder = str(tmp_path.parent)
    assert folder not in (tmp_path / "manifest.json").read_text()


def test_a_command_line_names_no_folder_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report is made to be handed on: an absolute argument says who ran it and where."""
    root = tmp_path / "data"
    monkeypatch.setattr(sys, "argv", ["evaluate.py", "test", "--data.root", str(root), f"--runs={tmp_path}"])
    evaluate(tmp_path, {"fgsm": FGSM(epsilon=0.05)})

    command = read_manifest(tmp_path)["command"]
    assert command.startswith("python evaluate.py test --data.root ") and "--runs" in command
    assert str(tmp_path) not in command


def test_a_finished_evaluation_attacks_nothing_again(tmp_path: Path) -> None:
    assert made(evaluate(tmp_path)) == {"noise": COUNT, "fgsm": COUNT, "pgd": COUNT}
    before = lines(tmp_path)

    assert evaluate(tmp_path) == []
    assert lines(tmp_path) == before


def test_a_torn_journal_is_completed_and_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    evaluate(tmp_path / "whole")
    evaluate(tmp_path / "torn")
    (file,) = (tmp_path / "torn" / "journal").glob("*.jsonl")
    text = file.read_text().splitlines(keepends=True)
    file.write_text("".join(text[:13]) + text[13][:40])

    assert sum(made(evaluate(tmp_path / "torn")).values()) == 3 * COUNT - 13
    tables = []
    for name in ("whole", "torn"):
        merge(tmp_path / name)
        tables.append(read_records(tmp_path / name).sort("attack", "id"))
    assert (
        tables[0]
        .drop("l2", "linf", "clean_confidence", "adversarial_confidence")
        .equals(tables[1].drop("l2", "linf", "clean_confidence", "adversarial_confidence"))
    )
    assert (tables[0]["l2"] - tables[1]["l2"]).abs().max() < 1e-6
    assert (tables[0]["linf"] - tables[1]["linf"]).abs().max() < 1e-6


def test_one_attack_more_is_the_only_one_that_runs(tmp_path: Path) -> None:
    evaluate(tmp_path)
    before = {(line["key"], line["id"]): line for line in lines(tmp_path)}

    assert made(evaluate(tmp_path, {**ATTACKS, "mim": MIM(epsilon=0.05, steps=2)})) == {"mim": COUNT}
    merge(tmp_path)
    assert read_records(tmp_path)["attack"].value_counts().sort("attack").rows() == [
        ("fgsm", COUNT),
        ("mim", COUNT),
        ("noise", COUNT),
        ("pgd", COUNT),
    ]
    after = {(line["key"], line["id"]): line for line in lines(tmp_path)}
    assert {place: after[place] for place in before} == before


@pytest.mark.parametrize("change", ["weights", "buffer", "parameter", "seed", "data", "mean"])
def test_whatever_decides_a_record_makes_new_keys_and_nothing_is_mixed(tmp_path: Path, change: str) -> None:
    evaluate(tmp_path)
    old = {line["key"] for line in lines(tmp_path)}
    attacks, victim, data, options = dict(ATTACKS), victim_of(), Items(), {}
    if change == "weights":
        with torch.no_grad():
            victim.network.weight[0, 0] += 1e-6
    elif change == "buffer":
        victim.network.register_buffer("running", torch.ones(1))
    elif change == "parameter":
        attacks["pgd"] = PGD(epsilon=0.05, steps=4, seed=4)
    elif change == "seed":
        options["seed"] = 11
    elif change == "data":
        data = Items("second")
    else:
        victim.mean.fill_(0.4)
    again = made(evaluate(tmp_path, attacks, victim, data, **options))

    all_of_them = {"noise": COUNT, "fgsm": COUNT, "pgd": COUNT}
    assert again == ({"pgd": COUNT} if change == "parameter" else all_of_them)
    merge(tmp_path)
    records = read_records(tmp_path)
    assert len(records) == 3 * COUNT and set(records.group_by("attack").len()["len"]) == {COUNT}
    kept = old & set(records["key"])
    assert len(kept) == (2 if change == "parameter" else 0)
    assert set(records["key"]) == {entry["key"] for entry in read_manifest(tmp_path)["attacks"]}


def test_back_to_an_earlier_victim_finds_its_records(tmp_path: Path) -> None:
    evaluate(tmp_path)
    other = victim_of()
    other.mean.fill_(0.4)
    evaluate(tmp_path, victim=other)

    assert evaluate(tmp_path) == []


def test_an_attack_of_another_name_with_the_same_settings_has_records_under_its_name(tmp_path: Path) -> None:
    evaluate(tmp_path, {"fgsm": FGSM(epsilon=0.05)})
    evaluate(tmp_path, {"renamed": FGSM(epsilon=0.05)})
    merge(tmp_path)

    assert set(read_records(tmp_path)["attack"]) == {"noise", "renamed"}


def test_two_names_for_one_attack_give_a_row_each(tmp_path: Path) -> None:
    evaluate(tmp_path, {"one": FGSM(epsilon=0.05), "two": FGSM(epsilon=0.05)})
    merge(tmp_path)

    counts = read_records(tmp_path)["attack"].value_counts().sort("attack").rows()
    assert counts == [("noise", COUNT), ("one", COUNT), ("two", COUNT)]


def test_without_resume_the_evaluation_starts_afresh(tmp_path: Path) -> None:
    evaluate(tmp_path)
    assert sum(made(evaluate(tmp_path, resume=False)).values()) == 3 * COUNT
    assert len(lines(tmp_path)) == 3 * COUNT


def test_without_resume_nothing_is_lost_before_there_is_something_new(tmp_path: Path) -> None:
    evaluate(tmp_path)
    old = lines(tmp_path)
    journal = RecordJournal(str(tmp_path), "tiny", resume=False)
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    journal.setup(trainer, pl.LightningModule(), "test")
    assert lines(tmp_path) == old


def test_validate_records_val_and_is_told_apart_from_test(tmp_path: Path) -> None:
    evaluate(tmp_path)
    assert made(evaluate(tmp_path, stage="validate")) == {"noise": COUNT, "fgsm": COUNT, "pgd": COUNT}
    merge(tmp_path)
    assert set(read_records(tmp_path)["split"]) == {"val"}


def test_records_are_on_disk_before_the_next_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    craft = Attack.craft

    def watched(self: Attack, *arguments: Any) -> Any:
        sizes.append(len(read_journal(tmp_path)) if (tmp_path / "journal").exists() else 0)
        return craft(self, *arguments)

    monkeypatch.setattr(Attack, "craft", watched)
    evaluate(tmp_path, {"grain": UniformNoise(epsilon=0.05), "fgsm": FGSM(epsilon=0.05)})

    assert sizes == [0, 4, 8, 12, 16, 19]


def test_a_journal_without_a_folder_is_refused() -> None:
    callbacks = [Robustness({"fgsm": FGSM()}), RecordJournal()]
    trainer = pl.Trainer(logger=False, accelerator="cpu", devices=1, enable_checkpointing=False, callbacks=callbacks)
    with pytest.raises(ValueError, match=r"journal\.folder"):
        trainer.test(victim_of(), Items(), verbose=False)


def test_records_have_the_columns_of_the_schema_and_are_found_as_finished(tmp_path: Path) -> None:
    evaluate(tmp_path)
    frame = read_journal(tmp_path)
    assert isinstance(frame, polars.DataFrame) and set(Record.__annotations__) <= set(frame.columns)
    assert all(ids == set(Items().ids) for ids in finished(tmp_path).values())
    assert len(finished(tmp_path)) == 3
