"""SpatialData Zarr stores: a table of counts, and where its rows lie.

The table is an AnnData and is read as one. Where it has no positions of its own, the centroids of
the shapes that it annotates are taken, which needs the package ``spatialdata``.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stbuild.config import GridConfig
from stbuild.corpus.errors import PlatformError, Problem
from stbuild.slices import SliceRecord
from stbuild.sources.anndata_zarr import (
    list_names,
    open_inside,
    open_store,
    read_table_group,
)
from stbuild.sources.faults import SourceFaultError
from stbuild.sources.raw import RawSlice


def looks_like_spatialdata(path: Path) -> bool:
    """Tell by names alone whether a Zarr folder is a SpatialData store."""
    tables = [path / name for name in ("tables", "table")]
    return any(folder.is_dir() for folder in tables) and not (path / "obs").is_dir()


def read_spatialdata(
    record: SliceRecord, config: GridConfig, scratch: Path | None = None
) -> RawSlice:
    """Read one table of a SpatialData store; ``part`` names it where there are several.

    Raises
    ------
    BadInputError, SourceFaultError
        No table, several and none named, or any fault of the table.
    PlatformError
        Its positions are shapes, and ``spatialdata`` is not installed.
    """
    root = open_store(Path(record.path))
    folder = "tables" if "tables" in root else "table"
    name = _choose_table(folder, list_names(root, folder), record.part)
    table = open_inside(root, name)
    known = ("obsm/spatial", "obsm/X_spatial", "obs/array_row")
    if any(path in table for path in known):
        return read_table_group(record, config, table, scratch)
    places = _centroids(record, name.rsplit("/", 1)[-1])
    return read_table_group(record, config, table, scratch, positions=places)


def _choose_table(folder: str, found: list[str], part: str | None) -> str:
    if part is not None and part in found:
        return f"{folder}/{part}"
    if len(found) == 1 and part is None:
        return f"{folder}/{found[0]}"
    what = f"{len(found)} tables: {', '.join(found[:8])}" + (f"; no '{part}'" if part else "")
    fix = "name one in the column `part` of a sample sheet"
    raise SourceFaultError("B056", f"/{folder}", what, fix)


def _centroids(record: SliceRecord, table: str) -> NDArray[np.float64]:
    """Return (N, 2) centroids of the elements that a table annotates, in its order."""
    try:
        import spatialdata
    except ImportError as error:
        raise PlatformError(
            Problem(
                code="E009",
                subject="spatialdata",
                where=record.path,
                what=f"the positions of this store are shapes, which need it, but {error}",
                fix="pip install 'stcorpus[spatialdata]'",
            )
        ) from error
    data = spatialdata.read_zarr(record.path)
    rows = data.tables[table]
    keys = rows.uns["spatialdata_attrs"]
    regions, ids = rows.obs[keys["region_key"]].astype(str), rows.obs[keys["instance_key"]]
    found = np.full((rows.n_obs, 2), np.nan)
    for region in sorted(set(regions)):
        centres = spatialdata.get_centroids(data[region]).compute()
        mine = (regions == region).to_numpy()
        found[mine] = centres.reindex(ids[mine].to_numpy())[["x", "y"]].to_numpy()
    return found
