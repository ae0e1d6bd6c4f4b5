"""A SLURM that runs job scripts as processes of this machine: `sbatch`, `scancel` and `squeue`."""

import os
import signal
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path

SBATCH = """#!/bin/sh
# Prints what sbatch prints; the job's group has the number of its leader.
cp "$1" "$FAKE_SLURM/script.$$"
setsid sh "$FAKE_SLURM/script.$$" >> "$FAKE_SLURM/jobs.log" 2>&1 < /dev/null &
echo $! >> "$FAKE_SLURM/submitted"
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/sh
for job in "$@"; do
  echo "$job" >> "$FAKE_SLURM/cancelled"
  kill -KILL -- "-$job" 2>/dev/null
done
exit 0
"""
REFUSING = """#!/bin/sh
echo "sbatch: error: invalid partition specified: nowhere" >&2
exit 1
"""


def install(folder: Path, *, refusing: bool = False) -> dict[str, str]:
    """Write the commands into a folder; return the environment in which they are found."""
    commands = {"sbatch": REFUSING if refusing else SBATCH, "scancel": SCANCEL}
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in commands.items():
        path = folder / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    root = Path(__file__).resolve().parents[1]
    return {
        "PATH": f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "FAKE_SLURM": str(folder),
        "PYTHONPATH": f"{root}:{os.environ.get('PYTHONPATH', '')}",
    }


def jobs(folder: Path, which: str = "submitted") -> list[int]:
    """Return the numbers of the jobs that were submitted, or cancelled."""
    path = folder / which
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def kill_all(folder: Path) -> None:
    """End every job that still runs."""
    for job in jobs(folder):
        with suppress(ProcessLookupError):
            os.killpg(job, signal.SIGKILL)


def running(folder: Path, seconds: float = 10.0) -> list[int]:
    """Return the jobs that still run after so many seconds at most."""
    end = time.monotonic() + seconds
    while True:
        alive = [job for job in jobs(folder) if _runs(job)]
        if not alive or time.monotonic() > end:
            return alive
        time.sleep(0.1)


def _runs(job: int) -> bool:
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            fields = entry.read_text().rpartition(")")[2].split()
            if int(fields[2]) == job and fields[0] != "Z":
                return True
    return False
