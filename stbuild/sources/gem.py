"""Stereo-seq GEM files: one row per gene and place, with how many molecules were seen there.

Every place (a DNB spot, or the corner of a bin that the file was binned to) becomes a spot. With
layout ``bin`` and a bin size places are summed in bins while they are read, since a whole chip has
hundreds of millions of them. Outlines of cells are not used.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from stbuild.config import GridConfig
from stbuild.slices import Notice, SliceRecord
from stbuild.sources.faults import SourceFaultError
from stbuild.sources.matrices import to_counts
from stbuild.sources.raw import RawSlice
from stbuild.sources.tenx_mtx import open_bytes, open_text

_COUNTS: Final = ("midcount", "midcounts", "umicount", "umicounts")
_CELLS: Final = ("cellid", "cell", "label")
_MOST_HEAD: Final = 100
_LONGEST_LINE: Final = 1 << 16
_FIX: Final = "give the file as the Stereo-seq pipeline wrote it: geneID, x, y, MIDCount"

_Rows = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


@dataclass
class _Genes:
    """Genes in the order in which they come, and their names where those are asked for."""

    column: str | None = None
    """Column of the names, as it is compared; None reads none."""
    ids: dict[str, int] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)

    def number(self, found: list[Any]) -> NDArray[np.int64]:
        """Return the numbers of ids, new ones among them."""
        numbers = [self.ids.setdefault(str(name), len(self.ids)) for name in found]
        return np.asarray(numbers, np.int64)

    def learn(self, gene: NDArray[np.int64], coded: Any, path: Path) -> None:  # noqa: ANN401
        """Note the name of each gene; refuse a second one."""
        names, codes = coded.dictionary.to_pylist(), coded.indices.to_numpy()
        pairs = np.divmod(np.unique(gene * max(1, len(names)) + codes), max(1, len(names)))
        for g, code in zip(*(part.tolist() for part in pairs), strict=True):
            if self.names.setdefault(g, names[code]) != names[code]:
                first = list(self.ids)[g]
                what = f"gene {first!r:.60} is called {self.names[g]!r:.60} and {names[code]!r:.60}"
                fix = "leave out --gene-id-column: then geneID is taken"
                raise SourceFaultError("B074", f"{path.name}:{self.column}", what, fix)

    def both(self) -> tuple[list[str], list[str] | None]:
        """Return (ids, other names): the names as ids, where they are asked for."""
        ids = list(self.ids)
        if self.column is None:
            return ids, None
        return [self.names[i] for i in range(len(ids))], ids


def looks_like_gem(path: Path) -> bool:
    """Tell from the first lines whether a text file is a GEM file."""
    try:
        return path.is_file() and _read_head(path) is not None
    except (SourceFaultError, OSError):
        return False


def find_gem(path: Path) -> Path | None:
    """Return the GEM file at a path: itself, or the only one of a folder that is named so."""
    if not path.is_dir():
        return path if looks_like_gem(path) else None
    try:
        named = [p for p in sorted(path.iterdir()) if p.name.endswith((".gem", ".gem.gz"))]
    except PermissionError:
        return None
    found = [file for file in named if looks_like_gem(file)]
    if len(found) > 1:
        what = f"{len(found)} GEM files: {', '.join(file.name[:60] for file in found[:5])}"
        raise SourceFaultError("B007", "", what, "give one of them as the path")
    return found[0] if found else None


def read_gem(record: SliceRecord, config: GridConfig, path: Path) -> RawSlice:
    """Read a GEM file.

    Parameters
    ----------
    record
        The slice, for notices.
    config
        ``layout`` ``bin`` with ``bin_size`` sums places in bins of so many of the file's units;
        ``gene_id_column`` takes the names of genes as ids.
    path
        The file, plain or gzip.

    Raises
    ------
    SourceFaultError
        B053: a bin size that is not whole. B058: no rows. B022, B033: not the columns that a GEM
        file has. B028 to B031: counts that are none. B004: cut off or damaged. B074: no such column
        of names, or a gene of two names.
    """
    head = _read_head(path)
    if head is None:
        raise SourceFaultError("B022", path.name, "no GEM file", _FIX)
    side = config.bin_size if config.layout == "bin" else None
    if side is not None and not side.is_integer():
        what = f"bins of {side:g} units, but places are whole numbers"
        raise SourceFaultError("B053", path.name, what, "give a whole --bin-size")
    genes = _Genes(_name_column(config.gene_id_column, head[1], path))
    blocks = [_bin(rows, side) for rows in _read_rows(path, *head, genes)]
    if not blocks:
        what = "the table has a header and nothing else"
        raise SourceFaultError("B058", path.name, what, "drop this slice from the list")
    x, y, gene, n = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    del blocks
    places, spot = np.unique(np.stack([x, y], axis=1), axis=0, return_inverse=True)
    ids, names = genes.both()
    shape = (len(places), len(ids))
    summed = csr_array(coo_array((n, (spot.ravel(), gene)), shape=shape))
    summed.data = to_counts(summed.data, path.name, int(summed.nnz))
    summed.sort_indices()
    summed.eliminate_zeros()
    scale = 1 if side is None else side
    return RawSlice(
        counts=summed,
        barcodes=[f"{a}_{b}" for a, b in places.tolist()],
        genes=ids,
        gene_names=names,
        xy=places.astype(np.float64) * scale,
        files=(path,),
        notices=_notices(record, head[1], side),
    )


def _name_column(asked: str | None, names: list[str], path: Path) -> str | None:
    """Return the column that is asked for as it is compared, or None where it is that of ids."""
    folded = [name.lower() for name in names]
    known = [name for name in folded if name not in ("x", "y", *_COUNTS, *_CELLS)]
    if asked is None or asked.lower() == "geneid":
        return None
    if asked.lower() in known:
        return asked.lower()
    listed = ", ".join(names[folded.index(name)] for name in known[:8])
    what = f"no column {asked!r:.60} with the ids of the genes; there are: {listed:.200}"
    fix = "name one of them with --gene-id-column, or none"
    raise SourceFaultError("B074", path.name, what, fix)


def _notices(record: SliceRecord, names: list[str], side: float | None) -> tuple[Notice, ...]:
    said = []
    if side is not None:
        said.append(f"places are summed in bins of {side:g} while they are read")
    if column := next((name for name in names if name.lower() in _CELLS), None):
        said.append(f"the column {column!r:.40} of cells is not used")
    subject = f"slice '{record.name}'"
    return tuple(Notice(code="B060", subject=subject, what=what) for what in said)


def _read_head(path: Path) -> tuple[int, list[str]] | None:
    """Return how many lines stand before the rows, and the names of the columns; None if no GEM."""
    number = 1
    with open_text(path) as file:
        while (line := file.readline(_LONGEST_LINE)).startswith("#") and number < _MOST_HEAD:
            number += 1
    names = line.rstrip("\r\n").split("\t")
    folded = [name.lower() for name in names]
    is_gem = {"geneid", "x", "y"} <= {*folded} and any(name in folded for name in _COUNTS)
    return (number, names) if is_gem else None


def _read_rows(path: Path, n_head: int, names: list[str], genes: _Genes) -> Iterator[_Rows]:
    """Yield (x, y, gene, count) in blocks; `genes` grows by the ids that come."""
    folded = [name.lower() for name in names]
    count = next(name for name in _COUNTS if name in folded)
    text = pa.dictionary(pa.int32(), pa.string())
    types = {"geneid": text, "x": pa.int64(), "y": pa.int64()}
    types |= {} if genes.column is None else {genes.column: text}
    try:
        with open_bytes(path) as file:
            reader = pyarrow.csv.open_csv(
                file,
                pyarrow.csv.ReadOptions(column_names=folded, skip_rows=n_head, use_threads=False),
                pyarrow.csv.ParseOptions(delimiter="\t", quote_char=False),
                pyarrow.csv.ConvertOptions(
                    column_types={**types, count: pa.float64()}, include_columns=[*types, count]
                ),
            )
            for batch in reader:
                yield _block(batch, count, genes, path)
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):
            return
        said = (str(error) or "?").splitlines()[0][:100]
        raise SourceFaultError("B033", path.name, f"no GEM file: {said}", _FIX) from None


def _block(batch: Any, count: str, genes: _Genes, path: Path) -> _Rows:  # noqa: ANN401
    coded = batch.column("geneid")
    numbers = genes.number(coded.dictionary.to_pylist())
    columns = [batch.column(name) for name in ("x", "y")]
    named = [] if genes.column is None else [batch.column(genes.column)]
    if any(column.null_count for column in (coded, *columns, *named, batch.column(count))):
        raise SourceFaultError("B033", path.name, "a row lacks a gene, place or count", _FIX)
    values = to_counts(batch.column(count).to_numpy(), path.name, batch.num_rows)
    x, y = (pc.cast(column, pa.int64()).to_numpy() for column in columns)
    gene = numbers[coded.indices.to_numpy()]
    for column in named:
        genes.learn(gene, column, path)
    return x, y, gene, values.astype(np.int64)


def _bin(rows: _Rows, side: float | None) -> _Rows:
    """Return the rows with the number of their bin, those of one bin and gene summed."""
    if side is None:
        return rows
    x, y, gene, n = rows
    keys = np.stack([np.floor(x / side), np.floor(y / side), gene], axis=1).astype(np.int64)
    kept, which = np.unique(keys, axis=0, return_inverse=True)
    sums = np.zeros(len(kept), np.int64)
    np.add.at(sums, which.ravel(), n)
    return kept[:, 0], kept[:, 1], kept[:, 2], sums
