"""The command lines of ``train.py`` and ``evaluate.py``."""

from cli.main import main

__all__ = ["main"]
