"""Versions of everything that decides bytes: what a lock names, and what workers must share."""

from functools import lru_cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Final

TOOLS: Final = ("numpy", "numcodecs", "zarr", "pyarrow", "anndata", "h5py", "scipy", "stcorpus")
"""Packages whose versions decide bytes."""

_SOURCES: Final = "sources of stbuild"


def tool_versions() -> dict[str, str]:
    """Return the version of each of :data:`TOOLS`, as a lock has it."""
    return {name: version(name) for name in TOOLS}


@lru_cache(maxsize=1)
def running_code() -> tuple[tuple[str, str], ...]:
    """Return what decides bytes in this process: the tools, and a digest of our own modules.

    Two checkouts of one version differ in their modules alone.
    """
    root, found = Path(__file__).parent, sha256()
    for path in sorted(root.rglob("*.py")):
        found.update(path.relative_to(root).as_posix().encode() + b"\0")
        found.update(path.read_bytes())
    return (*tool_versions().items(), (_SOURCES, found.hexdigest()[:12]))
