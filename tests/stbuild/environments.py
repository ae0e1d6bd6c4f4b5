"""Environments that must not change a byte: each is what a child process is started with (P14)."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

SHIM = """
import os, time

class Ordered:
    def __init__(self, entries):
        with entries:
            self._left = iter(sorted(entries, key=lambda entry: entry.name, reverse=turned))
    def __iter__(self): return self
    def __next__(self): return next(self._left)
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def close(self): pass

if "SHIM_LISTS" in os.environ:
    listdir, scandir, turned = os.listdir, os.scandir, os.environ["SHIM_LISTS"] == "turned"
    os.listdir = lambda *given: sorted(listdir(*given), reverse=turned)
    os.scandir = lambda *given: Ordered(scandir(*given))
if "SHIM_CLOCK" in os.environ:
    now, ahead = time.time, float(os.environ["SHIM_CLOCK"]) - time.time()
    time.time = lambda: now() + ahead
    time.time_ns = lambda: int((now() + ahead) * 1e9)
"""
"""``sitecustomize`` of the child: folders listed backwards, another time of day."""
YEAR_1970, YEAR_2099 = "1000", "4080000000"


@dataclass(frozen=True)
class Environment:
    """What differs from the environment of the reference."""

    variables: dict[str, str] = field(default_factory=dict)
    umask: int = 0o022
    one_core: bool = False
    prefix: Sequence[str] = ()
    """Program that starts the program."""
    deep: int = 0
    """Folders between the root and the output."""

    def run(self, step: Sequence[str], folder: Path) -> None:
        """Run one command of a build to its end, in a working folder of its own."""
        shim = folder / "shim"
        shim.mkdir(exist_ok=True)
        (shim / "sitecustomize.py").write_text(SHIM)
        path = os.pathsep.join([str(shim), os.environ.get("PYTHONPATH", "")])
        subprocess.run(
            [*self.prefix, *step],
            check=True,
            capture_output=True,
            cwd=shim,
            umask=self.umask,
            env={**os.environ, "PYTHONPATH": path, "HOME": str(shim), **self.variables},
            preexec_fn=(lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}))
            if self.one_core
            else None,
        )


def _plain_cpu() -> str:
    """Name every instruction set that NumPy would choose here, to be switched off."""
    umath = import_module("numpy._core._multiarray_umath")
    return " ".join(name for name in umath.__cpu_dispatch__ if umath.__cpu_features__[name])


def threads(n: int) -> dict[str, str]:
    """Return the variables that say how many threads the libraries of linear algebra take."""
    return {f"{name}_NUM_THREADS": str(n) for name in ("OMP", "OPENBLAS", "MKL", "BLOSC")}


CLOCK_1970, CLOCK_2099 = {"SHIM_CLOCK": YEAR_1970}, {"SHIM_CLOCK": YEAR_2099}
SORTED, TURNED = {"SHIM_LISTS": "sorted"}, {"SHIM_LISTS": "turned"}
PLAIN = {"NPY_DISABLE_CPU_FEATURES": _plain_cpu()}
OFFLINE = ("unshare", "-n")
TOGETHER = {
    "east": Environment(
        {"TZ": "Asia/Tokyo", "LC_ALL": "C", "PYTHONHASHSEED": "1"} | CLOCK_2099 | threads(1),
        umask=0o077, one_core=True, deep=4,
    ),
    "west": Environment(
        {"TZ": "America/Adak", "LC_ALL": "tr_TR.UTF-8", "PYTHONHASHSEED": "2"} | CLOCK_1970
        | TURNED | threads(4),
        umask=0,
    ),
    "offline": Environment({"PYTHONHASHSEED": "3", "PYTHONUTF8": "0"} | PLAIN, prefix=OFFLINE),
}  # fmt: skip
"""Many differences at once: cheap, and as strong as long as nothing differs."""
ALONE = {
    "time zone": Environment({"TZ": "Asia/Kathmandu"}),
    "plain locale": Environment({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    "Turkish": Environment({"LC_ALL": "tr_TR.UTF-8"}),
    "hash seed": Environment({"PYTHONHASHSEED": "0"}),
    "open umask": Environment(umask=0),
    "shut umask": Environment(umask=0o077),
    "one core": Environment(one_core=True),
    "three threads": Environment(threads(3)),
    "plain instructions": Environment(PLAIN),
    "turned listings": Environment(TURNED),
    "1970": Environment(CLOCK_1970),
    "2099": Environment(CLOCK_2099),
    "long path": Environment(deep=12),
    "no asserts": Environment({"PYTHONOPTIMIZE": "2"}),
    "no ASLR": Environment(prefix=("setarch", "-R")),
}
"""One difference at a time: they say which, once something differs."""


def why_not(environment: Environment) -> str | None:
    """Return why an environment cannot be had here, or None."""
    if not environment.prefix:
        return None
    program = shutil.which(environment.prefix[0])
    if program is None:
        return f"{environment.prefix[0]} is not installed"
    tried = subprocess.run([*environment.prefix, "true"], capture_output=True, check=False)
    return tried.stderr.decode().strip() or None if tried.returncode else None
