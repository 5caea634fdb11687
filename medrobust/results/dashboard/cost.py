"""What the attacks of several runs cost: passes through the victim, and seconds where they were measured."""

from collections.abc import Mapping, Sequence
from typing import Any

from medrobust.results.dashboard.tables import Column, Table
from medrobust.results.formats import format_epsilon

COLUMNS = (
    Column("run", "run"),
    Column("attack", "attack"),
    Column("method", "method"),
    Column("radii", "ε"),
    Column("images", "images", "count", "attacked images, each radius counted"),
    Column("forwards", "forwards", "measure", "per image"),
    Column("backwards", "backwards", "measure", "per image"),
    Column("passes", "passes", "measure", "per image, forwards and backwards"),
    Column("seconds", "seconds", "measure", "per image"),
    Column("all_passes", "all passes", "count"),
)


def cost_rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each attack of an evaluation over its radii, as `COLUMNS` names the entries, without the run."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in summary["rows"]:
        if row["kind"] == "attack" and row["n"]:
            found.setdefault(row["attack"], []).append(row)
    rows = []
    for attack, own in found.items():
        images = sum(row["n"] for row in own)
        forwards, backwards = (
            sum(row["n"] * row[f"mean_{name}"] for row in own) / images for name in ("forwards", "backwards")
        )
        timed = [row for row in own if row.get("mean_seconds") is not None]
        radii = [format_epsilon(row["epsilon"]) for row in own if row["epsilon"] is not None]
        rows.append(
            {
                "attack": attack,
                "method": own[0]["method"],
                "radii": ", ".join(radii) or None,
                "images": images,
                "forwards": forwards,
                "backwards": backwards,
                "passes": forwards + backwards,
                "seconds": sum(row["n"] * row["mean_seconds"] for row in timed) / images if timed == own else None,
                "all_passes": round(images * (forwards + backwards)),
            }
        )
    return rows


def cost_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """The attacks of all runs; seconds only where an evaluation has measured them."""
    note = (
        "How often an image went through the victim. Attacks that stop once they succeed spend less on a weaker victim."
    )
    shown = [column for column in COLUMNS if any(row.get(column.key) is not None for row in rows)]
    return Table("cost", "Cost", note, shown, rows)
