"""Space Ranger output folders of every generation, and Visium HD's binned outputs.

Given the sample folder, its ``outs``, a ``square_*um`` folder, or the matrix itself. Which files
belong together, and the formats of the matrix and of the positions, are other modules' business.
"""

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stbuild.config import GridConfig
from stbuild.corpus.errors import BadInputError
from stbuild.slices import Notice, SliceRecord
from stbuild.sources.anndata_columns import require_part
from stbuild.sources.faults import Faults, SourceFaultError
from stbuild.sources.placed import place_by_table
from stbuild.sources.raw import RawSlice
from stbuild.sources.spaceranger_files import RunFiles, find_files
from stbuild.sources.tenx_h5 import TenxMatrix, read_tenx_h5
from stbuild.sources.tenx_mtx import open_bytes, read_tenx_mtx
from stbuild.sources.tissue_positions import (
    TissuePositions,
    is_tissue_positions,
    match_barcodes,
    read_tissue_positions,
)

_MAX_JSON_BYTES: Final = 1 << 20
_ENDING: Final = re.compile(r"-(\d+)$")
_SAMPLE: Final = "sample"
_VISIUM_PITCH_UM: Final = 100.0
"""Distance of neighbouring spots on every Visium slide of spots."""


def read_spaceranger(
    record: SliceRecord, config: GridConfig, scratch: Path | None = None
) -> RawSlice:
    """Read one section of a Space Ranger run.

    Spots of the matrix without a position, and positions on the tissue without counts, are
    counted in the ledger.

    Parameters
    ----------
    record
        Folder or matrix; ``part`` names one of several bin sizes; ``positions`` a table that
        stands elsewhere.
    config
        ``layer`` ``raw`` or ``filtered`` chooses the matrix; ``gene_id_column`` ``name`` takes
        symbols as ids.
    scratch
        Folder for counts that do not fit into memory.

    Raises
    ------
    BadInputError, SourceFaultError
        Missing or damaged files, a matrix of probes, barcodes that the positions do not have.
    """
    files = find_files(record, config.layer)
    faults = Faults()
    known = is_tissue_positions(files.positions)
    positions = None
    if known:
        positions = faults.attempt(lambda: read_tissue_positions(files.positions))
    scale = faults.attempt(lambda: _read_scale(files.scalefactors))
    try:
        matrix = faults.attempt(lambda: _read_matrix(record, config, files.matrix, scratch))
    except BadInputError as error:
        if not faults.found:
            raise
        others = faults.error(record.name, record.path).problems
        raise BadInputError(*error.problems, *others) from None
    if faults.found or scale is None or matrix is None:
        raise faults.error(record.name, record.path)
    raw = _without_places(record, config, files, matrix)
    if positions is None:
        subject = f"slice '{record.name}'"
        raw = place_by_table(raw, files.positions, subject=subject)
    else:
        raw = _place(raw, positions, scale, files.positions)
    return require_part(raw, replace(record, part=files.part), scratch)


def _without_places(
    record: SliceRecord, config: GridConfig, files: RunFiles, matrix: TenxMatrix
) -> RawSlice:
    ids, names = matrix.gene_ids(config.gene_id_column)
    scale = [] if files.scalefactors is None else [files.scalefactors]
    return RawSlice(
        counts=matrix.counts,
        barcodes=matrix.barcodes,
        genes=ids,
        gene_names=names,
        files=tuple(sorted([*matrix.files, files.positions, *scale])),
        ledger=matrix.left_out,
        notices=(*files.notices, *_genome_notice(record, matrix), *matrix.tell(record.name)),
        sections=_samples(record, matrix.barcodes),
    )


def _samples(record: SliceRecord, barcodes: list[str]) -> tuple[str, list[str]] | None:
    """Return the number of the sample at the end of each barcode, where there are several.

    Raises
    ------
    SourceFaultError
        B056: asked to split by anything else.
    """
    found = [match[1] if (match := _ENDING.search(name)) else "" for name in barcodes]
    if record.split_by not in (None, _SAMPLE):
        what = f"no column {record.split_by!r:.60}: barcodes name their sample by a number"
        raise SourceFaultError("B056", "barcodes", what, f"--split-by {_SAMPLE}")
    return (_SAMPLE, found) if record.split_by or len(set(found)) > 1 else None


def _place(
    raw: RawSlice, positions: TissuePositions, scale: dict[str, float], path: Path
) -> RawSlice:
    rows = _match(raw, positions, path)
    array = tuple(_per_spot(a, rows) for a in (positions.array_row, positions.array_col))
    return replace(
        raw,
        array=(array[0], array[1]),
        xy=_per_spot(positions.xy, rows),
        um_per_unit=scale.get("microns_per_pixel"),
        pitch_um=scale.get("bin_size_um", _VISIUM_PITCH_UM if _is_hex(positions) else None),
        in_tissue=(rows >= 0) & positions.in_tissue[np.maximum(rows, 0)],
        placed=None if (rows >= 0).all() else rows >= 0,
        ledger={**_count_unmatched(rows, positions), **raw.ledger},
    )


def _read_matrix(
    record: SliceRecord, config: GridConfig, path: Path, scratch: Path | None
) -> TenxMatrix:
    if not path.name.endswith(".h5"):
        return read_tenx_mtx(path, sum_duplicates=config.sum_duplicates)
    return read_tenx_h5(record.name, path, scratch, sum_duplicates=config.sum_duplicates)


def _match(raw: RawSlice, positions: TissuePositions, path: Path) -> NDArray[np.int64]:
    """Return the (N,) row of each barcode in the table of positions, -1 = none."""
    rows = match_barcodes(raw.barcodes, positions.barcodes)
    if rows.size and not (rows >= 0).any():
        what = (
            f"none of the {rows.size:,} barcodes of the matrix has a position (first: "
            f"{raw.barcodes[0]!r:.40}, the table's first: {positions.barcodes[0].as_py()!r:.40})"
        )
        raise SourceFaultError("B047", path.name, what, "give the positions of the same section")
    return rows


def _per_spot(values: NDArray[np.float64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
    found = values[np.maximum(rows, 0)]
    found[rows < 0] = np.nan
    return found


def _count_unmatched(rows: NDArray[np.int64], positions: TissuePositions) -> dict[str, int]:
    free = positions.in_tissue.copy()
    free[rows[rows >= 0]] = False
    return {
        "spots_without_position": int(np.count_nonzero(rows < 0)),
        "positions_without_counts": int(np.count_nonzero(free)),
    }


def _is_hex(positions: TissuePositions) -> bool:
    """Tell whether the array is that of Visium's spots: row + col even, rows of both parities."""
    row, col = positions.array_row, positions.array_col
    return bool(np.all((row + col) % 2 == 0) and np.any(row % 2 == 1))


def _genome_notice(record: SliceRecord, matrix: TenxMatrix) -> tuple[Notice, ...]:
    if len(matrix.genomes) < 2:
        return ()
    what = f"genes of {len(matrix.genomes)} genomes: {', '.join(matrix.genomes)}"
    return (Notice(code="B068", subject=f"slice '{record.name}'", what=what),)


def _read_scale(path: Path | None) -> dict[str, float]:
    """Return what the scale factors say in micrometres; only Visium HD says anything."""
    if path is None:
        return {}
    with open_bytes(path) as file:
        text = file.read(_MAX_JSON_BYTES + 1)
    if len(text) > _MAX_JSON_BYTES:
        what = f"more than {_MAX_JSON_BYTES:,} bytes, expected a few hundred"
        raise SourceFaultError("B004", path.name, what, "get it again, or remove it")
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        what = f"not JSON: {error!s:.100}"
        raise SourceFaultError("B004", path.name, what, "get it again, or remove it") from None
    known = value if isinstance(value, dict) else {}
    return {
        name: _positive(known[name], name, path)
        for name in ("microns_per_pixel", "bin_size_um")
        if known.get(name) is not None
    }


def _positive(value: object, name: str, path: Path) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(float(str(value))) or float(str(value)) <= 0:
        what = f"expected a positive number, got {value!r:.40}"
        raise SourceFaultError("B047", f"{path.name}:{name}", what, "get it again, or remove it")
    return float(str(value))
