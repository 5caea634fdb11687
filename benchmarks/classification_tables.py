"""Turns stored results of the benchmark on classifiers into the tables of the documentation."""

from typing import Any

from benchmarks.tables import cost, heading, share, table

NORMS = {"l2": "median L2", "l0": "median number of changed values"}


def contest_table(contest: dict[str, Any]) -> str:
    """One method: time, passes, success and norm of each contender."""
    unit, norm = contest["unit"], NORMS.get(contest["norm"])
    body = []
    for row in contest["rows"]:
        if row["contender"] == "floor":
            continue
        if "left_out" in row:
            body.append([row["contender"], row["left_out"], *(["–"] * (4 if norm else 3))])
            continue
        passes = [f"{row[name]:.1f}" for name in ("forwards", "backwards")]
        time = f"{row['ratio']:.2f} (once)" if row["once"] else cost(row)
        body.append([row["contender"], time, *passes, share(row)])
        if norm:
            digits = 4 if contest["norm"] == "l2" else 0
            body[-1].append(f"{row['norm']:.{digits}f}" if "norm" in row else "–")
    number, channels, height, width = contest["images"]
    time = "floor steps" if unit == 1 else f"time / {unit} floor steps"
    head = ["contender", time, "forwards", "backwards", "success", *([norm] if norm else [])]
    title = f"**{contest['method']}**, {number} x {channels} x {height} x {width}: {contest['about']}"
    return f"{title}\n\n{table(head, body)}"


def memory_table(measured: list[dict[str, Any]]) -> str:
    """Memory of JSMA for each image size."""
    body = [
        [
            f"{one['side']} x {one['side']}",
            str(one["values"]),
            f"{one['bytes'] / 1e6:.1f}",
            f"{one['bytes'] / one['values']:.0f}",
            f"{one['floor'] / 1e6:.1f}",
            f"{one['seconds']:.2f}",
        ]
        for one in measured
    ]
    head = ["our JSMA, one image", "values", "peak MB", "bytes per value", "MB of a floor step", "s for 3 steps"]
    return table(head, body)


def aims(contests: list[dict[str, Any]]) -> list[tuple[str, float, float]]:
    """Each aim in words, its upper limit and what was measured; aims that need a missing peer are left out."""
    found = {contest["method"]: {row["contender"]: row for row in contest["rows"]} for contest in contests}
    ours = {method: rows["ours"] for method, rows in found.items()}
    peers = {
        method: {key: row for key, row in rows.items() if key not in ("floor", "ours") and "left_out" not in row}
        for method, rows in found.items()
    }
    single, searched, saliency = ours["CW-L2"], ours["CW-L2, with its search"], ours["JSMA"]
    listed = [
        ("CW-L2, floor steps per step", 1.05, single["ratio"]),
        ("CW-L2, share of the images not fooled", 0.0, 1 - single["success"]),
    ]
    for name, method, row in (("one constant", "CW-L2", single), ("search", "CW-L2, with its search", searched)):
        theirs = peers[method].get("foolbox", {}).get("norm")
        if theirs and "norm" in row:
            listed.append((f"CW-L2, {name}: median L2 / foolbox's", 1.0, row["norm"] / theirs))
    for method, row in ours.items():
        if method.startswith("DeepFool"):
            listed.append((f"{method}: total floor steps", 2.2, row["ratio"]))
            if "adversarial-library" in peers[method]:
                theirs = peers[method]["adversarial-library"]["ratio"]
                listed.append((f"{method}: time / adversarial-library's", 2.2 / 2.3, row["ratio"] / theirs))
    if peers["JSMA"]:
        fastest = min(peers["JSMA"], key=lambda key: float(peers["JSMA"][key]["ratio"]))
        for name in dict.fromkeys([fastest, *peers["JSMA"]]):
            which = "the fastest peer, " if name == fastest else ""
            listed.append(
                (f"JSMA, time / that of {which}{name}", 0.1, saliency["ratio"] / peers["JSMA"][name]["ratio"])
            )
    listed += [
        (f"{method}, time / that of its unavoidable passes", 1.15, ours[method]["ratio"])
        for method in ("AdvSBF", "SMIA")
    ]
    return listed


def aims_table(contests: list[dict[str, Any]]) -> str:
    """The aims, and whether they were reached."""
    body = [
        [name, f"{most:.2f}", f"{measured:.3f}", "reached" if measured <= most else "missed"]
        for name, most, measured in aims(contests)
    ]
    return table(["aim", "at most", "measured", ""], body)


def render(result: dict[str, Any]) -> str:
    """All results of one machine, as Markdown."""
    contests = result["contests"]
    rounds = f"resnet18, {result['rounds']} rounds; times are medians of the rounds (quartiles)."
    tables = [*map(contest_table, contests), memory_table(result["memory"]), aims_table(contests)]
    return "\n\n".join([*heading(result), rounds, *tables])
