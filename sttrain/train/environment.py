"""What code is run, and where from: versions of packages; the commit, if git answers.

Never a path, a user, a host or a branch name: a commit id and whether anything was changed since.
"""

import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from stbuild.corpus.jsonio import dump_canonical

_SECONDS: Final = 1.0
"""Patience with git; a run does not wait for a slow file system."""
_COMMIT: Final = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")


def describe_versions(*packages: str) -> str:
    """Return the versions of this package, Python and others that are installed, as JSON."""
    from sttrain import __version__

    found = {"sttrain": __version__, "python": platform.python_version()}
    for name in ("numpy", "scipy", "scikit-learn", "torch", *packages):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return dump_canonical(found).decode()


def git_state(seconds: float = _SECONDS) -> dict[str, str]:
    """Return ``git_commit`` and ``git_dirty`` (``yes`` or ``no``), or nothing.

    Nothing without git, outside a repository, before the first commit, or where git takes longer.
    Dirty means that a tracked file differs from the commit; other files do not count.

    Parameters
    ----------
    seconds
        How long each of two questions may take.
    """
    commit = _ask(["rev-parse", "--verify", "HEAD"], seconds)
    if commit is None or not _COMMIT.fullmatch(commit.strip()):
        return {}
    found = {"git_commit": commit.strip()}
    changes = _ask(["status", "--porcelain", "--untracked-files=no"], seconds)
    if changes is not None:
        found["git_dirty"] = "yes" if changes.strip() else "no"
    return found


def _ask(question: list[str], seconds: float) -> str | None:
    """Return what git says, or none; no lock is taken and no hook of the repository is run."""
    command = ["git", "-c", "core.fsmonitor=false", *question]
    told = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            env=told | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"},
            timeout=seconds,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None
