"""The options of a call, checked before anything is read: one of another kind would fail late or be misread."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from medrobust.detectors import Detector
from medrobust.evaluation import Crafter, EvaluationListener

SWITCHES = ("controls", "resume", "probabilities", "progress")
COUNTS = ("batch_size", "limit")
SEEN = ("refuse", "report")


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options themselves, with NumPy's numbers as Python's own, and without those that are None.

    Args:
        options: Options of ``evaluate`` by name.

    Raises:
        ValueError: One is of another kind than it is said to be; the message says of which.
    """
    given = {name: value.item() if isinstance(value, np.generic) else value for name, value in options.items()}
    given = {name: value for name, value in given.items() if value is not None}
    for name in SWITCHES:
        _expect(given, name, bool, "True or False")
    for name in COUNTS:
        _expect(given, name, int, "a number of images")
    if name := next((name for name in COUNTS if given.get(name, 1) < 1), ""):
        raise ValueError(f"{name} counts images and is at least 1, got {given[name]}")
    _expect(given, "seed", int, "a whole number")
    _expect(given, "name", str, "a text")
    _expect(given, "crafter", Crafter, "a Crafter")
    _expect_each(given, "detectors", Detector)
    _expect(given, "judges", Mapping, "a dictionary of models by name")
    _expect(given, "listeners", Sequence, "a list of listeners")
    for listener in given.get("listeners", ()):
        if not isinstance(listener, EvaluationListener):
            raise ValueError(f"listeners derive from EvaluationListener, got a {type(listener).__name__}")
    if given.get("seen", "refuse") not in SEEN:
        raise ValueError(f"seen is one of {', '.join(SEEN)}, got {given['seen']!r}")
    _check_names(given.get("class_names", ()))
    if "device" in given:
        given["device"] = _device(given["device"])
    return given


def _expect(given: Mapping[str, Any], name: str, kind: type, words: str) -> None:
    value = given.get(name)
    if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        got = repr(value)[:100] if isinstance(value, int | float | str) else f"a {type(value).__name__}"
        raise ValueError(f"{name} is {words}, got {got}")


def _expect_each(given: Mapping[str, Any], name: str, kind: type) -> None:
    _expect(given, name, Mapping, f"a dictionary of {kind.__name__}s by name")
    for key, value in given.get(name, {}).items():
        if not isinstance(value, kind):
            raise ValueError(f"{name} are {kind.__name__}s by name, got a {type(value).__name__} under {key!r}")


def _check_names(names: Any) -> None:
    listed = [] if isinstance(names, str) or not isinstance(names, Sequence) else [str(one) for one in names]
    if len(listed) != len(set(listed)) or (names and not listed):
        raise ValueError(f"class_names are different texts, one for each class or label, got {repr(names)[:100]}")


def _device(value: Any) -> torch.device:
    """A device on which this machine can compute."""
    try:
        device = torch.device(value)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
        said = str(error).splitlines()[0]
        raise ValueError(f"device is one that this machine has, such as cpu or cuda, got {value!r} ({said})") from None
    return device
