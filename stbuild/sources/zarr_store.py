"""Opening a foreign Zarr store (v2 or v3, a folder) without following it anywhere else.

Symbolic links, unknown codecs (a codec may run code: pickle) and declared sizes that nothing backs
are refused. A chunk that is not there reads as zeros without an error, so chunks can be counted.
What the arrays mean is not known here.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import zarr

from stbuild.sources.blosc_frames import check_frames
from stbuild.sources.faults import SourceFaultError

T = TypeVar("T")

FIX: Final = "copy the store again, or write it again with anndata"
_EMPTY_FIX: Final = (
    f"{FIX} (with zarr.config.set({{'array.write_empty_chunks': True}}) if zeros are meant)"
)
_CODECS: Final = frozenset({
    "blosc", "bytes", "bz2", "crc32c", "endian", "gzip", "lz4", "lzma", "sharding_indexed",
    "shuffle", "transpose", "vlen-bytes", "vlen-utf8", "zlib", "zstd",
})  # fmt: skip
_BOMB_BYTES: Final = 4 * 2**30
_BOMB_RATIO: Final = 1000
_MOST_CHUNKS: Final = 10**7


class StoredArray:
    """A checked array of a store; reading it turns whatever zarr raises into a fault."""

    def __init__(self, array: Any, where: str) -> None:  # noqa: ANN401 - zarr is loosely typed
        self.where, self.shape, self.dtype = where, array.shape, array.dtype
        self._array = array
        _check_codecs(array, where)
        _check_size(array, where)
        if wrong := guard(lambda: check_frames(place_of(array)), where):
            raise SourceFaultError("B004", where, wrong, FIX)

    def __getitem__(self, key: Any, /) -> Any:  # noqa: ANN401 - as NumPy
        return guard(lambda: self._array[key], self.where)

    def missing(self) -> int:
        """Return how many chunks are not stored; an array without entries misses none."""
        if 0 in self.shape:
            return 0
        return int(self._array.nchunks) - int(self._array.nchunks_initialized)

    def require_chunks(self) -> "StoredArray":
        """Return itself if all chunks are stored.

        Raises
        ------
        SourceFaultError
            B004: some are not.
        """
        if missing := guard(self.missing, self.where):
            n = self._array.nchunks
            what = f"{missing:,} of {n:,} chunks are missing; they would read as zeros"
            raise SourceFaultError("B004", self.where, what, _EMPTY_FIX)
        return self


def guard(step: Callable[[], T], where: str, code: str = "B004") -> T:
    """Run one step on a foreign store; turn whatever it raises into a fault.

    Raises
    ------
    SourceFaultError
        `code`: zarr, a codec or anndata could not do it.
    """
    try:
        return step()
    except SourceFaultError:
        raise
    except Exception as error:  # noqa: BLE001 - a foreign store can make zarr raise anything
        said = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise SourceFaultError(code, where, f"unreadable: {said}", FIX) from None


def open_store(path: Path) -> zarr.Group:
    """Open a Zarr folder for reading, after checking that nothing in it leads elsewhere.

    Raises
    ------
    SourceFaultError
        B015: a symbolic link. B003: no Zarr group, or a zip file.
    """
    if not path.is_dir():
        what, fix = "not a folder: a Zarr store is read as one", "unzip it into a folder *.zarr"
        raise SourceFaultError("B003", "", what, fix)
    if link := next((file for file in sorted(path.rglob("*")) if file.is_symlink()), None):
        what = f"{link.relative_to(path).as_posix()!r:.80} is a symbolic link"
        raise SourceFaultError("B015", "", what, "copy the data into the store itself")

    # Consolidated metadata may tell of what is not there any more.
    return guard(lambda: zarr.open_group(path, mode="r", use_consolidated=False), "", "B003")


def find(group: zarr.Group, path: str) -> zarr.Group | zarr.Array[Any] | None:
    """Return what stands at a path inside a group, None if nothing does.

    Raises
    ------
    SourceFaultError
        B004: its metadata cannot be read.
    """
    return guard(lambda: group.get(path), f"/{group.path}/{path}".replace("//", "/"))


def open_inside(root: zarr.Group, path: str) -> zarr.Group:
    """Return a group of a store.

    Raises
    ------
    SourceFaultError
        B006: there is none.
    """
    node = find(root, path)
    if not isinstance(node, zarr.Group):
        what = f"not an AnnData store: no group {path}"
        raise SourceFaultError("B006", f"/{path}", what, "give a store written by anndata")
    return node


def list_names(root: zarr.Group, path: str) -> list[str]:
    """Return the names inside a group of a store, sorted; none where there is no such group."""
    node = find(root, path)
    return guard(lambda: sorted(node), f"/{path}") if isinstance(node, zarr.Group) else []


def list_files(folders: Iterable[Path]) -> tuple[Path, ...]:
    """Return all files in some folders, sorted."""
    return tuple(sorted(file for folder in folders for file in folder.rglob("*") if file.is_file()))


def place_of(node: zarr.Group | zarr.Array[Any]) -> Path:
    """Return the folder of a group or array."""
    return Path(str(getattr(node.store, "root", ""))) / node.path


def _check_codecs(array: Any, where: str) -> None:  # noqa: ANN401 - zarr is loosely typed
    folder = place_of(array)
    file = next(f for f in (folder / "zarr.json", folder / ".zarray") if f.is_file())
    value = guard(lambda: json.loads(file.read_bytes()), where)
    strange = sorted(_name_codecs(value) - _CODECS)
    if strange:
        what = f"codec {strange[0]!r:.60} is not supported"
        raise SourceFaultError("B016", where, what, "write it again with anndata's defaults")


def _name_codecs(value: object) -> set[str]:
    """Collect the codecs of an array's metadata, those inside of other codecs too."""
    if isinstance(value, list):
        return {name for part in value for name in _name_codecs(part)}
    if not isinstance(value, dict):
        return set() if value is None else {str(value)}
    keys = ("codecs", "index_codecs", "compressor", "filters")
    found = {name for key in keys if key in value for name in _name_codecs(value[key])}
    name = value.get("name", value.get("id"))
    if name is not None:
        found |= {str(name)} | _name_codecs(value.get("configuration") or {})
    return found


def _check_size(array: Any, where: str) -> None:  # noqa: ANN401 - zarr is loosely typed
    declared = int(np.prod(array.shape, dtype=object)) * max(1, array.dtype.itemsize)
    chunk = int(np.prod(array.chunks, dtype=object)) * max(1, array.dtype.itemsize)
    largest = max(declared, chunk)  # a whole chunk is unpacked, however little of it is asked for
    hostile = largest > _BOMB_BYTES and largest > _BOMB_RATIO * max(1, array.nbytes_stored())
    if hostile or array.nchunks > _MOST_CHUNKS:
        what = f"shape {array.shape} declares {declared:,} bytes, few are stored"
        raise SourceFaultError("B043", where, what, "the store is damaged or hostile")
