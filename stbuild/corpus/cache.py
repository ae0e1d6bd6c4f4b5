"""Where this user keeps what can be made again, and what is named by its content there."""

import os
from pathlib import Path


def default_cache(name: str) -> Path:
    """Return a folder of this user's cache: below ``XDG_CACHE_HOME`` or ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME")
    root = Path(base) if base else Path.home() / ".cache"
    return root / "stcorpus" / name
