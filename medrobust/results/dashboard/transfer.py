"""How often images made on one victim fool another, over all runs that have asked other victims."""

from collections.abc import Mapping, Sequence
from typing import Any

from medrobust.results.dashboard.runs import DashboardRun
from medrobust.results.dashboard.tables import Column, Table
from medrobust.results.transfer import transfer_rows

NOTE = (
    "Images made on one victim and judged by others: the share that fools each judge, among the images that it got "
    "right before. Runs on other images stand in one table here, and are not to be compared by it."
)


def transfer_table(runs: Sequence[DashboardRun]) -> Table | None:
    """One row for each run, attack and radius whose images other victims have judged; None without any.

    Judges of one name with other weights have columns of their own.

    Args:
        runs: The runs.
    """
    names: dict[tuple[str, str], str] = {}
    rows: list[dict[str, Any]] = []
    for run in runs:
        judges = (run.manifest.get("listeners") or {}).get("judges") or {}
        if not any(row.get("transfer") for row in run.summary["rows"]):
            continue
        shown = {judge: names.setdefault((judge, str(weights)), f"judge {judge}") for judge, weights in judges.items()}
        for row in transfer_rows([run.summary]):
            rates = {_key(judge, judges): rate for judge, rate in row["rates"].items() if judge in shown}
            own = {name: row[name] for name in ("attack", "epsilon", "n")}
            white = row["white_box"] and f"judge {row['white_box']}"
            rows.append({"run": run.name, **own, "white_box": white, **rates})
    if not rows:
        return None
    same_name = [judge for judge, _ in names]
    judged = [
        Column(
            f"{judge}_{weights}",
            f"{shown} ({weights[:6]})" if same_name.count(judge) > 1 else shown,
            "rate",
            "",
            "high",
        )
        for (judge, weights), shown in names.items()
    ]
    columns = [
        Column("run", "crafted on"),
        Column("attack", "attack"),
        Column("epsilon", "ε", "radius"),
        Column("n", "n", "count"),
        Column("white_box", "white box", "words", "the judge that has the weights of the victim itself"),
        *judged,
    ]
    return Table("transfer", "Transfer", NOTE, columns, rows)


def _key(judge: str, judges: Mapping[str, Any]) -> str:
    return f"{judge}_{judges[judge]}"
