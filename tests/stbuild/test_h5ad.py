"""The h5ad reader: every storage of the same slice is the same slice; counts are conserved."""

import anndata
import numpy as np
import pytest
from scipy import sparse

from stbuild.config import GridConfig
from stbuild.corpus.errors import BadInputError
from stbuild.reading.opening import read_here
from tests.conftest import SAMPLE
from tests.slices import Spec, grid_of, make_anndata, record_of

CONFIG = GridConfig(label="label", pitch_um=100.0)


@pytest.fixture(scope="module")
def data():
    return make_anndata(Spec(seed=8, rows=9, cols=8, n_genes=15))


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "s.h5ad"
    data.write_h5ad(path)
    return grid_of(path)


def to_raw(data):
    data.raw = data.copy()
    data.X = data.X.astype(np.float32) * 0.5


def to_layer(data):
    data.layers["counts"] = data.X.copy()
    data.X = data.X.astype(np.float32) * 0.5


def shuffled(data):
    rng = np.random.default_rng(0)
    return data[rng.permutation(data.n_obs)][:, rng.permutation(data.n_vars)].copy()


STORAGES = {
    "csc": (lambda d: setattr(d, "X", sparse.csc_matrix(d.X)), {}),
    "dense": (lambda d: setattr(d, "X", d.X.toarray()), {}),
    "float32": (lambda d: setattr(d, "X", d.X.astype(np.float32)), {}),
    "float64_dense": (lambda d: setattr(d, "X", d.X.toarray().astype(np.float64)), {}),
    "uint8": (lambda d: setattr(d, "X", d.X.astype(np.uint8)), {}),
    "layer": (to_layer, {"layer": "counts"}),
    "raw": (to_raw, {"layer": "raw"}),
    "rows_and_columns_shuffled": (shuffled, {}),
}


@pytest.mark.parametrize("name", STORAGES)
def test_every_storage_gives_the_same_grid(name, data, plain, tmp_path):
    change, options = STORAGES[name]
    copy = data.copy()
    changed = change(copy)
    copy = copy if changed is None else changed
    path = tmp_path / "s.h5ad"
    copy.write_h5ad(path)
    grid = grid_of(path, CONFIG.model_copy(update=options))
    assert grid.meta.content == plain.meta.content
    assert grid.meta.counts_digest == plain.meta.counts_digest


def test_explicit_zeros_and_unsorted_indices_change_nothing(data, plain, tmp_path):
    matrix = sparse.csr_matrix(data.X).astype(np.int32)
    rows = [matrix[i].toarray().ravel() for i in range(matrix.shape[0])]
    order = np.arange(matrix.shape[1])[::-1]
    indices = np.concatenate([order for _ in rows]).astype(np.int32)
    values = np.concatenate([row[order] for row in rows])
    indptr = np.arange(len(rows) + 1) * matrix.shape[1]
    copy = data.copy()
    path = tmp_path / "s.h5ad"
    copy.write_h5ad(path)
    import h5py

    with h5py.File(path, "r+") as file:
        for key, array in (("data", values), ("indices", indices), ("indptr", indptr)):
            del file["X"][key]
            file["X"][key] = array
    assert grid_of(path).meta.content == plain.meta.content


@pytest.mark.filterwarnings("ignore:.*names are not unique:UserWarning")
def test_dropped_spots_and_genes_are_counted_and_molecules_conserved(tmp_path):
    data = make_anndata(Spec(seed=9, rows=8, cols=8, n_genes=12))
    counts = data.X.toarray()
    counts[[3, 5]] = 0
    data.X = sparse.csr_matrix(counts)
    data.obs["in_tissue"] = np.where(np.arange(data.n_obs) < 2, 0, 1)
    names = list(data.var_names)
    names[4] = names[7]
    data.var_names = names
    path = tmp_path / "s.h5ad"
    data.write_h5ad(path)
    st_slice = read_here(record_of(path), GridConfig())
    ledger = st_slice.ledger
    assert ledger["spots_without_counts"] == 2
    assert ledger["spots_off_tissue"] == 2
    assert ledger["genes_dropped_duplicates"] == 2
    dropped = ledger["molecules_off_tissue"] + ledger["molecules_dropped_duplicates"]
    assert ledger["molecules_read"] == ledger["molecules_kept"] + dropped == counts.sum()
    assert int(st_slice.counts.sum()) == ledger["molecules_kept"]
    assert int(st_slice.totals.sum()) == counts[2:].sum()
    assert {notice.code for notice in st_slice.notices} == {"B045", "B061", "B067"}


def test_unlabelled_spots_get_no_code(tmp_path):
    data = make_anndata(Spec(seed=9, rows=6, cols=6))
    data.obs["label"] = data.obs["label"].where(np.arange(data.n_obs) != 3)
    path = tmp_path / "s.h5ad"
    data.write_h5ad(path)
    grid = grid_of(path)
    assert (grid.labels == -1).sum() == 1
    assert grid.labels[list(grid.barcodes).index(data.obs_names[3])] == -1


@pytest.mark.filterwarnings("ignore:.*names are not unique:UserWarning")
def test_every_fault_of_a_file_is_listed_at_once(tmp_path):
    data = make_anndata(Spec(seed=9, rows=6, cols=6))
    data.X = data.X.astype(np.float32) * 0.3
    data.obs_names = ["same"] * data.n_obs
    path = tmp_path / "s.h5ad"
    data.write_h5ad(path)
    with pytest.raises(BadInputError) as caught:
        read_here(record_of(path), GridConfig(label="nope"))
    assert {problem.code for problem in caught.value.problems} == {"B030", "B076", "B082"}


def test_log_values_are_recognised_and_the_counts_layer_named(tmp_path):
    data = make_anndata(Spec(seed=9, rows=6, cols=6))
    data.layers["counts"] = data.X.copy()
    data.X = data.X.astype(np.float32).log1p()
    path = tmp_path / "s.h5ad"
    data.write_h5ad(path)
    with pytest.raises(BadInputError, match=r"looks log-normalised.*--layer counts"):
        read_here(record_of(path), GridConfig())


@pytest.mark.parametrize("name", ["151510", "Br8325_ant"])
def test_bundled_slices_are_read_whole(name):
    path = SAMPLE / f"{name}.h5ad"
    source = anndata.read_h5ad(path)
    grid = grid_of(path)
    assert grid.meta.layout == "hex-offset"
    assert grid.meta.n_spots == source.n_obs
    assert int(grid.counts.sum()) == int(source.X.sum())
    order = [list(grid.barcodes).index(barcode) for barcode in source.obs_names[:50]]
    assert (grid.xy[order] == source.obsm["spatial"][:50]).all()
    assert (grid.totals[order] == source.X[:50].sum(axis=1).A1).all()


REAL = ["her2st/A1", "heart/heart_3_CN73_D2", "mouse_brain_2k/Hippo1", "dlpfc/151507"]


@pytest.mark.parametrize("name", REAL)
def test_real_slices_conserve_their_counts(name, shared_data):
    path = shared_data / f"{name}.h5ad"
    grid = grid_of(path)
    source = anndata.read_h5ad(path)
    kept = source[list(grid.barcodes)]
    assert int(grid.totals.sum()) == int(kept.X.sum())
    assert grid.meta.ledger["molecules_read"] == int(source.X.sum())
    assert grid.occupied().sum() == grid.meta.n_spots


def shorten_attributes(path):
    """Store every attribute as bytes of a fixed length, as other languages write them."""
    import h5py

    def change(_, node):
        for name, value in list(node.attrs.items()):
            if isinstance(value, str):
                node.attrs[name] = np.bytes_(value.encode())

    with h5py.File(path, "a") as file:
        file.visititems(change)


@pytest.mark.parametrize("dense", [False, True], ids=["sparse", "dense"])
def test_attributes_of_other_languages_are_read(dense, data, plain, tmp_path):
    copy, path = data.copy(), tmp_path / "s.h5ad"
    if dense:
        copy.X = copy.X.toarray()
    copy.write_h5ad(path)
    shorten_attributes(path)
    assert grid_of(path, CONFIG).meta.content == plain.meta.content


def test_the_format_of_an_old_matrix_may_be_bytes(data, plain, tmp_path):
    import h5py

    path = tmp_path / "s.h5ad"
    data.write_h5ad(path)
    with h5py.File(path, "a") as file:
        attributes = file["X"].attrs
        shape = attributes["shape"]
        for name in ("encoding-type", "encoding-version", "shape"):
            del attributes[name]
        attributes["h5sparse_format"], attributes["h5sparse_shape"] = np.bytes_(b"csr"), shape
    assert grid_of(path, CONFIG).meta.content == plain.meta.content
