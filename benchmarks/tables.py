"""Turns stored results into the tables of the documentation."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

COLUMNS = {
    "plain": "ours",
    "folded": "ours, folded copy",
    "torchattacks": "torchattacks",
    "foolbox": "foolbox",
    "foolbox, frozen": "foolbox, frozen by hand",
}
TARGETS = {"plain": 1.02, "folded": 0.88, "stop at 8/255": 0.10}


def table(head: list[str], body: list[list[str]]) -> str:
    """A Markdown table; all columns except the first are right-aligned numbers."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cost(row: dict[str, Any] | None) -> str:
    """Median of the ratios and, in brackets, their quartiles."""
    if row is None:
        return "–"
    low, high = row["quartiles"]
    return f"{row['ratio']:.2f} ({low:.2f}–{high:.2f})"


def share(row: dict[str, Any] | None) -> str:
    """Success rate in per cent."""
    return "–" if row is None else f"{100 * row['success']:.0f} %"


def spent(row: dict[str, Any]) -> str:
    """Forwards and backwards per image."""
    return f"{row['forwards']:.1f} / {row['backwards']:.1f}"


def network_tables(measured: dict[str, Any]) -> str:
    """Tables of one network: cost, success, and stopping when fooled."""
    rows = measured["rows"]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    found = {(row["method"], row["contender"]): row for row in rows}
    judging = next(row["ratio"] for row in rows if row["contender"] == "judging")
    costs, successes, stops = [], [], []
    for method in methods:
        plain = found[method, "plain"]
        name = method if method == "FGSM" else f"{method}-{plain['steps']}"
        cells = [found.get((method, column)) for column in COLUMNS]
        bare = cost(found.get((method, "folded floor")))
        costs.append([name, *map(cost, cells), bare, f"{judging / plain['steps']:.2f}"])
        successes.append([name, *map(share, cells), spent(plain)])
    for row in rows:
        if row["contender"].startswith("stop"):
            name = f"{row['method']}-{row['steps']}, {row['contender'].removeprefix('stop at ')}"
            stops.append([name, cost(row), share(row), spent(row)])
    number, channels, height, width = measured["images"]
    return "\n\n".join(
        [
            f"**{measured['network']}, {number} x {channels} x {height} x {width}**, {measured['rounds']} rounds "
            f"({measured['accuracy']:.0%} of the clean images are classified correctly)",
            "Time as a multiple of the floor, median of the rounds (quartiles):",
            table(["attack", *COLUMNS.values(), "floor of the folded copy", "judging would add"], costs),
            "Success, judged for all by one float32 forward of the plain network, at 8/255:",
            table(["attack", *COLUMNS.values(), "our forwards / backwards"], successes),
            "`stop_when_fooled`, on the plain network, against the floor of all 20 steps:",
            table(["attack", "time", "success", "forwards / backwards"], stops),
        ]
    )


def target_table(networks: list[dict[str, Any]]) -> str:
    """The aims, and whether they were reached: the worst method counts."""
    names = {"plain": "plain", "folded": "folded copy", "stop at 8/255": "stop_when_fooled, 8/255"}
    body = []
    for measured in networks:
        for contender, target in TARGETS.items():
            rows = [row for row in measured["rows"] if row["contender"] == contender]
            worst = max(rows, key=lambda row: row["ratio"])
            name = worst["method"] if worst["method"] == "FGSM" else f"{worst['method']}-{worst['steps']}"
            verdict = "reached" if worst["ratio"] <= target else "missed"
            body.append(
                [f"{measured['network']}, {names[contender]}", f"{target:.2f}", f"{worst['ratio']:.3f} ({name})"]
            )
            body[-1].append(verdict)
    return table(["aim", "at most", "worst method", ""], body)


def heading(result: dict[str, Any]) -> list[str]:
    """The machine as a heading, and a line with the date, the versions and the load."""
    hardware = result["machine"]
    cpu = f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['threads']} threads"
    where = f"{hardware['gpu']} (host: {cpu})" if "gpu" in hardware else cpu
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    notes = f"{result['date']}; {versions}; load average {result['load'][0]:.1f} before, {result['load'][1]:.1f} after."
    if "gpu" in hardware:
        tuned = "on" if hardware["cudnn_benchmark"] else "off"
        notes += f" cudnn.benchmark is {tuned} for all, TF32 is at torch's default; judging is done without TF32."
    return [f"### {where}", notes]


def render(result: dict[str, Any]) -> str:
    """All results of one machine, as Markdown."""
    return "\n\n".join([*heading(result), *map(network_tables, result["networks"]), target_table(result["networks"])])


def write_documentation(page: Path, results: Path, benchmark: str, shown: Callable[[dict[str, Any]], str]) -> None:
    """Replace the text between a benchmark's markers by the tables of all its stored results.

    Args:
        page: The page of the documentation.
        results: Folder of the stored results, ``<benchmark>-<machine>.json``.
        benchmark: Name of the benchmark, as in its two markers.
        shown: Turns one result into Markdown.

    Raises:
        ValueError: The page lacks a marker.
    """
    begin, end = f"<!-- {benchmark}: begin -->", f"<!-- {benchmark}: end -->"
    text = page.read_text()
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"{page.name} needs one line {begin} and one line {end}")
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    stored = [json.loads(path.read_text()) for path in sorted(results.glob(f"{benchmark}-*.json"))]
    tables = "\n\n".join(map(shown, stored)) or "Nothing measured yet."
    page.write_text(f"{before}{begin}\n\n{tables}\n\n{end}{after}")
