"""SpatialData stores: tables and regions by name; shapes through the package, or a clear word."""

import shutil
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
import zarr

from stbuild.config import GridConfig
from stbuild.corpus.errors import BadInputError, PlatformError
from stbuild.reading.opening import read_here
from stbuild.sources import spatialdata as reader
from stbuild.sources.faults import SourceFaultError
from tests.slices import Spec, make_anndata, record_of

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
PLAIN = GridConfig()


def make_table(regions, *, places=True):
    """Return a table of 76 spots that annotate some regions by turns."""
    data = make_anndata(Spec(seed=4, rows=9, cols=9))
    data.obs["region"] = pd.Categorical([regions[i % len(regions)] for i in range(data.n_obs)])
    data.obs["cell"] = np.arange(data.n_obs) + 100
    data.uns["spatialdata_attrs"] = {
        "region": regions, "region_key": "region", "instance_key": "cell",
    }  # fmt: skip
    if not places:
        del data.obsm["spatial"]
        data.obs = data.obs.drop(columns=["array_row", "array_col"])
    return data


def write_store(root, **tables):
    zarr.open_group(root, mode="w", zarr_format=2)
    zarr.open_group(root / "tables", mode="w", zarr_format=2)
    before = anndata.settings.zarr_write_format
    anndata.settings.zarr_write_format = 2
    for name, data in tables.items():
        data.write_zarr(root / "tables" / name)
    anndata.settings.zarr_write_format = before
    (root / "images").mkdir()
    (root / "images" / "big.bin").write_bytes(b"never read")
    return root


@pytest.mark.parametrize("part", [None, "table", "A", "table/A"])
def test_one_region_needs_no_name_and_may_have_one(part, tmp_path):
    data = make_table(["A"])
    root = write_store(tmp_path / "s.zarr", table=data)
    raw = reader.read_spatialdata(record_of(root, part=part), PLAIN)
    assert list(raw.barcodes) == list(data.obs_names)
    assert raw.xy is not None
    assert np.array_equal(raw.xy, data.obsm["spatial"])
    assert {file.relative_to(root).parts[0] for file in raw.files} == {"tables"}


def test_one_of_several_regions_is_chosen_by_name(tmp_path):
    data = make_table(["A", "B"])
    root = write_store(tmp_path / "s.zarr", table=data)
    with pytest.raises(SourceFaultError, match="2 regions in table 'table': A, B") as fault:
        reader.read_spatialdata(record_of(root), PLAIN)
    assert fault.value.code == "B056"
    for part in ("B", "table/B"):
        read = read_here(record_of(root, part=part), PLAIN)
        assert list(read.barcodes) == list(data.obs_names[data.obs["region"] == "B"])
    with pytest.raises(SourceFaultError, match=r"no region 'C'.*A, B"):
        reader.read_spatialdata(record_of(root, part="C"), PLAIN)


def test_one_of_several_tables_is_chosen_by_name(tmp_path):
    tables = {"bins": make_table(["A"]), "cells": make_table(["A", "B"])}
    root = write_store(tmp_path / "s.zarr", **tables)
    with pytest.raises(SourceFaultError, match="2 tables: bins, cells"):
        reader.read_spatialdata(record_of(root), PLAIN)
    with pytest.raises(SourceFaultError, match="2 regions in table 'cells'"):
        reader.read_spatialdata(record_of(root, part="cells"), PLAIN)
    assert len(reader.read_spatialdata(record_of(root, part="bins"), PLAIN).barcodes) == 76
    assert len(reader.read_spatialdata(record_of(root, part="cells/B"), PLAIN).barcodes) == 38


def test_a_table_without_places_or_shapes_is_refused(tmp_path):
    data = make_table(["A"], places=False)
    del data.uns["spatialdata_attrs"]
    root = write_store(tmp_path / "s.zarr", table=data)
    with pytest.raises(BadInputError, match=r"B046.*annotates no element"):
        read_here(record_of(root), PLAIN)
    shutil.rmtree(root / "tables" / "table")
    with pytest.raises(BadInputError, match=r"B056.*0 tables"):
        read_here(record_of(root), PLAIN)


def test_without_the_package_shapes_need_it(tmp_path, monkeypatch):
    root = write_store(tmp_path / "s.zarr", table=make_table(["A"], places=False))
    monkeypatch.setitem(sys.modules, "spatialdata", None)
    with pytest.raises(PlatformError, match=r"pip install 'stcorpus\[spatialdata\]'") as error:
        read_here(record_of(root), PLAIN)
    assert error.value.exit_code == 9


def test_centroids_go_to_the_rows_that_annotate_them(tmp_path, monkeypatch):
    data = make_table(["A", "B"], places=False)
    root = write_store(tmp_path / "s.zarr", table=data)

    def place(record, regions, ids):
        assert record.path == str(root)
        return np.asarray([[float(i), float(ord(r))] for r, i in zip(regions, ids, strict=True)])

    monkeypatch.setattr(reader, "_centroids", place)
    raw = reader.read_spatialdata(record_of(root, part="B"), PLAIN)
    mine = data.obs[data.obs["region"] == "B"]
    assert raw.xy is not None
    assert raw.xy.tolist() == [[float(cell), 66.0] for cell in mine["cell"]]


@pytest.mark.filterwarnings("ignore")
def test_shapes_that_the_package_wrote_give_their_centroids(tmp_path):
    sd = pytest.importorskip("spatialdata", reason="the extra spatialdata is not installed")
    geopandas, shapely = pytest.importorskip("geopandas"), pytest.importorskip("shapely")

    corners = [(10.0 * (i % 9), 20.0 * (i // 9)) for i in range(76)]
    spots = geopandas.GeoDataFrame(
        {"radius": np.ones(76)},
        geometry=[shapely.Point(*c) for c in corners],
        index=np.arange(76) + 100,
    )
    cells = geopandas.GeoDataFrame(
        geometry=[shapely.box(x + 500, y, x + 502, y + 2) for x, y in corners],
        index=np.arange(76) + 100,
    )
    parse = sd.models.ShapesModel.parse
    data = make_table(["A", "B"], places=False)
    store = sd.SpatialData(shapes={"A": parse(spots), "B": parse(cells)}, tables={"table": data})
    store.write(tmp_path / "s.zarr")
    for part, shift in (("A", (0, 0)), ("B", (501, 1))):
        raw = reader.read_spatialdata(record_of(tmp_path / "s.zarr", part=part), PLAIN)
        rows = np.flatnonzero(data.obs["region"] == part)
        assert raw.xy is not None
        assert np.allclose(raw.xy, np.asarray(corners)[rows] + shift)
        kinds = {file.relative_to(tmp_path / "s.zarr").parts[:2] for file in raw.files}
        assert kinds == {("tables", "table"), ("shapes", part)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("element", ["scaled", "two_systems", "labels"])
def test_elements_of_other_kinds_give_their_centroids(element, tmp_path):
    """Positions are those of the ``global`` system where there is one."""
    sd = pytest.importorskip("spatialdata", reason="the extra spatialdata is not installed")
    geopandas, shapely = pytest.importorskip("geopandas"), pytest.importorskip("shapely")
    ways = sd.transformations
    data = make_table(["A"], places=False)
    corners = np.asarray([(10 * (i % 9), 20 * (i // 9)) for i in range(76)], float)
    half = ways.Scale([0.5, 0.5], axes=("x", "y"))
    systems = {"scaled": {"global": half}, "two_systems": {"b": half, "a": ways.Identity()}}
    if element == "labels":
        image = np.zeros((200, 100), np.int32)
        for i, (x, y) in enumerate(corners.astype(int)):
            image[y : y + 3, x : x + 3] = i + 100
        elements = {"labels": {"A": sd.models.Labels2DModel.parse(image, dims=("y", "x"))}}
    else:
        points = [shapely.Point(*corner) for corner in corners]
        frame = geopandas.GeoDataFrame(
            {"radius": np.ones(76)}, geometry=points, index=np.arange(76) + 100
        )
        parse = sd.models.ShapesModel.parse
        elements = {"shapes": {"A": parse(frame, transformations=systems[element])}}
    sd.SpatialData(**elements, tables={"table": data}).write(tmp_path / "s.zarr")
    read = read_here(record_of(tmp_path / "s.zarr"), PLAIN)
    scale, shift = {"scaled": (0.5, 0), "labels": (1, 1.5)}.get(element, (1, 0))
    assert read.xy is not None
    assert np.allclose(read.xy, corners * scale + shift)
