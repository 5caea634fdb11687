"""Seconds of attacks: summed over processes and resumed runs, beside the records."""

from pathlib import Path

from medrobust.results.timings import TIMINGS, Timing, Timings, read_timings


def test_seconds_add_up_over_processes_and_runs(tmp_path: Path) -> None:
    for rank, batches in ((0, [("a", 4, 2.0), ("b", 4, 1.0)]), (1, [("a", 2, 4.0)]), (0, [("a", 4, 3.0)])):
        timings = Timings(tmp_path, rank)
        for batch in batches:
            timings.append(*batch)
    assert read_timings(tmp_path) == {"a": Timing(9.0, 10), "b": Timing(1.0, 4)}
    assert sorted(path.name for path in (tmp_path / TIMINGS).iterdir()) == [
        "rank-0-0.jsonl",
        "rank-0-1.jsonl",
        "rank-1-0.jsonl",
    ]


def test_lines_that_say_nothing_do_not_count(tmp_path: Path) -> None:
    Timings(tmp_path).append("a", 2, 1.0)
    with (tmp_path / TIMINGS / "rank-0-0.jsonl").open("a") as file:
        file.write(
            '[]\n{"key": "a", "images": 0, "seconds": 5}\n{"key": "a", "images": 2, "seconds": -1}\n{"key": "a", "im'
        )
    assert read_timings(tmp_path) == {"a": Timing(1.0, 2)}
    assert read_timings(tmp_path / "nowhere") == {}
