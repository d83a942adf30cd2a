import platform
import subprocess
import sys

import pytest

FREED = """
import resource
import sys
from pathlib import Path
from celluscan_hf.training.memory import keep_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

if sys.argv[1] == "keep":
    keep_freed_memory()
before = resident()
block = bytearray(b"x") * 100_000_000
del block
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an option of the C library of GNU")
def test_memory_that_was_freed_stays_only_where_it_is_asked_for() -> None:
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", FREED, word], capture_output=True, text=True, check=True).stdout)
        for word in ("keep", "give back")
    )
    assert kept > 90_000_000
    assert given_back < 10_000_000
