"""What victims, data, attacks and listeners must not do: one sentence each, before a record is written."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from medrobust.attacks import APGD, FGSM, PGD
from medrobust.evaluation import AdversarialBatch, Evaluation, EvaluationContext, EvaluationListener, lay_out
from medrobust.listeners import RecordJournal
from medrobust.networks import Outcome, WrappedClassifier
from medrobust.results.records import read_journal
from tests.in_memory import random_data
from tests.recording import Recorder, evaluate
from tests.tiny_networks import LinearNet, linear_victim

FOOL = {"fgsm": FGSM(epsilon=0.05)}


class Strange(WrappedClassifier):
    """A linear classifier, one of whose answers is replaced."""

    def __init__(self, **answers: Callable[[Any], Any]) -> None:
        super().__init__(LinearNet(), 0.5, 0.25)
        self.answers = answers

    def outcome(self, outputs: Tensor, targets: Tensor) -> Outcome:
        return self.answers.get("outcome", lambda usual: usual)(super().outcome(outputs, targets))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda usual: usual.right, "expected to be an Outcome, got Tensor"),
        (lambda usual: replace(usual, right=usual.right.float()), r"right .* bool \(7,\), got floating point"),
        (lambda usual: replace(usual, right=usual.right[1:]), r"right .* bool \(7,\), got bool \(6,\)"),
        (
            lambda usual: replace(usual, quality=usual.quality[:, None]),
            r"quality .* \(7,\), got floating point \(7, 1\)",
        ),
        (lambda usual: replace(usual, quality=None), r"quality .* \(7,\), got NoneType"),
        (
            lambda usual: replace(usual, prediction=usual.prediction.double()),
            r"prediction .* int64 \(7,\), got floating",
        ),
        (
            lambda usual: replace(usual, quality=usual.quality + 7),
            r"in \[0, 1\], got 7.* image 'image-0'",
        ),
    ],
)
def test_an_outcome_of_another_form_is_refused_before_it_is_written(change: Any, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=expected) as error:
        evaluate(Strange(outcome=change), random_data(), FOOL, RecordJournal(str(tmp_path), "strange"))
    assert "\n" not in str(error.value) and not list(tmp_path.glob("journal/*"))


def test_an_evaluation_goes_on_once_the_mistake_is_mended(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="prediction"):
        wrong = Strange(outcome=lambda usual: replace(usual, prediction=usual.prediction[:, None]))
        evaluate(wrong, random_data(), FOOL, RecordJournal(str(tmp_path), "strange"))
    evaluate(Strange(), random_data(), FOOL, RecordJournal(str(tmp_path), "strange"))
    assert len(read_journal(tmp_path)) == 23


class Boxed(WrappedClassifier):
    """Outputs that no objective can read, so that attacks ask for the loss, which is of a form of its own."""

    def __init__(self, loss: Callable[[Tensor], Any]) -> None:
        super().__init__(LinearNet(), 0.5, 0.25)
        self.form = loss

    def forward(self, images: Tensor) -> Any:
        return [{"logits": row} for row in self.network(self.normalised(images))]

    def loss(self, images: Tensor, targets: Any) -> Any:
        logits = torch.stack([output["logits"] for output in self(images)])
        return self.form(functional.cross_entropy(logits, targets, reduction="none"))

    def outcome(self, outputs: Any, targets: Tensor) -> Outcome:
        return super().outcome(torch.stack([output["logits"] for output in outputs]), targets)


@pytest.mark.parametrize("attack", [PGD(epsilon=0.05, steps=2), APGD(epsilon=0.05, steps=2)], ids=["pgd", "apgd"])
@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (lambda loss: loss.mean(), r"one number per image, \(7,\), got \(\)"),
        (lambda loss: loss[1:], r"one number per image, \(7,\), got \(6,\)"),
        (lambda loss: {"sum": loss}, r"one number per image, \(7,\), got dict"),
        (lambda loss: loss.detach(), "depend on the images, and this one has no gradient"),
    ],
)
def test_a_loss_of_another_form_is_refused(attack: Any, form: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        evaluate(Boxed(form), random_data(), {"attack": attack}, controls=False)


@pytest.mark.parametrize(
    "outputs", [lambda logits: {"out": logits}, lambda logits: (logits,), lambda logits: logits[1:]]
)
def test_outputs_of_another_form_are_refused(outputs: Any) -> None:
    class Odd(WrappedClassifier):
        def forward(self, images: Tensor) -> Any:
            return outputs(self.network(self.normalised(images)))

    with pytest.raises(ValueError, match="outputs for 7 images are a tensor or a list of as many dicts, got"):
        evaluate(Odd(LinearNet(), 0.5, 0.25), random_data(), FOOL)


def test_a_victim_that_changes_its_weights_is_found_out() -> None:
    class Drifting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = LinearNet()

        def forward(self, images: Tensor) -> Tensor:
            with torch.no_grad():
                self.inner.weight.mul_(1.01)
            return self.inner(images)

    victim = WrappedClassifier(Drifting(), 0.5, 0.25)
    with pytest.raises(ValueError, match="weights or buffers have changed"), pytest.warns(UserWarning):
        evaluate(victim, random_data(), FOOL)


class Saying(EvaluationListener):
    """Names what its columns depend on, and adds a column."""

    def __init__(self, identity: Any = None, **columns: Any) -> None:
        self.identity, self.columns = {} if identity is None else identity, columns

    def on_evaluation_identity(self, *_: Any) -> Any:
        return self.identity

    def on_adversarial_batch(self, context: Any, victim: Any, batch: AdversarialBatch) -> None:
        batch.columns.update({name: make(len(batch)) for name, make in self.columns.items()})


@pytest.mark.parametrize("identity", [{"a": torch.ones(1)}, {"a": float("nan")}, {"a": {1, 2}}, ["a"]])
def test_an_identity_that_json_cannot_hold_names_the_listener(identity: Any) -> None:
    with pytest.raises(ValueError, match="Saying.on_evaluation_identity has to return a dict of plain values"):
        evaluate(linear_victim(), random_data(), FOOL, Saying(identity))


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"linf": torch.ones}, "column 'linf' is the journal's own"),
        ({"key": torch.ones}, "column 'key' is the journal's own"),
        ({"wide": lambda count: torch.ones(count, 2)}, r"'wide' is expected to be a tensor \(7,\), .* got \(7, 2\)"),
        ({"short": lambda count: torch.ones(count - 1)}, r"'short' is expected to be a tensor \(7,\), .* got \(6,\)"),
        ({"listed": lambda count: [1.0] * count}, r"'listed' is expected to be a tensor \(7,\), .* got list"),
    ],
)
def test_a_column_of_another_form_is_refused(columns: dict[str, Any], expected: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=expected):
        evaluate(linear_victim(), random_data(), FOOL, Saying(**columns), RecordJournal(str(tmp_path), "x"))
    assert not list(tmp_path.glob("journal/*"))


def test_a_listener_that_may_add_columns_is_part_of_the_keys_unless_it_says_otherwise() -> None:
    class Measuring(EvaluationListener):
        def on_adversarial_batch(self, *_: Any) -> None:
            pass

    class Waiting(EvaluationListener):
        def on_attack_start(self, *_: Any) -> None:
            pass

    plain, waiting, measuring = (
        evaluate(linear_victim(), random_data(), FOOL, *listeners).plans[0]
        for listeners in ((), (Waiting(),), (Measuring(),))
    )
    assert [one.key for one in plain.attacks] == [one.key for one in waiting.attacks]
    assert not {one.key for one in plain.attacks} & {one.key for one in measuring.attacks}
    assert measuring.listeners == {"Measuring": {}}


def evaluation(**changes: Any) -> Evaluation:
    """An evaluation of which one argument is wrong."""
    usual = {
        "victim": linear_victim(),
        "data": random_data(),
        "split": "adv_test",
        "attacks": lay_out(FOOL, None, False),
    }
    return Evaluation(EvaluationContext(), **{**usual, **changes})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"victim": nn.Flatten()}, "needs a victim such as .*, and Flatten lacks .*outcome"),
        ({"data": None}, "needs data such as .*, and none is given"),
        ({"data": SimpleNamespace(splits={})}, "SimpleNamespace lacks .*fingerprint"),
        ({"split": "test"}, "expected a split among adv_test, val, got 'test'"),
        ({"attacks": FOOL}, "attacks are pairs of a name and an Attack"),
        ({"attacks": [("fgsm", "FGSM")]}, "attacks are pairs of a name and an Attack"),
        ({"attacks": [("a", FGSM(epsilon=0.5)), ("a", PGD(epsilon=0.5))]}, "got 'a' 2 times at the radius 0.5"),
        ({"listeners": [print]}, "listeners derive from EvaluationListener, got a builtin_function"),
    ],
)
def test_what_an_evaluation_is_not_made_of_is_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        evaluation(**changes)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"id": ["stranger"]}, "the split adv_test has no image 'stranger'"),
        ({"image": torch.full((1, 1, 8, 8), 255.0)}, r"finite images in \[0, 1\]"),
        ({"image": torch.rand(1, 1, 8, 8).half()}, "expected float32 images"),
        ({"target": torch.tensor([2])}, "classes, counted from 0, got class 2"),
    ],
)
def test_a_batch_that_does_not_belong_is_refused(change: dict[str, Any], expected: str) -> None:
    running = evaluation()
    running.start()
    batch: Any = {"image": torch.rand(1, 1, 8, 8), "target": torch.tensor([0]), "id": ["image-0"], **change}
    with pytest.raises(ValueError, match=expected):
        running.attack(batch)


def test_a_batch_that_is_given_twice_is_attacked_once() -> None:
    recorder = Recorder()
    running = evaluation(listeners=[recorder])
    running.start()
    for _ in range(2):
        running.attack({"image": torch.rand(1, 1, 8, 8), "target": torch.tensor([0]), "id": ["image-0"]})
    assert len(recorder.batches) == 1
