"""Space Ranger output folders of every generation, and Visium HD's binned outputs.

Given the sample folder, its ``outs``, a ``square_*um`` folder, or the matrix itself. Filtered
matrices are preferred to raw ones and ``.h5`` to ``.mtx``; what was taken is said. The formats of
the matrix and of the positions are other modules' business.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stbuild.config import GridConfig
from stbuild.corpus.errors import BadInputError
from stbuild.slices import Notice, SliceRecord
from stbuild.sources.faults import Faults, SourceFaultError
from stbuild.sources.raw import RawSlice
from stbuild.sources.tenx_h5 import TenxMatrix, read_tenx_h5
from stbuild.sources.tenx_mtx import read_tenx_mtx
from stbuild.sources.tissue_positions import (
    NAMES,
    TissuePositions,
    match_barcodes,
    read_tissue_positions,
)

_KINDS: Final = ("filtered", "raw")
_SCALE: Final = "scalefactors_json.json"
_MAX_JSON_BYTES: Final = 1 << 20
_VISIUM_PITCH_UM: Final = 100.0
"""Distance of neighbouring spots on every Visium slide of spots."""


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """What belongs to one section."""

    matrix: Path
    positions: Path
    scalefactors: Path | None
    notices: tuple[Notice, ...]


def looks_like_spaceranger(path: Path) -> bool:
    """Tell by names alone whether a folder is an output of Space Ranger."""
    if not path.is_dir():
        return False
    for root in (path, path / "outs"):
        has_spatial = any((root / "spatial" / name).is_file() for name in NAMES)
        if has_spatial or _bins(root) or _matrices(root, None):
            return True
        if (root / "raw_probe_bc_matrix.h5").is_file():
            return True
    named = path.name.endswith("_feature_bc_matrix") or path.parent.name.endswith("_bc_matrices")
    return (named and _is_mtx(path)) or any((path / name).is_file() for name in NAMES)


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
    parts = _find_parts(record, config)
    faults = Faults()
    positions = faults.attempt(lambda: read_tissue_positions(parts.positions))
    scale = faults.attempt(lambda: _read_scale(parts.scalefactors))
    try:
        matrix = faults.attempt(lambda: _read_matrix(record, config, parts.matrix, scratch))
    except BadInputError as error:
        if not faults.found:
            raise
        others = faults.error(record.name, record.path).problems
        raise BadInputError(*error.problems, *others) from None
    if positions is None or scale is None or matrix is None:
        raise faults.error(record.name, record.path)
    ids, names = matrix.gene_ids(config.gene_id_column)
    rows = _match(matrix, positions, parts.positions)
    array = tuple(_per_spot(a, rows) for a in (positions.array_row, positions.array_col))
    files = [*matrix.files, parts.positions, *([parts.scalefactors] if parts.scalefactors else [])]
    return RawSlice(
        counts=matrix.counts,
        barcodes=matrix.barcodes,
        genes=ids,
        gene_names=names,
        array=(array[0], array[1]),
        xy=_per_spot(positions.xy, rows),
        um_per_unit=scale.get("microns_per_pixel"),
        pitch_um=scale.get("bin_size_um", _VISIUM_PITCH_UM if _is_hex(positions) else None),
        in_tissue=(rows >= 0) & positions.in_tissue[np.maximum(rows, 0)],
        files=tuple(sorted(files)),
        ledger={**_count_unmatched(rows, positions), **matrix.left_out},
        notices=(*parts.notices, *_genome_notice(record, matrix)),
    )


def _read_matrix(
    record: SliceRecord, config: GridConfig, path: Path, scratch: Path | None
) -> TenxMatrix:
    if path.is_dir():
        return read_tenx_mtx(path, sum_duplicates=config.sum_duplicates)
    return read_tenx_h5(record.name, path, scratch, sum_duplicates=config.sum_duplicates)


def _match(matrix: TenxMatrix, positions: TissuePositions, path: Path) -> NDArray[np.int64]:
    """Return the (N,) row of each barcode in the table of positions, -1 = none."""
    rows = match_barcodes(matrix.barcodes, positions.barcodes)
    if rows.size and not (rows >= 0).any():
        what = (
            f"none of the {rows.size:,} barcodes of the matrix has a position (first: "
            f"{matrix.barcodes[0]!r:.40}, the table's first: {positions.barcodes[0].as_py()!r:.40})"
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


def _find_parts(record: SliceRecord, config: GridConfig) -> _Parts:
    """Find matrix and positions; raise what is missing of both at once."""
    path, faults = Path(record.path), Faults()
    notices: tuple[Notice, ...] = ()
    matrix: Path | None = path
    if path.is_dir() and not _is_mtx(path):
        root = _choose_bins(_enter(path), record.part)
        matrix = faults.attempt(lambda: _choose_matrix(root, config.layer))
        if matrix is not None:
            notices = _choice_notice(record, root, matrix)
    else:
        root = path.parent.parent if path.parent.name.endswith("_bc_matrices") else path.parent
    places = [root / "spatial", root, root.parent / "spatial", path]
    positions = faults.attempt(lambda: _find_positions(record, root, places))
    if matrix is None or positions is None:
        raise faults.error(record.name, record.path)
    scale = next((file for place in places if (file := place / _SCALE).is_file()), None)
    return _Parts(matrix=matrix, positions=positions, scalefactors=scale, notices=notices)


def _enter(path: Path) -> Path:
    outs = path / "outs"
    return outs if outs.is_dir() and not _matrices(path, None) else path


def _bins(root: Path) -> list[Path]:
    """Return the folders of the bin sizes of a Visium HD run, sorted; none of any other."""
    folder = root if root.name == "binned_outputs" else root / "binned_outputs"
    return sorted(entry for entry in folder.glob("square_*um") if entry.is_dir())


def _choose_bins(root: Path, part: str | None) -> Path:
    """Return the folder of one bin size of a Visium HD run, or the folder itself."""
    bins = {folder.name: folder for folder in _bins(root)}
    if not bins:
        if part in (None, root.name):
            return root
        what = f"no part {part!r:.40}: this is one section, without bin sizes to choose from"
        raise SourceFaultError("B056", root.name, what, "leave the column `part` empty")
    wanted = (part, f"square_{part}", f"square_{part}um") if part else ()
    chosen = next((name for name in wanted if name in bins), None)
    if chosen is None and part is None and len(bins) == 1:
        chosen = next(iter(bins))
    if chosen is not None:
        return bins[chosen]
    what = f"{len(bins)} bin sizes: {', '.join(bins)}" + (f"; no {part!r:.40}" if part else "")
    fix = (
        f"give one of the folders, such as binned_outputs/{list(bins)[-1]}, or name it in the "
        "column `part` of a sample sheet"
    )
    raise SourceFaultError("B056", "binned_outputs", what, fix)


def _is_mtx(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("matrix.mtx.gz", "matrix.mtx"))


def _matrices(root: Path, layer: str | None) -> list[list[Path]]:
    """Return the matrices of a folder in groups, the preferred group first, none of them empty."""
    groups: list[list[Path]] = []
    for kind in _KINDS if layer is None else (layer,):
        stems = f"*{kind}_feature_bc_matrix", f"*{kind}_gene_bc_matrices"
        groups.append(
            sorted(file for stem in stems for file in root.glob(f"{stem}*.h5") if file.is_file())
        )
        folders = [f for stem in stems for f in sorted(root.glob(stem)) if f.is_dir()]
        inside = [entry for folder in folders for entry in (folder, *sorted(folder.iterdir()))]
        groups.append(sorted(entry for entry in inside if entry.is_dir() and _is_mtx(entry)))
    return [group for group in groups if group]


def _choose_matrix(root: Path, layer: str | None) -> Path:
    if layer not in (None, *_KINDS):
        what = f"no layer {layer!r:.40}: Space Ranger has 'filtered' and 'raw' matrices"
        raise SourceFaultError("B023", root.name, what, "--layer filtered or raw, or none")
    groups = _matrices(root, layer)
    if not groups:
        raise _no_matrix(root, layer)
    if len(groups[0]) > 1:
        listed = ", ".join(path.relative_to(root).as_posix() for path in groups[0][:5])
        what = f"{len(groups[0])} matrices of different samples or genomes: {listed}"
        raise SourceFaultError("B056", root.name, what, "give the one matrix itself as the path")
    return groups[0][0]


def _no_matrix(root: Path, layer: str | None) -> SourceFaultError:
    if (root / "raw_probe_bc_matrix.h5").is_file():
        what = "a matrix of probes alone"
        fix = "give filtered_feature_bc_matrix.h5 of the same run, where probes are summed"
        return SourceFaultError("B007", "raw_probe_bc_matrix.h5", what, fix)
    listed = ", ".join(sorted(entry.name[:60] for entry in root.iterdir())[:6]) or "nothing"
    stem = "filtered_ or raw_" if layer is None else f"{layer}_"
    what = f"no counts: no {stem}feature_bc_matrix (.h5 or folder); it holds {listed}"
    return SourceFaultError("B023", root.name, what, "give the whole outs folder of Space Ranger")


def _choice_notice(record: SliceRecord, root: Path, taken: Path) -> tuple[Notice, ...]:
    found = [path for group in _matrices(root, None) for path in group if path != taken]
    if not found:
        return ()
    others = ", ".join(path.relative_to(root).as_posix() for path in found[:3])
    what = (
        f"took {taken.relative_to(root).as_posix()}; {others} beside it were not read "
        "(--layer raw or filtered chooses)"
    )
    return (Notice(code="B025", subject=f"slice '{record.name}'", what=what),)


def _find_positions(record: SliceRecord, root: Path, places: list[Path]) -> Path:
    if record.positions is not None:
        given = Path(record.positions)
        if not given.is_file():
            raise SourceFaultError("B001", given.name, "no such file", "check --positions")
        return given
    for place in places:
        for name in NAMES:
            if (place / name).is_file():
                return place / name
    what = f"no positions: none of {', '.join(NAMES)} in spatial/"
    raise SourceFaultError("B046", root.name, what, "add it, or name the table with --positions")


def _read_scale(path: Path | None) -> dict[str, float]:
    """Return what the scale factors say in micrometres; only Visium HD says anything."""
    if path is None:
        return {}
    if path.stat().st_size > _MAX_JSON_BYTES:
        what = f"{path.stat().st_size:,} bytes, expected a few hundred"
        raise SourceFaultError("B004", path.name, what, "get it again, or remove it")
    try:
        value: Any = json.loads(path.read_bytes())
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
