"""How the programs start: what can be answered at once is; the rest waits for torch and Lightning."""

import sys
from typing import Literal

from cli.endings import while_importing
from cli.freed_memory import keep_freed_memory
from cli.quick_answers import answer


def main(program: Literal["train", "evaluate", "prepare"]) -> None:
    """Run a program with the words of its command line.

    Args:
        program: Its name.
    """
    answer(f"{program}.py", sys.argv[1:])
    keep_freed_memory()
    with while_importing():  # which takes seconds
        if program == "prepare":
            from cli.prepare import main as prepare
        else:
            from cli.main import main as run
    if program == "prepare":
        prepare()
    else:
        run(program)
