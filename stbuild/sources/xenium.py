"""Xenium output folders: a table of cells in micrometres beside a 10x matrix of their genes."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from stbuild.config import GridConfig
from stbuild.slices import SliceRecord
from stbuild.sources.faults import SourceFaultError
from stbuild.sources.file_names import choose_named, find_named, sample_of
from stbuild.sources.raw import RawSlice
from stbuild.sources.tenx_h5 import read_tenx_h5
from stbuild.sources.tenx_mtx import open_bytes, read_tenx_mtx
from stbuild.sources.tissue_positions import as_ids, match_barcodes, read_parquet

_CELLS: Final = ("cells.parquet", "cells.csv")
_MATRIX: Final = "cell_feature_matrix"
_COLUMNS: Final = ("cell_id", "x_centroid", "y_centroid")
_FIX: Final = "give the folder as Xenium wrote it"


def looks_like_xenium(path: Path) -> bool:
    """Tell by names alone whether a path is an output of Xenium: its folder, or its matrix."""
    root = _root(path)
    matrix = bool(find_named(root, (f"{_MATRIX}.h5",))) or (root / _MATRIX).is_dir()
    return matrix and bool(find_named(root, _CELLS))


def _root(path: Path) -> Path:
    """Return the folder with the files of a run: this one, its ``outs``, or the matrix's own."""
    if path.is_file() and path.name.endswith(f"{_MATRIX}.h5"):
        return path.parent
    return path / "outs" if find_named(path / "outs", _CELLS) else path


def read_xenium(record: SliceRecord, config: GridConfig, scratch: Path | None = None) -> RawSlice:
    """Read the cells of a Xenium run; control probes and codewords are counted and left out.

    Parameters
    ----------
    record
        The folder.
    config
        ``gene_id_column`` ``name`` takes symbols as ids.
    scratch
        Folder for counts that do not fit into memory.

    Raises
    ------
    BadInputError, SourceFaultError
        Missing or damaged files, cells that the table does not have.
    """
    cells_path, matrix_path = _find(Path(record.path))
    present, xy = _read_cells(cells_path)
    if matrix_path.is_dir():
        matrix = read_tenx_mtx(matrix_path, sum_duplicates=config.sum_duplicates)
    else:
        same = config.sum_duplicates
        matrix = read_tenx_h5(record.name, matrix_path, scratch, sum_duplicates=same)
    rows = match_barcodes(matrix.barcodes, present)
    if rows.size and not (rows >= 0).any():
        what = (
            f"none of the {rows.size:,} cells of the matrix stands in {cells_path.name} "
            f"(first: {matrix.barcodes[0]!r:.40})"
        )
        raise SourceFaultError("B047", cells_path.name, what, "give files of the same run")
    place = xy[np.maximum(rows, 0)]
    place[rows < 0] = np.nan
    ids, names = matrix.gene_ids(config.gene_id_column)
    return RawSlice(
        counts=matrix.counts,
        barcodes=matrix.barcodes,
        genes=ids,
        gene_names=names,
        xy=place,
        unit="um",
        um_per_unit=1.0,
        files=tuple(sorted([*matrix.files, cells_path])),
        ledger={
            "spots_without_position": int(np.count_nonzero(rows < 0)),
            "positions_without_counts": len(xy) - int(np.unique(rows[rows >= 0]).size),
            **matrix.left_out,
        },
        notices=matrix.tell(record.name),
    )


def _find(path: Path) -> tuple[Path, Path]:
    root = _root(path)
    if path.is_file():
        matrix: Path | None = path
    elif (root / _MATRIX).is_dir() and not (root / f"{_MATRIX}.h5").is_file():
        matrix = root / _MATRIX
    else:
        matrix = choose_named(root, (f"{_MATRIX}.h5",), "")
    cells = choose_named(root, _CELLS, "" if matrix is None else sample_of(matrix, _MATRIX))
    if cells is None:
        what = f"no table of cells: none of {', '.join(_CELLS)}"
        raise SourceFaultError("B046", root.name, what, _FIX)
    if matrix is None:
        what = f"no counts: neither {_MATRIX}.h5 nor {_MATRIX}/"
        raise SourceFaultError("B023", root.name, what, _FIX)
    return cells, matrix


def _read_cells(path: Path) -> tuple[Any, NDArray[np.float64]]:
    """Return (C,) ids as Arrow text and (C, 2) centroids in micrometres."""
    table = read_parquet(path, _COLUMNS) if path.suffix == ".parquet" else _read_csv(path)
    if not table.num_rows:
        raise SourceFaultError("B047", path.name, "the table is empty", _FIX)
    ids = as_ids(table["cell_id"], path)
    try:
        columns = [pc.cast(table[name], pa.float64()).to_numpy() for name in _COLUMNS[1:]]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        what = f"x_centroid and y_centroid must be numbers: {error!s:.80}"
        raise SourceFaultError("B047", path.name, what, _FIX) from None
    return ids, np.stack(columns, axis=1).astype(np.float64)


def _read_csv(path: Path) -> Any:  # noqa: ANN401 - pyarrow's table
    types = {"cell_id": pa.string(), "x_centroid": pa.float64(), "y_centroid": pa.float64()}
    try:
        with open_bytes(path) as file:
            return pyarrow.csv.read_csv(
                file,
                pyarrow.csv.ReadOptions(use_threads=False),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types=types, include_columns=list(_COLUMNS)
                ),
            )
    except (pa.ArrowInvalid, KeyError) as error:
        said = (str(error) or "?").splitlines()[0][:100]
        what = f"expected the columns {', '.join(_COLUMNS)}: {said}"
        raise SourceFaultError("B047", path.name, what, _FIX) from None
