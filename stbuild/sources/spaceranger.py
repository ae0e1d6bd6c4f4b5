"""Space Ranger output folders of every generation, and Visium HD's binned outputs.

Given the sample folder, its ``outs``, a ``square_*um`` folder, or the matrix file itself. Filtered
matrices are preferred to raw ones and ``.h5`` to ``.mtx``; what was taken is said.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from stbuild.config import GridConfig
from stbuild.slices import Notice, SliceRecord
from stbuild.sources.faults import SourceFaultError
from stbuild.sources.raw import RawSlice
from stbuild.sources.tenx import TenxMatrix, read_tenx_h5, read_tenx_mtx
from stbuild.sources.tissue_positions import (
    NAMES,
    TissuePositions,
    match_barcodes,
    read_tissue_positions,
)

_MATRICES: Final = ("filtered_feature_bc_matrix", "filtered_gene_bc_matrices",
                    "raw_feature_bc_matrix", "raw_gene_bc_matrices")  # fmt: skip
_MAX_JSON_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class _Parts:
    """What belongs to one section."""

    matrix: Path
    positions: Path
    scalefactors: Path | None
    notices: tuple[str, ...]


def looks_like_spaceranger(path: Path) -> bool:
    """Tell by names alone whether a folder is an output of Space Ranger."""
    if not path.is_dir():
        return False
    roots = [path, path / "outs"]
    for root in roots:
        has_spatial = any((root / "spatial" / name).is_file() for name in NAMES)
        if (root / "binned_outputs").is_dir() or has_spatial or _matrices(root):
            return True
        if (root / "raw_probe_bc_matrix.h5").is_file():
            return True
    return any((path / name).is_file() for name in NAMES)


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
    positions = read_tissue_positions(parts.positions)
    if parts.matrix.is_dir():
        matrix = read_tenx_mtx(parts.matrix)
    else:
        matrix = read_tenx_h5(record.name, parts.matrix, scratch)
    scale, files = _read_scale(parts.scalefactors), [*matrix.files, parts.positions]
    files += [parts.scalefactors] if parts.scalefactors else []
    said = [*parts.notices]
    if len(matrix.genomes) > 1:
        said.append(f"genes of {len(matrix.genomes)} genomes: {', '.join(matrix.genomes)}")
    notices = tuple(
        Notice(code="B007", subject=f"slice '{record.name}'", what=what) for what in said
    )
    return _join(config, matrix, positions, scale, tuple(sorted(files)), notices)


def _join(
    config: GridConfig,
    matrix: TenxMatrix,
    positions: TissuePositions,
    scale: dict[str, float],
    files: tuple[Path, ...],
    notices: tuple[Notice, ...],
) -> RawSlice:
    rows, _ = match_barcodes(matrix.barcodes, positions.barcodes)
    found = rows >= 0
    if len(rows) and not found.any():
        what = (
            f"none of the {len(rows):,} barcodes of the matrix has a position (first: "
            f"{matrix.barcodes[0]!r:.40}, the table's first: {positions.barcodes[0]!r:.40})"
        )
        raise SourceFaultError("B047", "spatial", what, "give the positions of the same section")
    place = np.where(found, rows, 0)
    taken = np.zeros(positions.barcodes.size, bool)
    taken[rows[found]] = True
    ledger = {
        "spots_without_position": int(np.count_nonzero(~found)),
        "positions_without_counts": int(np.count_nonzero(positions.in_tissue & ~taken)),
        **matrix.left_out,
    }

    def per_spot(values: Any) -> Any:  # noqa: ANN401 - arrays of one or two dimensions
        return np.where(found if values.ndim == 1 else found[:, None], values[place], np.nan)

    swap = config.gene_id_column in ("name", "gene_name", "feature_name")
    um = scale.get("microns_per_pixel")
    return RawSlice(
        counts=matrix.counts,
        barcodes=matrix.barcodes,
        genes=matrix.names if swap else matrix.ids,
        gene_names=matrix.ids if swap else matrix.names,
        array=(per_spot(positions.array_row), per_spot(positions.array_col)),
        xy=per_spot(positions.xy),
        um_per_unit=um,
        pitch_um=scale.get("bin_size_um"),
        in_tissue=found & positions.in_tissue[place],
        files=files,
        ledger=ledger,
        notices=notices,
    )


def _find_parts(record: SliceRecord, config: GridConfig) -> _Parts:
    path = Path(record.path)
    notices: tuple[str, ...] = ()
    if path.is_file():
        root, chosen = path.parent, path
    else:
        root = _choose_bins(_enter(path), record.part)
        chosen, notices = _choose_matrix(root, config.layer)
    positions = _find_positions(record, root)
    scalefactors = next(
        (
            file
            for folder in (root / "spatial", root, root.parent / "spatial")
            if (file := folder / "scalefactors_json.json").is_file()
        ),
        None,
    )
    return _Parts(chosen, positions, scalefactors, notices)


def _enter(path: Path) -> Path:
    outs = path / "outs"
    return outs if outs.is_dir() and not _matrices(path) else path


def _choose_bins(root: Path, part: str | None) -> Path:
    """Return the folder of one bin size of a Visium HD run, or the folder itself."""
    binned = root / "binned_outputs"
    if not binned.is_dir():
        return root
    found = sorted(folder.name for folder in binned.glob("square_*um") if folder.is_dir())
    wanted = part if part in found else f"square_{part}"
    if wanted in found:
        return binned / wanted
    if len(found) == 1 and part is None:
        return binned / found[0]
    what = f"{len(found)} bin sizes: {', '.join(found)}" + (f"; no '{part}'" if part else "")
    fix = f"give one of the folders, such as {root.name}/binned_outputs/{(found or ['...'])[-1]}"
    raise SourceFaultError("B056", "binned_outputs", what, fix)


def _matrices(root: Path) -> list[Path]:
    """Return the matrices of a folder, the preferred one first."""
    found: list[Path] = []
    for name in _MATRICES:
        found += sorted(file for file in root.glob(f"*{name}.h5") if file.is_file())
        folder = root / name
        if not folder.is_dir():
            continue
        inside = [folder, *sorted(entry for entry in folder.iterdir() if entry.is_dir())]
        found += [f for f in inside if any(f.glob("matrix.mtx*"))]
    return found


def _choose_matrix(root: Path, layer: str | None) -> tuple[Path, tuple[str, ...]]:
    found = _matrices(root)
    if layer in ("raw", "filtered"):
        found = [path for path in found if f"{layer}_" in str(path.relative_to(root))]
    if not found:
        if (root / "raw_probe_bc_matrix.h5").is_file():
            what = "a matrix of probes alone"
            fix = "give filtered_feature_bc_matrix.h5 of the same run, where probes are summed"
            raise SourceFaultError("B007", "raw_probe_bc_matrix.h5", what, fix)
        listed = ", ".join(sorted(entry.name for entry in root.iterdir())[:6]) or "nothing"
        what = f"no counts: no {'filtered_ or raw_' if layer is None else layer + '_'}feature_bc"
        fix = "give the whole outs folder of Space Ranger"
        raise SourceFaultError("B023", root.name, f"{what}_matrix; it holds {listed}", fix)
    taken = found[0].relative_to(root).as_posix()
    others = [path.relative_to(root).as_posix() for path in found[1:]]
    if not others:
        return found[0], ()
    return found[0], (f"took {taken}; {', '.join(others[:3])} beside it were not read",)


def _find_positions(record: SliceRecord, root: Path) -> Path:
    if record.positions is not None:
        given = Path(record.positions)
        if not given.is_file():
            raise SourceFaultError("B001", str(given.name), "no such file", "check --positions")
        return given
    for folder in (root / "spatial", root, root.parent / "spatial", root / "outs" / "spatial"):
        for name in NAMES:
            if (folder / name).is_file():
                return folder / name
    what = f"no positions: none of {', '.join(NAMES)} in spatial/"
    raise SourceFaultError("B046", root.name, what, "add it, or name the table with --positions")


def _read_scale(path: Path | None) -> dict[str, float]:
    """Return what the scale factors say in micrometres; only Visium HD says anything."""
    if path is None or path.stat().st_size > _MAX_JSON_BYTES:
        return {}
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        what = f"not JSON: {error}"
        raise SourceFaultError("B004", path.name, what, "get it again, or remove it") from None
    names = ("microns_per_pixel", "bin_size_um")
    known = value if isinstance(value, dict) else {}
    return {
        name: float(known[name])
        for name in names
        if isinstance(known.get(name), int | float) and known[name] > 0
    }
