"""What the README shows runs as it stands there."""

import re
from pathlib import Path
from typing import Any

import torch

README = Path(__file__).resolve().parents[1] / "README.md"


def test_its_python_runs_in_one_piece(capsys: Any) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for block in blocks:
            exec(block, names)
    assert len(blocks) >= 2
    assert "tensor([" in capsys.readouterr().out
    assert names["result"].images.shape == (4, 3, 64, 64)


def test_its_files_and_configs_exist() -> None:
    text = README.read_text()
    named = set(re.findall(r"(?:configs|docs)/[\w/.-]+\.(?:yaml|md|png)", text))
    assert named and not [name for name in named if not (README.parent / name).is_file()]
