"""The stress test: one layer's mean goes up, or down, and its value is the mean."""

from typing import Any

import pytest
import torch

from medrobust.attacks import BIM
from medrobust.networks import as_victim
from medrobust.objectives.base import Step
from medrobust.objectives.layer_mean import LayerMean


def test_its_value_is_the_mean_of_the_layer(waves: Any) -> None:
    network, images, labels = waves
    expected = network[:4](images).mean((1, 2, 3))
    for sign, factor in (("up", 1), ("down", -1)):
        objective = LayerMean("3", sign)  # type: ignore[arg-type]
        assert objective.layers == ("3",)
        step = Step(as_victim(network), images, images, labels, ["a"] * len(images), layers=objective.layers)
        torch.testing.assert_close(objective(step), factor * expected)


def test_it_moves_the_mean_of_every_image(waves: Any) -> None:
    network, images, labels = waves
    before = network[:4](images).mean((1, 2, 3))
    for sign, factor in (("up", 1), ("down", -1)):
        attack = BIM(epsilon=8 / 256, steps=5, objective=LayerMean("3", sign))  # type: ignore[arg-type]
        after = network[:4](attack(as_victim(network), images, labels).images).mean((1, 2, 3))
        assert bool((factor * (after - before) > 0.01 * before).all())


def test_bad_settings_get_one_sentence(waves: Any) -> None:
    network, images, labels = waves
    with pytest.raises(ValueError, match="'up' or 'down', got 'left'"):
        LayerMean("3", "left")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="name of one layer"):
        LayerMean("")
    with pytest.raises(ValueError, match="no layer 'convolution'"):
        BIM(steps=1, objective=LayerMean("convolution"))(as_victim(network), images, labels)
