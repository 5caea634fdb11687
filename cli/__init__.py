"""The command lines of ``train.py`` and ``evaluate.py``."""

from cli.endings import while_importing

with while_importing():  # which takes seconds
    from cli.main import main

__all__ = ["main"]
