"""The page about studies is true: the study of one's own and its drawing run as they are printed."""

import re
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml

from medrobust.attacks import FGSM
from medrobust.listeners import RecordJournal, Studies
from medrobust.results.figures import write_figures
from medrobust.results.records import merge
from medrobust.results.summary import write_summary
from tests import recording
from tests.in_memory import random_data
from tests.tiny_networks import linear_victim

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "studies.md").read_text()


def test_the_study_of_the_page_is_looked_at_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for text, name in re.findall(r"```python\n(# (\w+)\.py\n.*?)```", PAGE, re.DOTALL):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    from my_study import LargestChange  # type: ignore[import-not-found]

    own = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[-1])
    assert own == {"study": {"studies": {"largest": {"class_path": f"my_study.{LargestChange.__name__}"}}}}
    listeners = [RecordJournal(str(tmp_path), "tiny"), Studies(str(tmp_path), {"largest": LargestChange()})]
    recording.evaluate(linear_victim(), random_data(4), {"fgsm": FGSM(epsilon=0.05)}, *listeners, controls=True)
    merge(tmp_path)
    (drawn,) = write_figures(tmp_path, write_summary(tmp_path))
    assert drawn.svg, drawn.note
    table = pl.read_csv(tmp_path / "figures" / "largest.csv")
    assert table["attack"].to_list() == ["fgsm"] * 4 and table["largest"].to_list() == pytest.approx([0.05] * 4)
