"""Evaluations of victims whose numbers break, are no logits, or that write into the images they are given."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from medrobust.attacks import BIM, FGSM, PGD, Attack, UniformNoise
from medrobust.listeners import RecordJournal
from medrobust.networks import as_victim
from medrobust.results.records import merge
from medrobust.results.report.page import write_report
from medrobust.results.summary import write_summary
from tests.in_memory import random_data
from tests.recording import evaluate
from tests.tiny_networks import LinearNet, linear_victim


def flags_of(folder: Path) -> dict[str, str]:
    """Messages of an evaluation's flags by their check."""
    merge(folder)
    return {flag["check"]: flag["message"] for flag in write_summary(folder)["flags"]}


class Root(LinearNet):
    """A linear classifier of the square root of an image, whose slope is infinite at black pixels."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.sqrt())


def test_broken_gradients_reach_the_records_and_the_flags(tmp_path: Path) -> None:
    data = random_data()
    images = data.images["adv_test"].clamp_(min=0.1)
    images[::2, :, 0] = 0
    victim = as_victim(Root())
    evaluate(victim, data, {"bim": BIM(steps=5, epsilon=0.02)}, RecordJournal(str(tmp_path), "run"))
    records = merge(tmp_path)
    found = dict(zip(records["id"], records["broken_gradients"], strict=True))
    assert found == {f"image-{place}": 5.0 if place % 2 == 0 else None for place in range(23)}
    assert "12 of 23 images" in flags_of(tmp_path)["broken_gradients"]


def test_probabilities_in_place_of_logits_are_flagged(tmp_path: Path) -> None:
    attacks: dict[str, Attack] = {"fgsm": FGSM(epsilon=0.02)}
    softmax = as_victim(torch.nn.Sequential(LinearNet(), torch.nn.Softmax(1)))
    evaluate(softmax, random_data(), attacks, RecordJournal(str(tmp_path / "a"), "run"))
    assert "probabilities" in flags_of(tmp_path / "a")
    evaluate(linear_victim(), random_data(), attacks, RecordJournal(str(tmp_path / "b"), "run"))
    assert "probabilities" not in flags_of(tmp_path / "b")
    assert "probability_outputs" not in merge(tmp_path / "b").columns


class InPlace(LinearNet):
    """Normalises the images that it is given, in place."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.sub_(0.5).div_(0.25))


class Bare(torch.nn.Module):
    """A victim that hands its images to its network as they are."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network, self.wrapped = network, as_victim(network)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def __getattr__(self, name: str) -> Any:
        known = ("loss", "outcome", "features", "normalised", "layers_named", "description")
        return getattr(self.wrapped, name) if name in known else super().__getattr__(name)


def test_a_network_that_normalises_in_place_is_wrapped_or_refused() -> None:
    images = random_data().images["adv_test"]
    kept = images.clone()
    recorder = evaluate(as_victim(InPlace()), random_data(), {"fgsm": FGSM(epsilon=0.02)})
    same = evaluate(linear_victim(), random_data(), {"fgsm": FGSM(epsilon=0.02)})
    for batch, other in zip(recorder.batches, same.batches, strict=True):
        assert torch.equal(batch.clean, other.clean)
        torch.testing.assert_close(batch.adversarial, other.adversarial)
    assert torch.equal(images, kept)
    with pytest.raises(ValueError, match="the victim changes the images that it is given"):
        evaluate(Bare(InPlace()), random_data(), {"fgsm": FGSM(epsilon=0.02)})


def test_a_sweep_may_begin_at_radius_0(tmp_path: Path) -> None:
    attacks: dict[str, Attack] = {"none": PGD(epsilon=0), "control": UniformNoise(epsilon=0)}
    evaluate(linear_victim(), random_data(), attacks, RecordJournal(str(tmp_path), "run"))
    records = merge(tmp_path)
    assert len(records) == 46
    assert records["linf"].to_list() == [0.0] * 46
    assert records["success"].sum() == records["backwards"].sum() == 0
    assert records["var"].null_count() == 46  # of a perturbation in units of its radius
    summary = write_summary(tmp_path)
    assert [row["epsilon"] for row in summary["rows"][1:]] == [0.0, 0.0]
    assert write_report(tmp_path).is_file()
