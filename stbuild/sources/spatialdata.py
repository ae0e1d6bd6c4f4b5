"""SpatialData Zarr stores: a table of counts, and where its rows lie.

The table is an AnnData and is read as one. Where it has no positions of its own, the centroids of
the element that it annotates are taken, which needs the package ``spatialdata``.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import zarr
from numpy.typing import NDArray

from stbuild.config import GridConfig
from stbuild.corpus.errors import PlatformError, Problem
from stbuild.slices import SliceRecord
from stbuild.sources.anndata_zarr import ZarrFrame, read_table_group
from stbuild.sources.faults import SourceFaultError
from stbuild.sources.raw import RawSlice
from stbuild.sources.zarr_store import (
    StoredArray,
    find,
    guard,
    list_files,
    list_names,
    open_inside,
    open_store,
    place_of,
)

_OWN_PLACES: Final = ("obsm/spatial", "obsm/X_spatial", "obs/array_row")
_ELEMENTS: Final = ("shapes", "points", "labels")
_FIX: Final = "name one in the column `part` of a sample sheet"


@dataclass(frozen=True, kw_only=True)
class _Table:
    """One table of the store and the region of it that is wanted."""

    group: zarr.Group
    name: str
    region: str | None
    """None where the rows annotate one region alone, or none is known."""
    region_key: str | None
    """Column of obs that names the region of each row."""
    instance_key: str | None
    """Column of obs with the row's id in its region."""


def looks_like_spatialdata(path: Path) -> bool:
    """Tell by names alone whether a Zarr folder is a SpatialData store."""
    tables = [path / name for name in ("tables", "table")]
    return any(folder.is_dir() for folder in tables) and not (path / "obs").is_dir()


def read_spatialdata(
    record: SliceRecord, config: GridConfig, scratch: Path | None = None
) -> RawSlice:
    """Read one table of a SpatialData store, or one region of it.

    Parameters
    ----------
    record
        ``part`` names the table, the region, or both as ``table/region`` where there are several.
    config
        As for AnnData-Zarr.
    scratch
        Folder for counts that do not fit into memory.

    Raises
    ------
    BadInputError, SourceFaultError
        No table, several and none named, or any fault of the table.
    PlatformError
        Its positions are shapes, and ``spatialdata`` is not installed.
    """
    root = open_store(Path(record.path))
    table = _choose(root, record.part)
    # The table's own columns decide no more about sections: the store says which rows are one.
    split_by = None if table.region is None else table.region_key
    inner = replace(record, split_by=split_by or record.split_by, part=table.region)
    if any(find(table.group, path) is not None for path in _OWN_PLACES):
        return read_table_group(inner, config, table.group, scratch)
    regions, ids = _instances(table)
    places = _centroids(record, regions, ids)
    raw = read_table_group(inner, config, table.group, scratch, positions=places)
    used = {table.region} if table.region is not None else {*regions}
    folders = [place_of(root) / kind / name for kind in _ELEMENTS for name in sorted(used)]
    return replace(raw, files=tuple(sorted({*raw.files, *list_files(folders)})))


def _choose(root: zarr.Group, part: str | None) -> _Table:
    """Return the table, and region of it, that `part` names."""
    folder = "tables" if find(root, "tables") is not None else "table"
    names = list_names(root, folder)
    wanted, region = (part or "").partition("/")[0], None
    if wanted in names:
        region = part.partition("/")[2] or None if part else None
    elif len(names) == 1:
        wanted, region = names[0], part
    else:
        what = f"{len(names)} tables: {_list(names)}" + (f"; no {part!r:.40}" if part else "")
        raise SourceFaultError("B056", f"/{folder}", what, _FIX)
    return _choose_region(open_inside(root, f"{folder}/{wanted}"), wanted, region)


def _choose_region(group: zarr.Group, name: str, region: str | None) -> _Table:
    keys = {
        key: _text(find(group, f"uns/spatialdata_attrs/{key}"))
        for key in ("region_key", "instance_key")
    }
    table = _Table(group=group, name=name, region=region, **keys)
    found = _regions(table)
    if region is not None and region not in found:
        what = f"no region {region!r:.40} in table '{name}'; there are: {_list(found) or 'none'}"
        raise SourceFaultError("B056", f"/tables/{name}", what, _FIX)
    if region is None and len(found) > 1:
        what = f"{len(found)} regions in table '{name}': {_list(found)}"
        fix = f"name one in the column `part` of a sample sheet, such as {name}/{found[0]}"
        raise SourceFaultError("B056", f"/tables/{name}", what, fix)
    return table if len(found) > 1 else replace(table, region=None)


def _regions(table: _Table) -> list[str]:
    """Return the regions that rows of the table annotate, sorted."""
    obs = ZarrFrame(table.group, "obs")
    if table.region_key is None or table.region_key not in obs.columns():
        return []
    return sorted({str(value) for value in obs.read(table.region_key)})


def _instances(table: _Table) -> tuple[list[str], list[Any]]:
    """Return the region and the id in it of every row."""
    obs = ZarrFrame(table.group, "obs")
    keys = [key for key in (table.region_key, table.instance_key) if key in obs.columns()]
    if len(keys) != 2:
        what = f"table '{table.name}' has no positions and annotates no element"
        fix = "add obsm['spatial'] to the table"
        raise SourceFaultError("B046", f"/tables/{table.name}", what, fix)
    regions, ids = (list(obs.read(str(key))) for key in keys)
    return [str(value) for value in regions], ids


def _text(node: object) -> str | None:
    if not isinstance(node, zarr.Array) or node.ndim:
        return None
    return str(StoredArray(node, "/uns/spatialdata_attrs")[()])


def _list(names: list[str]) -> str:
    return ", ".join(name[:60] for name in names[:8])


def _centroids(record: SliceRecord, regions: list[str], ids: list[Any]) -> NDArray[np.float64]:
    """Return (N, 2) centroids of the elements that rows annotate; NaN where there is none."""
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
    data: Any = guard(lambda: spatialdata.read_zarr(record.path, selection=_ELEMENTS), "", "B006")
    found = np.full((len(ids), 2), np.nan)
    names = np.asarray(regions, object)
    for region in sorted(set(regions)):
        mine = np.flatnonzero(names == region)
        wanted = [ids[i] for i in mine.tolist()]
        found[mine] = guard(lambda: _look_up(spatialdata, data[region], wanted), f"/{region}")  # noqa: B023
    return found


def _look_up(spatialdata: Any, element: Any, ids: list[Any]) -> NDArray[np.float64]:  # noqa: ANN401
    """Return (n, 2) centroids of some instances of one element, in the element's own unit."""
    system = sorted(spatialdata.transformations.get_transformation(element, get_all=True))
    chosen = "global" if "global" in system else system[0]
    centres = spatialdata.get_centroids(element, coordinate_system=chosen).compute()
    found = np.asarray(centres.reindex(ids)[["x", "y"]].to_numpy(), np.float64)
    return found + 0.0  # -0.0 becomes 0.0
