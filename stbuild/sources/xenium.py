"""Xenium output folders: a table of cells in micrometres beside a 10x matrix of their genes."""

from pathlib import Path

import numpy as np
import pandas as pd

from stbuild.config import GridConfig
from stbuild.slices import SliceRecord
from stbuild.sources.faults import SourceFaultError
from stbuild.sources.raw import RawSlice
from stbuild.sources.tenx import open_text, read_tenx_h5, read_tenx_mtx
from stbuild.sources.tissue_positions import match_barcodes

_CELLS = ("cells.parquet", "cells.csv.gz", "cells.csv")
_COLUMNS = ["cell_id", "x_centroid", "y_centroid"]


def looks_like_xenium(path: Path) -> bool:
    """Tell by names alone whether a folder is an output of Xenium."""
    if not path.is_dir() or not any((path / name).is_file() for name in _CELLS):
        return False
    return (path / "cell_feature_matrix.h5").is_file() or (path / "cell_feature_matrix").is_dir()


def read_xenium(record: SliceRecord, config: GridConfig, scratch: Path | None = None) -> RawSlice:
    """Read the cells of a Xenium run; control probes and codewords are counted and left out.

    Raises
    ------
    BadInputError, SourceFaultError
        Missing or damaged files, cells that the table does not have.
    """
    root = Path(record.path)
    cells_path = next(root / name for name in _CELLS if (root / name).is_file())
    cells = _read_cells(cells_path)
    file = root / "cell_feature_matrix.h5"
    if file.is_file():
        matrix = read_tenx_h5(record.name, file, scratch)
    else:
        matrix = read_tenx_mtx(root / "cell_feature_matrix")
    present = cells["cell_id"].to_numpy(object)
    rows, _ = match_barcodes(matrix.barcodes, present)
    found = rows >= 0
    if len(rows) and not found.any():
        what = f"none of the {len(rows):,} cells of the matrix stands in {cells_path.name}"
        raise SourceFaultError("B047", cells_path.name, what, "give files of the same run")
    xy = cells[_COLUMNS[1:]].to_numpy(np.float64)
    xy = np.where(found[:, None], xy[np.where(found, rows, 0)], np.nan)
    swap = config.gene_id_column in ("name", "gene_name", "feature_name")
    taken = np.unique(rows[found]).size
    return RawSlice(
        counts=matrix.counts,
        barcodes=matrix.barcodes,
        genes=matrix.names if swap else matrix.ids,
        gene_names=matrix.ids if swap else matrix.names,
        xy=xy,
        unit="um",
        um_per_unit=1.0,
        files=tuple(sorted([*matrix.files, cells_path])),
        ledger={
            "spots_without_position": int(np.count_nonzero(~found)),
            "positions_without_counts": len(cells) - taken,
            **matrix.left_out,
        },
    )


def _read_cells(path: Path) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    fix = "give the folder as Xenium wrote it"
    table: pd.DataFrame
    try:
        if path.suffix == ".parquet":
            table = pq.read_table(path, columns=_COLUMNS).to_pandas()
        else:
            with open_text(path) as file:
                table = pd.read_csv(file, usecols=_COLUMNS, dtype={"cell_id": str})
    except (pa.ArrowInvalid, pa.ArrowTypeError, ValueError, OSError) as error:
        what = f"expected the columns {', '.join(_COLUMNS)}: {str(error).splitlines()[0][:100]}"
        raise SourceFaultError("B047", path.name, what, fix) from None
    ids = table["cell_id"]
    table["cell_id"] = [v.decode() if isinstance(v, bytes) else str(v) for v in ids]
    if table["cell_id"].duplicated().any():
        raise SourceFaultError("B082", path.name, "a cell_id stands twice", fix)
    return table
