"""The templates of all pages, and the filters that are common to them."""

from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from medrobust.results.formats import format_interval, format_percent, format_score


def environment(*folders: Path, **filters: Callable[..., object]) -> Environment:
    """Where templates are found, and what they can call.

    Args:
        folders: Where templates are looked for besides the folder of the reports'.
        filters: What a page's template calls besides the filters of all pages, by name.
    """
    found = Environment(
        loader=FileSystemLoader([*folders, Path(__file__).parent / "templates"]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(
        percent=lambda rate: glue(format_percent(rate)),
        interval=format_interval,
        score=format_score,
        breakable=breakable,
        **filters,
    )
    return found


def breakable(name: object) -> Markup:
    """A name that a narrow page breaks after an underscore rather than within a word."""
    return Markup("_<wbr>").join(str(name).split("_"))


def glue(words: str) -> str:
    """Keep a number and its percent sign on one line."""
    return words.replace(" %", "\N{NO-BREAK SPACE}%")
