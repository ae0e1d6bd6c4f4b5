"""AnnData-Zarr stores: what a writer leaves out is understood, what is damaged is named."""

import json
import re
import shutil

import anndata
import numpy as np
import pytest
import zarr
from scipy import sparse

from stbuild.config import GridConfig
from stbuild.corpus.errors import BadInputError
from stbuild.reading.opening import read_here
from stbuild.sources.anndata_zarr import looks_like_anndata_zarr, read_anndata_zarr
from stbuild.sources.faults import SourceFaultError
from tests.slices import Spec, make_anndata, record_of

LABELLED = GridConfig(label="label")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # zarr warns of its own formats


def make():
    return make_anndata(Spec(seed=4, rows=9, cols=9))


def write(path, data, version=2):
    before = anndata.settings.zarr_write_format
    anndata.settings.zarr_write_format = version
    try:
        data.write_zarr(path)
    finally:
        anndata.settings.zarr_write_format = before
    return path


@pytest.fixture(scope="module", params=[2, 3])
def store(request, tmp_path_factory):
    """A store to copy before damaging it."""
    return write(tmp_path_factory.mktemp("zarr") / f"v{request.param}.zarr", make(), request.param)


@pytest.mark.parametrize("version", [2, 3])
def test_columns_of_nothing_but_zeros_are_no_damage(version, tmp_path):
    data = make()
    data.obs["section"] = "one"  # a category alone: its codes are zeros, which Zarr never writes
    data.obs["flag"], data.obs["depth"] = False, 0.0
    path = write(tmp_path / "s.zarr", data, version)
    read = read_here(record_of(path), GridConfig(label="section"))
    assert set(read.labels or ()) == {"one"}
    assert int(read.counts.sum()) == int(data.X.sum())


@pytest.mark.parametrize("version", [2, 3])
def test_a_matrix_without_a_count_is_refused_for_that(version, tmp_path):
    data = make()
    data.X = sparse.csr_matrix(data.shape, dtype=np.int32)
    with pytest.raises(BadInputError, match="B044"):
        read_here(record_of(write(tmp_path / "s.zarr", data, version)), LABELLED)


def test_missing_chunks_of_a_dense_matrix_are_said(tmp_path):
    data = make()
    dense = data.X.toarray()
    dense[:40] = 0
    data.X = dense
    path = write(tmp_path / "s.zarr", data)
    shutil.rmtree(path / "X")
    group = zarr.open_group(path, mode="r+")
    array = group.create_array("X", shape=dense.shape, chunks=(20, 40), dtype="i4", fill_value=0)
    array[:] = dense
    array.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    raw = read_anndata_zarr(record_of(path), LABELLED)
    assert (raw.counts.toarray() == dense).all()
    assert "2 chunks of the dense matrix /X are not stored" in raw.notices[0].what


def chunk_of(path, name):
    """Return the first chunk file of an array, of either version."""
    files = sorted((path / name).rglob("*"))
    return next(p for p in files if p.is_file() and p.suffix != ".json" and p.name[0] != ".")


@pytest.mark.parametrize("name", ["X/data", "X/indices", "X/indptr", "obsm/spatial", "obs/_index",
                                  "var/_index", "obs/label/codes"])  # fmt: skip
@pytest.mark.parametrize("how", ["gone", "cut", "noise"])
def test_a_damaged_chunk_is_never_read_as_zeros(name, how, store, tmp_path):
    path = shutil.copytree(store, tmp_path / "s.zarr")
    chunk = chunk_of(path, name)
    if how == "gone":
        chunk.unlink()
    elif how == "cut":
        chunk.write_bytes(chunk.read_bytes()[:-9])
    else:
        chunk.write_bytes(b"\x02\x01noise" * 9)
    with pytest.raises(BadInputError, match=r"B004|B079"):
        read_here(record_of(path), LABELLED)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_damaged_metadata_anywhere_is_a_fault(text, store, tmp_path):
    def is_metadata(file):
        return file.name in (".zarray", ".zgroup", "zarr.json", ".zattrs")

    needed = re.compile(r"^(obs/label|var|X|obsm/spatial|\.)(/|$)")
    n_faults = 0
    for file in sorted(p.relative_to(store) for p in store.rglob("*") if is_metadata(p)):
        if not needed.match(f"{file.parent.as_posix()}/"):
            continue
        path = shutil.copytree(store, tmp_path / "s.zarr")
        (path / file).write_text(text, encoding="latin-1")
        try:
            read_here(record_of(path), LABELLED)
        except BadInputError:
            n_faults += 1
        shutil.rmtree(path)
    assert n_faults >= 8


def set_codec(path, codec):
    """Write one codec into the metadata of the counts, whatever the version."""
    file = next(p for p in ((path / "X/data/.zarray"), (path / "X/data/zarr.json")) if p.is_file())
    value = json.loads(file.read_text())
    if "compressor" in value:
        value["compressor"] = {"id": codec}
    else:
        value["codecs"][-1] = {"name": codec, "configuration": {}}
    file.write_text(json.dumps(value))


PICKLE = b"cbuiltins\nexit\n(tR."
"""Ends the process when it is unpickled."""


@pytest.mark.parametrize("codec", ["pickle", "json2", "nonesuch"])
def test_codecs_that_may_run_code_are_refused(codec, store, tmp_path):
    path = shutil.copytree(store, tmp_path / "s.zarr")
    set_codec(path, codec)
    chunk_of(path, "X/data").write_bytes(PICKLE)
    with pytest.raises(BadInputError, match=r"B016|B004"):
        read_here(record_of(path), LABELLED)


def test_a_declared_size_that_nothing_backs_is_refused(tmp_path):
    path = write(tmp_path / "s.zarr", make())
    file = path / "X" / "data" / ".zarray"
    value = json.loads(file.read_text())
    file.write_text(json.dumps(value | {"shape": [10**12], "chunks": [10**12]}))
    with pytest.raises(BadInputError, match="B043"):
        read_here(record_of(path), LABELLED)


def test_a_zip_a_file_and_an_array_are_no_stores(tmp_path):
    packed = tmp_path / "s.zarr.zip"
    packed.write_bytes(b"PK\x03\x04")
    with pytest.raises(SourceFaultError) as fault:
        read_anndata_zarr(record_of(packed), LABELLED)
    assert "unzip" in fault.value.fix
    zarr.create_array(tmp_path / "a.zarr", data=np.arange(4))
    with pytest.raises(SourceFaultError, match="unreadable"):
        read_anndata_zarr(record_of(tmp_path / "a.zarr"), LABELLED)


def test_another_layer_with_counts_is_named(tmp_path):
    data = make()
    data.layers["counts"] = data.X.copy()
    data.X = data.X.astype(np.float32) * 0.3
    path = write(tmp_path / "s.zarr", data)
    with pytest.raises(BadInputError, match=r"B030.*pass --layer counts"):
        read_here(record_of(path), LABELLED)
    with pytest.raises(BadInputError, match=r"B023.*matrices present: X, counts"):
        read_here(record_of(path), GridConfig(layer="nothing"))


def test_all_files_are_listed_and_names_alone_tell_the_format(store, tmp_path):
    raw = read_anndata_zarr(record_of(store), LABELLED)
    assert list(raw.files) == sorted(p for p in store.rglob("*") if p.is_file())
    assert looks_like_anndata_zarr(store)
    assert not looks_like_anndata_zarr(tmp_path)


def test_real_slices_are_the_same_as_zarr(shared_data, tmp_path):
    files = [shared_data / "dlpfc/151507.h5ad", shared_data / "her2st/A1.h5ad"]
    for file in files:
        path = write(tmp_path / f"{file.stem}.zarr", anndata.read_h5ad(file))
        one, two = (read_here(record_of(p), LABELLED) for p in (file, path))
        assert (one.counts.toarray() == two.counts.toarray()).all()
        assert list(one.barcodes) == list(two.barcodes)
        assert list(one.labels or ()) == list(two.labels or ())
        assert one.xy is not None
        assert two.xy is not None
        assert np.array_equal(one.xy, two.xy, equal_nan=True)
