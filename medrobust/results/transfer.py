"""The transfer matrix of several evaluations: images crafted on one victim and judged by others (SBF20 Table 1)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from medrobust.results.formats import DASH, format_epsilon, format_percent, markdown_lines
from medrobust.results.summary import read_summary

WORDS = (0, 2)  # places of the columns that hold words


def read_summaries(folders: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Read the summaries of evaluations whose images were also judged by other victims, the judges.

    Args:
        folders: Folders of runs, or of their evaluations.

    Raises:
        ValueError: If a folder holds no summary or one without judges, or two summaries cannot be compared.
    """
    summaries = []
    for folder in folders:
        summary = read_summary(folder)
        if not any(row.get("transfer") for row in summary["rows"]):
            raise ValueError(f"{folder} has no judges: evaluate it with --transfer.judges '{{NAME: runs/NAME}}'")
        summaries.append(summary)
    _check_comparable(summaries)
    return summaries


def _check_comparable(summaries: Sequence[Mapping[str, Any]]) -> None:
    """Refuse summaries whose numbers cannot stand in one column.

    Raises:
        ValueError: If two evaluations give the name of a judge to different weights, or had different images.
    """
    weights: dict[str, str] = {}
    for summary in summaries:
        manifest = summary["manifest"]
        for judge, found in manifest.get("listeners", {}).get("judges", {}).items():
            if weights.setdefault(judge, found) != found:
                raise ValueError(f"judge {judge} has other weights in {manifest['run']} than in a run before it")
        first = summaries[0]["manifest"]
        if manifest.get("data", {}).get("fingerprint") != first.get("data", {}).get("fingerprint"):
            raise ValueError(f"{manifest['run']} and {first['run']} were evaluated on different images")


def transfer_rows(summaries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each attack, radius and source victim; rows of the same attack and radius stand together.

    Args:
        summaries: As `read_summaries` returns them.

    Returns:
        Rows `{"attack", "epsilon", "source", "n", "white_box", "rates", "changed", "brisque", "brisque_clean"}`:
        `rates` are success rates by judge, among the images that the judge got right before; `white_box` is the name of
        the judge that has the source's weights, None without one; the BRISQUE scores are means over the `changed`
        images.
    """
    rows = []
    for summary in summaries:
        for row in summary["rows"]:
            if row["kind"] == "clean":
                continue
            white_box = next((name for name, judged in row["transfer"].items() if judged["same_weights"]), None)
            rows.append(
                {
                    "attack": row["attack"],
                    "epsilon": row["epsilon"],
                    "source": white_box or summary["manifest"]["run"],
                    "n": row["n"],
                    "white_box": white_box,
                    "rates": {name: judged["success_rate"] for name, judged in row["transfer"].items()},
                    "changed": row["n_changed"],
                    "brisque": row["means"].get("brisque"),
                    "brisque_clean": row["means"].get("brisque_clean"),
                }
            )
    order = list(dict.fromkeys((row["attack"], row["epsilon"]) for row in rows))
    return sorted(rows, key=lambda row: order.index((row["attack"], row["epsilon"])))


def _cells(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    judges = list(dict.fromkeys(name for row in rows for name in row["rates"]))
    head = ["attack", "ε", "crafted on", "n", *judges, "changed", "BRISQUE", "BRISQUE clean"]
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


def transfer_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The matrix of `transfer_rows` for the console."""
    head, body = _cells(rows)
    table = Table(
        title="How often each judge is fooled, among the images that it got right before",
        caption="* the victim that the images were crafted on (white box). BRISQUE: mean over the changed images.",
        title_justify="left",
        caption_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    for place, name in enumerate(head):
        table.add_column(name, justify="left" if place in WORDS else "right", overflow="fold")
    for place, cells in enumerate(body):
        last = place + 1 < len(body) and body[place + 1][:2] != cells[:2]
        table.add_row(*cells, end_section=last)
    return table


def transfer_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """The matrix of `transfer_rows` in Markdown; * marks the white box."""
    return markdown_lines(*_cells(rows), words=WORDS)
