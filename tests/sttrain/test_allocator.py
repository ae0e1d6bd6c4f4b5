"""Freed memory that is kept is not asked of the system again."""

import subprocess
import sys

CODE = """
import resource, sys
import numpy as np
from sttrain.train.allocator import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for turn in range(12):
    if turn == 2:
        start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(10_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start)
"""


def faults(what: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", CODE, what], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


def test_large_blocks_are_used_again():
    assert faults("keep") < 100 < 1000 < faults("give back")
