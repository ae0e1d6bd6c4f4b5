"""Damaged and unclear tables: each is refused with what is wrong and what to do."""

import contextlib
import gzip
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stbuild.config import GridConfig
from stbuild.sources.faults import SourceFaultError
from stbuild.sources.tables import text as table_text
from stbuild.sources.tables.reader import read_table
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


def fault_of(path: Path, config: GridConfig = CONFIG, **fields) -> SourceFaultError:
    with pytest.raises(SourceFaultError) as caught:
        read_table(record_at(path, **fields), config)
    return caught.value


ROWS = "\tA\tB\n1x1\t0\t1\n1x2\t2\t3\n"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"
TEXTS = {
    "empty": ("", "B002", "empty"),
    "blank": ("\n\n  \n", "B002", "blank"),
    "pointer": (POINTER, "B003", "Git LFS"),
    "html": ("<!DOCTYPE html>\n<html>", "B003", "HTML"),
    "html_after_blank": ("\n  <html>", "B003", "HTML"),
    "json": ('{"a": 1}', "B003", "JSON"),
    "nul": (ROWS.replace("2\t3", "2\t\0"), "B003", "NUL byte"),
    "old_mac": (ROWS.replace("\n", "\r"), "B003", "old Mac"),
    "list": ("GAPDH\nACTB\n", "B022", "one field per line"),
    "header_only": ("\tA\tB\n", "B058", "header and nothing else"),
    "short_row": (ROWS + "1x3\t4\n", "B022", "line 4 has 2 fields, the header and first row 3"),
    "long_row": (ROWS + "1x3\t4\t5\t6\n", "B022", "line 4 has 4 fields"),
    "open_quote": (ROWS + '"1x3\t4\t5\n', "B022", "line 4 has 1 fields"),
    "missing": (ROWS + "1x3\tNA\t5\n", "B028", "'NA' in line 4, column 'A' is no count"),
    "nothing": (ROWS + "1x3\t\t5\n", "B028", "'' in line 4, column 'A'"),
    "nan": (ROWS + "1x3\t3\tNaN\n", "B028", "are NaN or infinite (first: nan), in line 4"),
    "infinite": (ROWS + "1x3\t3\tinf\n", "B028", "in line 4, column 'B'"),
    "negative": (ROWS + "1x3\t3\t-1\n", "B029", "first: -1.0), in line 4, column 'B'"),
    "fraction": (ROWS + "1x3\t0.69\t1\n", "B030", "looks log-normalised (first: 0.69), in line 4"),
    "large": (ROWS + "1x3\t4294967296\t1\n", "B031", "in line 4, column 'A'"),
    "text": (ROWS + "1x3\t3\tmany\n", "B033", "'many' in line 4, column 'B' is no count"),
    "thousands": (ROWS + "1x3\t3\t1_000\n", "B033", "'1_000' in line 4"),
    "return_amid_a_line": (ROWS + "1x3\t3\t1\r2\n", "B033", ""),
    "all_thousands": (ROWS.replace("\t", "\t1,00"), "B033", "'1,000' in column '1,00A'"),
    "decimal_commas": ("\tA\tB\n1x1\t0,0\t1,0\n1x2\t2,0\t3,0\n", "B033", "'0,0' in column 'A'"),
    "one_gene_of_thousands": (
        ROWS + "1x3\t1,234\t5\n",
        "B033",
        "'1,234' in column 'A' is no plain",
    ),
    "spaces_in_numbers": (ROWS + "1x3\t1 234 567\t5\n", "B033", "'1 234 567' in column 'A'"),
    "comment": ("# made by X\n" + ROWS, "B022", "line 1 is a comment, no header"),
    "comment_behind_blanks": ("\n\n#X, Y\n" + ROWS, "B022", "line 3 is a comment"),
    "two_comments": ("# made by X\n# in 2020\n" + ROWS, "B022", "line 1 is a comment"),
    "long_comment": ("#\tmade\tby\tX\tin\tY\n" + ROWS, "B022", "it has 6 fields, the last rows 3"),
    "title": ("Counts of X\n" + ROWS, "B022", "line 1 is a title, no header"),
    "header_of_numbers": ("7\t1\t2\t3\n8\t0\t1\t2\n9\t2\t3\t4\n", "B022", "no header"),
    "no_ids": ("GAPDH\tACTB\tTP53\n4\t0\t1\n2\t2\t3\n", "B091", "no column of ids"),
    "both_spots": ("\t1x1\t1x2\n1x1\t0\t1\n1x2\t2\t3\n", "B040", "both axes look like spots"),
    "neither": ("\tA\tB\nfoo\t0\t1\nbar\t2\t3\n", "B040", "cannot tell spots from genes"),
    "molecules": ("gene\tglobal_x\tglobal_y\nA\t1.5\t2\nB\t1\t2\n", "B007", "lists molecules"),
    "labels": ("barcode\tlabel\nAAACAAGTATCTCCCA-1\ttumour\n", "B023", "table of labels"),
    "positions": ("barcode,x,y\nAAACAAGTATCTCCCA-1,1.5,2\n", "B023", "table of positions"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_wrong_text_is_refused(name, tmp_path):
    text, code, what = TEXTS[name]
    fault = fault_of(write_text(tmp_path / "t.tsv", text))
    assert (fault.code, what in fault.what) == (code, True), fault.what
    assert fault.fix


@pytest.mark.parametrize("name", ["empty", "pointer", "nul", "short_row", "negative", "nan"])
def test_what_is_wrong_inside_gzip_is_refused_alike(name, tmp_path):
    text, code, what = TEXTS[name]
    fault = fault_of(write_text(tmp_path / "t.tsv.gz", text, packed=True))
    assert (fault.code, what in fault.what) == (code, True), fault.what


BYTES = {
    "utf16": (ROWS.encode("utf-16"), "B003", "UTF-16"),
    "zip": (b"PK\x03\x04rest", "B003", "zip"),
    "hdf5": (b"\x89HDF\r\n\x1a\nrest", "B003", "HDF5"),
    "latin1_id": (b"\tA\tB\n1x1\t0\t1\n1x2\xe9\t0\t1\n", "B074", "line 3 is not valid UTF-8"),
    "latin1_header": (b"\tA\xe9\tB\n1x1\t0\t1\n", "B074", "line 1 is not valid UTF-8"),
    "gzip_twice": (gzip.compress(gzip.compress(ROWS.encode())), "B003", "inside a gzip"),
    "bytes_as_counts": (b"\tA\tB\n1x1\t0\t\xff\n", "B074", "line 2"),
}


@pytest.mark.parametrize("name", BYTES)
def test_wrong_bytes_are_refused(name, tmp_path):
    data, code, what = BYTES[name]
    path = tmp_path / "t.tsv"
    path.write_bytes(data)
    fault = fault_of(path)
    assert (fault.code, what in fault.what) == (code, True), fault.what


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_cut_off_gzip_is_refused(share, tmp_path):
    genes = [f"G{i}" for i in range(300)]
    spots = [f"{i}x{i}" for i in range(300)]
    counts = (COUNTS.sum() * range(90_000)) % 97
    path = write_counts(tmp_path / "t.tsv.gz", counts.reshape(300, 300), spots, genes)
    whole = gzip.compress(path.read_bytes())
    path.write_bytes(whole[: int(len(whole) * share)])
    assert fault_of(path).code == "B004"


def test_cut_off_text_is_refused(tmp_path):
    path = write_counts(tmp_path / "t.tsv")
    path.write_bytes(path.read_bytes()[:-8])
    fault = fault_of(path)
    assert fault.code == "B022"
    assert "cut off" in fault.fix


def test_damaged_gzip_is_refused(tmp_path):
    path = write_counts(tmp_path / "t.tsv.gz", dialect=Dialect(packed=True))
    data = bytearray(path.read_bytes())
    data[-6] ^= 0xFF  # the checksum
    path.write_bytes(bytes(data))
    assert fault_of(path).code == "B004"


def test_tables_that_inflate_without_end_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(table_text, "MAX_INFLATED", 2**20)
    row = "1x{}\t" + "\t".join(["0"] * 500) + "\n"
    header = "\t" + "\t".join(f"G{i}" for i in range(500)) + "\n"
    text = header + "".join(row.format(i) for i in range(2000))
    path = write_text(tmp_path / "t.tsv.gz", text, packed=True)
    assert path.stat().st_size < 20_000
    fault = fault_of(path)
    assert fault.code == "B043"
    assert "inflates to more than" in fault.what


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(table_text, "MAX_LINE", 1000)
    fault = fault_of(write_text(tmp_path / "t.tsv", "\tA" * 2000))
    assert fault.code == "B043"


def test_only_regular_files_are_opened(tmp_path):
    pipe = tmp_path / "t.tsv"
    os.mkfifo(pipe)
    assert fault_of(pipe).code == "B008"
    assert fault_of(tmp_path / "none.tsv").code == "B001"
    loop = tmp_path / "loop.tsv"
    loop.symlink_to(loop)
    assert fault_of(loop).code == "B001"


def test_links_to_a_table_are_followed(tmp_path):
    link = tmp_path / "link.tsv"
    link.symlink_to(write_counts(tmp_path / "t.tsv"))
    assert read_table(record_at(link), GridConfig()).counts.shape == COUNTS.shape


def test_ids_that_stand_twice_are_left_to_intake(tmp_path):
    spots, genes = ["1x1", "1x1", "1x2", "1x3"], ["A", "A", "B", "C"]
    raw = read_table(
        record_at(write_counts(tmp_path / "t.tsv", COUNTS, spots, genes)), GridConfig()
    )
    assert list(raw.barcodes) == spots
    assert list(raw.genes) == genes
    assert (raw.counts.toarray() == COUNTS).all()


def test_barcodes_without_positions_have_no_place(tmp_path):
    fault = fault_of(write_counts(tmp_path / "t.tsv", spots=BARCODES))
    assert fault.code == "B046"
    assert "--positions FILE" in fault.fix


def test_text_from_the_table_is_escaped(tmp_path):
    text = ROWS + "1x3\t3\t\x1b[31m" + "9" * 500 + "x\n"
    fault = fault_of(write_text(tmp_path / "t.tsv", text))
    assert "\x1b" not in fault.what
    assert len(fault.what) < 200


def test_unknown_columns_of_ids_and_labels_are_refused(tmp_path):
    path = write_counts(tmp_path / "t.tsv")
    assert fault_of(path, GridConfig(label="layer")).code == "B076"
    assert fault_of(path, GridConfig(gene_id_column="symbol")).code == "B074"


def test_text_columns_amid_the_counts_are_named(tmp_path):
    head = ["barcode", "A", "B", "note"]
    rows = [[f"1x{i}", 1, 2, "fine"] for i in range(3)]
    fault = fault_of(write_rows(tmp_path / "t.csv", [head, *rows]))
    assert fault.code == "B033"
    assert "column 'note'" in fault.what


def test_a_folder_must_have_one_table_of_counts(tmp_path):
    write_counts(tmp_path / "a.tsv")
    write_counts(tmp_path / "b.tsv.gz", dialect=Dialect(packed=True))
    fault = fault_of(tmp_path)
    assert fault.code == "B007"
    assert "a.tsv (counts), b.tsv.gz (counts)" in fault.what
    assert "--positions FILE" in fault.fix


def test_a_folder_must_not_leave_the_positions_open(tmp_path):
    write_counts(tmp_path / "counts.tsv", spots=BARCODES)
    rows = [("barcode", "x", "y"), *((name, i, i) for i, name in enumerate(BARCODES))]
    for name in ("p.csv", "q.csv"):
        write_rows(tmp_path / name, rows)
    fault = fault_of(tmp_path)
    assert fault.code == "B007"
    assert "p.csv, q.csv" in fault.what
    assert "--positions FILE" in fault.fix
    raw = read_table(record_at(tmp_path, positions=str(tmp_path / "q.csv")), GridConfig())
    assert raw.files == (tmp_path / "counts.tsv", tmp_path / "q.csv")


def test_positions_without_labels_are_preferred(tmp_path):
    write_counts(tmp_path / "counts.tsv")
    xy = [name.split("x") for name in SPOTS]
    head = ["x", "y", "pixel_x", "pixel_y"]
    write_rows(tmp_path / "plain.csv", [head, *([*at, "5", "6"] for at in xy)])
    rows = [[*at, "7", "8", "rim"] for at in xy]
    write_rows(tmp_path / "labelled.csv", [[*head, "label"], *rows])
    raw = read_table(record_at(tmp_path), GridConfig())
    assert raw.xy is not None
    assert raw.xy.tolist() == [[5, 6]] * 4
    assert raw.labels is None


def test_a_table_of_labels_does_not_move_spots_that_say_where_they_lie(tmp_path):
    write_counts(tmp_path / "counts.tsv")
    rows = [["9.98", "13.1", "700", "800", "rim"]]
    write_rows(tmp_path / "labels.tsv", [["x", "y", "pixel_x", "pixel_y", "label"], *rows], "\t")
    raw = read_table(record_at(tmp_path), CONFIG)
    assert raw.xy is None
    assert raw.in_tissue is None
    assert raw.files == (tmp_path / "counts.tsv",)


def test_other_files_in_a_folder_do_not_disturb(tmp_path):
    write_counts(tmp_path / "counts.tsv")
    write_text(tmp_path / "genes.txt", "\n".join(GENES))
    write_text(tmp_path / "scalefactors_json.json", "{}")
    (tmp_path / "he.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    (tmp_path / "inner").mkdir()
    assert read_table(record_at(tmp_path), GridConfig()).files == (tmp_path / "counts.tsv",)


def test_a_broken_table_in_a_folder_is_not_passed_over(tmp_path):
    write_counts(tmp_path / "counts.tsv")
    write_text(tmp_path / "selection.tsv", POINTER)
    fault = fault_of(tmp_path)
    assert (fault.code, fault.field) == ("B003", "selection.tsv")


def test_numbers_that_a_spreadsheet_wrote_are_no_labels(tmp_path):
    write_text(tmp_path / "t.csv", "id;A;B\nAAACAAGTATCTCCCA-1;1,5;2,0\n")
    fault = fault_of(tmp_path)
    assert fault.code == "B033"
    assert "'1,5' in column 'A'" in fault.what
    assert "1.5, not 1,5" in fault.fix


def test_a_table_with_a_comment_in_a_folder_is_named(tmp_path):
    write_text(tmp_path / "t.csv", "# made by X\n" + ROWS)
    write_text(tmp_path / "genes.txt", "\n".join(GENES))
    fault = fault_of(tmp_path)
    assert fault.code == "B023"
    assert "passed over t.csv: line 1 is a comment" in fault.what
    assert "genes" not in fault.what


def test_a_header_may_start_with_a_hash(tmp_path):
    write_text(tmp_path / "t.tsv", "#" + ROWS)
    assert list(read_table(record_at(tmp_path / "t.tsv"), CONFIG).genes) == ["A", "B"]


NO_COUNTS = {
    "raw/dlpfc_layout": "barcode_level_layer_map.tsv (labels)",
    "raw/dlpfc_layout/151507": "tissue_positions_list.txt (positions)",
    "raw/her2st_labels_only": "J1_labeled_coordinates.tsv (positions with labels)",
}


@pytest.mark.parametrize("name", NO_COUNTS)
def test_real_folders_without_counts_are_refused(name, shared_data):
    fault = fault_of(shared_data / name)
    assert fault.code == "B023"
    assert fault.what.startswith("no counts")
    assert NO_COUNTS[name] in fault.what


PIECES = st.sampled_from(
    [
        b"\t",
        b",",
        b"\n",
        b'"',
        b"NA",
        b"nan",
        b"-1",
        b"1e400",
        b"\r",
        b"\xff",
        b"\0",
        b"x",
        b"",
        b" ",
    ]
)
EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 9), PIECES), max_size=5)


@given(name=st.sampled_from(["tsv", "csv", "spaces"]), edits=EDITS)
def test_damage_of_any_kind_is_a_fault_or_a_table(name, edits, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp()
    dialect = {"tsv": "\t", "csv": ",", "spaces": " "}[name]
    path = write_counts(folder / "damaged.tsv", dialect=Dialect(delimiter=dialect, corner=None))
    data = path.read_bytes()
    for share, length, piece in edits:
        at = int(share * len(data))
        data = data[:at] + piece + data[at + length :]
    path.write_bytes(data)
    with contextlib.suppress(SourceFaultError):
        raw = read_table(record_at(path), CONFIG)
        assert raw.counts.shape == (len(raw.barcodes), len(raw.genes))
