"""Ties the processes of a trainer together, so that all of them end when one does."""

import os
import signal
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher, subprocess_script

from cli.endings import Ending
from cli.ranks import ADDRESS


def tie_processes(trainer: pl.Trainer, ending: Ending) -> None:
    """Let the ending hear signals and the other processes of a trainer, in place of what Lightning does.

    On SIGTERM Lightning broadcasts from rank 0 inside the handler, for which the other ranks may wait for ever, and
    ends with status 0; when a launched process fails it kills the first one without a word.
    """
    launcher = trainer.strategy.launcher
    if launcher is not None and not isinstance(launcher, _SubprocessScriptLauncher):
        return  # processes that are forked or spawned take the trainer along, which must stay as it is
    _leave_sigterm_alone(trainer)
    if trainer.world_size == 1:
        return
    if launcher is not None and trainer.num_nodes == 1:
        _tie_launched(launcher, trainer.world_size, ending)
    _meet_after_setup(trainer, ending)


def _tie_launched(launcher: _SubprocessScriptLauncher, ranks: int, ending: Ending) -> None:
    """Be the first process, if this is the one that is about to launch the others."""
    if not launcher.cluster_environment.creates_processes_externally:
        os.environ[ADDRESS] = ending.launch(ranks, lambda: launcher.procs)
        watching: Any = subprocess_script
        watching._launch_process_observer = lambda processes: None


def _leave_sigterm_alone(trainer: pl.Trainer) -> None:
    connector: Any = trainer._signal_connector
    register = connector._register_signal

    def register_others(number: Any, handler: Any) -> None:
        if number not in (signal.SIGTERM, signal.SIGINT):
            register(number, handler)

    connector._register_signal = register_others


def _meet_after_setup(trainer: pl.Trainer, ending: Ending) -> None:
    strategy: Any = trainer.strategy
    set_up = strategy.setup_environment

    def setup_environment() -> None:
        set_up()
        host = strategy.cluster_environment.main_address
        ending.meet(trainer.global_rank, trainer.world_size, host, strategy.broadcast)

    strategy.setup_environment = setup_environment
