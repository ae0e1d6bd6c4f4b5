"""The table reader: every spelling of a table is the same slice; real tables equal their .h5ad."""

import gzip
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stbuild.config import GridConfig
from stbuild.sources.tables import counts as table_counts
from stbuild.sources.tables.reader import looks_like_table, read_table
from tests.table_files import (
    BARCODES,
    COUNTS,
    GENES,
    SPOTS,
    Dialect,
    record_at,
    write_counts,
    write_rows,
    write_text,
)

CONFIG = GridConfig()

DIALECTS = {
    "tsv": Dialect(),
    "csv": Dialect(delimiter=","),
    "semicolon": Dialect(delimiter=";"),
    "spaces_short_header": Dialect(delimiter=" ", corner=None),
    "gzip": Dialect(packed=True),
    "gzip_csv_genes_by_spots": Dialect(delimiter=",", packed=True, by_spot=False),
    "quoted_ids": Dialect(delimiter=",", quoted=True),
    "all_quoted": Dialect(delimiter=",", all_quoted=True),
    "r_write_table": Dialect(delimiter=" ", corner=None, quoted=True),
    "r_write_csv_transposed": Dialect(delimiter=",", corner=None, quoted=True, by_spot=False),
    "genes_by_spots": Dialect(by_spot=False, corner="gene"),
    "crlf": Dialect(end="\r\n"),
    "bom": Dialect(bom=True, delimiter=","),
    "bom_crlf_quoted": Dialect(bom=True, delimiter=",", end="\r\n", quoted=True),
    "floats": Dialect(number="{}.0"),
    "exponents": Dialect(number="{}e+00"),
    "blank_lines": Dialect(end="\n\n"),
    "padded_numbers": Dialect(delimiter=",", number=" {} "),
}


def read(path: Path, config: GridConfig = CONFIG, **fields):
    return read_table(record_at(path, **fields), config)


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_is_the_same_slice(name, tmp_path):
    raw = read(write_counts(tmp_path / "t.tsv", dialect=DIALECTS[name]))
    assert list(raw.barcodes) == list(SPOTS)
    assert list(raw.genes) == list(GENES)  # NA and 1-Mar stay text
    assert raw.counts.dtype == np.uint32
    assert (raw.counts.toarray() == COUNTS).all()
    assert raw.counts.has_canonical_format
    assert raw.counts.nnz == np.count_nonzero(COUNTS)
    assert raw.array is not None
    assert raw.array[0].tolist() == [13, 14, 13, 20]
    assert raw.array[1].tolist() == [10, 10, 11, 12]
    assert raw.files == (tmp_path / "t.tsv",)


names = st.text(st.characters(codec="utf-8", categories=["Lu", "Ll", "Nd"]), min_size=1, max_size=8)


@given(
    counts=st.integers(1, 6).flatmap(
        lambda k: st.lists(
            st.lists(st.integers(0, 2**31 - 1), min_size=k, max_size=k), min_size=1, max_size=6
        )
    ),
    dialect=st.sampled_from(list(DIALECTS.values())),
    block=st.integers(1, 60),
    data=st.data(),
)
def test_any_counts_come_back_whatever_the_block(counts, dialect, block, data, tmp_path_factory):
    values = np.asarray(counts, np.int64)
    n, k = values.shape
    genes = [f"G{name}" for name in data.draw(st.lists(names, min_size=k, max_size=k))]
    spots = [f"{i}x{2 * i}" for i in range(n)]
    path = tmp_path_factory.getbasetemp() / "any.tsv"
    write_counts(path, values, spots, genes, dialect)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_counts, "_BLOCK", block)
        raw = read(path)
    assert (raw.counts.toarray() == values).all()
    assert list(raw.genes) == genes
    assert list(raw.barcodes) == spots


IDS = {
    "x": (["10x13", "2x5"], [13, 5], [10, 2]),
    "underscore": (["10_13", "2_5"], [13, 5], [10, 2]),
    "r_prefix": (["X10x13", "X2x5"], [13, 5], [10, 2]),
    "negative": (["-1x3", "4x-7"], [3, -7], [-1, 4]),
    "section_prefix": (["A1_10x13", "A1_2x5"], [13, 5], [10, 2]),
    "hyphen_prefix_negative": (["L1--1x3", "L1-2x-5"], [3, -5], [-1, 2]),
    "sample_suffix": (["10x13_1", "2x5_1"], [13, 5], [10, 2]),
}


@pytest.mark.parametrize("name", IDS)
def test_ids_carry_array_coordinates(name, tmp_path):
    spots, rows, cols = IDS[name]
    raw = read(write_counts(tmp_path / "t.tsv", COUNTS[:2], spots))
    assert raw.array is not None
    assert raw.array[0].tolist() == rows
    assert raw.array[1].tolist() == cols
    assert bool(raw.notices) == (name == "underscore")


def test_fractional_ids_are_positions_in_steps(tmp_path):
    raw = read(write_counts(tmp_path / "t.tsv", COUNTS[:2], ["17.907x4.967", "-0.5x6"]))
    assert raw.array is None
    assert raw.unit == "array"
    assert raw.xy is not None
    assert raw.xy.tolist() == [[17.907, 4.967], [-0.5, 6]]


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "fractional"])
def test_positions_in_ids_are_no_steps_of_an_array(whole, tmp_path):
    points = np.random.default_rng(0).uniform(0, 5000, (40, 2)).round(0 if whole else 3)
    spots = [f"{x:.15g}x{y:.15g}" for x, y in points.tolist()]
    counts = np.ones((40, 3), np.int64)
    raw = read(write_counts(tmp_path / "t.tsv", counts, spots, ["A", "B", "C"]))
    assert (raw.array, raw.unit) == (None, "pixel")
    assert np.array_equal(raw.xy if raw.xy is not None else (), points)
    assert "taken as positions" in raw.notices[0].what
    where = write_rows(tmp_path / "p.csv", points[::-1].tolist())
    raw = read(tmp_path / "t.tsv", positions=str(where))
    assert (raw.array, raw.unit) == (None, "pixel")
    assert np.array_equal(raw.xy if raw.xy is not None else (), points)


def test_gene_names_beside_ids_and_annotations_are_no_spots(tmp_path):
    head = ["gene_id", "symbol", "Chr", "Start", "Length", *SPOTS]
    ids = [f"ENSG0000000000{i}" for i in range(4)]
    body = [[ids[i], GENES[i], "chr1", 5 * i, 900, *COUNTS[:, i]] for i in range(4)]
    path = write_rows(tmp_path / "t.csv", [head, *body])
    raw = read(path)
    assert (list(raw.genes), list(raw.gene_names or ())) == (ids, list(GENES))
    assert (raw.counts.toarray() == COUNTS).all()
    assert "3 columns hold no counts" in raw.notices[0].what
    swapped = read(path, GridConfig(gene_id_column="symbol"))
    assert (list(swapped.genes), list(swapped.gene_names or ())) == (list(GENES), ids)


def test_coordinates_and_labels_may_stand_before_the_counts(tmp_path):
    head = ["barcode", "x", "y", "label", *GENES]
    body = [[BARCODES[i], i + 0.5, 2 * i, "tumour", *COUNTS[i]] for i in range(4)]
    raw = read(write_rows(tmp_path / "t.csv", [head, *body]), GridConfig(label="label"))
    assert list(raw.genes) == list(GENES)
    assert raw.xy is not None
    assert raw.xy.tolist() == [[i + 0.5, 2 * i] for i in range(4)]
    assert list(raw.labels or ()) == ["tumour"] * 4


def test_a_lone_y_is_a_gene_of_the_fly(tmp_path):
    raw = read(write_counts(tmp_path / "t.tsv", genes=["y", "w", "Act5C", "Gapdh1"]))
    assert list(raw.genes) == ["y", "w", "Act5C", "Gapdh1"]


LOOKS = {
    "tsv": ("t.tsv", "\tA\tB\n1x2\t0\t1\n", True),
    "counts_without_suffix": ("counts", "\tA\tB\n1x2\t0\t1\n", True),
    "empty_tsv": ("t.tsv.gz", "", True),
    "pointer": ("t.csv", "version https://git-lfs.github.com/spec/v1\n", True),
    "script": ("t.py", "import os, sys\nprint(os, sys)\n", False),
    "json": ("t.json", '{"a": 1, "b": 2}', False),
    "mtx": ("m.mtx", "%%MatrixMarket matrix coordinate\n2 2 1\n1 1 5\n", False),
    "binary": ("t.bin", "\x00\x01\x02", False),
}


@pytest.mark.parametrize("name", LOOKS)
def test_tables_are_told_from_other_files(name, tmp_path):
    file, text, expected = LOOKS[name]
    assert looks_like_table(write_text(tmp_path / file, text)) == expected


def test_folders_with_tables_are_told_from_others(tmp_path):
    write_text(tmp_path / "a" / "README.txt", "Some words.\nAnd, some more.\n")
    assert not looks_like_table(tmp_path / "a")
    assert not looks_like_table(tmp_path / "missing")
    write_counts(tmp_path / "b" / "counts.txt")
    assert looks_like_table(tmp_path / "b")


def expect_equal(raw, source, k=None):
    wanted = source.X[:, :k]
    assert list(raw.barcodes) == list(source.obs_names)
    assert list(raw.genes) == list(source.var_names[:k])
    assert (raw.counts != wanted).nnz == 0
    assert int(raw.counts.sum()) == int(wanted.sum())
    assert np.array_equal(raw.xy, source.obsm["spatial"], equal_nan=True)


REAL = {
    "her2st_A1": ("her2st/A1", None),
    "stutility_Hippo1": ("mouse_brain_2k/Hippo1", 1000),
    "breast_cancer_layer2": ("breast_cancer_layers/layer2", None),
    "visium_dg_text": ("visium_unlabelled/mouse_brain_dg_pixels_only", None),
}


@pytest.mark.parametrize("name", REAL)
def test_real_tables_equal_their_h5ad(name, shared_data):
    twin, k = REAL[name]
    source = anndata.read_h5ad(shared_data / f"{twin}.h5ad")
    raw = read(shared_data / "raw" / name)
    expect_equal(raw, source, k)
    if "in_tissue" in source.obs:
        assert raw.array is not None
        assert raw.in_tissue is not None
        assert (raw.array[0] == source.obs["array_row"]).all()
        assert (raw.array[1] == source.obs["array_col"]).all()
        assert (raw.in_tissue == (source.obs["in_tissue"] == 1)).all()
    if name == "stutility_Hippo1":
        assert raw.ledger["spots_without_position"] == 235
        assert raw.ledger["positions_without_counts"] == 24
    if name in ("breast_cancer_layer2", "visium_dg_text"):
        assert "has no ids" in raw.notices[0].what
        assert raw.unit == ("array" if name == "breast_cancer_layer2" else "pixel")


def test_real_transposed_table_with_short_header(shared_data):
    raw = read(shared_data / "raw/stutility_BC1")
    source = pd.read_csv(shared_data / "raw/stutility_BC1/BC1.csv", index_col=0)
    assert list(raw.barcodes) == list(source.columns)
    assert list(raw.genes) == list(source.index)
    assert (raw.counts.toarray() == source.to_numpy().T).all()
    points = [list(map(float, name.split("x"))) for name in source.columns]
    assert raw.xy is not None
    assert raw.xy.tolist() == points
    assert raw.unit == "array"


def test_real_slideseq_beads(shared_data):
    folder = shared_data / "raw/slideseq_small"
    raw = read(folder)
    counts = pd.read_csv(folder / "MappedDGEForR.csv", index_col=0)
    beads = pd.read_csv(folder / "BeadLocationsForR.csv", index_col=0)
    assert list(raw.barcodes) == list(counts.columns)
    assert list(raw.genes) == list(counts.index)
    assert (raw.counts.toarray() == counts.to_numpy().T).all()
    assert raw.xy is not None
    assert (raw.xy == beads.loc[counts.columns].to_numpy()).all()


@pytest.mark.parametrize("name", ["her2st_A1/A1.tsv.gz", "stutility_Hippo1"])
def test_real_tables_in_another_dialect_are_the_same(name, shared_data, tmp_path):
    path = shared_data / "raw" / name
    own = read(path, positions=None)
    dialect = Dialect(delimiter=" ", corner=None, quoted=True, by_spot=False)
    other = write_counts(tmp_path / "t.txt", own.counts.toarray(), own.barcodes, own.genes, dialect)
    raw = read(other)
    assert (raw.counts != own.counts).nnz == 0
    assert list(raw.genes) == list(own.genes)
    assert list(raw.barcodes) == list(own.barcodes)


def test_members_of_a_gzip_file_are_read_one_after_the_other(tmp_path):
    text = write_counts(tmp_path / "t.tsv").read_bytes()
    half = len(text) // 2
    packed = tmp_path / "t.tsv.gz"
    packed.write_bytes(gzip.compress(text[:half]) + gzip.compress(text[half:]))
    assert (read(packed).counts.toarray() == COUNTS).all()
