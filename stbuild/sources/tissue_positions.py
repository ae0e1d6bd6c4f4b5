"""Space Ranger's tables of positions: with or without a header, text or Parquet, and their join.

Column order is barcode, in_tissue, array_row, array_col, pxl_row, pxl_col in every generation.
Barcodes stay in Arrow's memory: a table of Visium HD has eleven million.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stbuild.sources.faults import SourceFaultError
from stbuild.sources.tables.positions import read_marks
from stbuild.sources.tenx_mtx import open_bytes, open_text

NAMES: Final = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv",
                "tissue_positions_list.txt")  # fmt: skip
_COLUMNS: Final = (
    "barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres",
)  # fmt: skip
_OTHER_HEADERS: Final = (("tissue", "row", "col", "imagerow", "imagecol"),)
"""What R packages call the five columns after the barcode, in the same order."""
_NONE: Final = ["", "NA", "NaN", "nan"]
_LONGEST_LINE: Final = 1 << 16
_FIX: Final = "give the table as Space Ranger wrote it"


@dataclass(frozen=True, kw_only=True)
class TissuePositions:
    """Positions of P barcodes."""

    barcodes: Any
    """(P,) Arrow text without nulls, each one once."""
    in_tissue: NDArray[np.bool_]
    array_row: NDArray[np.float64]
    array_col: NDArray[np.float64]
    xy: NDArray[np.float64]
    """(P, 2) pixels of the full resolution image, x first; NaN where there is none."""


def is_tissue_positions(path: Path) -> bool:
    """Tell by the columns whether a table is written as Space Ranger writes it."""
    if path.suffix == ".parquet":
        return True
    try:
        with open_text(path) as file:
            line = file.readline(_LONGEST_LINE)
        return _read_header(path) is not None or line.count(",") == len(_COLUMNS) - 1
    except SourceFaultError as fault:
        return fault.code != "B047"  # damage is told by the reader of such tables


def read_tissue_positions(path: Path) -> TissuePositions:
    """Read one table of positions.

    Raises
    ------
    SourceFaultError
        Damaged, other columns, text where numbers should be, a barcode that stands twice.
    """
    table = _read_parquet(path) if path.suffix == ".parquet" else _read_text(path)
    if not table.num_rows:
        raise SourceFaultError("B047", path.name, "the table is empty", _FIX)
    barcodes = as_ids(table["barcode"], path)
    numbers = {name: _numbers(table[name], name, path) for name in _COLUMNS[2:]}
    inside = _marks(table["in_tissue"], path)
    return TissuePositions(
        barcodes=barcodes,
        in_tissue=inside,
        array_row=numbers["array_row"],
        array_col=numbers["array_col"],
        xy=np.stack([numbers["pxl_col_in_fullres"], numbers["pxl_row_in_fullres"]], axis=1),
    )


def _marks(column: Any, path: Path) -> NDArray[np.bool_]:  # noqa: ANN401 - pyarrow's column
    """Return which spots lie on the tissue; of few distinct marks each is looked at once."""
    coded = pc.cast(column, pa.string()).combine_chunks().dictionary_encode()
    names = coded.dictionary.to_pylist()
    codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    first = {name: int(np.argmax(codes == i)) for i, name in enumerate(names)}
    for name in sorted(first, key=lambda name: first[name]):
        try:
            read_marks([name], path.name, "")
        except SourceFaultError:
            row = first[name] + 1
            what = f"in_tissue of row {row:,} is {name or 'missing':.40}, expected 0 or 1"
            raise SourceFaultError("B047", path.name, what, _FIX) from None
    if (codes < 0).any():
        row = int(np.argmax(codes < 0)) + 1
        what = f"in_tissue of row {row:,} is missing, expected 0 or 1"
        raise SourceFaultError("B047", path.name, what, _FIX)
    inside = read_marks(names, path.name, "")
    return np.asarray(inside[codes], np.bool_)


def as_ids(column: Any, path: Path) -> Any:  # noqa: ANN401 - pyarrow ships no types
    """Return a column of ids as Arrow text, whether they are text, bytes or integers.

    Raises
    ------
    SourceFaultError
        B047: no ids, or not UTF-8. B082: one that stands twice.
    """
    try:
        # 64-bit offsets: the ids of a large table exceed 2 GiB in one piece.
        ids = pc.cast(column, pa.large_string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        what = f"ids are no text: {error!s:.80}"
        raise SourceFaultError("B047", path.name, what, _FIX) from None
    ids = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
    if ids.null_count:
        first = pc.index(pc.is_null(ids), value=True).as_py()
        raise SourceFaultError("B047", path.name, f"row {first + 1:,} has no id", _FIX)
    twice = _repeated(ids)
    if len(twice):
        what = f"{len(twice):,} ids stand twice (first: {twice[0].as_py()!r:.40})"
        raise SourceFaultError("B082", path.name, what, _FIX)
    return ids


def _repeated(ids: Any) -> Any:  # noqa: ANN401 - Arrow arrays
    """Return the ids that stand more than once, sorted; by sorting, which takes least memory."""
    ordered = ids.take(pc.array_sort_indices(ids))
    return ordered[1:].filter(pc.equal(ordered[1:], ordered[:-1]))


def read_parquet(path: Path, columns: Sequence[str]) -> Any:  # noqa: ANN401 - pyarrow's table
    """Read some columns of a Parquet file.

    Raises
    ------
    SourceFaultError
        B004: damaged. B047: a column is missing.
    """
    try:
        with pq.ParquetFile(path, memory_map=False) as file:
            present = file.schema_arrow.names
            if missing := [name for name in columns if name not in present]:
                listed = ", ".join(repr(name)[:40] for name in sorted(present)[:8])
                what = f"no column {', '.join(missing)}; it has {listed}"
                raise SourceFaultError("B047", path.name, what, _FIX)
            return file.read(columns=list(columns), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        said = (str(error) or "?").splitlines()[0][:100]
        raise SourceFaultError("B004", path.name, f"damaged: {said}", _FIX) from None


def _read_parquet(path: Path) -> Any:  # noqa: ANN401 - pyarrow's table
    return read_parquet(path, _COLUMNS)


def _read_text(path: Path) -> Any:  # noqa: ANN401 - pyarrow's table
    names = _read_header(path)
    columns = list(names or _COLUMNS)
    text = ("barcode", "in_tissue")
    types = {name: pa.string() if name in text else pa.float64() for name in _COLUMNS}
    try:
        with open_bytes(path) as file:
            return pyarrow.csv.read_csv(
                file,
                pyarrow.csv.ReadOptions(
                    column_names=columns, skip_rows=1 if names else 0, use_threads=False
                ),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types=types, null_values=_NONE, include_columns=list(_COLUMNS)
                ),
            )
    except pa.ArrowInvalid as error:
        _name_bad_line(path, columns)
        said = (str(error) or "?").splitlines()[0][:100]
        raise SourceFaultError("B047", path.name, f"no table of positions: {said}", _FIX) from None


def _read_header(path: Path) -> tuple[str, ...] | None:
    """Return the names of the columns where the first line holds them.

    Raises
    ------
    SourceFaultError
        B047: a header that nobody knows.
    """
    with open_text(path) as file:
        line = file.readline(_LONGEST_LINE)
    cells = tuple(cell.strip().strip('"') for cell in line.rstrip("\r\n").split(","))
    if not line.strip() or (len(cells) > 2 and all(_is_number(cell) for cell in cells[2:])):
        return None
    if set(_COLUMNS) <= set(cells) and len(set(cells)) == len(cells):
        return cells
    if cells[1:] in (*_OTHER_HEADERS, _COLUMNS[1:]) and cells[0].lower() in ("", "barcodes"):
        return _COLUMNS
    if any(_is_number(cell) for cell in cells[1:]) or len(cells) != len(_COLUMNS):
        return None  # a line of data with something wrong: told with its number
    what = f"unknown header {line[:80]!r}; expected {','.join(_COLUMNS)}"
    raise SourceFaultError("B047", path.name, what, _FIX)


def _name_bad_line(path: Path, columns: Sequence[str]) -> None:
    """Raise a fault that names the first line that is not as it should be, if there is one."""
    numeric = [i for i, name in enumerate(columns) if name in _COLUMNS[2:]]
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            cells = [cell.strip('"') for cell in line.rstrip("\r\n").split(",")]
            if not line.strip() or (number == 1 and cells == list(columns)):
                continue
            if len(cells) != len(columns):
                what = f"line {number:,} has {len(cells)} cells, expected {len(columns)}: "
                raise SourceFaultError("B047", path.name, what + repr(line[:60]), _FIX)
            bad = [i for i in numeric if not _is_number(cells[i])]
            if bad and number > 1:
                what = f"{columns[bad[0]]} of line {number:,} is no number: {cells[bad[0]]!r:.40}"
                raise SourceFaultError("B047", path.name, what, _FIX)


def _is_number(text: str) -> bool:
    if text in _NONE:
        return True
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _numbers(column: Any, name: str, path: Path) -> NDArray[np.float64]:  # noqa: ANN401 - Arrow
    """Return numbers exactly as they are written; an empty cell or NA is NaN."""
    try:
        cast = pc.cast(column, pa.float64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        what = f"column {name} is no list of numbers: {error!s:.80}"
        raise SourceFaultError("B047", path.name, what, _FIX) from None
    return np.asarray(cast.to_numpy(), np.float64)


def match_barcodes(wanted: Sequence[str], present: Any) -> NDArray[np.int64]:  # noqa: ANN401
    """Find barcodes in a table of positions, with or without the ``-1`` at their end.

    Parameters
    ----------
    wanted
        (N,) barcodes of the matrix.
    present
        (P,) barcodes of the table, Arrow text.

    Returns
    -------
    numpy.ndarray
        (N,) int64, row in the table, -1 = none. Endings are ignored only where no barcode
        matches as it is and none would become ambiguous.
    """
    asked = pa.array(wanted, pa.large_string())
    rows = _index(asked, present)
    if (rows >= 0).any():
        return rows
    cut = [pc.replace_substring_regex(ids, r"-\d+$", "") for ids in (asked, present)]
    if any(len(_repeated(ids)) for ids in cut):
        return rows
    return _index(*cut)


def _index(wanted: Any, present: Any) -> NDArray[np.int64]:  # noqa: ANN401 - Arrow arrays
    """Return the row of each wanted id; only those are hashed, not the table's millions."""
    hits = pc.fill_null(pc.index_in(present, value_set=wanted), -1).to_numpy(zero_copy_only=False)
    at = np.flatnonzero(hits >= 0)
    rows = np.full(len(wanted), -1, np.int64)
    rows[hits[at]] = at
    return rows
