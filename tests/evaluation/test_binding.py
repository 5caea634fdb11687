"""An evaluation in a plain loop asks the victim what it has seen, and compares records with what it goes on with."""

from typing import Any

import pytest
import torch
from torch import Tensor

from medrobust.attacks import FGSM
from medrobust.evaluation.binding import binding_of
from medrobust.listeners import RecordJournal
from medrobust.networks import SeenImages
from medrobust.networks.wrapped_classifier import WrappedClassifier
from tests.in_memory import InMemoryData, random_split
from tests.recording import Recorder, evaluate, evaluation_of
from tests.tiny_networks import LinearNet


class Hashed(InMemoryData):
    """Images that are told apart by numbers: an image is its own patient, its file and its pixels."""

    numbers: dict[str, list[int]]

    def hashes(self, split: str) -> dict[str, Tensor]:
        numbers = torch.tensor(self.numbers[split])
        return {"ids": numbers, "patients": numbers + 100, "data": numbers + 200, "pixels": torch.zeros_like(numbers)}


class Remembers(WrappedClassifier):
    """A victim that knows what it was trained on."""

    known: SeenImages | None = None

    def seen_images(self) -> SeenImages | None:
        return self.known


def data_of(train: list[int], val: list[int], test: list[int]) -> Hashed:
    """Images by their numbers."""
    numbers = {"train": train, "val": val, "adv_test": test}
    data = Hashed({split: random_split(len(some), seed) for seed, (split, some) in enumerate(numbers.items())})
    data.numbers = numbers
    return data


def victim_of(trained_on: Hashed | None) -> Remembers:
    """A victim, and what it remembers."""
    victim = Remembers(LinearNet(2), 0.5, 0.25)
    if trained_on is not None:
        splits = {split: trained_on.hashes(split) for split in ("train", "val")}
        victim.known = SeenImages({"name": "items", "image_size": 8}, splits)
    return victim


BEFORE = data_of([1, 2, 3], [4, 5], [6, 7, 8])


def test_images_that_were_not_seen_are_evaluated() -> None:
    heard = evaluate(victim_of(BEFORE), BEFORE, {"fgsm": FGSM()})
    assert heard.counts() == {"fgsm": 3}
    found = {"unknown": "", "images": 3, "seen": {}, "examples": [], "differences": []}
    assert heard.plans[0].binding == {**found, "others": {}}


def test_seen_images_are_refused_before_anything_is_crafted(crafted: list[Any]) -> None:
    moved, heard = data_of([1], [2], [3, 4, 6]), Recorder()
    evaluation = evaluation_of(victim_of(BEFORE), moved, {"fgsm": FGSM()}, [heard])
    with pytest.raises(
        ValueError, match="of the 3 images of adv_test, the victim has seen 1 in Train and 1 in Val: "
    ) as e:
        evaluation.start()
    assert "adv_test-00 (the same file); adv_test-01 (the same file). Take" in str(e.value)
    assert not crafted and not heard.hooks


def test_seen_images_are_evaluated_on_purpose() -> None:
    evaluation = evaluation_of(victim_of(BEFORE), data_of([1], [2], [3, 4, 6]), {"fgsm": FGSM()})
    evaluation.seen = "report"
    evaluation.start()
    assert evaluation.plan.binding is not None and evaluation.plan.binding["seen"] == {"train": 1, "val": 1}


def test_val_may_be_evaluated_though_it_chose_the_checkpoint() -> None:
    assert evaluate(victim_of(BEFORE), BEFORE, {"fgsm": FGSM()}, split="val").counts() == {"fgsm": 2}
    with pytest.raises(ValueError, match="of the 2 images of val, the victim has seen 1 in Train"):
        evaluate(victim_of(BEFORE), data_of([2], [1, 4], [6]), {"fgsm": FGSM()}, split="val")


@pytest.mark.parametrize("data", [BEFORE, InMemoryData({"adv_test": random_split(3)})])
def test_what_nobody_knows_is_said_and_evaluated(data: InMemoryData) -> None:
    known = evaluate(victim_of(None), data, {"fgsm": FGSM()}).plans[0].binding
    assert known is not None and known["seen"] == {}
    assert ("checkpoint does not say" if data is BEFORE else "items gives no hashes") in known["unknown"]


def test_a_victim_without_a_memory_has_no_binding() -> None:
    assert evaluate(WrappedClassifier(LinearNet(2), 0.5, 0.25), BEFORE, {"fgsm": FGSM()}).plans[0].binding is None


def test_other_victims_are_named_with_what_they_have_seen() -> None:
    others = {"the judge a": victim_of(data_of([6, 7], [8], [9])), "the judge b": victim_of(None)}
    found = binding_of(victim_of(BEFORE), BEFORE, "adv_test", others)
    assert found is not None and found["seen"] == {}
    assert found["others"]["the judge a"]["seen"] == {"train": 2, "val": 1}
    assert "does not say" in found["others"]["the judge b"]["unknown"]


def test_other_preparation_and_changed_images_are_told() -> None:
    class Changed(Hashed):
        def hashes(self, split: str) -> dict[str, Tensor]:
            found = super().hashes(split)
            return found | {"data": found["data"] + (found["ids"] == 2)}

        def describe(self) -> dict[str, Any]:
            return super().describe() | {"image_size": 16}

    data = Changed({split: random_split(len(some)) for split, some in BEFORE.numbers.items()})
    data.numbers = BEFORE.numbers
    found = binding_of(victim_of(BEFORE), data, "adv_test", {})
    assert found is not None and found["differences"] == [
        "The victim was trained with image_size 8 and is evaluated with 16.",
        "1 image of Train has other content than when the victim was trained on it.",
    ]


def test_records_of_other_clean_images_are_not_gone_on_with(tmp_path: Any) -> None:
    """The data say that nothing has changed, and their images have: what a wrong fingerprint lets through."""
    images, targets = random_split(12, seed=3)
    victim = WrappedClassifier(LinearNet(2), 0.5, 0.25)

    def go_on(images: Tensor, stop_after: int | None) -> Recorder:
        data = InMemoryData({"adv_test": (images, targets)}, batch_size=4)
        journal = RecordJournal(str(tmp_path), run="same")
        return evaluate(victim, data, {"fgsm": FGSM()}, journal, stop_after=stop_after)

    with pytest.raises(RuntimeError):
        go_on(images, 1)
    (file,) = (tmp_path / "journal").glob("*.jsonl")
    before = file.read_text()
    assert before.count("\n") == 4
    with pytest.raises(
        ValueError, match=r"the records that are there say that the victim was .* 'adv_test-00', and now"
    ):
        go_on(1 - images, None)
    assert [path.read_text() for path in (tmp_path / "journal").glob("*.jsonl")] == [before]
    assert go_on(images, None).counts() == {"fgsm": 8}
    assert go_on(images + 1e-5, None).counts() == {}  # rounding is no change
