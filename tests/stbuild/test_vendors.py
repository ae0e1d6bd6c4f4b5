"""AnnData-Zarr, SpatialData tables and Xenium folders: the same slice, faults by name."""

import shutil

import anndata
import numpy as np
import pandas as pd
import pytest
import zarr

from stbuild.config import GridConfig
from stbuild.corpus.errors import BadInputError
from stbuild.reading.opening import read_here
from stbuild.sources.formats import detect_format, read_source
from tests.slices import Spec, make_anndata, record_of, write_slice
from tests.vendor_files import IDS, NAMES, counts_of, write_h5, write_mtx

LABELLED = GridConfig(label="label")


def write_zarr(path, data, version=2):
    before = anndata.settings.zarr_write_format
    anndata.settings.zarr_write_format = version
    try:
        data.write_zarr(path)
    finally:
        anndata.settings.zarr_write_format = before
    return path


@pytest.fixture
def data():
    return make_anndata(Spec(seed=4, rows=9, cols=9))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("change", ["csr", "csc", "dense", "layer", "raw"])
def test_a_store_gives_the_slice_of_the_same_h5ad(data, version, change, tmp_path):
    from scipy import sparse

    options = {}
    if change == "csc":
        data.X = sparse.csc_matrix(data.X)
    elif change == "dense":
        data.X = data.X.toarray()
    elif change == "layer":
        data.layers["counts"], options = data.X.copy(), {"layer": "counts"}
        data.X = data.X.astype(np.float32) * 0.3
    elif change == "raw":
        data.raw, options = data.copy(), {"layer": "raw"}
        data.X = data.X.astype(np.float32) * 0.3
    config = LABELLED.model_copy(update=options)
    data.write_h5ad(tmp_path / "s.h5ad")
    path = write_zarr(tmp_path / "s.zarr", data, version)
    assert detect_format(path) == "anndata-zarr"
    one, two = (read_here(record_of(tmp_path / name), config) for name in ("s.h5ad", "s.zarr"))
    assert (one.counts.toarray() == two.counts.toarray()).all()
    assert list(one.barcodes) == list(two.barcodes)
    assert list(one.genes) == list(two.genes)
    assert list(one.labels or ()) == list(two.labels or ())
    for name in ("array_row", "array_col", "xy"):
        assert np.array_equal(getattr(one, name), getattr(two, name)), name


def remove_chunk(path):
    chunk = next(p for p in sorted((path / "X" / "data").rglob("*")) if p.name == "0")
    chunk.unlink()


def lead_elsewhere(path):
    (path / "elsewhere").symlink_to("/etc")


def lie(path):
    group = zarr.open_group(path, mode="r+")
    group["X"].attrs["shape"] = [5, 5]


STORE_FAULTS = {
    "missing_chunk": (remove_chunk, "B004.*chunks are missing"),
    "link": (lead_elsewhere, "B015.*symbolic link"),
    "shape": (lie, "B041"),
    "no_obs": (lambda path: shutil.rmtree(path / "obs"), "B006"),
    "no_X": (lambda path: shutil.rmtree(path / "X"), "B023"),
    "no_indptr": (lambda path: shutil.rmtree(path / "X" / "indptr"), "B035"),
    "not_a_group": (lambda path: (path / ".zgroup").write_text("{"), "B003"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", STORE_FAULTS)
def test_faults_of_a_store_are_named(name, data, tmp_path):
    path = write_zarr(tmp_path / "s.zarr", data)
    change, match = STORE_FAULTS[name]
    change(path)
    with pytest.raises(BadInputError, match=match):
        read_here(record_of(path), LABELLED)


@pytest.mark.filterwarnings("ignore:Writing zarr v2:UserWarning")
def test_the_table_of_a_spatialdata_store_is_chosen_by_name(data, tmp_path):
    other = make_anndata(Spec(seed=5, rows=9, cols=9))
    write_zarr(tmp_path / "s.zarr" / "tables" / "first", data)
    zarr.open_group(tmp_path / "s.zarr", mode="a", zarr_format=2)
    zarr.open_group(tmp_path / "s.zarr" / "tables", mode="a", zarr_format=2)
    assert detect_format(tmp_path / "s.zarr") == "spatialdata"
    one = read_here(record_of(tmp_path / "s.zarr"), LABELLED)
    assert int(one.counts.sum()) == int(data.X.sum())
    write_zarr(tmp_path / "s.zarr" / "tables" / "second", other)
    with pytest.raises(BadInputError, match=r"B056.*2 tables: first, second"):
        read_here(record_of(tmp_path / "s.zarr"), LABELLED)
    two = read_here(record_of(tmp_path / "s.zarr", part="second"), LABELLED)
    assert int(two.counts.sum()) == int(other.X.sum())


def write_xenium(root, *, matrix="h5", table="parquet", kinds=None):
    rng = np.random.default_rng(1)
    cells = [f"cell-{i}" for i in range(50)]
    dense = counts_of(50)
    root.mkdir()
    if matrix == "h5":
        write_h5(root / "cell_feature_matrix.h5", cells, dense, types=kinds)
    else:
        write_mtx(root / "cell_feature_matrix", cells, dense, types=kinds)
    frame = pd.DataFrame(
        {"cell_id": cells, "x_centroid": rng.random(50) * 90, "y_centroid": rng.random(50) * 90}
    )
    if table == "parquet":
        frame.to_parquet(root / "cells.parquet")
    else:
        frame.to_csv(root / "cells.csv.gz", index=False)
    return dense, frame


@pytest.mark.parametrize("table", ["parquet", "csv"])
@pytest.mark.parametrize("matrix", ["h5", "mtx"])
def test_xenium_cells_lie_in_micrometres(matrix, table, tmp_path):
    kinds = ["Gene Expression"] * 9 + ["Negative Control Probe", "Blank Codeword", "Unassigned"]
    dense, frame = write_xenium(tmp_path / "X", matrix=matrix, table=table, kinds=kinds)
    assert detect_format(tmp_path / "X") == "imaging"
    raw = read_source(record_of(tmp_path / "X"), GridConfig())
    assert (raw.counts.toarray() == dense[:, :9]).all()
    assert list(raw.genes) == IDS[:9]
    assert raw.xy is not None
    assert np.allclose(raw.xy, frame[["x_centroid", "y_centroid"]])
    assert (raw.unit, raw.um_per_unit) == ("um", 1.0)
    assert raw.ledger["features_of_other_types"] == 3
    swapped = read_source(record_of(tmp_path / "X"), GridConfig(gene_id_column="name"))
    assert list(swapped.genes) == NAMES[:9]


def test_a_xenium_table_of_another_run_is_refused(tmp_path):
    _, frame = write_xenium(tmp_path / "X")
    frame["cell_id"] = [f"other-{i}" for i in range(50)]
    frame.to_parquet(tmp_path / "X" / "cells.parquet")
    with pytest.raises(BadInputError, match=r"B047.*none of the 50 cells"):
        read_here(record_of(tmp_path / "X"), GridConfig())
    frame.drop(columns="x_centroid").to_parquet(tmp_path / "X" / "cells.parquet")
    with pytest.raises(BadInputError, match=r"B047.*x_centroid"):
        read_here(record_of(tmp_path / "X"), GridConfig())


def test_what_no_reader_knows_is_refused_with_what_is_there(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.bin").write_bytes(b"\x00\x01")
    with pytest.raises(BadInputError, match=r"B007.*it holds: notes\.bin"):
        read_here(record_of(tmp_path / "folder"), GridConfig())
    with pytest.raises(BadInputError, match="B001"):
        read_here(record_of(tmp_path / "nothing.h5ad"), GridConfig())
    write_slice(tmp_path / "renamed.h5", Spec(rows=8, cols=8))
    assert detect_format(tmp_path / "renamed.h5") == "h5ad"
