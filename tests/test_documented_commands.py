"""The commands of the documentation run, with small sizes: blocks of bash do; blocks of sh need more than we have."""

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("own-images", "attacks", "detectors", "defences", "comparing", "masks-and-boxes")
# what makes the commands short: few images of few pixels, few steps
SHIM = """#!/bin/bash
case "$1" in
  train.py) more=(--trainer.max_epochs 1 --trainer.limit_train_batches 2 --trainer.limit_val_batches 1) ;;
  evaluate.py) more=(--trainer.limit_test_batches 1 --data.batch_size 4) ;;
  *) more=() ;;
esac
exec {python} "$@" "${{more[@]}}"
"""


def blocks(page: str) -> list[str]:
    """The blocks of bash of a page."""
    return re.findall(r"```bash\n(.*?)```", (ROOT / f"docs/{page}.md").read_text(), re.DOTALL)


def test_there_is_something_to_run_on_each_page() -> None:
    assert all(blocks(page) for page in PAGES)


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(7200)
def test_the_commands_run_in_a_row(tmp_path: Path) -> None:
    for name in ("configs", "train.py", "evaluate.py", "compare.py", "prepare.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    shim = tmp_path / "bin/python"
    shim.parent.mkdir()
    shim.write_text(SHIM.format(python=sys.executable))
    shim.chmod(shim.stat().st_mode | stat.S_IXUSR)
    environment = os.environ | {"PATH": f"{shim.parent}:{os.environ['PATH']}", "WANDB_MODE": "disabled"}
    demo = "python train.py fit -c configs/demo.yaml"
    for block in [demo, *(block for page in PAGES for block in blocks(page))]:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    assert (tmp_path / "dashboard.html").is_file() and (tmp_path / "runs/phantom_ct/evaluate/report.html").is_file()
