"""The workspace and the report of W&B: planned without it, built by its package, and what is said where it is not."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import compare
from medrobust.results import wandb_server, workspace_upload
from medrobust.results.manifest import write_json
from medrobust.results.scalars import curves, scalars
from medrobust.results.workspace import SECTIONS, plan_workspace, read_evaluated


def summary(run: str, fingerprint: str, *radii: float, accuracy: float = 0.5, detector: bool = False) -> dict[str, Any]:
    """A summary of PGD at some radii."""
    head = {"attack": "pgd", "key": "k", "n": 4, "images": 4, "kind": "attack", "control": False}
    numbers = {"accuracy_under_attack": accuracy, "success_rate": 0.5, "mean_forwards": 2.0, "mean_backwards": 1.0}
    rows = [{**head, **numbers, "attack": "clean", "kind": "clean", "epsilon": None, "accuracy_under_attack": 0.75}]
    rows += [{**head, **numbers, "epsilon": radius, "transfer": {"vgg": {"success_rate": 0.1}}} for radius in radii]
    worst = [{"epsilon": radius, "accuracy": accuracy, "accuracy_interval": [0.25, 0.625]} for radius in radii]
    entries = [{"attack": "pgd", "key": str(radius), "epsilon": radius} for radius in radii]
    data = {"name": "xray", "split": "adv_test", "images": 4, "fingerprint": fingerprint}
    each = [{"sensitivity": 0.5, "specificity": 1.0}] * 2
    found = {"detector": "kd", "fit": "same", "attack": "pgd", "auroc": 0.9, "tpr": None}
    return {
        "schema": 1,
        "manifest": {"schema": 1, "run": run, "data": data, "attacks": entries, "victim": {"name": "resnet"}},
        "rows": rows,
        "worst_case": worst,
        "flags": [],
        "classes": {
            "names": ["healthy", "ill"],
            "rows": [{"attack": "clean", "kind": "clean", "epsilon": None, "classes": each}],
        },
        "detection": {"rows": [{**found, "epsilon": radius} for radius in radii]} if detector else {},
    }


def names_in(plan: Any) -> set[str]:
    """All metrics that panels of a plan show."""
    if isinstance(plan, list):
        return set().union(*map(names_in, plan))
    if not isinstance(plan, dict):
        return set()
    return {*plan.get("metrics", []), *(plan[axis] for axis in ("x", "y") if axis in plan)} | names_in(
        list(plan.values())
    )


def test_a_plan_has_the_dashboards_sections_and_only_metrics_that_are_logged() -> None:
    runs = [summary("a", "f", 1 / 255, 8 / 255, detector=True), summary("b", "f", 1 / 255)]
    plan = plan_workspace("me", "p", runs)
    assert tuple(section["name"] for section in plan["sections"]) == SECTIONS
    logged = {name for one in runs for name in scalars(one)} | {n for one in runs for row in curves(one) for n in row}
    assert names_in(plan) <= logged and {"worst_case_accuracy_8_255", "curves/pgd/accuracy"} <= names_in(plan)
    panels = {section["name"]: section["panels"] for section in plan["sections"]}
    assert [panel["title"] for panel in panels["By class"]] == [
        f"{name}: {what}" for name in ("healthy", "ill") for what in ("sensitivity", "specificity")
    ]
    assert [panel["kind"] for panel in panels["Detectors"]] == ["bars", "bars", "curve"]
    assert all(panel["x"] == "epsilon" and panel["logarithmic"] for panel in panels["Curves"])
    assert panels["Transfer"][0]["metrics"] == [
        f"transfer/pgd/{radius}/vgg/success_rate" for radius in ("1_255", "8_255")
    ]
    assert plan["order"] == [
        {"setting": "run.comparable", "ascending": True},
        {"metric": "worst_case_accuracy_8_255", "ascending": False},
    ]
    assert json.loads(json.dumps(plan, allow_nan=False)) == plan


def test_sections_without_numbers_say_so() -> None:
    plan = plan_workspace("me", "p", [summary("a", "f", 1 / 255)])
    (panel,) = next(section["panels"] for section in plan["sections"] if section["name"] == "Detectors")
    assert panel == {"kind": "text", "text": "No run has numbers for this section."}


def test_the_report_ranks_only_what_is_comparable() -> None:
    """b and a saw the same images under the same attacks, c other images: two tables, b before a in the first."""
    runs = [summary("a", "f", 1 / 255, accuracy=0.25), summary("b", "f", 1 / 255), summary("c", "g", 1 / 255)]
    blocks = plan_workspace("me", "p", runs)["report"]["blocks"]
    first, second = (block["text"].splitlines() for block in blocks if block["kind"] == "markdown")
    assert first[2:] == [
        "| b | resnet | 4 of 4 | 75.0 % | 50.0 % (25.0–62.5) |",
        "| a | resnet | 4 of 4 | 75.0 % | 25.0 % (25.0–62.5) |",
    ]
    assert [line.split("|")[1] for line in second[2:]] == [" c "]
    filters = [block["runs"]["settings"] for block in blocks if block["kind"] == "grid"][:2]
    assert filters[0] != filters[1] and all(list(one) == ["run.comparable"] for one in filters)
    assert [block["text"] for block in blocks if block["kind"] == "heading"][2:] == list(SECTIONS[2:])


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an evaluated run, one that was only trained, and nobody logged in."""
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "tiny" / "evaluate"
    write_json(folder / "summary.json", summary("tiny", "f", 1 / 255))
    write_json(folder / "manifest.json", summary("tiny", "f", 1 / 255)["manifest"])
    (tmp_path / "runs" / "trained").mkdir()
    return tmp_path


def status_of(*words: str) -> int:
    """Exit status of ``compare.py workspace``."""
    try:
        compare.main(["workspace", *words])
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def test_what_would_be_sent_can_be_written_instead(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status_of("me/p", "--json", "plan.json") == 0
    plan = json.loads((runs / "plan.json").read_text())
    assert {name: plan[name] for name in ("entity", "project")} == {"entity": "me", "project": "p"}
    assert plan_workspace("me", "p", read_evaluated(["runs/tiny"])).items() <= plan.items()
    assert capsys.readouterr().out == "what would be sent: plan.json\n" and not (runs / "workspace.json").exists()


@pytest.mark.parametrize(
    ("missing", "said"),
    [("package", "wandb-workspaces is not installed"), ("key", "nobody is logged in"), ("server", "cannot be reached")],
)
def test_what_cannot_be_sent_is_written_and_is_no_success(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], missing: str, said: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if missing == "package" else object())
    monkeypatch.setattr(workspace_upload, "write_plan", lambda plan, path: path)
    monkeypatch.setattr(wandb_server, "logged_in", lambda: missing != "key")
    monkeypatch.setattr(wandb_server, "reachable", lambda: missing != "server")
    assert status_of("me/p", "runs/tiny") == 1
    printed = capsys.readouterr()
    assert said in printed.err and printed.err.endswith("what would be sent is in workspace.json\n") and not printed.out


@pytest.mark.parametrize(("sent", "said"), [(0, "nothing was sent"), (1, "only the workspace was built")])
def test_what_the_server_refuses_is_no_success(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], sent: int, said: str
) -> None:
    def send(plan: Any) -> Any:
        yield from [("workspace", "address")][:sent]
        raise RuntimeError("no such\nentity")

    monkeypatch.setattr(workspace_upload, "why_not", lambda: "")
    monkeypatch.setattr(workspace_upload, "send", send)
    assert status_of("me/p", "runs/tiny") == 1
    assert f"{said}: W&B refused it (RuntimeError: no such entity)" in capsys.readouterr().err
    assert (runs / "workspace.json").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("me",), "ENTITY/PROJECT"),
        (("/p",), "ENTITY/PROJECT"),
        (("me/p/q",), "ENTITY/PROJECT"),
        (("me/p", "runs/trained"), "none of these folders holds an evaluated run"),
        (("me/p", "nowhere"), "none of these folders holds an evaluated run"),
    ],
)
def test_mistakes_are_one_sentence(
    runs: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], said: str
) -> None:
    assert status_of(*words) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and said in printed and printed.count("\n") == 1


class Built(SimpleNamespace):
    """Stands for anything that the package builds: it keeps its arguments."""

    def __init__(self, *values: Any, **named: Any) -> None:
        super().__init__(values=values, **named)

    def isin(self, values: Any) -> "Built":
        return Built(self, isin=values)

    def save(self) -> None:
        self.url = "address"


def test_a_plan_is_sent_by_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the package's names in place of the package, which the tests do not need."""
    made: list[tuple[str, Built]] = []

    def module(name: str, **content: Any) -> ModuleType:
        found = ModuleType(name)
        found.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, found)
        return found

    def maker(kind: str) -> Any:
        def make(*values: Any, **named: Any) -> Built:
            made.append((kind, Built(*values, **named)))
            return made[-1][1]

        return make

    panels = ("LinePlot", "BarPlot", "ScatterPlot", "WeavePanelSummaryTable", "MediaBrowser", "RunComparer")
    blocks = ("MarkdownPanel", "TableOfContents", "H2", "PanelGrid", "MarkdownBlock", "Runset", "Report")
    rest = ("Layout", "OrderBy", "SummaryMetric")
    expressions = module("wandb_workspaces.expr", **dict.fromkeys(("Metric", "Config", "Summary", "Ordering"), Built))
    module("wandb_workspaces", expr=expressions)
    names = ("Workspace", "Section", "RunsetSettings")
    workspaces = module("wandb_workspaces.workspaces", **{name: maker(name) for name in names})
    sys.modules["wandb_workspaces"].workspaces = workspaces
    reports = module("wandb_workspaces.reports")
    reports.v2 = module("wandb_workspaces.reports.v2", **{name: maker(name) for name in (*panels, *blocks, *rest)})
    sys.modules["wandb_workspaces"].reports = reports

    plan = plan_workspace("me", "p", [summary("a", "f", 1 / 255, detector=True)])
    assert list(workspace_upload.send(plan)) == [("workspace", "address"), ("report", "address")]
    kinds = [kind for kind, _ in made]
    assert set(kinds) == {*names, *panels, *blocks, *rest}
    assert [one.name for kind, one in made if kind == "Section"] == list(SECTIONS)
    table = next(one for kind, one in made if kind == "RunsetSettings")
    assert "config:victim.value.name" in table.pinned_columns and "summary:clean_accuracy" in table.pinned_columns
    grid = next(one for kind, one in made if kind == "PanelGrid")
    places = [(panel.layout.x, panel.layout.y) for panel in grid.panels]
    assert places[:4] == [(0, 0), (8, 0), (16, 0), (0, 6)] and len(set(places)) == len(places)


@pytest.mark.skipif(importlib.util.find_spec("wandb_workspaces") is None, reason="needs the extra wandb-workspaces")
def test_the_package_takes_the_plan(tmp_path: Path) -> None:
    plan = plan_workspace("me", "p", [summary("a", "f", 1 / 255, detector=True)])
    written = json.loads(workspace_upload.write_plan(plan, tmp_path / "plan.json").read_text())
    sections = written["sent"]["spec"]["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections] == list(SECTIONS)
    assert [len(section["panels"]) for section in sections] == [len(section["panels"]) for section in plan["sections"]]
    line = next(panel for panel in sections[1]["panels"])
    assert line["config"]["xAxis"] == "epsilon" and line["config"]["xLogScale"]
