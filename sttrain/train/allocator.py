"""Memory that a step frees and the next one wants again stays with the process.

Glibc gives large blocks back to the system, which then hands out empty pages one by one: half of
the system time of a training step on a CPU, a twentieth of the step. Only a process that does
nothing but train should ask for this; the command line does.
"""

import ctypes
from typing import Final

_TRIM_THRESHOLD: Final = -1
_MMAP_MAX: Final = -4
"""Parameters of ``mallopt(3)``."""
_NEVER: Final = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed, and return whether it can."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # no glibc
        return False
    return bool(mallopt(_MMAP_MAX, 0)) and bool(mallopt(_TRIM_THRESHOLD, _NEVER))
