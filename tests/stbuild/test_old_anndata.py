"""Files of anndata 0.6 and 0.7: the slice of today's file, their categories by name."""

import anndata
import h5py
import numpy as np
import pytest
import zarr
from scipy.sparse import csr_matrix

from stbuild.config import GridConfig
from stbuild.corpus.errors import BadInputError
from stbuild.reading.opening import read_here
from tests.slices import Spec, make_anndata, record_of

LABELLED = GridConfig(label="label")


@pytest.fixture
def data():
    found = make_anndata(Spec(seed=6, rows=9, cols=9))
    found.obs["section"] = "one"
    return found


def put_old_categories(group, create):
    """Put the categorical columns of a frame as anndata 0.7 did; return nothing."""
    for name in [n for n in group if n != "__categories"]:
        node = group[name]
        if dict(node.attrs).get("encoding-type") != "categorical":
            continue
        codes, categories = node["codes"][:], node["categories"][:]
        del group[name]
        create(group, name, codes, categories)


def write_07(path, data):
    data.write_h5ad(path)

    def create(group, name, codes, categories):
        held = group.require_group("__categories").create_dataset(
            name, data=categories, dtype=h5py.string_dtype()
        )
        group.create_dataset(name, data=codes).attrs["categories"] = held.ref

    with h5py.File(path, "r+") as file:
        for frame in ("obs", "var"):
            put_old_categories(file[frame], create)
            file[frame].attrs["encoding-version"] = "0.1.0"
            for node in file[frame].values():
                if isinstance(node, h5py.Dataset):
                    for name in ("encoding-type", "encoding-version"):
                        node.attrs.pop(name, None)
    return path


def write_06(path, data, *, raw=False):
    """Write compound frames, dots for slashes, and sparse attributes under their first names."""
    with h5py.File(path, "w") as file:
        group = file.create_group("raw.X" if raw else "X")
        matrix = csr_matrix(data.X)
        group.attrs["h5sparse_format"] = "csr"
        group.attrs["h5sparse_shape"] = matrix.shape
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(matrix, name)
        label = data.obs["label"].cat
        columns = {
            "index": data.obs_names.to_numpy().astype("S"),
            "array_row": data.obs["array_row"].to_numpy(),
            "array_col": data.obs["array_col"].to_numpy(),
            "label": label.codes.to_numpy(),
        }
        rows = np.empty(data.n_obs, [(name, values.dtype) for name, values in columns.items()])
        for name, values in columns.items():
            rows[name] = values
        file["obs"] = rows
        genes = data.var_names.to_numpy().astype("S")
        names = np.array([(gene,) for gene in genes], [("index", genes.dtype)])
        file["raw.var" if raw else "var"] = names
        if raw:
            file["X"] = np.asarray(data.X.todense()) * 0.3
            file["var"] = file["raw.var"][:]
        places = np.zeros(data.n_obs, [("X_pca", "f4", (3,)), ("spatial", "f8", (2,))])
        places["spatial"] = data.obsm["spatial"]
        file["obsm"] = places
        file["uns/label_categories"] = label.categories.to_numpy().astype("S")
    return path


def assert_same(one, two):
    assert (one.counts.toarray() == two.counts.toarray()).all()
    assert list(one.barcodes) == list(two.barcodes)
    assert list(one.genes) == list(two.genes)
    assert list(one.labels or ()) == list(two.labels or ())
    for name in ("array_row", "array_col", "xy"):
        assert np.array_equal(getattr(one, name), getattr(two, name)), name


@pytest.mark.filterwarnings("ignore::anndata.OldFormatWarning")
@pytest.mark.parametrize("write", [write_06, write_07], ids=["0.6", "0.7"])
def test_old_files_give_the_slice_of_a_new_one(write, data, tmp_path):
    data.write_h5ad(tmp_path / "new.h5ad")
    new = read_here(record_of(tmp_path / "new.h5ad"), LABELLED)
    assert {*(new.labels or ())} == {"inner", "outer", "rim"}
    old = write(tmp_path / "old.h5ad", data)
    assert anndata.read_h5ad(old).obs["label"].dtype == "category"  # a file that anndata knows
    assert_same(read_here(record_of(old), LABELLED), new)


def test_raw_counts_of_an_old_file_are_named_and_read(data, tmp_path):
    path = write_06(tmp_path / "old.h5ad", data, raw=True)
    with pytest.raises(BadInputError, match=r"B030.*'raw' \(with its own 40 genes\).*--layer raw"):
        read_here(record_of(path), LABELLED)
    config = LABELLED.model_copy(update={"layer": "raw"})
    assert int(read_here(record_of(path), config).counts.sum()) == int(data.X.sum())


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_old_categories_of_a_store_are_names_too(data, tmp_path):
    before = anndata.settings.zarr_write_format
    anndata.settings.zarr_write_format = 2
    try:
        data.write_zarr(tmp_path / "s.zarr")
    finally:
        anndata.settings.zarr_write_format = before
    new = read_here(record_of(tmp_path / "s.zarr"), LABELLED)

    def create(group, name, codes, categories):
        held = group.require_group("__categories").create_array(
            name, shape=categories.shape, dtype=categories.dtype
        )
        held[:] = categories
        stored = group.create_array(name, shape=codes.shape, dtype=codes.dtype)
        stored[:] = codes
        stored.attrs["categories"] = f"__categories/{name}"

    obs = zarr.open_group(tmp_path / "s.zarr" / "obs", mode="r+", use_consolidated=False)
    put_old_categories(obs, create)
    assert_same(read_here(record_of(tmp_path / "s.zarr"), LABELLED), new)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda obs: obs["label"].__setitem__(3, 7), "B079.*code 7 in row 3, but 3 categories"),
        (lambda obs: obs.__delitem__("__categories"), "B079.*codes without categories"),
    ],
    ids=["code_beyond", "no_categories"],
)
def test_codes_without_their_category_are_refused(change, match, data, tmp_path):
    path = write_07(tmp_path / "old.h5ad", data)
    with h5py.File(path, "r+") as file:
        change(file["obs"])
    with pytest.raises(BadInputError, match=match):
        read_here(record_of(path), LABELLED)


def test_a_code_of_minus_one_is_no_label(data, tmp_path):
    path = write_07(tmp_path / "old.h5ad", data)
    with h5py.File(path, "r+") as file:
        file["obs/label"][3] = -1
    labels = read_here(record_of(path), LABELLED).labels
    assert labels is not None
    assert [i for i, label in enumerate(labels) if label is None] == [3]
