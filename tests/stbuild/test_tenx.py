"""10x matrices, h5 and mtx: the same counts from both, and every damage by its name."""

import gzip
import re

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stbuild.corpus.errors import BadInputError
from stbuild.sources.faults import SourceFaultError
from stbuild.sources.tenx_h5 import read_tenx_h5
from stbuild.sources.tenx_mtx import read_tenx_mtx
from stbuild.sources.tissue_positions import match_barcodes, read_tissue_positions
from tests.vendor_files import (
    IDS,
    counts_of,
    hex_spots,
    write_h5,
    write_mtx,
    write_old_h5,
    write_positions,
)

BARCODES = hex_spots()[0]


@given(
    dense=st.integers(1, 64).flatmap(
        lambda n: st.lists(
            st.lists(st.sampled_from([0, 0, 0, 1, 7, 2**31 - 1]), min_size=12, max_size=12),
            min_size=n,
            max_size=n,
        )
    )
)
def test_h5_and_mtx_give_the_same_counts(dense, tmp_path_factory):
    root, values = tmp_path_factory.mktemp("t"), np.asarray(dense, np.int64)
    barcodes = BARCODES[: len(values)]
    write_h5(root / "m.h5", barcodes, values)
    write_mtx(root / "m", barcodes, values)
    one, two = read_tenx_h5("t", root / "m.h5"), read_tenx_mtx(root / "m")
    assert one.barcodes == two.barcodes == barcodes
    assert one.ids == two.ids == IDS
    for found in (one, two):
        assert found.counts.dtype == np.uint32
        assert found.counts.nnz == np.count_nonzero(values)
        assert (found.counts.toarray() == values).all()


def test_blocks_of_a_matrix_join_without_a_seam(tmp_path, monkeypatch):
    dense = counts_of(64)
    write_mtx(tmp_path / "m", BARCODES, dense)
    monkeypatch.setattr("stbuild.sources.tenx_mtx._ROWS_AT_ONCE", 7)
    assert (read_tenx_mtx(tmp_path / "m").counts.toarray() == dense).all()


def test_names_of_features_may_hold_quotes(tmp_path):
    write_mtx(tmp_path / "m", BARCODES, counts_of(64), packed=False)
    path = tmp_path / "m" / "features.tsv"
    path.write_text(path.read_text().replace("GENE3\t", "5'NT \"x\t"))
    assert read_tenx_mtx(tmp_path / "m").names[3:5] == ["5'NT \"x", "GENE4"]


def edit(change):
    def step(path):
        with h5py.File(path, "r+") as file:
            change(file["matrix"])

    return step


def replace(name, values):
    def step(group):
        del group[name]
        group[name] = values

    return edit(step)


H5_FAULTS = {
    "no_indptr": (edit(lambda g: g.__delitem__("indptr")), "B041.*no data set 'indptr'"),
    "no_ids": (edit(lambda g: g.__delitem__("features/id")), "B041.*no data set 'id'"),
    "scalar_shape": (replace("shape", 12), "B041"),
    "text_shape": (replace("shape", np.asarray([b"a", b"b"])), "B041"),
    "long_shape": (replace("shape", [12, 64, 1]), "B041"),
    "short_names": (replace("features/name", np.asarray(IDS[:3], "S")), "B041.*3 entries"),
    "more_kinds": (replace("features/feature_type", np.asarray(["x"] * 13, "S")), "B041.*13"),
    "group_as_data": (edit(lambda g: (g.__delitem__("data"), g.create_group("data"))), "B041"),
    "flat_barcodes": (replace("barcodes", np.arange(64)), "B074"),
    "falling_starts": (replace("indptr", np.arange(65)[::-1]), "B035"),
    "fractions": (replace("data", np.full(np.count_nonzero(counts_of(64)), 0.5)), "B030"),
}


@pytest.mark.parametrize("name", H5_FAULTS)
def test_damage_of_an_h5_is_named(name, tmp_path):
    write_h5(tmp_path / "m.h5", BARCODES, counts_of(64))
    change, match = H5_FAULTS[name]
    change(tmp_path / "m.h5")
    with pytest.raises(BadInputError, match=match):
        read_tenx_h5("t", tmp_path / "m.h5")


def test_two_genomes_of_version_2_are_listed(tmp_path):
    write_old_h5(tmp_path / "m.h5", BARCODES, counts_of(64))
    with h5py.File(tmp_path / "m.h5", "r+") as file:
        file.copy("GRCh38", "mm10")
    with pytest.raises(BadInputError, match=r"B007.*'GRCh38', 'mm10'"):
        read_tenx_h5("t", tmp_path / "m.h5")


def test_an_entry_that_stands_twice_is_refused_or_summed(tmp_path):
    dense = counts_of(64)
    write_mtx(tmp_path / "m", BARCODES, dense, packed=False)
    path = tmp_path / "m" / "matrix.mtx"
    n = np.count_nonzero(dense)
    text = path.read_text().replace(f"12 64 {n}", f"12 64 {n + 1}")
    path.write_text(text + f"1 1 {5}\n")
    with pytest.raises(SourceFaultError, match="1 duplicate entries"):
        read_tenx_mtx(tmp_path / "m")
    summed = read_tenx_mtx(tmp_path / "m", sum_duplicates=True)
    assert summed.counts[0, 0] == dense[0, 0] + 5


HEAD = "%%MatrixMarket matrix coordinate integer general"
MTX_FAULTS = {
    "four_numbers": (lambda t: t.replace("\n1 1 ", "\n1 1 1 ", 1), "B033"),
    "half_an_index": (lambda t: t.replace("\n1 1 ", "\n1.5 1 ", 1), "B034"),
    "not_a_number": (lambda t: t.replace("\n1 1 ", "\nnan 1 ", 1), "B033"),
    "infinite": (lambda t: t.rstrip().rsplit(" ", 1)[0] + " inf\n", "B028"),
    "negative": (lambda t: t.rstrip().rsplit(" ", 1)[0] + " -2\n", "B029"),
    "symmetric": (lambda t: t.replace("general", "symmetric", 1), "B003"),
    "pattern": (lambda t: t.replace("integer", "pattern", 1), "B003"),
    "huge_sizes": (lambda t: t.replace("12 64 ", "12 64 9999999999", 1), "B004.*its head says"),
    "no_sizes": (lambda _: HEAD + "\n", "B041"),
    "no_entries": (lambda _: HEAD + "\n12 64 9\n", "B004.*0 entries"),
}


@pytest.mark.parametrize("name", MTX_FAULTS)
def test_damage_of_an_mtx_is_named(name, tmp_path):
    write_mtx(tmp_path / "m", BARCODES, counts_of(64), packed=False)
    path = tmp_path / "m" / "matrix.mtx"
    change, match = MTX_FAULTS[name]
    path.write_text(change(path.read_text()))
    with pytest.raises(SourceFaultError) as fault:
        read_tenx_mtx(tmp_path / "m")
    assert re.search(match, f"{fault.value.code} {fault.value.what}")


@pytest.mark.parametrize("part", ["matrix.mtx.gz", "features.tsv.gz", "barcodes.tsv.gz"])
@pytest.mark.parametrize("how", ["cut", "flipped", "gone", "not_text"])
def test_damaged_gzip_files_are_faults(part, how, tmp_path):
    write_mtx(tmp_path / "m", BARCODES, counts_of(64))
    path = tmp_path / "m" / part
    packed = path.read_bytes()
    if how == "cut":
        path.write_bytes(packed[: len(packed) // 2])
    elif how == "flipped":
        path.write_bytes(packed[:20] + bytes(255 - b for b in packed[20:40]) + packed[40:])
    elif how == "not_text":
        path.write_bytes(gzip.compress(b"\xff\xfe" * 40))
    else:
        path.unlink()
    with pytest.raises(SourceFaultError) as fault:
        read_tenx_mtx(tmp_path / "m")
    assert fault.value.code in {"B004", "B003", "B023", "B033", "B041", "B006", "B074"}


@given(start=st.integers(10, 200), noise=st.binary(min_size=1, max_size=30))
def test_noise_in_a_gzip_matrix_is_a_fault_or_nothing(start, noise, tmp_path_factory):
    root = tmp_path_factory.mktemp("n")
    dense = counts_of(64)
    write_mtx(root / "m", BARCODES, dense)
    path = root / "m" / "matrix.mtx.gz"
    packed = path.read_bytes()
    path.write_bytes(packed[:start] + noise + packed[start + len(noise) :])
    try:
        found = read_tenx_mtx(root / "m")
    except SourceFaultError:
        return
    assert (found.counts.toarray() == dense).all()


POSITIONS_FAULTS = {
    "empty": ("", "B047"),
    "odd_flag": ("A,1,0,0,1,1\nB,2,0,2,1,1\n", "in_tissue of row 2 is 2"),
    "no_flag": ("A,1,0,0,1,1\nB,,0,2,1,1\n", "in_tissue of row 2 is missing"),
    "short": ("A,1,0,0,1,1\nB,1,0,2,1\n", "line 2 has 5 cells"),
    "long": ("A,1,0,0,1,1\nB,1,0,2,1,1,9\n", "line 2 has 7 cells"),
    "text": ("A,1,0,0,1,1\nB,1,0,x,1,1\n", "array_col of line 2 is no number: 'x'"),
    "text_first": ("A,1,0,0,x,1\nB,1,0,2,1,1\n", "B047"),
    "header": ("spot,a,b,c,d,e\nA,1,0,0,1,1\n", "unknown header"),
    "twice": ("A,1,0,0,1,1\nA,1,0,2,1,1\n", "1 ids stand twice .first: 'A'"),
    "wrong_separator": ("A\t1\t0\t0\t1\t1\n", "line 1 has 1 cells"),
}


@pytest.mark.parametrize("name", POSITIONS_FAULTS)
def test_damage_of_positions_is_named(name, tmp_path):
    text, match = POSITIONS_FAULTS[name]
    path = tmp_path / "tissue_positions.csv"
    path.write_text(text)
    with pytest.raises(SourceFaultError) as fault:
        read_tissue_positions(path)
    assert re.search(match, f"{fault.value.code} {fault.value.what}")


@pytest.mark.parametrize(
    "text",
    [
        '"","tissue","row","col","imagerow","imagecol"\n"A",1,2,4,0.1,NA\n',
        "barcode,in_tissue,array_row,array_col,pxl_row_in_fullres,pxl_col_in_fullres\nA,1,2,4,0.1,\n",
        "barcode,array_row,array_col,in_tissue,pxl_row_in_fullres,pxl_col_in_fullres,extra\n"
        "A,2,4,1,0.1,NaN,z\n",
        "A,1,2,4,0.1,nan\r\n\r\n",
    ],
    ids=["from_R", "header", "other_order", "no_header"],
)
def test_headers_and_missing_pixels_are_understood(text, tmp_path):
    path = tmp_path / "tissue_positions.csv"
    path.write_bytes(text.encode())
    found = read_tissue_positions(path)
    assert found.barcodes.to_pylist() == ["A"]
    assert (found.array_row.tolist(), found.array_col.tolist()) == ([2.0], [4.0])
    assert found.in_tissue.tolist() == [True]
    assert found.xy[0, 1] == 0.1
    assert np.isnan(found.xy[0, 0])


@pytest.mark.parametrize("damage", ["cut", "columns", "text"])
def test_damage_of_parquet_positions_is_named(damage, tmp_path):
    barcodes, array, pixels = hex_spots()
    path = tmp_path / "tissue_positions.parquet"
    if damage == "columns":
        pq.write_table(pa.table({"barcode": ["A"]}), path)
    else:
        write_positions(path, barcodes, array, pixels)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-50])
    if damage == "text":
        path.write_text("barcode,in_tissue\n")
    with pytest.raises(SourceFaultError) as fault:
        read_tissue_positions(path)
    assert fault.value.code == ("B047" if damage == "columns" else "B004")


@given(
    present=st.lists(st.integers(0, 60), unique=True, min_size=1),
    wanted=st.lists(st.integers(0, 60), unique=True),
    endings=st.sampled_from([("-1", "-1"), ("-1", ""), ("", "-1"), ("", "")]),
)
def test_barcodes_match_as_a_plain_dictionary_does(present, wanted, endings):
    table = pa.array([f"B{i}{endings[1]}" for i in present], pa.large_string())
    place = {number: row for row, number in enumerate(present)}
    found = match_barcodes([f"B{i}{endings[0]}" for i in wanted], table)
    assert found.tolist() == [place.get(number, -1) for number in wanted]


def test_endings_that_tell_libraries_apart_are_never_ignored():
    table = pa.array(["A-1", "A-2", "B-1"], pa.large_string())
    assert match_barcodes(["A", "B"], table).tolist() == [-1, -1]
