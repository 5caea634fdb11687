"""Victims other than the one under evaluation: found by run or file, of the same kind, and frozen."""

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules import Segmenter
from medrobust.evaluation.other_victims import checkpoint_of, victim_beside
from tests.in_lightning import random_resnet
from tests.tiny_networks import linear_victim

CPU = torch.device("cpu")


def test_a_run_stands_for_its_best_checkpoint_and_a_file_for_itself(tmp_path: Path) -> None:
    best = tmp_path / "checkpoints" / "best.ckpt"
    best.parent.mkdir()
    best.write_bytes(b"")
    assert checkpoint_of(tmp_path) == checkpoint_of(str(tmp_path)) == best
    assert checkpoint_of(best) == best
    with pytest.raises(ValueError, match=r"there is no checkpoint .*nowhere"):
        checkpoint_of(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"there is no checkpoint .*best\.ckpt"):
        checkpoint_of(best.parent)


def test_the_other_victim_is_the_stored_one_frozen_and_in_eval_mode(tmp_path: Path, run_of: Any) -> None:
    stored = random_resnet(1, backbone="resnet18", mean=0.4)
    path = run_of(tmp_path / "other", stored.train())
    other = victim_beside(random_resnet(), path, "the surrogate", CPU)
    assert not any(module.training for module in other.modules())
    assert not any(parameter.requires_grad for parameter in other.parameters())
    images = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(other(images), stored.eval()(images))


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"num_classes": 3}, "num_classes 3, the victim 2"), ({"channels": 3}, "channels 3, the victim 1")],
)
def test_a_victim_of_other_data_is_refused(changes: dict[str, int], words: str, tmp_path: Path, run_of: Any) -> None:
    path = run_of(tmp_path / "other", random_resnet(**changes))
    with pytest.raises(ValueError, match=f"judge a has {words}"):
        victim_beside(random_resnet(), path, "judge a", CPU)


def test_beside_a_victim_without_checkpoints_there_is_no_other() -> None:
    with pytest.raises(ValueError, match="the surrogate is read from a checkpoint, and a WrappedClassifier cannot"):
        victim_beside(linear_victim(), "anywhere", "the surrogate", CPU)


def test_a_judge_is_right_by_the_thresholds_of_the_victim_that_it_is_compared_with(tmp_path: Path, run_of: Any) -> None:
    """Of two true pixels one is found, a Jaccard index of 1/2."""
    options: dict[str, Any] = {"options": {"encoder_depth": 3, "decoder_channels": [8, 8, 8]}}
    judge = victim_beside(
        Segmenter(2, threshold=0.5, **options),
        run_of(tmp_path / "other", Segmenter(2, threshold=0.9, **options)),
        "judge a",
        CPU,
    )
    logits, masks = torch.tensor([[0.0, 0.0, 0.0], [1.0, -1.0, -1.0]]).view(1, 2, 1, 3), torch.tensor([[[1, 1, 0]]])
    assert judge.outcome(logits, masks).right.item()
