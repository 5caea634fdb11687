"""One field of the evidence: what is asked, and what the evaluation answers, or why it does not."""

from collections.abc import Mapping, Sequence
from typing import Any

from medrobust.results.formats import format_epsilon, format_interval, format_percent

NOT_ASSESSED = "not assessed"

Field = dict[str, Any]


def answered(asks: str, answer: str, values: Any = None) -> Field:
    """A field that the evaluation answers.

    Args:
        asks: What is asked.
        answer: The answer, in words.
        values: The numbers or names that it is made of, ready for JSON.
    """
    return {"asks": asks, "assessed": True, "answer": answer, "why": None, "values": values}


def open_field(asks: str, why: str) -> Field:
    """A field that the evaluation does not answer.

    Args:
        asks: What is asked.
        why: Why not, in one sentence without its full stop.
    """
    return {"asks": asks, "assessed": False, "answer": NOT_ASSESSED, "why": why, "values": None}


def either(asks: str, answer: str | None, why: str, values: Any = None) -> Field:
    """A field that is answered if there is an answer, and says why not otherwise."""
    return answered(asks, answer, values) if answer else open_field(asks, why)


def rate(value: float | None, interval: Sequence[float] | None) -> str:
    """A rate with its 95 % interval, in words.

    >>> rate(0.5, [0.25, 0.75])
    '50.0 % (25.0–75.0)'
    """
    between = format_interval(interval)
    return format_percent(value) + (f" ({between})" if between else "")


def listed(names: Sequence[str], most: int = 8) -> str:
    """Names in a sentence, the first of many.

    >>> listed(["a", "b"]), listed(["a", "b", "c"], 2)
    ('a, b', 'a, b and 1 more')
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def attacks_of(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the attacks that have a record, without the controls; ``entry`` is an attack's entry in the manifest."""
    entries = {entry["key"]: entry for entry in summary["manifest"]["attacks"]}
    rows = [row for row in summary["rows"] if row["kind"] == "attack" and row["n"]]
    return [{**row, "entry": entries.get(row["key"], {})} for row in rows]


def names_of(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of attacks, each once however many radii it has."""
    return list(dict.fromkeys(str(row["attack"]) for row in rows))


def parameters_of(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters of an attack, as the manifest has them."""
    found: Mapping[str, Any] = row["entry"].get("parameters") or {}
    return found


def named(row: Mapping[str, Any]) -> str:
    """An attack with its radius.

    >>> named({"attack": "pgd", "epsilon": 1 / 255})
    'pgd at 1/255'
    """
    return str(row["attack"]) if row["epsilon"] is None else f"{row['attack']} at {format_epsilon(row['epsilon'])}"
