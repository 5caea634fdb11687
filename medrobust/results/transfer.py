"""The transfer matrix of several evaluations: crafted on one victim, judged by the others (SBF20 Table 1)."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from medrobust.results.formats import DASH, format_epsilon, format_percent
from medrobust.results.summary import SUMMARY

Cell = dict[str, Any]


def read_summary(folder: str | Path) -> dict[str, Any]:
    """Summary of an evaluation.

    Args:
        folder: Folder of the run, or of its evaluation.

    Raises:
        ValueError: There is none.
    """
    places = (Path(folder) / SUMMARY, Path(folder) / "evaluate" / SUMMARY)
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        raise ValueError(f"there is no {SUMMARY} in {places[0].parent} or {places[1].parent}: evaluate that run first")
    try:
        summary: dict[str, Any] = json.loads(path.read_bytes())
    except ValueError:
        raise ValueError(f"{path} is damaged: evaluate that run again, which attacks nothing anew") from None
    return summary


def read_summaries(folders: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Summaries of evaluations that other victims have judged.

    Args:
        folders: Folders of runs, or of their evaluations.

    Raises:
        ValueError: A folder holds no summary, or no judge has looked at its images.
    """
    summaries = []
    for folder in folders:
        summary = read_summary(folder)
        if not any(row.get("transfer") for row in summary["rows"]):
            raise ValueError(f"{folder} has no judges: evaluate it with transfer.judges, as configs/studies does")
        summaries.append(summary)
    _check_comparable(summaries)
    return summaries


def _check_comparable(summaries: Sequence[Mapping[str, Any]]) -> None:
    """Refuse to put into one column what does not belong there.

    Raises:
        ValueError: Two evaluations mean other weights by one judge's name, or had other images.
    """
    weights: dict[str, str] = {}
    for summary in summaries:
        manifest = summary["manifest"]
        for judge, theirs in manifest.get("listeners", {}).get("judges", {}).items():
            if weights.setdefault(judge, theirs) != theirs:
                raise ValueError(f"judge {judge} has other weights in {manifest['run']} than in a run before it")
        first = summaries[0]["manifest"]
        if manifest.get("data", {}).get("fingerprint") != first.get("data", {}).get("fingerprint"):
            raise ValueError(f"{manifest['run']} and {first['run']} were evaluated on other images")


def transfer_rows(summaries: Sequence[Mapping[str, Any]]) -> list[Cell]:
    """One row for each attack, radius and source victim, attacks first, so that sources stand below each other.

    Returns:
        Rows `{"attack", "epsilon", "source", "n", "rates", "white_box", "brisque", "brisque_clean"}`: `rates` are
        success rates by judge among the images that the judge had right before, `white_box` the name of the judge with
        the source's own weights (None if there is none); the scores are means over the `changed` images.
    """
    rows = []
    for summary in summaries:
        for row in summary["rows"]:
            if row["kind"] == "clean":
                continue
            own = [name for name, judged in row["transfer"].items() if judged["same_weights"]]
            rows.append(
                {
                    "attack": row["attack"],
                    "epsilon": row["epsilon"],
                    "source": own[0] if own else summary["manifest"]["run"],
                    "n": row["n"],
                    "own_rate": row["success_rate"],
                    "white_box": own[0] if own else None,
                    "rates": {name: judged["success_rate"] for name, judged in row["transfer"].items()},
                    "changed": row["n_changed"],
                    "brisque": row["means"].get("brisque"),
                    "brisque_clean": row["means"].get("brisque_clean"),
                }
            )
    order = list(dict.fromkeys((row["attack"], row["epsilon"]) for row in rows))
    return sorted(rows, key=lambda row: order.index((row["attack"], row["epsilon"])))


def _cells(rows: Sequence[Cell]) -> tuple[list[str], list[list[str]]]:
    judges = list(dict.fromkeys(name for row in rows for name in row["rates"]))
    head = ["attack", "ε", "crafted on", "n", *judges, "changed", "BRISQUE", "clean"]
    body = []
    for row in rows:
        rates = []
        for judge in judges:
            rate = format_percent(row["rates"].get(judge))
            rates.append(f"{rate} *" if judge == row["white_box"] else rate)
        scores = [DASH if row[name] is None else f"{row[name]:.1f}" for name in ("brisque", "brisque_clean")]
        body.append(
            [
                row["attack"],
                format_epsilon(row["epsilon"]),
                row["source"],
                str(row["n"]),
                *rates,
                str(row["changed"]),
                *scores,
            ]
        )
    return head, body


def transfer_table(rows: Sequence[Cell]) -> Table:
    """The matrix for the console."""
    head, body = _cells(rows)
    table = Table(
        title="Success rate by judge, of the images that it had right before",
        caption="* the victim that the images were crafted on (white box). BRISQUE: of the images that were changed.",
        title_justify="left",
        caption_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for place, name in enumerate(head):
        table.add_column(name, justify="left" if place in (0, 2) else "right", overflow="fold")
    for place, cells in enumerate(body):
        last = place + 1 < len(body) and body[place + 1][:2] != cells[:2]
        table.add_row(*cells, end_section=last)
    return table


def transfer_markdown(rows: Sequence[Cell]) -> str:
    """The matrix in Markdown; * marks the white box."""
    head, body = _cells(rows)
    rule = ["---" if place in (0, 2) else "--:" for place in range(len(head))]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in (head, rule, *body)]
    return "\n".join(lines) + "\n"
