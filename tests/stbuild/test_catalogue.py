"""The catalogue of bad input (reliability page, 2.1 to 2.5): a test for every case.

Most cases are files of the zoo; others are met by the tests of one module. What nobody else tries
stands here.
"""

import os
import re
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stbuild.config import GridConfig
from stbuild.corpus.errors import BadInputError, GateError
from stbuild.genes.vocabulary import read_vocabulary
from stbuild.grid.compact import compact
from stbuild.grid.store import read_meta
from stbuild.lattices import assign_cells
from stbuild.manifests.manifest import read_inputs
from stbuild.reading.opening import read_here
from stbuild.sources import matrices
from stbuild.tasks.pipeline import run_loop
from tests.slices import Spec, make_anndata, record_of
from tests.zoo.make_zoo import CASES

HERE = Path(__file__).parent
CATALOGUE = [
    *(f"B{n:03d}" for n in (2, 3, 4, 6, 7, 8, 9, 10, 11, 16, 17, 18, 19, 22)),
    *(f"B{n:03d}" for n in (23, 24, 25, 26, 28, 29, 30, 31, 33, 34, 35, 36, 37, 38)),
    *(f"B{n:03d}" for n in (40, 41, 42, 43, 44, 45, 49, 50, 52, 53, 54, 56, 58)),
    *(f"B{n:03d}" for n in (61, 62, 63, 64, 65, 66, 67, 68, 69, 72, 73, 74, 75, 76, 77, 78)),
    *(f"B{n:03d}" for n in (79, 80, 82, 85, 86, 88, 89, 91, 92, 93, 95)),
    "B045a",
]
ZOO = {
    "B009": "symlink_to_a_good_file", "B019": "cyclic_groups", "B024": "logs_in_X_counts_in_layer",
    "B025": "logs_in_X_counts_in_raw", "B026": "two_layers_of_counts",
    "B062": "offset_and_negative_array", "B063": "minus_zero", "B077": "labels_some_nan",
    "B086": "name_with_dots", "B088": "name_with_spaces", "B089": "name_not_ascii",
    "B093": "name_reserved",
}  # fmt: skip
"""Cases of the zoo that are no errors, or come with the code of another."""
ELSEWHERE = {
    "B010": "test_build:test_the_same_slice_twice_is_refused",
    "B011": "test_catalogue:test_one_unreadable_file_stops_no_other",
    "B017": "test_jail:test_a_child_that_is_killed_says_by_what",
    "B018": "test_jail:test_a_child_that_hangs_is_ended",
    "B022": "test_manifests:test_every_problem_of_a_sheet_is_listed_at_once",
    "B037": "test_h5ad:test_explicit_zeros_and_unsorted_indices_change_nothing",
    "B038": "test_h5ad:test_explicit_zeros_and_unsorted_indices_change_nothing",
    "B042": "test_catalogue:test_a_dense_matrix_is_read_by_blocks_of_rows",
    "B045a": "test_draws:test_smallest_keys_equal_a_stable_sort_in_fixed_point",
    "B050": "test_catalogue:test_a_trace_of_jitter_makes_no_larger_grid",
    "B052": "test_lattices:test_hex_offset_keeps_every_hex_neighbour_in_the_3x3",
    "B054": "test_catalogue:test_positions_that_float32_brought_together_are_refused_as_such",
    "B061": "test_h5ad:test_dropped_spots_and_genes_are_counted_and_molecules_conserved",
    "B064": "test_store:test_a_grid_in_several_zarr_shards_reads_back_the_same",
    "B065": "test_windows:test_every_window_holds_enough_however_far_apart_the_islands",
    "B066": "test_build:test_padding_is_counted_and_refused_when_asked",
    "B069": "test_gene_mapping:test_stripping_versions_makes_duplicates_like_others",
    "B072": "test_gene_mapping:test_controls_are_left_out_and_dates_and_versions_are_told",
    "B073": "test_gene_mapping:test_controls_are_left_out_and_dates_and_versions_are_told",
    "B075": "test_catalogue:test_a_gene_file_is_refused_with_its_lines",
    "B078": "test_catalogue:test_codes_of_labels_follow_their_names_not_the_file",
    "B080": "test_catalogue:test_numbers_as_labels_become_text",
    "B085": "test_publish:test_nothing_of_the_machine_leaves_it",
    "B092": "test_manifests:test_clashing_ids_are_named_in_pairs",
    "B095": "../corpus/test_names:test_every_id_becomes_a_slug_and_fits_a_key",
}
"""Cases that the tests of one module try, as ``file:test``."""


@pytest.mark.parametrize("case", CATALOGUE)
def test_every_case_of_the_catalogue_has_its_test(case):
    if case in ELSEWHERE:
        file, name = ELSEWHERE[case].split(":")
        text = (HERE / f"{file}.py").read_text("utf-8")
        assert re.search(rf"^def {name}\(", text, re.MULTILINE)
        return
    named = {case.name for case in CASES}
    codes = {code for found in CASES for code in found.code.split("|")}
    assert ZOO.get(case) in named or case in codes


def test_one_unreadable_file_stops_no_other():
    """Root may read everything, so the reader is given another user's rights for a moment."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        root.chmod(0o755)
        for name in ("open", "shut"):
            make_anndata(Spec(rows=8, cols=8)).write_h5ad(root / f"{name}.h5ad")
        (root / "shut.h5ad").chmod(0)
        (root / "folder").mkdir(mode=0)
        before = os.geteuid()
        if before == 0:
            os.seteuid(65534)
        try:
            assert read_here(record_of(root / "open.h5ad"), GridConfig()).barcodes
            for name in ("shut.h5ad", "folder"):
                with pytest.raises(BadInputError, match=r"B011.*may not be read"):
                    read_here(record_of(root / name), GridConfig())
        finally:
            os.seteuid(before)


def test_a_dense_matrix_is_read_by_blocks_of_rows(tmp_path, monkeypatch):
    data = make_anndata(Spec(rows=9, cols=9))
    data.X = data.X.toarray().astype(np.float64)
    data.write_h5ad(tmp_path / "s.h5ad")
    shapes = []
    whole = matrices.to_counts

    def watched(values, name, expected):
        shapes.append(values.size)
        return whole(values, name, expected)

    monkeypatch.setattr(matrices, "_ROWS_AT_ONCE", 5 * data.n_vars * 8)
    monkeypatch.setattr(matrices, "to_counts", watched)
    read = read_here(record_of(tmp_path / "s.h5ad"), GridConfig())
    assert (read.counts.toarray() == data.X[:, np.argsort(data.var_names)]).all()
    assert max(shapes) == 5 * data.n_vars
    assert len(shapes) == -(-data.n_obs // 5)


@pytest.mark.parametrize("size", [1e-9, 1e-3])
def test_a_trace_of_jitter_makes_no_larger_grid(tmp_path, size):
    """As ranks, 40 x 40 spots so jittered fill 1,600 x 1,600 cells."""
    data = make_anndata(Spec(kind="square", rows=40, cols=40, n_genes=4, drop=0))
    data.obs = data.obs.drop(columns=["array_row", "array_col"])
    rng = np.random.default_rng(0)
    data.obsm["spatial"] = data.obsm["spatial"] / 100 + rng.random((1600, 2)) * size
    data.write_h5ad(tmp_path / "s.h5ad")
    record = record_of(tmp_path / "s.h5ad")
    read = read_here(record, GridConfig())
    assert assign_cells(record, read, GridConfig()).shape == (40, 40)
    with pytest.raises(GateError, match=r"B050.*1600 x 1600"):
        assign_cells(record, read, GridConfig(layout="rank"))


def test_positions_that_float32_brought_together_are_refused_as_such(tmp_path):
    data = make_anndata(Spec(kind="square", rows=30, cols=30, n_genes=4, drop=0))
    data.obs = data.obs.drop(columns=["array_row", "array_col"])
    data.obsm["spatial"] = (data.obsm["spatial"] / 100 * 0.3 + 1e7).astype(np.float32)
    data.write_h5ad(tmp_path / "s.h5ad")
    record = record_of(tmp_path / "s.h5ad")
    read = read_here(record, GridConfig())
    for config in (GridConfig(), GridConfig(layout="square")):
        with pytest.raises((BadInputError, GateError), match=r"B0(49|53).*float32"):
            assign_cells(record, read, config)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("GAPDH\nACTB\nGAPDH\n", r"B075.*1 ids stand twice \(GAPDH\)"),
        ("# nothing but a remark\n\n", "B075.*no gene ids"),
    ],
    ids=["twice", "empty"],
)
def test_a_gene_file_is_refused_with_its_lines(tmp_path, text, match):
    path = tmp_path / "panel.txt"
    path.write_text(text)
    with pytest.raises(BadInputError, match=match):
        read_vocabulary(path)
    path.write_bytes(b"\xef\xbb\xbf# ours\r\nGAPDH\r\nACTB\r\n")
    assert read_vocabulary(path).genes == ("ACTB", "GAPDH")
    path.write_bytes(b"GAPDH\xff\n")
    with pytest.raises(BadInputError, match=r"B075.*not UTF-8"):
        read_vocabulary(path)


def test_codes_of_labels_follow_their_names_not_the_file(tmp_path):
    """Two files order the same categories differently; one has a class that no spot has."""
    for name, order in (("a", ["rim", "inner", "outer"]), ("b", ["outer", "none", "rim", "inner"])):
        data = make_anndata(Spec(rows=9, cols=9, seed=ord(name)))
        text = data.obs["label"].astype(str)
        data.obs["label"] = pd.Categorical(text, categories=order)
        data.write_h5ad(tmp_path / f"{name}.h5ad")
    paths = [str(tmp_path / f"{name}.h5ad") for name in "ab"]
    compact(read_inputs(paths), GridConfig(label="label"), tmp_path / "g", run_loop)
    for name in "ab":
        assert read_meta(tmp_path / f"g/{name}.zarr").label_names == ("inner", "outer", "rim")


@pytest.mark.parametrize(
    ("values", "labels"),
    [([1.0, 2.0, np.nan], {"1", "2", None}), ([1.5, 2.0, 2.0], {"1.5", "2"}),
     ([True, False, True], {"True", "False"}), ([3, 4, 5], {"3", "4", "5"})],
    ids=["floats", "fractions", "truth", "integers"],
)  # fmt: skip
def test_numbers_as_labels_become_text(tmp_path, values, labels):
    data = make_anndata(Spec(rows=8, cols=8))
    data.obs["label"] = [values[i % 3] for i in range(data.n_obs)]
    data.write_h5ad(tmp_path / "s.h5ad")
    read = read_here(record_of(tmp_path / "s.h5ad"), GridConfig(label="label"))
    assert read.labels is not None
    assert {*read.labels} == labels
