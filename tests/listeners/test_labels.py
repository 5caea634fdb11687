"""Evaluations of a victim of several labels: its records, its goals, and the detectors that need no class."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from medrobust.attacks import FGSM, PGD, Attack, DeepFool
from medrobust.detectors import BayesianUncertainty, KernelDensity, LocalDimension, Mahalanobis, SupportVectors
from medrobust.listeners import Detection, RecordJournal
from medrobust.networks import Outcome, WrappedClassifier
from medrobust.results.records import read_records
from medrobust.results.report.page import finish
from tests import recording
from tests.in_memory import InMemoryData, random_data
from tests.listeners.test_detection import Net
from tests.tiny_networks import linear_victim

NAMES = ["No Finding", "Mass"]
COUNTS = {"train": 24, "adv_train": 20, "adv_test": 9}


class LabelVictim(WrappedClassifier):
    """The two logits of a network as two labels."""

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        raise AssertionError("the logits fit the targets, so that no attack needs the loss")

    def outcome(self, outputs: Tensor, targets: Tensor) -> Outcome:
        known = targets >= 0
        hits = ((outputs > 0) == (targets > 0)) & known
        return Outcome((hits == known).all(1) & known.any(1), hits.sum(1) / known.sum(1).clamp(min=1))


class Labelled(InMemoryData):
    """Random images with the labels that the victim gives, but for a few; of every fifth image the first is unknown."""

    task = "multilabel"

    def __init__(self, victim: LabelVictim) -> None:
        splits, self.truths = {}, {}
        for number, (split, count) in enumerate(COUNTS.items()):
            images = torch.rand(count, 1, 8, 8, generator=torch.Generator().manual_seed(number))
            with torch.no_grad():
                truths = (victim(images) > 0).long()
            truths[::6, 1] = 1 - truths[::6, 1]
            truths[4::5, 0] = -1
            splits[split], self.truths[split] = (images, torch.zeros(count)), truths
        super().__init__(splits)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "class_names": NAMES}

    def dataloader_of(self, split: str, per_class: int | None = None) -> Any:
        rows = zip(self.images[split], self.truths[split], self.ids(split), strict=True)
        items: Any = [{"image": image, "target": target, "id": id} for image, target, id in rows]
        return DataLoader(items, batch_size=4)


def victim_of() -> LabelVictim:
    return LabelVictim(Net(), 0.5, 0.25).eval()


def evaluate(folder: Path, attacks: dict[str, Attack], *listeners: Any, **options: Any) -> Any:
    victim = victim_of()
    data = Labelled(victim)
    journal = RecordJournal(str(folder), "labels")
    recording.evaluate(victim, data, attacks, *listeners, journal, **options)
    return victim, data, finish(folder), read_records(folder)


def test_records_hold_truth_and_probabilities_of_each_label(tmp_path: Path) -> None:
    victim, data, summary, records = evaluate(tmp_path, {"fgsm": FGSM(epsilon=0.03), "deepfool": DeepFool(steps=10)})
    fgsm = records.filter(attack="fgsm").sort("id")
    truth = data.truths["adv_test"]
    with torch.no_grad():
        before = victim(data.images["adv_test"]).sigmoid()

    assert fgsm["target"].null_count() == fgsm["goal"].null_count() == len(fgsm) == COUNTS["adv_test"]
    assert fgsm["label_Mass_true"].to_list() == truth[:, 1].tolist()
    assert fgsm["label_No_Finding_true"].to_list() == [None if value < 0 else value for value in truth[:, 0].tolist()]
    assert fgsm["label_Mass_before"].to_list() == pytest.approx(before[:, 1].tolist(), abs=1e-6)
    turned = (fgsm["label_Mass_after"] > 0.5) != (fgsm["label_Mass_true"] > 0.5)
    assert (turned & fgsm["correct_before"]).sum() > 0
    assert summary["labels"]["names"] == NAMES and summary["classes"] == {}
    mass = summary["labels"]["rows"][1]["labels"][1]
    assert mass["n"] == 9 and summary["labels"]["rows"][1]["labels"][0]["n"] == 8
    assert all(not name.startswith("label_") for row in summary["rows"] for name in row["means"])
    assert "<h2>Labels under each attack</h2>" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("label", [None, "Mass"])
def test_goals_turn_all_labels_or_the_chosen_one(label: str | None, tmp_path: Path) -> None:
    attacks: dict[str, Attack] = {"pgd": PGD(epsilon=0.2, steps=10, targeted=True)}
    *_, records = evaluate(tmp_path, attacks, label=label)
    reached = records.filter("reached")
    turned = {
        name: (reached[f"label_{name}_after"] > 0.5) != (reached[f"label_{name}_true"] > 0.5)
        for name in ("Mass", "No_Finding")
    }
    assert len(reached) >= 3 and turned["Mass"].all()
    if label is None:
        assert turned["No_Finding"].drop_nulls().all()


def test_detectors_that_need_no_class_run_and_the_others_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    detectors = {
        "lid": LocalDimension(neighbours=5),
        "svm": SupportVectors(),
        "kd": KernelDensity(),
        "maha": Mahalanobis(),
        "bu": BayesianUncertainty(),
    }
    detection = Detection(detectors, layers=["act1", "act2"], folds=2)
    with caplog.at_level(logging.WARNING):
        *_, records = evaluate(tmp_path, {"fgsm": FGSM(epsilon=0.05)}, detection)
    said = [message for message in caplog.messages if "left out" in message]
    wanted = (("kd", "KernelDensity"), ("maha", "Mahalanobis"), ("bu", "BayesianUncertainty"))
    assert said == [
        f"detector {name} is left out: {kind} asks for an image's one class, and images of these data have none"
        + ("; with one_class it takes them all for one" if kind == "Mahalanobis" else "")
        for name, kind in wanted
    ]
    for name in detectors:
        scored = len(records) - records[f"detector_{name}_same"].null_count()
        assert scored == (COUNTS["adv_test"] if name in ("lid", "svm") else 0)


def test_probabilities_of_classes_are_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    victim, data = linear_victim(3).eval(), random_data(9, classes=3)
    for folder, asked in (("plain", False), ("asked", True)):
        journal = RecordJournal(str(tmp_path / folder), "classes", probabilities=asked)
        recording.evaluate(victim, data, {"fgsm": FGSM(epsilon=0.05)}, journal)
        finish(tmp_path / folder)
    plain, asked_for = (read_records(tmp_path / folder).sort("id") for folder in ("plain", "asked"))

    added = {f"probability_{k}_{when}" for k in range(3) for when in ("before", "after")}
    assert set(asked_for.columns) - set(plain.columns) == added
    with torch.no_grad():
        expected = victim(data.images["adv_test"]).softmax(1)
    order = sorted(range(9), key=data.ids("adv_test").__getitem__)
    for k in range(3):
        assert asked_for[f"probability_{k}_before"].to_list() == pytest.approx(expected[order, k].tolist(), abs=1e-6)
    assert set(plain["key"]) != set(asked_for["key"])  # so that records without them are not taken for complete
