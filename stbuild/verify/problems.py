"""The form of what ``verify`` finds."""

from pathlib import Path

from stbuild.corpus.errors import Problem

AGAIN = "get the file again from its source, or build the corpus again"


def bad(path: Path | str, what: str, fix: str = AGAIN) -> Problem:
    """Return a problem of one file, or of one sample ``file:key``."""
    name = Path(str(path)).name
    return Problem(code="P20", subject=f"file '{name}'", where=str(path), what=what, fix=fix)
