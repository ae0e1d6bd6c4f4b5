"""Opening a foreign HDF5 file without following it anywhere else.

Links out of the file, external storage, virtual datasets and unknown filters are refused; shapes
are compared with what is stored before memory is taken. What the datasets mean is not known here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.errors import BadInputError
from stbuild.sources.faults import SourceFaultError

_SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"
_FILTERS: Final = frozenset({1, 2, 3, 4, 6, 32000, 32001, 32015})
"""Allowed HDF5 filters: gzip, shuffle, fletcher32, szip, scale-offset, lzf, blosc, zstd."""
_BOMB_BYTES: Final = 4 * 2**30
_BOMB_RATIO: Final = 1000


@contextmanager
def open_foreign(name: str, path: str) -> Iterator[h5py.File]:
    """Open an HDF5 file that somebody else wrote; turn every fault into a named error.

    Parameters
    ----------
    name
        Slice id, for messages.
    path
        The file.

    Raises
    ------
    BadInputError
        Not there, not a regular file, empty, not HDF5, truncated, or a :class:`SourceFaultError`
        raised while it was read.
    """
    try:
        _check_file(Path(path))
        with h5py.File(path, "r") as file:
            yield file
    except SourceFaultError as fault:
        raise BadInputError(fault.problem(name, path)) from None
    except (OSError, RuntimeError, KeyError) as error:
        fix = "get the file again from its source; `h5ls -r` shows what can be read"
        what = f"HDF5 cannot read it: {str(error)[:200]}"
        raise BadInputError(SourceFaultError("B004", "", what, fix).problem(name, path)) from error


def _check_file(path: Path) -> None:
    if not path.exists():
        raise SourceFaultError("B001", "", "no such file", "check the path in the list or manifest")
    if not path.is_file():
        raise SourceFaultError("B008", "", "not a regular file", "give the .h5ad file itself")
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except PermissionError:
        fix = "make it readable for this user"
        raise SourceFaultError("B011", "", "the file may not be read", fix) from None
    if not head:
        raise SourceFaultError("B002", "", "the file is empty (0 bytes)", "get it again")
    if not head.startswith(_SIGNATURE):
        raise SourceFaultError("B003", "", f"not HDF5: {_describe(head)}", _advice(head))


def _describe(head: bytes) -> str:
    if head.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself"
    if head.startswith(b"\x1f\x8b"):
        return "a gzip file"
    if head.startswith(b"PK"):
        return "a zip file"
    return f"its first bytes are {head[:16]!r}"


def _advice(head: bytes) -> str:
    if head.startswith(b"version https://git-lfs"):
        return "run `git lfs pull`"
    if head.startswith((b"\x1f\x8b", b"PK")):
        return "unpack it first"
    return "give an .h5ad file written by anndata"


def child(parent: h5py.Group, path: str) -> Any:  # noqa: ANN401 - h5py is untyped
    """Return the object at `path`, every component of which is a hard link of this file.

    Raises
    ------
    SourceFaultError
        Nothing there; a soft or external link; a dataset that is virtual, stored elsewhere, or
        without values; an unknown filter.
    """
    node: Any = parent
    for part in path.strip("/").split("/"):
        link = node.get(part, getlink=True) if isinstance(node, h5py.Group) else None
        if link is None:
            raise _missing(node, part)
        if not isinstance(link, h5py.HardLink):
            where = f"{node.name.rstrip('/')}/{part}"
            fix = "copy the data into the file itself; links are never followed"
            raise SourceFaultError("B015", where, f"a {type(link).__name__}, not data", fix)
        node = node[part]
    if isinstance(node, h5py.Dataset):
        _check_dataset(node)
    elif not isinstance(node, h5py.Group):
        raise SourceFaultError("B004", path, "a named type, not data", "the file is damaged")
    return node


def _missing(parent: Any, part: str) -> SourceFaultError:  # noqa: ANN401 - h5py is untyped
    listed = sorted(map(str, parent)) if isinstance(parent, h5py.Group) else []
    what = f"nothing there; {parent.name} holds: {', '.join(listed[:8]) or 'nothing':.200}"
    where = f"{parent.name.rstrip('/')}/{part}"
    return SourceFaultError("B006", where, what, "write the file again with anndata")


def _check_dataset(dataset: h5py.Dataset) -> None:
    if dataset.shape is None:
        fix = "write the values, or leave the entry out"
        raise SourceFaultError("B004", dataset.name, "an entry without values (null)", fix)
    if dataset.external or dataset.is_virtual:
        fix = "copy the data into the file itself; other files are never read"
        raise SourceFaultError("B015", dataset.name, "the data lies in another file", fix)
    plist = dataset.id.get_create_plist()
    for i in range(plist.get_nfilters()):
        number, _, _, label = plist.get_filter(i)
        if number not in _FILTERS:
            what = f"HDF5 filter {number} ({label.decode(errors='replace')}) is not supported"
            raise SourceFaultError("B016", dataset.name, what, "rewrite the file with gzip")
    declared = int(np.prod(dataset.shape, dtype=object)) * dataset.dtype.itemsize
    stored = dataset.id.get_storage_size()
    if declared > _BOMB_BYTES and declared > _BOMB_RATIO * max(stored, 1):
        what = f"shape {dataset.shape} declares {declared:,} bytes, {stored:,} are stored"
        raise SourceFaultError("B043", dataset.name, what, "the file is damaged or hostile")


def has(parent: h5py.Group, path: str) -> bool:
    """Tell whether something stands at `path`; links are not followed."""
    node: Any = parent
    for part in path.strip("/").split("/"):
        if not isinstance(node, h5py.Group) or node.get(part, getlink=True) is None:
            return False
        if not isinstance(node.get(part, getlink=True), h5py.HardLink):
            return True
        node = node[part]
    return True


def attribute(node: Any, name: str) -> str:  # noqa: ANN401 - h5py is untyped
    """Return an attribute as text, empty where there is none.

    Python writes text of any length; Julia, R and Fortran may write bytes of a fixed one.
    """
    value = node.attrs.get(name, "")
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def read_strings(dataset: h5py.Dataset) -> list[str]:
    """Read a 1-D dataset of strings.

    Raises
    ------
    SourceFaultError
        Not text, not one-dimensional, or not UTF-8.
    """
    if dataset.ndim != 1 or dataset.dtype.kind not in "OS":
        what = f"expected a list of strings, got {dataset.dtype} of shape {dataset.shape}"
        raise SourceFaultError("B074", dataset.name, what, "store the ids as strings")
    values: NDArray[Any] = dataset[:]
    where = str(dataset.name)  # asked of HDF5 once: it costs more than the text
    return [decode(value, where, i) for i, value in enumerate(values)]


def decode(value: object, where: str, row: int) -> str:
    """Return a stored string as text.

    Raises
    ------
    SourceFaultError
        B074: it is not UTF-8.
    """
    try:
        return value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError:
        what = f"row {row} is not valid UTF-8"
        raise SourceFaultError("B074", where, what, "rewrite it as UTF-8") from None
