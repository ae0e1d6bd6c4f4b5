"""Where a sheet may put files: below its own folder, and on none of its own documents.

A sheet comes from a stranger, so its paths are hostile until checked. Nothing is written here.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Final

_LONGEST: Final = 1024
_OWN_ENDINGS: Final = (".partial", ".partial.json", ".fetched.json")


def refuse_path(text: str) -> str | None:
    """Say why a sheet's path is none that can be written to; None if it is."""
    path = PurePosixPath(text)
    if not text.isprintable() or "\\" in text or len(text) > _LONGEST:
        return f"it has backslashes, unprintable characters, or more than {_LONGEST:,} characters"
    if path.is_absolute() or text.startswith("~") or ".." in path.parts or not path.parts:
        return "what is fetched is placed below the sheet's folder, by a path without '..'"
    if text.endswith(_OWN_ENDINGS):
        return f"names ending in {', '.join(_OWN_ENDINGS)} are for files of `stbuild fetch`"
    return None


def refuse_place(base: Path, place: Path, own: Iterable[Path]) -> str | None:
    """Say why a place on the disk is not written to; None if it is.

    Parameters
    ----------
    base
        Folder of the sheet.
    place
        Where a file is to stand.
    own
        The manifest's documents, which nothing replaces.
    """
    folder, root = place.parent.resolve(), base.resolve()
    if not folder.is_relative_to(root):
        return f"a link leads out of the sheet's folder, to {folder}"
    if (folder / place.name) in {path.resolve() for path in own}:
        return "it is a document of the manifest itself"
    return None


def nested(places: Mapping[Path, str]) -> Iterable[tuple[Path, Path]]:
    """Give each pair of places of which one would be the folder of the other."""
    for place in places:
        for folder in place.parents:
            if folder in places:
                yield folder, place
