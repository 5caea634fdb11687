"""What made an evaluation, besides the versions of packages: the version of the code, and the machine."""

import platform
import subprocess
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 10.0  # after which git has no answer


@cache
def code_version() -> dict[str, Any]:
    """Version of MedRobust, and of a checkout the ``commit`` and whether files have ``changed`` since it.

    ``commit`` and ``changed`` are None where the code does not lie in a checkout of its own, or git does not answer.
    """
    found: dict[str, Any] = {"version": None, "commit": None, "changed": None}
    with suppress(PackageNotFoundError):
        found["version"] = version("medrobust")
    top = _git("rev-parse", "--show-toplevel")
    if top is not None and Path(top).resolve() == ROOT:
        found["commit"], status = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
        found["changed"] = None if status is None else bool(status)
    return found


def environment(device: torch.device) -> dict[str, Any]:
    """What rounding depends on besides the versions: system, processor, threads, and of a GPU what drives it.

    Args:
        device: Where the victim computes.
    """
    cpu = {
        "system": platform.system(),
        "machine": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }
    if device.type != "cuda":
        return cpu
    capability = ".".join(map(str, torch.cuda.get_device_capability(device)))
    cudnn = torch.backends.cudnn.version() if torch.backends.cudnn.is_available() else None
    return {**cpu, "cuda": torch.version.cuda, "cudnn": cudnn, "compute_capability": capability}


def _git(*words: str) -> str | None:
    """What git says of the folder of the code; None if it does not answer."""
    command = ["git", "-C", str(ROOT), *words]
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True).stdout.strip()
    return None
