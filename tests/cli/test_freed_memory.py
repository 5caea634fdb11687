"""Freed blocks are used again: the second one of a size touches no new page."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = 256 * 2**20 // 4096  # of a block of 256 MiB, where a page has 4 KiB
# a block is written, freed, and written again: how many pages did the system have to give for the second?
PROGRAM = """
import resource, sys
from cli.freed_memory import keep_freed_memory
if sys.argv[1] == "kept":
    print(keep_freed_memory())
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
block = bytearray(b"1") * (256 * 2**20)
del block
before = faults()
block = bytearray(b"1") * (256 * 2**20)
print(faults() - before)
"""


def said(*words: str, **variables: str) -> list[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    program = [sys.executable, "-c", PROGRAM, *words]
    ended = subprocess.run(program, cwd=ROOT, env=clean | variables, check=True, capture_output=True, text=True)
    return ended.stdout.split()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's setting")
def test_a_freed_block_is_used_again() -> None:
    kept, again = said("kept")
    if kept == "False":
        pytest.skip("not glibc")
    (anew,) = said("default")
    assert int(again) < PAGES / 100
    assert int(anew) > PAGES / 600  # a huge page is one fault for 512


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's setting")
@pytest.mark.parametrize("variable", ["MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"])
def test_what_the_user_has_set_stays(variable: str) -> None:
    value = {"MALLOC_TRIM_THRESHOLD_": "131072", "GLIBC_TUNABLES": "glibc.malloc.check=0"}[variable]
    assert said("kept", **{variable: value})[0] == "False"
