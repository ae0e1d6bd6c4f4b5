"""CPU time of a process tree, and what the numbers were measured on."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Cost:
    """What a command took, its children included."""

    cpu: float
    """User and system seconds."""
    wall: float
    peak_mb: float
    """Largest resident set of any one process."""

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.cpu + other.cpu, self.wall + other.wall, max(self.peak_mb, other.peak_mb))


def run(command: Sequence[str | Path]) -> Cost:
    """Run a command to its end and return what it cost.

    Raises
    ------
    RuntimeError
        The command failed.
    """
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    start = time.perf_counter()
    child = subprocess.Popen(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, **one_thread},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        msg = f"exit code {child.returncode}: {' '.join(map(str, command))}"
        raise RuntimeError(msg)
    cpu = usage.ru_utime + usage.ru_stime
    return Cost(cpu, time.perf_counter() - start, usage.ru_maxrss / 1024)


def middle(costs: Sequence[Cost]) -> Cost:
    """Return the median of each number."""
    return Cost(
        median(c.cpu for c in costs),
        median(c.wall for c in costs),
        median(c.peak_mb for c in costs),
    )


def tool(name: str) -> Path:
    """Return an installed command of this environment."""
    return Path(sys.executable).with_name(name)


def memcpy_speed(mib: int = 64, repeats: int = 20) -> float:
    """Return how fast NumPy copies memory here, in GB/s."""
    source = np.ones(mib << 17, np.float64)
    target = np.empty_like(source)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - start)
    return source.nbytes / min(times) / 1e9


def describe_machine() -> str:
    """Return processor, cores, memory speed and the versions that matter, as one line each."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        found = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = found[0].partition(":")[2].strip() if found else model
    packages = ("numpy", "numcodecs", "zarr", "h5py", "anndata", "webdataset", "pyarrow", "torch")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return (
        f"* processor: {model}, {os.cpu_count()} cores; one memory copy runs at "
        f"{memcpy_speed():.1f} GB/s\n"
        f"* Python {platform.python_version()}, {versions}"
    )
