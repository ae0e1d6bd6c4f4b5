"""A slice as files in a scratch folder: how a child process hands over what it has read.

Arrays are ``.npy``, ids are lines of text, the rest is JSON; the counts are mapped, not copied.
Both sides are ours, but what the child read is not: sizes and types are checked on the way in.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.documents import SourceFile
from stbuild.corpus.errors import (
    BadInputError,
    GateError,
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
_NONE: Final = "\x00"
"""Stands for a spot without a label; labels hold no control characters."""


def save_slice(st_slice: Slice, folder: Path) -> None:
    """Write a slice into an empty folder."""
    counts = st_slice.counts
    _save(folder / "data.npy", counts.data)
    _save(folder / "indices.npy", counts.indices)
    _save(folder / "indptr.npy", counts.indptr)
    for name in _ARRAYS:
        if (array := getattr(st_slice, name)) is not None:
            _save(folder / f"{name}.npy", array)
    for name in _TEXTS:
        _save_lines(folder / f"{name}.txt", getattr(st_slice, name))
    if st_slice.labels is not None:
        lines = [_NONE if label is None else label for label in st_slice.labels]
        _save_lines(folder / "labels.txt", lines)
    reply = {
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
    """Read a slice that :func:`save_slice` wrote; its counts stay mapped from the files."""
    reply = load_reply(folder)
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
    reply: dict[str, Any] = load_strict(path.read_bytes(), str(path))
    return reply


def _save(path: Path, array: NDArray[Any]) -> None:
    whole = np.ascontiguousarray(array)
    with path.open("wb") as file:
        # As np.save does it, but for its own way to disk, whose errors do not say which they are.
        header = np.lib.format.header_data_from_array_1_0(whole)
        np.lib.format.write_array_header_1_0(file, header)
        file.write(whole.data)


def _load(path: Path) -> NDArray[Any]:
    array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    return array


def _save_lines(path: Path, lines: Any) -> None:  # noqa: ANN401 - a sequence of str
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8", newline="\n")


def _load_lines(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="\n") as file:
        return [line[:-1] for line in file]
