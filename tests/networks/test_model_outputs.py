"""What models return, read as logits: by hand, and against the losses that PyTorch computes of the same numbers."""

import math
from collections import OrderedDict
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from medrobust.networks.label_outputs import label_loss, label_outcome
from medrobust.networks.model_outputs import check_numbers, read_logits

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -3.0]])


@dataclass
class Output:
    loss: Tensor | None
    logits: Tensor


@pytest.mark.parametrize(
    "returned",
    [
        LOGITS,
        Output(None, LOGITS),
        {"loss": None, "logits": LOGITS},
        OrderedDict(out=LOGITS),
        SimpleNamespace(logits=LOGITS),
    ],
    ids=["tensor", "dataclass", "dictionary", "torchvision's", "object"],
)
def test_logits_are_found_wherever_they_are(returned: Any) -> None:
    assert read_logits(returned, "logits") is LOGITS


def test_probabilities_become_the_logits_that_they_were_made_of_up_to_a_constant() -> None:
    found = read_logits(LOGITS.softmax(1), "probabilities")
    torch.testing.assert_close(found - found[:, :1], LOGITS - LOGITS[:, :1])
    torch.testing.assert_close(read_logits(LOGITS.sigmoid(), "label_sigmoids"), LOGITS)


def test_a_single_logit_and_its_sigmoid_are_two_logits_of_the_same_loss() -> None:
    single, targets = torch.tensor([2.0, -0.5, 0.0]), torch.tensor([1, 1, 0])
    expected = functional.binary_cross_entropy_with_logits(single, targets.float(), reduction="none")
    for returned, kind in (
        (single, "one_logit"),
        (single[:, None], "one_logit"),
        (single.sigmoid(), "one_sigmoid"),
        (single.sigmoid()[:, None], "one_sigmoid"),
    ):
        logits = read_logits(returned, kind)
        assert logits.shape == (3, 2)
        torch.testing.assert_close(functional.cross_entropy(logits, targets, reduction="none"), expected)
    assert read_logits(single, "one_logit").tolist() == [[0, 2], [0, -0.5], [0, 0]]
    one, two = (read_logits(torch.rand(2, kinds, 4, 4), "masks") for kinds in (1, 2))
    assert one.shape == two.shape == (2, 2, 4, 4) and not one[:, 0].any()


def test_a_certain_probability_keeps_its_loss_finite_and_a_softmax_its_gradient() -> None:
    for kind in ("one_sigmoid", "label_sigmoids", "probabilities"):
        certain = torch.tensor([[0.0], [1.0]]) if kind == "one_sigmoid" else torch.tensor([[1.0, 0.0]])
        assert read_logits(certain, kind).isfinite().all()
    gap = torch.tensor([[30.0, 0.0]], requires_grad=True)  # beyond what 1 - p can tell in float32
    loss = functional.cross_entropy(read_logits(gap.softmax(1), "probabilities"), torch.tensor([0]))
    (gradient,) = torch.autograd.grad(loss, gap)
    torch.testing.assert_close(gradient, torch.tensor([[-1.0, 1.0]]) * math.exp(-30), atol=0, rtol=1e-4)


def test_half_precision_is_read_as_float32() -> None:
    assert read_logits(LOGITS.half(), "logits").dtype == read_logits(LOGITS.bfloat16(), "logits").dtype == torch.float32
    assert read_logits(LOGITS.double(), "logits").dtype == torch.float64


@pytest.mark.parametrize(
    ("returned", "kind", "words"),
    [
        ((LOGITS, LOGITS), "logits", "returned tuple: say which entry .* output=lambda outputs: outputs\\[0\\]"),
        (SimpleNamespace(scores=LOGITS), "logits", "returned SimpleNamespace: say where they are"),
        ({"scores": LOGITS}, "logits", "returned dict: say where they are"),
        (LOGITS[:, :1], "logits", r"returned \(2, 1\): say output='one_logit', or 'one_sigmoid'"),
        (LOGITS[:, 0], "logits", r"returned \(2,\): say output='one_logit'"),
        (torch.linspace(0.01, 0.99, 64).view(2, 2, 4, 4), "logits", r"returned \(2, 2, 4, 4\): say output='masks'"),
        (LOGITS.argmax(1), "logits", r"returned whole numbers \(2,\): attacks need the logits"),
        (LOGITS, "one_logit", r"one logit for each image, \(N, 1\) or \(N,\), this one returned \(2, 3\)"),
        (LOGITS, "masks", r"logits \(N, K, H, W\), this one returned \(2, 3\)"),
        (LOGITS[:, 0], "label_logits", r"a logit for each label, \(N, L\), this one returned \(2,\)"),
        (LOGITS.numpy(), "logits", "returned ndarray"),
    ],
    ids=str,
)
def test_what_is_no_such_output_is_refused_with_the_one_that_it_is(returned: Any, kind: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        read_logits(returned, kind)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "kind", "words"),
    [
        (LOGITS, "probabilities", r"probabilities, and the model returned values from -3 to 3: .*output='logits'"),
        (LOGITS, "label_sigmoids", "logits are output='label_logits'"),
        (LOGITS[:, 0], "one_sigmoid", "logits are output='one_logit'"),
        (LOGITS.sigmoid(), "probabilities", "sum to 1, .* for the first image: .*output='label_sigmoids'"),
        (
            torch.linspace(0.01, 0.99, 32).view(8, 4),
            "label_logits",
            "all 32 values .* if a sigmoid has made them, say output='label_sigmoids'",
        ),
        (torch.linspace(0.01, 0.99, 16).view(16, 1), "one_logit", "say output='one_sigmoid'"),
    ],
    ids=str,
)
def test_numbers_that_contradict_what_they_are_said_to_be_are_refused(values: Tensor, kind: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        check_numbers(values, kind)


def test_numbers_that_may_be_what_they_are_said_to_be_pass() -> None:
    check_numbers(LOGITS.softmax(1), "probabilities")
    check_numbers(LOGITS.softmax(1).half(), "probabilities")
    check_numbers(LOGITS.sigmoid(), "label_sigmoids")
    assert not check_numbers(torch.rand(1, 4), "label_logits")  # too few to tell
    assert check_numbers(torch.linspace(-1, 1, 16), "label_logits")
    check_numbers(LOGITS, "logits")
    check_numbers(torch.full((4, 4), math.nan), "probabilities")  # refused with the image's name later


def test_labels_by_hand() -> None:
    logits, targets = torch.tensor([[2.0, -1.0], [2.0, 1.0], [1.0, 1.0]]), torch.tensor([[1, 0], [0, -1], [-1, -1]])
    outcome = label_outcome(logits, targets)
    assert outcome.right.tolist() == [True, False, False]
    assert outcome.quality[:2].tolist() == [1.0, 0.0] and outcome.quality[2].isnan()
    first = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1))) / 2
    torch.testing.assert_close(label_loss(logits, targets), torch.tensor([first, math.log(1 + math.exp(2)), 0.0]))
    with pytest.raises(ValueError, match=r"victim of 2 labels are \(3, 2\), one number per label, got \(3,\)"):
        label_outcome(logits, torch.tensor([0, 1, 1]))
