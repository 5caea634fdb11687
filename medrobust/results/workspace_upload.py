"""Builds a planned workspace and its report at Weights & Biases by the package wandb-workspaces, where there is one."""

import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medrobust.results import wandb_server
from medrobust.results.formats import printable
from medrobust.results.manifest import replace_file
from medrobust.results.workspace import plan_workspace, read_evaluated

PACKAGE = "wandb-workspaces"
PROJECT = "medrobust"
DEFAULT = "workspace.json"


def show_workspace(project: str, runs: Sequence[str], file: Path | None) -> int:
    """Build a workspace and a report, and print where they are; else where it is written what would be sent.

    Args:
        project: ``ENTITY/PROJECT``.
        runs: Folders of the runs that get panels; those below ``runs`` by default.
        file: The file to write instead of sending anything; None to send.

    Returns:
        The exit status: 0 if what was asked for is there.

    Raises:
        ValueError: The project is not named as one, or no run was evaluated.
    """
    entity, slash, name = project.partition("/")
    if not (slash and entity and name) or "/" in name:
        raise ValueError(f"a project of W&B is named ENTITY/PROJECT, such as my-team/{PROJECT}, got {project!r}")
    plan = plan_workspace(entity, name, read_evaluated(runs or sorted(Path("runs").glob("*"))))
    if file is not None:
        sys.stdout.write(f"what would be sent: {printable(str(write_plan(plan, file)))}\n")
        return 0
    reason, sent = why_not(), []
    if not reason:
        try:
            for kind, address in send(plan):
                sent.append(kind)
                sys.stdout.write(f"{kind:9} {address}\n")
            return 0
        except Exception as error:  # the package raises bare exceptions
            reason = f"W&B refused it ({type(error).__name__}: {' '.join(str(error).split())[:300]})"
    what = f"only the {sent[0]} was built" if sent else "nothing was sent"
    written = write_plan(plan, Path(DEFAULT))
    sys.stderr.write(f"{what}: {printable(reason)}; what would be sent is in {written}\n")
    return 1


def why_not() -> str:
    """Why nothing can be sent, in words that end a sentence; empty if it can."""
    if importlib.util.find_spec("wandb_workspaces") is None:
        return f"the package {PACKAGE} is not installed (pip install '{PACKAGE}')"
    if not wandb_server.logged_in():
        return "nobody is logged in to W&B (wandb login, or WANDB_API_KEY)"
    return "" if wandb_server.reachable() else f"{wandb_server.server()} cannot be reached"


def write_plan(plan: Mapping[str, Any], path: Path) -> Path:
    """Write what would be sent: the plan, and where the package is installed the workspace as W&B is sent it.

    Args:
        plan: As `results.workspace.plan_workspace` returns it.
        path: The file, which is JSON.
    """
    content = dict(plan)
    if importlib.util.find_spec("wandb_workspaces") is not None:
        content["sent"] = _workspace(plan)._to_model().model_dump(mode="json", by_alias=True, exclude_none=True)
    return replace_file(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def send(plan: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Build the workspace and the report; each call builds new ones beside those that are there.

    Args:
        plan: As `results.workspace.plan_workspace` returns it.

    Yields:
        What was built, and its address.
    """
    built = {"workspace": _workspace(plan), "report": _report(plan)}
    for kind, one in built.items():
        one.save()
        yield kind, str(one.url)


def _workspace(plan: Mapping[str, Any]) -> Any:
    import wandb_workspaces.workspaces as ws
    from wandb_workspaces import expr

    sections = [
        ws.Section(name=section["name"], panels=_panels(section["panels"]), is_open=place < 2)
        for place, section in enumerate(plan["sections"])
    ]
    return ws.Workspace(
        entity=plan["entity"],
        project=plan["project"],
        name=plan["name"],
        sections=sections,
        runset_settings=ws.RunsetSettings(
            filters=[expr.Metric("JobType").isin(list(plan["job_types"]))],
            order=[expr.Ordering(_item(one), ascending=one["ascending"]) for one in plan["order"]],
            pinned_columns=[_column(one) for one in plan["columns"]],
        ),
    )


def _report(plan: Mapping[str, Any]) -> Any:
    import wandb_workspaces.reports.v2 as wr

    blocks: list[Any] = [wr.TableOfContents()]
    for block in plan["report"]["blocks"]:
        if block["kind"] == "heading":
            blocks.append(wr.H2(block["text"]))
        elif block["kind"] == "grid":
            blocks.append(wr.PanelGrid(runsets=[_runset(plan, block["runs"])], panels=_panels(block["panels"], True)))
        else:
            blocks.append(wr.MarkdownBlock(block["text"]))
    title = plan["report"]["title"][:128]
    return wr.Report(entity=plan["entity"], project=plan["project"], title=title, blocks=blocks, width="fluid")


def _runset(plan: Mapping[str, Any], runs: Mapping[str, Any]) -> Any:
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces import expr

    filters = [expr.Metric("JobType").isin(list(plan["job_types"]))]
    filters += [expr.Config(_stored(name)) == value for name, value in runs["settings"].items()]
    return wr.Runset(
        entity=plan["entity"],
        project=plan["project"],
        name=runs["name"],
        filters=filters,
        order=[wr.OrderBy(wr.SummaryMetric(one["metric"]), ascending=one["ascending"]) for one in runs["order"]],
        pinned_columns=[_column(one) for one in plan["columns"]],
    )


def _panels(panels: Sequence[Mapping[str, Any]], in_grid: bool = False) -> list[Any]:
    """The package's panels; a grid of a report places them side by side, three in a row."""
    import wandb_workspaces.reports.v2 as wr

    built = [_panel(panel) for panel in panels]
    for place, panel in enumerate(built if in_grid else ()):
        panel.layout = wr.Layout(x=8 * (place % 3), y=6 * (place // 3), w=8, h=6)
    return built


def _panel(panel: Mapping[str, Any]) -> Any:
    import wandb_workspaces.reports.v2 as wr

    title = panel.get("title")
    match panel["kind"]:
        case "curve":
            found = wr.LinePlot(title=title, x=panel["x"], y=list(panel["metrics"]), log_x=panel["logarithmic"])
        case "bars":
            found = wr.BarPlot(title=title, metrics=[wr.SummaryMetric(name) for name in panel["metrics"]])
        case "scatter":
            found = wr.ScatterPlot(title=title, x=wr.SummaryMetric(panel["x"]), y=wr.SummaryMetric(panel["y"]))
        case "table":
            found = wr.WeavePanelSummaryTable(table_name=panel["table"])
        case "media":
            found = wr.MediaBrowser(title=title, media_keys=list(panel["media"]))
        case "comparison":
            found = wr.RunComparer(diff_only="split")
        case _:
            found = wr.MarkdownPanel(markdown=panel["text"])
    return found


def _item(one: Mapping[str, Any]) -> Any:
    from wandb_workspaces import expr

    return expr.Config(_stored(one["setting"])) if "setting" in one else expr.Summary(one["metric"])


def _column(one: Mapping[str, Any]) -> str:
    return f"config:{_stored(one['setting'])}" if "setting" in one else f"summary:{one['metric']}"


def _stored(setting: str) -> str:
    """The name under which W&B keeps a nested setting: the value of each key of the first level is in an envelope.

    >>> _stored("victim.name")
    'victim.value.name'
    """
    first, _, rest = setting.partition(".")
    return f"{first}.value" + (f".{rest}" if rest else "")
