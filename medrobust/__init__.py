"""MedRobust: how easily is a medical-image model fooled, would anybody notice, and what helps?"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medrobust.networks import as_victim
    from medrobust.one_call import Evaluated, evaluate

__all__ = ["Evaluated", "as_victim", "evaluate"]

HOMES = {"as_victim": "medrobust.networks", "Evaluated": "medrobust.one_call", "evaluate": "medrobust.one_call"}


def __getattr__(name: str) -> Any:
    """Import a name when it is asked for: results and reports need no torch."""
    if name not in HOMES:
        raise AttributeError(f"module 'medrobust' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    """The names that can be imported, for completion."""
    return sorted({*globals(), *HOMES})
