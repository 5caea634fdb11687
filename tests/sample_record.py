"""A record of one attacked image as a journal takes it, without its schema."""

from typing import Any


def record(image: str = "a", key: str = "k1", **changes: Any) -> dict[str, Any]:
    """The record, with some values changed."""
    return {
        "key": key,
        "run": "demo",
        "victim": "resnet10t",
        "dataset": "phantom",
        "split": "adv_test",
        "id": image,
        "patient": "p1",
        "target": 1,
        "goal": None,
        "attack": "pgd",
        "method": "PGD",
        "epsilon": 1 / 255,
        "clean_prediction": 1,
        "adversarial_prediction": 0,
        "clean_confidence": 0.9,
        "adversarial_confidence": 0.8,
        "correct_before": True,
        "correct_after": False,
        "reached": True,
        "success": True,
        "quality_before": 0.75,
        "quality_after": 0.25,
        "linf": 1 / 255,
        "l2": 0.25,
        "l0": 4096,
        "forwards": 21,
        "backwards": 20,
        "zero_gradients": 0,
        "seed": 42,
        **changes,
    }
