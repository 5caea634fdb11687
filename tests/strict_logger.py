"""A logger as strict about names and numbers as those of which runs are tracked by others."""

import math
import posixpath
import re
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from pytorch_lightning.loggers import Logger


class StrictLogger(Logger):
    """Refuses what MLflow refuses, and what TensorBoard would rename; keeps what it is told.

    MLflow: "Names may only contain alphanumerics, underscores (_), dashes (-), periods (.), spaces ( ), and slashes
    (/)", at most 250 of them, and a name with slashes is a normal path. Steps are whole numbers. TensorBoard replaces
    all but letters, digits, ``_``, ``-``, ``.`` and ``/``.
    """

    made: list["StrictLogger"] = []

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []
        self.settings: dict[str, Any] = {}
        self.saved = 0
        StrictLogger.made.append(self)

    @property
    def name(self) -> str:
        return "strict"

    @property
    def version(self) -> int:
        return 0

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            check_name(name)
            assert isinstance(value, int | float) and math.isfinite(value), (name, value)
        assert isinstance(step, int) and not isinstance(step, bool), step
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        assert isinstance(params, dict)
        check_settings(params)
        self.settings |= params

    def save(self) -> None:
        self.saved += 1


def check_name(name: str) -> None:
    """Refuse an illegal name of a metric or a setting."""
    if not re.fullmatch(r"[A-Za-z0-9_./-]{1,250}", name):
        raise ValueError(f"illegal name {name!r}")
    if posixpath.normpath(name) != name or name.startswith(("/", ".")):
        raise ValueError(f"{name!r} is no normal path")


def check_settings(value: Any) -> None:
    """Refuse settings that are not plain."""
    if isinstance(value, dict):
        for name, inner in value.items():
            check_name(name)
            check_settings(inner)
    elif isinstance(value, list):
        for inner in value:
            check_settings(inner)
    else:
        assert value is None or type(value) in (str, bool, int, float), (type(value), value)
