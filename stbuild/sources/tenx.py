"""10x feature-barcode matrices: the ``.h5`` file and the folder of three files (``.mtx``).

Both hold features x barcodes; a stored column is one barcode. Only genes are kept: antibodies,
guides and control probes are counted and left out. What a barcode's place is, is not known here.
"""

import csv
import gzip
import io
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from stbuild.counts import column_sums, gather
from stbuild.sources.faults import SourceFaultError
from stbuild.sources.hdf5 import child, has, open_foreign, read_strings
from stbuild.sources.matrices import read_sparse, to_counts

_GENES: Final = frozenset({"Gene Expression", ""})
_ROWS_AT_ONCE: Final = 1 << 20
"""Entries of a Matrix Market file that are parsed at a time."""


@dataclass(frozen=True, kw_only=True)
class TenxMatrix:
    """Genes of a 10x matrix: N barcodes, K genes."""

    counts: csr_array
    """(N, K) uint32."""
    barcodes: list[str]
    ids: list[str]
    """(K,) Ensembl ids, or whatever the reference used."""
    names: list[str]
    """(K,) symbols."""
    genomes: tuple[str, ...]
    files: tuple[Path, ...]
    left_out: dict[str, int]
    """Features that are no genes and their molecules."""


def read_tenx_h5(name: str, path: Path, scratch: Path | None = None) -> TenxMatrix:
    """Read a 10x ``.h5`` matrix, of Cell Ranger 3 and later or of version 2.

    Parameters
    ----------
    name
        Slice id, for messages.
    path
        The file.
    scratch
        Folder for counts that do not fit into memory.

    Raises
    ------
    BadInputError
        Not HDF5, damaged, or not a matrix of genes.
    """
    with open_foreign(name, str(path)) as file:
        if has(file, "matrix/features"):
            group, features = child(file, "matrix"), child(file, "matrix/features")
            _refuse_probes(features, path)
            ids, names = read_strings(child(features, "id")), read_strings(child(features, "name"))
            types = _column(features, "feature_type", len(ids))
            genomes = _column(features, "genome", len(ids))
        else:
            group = _old_group(file, path)
            ids = read_strings(child(group, "genes"))
            names = read_strings(child(group, "gene_names"))
            types, genomes = ["Gene Expression"] * len(ids), [str(group.name).strip("/")] * len(ids)
        barcodes = read_strings(child(group, "barcodes"))
        shape = (len(barcodes), len(ids))
        stored = tuple(int(n) for n in child(group, "shape")[:])
        if stored != shape[::-1] or len(names) != len(ids):
            what = f"shape {stored}, but there are {len(ids):,} features, {shape[0]:,} barcodes"
            raise SourceFaultError("B041", f"{path.name}:{group.name}/shape", what, _AGAIN)
        parts = child(group, "data"), child(group, "indices"), child(group, "indptr")
        counts = read_sparse(*parts, shape, f"{path.name}:{group.name}", scratch)
    return _only_genes(counts, barcodes, ids, names, types, genomes, (path,), scratch)


_AGAIN: Final = "get the file again, or run Space Ranger again"


def _refuse_probes(features: h5py.Group, path: Path) -> None:
    if has(features, "probe_region") or has(features, "filtered_probes"):
        what = "a matrix of probes, not of genes"
        fix = "give filtered_feature_bc_matrix.h5 of the same run, where probes are summed to genes"
        raise SourceFaultError("B007", path.name, what, fix)


def _old_group(file: h5py.File, path: Path) -> Any:  # noqa: ANN401 - h5py is untyped
    """Return the one genome of a version 2 file, which has a group per genome."""
    groups = sorted(name for name in file if has(file, f"{name}/gene_names"))
    if len(groups) != 1:
        listed = ", ".join(sorted(file)[:5]) or "nothing"
        what = f"not a 10x matrix: expected /matrix or one genome, it holds {listed}"
        raise SourceFaultError("B007", path.name, what, "give filtered_feature_bc_matrix.h5")
    return child(file, groups[0])


def _column(features: h5py.Group, name: str, n: int) -> list[str]:
    return read_strings(child(features, name)) if has(features, name) else [""] * n


def read_tenx_mtx(folder: Path) -> TenxMatrix:
    """Read a folder with matrix, features (or genes) and barcodes, gzip or plain.

    Raises
    ------
    SourceFaultError
        A file is missing or damaged, or they contradict each other.
    """
    matrix = _find(folder, "matrix.mtx")
    features = _find(folder, "features.tsv", "genes.tsv")
    listed = _find(folder, "barcodes.tsv")
    barcodes = [row[0] for row in _read_rows(listed)]
    rows = list(_read_rows(features))
    if short := [i for i, row in enumerate(rows, start=1) if len(row) < 2]:
        what = f"line {short[0]} has no name: expected id, name and maybe type, tab-separated"
        raise SourceFaultError("B006", features.name, what, _AGAIN)
    ids, names = [row[0] for row in rows], [row[1] for row in rows]
    types = [row[2] if len(row) > 2 else "" for row in rows]
    counts = _read_matrix(matrix, (len(barcodes), len(ids)))
    files = (matrix, features, listed)
    return _only_genes(counts, barcodes, ids, names, types, [""] * len(ids), files, None)


def _find(folder: Path, *stems: str) -> Path:
    for stem in stems:
        for path in (folder / f"{stem}.gz", folder / stem):
            if path.is_file():
                return path
    what = f"no {' or '.join(stems)} (.gz) in {folder.name}/"
    raise SourceFaultError("B023", folder.name, what, "give the whole folder as 10x wrote it")


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Open plain or gzip text, bounded; turn what is wrong with it into a fault.

    Raises
    ------
    SourceFaultError
        B004: truncated or damaged. B074: not UTF-8.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            unpacked = gzip.GzipFile(fileobj=raw) if packed else raw
            with io.TextIOWrapper(unpacked, encoding="utf-8-sig") as file:
                yield file
    except (gzip.BadGzipFile, EOFError, OSError) as error:
        raise SourceFaultError("B004", path.name, f"damaged: {error}", _AGAIN) from None
    except UnicodeDecodeError as error:
        what = f"not UTF-8 text: {error.reason}"
        raise SourceFaultError("B074", path.name, what, "save it as UTF-8") from None


def _read_rows(path: Path) -> Iterator[list[str]]:
    with open_text(path) as file:
        # 10x quotes nothing: a quote is part of a name.
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        yield from (row for row in rows if row)


def _read_matrix(path: Path, shape: tuple[int, int]) -> csr_array:
    """Read a Matrix Market file of features x barcodes as (barcodes, features)."""
    with open_text(path) as file:
        head = file.readline().split()
        if len(head) < 4 or head[0] != "%%MatrixMarket" or head[2] != "coordinate":
            what = f"not a sparse Matrix Market file: {' '.join(head)[:60]!r}"
            raise SourceFaultError("B003", path.name, what, _AGAIN)
        line = file.readline()
        while line.startswith("%"):
            line = file.readline()
        sizes = line.split()
        if len(sizes) != 3 or not all(size.isdigit() for size in sizes):
            raise SourceFaultError("B041", path.name, f"no sizes: {line[:60]!r}", _AGAIN)
        n_features, n_barcodes, n_stored = (int(size) for size in sizes)
        if (n_barcodes, n_features) != shape:
            what = (
                f"{n_features:,} x {n_barcodes:,}, but {shape[1]:,} features and {shape[0]:,} "
                "barcodes are listed"
            )
            raise SourceFaultError("B041", path.name, what, _AGAIN)
        entries = _read_entries(file, path, n_stored)
    rows, cols = entries[:, 1].astype(np.int64) - 1, entries[:, 0].astype(np.int64) - 1
    outside = (rows < 0) | (rows >= shape[0]) | (cols < 0) | (cols >= shape[1])
    if outside.any():
        first = int(np.argmax(outside))
        what = f"entry {first + 1:,} lies outside the matrix: {entries[first].tolist()}"
        raise SourceFaultError("B034", path.name, what, _AGAIN)
    values = to_counts(entries[:, 2], path.name, n_stored)
    counts = csr_array(coo_array((values, (rows, cols)), shape=shape))
    if counts.nnz < np.count_nonzero(values):
        what = f"{n_stored - counts.nnz:,} duplicate entries: a spot stores a gene twice"
        raise SourceFaultError("B036", path.name, what, _AGAIN)
    counts.sort_indices()
    counts.eliminate_zeros()
    return counts


def _read_entries(file: TextIO, path: Path, n_stored: int) -> NDArray[np.float64]:
    """Parse "feature barcode count" lines in blocks; numbers up to 2^53 are exact."""
    blocks: list[NDArray[np.float64]] = []
    try:
        reader = pd.read_csv(
            file, sep=r"\s+", header=None, names=["f", "b", "n"], dtype=np.float64,
            index_col=False, chunksize=_ROWS_AT_ONCE, keep_default_na=False,
        )  # fmt: skip
        blocks.extend(block.to_numpy() for block in reader)
    except pd.errors.EmptyDataError:
        pass
    except (ValueError, pd.errors.ParserError) as error:
        what = f"an entry is not three numbers: {str(error).splitlines()[0][:100]}"
        raise SourceFaultError("B033", path.name, what, _AGAIN) from None
    n = sum(len(block) for block in blocks)
    if n != n_stored:
        what = f"{n:,} entries, its head says {n_stored:,}"
        raise SourceFaultError("B004", path.name, what, _AGAIN)
    return np.concatenate(blocks) if blocks else np.zeros((0, 3))


def _only_genes(
    counts: csr_array,
    barcodes: list[str],
    ids: list[str],
    names: list[str],
    types: list[str],
    genomes: list[str],
    files: tuple[Path, ...],
    scratch: Path | None,
) -> TenxMatrix:
    kept = [i for i, kind in enumerate(types) if kind in _GENES]
    left_out: dict[str, int] = {}
    if len(kept) < len(ids):
        column = np.full(len(ids), -1, np.int64)
        column[kept] = np.arange(len(kept))
        lost = int(column_sums(counts)[column < 0].sum())
        left_out = {
            "features_of_other_types": len(ids) - len(kept),
            "molecules_of_other_types": lost,
        }
        rows = np.arange(len(barcodes))
        counts = gather(counts, rows, scratch, column=column, n_columns=len(kept))
    if not kept:
        common = ", ".join(kind for kind, _ in Counter(types).most_common(3))
        what = f"no gene among {len(ids):,} features ({common})"
        raise SourceFaultError("B023", files[0].name, what, "give the matrix of gene expression")
    return TenxMatrix(
        counts=counts,
        barcodes=barcodes,
        ids=[ids[i] for i in kept],
        names=[names[i] for i in kept],
        genomes=tuple(sorted({genomes[i] for i in kept} - {""})),
        files=files,
        left_out=left_out,
    )
