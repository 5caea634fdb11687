"""Shows the examples of docstrings as examples: the site's reader of docstrings looks for a section of that name."""

from typing import Any

import griffe

PROMPT = ">>> "


class Examples(griffe.Extension):
    """Puts what follows the first prompt of a docstring below a heading of its own."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change an object's docstring once it has been read."""
        if obj.docstring is not None and PROMPT in obj.docstring.value:
            text, first, examples = obj.docstring.value.partition(PROMPT)
            lines = (first + examples).splitlines()
            obj.docstring.value = f"{text.rstrip()}\n\nExamples:\n" + "\n".join(f"    {line}" for line in lines)
