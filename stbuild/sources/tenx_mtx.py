"""10x feature-barcode matrices as a folder of three text files: matrix, features and barcodes.

Gzip or plain, with ``features.tsv`` or the older ``genes.tsv``. The sizes in the head of the matrix
are compared with the lists before an entry is read.
"""

import csv
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, TextIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from stbuild.sources.faults import SourceFaultError
from stbuild.sources.file_names import sample_of
from stbuild.sources.matrices import to_counts
from stbuild.sources.tenx_h5 import AGAIN, Features, TenxMatrix, keep_genes

_MATRIX: Final = "matrix.mtx"
_ROWS_AT_ONCE: Final = 1 << 20
"""Entries of a Matrix Market file that are parsed at a time."""
_LONGEST_LINE: Final = 1 << 16
_ENTRY: Final = ["feature", "barcode", "count", "more"]

_Block = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.uint32]]


def read_tenx_mtx(path: Path, *, sum_duplicates: bool = False) -> TenxMatrix:
    """Read three files that belong together: matrix, features (or genes) and barcodes.

    Parameters
    ----------
    path
        The folder where they stand; or the matrix, where a sample's name stands in front of each.
    sum_duplicates
        Sum entries that stand twice instead of refusing them.

    Raises
    ------
    SourceFaultError
        A file is missing or damaged, or they contradict each other.
    """
    folder, sample = (path, "") if path.is_dir() else (path.parent, sample_of(path, _MATRIX))
    matrix = _find(folder, _MATRIX) if path.is_dir() else path
    listed = _find(folder, f"{sample}features.tsv", f"{sample}genes.tsv")
    table = _find(folder, f"{sample}barcodes.tsv")
    barcodes = [row[0] for row in _read_rows(table)]
    features = _read_features(listed)
    counts = _read_matrix(matrix, (len(barcodes), len(features.ids)), sum_duplicates=sum_duplicates)
    files = (matrix, listed, table)
    return keep_genes(counts, barcodes, features, files, None)


def _find(folder: Path, *stems: str) -> Path:
    for stem in stems:
        for path in (folder / f"{stem}.gz", folder / stem):
            if path.is_file():
                return path
    what = f"no {' or '.join(stems)} (.gz) in {folder.name}/"
    raise SourceFaultError("B023", folder.name, what, "give the whole folder as 10x wrote it")


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Open a plain or gzip file; turn what is wrong with it into a fault.

    Raises
    ------
    SourceFaultError
        B004: truncated or damaged. B074: not UTF-8.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            unpacked: Any = gzip.GzipFile(fileobj=raw) if packed else raw
            with unpacked:
                yield unpacked
    except UnicodeDecodeError as error:
        what = f"not UTF-8 text: {error.reason}"
        raise SourceFaultError("B074", path.name, what, "save it as UTF-8") from None
    except (EOFError, OSError, zlib.error) as error:
        raise SourceFaultError("B004", path.name, f"damaged: {error!s:.100}", AGAIN) from None


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Open plain or gzip text as UTF-8, with the faults of :func:`open_bytes`."""
    with open_bytes(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig") as file:
        yield file


def _read_rows(path: Path) -> Iterator[list[str]]:
    """Yield the cells of each line; quotes mean nothing to 10x, so as in gene names like 5'NT."""
    with open_text(path) as file:
        try:
            yield from (
                row for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if row
            )
        except csv.Error as error:
            raise SourceFaultError("B006", path.name, f"no table: {error!s:.80}", AGAIN) from None


def _read_features(path: Path) -> Features:
    rows = list(_read_rows(path))
    if short := [i for i, row in enumerate(rows, start=1) if len(row) < 2]:
        what = f"line {short[0]} has no name: expected id, name and maybe type, tab-separated"
        raise SourceFaultError("B006", path.name, what, AGAIN)
    return Features(
        ids=[row[0] for row in rows],
        names=[row[1] for row in rows],
        kinds=[row[2] if len(row) > 2 else "" for row in rows],
        genomes=[""] * len(rows),
    )


def _read_matrix(path: Path, shape: tuple[int, int], *, sum_duplicates: bool) -> csr_array:
    """Read a Matrix Market file of features x barcodes as (barcodes, features)."""
    with open_text(path) as file:
        n_stored = _read_head(file, path, shape)
        blocks = list(_read_blocks(file, path, shape, n_stored))
    rows, cols, values = (
        np.concatenate([np.zeros(0, kind), *(block[i] for block in blocks)])
        for i, kind in enumerate((np.int32, np.int32, np.uint32))
    )
    del blocks
    # Sums are taken in 64 bits, so that none can wrap.
    counts = csr_array(coo_array((values.astype(np.int64), (rows, cols)), shape=shape))
    if (n_twice := n_stored - counts.nnz) and not sum_duplicates:
        what = f"{n_twice:,} duplicate entries: a spot stores a gene twice"
        fix = "sum or drop them before writing the file, or pass --sum-duplicates"
        raise SourceFaultError("B036", path.name, what, fix)
    counts.data = to_counts(counts.data, path.name, int(counts.nnz))
    counts.sort_indices()
    counts.eliminate_zeros()
    return counts


def _read_head(file: TextIO, path: Path, shape: tuple[int, int]) -> int:
    """Check the kind of matrix and its sizes; return how many entries follow."""
    head = file.readline(_LONGEST_LINE).split()
    kind = [word.lower() for word in head]
    plain = len(kind) == 5 and kind[1:3] == ["matrix", "coordinate"] and kind[4] == "general"
    if not plain or kind[0] != "%%matrixmarket" or kind[3] not in ("integer", "real"):
        what = f"not a sparse Matrix Market file of numbers: {' '.join(head)[:60]!r}"
        raise SourceFaultError("B003", path.name, what, AGAIN)
    line = file.readline(_LONGEST_LINE)
    while line.startswith("%") or line.isspace():
        line = file.readline(_LONGEST_LINE)
    sizes = line.split()
    if len(sizes) != 3 or not all(size.isdecimal() and len(size) < 16 for size in sizes):
        raise SourceFaultError("B041", path.name, f"no sizes: {line[:60]!r}", AGAIN)
    n_features, n_barcodes, n_stored = (int(size) for size in sizes)
    if (n_barcodes, n_features) != shape:
        what = (
            f"{n_features:,} x {n_barcodes:,}, but {shape[1]:,} features and {shape[0]:,} "
            "barcodes are listed"
        )
        raise SourceFaultError("B041", path.name, what, AGAIN)
    return n_stored


def _read_blocks(
    file: TextIO, path: Path, shape: tuple[int, int], n_stored: int
) -> Iterator[_Block]:
    """Yield (barcode, feature, count) of "feature barcode count" lines, from 0 on.

    Numbers are parsed as 64-bit floats, in which integers up to 2^53 are exact.
    """
    n = 0
    try:
        # A fourth column is asked for: pandas would cut a longer line in silence.
        reader = pd.read_csv(
            file, sep=r"\s+", header=None, names=_ENTRY, dtype=np.float64, index_col=False,
            chunksize=_ROWS_AT_ONCE,
        )  # fmt: skip
        for frame in reader:
            yield _check_block(frame.to_numpy(np.float64), path, shape, n)
            n += len(frame)
            if n > n_stored:
                break
    except pd.errors.EmptyDataError:
        pass
    except UnicodeDecodeError:
        raise
    except (ValueError, pd.errors.ParserError) as error:
        what = f"an entry is not three numbers: {(str(error) or '?').splitlines()[0][:100]}"
        raise SourceFaultError("B033", path.name, what, AGAIN) from None
    if n != n_stored:
        what = f"{n:,}{' or more' if n > n_stored else ''} entries, its head says {n_stored:,}"
        raise SourceFaultError("B004", path.name, what, AGAIN)


def _check_block(
    block: NDArray[np.float64], path: Path, shape: tuple[int, int], before: int
) -> _Block:
    numbers, more = block[:, :3], block[:, 3]
    short = ~np.isfinite(numbers[:, :2]).all(axis=1) | np.isnan(numbers[:, 2]) | ~np.isnan(more)
    if short.any():
        what = f"entry {before + int(np.argmax(short)) + 1:,} is not three numbers"
        raise SourceFaultError("B033", path.name, what, AGAIN)
    place = numbers[:, :2]
    limits = np.asarray(shape[::-1])
    outside = ((place < 1) | (place > limits) | (place != np.floor(place))).any(axis=1)
    if outside.any():
        first = int(np.argmax(outside))
        what = f"entry {before + first + 1:,} lies outside the matrix: {numbers[first].tolist()}"
        raise SourceFaultError("B034", path.name, what, AGAIN)
    values = to_counts(numbers[:, 2], path.name, len(numbers))
    indices = place.astype(np.int32) - 1
    return indices[:, 1].copy(), indices[:, 0].copy(), values
