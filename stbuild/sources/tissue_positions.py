"""Space Ranger's tables of positions: with or without a header, text or Parquet, and their join.

Column order is barcode, in_tissue, array_row, array_col, pxl_row, pxl_col in every generation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stbuild.sources.faults import SourceFaultError
from stbuild.sources.tenx import open_text

NAMES: Final = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv",
                "tissue_positions_list.txt")  # fmt: skip
_COLUMNS: Final = (
    "barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres",
)  # fmt: skip
_FIX: Final = "give the table as Space Ranger wrote it"


@dataclass(frozen=True, kw_only=True)
class TissuePositions:
    """Positions of P barcodes."""

    barcodes: NDArray[np.object_]
    """(P,) text."""
    in_tissue: NDArray[np.bool_]
    array_row: NDArray[np.float64]
    array_col: NDArray[np.float64]
    xy: NDArray[np.float64]
    """(P, 2) pixels of the full resolution image, x first; NaN where there is none."""


def read_tissue_positions(path: Path) -> TissuePositions:
    """Read one table of positions.

    Raises
    ------
    SourceFaultError
        Damaged, other columns, text where numbers should be, a barcode that stands twice.
    """
    table = _read_parquet(path) if path.suffix == ".parquet" else _read_text(path)
    barcodes = table["barcode"].to_numpy(object)
    if not len(barcodes):
        raise SourceFaultError("B022", path.name, "the table is empty", _FIX)
    twice = table["barcode"].duplicated()
    if twice.any():
        what = (
            f"{int(twice.sum()):,} barcodes stand twice (first: {barcodes[twice.argmax()]!r:.40})"
        )
        raise SourceFaultError("B082", path.name, what, _FIX)
    numbers = {name: _numbers(table[name], path) for name in _COLUMNS[1:]}
    return TissuePositions(
        barcodes=barcodes,
        in_tissue=numbers["in_tissue"] > 0,
        array_row=numbers["array_row"],
        array_col=numbers["array_col"],
        xy=np.stack([numbers["pxl_col_in_fullres"], numbers["pxl_row_in_fullres"]], axis=1),
    )


def _read_parquet(path: Path) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        present = set(pq.read_schema(path).names)
        if missing := [name for name in _COLUMNS if name not in present]:
            what = f"no column {', '.join(missing)}; it has {', '.join(sorted(present)[:8])}"
            raise SourceFaultError("B047", path.name, what, _FIX)
        table: pd.DataFrame = pq.read_table(path, columns=list(_COLUMNS)).to_pandas()
    except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
        raise SourceFaultError("B004", path.name, f"damaged: {str(error)[:100]}", _FIX) from None
    return table


def _read_text(path: Path) -> pd.DataFrame:
    with open_text(path) as file:
        lines = [line for line in (raw.rstrip("\r\n") for raw in file) if line]
    cells = [line.split(",") for line in lines]
    for number, row in enumerate(cells, start=1):
        if len(row) != len(_COLUMNS):
            what = f"line {number} has {len(row)} cells, expected 6: {lines[number - 1][:60]!r}"
            raise SourceFaultError("B047", path.name, what, _FIX)
    has_header = bool(cells) and not _is_number(cells[0][2])
    if has_header and cells[0][0].strip('"').lower() not in ("barcode", "barcodes", ""):
        what = f"unknown header {lines[0][:60]!r}"
        raise SourceFaultError("B047", path.name, what, _FIX)
    frame = pd.DataFrame(cells[1:] if has_header else cells, columns=list(_COLUMNS))
    frame["barcode"] = frame["barcode"].str.strip('"')
    return frame


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numbers(column: Any, path: Path) -> NDArray[np.float64]:  # noqa: ANN401 - a column
    """Return numbers exactly as they are written; an empty cell or NA is NaN."""
    cells = column.to_numpy()
    if cells.dtype.kind in "iufb":
        return np.asarray(cells, np.float64)
    text = np.asarray(["nan" if cell in (None, "", "NA") else str(cell) for cell in cells])
    try:
        return text.astype(np.float64)
    except ValueError:
        first = next(i for i, cell in enumerate(text.tolist()) if not _is_number(cell))
        what = f"column {column.name}: row {first + 1} is no number ({str(text[first])!r:.40})"
        raise SourceFaultError("B047", path.name, what, _FIX) from None


def match_barcodes(
    wanted: Sequence[str], present: NDArray[np.object_]
) -> tuple[NDArray[np.int64], bool]:
    """Find barcodes in a table of positions, with or without the ``-1`` at their end.

    Parameters
    ----------
    wanted
        (N,) barcodes of the matrix.
    present
        (P,) barcodes of the table.

    Returns
    -------
    tuple
        (N,) row in the table, -1 = none; and whether endings had to be ignored.
    """
    rows = pd.Index(present).get_indexer(pd.Index(np.asarray(wanted, object)))
    if (rows >= 0).any():
        return rows.astype(np.int64), False
    cut_wanted = pd.Series(np.asarray(wanted, object)).str.replace(r"-\d+$", "", regex=True)
    cut_present = pd.Series(present).str.replace(r"-\d+$", "", regex=True)
    if cut_present.duplicated().any() or cut_wanted.duplicated().any():
        return rows.astype(np.int64), False
    return pd.Index(cut_present).get_indexer(pd.Index(cut_wanted)).astype(np.int64), True
