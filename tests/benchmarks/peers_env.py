"""The environment of the peers: made when asked, from pinned versions, one line at a time."""

import json
import subprocess
import sys
from pathlib import Path

from tests.benchmarks.measure import ROOT

REQUIREMENTS = ROOT / "tests" / "benchmarks" / "peers" / "requirements.txt"
FAILED = "failed.json"


def requirements(path: Path = REQUIREMENTS) -> list[list[str]]:
    """Return the lines of the file; packages of a line are installed together."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.split() for line in lines if line and not line.startswith("#")]


def make_env(env: Path, python: str = sys.executable) -> None:
    """Make the environment and install what will install; keep why the rest would not.

    Parameters
    ----------
    env
        Folder; where ``failed.json`` stands in it, nothing is done.
    python
        Interpreter to make it with; some peers want a newer one than ours.
    """
    if (env / FAILED).is_file():
        return
    subprocess.run([python, "-m", "venv", str(env)], check=True)
    failed: dict[str, str] = {}
    # So that no line changes what an earlier one has installed.
    pins = [f"{_name(p)}=={p.partition('==')[2]}" for line in requirements() for p in line]
    (env / "constraints.txt").write_text("\n".join(pins), encoding="utf-8")
    for packages in requirements():
        pip = [str(env / "bin" / "pip"), "install", "-q", "-c", str(env / "constraints.txt")]
        command = [*pip, *packages]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            told = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
            for package in packages:
                failed[_name(package)] = told[-1].removeprefix("ERROR: ") if told else "pip failed"
    (env / FAILED).write_text(json.dumps(failed, indent=1, sort_keys=True), encoding="utf-8")


def not_installed(env: Path) -> dict[str, str]:
    """Return, by package, why it would not install."""
    found: dict[str, str] = json.loads((env / FAILED).read_text(encoding="utf-8"))
    return found


def _name(requirement: str) -> str:
    return requirement.partition("==")[0].partition("[")[0]
