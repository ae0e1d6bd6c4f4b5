"""The ``.h5ad`` reader: one section of a file, or every fault of it at once.

Only the paths that are needed are opened; counts are never guessed from a transformed matrix. What
columns mean is shared with the AnnData-Zarr reader in :mod:`stbuild.sources.anndata_columns`.
"""

from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from anndata.io import read_elem
from numpy.typing import NDArray
from scipy.sparse import csr_array

from stbuild.config import GridConfig
from stbuild.slices import Notice, SliceRecord
from stbuild.sources.anndata_columns import (
    check_positions,
    read_gene_ids,
    read_labels,
    read_places,
    read_sections,
    require_part,
)
from stbuild.sources.faults import Faults, SourceFaultError
from stbuild.sources.hdf5 import child, has, open_foreign, read_strings
from stbuild.sources.ids import require_spots
from stbuild.sources.matrices import read_counts
from stbuild.sources.raw import RawSlice

_VISIUM_PITCH_UM: Final = 100.0
"""Distance of Visium spots; CELLxGENE files with array coordinates are Visium by their schema."""


class H5Frame:
    """One data frame of the file (``obs`` or ``var``), column by column."""

    def __init__(self, group: Any) -> None:  # noqa: ANN401 - h5py is untyped
        if not isinstance(group, h5py.Group):
            what = "not a group of columns"
            raise SourceFaultError("B006", group.name, what, "give an .h5ad written by anndata")
        self.group = group
        self.where = str(group.name)

    def columns(self) -> list[str]:
        """Return the names of the columns, sorted, without the index."""
        return sorted(set(self.group) - {self._index_name(), "__categories"})

    def index(self) -> list[str]:
        """Return the index as text."""
        name = self._index_name()
        if not has(self.group, name):
            what = f"no index '{name}' in {self.where}"
            raise SourceFaultError("B006", self.where, what, "write the file with anndata")
        node = child(self.group, name)
        if not isinstance(node, h5py.Dataset):
            return [str(value) for value in read_element(self.group, name)]
        return read_strings(node)

    def read(self, column: str) -> Any:  # noqa: ANN401 - an array or a pandas column
        """Return one column as anndata reads it."""
        return read_element(self.group, column)

    def _index_name(self) -> str:
        return str(self.group.attrs.get("_index", "_index"))


def read_element(parent: h5py.Group, path: str) -> Any:  # noqa: ANN401 - any kind of element
    """Read one element with anndata, which knows its encodings.

    Raises
    ------
    SourceFaultError
        anndata cannot read it: bad codes, repeated categories, an unknown encoding.
    """
    node = child(parent, path)
    if isinstance(node, h5py.Group):
        for part in sorted(node, key=str):  # a damaged name may be bytes
            child(node, str(part))
    try:
        return read_elem(node)
    except Exception as error:  # noqa: BLE001 - a foreign file can make anndata raise anything
        said = (str(error) or type(error).__name__).splitlines()[0][:120]
        fix = "mend the column and write the file again with anndata"
        what = f"anndata cannot read it: {said}"
        raise SourceFaultError("B079", node.name, what, fix) from None


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
        single = _is_single(file)
        layer, notices = _choose_layer(record, file, config.layer, single)
        matrix_path, var_path = _locate(file, layer)
        obs, var = H5Frame(child(file, "obs")), H5Frame(child(file, var_path))
        barcodes = faults.attempt(obs.index)
        n = len(barcodes or ())
        ids = faults.attempt(lambda: read_gene_ids(var, config.gene_id_column))
        places = faults.attempt(lambda: read_places(obs, _positions(file, n), n))
        labels = None
        if (label := config.label) is not None and record.labels_file is None:
            labels = faults.attempt(lambda: read_labels(obs, label, n))
        sections = faults.attempt(lambda: read_sections(obs, record.split_by, n))
        counts = None
        if barcodes is not None and ids is not None:
            # Intake checks ids too; here they join the other faults of the file.
            faults.attempt(lambda: require_spots(barcodes))
            shape = (len(barcodes), len(ids[0]))
            counts = faults.attempt(lambda: _counts(file, matrix_path, shape, scratch, config))
        notices += _primary_notice(record, obs)
    if faults.found or barcodes is None or ids is None or places is None or counts is None:
        raise faults.error(record.name, record.path)
    is_visium = single and places.array is not None
    raw = RawSlice(
        counts=counts,
        barcodes=barcodes,
        genes=ids[0],
        gene_names=ids[1],
        array=places.array,
        xy=places.xy,
        pitch_um=_VISIUM_PITCH_UM if is_visium else None,
        in_tissue=places.in_tissue,
        labels=labels,
        files=(Path(record.path),),
        notices=notices,
        sections=sections,
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


def _is_single(file: h5py.File) -> bool:
    """Tell whether this is a CELLxGENE file of one spatial section (its schema, ``is_single``).

    Raises
    ------
    SourceFaultError
        B056: the file says that it holds several.
    """
    if not has(file, "uns/spatial/is_single"):
        return False
    value = child(file, "uns/spatial/is_single")
    single = isinstance(value, h5py.Dataset) and value.shape == () and bool(value[()])
    if not single:
        what = "a CELLxGENE file with is_single = false: several sections, no array coordinates"
        fix = "take the data set's files of single sections"
        raise SourceFaultError("B056", "/uns/spatial/is_single", what, fix)
    return True


def _choose_layer(
    record: SliceRecord,
    file: h5py.File,
    layer: str | None,
    single: bool,  # noqa: FBT001
) -> tuple[str | None, tuple[Notice, ...]]:
    """Return where the counts are; by CELLxGENE's schema in ``raw.X`` if there is one."""
    if layer is not None or not single or not has(file, "raw/X"):
        return layer, ()
    what = "CELLxGENE file: counts taken from raw.X, as its schema says; --layer X overrides"
    return "raw", (Notice(code="B025", subject=f"slice '{record.name}'", what=what),)


def _locate(file: h5py.File, layer: str | None) -> tuple[str, str]:
    path, var = "X", "var"
    if layer == "raw":
        path, var = "raw/X", "raw/var"
    elif layer is not None and layer != "X":
        path = f"layers/{layer}"
    if not has(file, path):
        places = ", ".join(_matrices(file)) or "none"
        what = f"no counts in {path}; matrices present: {places}"
        raise SourceFaultError("B023", f"/{path}", what, "name one of them with --layer")
    return path, var


def _matrices(file: h5py.File) -> list[str]:
    found = ["X"] if has(file, "X") else []
    found += ["raw"] if has(file, "raw/X") else []
    if has(file, "layers"):
        found += sorted(child(file, "layers"))
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
            named = ", ".join(f"'{name}'" for name in others)
            advice = f"{named} looks like counts: pass --layer {others[0]}"
        raise SourceFaultError(fault.code, fault.field, fault.what, advice) from None


def _looks_like_counts(file: h5py.File, name: str) -> bool:
    path = {"X": "X", "raw": "raw/X"}.get(name, f"layers/{name}")
    try:
        node = child(file, path)
        data = node if isinstance(node, h5py.Dataset) else child(node, "data")
        sample = np.asarray(data[:100], np.float64)
    except (SourceFaultError, KeyError, ValueError, TypeError):
        return False
    whole = np.isfinite(sample) & (sample >= 0) & (sample == np.floor(sample))
    return bool(whole.all())


def _positions(file: h5py.File, n_spots: int) -> NDArray[np.float64] | None:
    for name in ("spatial", "X_spatial"):
        if has(file, f"obsm/{name}"):
            where = f"/obsm/{name}"
            return check_positions(read_element(file, where), n_spots, where)
    return None


def _primary_notice(record: SliceRecord, obs: H5Frame) -> tuple[Notice, ...]:
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
