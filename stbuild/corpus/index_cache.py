"""A large index as columns in a file that is mapped into memory: nothing is decoded at start-up.

Made once from the Parquet of the index, whose SHA-256 it carries and in whose place it is used. It
stands in the cache folder of the user and never in the corpus: a finished corpus is not written to,
and a stranger's could bring a forged one.

The file: the columns, each from a multiple of 64 bytes on; canonical JSON that tells their places;
the length of that JSON as 8 bytes, little-endian; and eight bytes that say what it all is.
"""

import mmap
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import IO, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus import names
from stbuild.corpus.documents import Document, Kind, Sha256, ShardEntry, read_document
from stbuild.corpus.durable import guard_disk, partial_name, sync_directory
from stbuild.corpus.errors import IntegrityError, Problem, ResourceError
from stbuild.corpus.index import ARRAY_COLUMNS, SampleIndex, read_index_parts
from stbuild.corpus.reader import Corpus, check_rows
from stbuild.corpus.texts import CodedTexts, PackedTexts

MAPPED_ROWS: Final = 100_000
"""Samples from which on an index is mapped; a smaller one is decoded in the time of a blink."""
_MAGIC: Final = b"STINDEX1"
_ALIGNED: Final = 64
_ROWS: Final = 2**18
"""Rows that are looked at together."""
_FIX: Final = "free space, or name another folder for the cache (--cache)"
_COLUMNS: Final[Mapping[str, tuple[Any, tuple[int, ...]]]] = {
    **ARRAY_COLUMNS,
    "slice": (np.int32, ()),
    "donor": (np.int32, ()),
    "starts": (np.int64, ()),
}
"""Columns of known length: that of `starts` is one more than the number of samples."""


class _Footer(Document):
    """What the file says of itself."""

    format: Literal["stcorpus/index-cache"] = "stcorpus/index-cache"
    version: Literal[1] = 1
    parquet: Sha256
    """SHA-256 of the index that this was made from."""
    n_rows: int
    text_bytes: int
    """Bytes of all keys, which come last."""
    slices: tuple[str, ...]
    donors: tuple[str, ...]


def open_index(corpus: Corpus, split: str, cache: Path, kind: Kind = "patch") -> SampleIndex:
    """Return the index of a split; a large one as columns that are mapped from a file.

    Parameters
    ----------
    corpus
        A corpus; its index is read only where the cache has it not.
    split, kind
        Whose index.
    cache
        Folder of such files.

    Raises
    ------
    BadInputError
        The corpus has no such split.
    IntegrityError
        The index is not the one that ``corpus.json`` names, or contradicts its shards.
    ResourceError
        The cache cannot be written.
    """
    shards = corpus.document.shards_of(split, kind)
    n_rows = sum(shard.n_samples for shard in shards)
    if n_rows < MAPPED_ROWS:
        return corpus.index(split, kind)
    path = names.index_path(split, kind)
    digest = corpus.entry(path).sha256
    place = cache / "index" / f"{digest}.columns"
    found = _map(place, digest, n_rows)
    if found is None or not _is_sound(found, shards, kind, place):
        with corpus.open_file(path) as file:
            parts = read_index_parts(file, str(corpus.root / path), n_rows)
            guard_disk(place, lambda: _write(place, parts, digest, n_rows), _FIX)
        found = _map(place, digest, n_rows)
        if found is None:
            what = "it was written, and is not whole"
            raise ResourceError(
                Problem(code="P05", subject="index cache", where=str(place), what=what, fix=_FIX)
            )
        check_rows(found, shards, kind, corpus.root / path)
    return found


def _is_sound(index: SampleIndex, shards: Sequence[ShardEntry], kind: Kind, place: Path) -> bool:
    """Tell whether nothing of a mapped index points outside; what is not can be made again."""
    coded = all(
        isinstance(texts, CodedTexts) and _is_within(texts.codes, len(texts.words))
        for texts in (index.slices, index.donors)
    )
    packed = isinstance(index.keys, PackedTexts) and _ascends(index.keys)
    try:
        check_rows(index, shards, kind, place)
    except IntegrityError:
        return False
    return coded and packed


def _is_within(codes: NDArray[np.int32], n_words: int) -> bool:
    parts = (codes[at : at + _ROWS] for at in range(0, len(codes), _ROWS))
    return all(0 <= int(part.min()) <= int(part.max()) < n_words for part in parts)


def _ascends(keys: PackedTexts) -> bool:
    starts = keys.starts
    parts = (starts[at : at + _ROWS + 1] for at in range(0, len(starts) - 1, _ROWS))
    rises = all(bool(np.all(part[1:] >= part[:-1])) for part in parts)
    return rises and int(starts[0]) == 0 and int(starts[-1]) == keys.data.size


def _layout(n_rows: int) -> tuple[dict[str, int], int]:
    """Return where each column begins, and where the keys do."""
    places, at = {}, 0
    for name, (dtype, tail) in _COLUMNS.items():
        places[name] = at
        size = np.dtype(dtype).itemsize * _n_values(name, n_rows, tail)
        at += size + -size % _ALIGNED
    return places, at


def _n_values(name: str, n_rows: int, tail: tuple[int, ...]) -> int:
    return (n_rows + (name == "starts")) * prod(tail)


def _write(place: Path, parts: Iterator[SampleIndex], digest: str, n_rows: int) -> None:
    """Write the columns part by part; the file gets its name when it is whole."""
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = partial_name(place)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
            footer = _write_columns(file, parts, digest, n_rows).to_bytes()
            file.write(footer + len(footer).to_bytes(8, "little") + _MAGIC)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(place)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    sync_directory(place.parent)


def _write_columns(
    file: IO[bytes], parts: Iterator[SampleIndex], digest: str, n_rows: int
) -> _Footer:
    places, text_place = _layout(n_rows)
    words: dict[str, dict[str, int]] = {"slice": {}, "donor": {}}
    done = text_bytes = 0
    _put(file, places["starts"], np.zeros(1, np.int64))
    for part in parts:
        columns = {name: getattr(part, name) for name in ARRAY_COLUMNS}
        columns["slice"] = _recode(part.slices, words["slice"])
        columns["donor"] = _recode(part.donors, words["donor"])
        keys = part.keys if isinstance(part.keys, PackedTexts) else PackedTexts.of(part.keys)
        columns["starts"] = keys.starts[1:] + text_bytes
        for name, column in columns.items():
            first = done + (name == "starts")
            row_bytes = column.itemsize * prod(column.shape[1:])
            _put(file, places[name] + first * row_bytes, column)
        _put(file, text_place + text_bytes, keys.data)
        text_bytes += keys.data.size
        done += len(part)
    file.seek(text_place + text_bytes)
    return _Footer(
        parquet=digest, n_rows=done, text_bytes=text_bytes, slices=tuple(words["slice"]),
        donors=tuple(words["donor"]),
    )  # fmt: skip


def _recode(texts: Sequence[str], known: dict[str, int]) -> NDArray[np.int32]:
    """Return the codes (S,) of texts among all words so far; new ones are added."""
    coded = texts if isinstance(texts, CodedTexts) else CodedTexts.of(texts)
    codes = [known.setdefault(word, len(known)) for word in coded.words]
    return np.array(codes, np.int32)[coded.codes]


def _put(file: IO[bytes], place: int, column: NDArray[Any]) -> None:
    file.seek(place)
    file.write(np.ascontiguousarray(column).data if column.size else b"")


def _map(place: Path, digest: str, n_rows: int) -> SampleIndex | None:
    """Map a file; None where there is none, or it is not whole or another index's."""
    try:
        handle = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(handle, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        places, text_place = _layout(n_rows)
        if size < text_place + 16:
            return None
        raw = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    footer, end = _read_footer(raw, size, str(place))
    if footer is None or (footer.parquet, footer.n_rows) != (digest, n_rows):
        return None
    if text_place + footer.text_bytes != end:
        return None
    found = {
        name: np.frombuffer(raw, dtype, _n_values(name, n_rows, tail), places[name]).reshape(
            -1, *tail
        )
        for name, (dtype, tail) in _COLUMNS.items()
    }
    text = np.frombuffer(raw, np.uint8, footer.text_bytes, text_place)
    return SampleIndex(
        keys=PackedTexts(found.pop("starts"), text),
        slices=CodedTexts(found.pop("slice"), footer.slices),
        donors=CodedTexts(found.pop("donor"), footer.donors),
        **found,
    )


def _read_footer(raw: mmap.mmap, size: int, where: str) -> tuple[_Footer | None, int]:
    """Return what a file says of itself, and where that begins."""
    length = int.from_bytes(raw[size - 16 : size - 8], "little")
    begin = size - 16 - length
    if raw[size - 8 :] != _MAGIC or not 0 <= begin < size - 16:
        return None, 0
    try:
        return read_document(_Footer, raw[begin : size - 16], where), begin
    except IntegrityError:
        return None, 0
