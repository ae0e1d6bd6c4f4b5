"""Whether an output folder may be written in: it is new, empty, or holds what runs of ours left.

Builder and trainer ask here before they make anything, so that nobody's files get company.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from stbuild.corpus.errors import BadUsageError, ConflictError, Problem
from stbuild.corpus.names import CORPUS_JSON

_NAMED: Final = 5
"""Files that a message names."""
_WHOLE: Final = {CORPUS_JSON: "a finished corpus", "zarr.json": "a Zarr store"}
"""What says that a folder is whole as it is."""


def refuse_inside(out: Path) -> None:
    """Refuse an output inside a finished corpus or a grid, whose files are all accounted for.

    Raises
    ------
    BadUsageError
        B102: a folder above it is one.
    """
    for folder in out.absolute().parents:
        if kind := next((k for name, k in _WHOLE.items() if (folder / name).is_file()), None):
            what = f"it lies in {folder}, which is {kind}: with one file more it would not be whole"
            subject, fix = f"output '{out.name}'", "choose a place beside it"
            raise BadUsageError(
                Problem(code="B102", subject=subject, where=str(out), what=what, fix=fix)
            )


def refuse_foreign(
    out: Path,
    kind: str,
    *,
    mark: Callable[[Path], bool],
    leftover: Callable[[Path], bool] = lambda _: False,
    code: str = "B097",
    thing: str = "output",
) -> None:
    """Refuse a folder that holds something, and nothing that a run of ours left.

    Parameters
    ----------
    out
        The folder; it need not exist.
    kind
        What would have to stand there, such as ``corpus``.
    mark
        Whether a file or folder in it says that it is ours.
    leftover
        Whether one in a folder without a mark is ours all the same; it then does no harm. Folders
        in which there is no file never do.
    code
        Case of the message.
    thing
        What the folder is to its user.

    Raises
    ------
    BadUsageError
        It lies inside a finished corpus or a grid.
    ConflictError
        It is not a folder, or holds other files.
    """
    refuse_inside(out)
    problem = {"code": code, "subject": f"{thing} '{out.name}'", "where": str(out)}
    fix = "choose an empty or new -o folder"
    if out.exists() and not out.is_dir():
        raise ConflictError(Problem(what="it is not a folder", fix=fix, **problem))
    found = sorted(out.iterdir()) if out.is_dir() else []
    ours = any(map(mark, found))
    others = [] if ours else [p.name for p in found if not (leftover(p) or _is_bare(p))]
    if others:
        first = ", ".join(others[:_NAMED])
        what = f"it holds {len(others):,} other files and no {kind} (first: {first})"
        raise ConflictError(Problem(what=what, fix=fix, **problem))


def _is_bare(path: Path) -> bool:
    """Return whether it is a folder that holds folders at most."""
    return path.is_dir() and not any(p.is_symlink() or not p.is_dir() for p in path.rglob("*"))
