"""Comparing and counting the files of a folder."""

import hashlib
from pathlib import Path


def tree_digests(root: Path) -> dict[str, str]:
    """Return path -> SHA-256 of every file below `root`, scratch excluded."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and ".work" not in path.parts
    }
