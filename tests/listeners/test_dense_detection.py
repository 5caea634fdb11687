"""Detectors of adversarial images on masks and boxes: those that need no class read the encoder's pooled features."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from datamodules.splits import Fractions
from medrobust.attacks import PGD
from medrobust.detectors import (
    BayesianUncertainty,
    DeepFeatures,
    Detector,
    Features,
    KernelDensity,
    LayerConvolutions,
    LayerNetworks,
    LocalDimension,
    Mahalanobis,
    QuantizedFeatures,
    SupportVectors,
)
from medrobust.listeners import Detection, RecordJournal
from medrobust.networks.features import layers_named
from medrobust.results.records import read_records
from medrobust.results.report.page import finish
from tests.dense_toys import TASKS, data_of
from tests.recording import evaluate


def detectors() -> dict[str, Detector]:
    """Those that need no class, made cheap, and two that do."""
    return {
        "lid": LocalDimension(neighbours=5),
        "maha": Mahalanobis(one_class=True),
        "svm": SupportVectors(),
        "dnn": LayerNetworks(hidden=4, epochs=5),
        "dnn-maps": LayerConvolutions(side=4, hidden=4, epochs=5),
        "dfeat": DeepFeatures(trees=5),
        "qfeat": QuantizedFeatures(),
        "kd": KernelDensity(),
        "bu": BayesianUncertainty(),
    }


@pytest.mark.parametrize("task", list(TASKS))
def test_detectors_that_need_no_class_score_masks_and_boxes(
    task: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = data_of(task, fractions=Fractions(train=0.4, val=0.1, adv_train=0.3, adv_test=0.2))
    listeners = [Detection(detectors(), ["encoder_activations"], folds=2), RecordJournal(str(tmp_path), "toy")]
    attacks = {"pgd": PGD(epsilon=0.25, steps=3, step_size=0.1)}
    with caplog.at_level(logging.WARNING):
        evaluate(TASKS[task][0]().eval(), data, attacks, *listeners, controls=True)
    summary, records = finish(tmp_path), read_records(tmp_path).filter(attack="pgd")
    assert [message for message in caplog.messages if "left out" in message] == [
        f"detector {name} is left out: {kind} asks for an image's one class, and images of these data have none"
        for name, kind in (("kd", "KernelDensity"), ("bu", "BayesianUncertainty"))
    ]
    assert not [message for message in caplog.messages if "penultimate" in message]
    assert records["success"].sum() >= 3
    for name in detectors():
        for kind in ("", "_clean", "_noisy", "_signs"):
            scored = len(records) - records[f"detector_{name}_same{kind}"].null_count()
            assert scored == (0 if name in ("kd", "bu") else len(records)), (name, kind)
    html = (tmp_path / "report.html").read_text()
    assert "<h2>Detection</h2>" in html and summary["detection"]["rows"]


def test_of_one_class_the_distance_is_that_from_the_mean_of_all() -> None:
    """Variances 4 and 1 by construction, unshrunk: the point (4, 2) lies 16/4 + 4/1 from the mean."""
    clean = torch.tensor([[2.0, 1.0], [2.0, -1.0], [-2.0, 1.0], [-2.0, -1.0]])
    labels = torch.tensor([0, 1, 2, 3])  # of which none has two images

    def seen(values: Tensor) -> Features:
        return Features({"layer": values}, torch.zeros(len(values), dtype=torch.long))

    detector = Mahalanobis(shrinkage=0.0, one_class=True).fit(seen(clean), labels)
    assert detector.measure(seen(torch.tensor([[4.0, 2.0]]))).item() == pytest.approx(8.0)
    assert not detector.needs_class and not detector.fork().needs_class and Mahalanobis().needs_class
    with pytest.raises(ValueError, match="class 0 has 1 reference image"):
        Mahalanobis(shrinkage=0.0).fit(seen(clean), labels)


def unet() -> Any:
    """A U-Net of the kept library."""
    import segmentation_models_pytorch as smp

    return smp.Unet("resnet18", encoder_weights=None, in_channels=1, classes=2)


def faster_rcnn() -> Any:
    """A detector of boxes with a feature pyramid."""
    from torchvision.models.detection import fasterrcnn_mobilenet_v3_large_320_fpn

    return fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=3)


@pytest.mark.parametrize(("build", "part"), [(unet, "encoder."), (faster_rcnn, "backbone.")])
def test_the_layers_of_an_encoder_are_found_and_no_others(build: Any, part: str) -> None:
    network = build()
    found, every = (layers_named(network, [pattern]) for pattern in ("encoder_activations", "activations"))
    assert 8 <= len(found) < len(every) and all(name.startswith(part) for name in found)
    assert all(not name.startswith(part) for name in set(every) - set(found))


def test_a_network_without_an_encoder_is_refused() -> None:
    with pytest.raises(ValueError, match="no activation layer in an encoder or a backbone"):
        layers_named(torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1), torch.nn.ReLU()), ["encoder_activations"])
