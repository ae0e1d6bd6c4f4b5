"""A slice as files in a scratch folder: how a child process hands over what it has read.

Arrays are ``.npy``, ids are lines of text, the rest is JSON; the counts are mapped, not copied.
Both sides are ours, but what the child read is not: sizes and types are checked on the way in.
Nor is the disk: the reply tells the checksum of what was meant for each file.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.documents import SourceFile
from stbuild.corpus.durable import guard_disk
from stbuild.corpus.errors import (
    BadInputError,
    GateError,
    IntegrityError,
    PlatformError,
    Problem,
    ResourceError,
    StError,
)
from stbuild.corpus.jsonio import dump_document, load_strict
from stbuild.counts import as_csr
from stbuild.slices import Notice, Slice

REPLY: Final = "reply.json"
_ARRAYS: Final = ("totals", "array_row", "array_col", "xy")
_TEXTS: Final = ("genes", "barcodes")
_BLOCK: Final = 2**20
_NONE: Final = "\x00"
"""Stands for a spot without a label; labels hold no control characters."""


def save_slice(st_slice: Slice, folder: Path) -> None:
    """Write a slice into an empty folder."""
    counts = st_slice.counts
    arrays: dict[str, NDArray[Any] | None] = {name: getattr(st_slice, name) for name in _ARRAYS}
    arrays |= {"data": counts.data, "indices": counts.indices, "indptr": counts.indptr}
    texts: dict[str, Sequence[str]] = {name: getattr(st_slice, name) for name in _TEXTS}
    if st_slice.labels is not None:
        texts["labels"] = [_NONE if label is None else label for label in st_slice.labels]
    files = {f"{name}.npy": _array_blocks(a) for name, a in arrays.items() if a is not None}
    files |= {f"{name}.txt": _text_blocks(lines) for name, lines in texts.items()}
    reply = {
        "checksums": {name: _save(folder / name, blocks) for name, blocks in files.items()},
        "shape": list(counts.shape),
        "unit": st_slice.unit,
        "um_per_unit": st_slice.um_per_unit,
        "pitch_um": st_slice.pitch_um,
        "sources": [source.model_dump() for source in st_slice.sources],
        "ledger": st_slice.ledger,
        "notices": [asdict(notice) for notice in st_slice.notices],
    }
    (folder / REPLY).write_bytes(dump_document(reply))


def load_slice(folder: Path) -> Slice:
    """Read a slice that :func:`save_slice` wrote; its counts stay mapped from the files.

    Raises
    ------
    IntegrityError
        P06: a file that is not what the child wrote.
    """
    reply = load_reply(folder)
    for name, checksum in reply["checksums"].items():
        if _checksum(folder / name) != checksum:
            raise _not_stored(folder / name)
    n, k = (int(side) for side in reply["shape"])
    counts = as_csr(
        _load(folder / "data.npy"), _load(folder / "indices.npy"), _load(folder / "indptr.npy"),
        (n, k),
    )  # fmt: skip
    arrays: dict[str, Any] = {
        name: np.array(_load(folder / f"{name}.npy"))
        for name in _ARRAYS
        if (folder / f"{name}.npy").is_file()
    }
    labels = None
    if (folder / "labels.txt").is_file():
        labels = [None if x == _NONE else x for x in _load_lines(folder / "labels.txt")]
    return Slice(
        counts=counts,
        genes=_load_lines(folder / "genes.txt"),
        barcodes=_load_lines(folder / "barcodes.txt"),
        totals=arrays["totals"],
        array_row=arrays.get("array_row"),
        array_col=arrays.get("array_col"),
        xy=arrays.get("xy"),
        unit=reply["unit"],
        um_per_unit=reply["um_per_unit"],
        pitch_um=reply["pitch_um"],
        labels=labels,
        sources=tuple(SourceFile(**source) for source in reply["sources"]),
        ledger=reply["ledger"],
        notices=tuple(Notice(**notice) for notice in reply["notices"]),
    )


def save_sections(sections: list[str], folder: Path) -> None:
    """Write the names of the sections of a file."""
    (folder / REPLY).write_bytes(dump_document({"sections": sections}))


def save_error(error: StError, folder: Path) -> None:
    """Write why a slice was refused."""
    kind = type(error).__name__
    reply = {"error": kind, "problems": [asdict(problem) for problem in error.problems]}
    (folder / REPLY).write_bytes(dump_document(reply))


def load_error(reply: dict[str, Any]) -> StError:
    """Return the error that :func:`save_error` wrote."""
    kinds: tuple[type[StError], ...] = (BadInputError, GateError, PlatformError, ResourceError)
    kind = {kind.__name__: kind for kind in kinds}.get(reply["error"], BadInputError)
    return kind(*(Problem(**problem) for problem in reply["problems"]))


def load_reply(folder: Path) -> dict[str, Any]:
    """Return the JSON part of a hand-over."""
    path = folder / REPLY
    reply: dict[str, Any] = load_strict(guard_disk(path, path.read_bytes), str(path))
    return reply


def _save(path: Path, blocks: Iterable[bytes | memoryview]) -> int:
    """Write a file; return the checksum of what was meant."""
    checksum = 0
    with path.open("wb") as file:
        for block in blocks:
            checksum = crc32(block, checksum)
            file.write(block)
    return checksum


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(_BLOCK):
            checksum = crc32(block, checksum)
    return checksum


def _not_stored(path: Path) -> IntegrityError:
    what = "what was read back differs from what a reader wrote"
    fix = "check the disk; nothing was published, a rerun reads the slice again"
    return IntegrityError(
        Problem(code="P06", subject=f"file '{path.name}'", where=str(path), what=what, fix=fix)
    )


def _array_blocks(array: NDArray[Any]) -> list[bytes | memoryview]:
    """Return an array as np.save stores it; its own way to disk does not tell errors apart."""
    whole, head = np.ascontiguousarray(array), BytesIO()
    header = np.lib.format.header_data_from_array_1_0(whole)
    np.lib.format.write_array_header_1_0(head, header)
    return [head.getvalue(), whole.data]


def _load(path: Path) -> NDArray[Any]:
    array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    return array


def _text_blocks(lines: Sequence[str]) -> list[bytes | memoryview]:
    return ["".join(f"{line}\n" for line in lines).encode()]


def _load_lines(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="\n") as file:
        return [line[:-1] for line in file]
