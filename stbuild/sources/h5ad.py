"""The ``.h5ad`` reader: one section of a file, or every fault of it at once.

Only the paths that are needed are opened; counts are never guessed from a transformed matrix. What
columns mean is shared with the AnnData-Zarr reader in :mod:`stbuild.sources.anndata_columns`.
"""

from pathlib import Path
from typing import Final

import h5py
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from stbuild.config import GridConfig
from stbuild.slices import Notice, SliceRecord
from stbuild.sources.anndata_columns import (
    Labels,
    check_positions,
    is_whole,
    position_key,
    read_gene_ids,
    read_gene_types,
    read_labels,
    read_places,
    read_planes,
    read_sections,
    require_part,
)
from stbuild.sources.faults import Faults, SourceFaultError
from stbuild.sources.h5ad_frames import CompoundFrame, H5Frame, open_frame, read_element
from stbuild.sources.hdf5 import child, has, open_foreign
from stbuild.sources.ids import require_spots
from stbuild.sources.matrices import read_counts
from stbuild.sources.raw import RawSlice

_VISIUM_PITCH_UM: Final = 100.0
"""Distance of Visium spots; CELLxGENE files with array coordinates are Visium by their schema."""


def read_h5ad(record: SliceRecord, config: GridConfig, scratch: Path | None = None) -> RawSlice:
    """Read one ``.h5ad`` file, or the one section of it that the record names.

    Parameters
    ----------
    record
        Which file, under which id; ``split_by`` and ``part`` choose a section of it.
    config
        Layer, label column and gene id column.
    scratch
        Folder for counts that do not fit into memory.

    Raises
    ------
    BadInputError
        Every fault of the file: container, matrix, coordinates, labels.
    """
    faults = Faults()
    with open_foreign(record.name, record.path) as file:
        missing = [f"/{name}" for name in ("obs", "var") if not has(file, name)]
        if missing:
            what = f"not an AnnData file: missing {', '.join(missing)}"
            raise SourceFaultError("B006", "", what, _advise(file))
        single = _read_is_single(record, file)
        layer, notices = _choose_layer(record, file, config.layer, single=single)
        matrix_path, var_path = _locate(file, layer)
        obs, var = open_frame(file, "obs"), open_frame(file, var_path)
        barcodes = faults.attempt(obs.index)
        ids = faults.attempt(lambda: read_gene_ids(var, config.gene_id_column))
        types = faults.attempt(lambda: read_gene_types(var))
        if barcodes is None:  # nothing else of obs can be judged
            raise faults.error(record.name, record.path)
        n = len(barcodes)
        needed = record.positions is None
        places = faults.attempt(
            lambda: read_places(obs, _positions(file, n), n, needed=needed, obsm=_list_obsm(file))
        )
        labels = faults.attempt(lambda: read_labels(obs, record, config, n)) or Labels()
        sections = faults.attempt(lambda: read_sections(obs, record.split_by, n))
        depths = None if places is None else places.depths
        planes = faults.attempt(lambda: read_planes(obs, n, depths))
        counts = None
        if ids is not None:
            if is_whole(record):
                # Intake checks ids too; here they join the other faults of the file.
                faults.attempt(lambda: require_spots(barcodes))
            shape = (len(barcodes), len(ids[0]))
            counts = faults.attempt(lambda: _counts(file, matrix_path, shape, scratch, config))
        notices += _primary_notice(record, obs)
    if faults.found or ids is None or places is None or counts is None:
        raise faults.error(record.name, record.path)
    is_visium = single is True and places.array is not None
    raw = RawSlice(
        counts=counts,
        barcodes=barcodes,
        genes=ids[0],
        gene_names=ids[1],
        gene_types=types,
        array=places.array,
        xy=places.xy,
        unit=places.unit,
        pitch_um=_VISIUM_PITCH_UM if is_visium else None,
        in_tissue=places.in_tissue,
        labels=labels.values,
        files=(Path(record.path),),
        notices=(*notices, *labels.notices),
        sections=sections,
        planes=planes,
    )
    return require_part(raw, record, scratch)


def _advise(file: h5py.File) -> str:
    """Say what to do with an HDF5 file that is no AnnData."""
    if has(file, "matrix/barcodes"):
        return "this is a 10x matrix: give the Space Ranger folder, or --format spaceranger"
    if has(file, "mod"):
        return "this is a MuData file: write its RNA modality with anndata"
    if has(file, "row_attrs"):
        return "this is a loom file: convert it with anndata.io.read_loom"
    return "give an .h5ad file written by anndata"


def _read_is_single(record: SliceRecord, file: h5py.File) -> bool | None:
    """Return whether a CELLxGENE file says that it holds one section (``is_single``), or None.

    Raises
    ------
    SourceFaultError
        B056: it says that it holds several, and nobody said which column tells them apart.
    """
    path = "uns/spatial/is_single"
    if not has(file, path):
        return None
    value = child(file, path)
    if isinstance(value, h5py.Dataset) and value.shape == () and bool(value[()]):
        return True
    if record.split_by is None:
        what = "a CELLxGENE file with is_single = false: several sections, no array coordinates"
        fix = "--split-by COLUMN builds each section; or take the data set's files of single ones"
        raise SourceFaultError("B056", f"/{path}", what, fix)
    return False


def _choose_layer(
    record: SliceRecord, file: h5py.File, layer: str | None, *, single: bool | None
) -> tuple[str | None, tuple[Notice, ...]]:
    """Return where the counts are; by CELLxGENE's schema in ``raw.X`` if there is one."""
    if layer is not None or single is None or not has(file, "raw/X"):
        return layer, ()
    what = "CELLxGENE file: counts taken from raw.X, as its schema says; --layer X overrides"
    return "raw", (Notice(code="B025", subject=f"slice '{record.name}'", what=what),)


def _locate(file: h5py.File, layer: str | None) -> tuple[str, str]:
    path, var = "X", "var"
    if layer == "raw":
        # Before anndata 0.7 a dot stood for the slash.
        path, var = ("raw.X", "raw.var") if has(file, "raw.X") else ("raw/X", "raw/var")
    elif layer is not None and layer != "X":
        path = f"layers/{layer}"
    if not has(file, path):
        places = ", ".join(_matrices(file)) or "none"
        what = f"no counts in {path}; matrices present: {places}"
        raise SourceFaultError("B023", f"/{path}", what, "name one of them with --layer")
    return path, var


def _matrices(file: h5py.File) -> list[str]:
    found = ["X"] if has(file, "X") else []
    found += ["raw"] if has(file, "raw/X") or has(file, "raw.X") else []
    if has(file, "layers") and isinstance(layers := child(file, "layers"), h5py.Group):
        found += sorted(layers, key=str)  # a damaged name may be bytes
    return found


def _counts(
    file: h5py.File,
    path: str,
    shape: tuple[int, int],
    scratch: Path | None,
    config: GridConfig,
) -> csr_array:
    try:
        return read_counts(child(file, path), shape, scratch, sum_duplicates=config.sum_duplicates)
    except SourceFaultError as fault:
        if fault.code not in ("B028", "B029", "B030"):
            raise
        others = [name for name in _matrices(file) if _looks_like_counts(file, name)]
        advice = "give a file with raw counts; no other matrix of this file holds counts"
        if others:
            named = ", ".join(_describe_matrix(file, name) for name in others)
            advice = f"{named} looks like counts: pass --layer {others[0]}"
        raise SourceFaultError(fault.code, fault.field, fault.what, advice) from None


def _describe_matrix(file: h5py.File, name: str) -> str:
    """Return a matrix's name; that of ``raw`` with its genes, which may be others."""
    if name != "raw":
        return f"'{name}'"
    n_genes = len(open_frame(file, _locate(file, name)[1]).index())
    return f"'raw' (with its own {n_genes:,} genes)"


def _looks_like_counts(file: h5py.File, name: str) -> bool:
    try:
        node = child(file, _locate(file, name)[0])
        data = node if isinstance(node, h5py.Dataset) else child(node, "data")
        sample = np.asarray(data[:100], np.float64)
    except (SourceFaultError, ValueError, TypeError):
        return False
    whole = np.isfinite(sample) & (sample >= 0) & (sample == np.floor(sample))
    return bool(whole.all())


def _list_obsm(file: h5py.File) -> list[str]:
    """Return the names in obsm, which was a compound data set before anndata 0.7."""
    if not has(file, "obsm"):
        return []
    node = child(file, "obsm")
    return sorted(node) if isinstance(node, h5py.Group) else list(node.dtype.names or ())


def _positions(file: h5py.File, n_spots: int) -> NDArray[np.float64] | None:
    key = position_key(_list_obsm(file))
    if key is None:
        return None
    node, where = child(file, "obsm"), f"/obsm/{key}"
    values = node[key] if isinstance(node, h5py.Dataset) else read_element(node, key)
    return check_positions(values, n_spots, where)


def _primary_notice(record: SliceRecord, obs: H5Frame | CompoundFrame) -> tuple[Notice, ...]:
    """Say where CELLxGENE marks spots that stand in another file too."""
    if "is_primary_data" not in obs.columns():
        return ()
    values = np.asarray(obs.read("is_primary_data"))
    if values.dtype != np.bool_ or values.all():
        return ()
    what = (
        f"{np.count_nonzero(~values):,} of {values.size:,} spots are not primary data: the same "
        "section stands in another file too; take one of them"
    )
    return (Notice(code="B010", subject=f"slice '{record.name}'", what=what),)
