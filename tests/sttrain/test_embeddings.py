import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from anndata import AnnData, read_h5ad
from anndata.io import write_elem

from sttrain.embed.embeddings import (
    Embeddings,
    SliceEmbedding,
    align_embeddings,
    read_embeddings,
    write_embeddings,
)
from sttrain.errors import BadInputError, BadUsageError
from sttrain.judge.heads import standardise


def make_embeddings(*slugs, n=7, width=4, labels=True):
    rng = np.random.default_rng(3)
    return Embeddings(
        slices={
            slug: SliceEmbedding(
                barcodes=tuple(f"AC-{i}" for i in range(n)),
                matrix=rng.normal(size=(n, width)).astype(np.float32),
                labels=("rim", None) * (n // 2) + ("core",) * (n % 2) if labels else None,
            )
            for slug in slugs or ("one",)
        },
        provenance={"corpus_id": "a" * 64, "checkpoint": "c" * 64, "step": 12},
    )


@pytest.mark.parametrize("suffix", [".h5ad", ".parquet"])
@pytest.mark.parametrize("slugs", [("one",), ("two", "one")], ids=["one_slice", "two_slices"])
def test_files_return_what_was_written(tmp_path, suffix, slugs):
    written = make_embeddings(*slugs)
    path = tmp_path / f"emb{suffix}"
    write_embeddings(path, written)
    found = read_embeddings(path)
    assert set(found.slices) == set(slugs)
    for slug in slugs:
        assert found.slices[slug].barcodes == written.slices[slug].barcodes
        np.testing.assert_array_equal(found.slices[slug].matrix, written.slices[slug].matrix)
    assert found.digest() == written.digest()
    assert {k: found.provenance[k] for k in written.provenance} == written.provenance


@pytest.mark.parametrize("suffix", [".h5ad", ".parquet"])
def test_the_same_embeddings_give_the_same_bytes(tmp_path, suffix):
    paths = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for path in paths:
        write_embeddings(path, make_embeddings("one", "two"))
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_vectors_of_one_slice_drop_into_the_source_by_barcode(tmp_path):
    write_embeddings(tmp_path / "emb.h5ad", make_embeddings())
    data = read_h5ad(tmp_path / "emb.h5ad")
    assert list(data.obs_names) == [f"AC-{i}" for i in range(7)]
    assert data.obsm["X_sttrain"].shape == (7, 4)
    assert list(data.obs["slice"].unique()) == ["one"]
    assert list(data.obs["label"][:2].isna()) == [False, True]


def test_several_slices_get_unique_names(tmp_path):
    write_embeddings(tmp_path / "emb.h5ad", make_embeddings("one", "two"))
    data = read_h5ad(tmp_path / "emb.h5ad")
    assert data.obs_names.is_unique
    assert data.obs_names[7] == "two:AC-0"
    assert data.obs["barcode"].iloc[7] == "AC-0"


def test_the_digest_ignores_row_order_and_file_but_no_value():
    first = make_embeddings()
    part = first.slices["one"]
    turned = Embeddings(
        slices={"one": SliceEmbedding(barcodes=part.barcodes[::-1], matrix=part.matrix[::-1])},
        provenance={},
    )
    assert turned.digest() == first.digest()
    changed = part.matrix.copy()
    changed[3, 2] = np.nextafter(changed[3, 2], 9)
    other = Embeddings(
        slices={"one": SliceEmbedding(barcodes=part.barcodes, matrix=changed)}, provenance={}
    )
    assert other.digest() != first.digest()


@pytest.mark.parametrize("name", ["emb.npz", "emb.pkl", "emb.pt", "emb"])
def test_other_formats_are_refused_both_ways(tmp_path, name):
    with pytest.raises(BadUsageError, match=r"\.h5ad or \.parquet, not"):
        write_embeddings(tmp_path / name, make_embeddings())
    with pytest.raises(BadUsageError, match=r"\.h5ad or \.parquet or \.npy"):
        read_embeddings(tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["emb.h5ad", "emb.parquet"])
@pytest.mark.parametrize(
    "content", [None, b"", b"no such format" * 40], ids=["absent", "empty", "x"]
)
def test_unreadable_files_are_bad_input(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInputError, match=r"no such file|unreadable"):
        read_embeddings(tmp_path / name)


def test_a_cut_file_is_bad_input(tmp_path):
    path = tmp_path / "emb.h5ad"
    write_embeddings(path, make_embeddings())
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(BadInputError, match="unreadable"):
        read_embeddings(path)


def foreign(tmp_path, obsm, **obs):
    index = pd.Index([f"AC-{i}" for i in range(7)], dtype=object)
    path = tmp_path / "foreign.h5ad"
    AnnData(obs=pd.DataFrame(obs, index=index), obsm=obsm).write_h5ad(path)
    return path


def test_vectors_of_another_tool_are_found_by_their_only_key(tmp_path):
    path = foreign(tmp_path, {"GraphST": np.ones((7, 3))})
    found = read_embeddings(path)
    assert set(found.slices) == {""}
    aligned = align_embeddings(found, {"one": [f"AC-{i}" for i in range(7)]}, "x")
    assert aligned.slices["one"].matrix.shape == (7, 3)
    assert found.provenance == {}


def test_a_key_among_several_has_to_be_named(tmp_path):
    path = foreign(tmp_path, {"a": np.ones((7, 3)), "b": np.zeros((7, 2))})
    with pytest.raises(BadInputError, match="obsm has no 'X_sttrain'; it has a, b"):
        read_embeddings(path)
    assert read_embeddings(path, "b").width == 2


def test_a_slice_may_be_named_as_in_the_source(tmp_path):
    path = foreign(tmp_path, {"a": np.ones((7, 3))}, slice=["Slice One"] * 7)
    assert set(read_embeddings(path).slices) == {"slice-one"}


def test_integers_are_no_vectors(tmp_path):
    with pytest.raises(BadInputError, match="dense table of floating-point"):
        read_embeddings(foreign(tmp_path, {"a": np.ones((7, 3), np.int64)}))


def test_links_out_of_the_file_are_refused(tmp_path):
    path = foreign(tmp_path, {"a": np.ones((7, 3))})
    with h5py.File(path, "r+") as file:
        file["obsm/b"] = h5py.ExternalLink("other.h5", "/x")
    with pytest.raises(BadInputError, match="'b' is a link"):
        read_embeddings(path)


def test_data_stored_in_another_file_is_refused(tmp_path):
    path = foreign(tmp_path, {"a": np.ones((7, 3))})
    with h5py.File(path, "r+") as file:
        file["obsm"].create_dataset(
            "b", (4,), "f4", external=[(str(tmp_path / "raw.bin"), 0, h5py.h5f.UNLIMITED)]
        )
    with pytest.raises(BadInputError, match="'b' lies in another file"):
        read_embeddings(path)


@pytest.mark.parametrize(
    "columns",
    [
        {"barcode": ["a"], "x0": [1.0]},
        {"name": ["a"], "e0": [1.0]},
        {"barcode": ["a"], "e0": [1]},
    ],
    ids=["no_values", "no_barcode", "integers"],
)
def test_a_parquet_table_without_the_columns_is_refused(tmp_path, columns):
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(BadInputError, match="expected slice, barcode, e0"):
        read_embeddings(tmp_path / "t.parquet")


def test_alignment_restores_the_order_of_the_corpus():
    found = make_embeddings()
    part = found.slices["one"]
    wanted = list(np.random.default_rng(0).permutation(part.barcodes))
    aligned = align_embeddings(found, {"one": wanted}, "x")
    for barcode, row in zip(wanted, aligned.slices["one"].matrix, strict=True):
        np.testing.assert_array_equal(row, part.matrix[part.barcodes.index(barcode)])


def test_alignment_lists_every_problem_at_once():
    found = make_embeddings("one", "two")
    found.slices["two"].matrix[2, 1] = np.nan
    barcodes = {
        "one": [f"AC-{i}" for i in range(6)] + ["new-1", "new-2"],
        "two": [f"AC-{i}" for i in range(7)],
        "three": ["x"],
    }
    with pytest.raises(BadInputError) as caught:
        align_embeddings(found, barcodes, "'ours'")
    text = str(caught.value)
    assert caught.value.exit_code == 3
    assert "slice 'one': 2 of 8 barcodes are missing (first: new-1, new-2)" in text
    assert "slice 'one': 1 of 8 barcodes are unknown (first: AC-6)" in text
    assert "slice 'two': 1 vectors are not finite in float32 (first: AC-2)" in text
    assert "slice 'three': no vector for any of its 1 spots" in text
    assert [problem.code for problem in caught.value.problems] == ["V01", "V01", "V02", "V01"]


def test_alignment_refuses_a_barcode_that_stands_twice():
    found = Embeddings(
        slices={"one": SliceEmbedding(barcodes=("a", "a"), matrix=np.ones((2, 2), np.float32))},
        provenance={},
    )
    with pytest.raises(BadInputError, match="1 barcodes stand more than once"):
        align_embeddings(found, {"one": ["a"]}, "x")


def test_numbers_beyond_float32_are_not_finite(tmp_path):
    path = foreign(tmp_path, {"a": np.full((7, 2), 1e300)})
    found = read_embeddings(path)
    with pytest.raises(BadInputError, match="7 vectors are not finite in float32"):
        align_embeddings(found, {"one": [f"AC-{i}" for i in range(7)]}, "x")


@pytest.mark.parametrize(("value", "refused"), [(3e38, True), (-3e38, True), (9e36, False)])
def test_numbers_whose_differences_overflow_are_refused(value, refused):
    matrix = np.asarray([[1.0], [value]], np.float32)
    part = SliceEmbedding(barcodes=("a", "b"), matrix=matrix)
    found = Embeddings(slices={"one": part}, provenance={})
    if refused:
        with pytest.raises(BadInputError, match=r"V02.* 1 vectors hold values beyond .*\(first: b"):
            align_embeddings(found, {"one": ["a", "b"]}, "x")
        return
    assert np.isfinite(standardise(matrix, np.arange(2), "common")).all()
    aligned = align_embeddings(found, {"one": ["a", "b"]}, "x")
    assert aligned.slices["one"].matrix.tolist() == matrix.tolist()


def test_vectors_and_rows_of_different_number_are_refused(tmp_path):
    path = foreign(tmp_path, {"a": np.ones((7, 3))})
    with h5py.File(path, "r+") as file:
        del file["obsm/a"]
        file["obsm/a"] = np.ones((9, 3))
    with pytest.raises(BadInputError, match="9 vectors for 7 rows"):
        read_embeddings(path)


def test_two_names_of_one_slug_are_one_slice_and_no_row_is_lost(tmp_path):
    path = foreign(tmp_path, {"a": np.ones((7, 3))}, slice=["S 1"] * 3 + ["s-1"] * 4)
    assert len(read_embeddings(path).slices["s-1"].barcodes) == 7


def test_provenance_that_is_not_ours_is_passed_over(tmp_path):
    path = foreign(tmp_path, {"a": np.ones((7, 3))})
    with h5py.File(path, "r+") as file:
        write_elem(file.require_group("uns"), "sttrain", "not JSON")
    assert read_embeddings(path).provenance == {}


def test_a_table_of_one_slice_needs_no_slice_column(tmp_path):
    pq.write_table(pa.table({"barcode": ["a", "b"], "e0": [1.0, None]}), tmp_path / "t.parquet")
    found = read_embeddings(tmp_path / "t.parquet")
    with pytest.raises(BadInputError, match=r"1 vectors are not finite in float32 \(first: b\)"):
        align_embeddings(found, {"one": ["a", "b"]}, "x")


def test_vectors_of_no_value_are_refused():
    part = SliceEmbedding(barcodes=("a",), matrix=np.zeros((1, 0), np.float32))
    with pytest.raises(BadInputError, match="vectors of no value"):
        align_embeddings(Embeddings(slices={"one": part}, provenance={}), {"one": ["a"]}, "x")


@pytest.mark.parametrize("name", ["spatial", "X_spatial", "coords"])
def test_positions_are_no_vectors_unless_they_are_asked_for(tmp_path, name):
    path = foreign(tmp_path, {name: np.ones((7, 2))})
    with pytest.raises(BadInputError, match=f"it has {name}"):
        read_embeddings(path)
    assert read_embeddings(path, name).width == 2


def test_what_float32_cannot_tell_apart_is_refused(tmp_path):
    values = np.random.default_rng(0).normal(size=(7, 3))
    plain = read_embeddings(foreign(tmp_path, {"a": values})).slices[""].matrix
    assert np.array_equal(plain, values.astype(np.float32))
    values[:, 1] += 1e9
    with pytest.raises(BadInputError, match=r"1 of 3 values.*number 1.*about 1e\+09"):
        read_embeddings(foreign(tmp_path, {"a": values}))
    values[:, 1] = 1e9  # the same for all says nothing in any precision
    assert read_embeddings(foreign(tmp_path, {"a": values})).width == 3
