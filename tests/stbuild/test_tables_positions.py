"""Positions beside counts: joined by id, by array coordinates or by order; the rest is counted."""

from pathlib import Path

import numpy as np
import pytest

from stbuild.config import GridConfig
from stbuild.sources.faults import SourceFaultError
from stbuild.sources.tables.reader import read_table
from tests.table_files import (
    BARCODES,
    COUNTS,
    SPOTS,
    Dialect,
    record_at,
    write_counts,
    write_rows,
)

POINTS = [(1.5, 20.0), (2.5, -30.0), (3.5, 40.0), (4.5, 50.0)]
"""(x, y) of the four spots of the count table."""


def read(path: Path, **fields):
    return read_table(record_at(path, **fields), GridConfig())


def fault_of(path: Path, **fields) -> SourceFaultError:
    with pytest.raises(SourceFaultError) as caught:
        read(path, **fields)
    return caught.value


NAMES = {
    "slideseq": ("barcodes", "xcoord", "ycoord", "pixel"),
    "giotto": ("cell_ID", "sdimx", "sdimy", "pixel"),
    "paste": ("", "x", "y", "pixel"),
    "seurat": ("cell", "imagecol", "imagerow", "pixel"),
    "spaceranger": ("barcode", "pxl_col_in_fullres", "pxl_row_in_fullres", "pixel"),
    "upper_case": ("Barcode", "X", "Y", "pixel"),
    "xenium": ("cell_id", "x_centroid", "y_centroid", "um"),
    "merscope": ("EntityID", "center_x", "center_y", "um"),
    "unnamed_platform": ("id", "center_x", "center_y", "pixel"),
    "array": ("spot", "array_x", "array_y", "array"),
    "own_name_of_the_id": ("Visium_Spot", "x", "y", "pixel"),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("delimiter", [",", "\t"], ids=["csv", "tsv"])
def test_columns_are_known_by_their_names(name, delimiter, tmp_path):
    own, x, y, unit = NAMES[name]
    write_counts(tmp_path / "counts.tsv", spots=BARCODES)
    rows = [[BARCODES[i], *POINTS[i]] for i in (2, 0, 3, 1)]
    write_rows(tmp_path / "where.txt", [[own, x, y], *rows], delimiter)
    raw = read(tmp_path)
    assert raw.xy is not None
    assert raw.xy.tolist() == [list(point) for point in POINTS]
    assert raw.unit == unit
    assert raw.in_tissue is None
    assert raw.files == (tmp_path / "counts.tsv", tmp_path / "where.txt")
    assert raw.ledger == {"spots_without_position": 0, "positions_without_counts": 0}


SPELLINGS = {
    "same": lambda name: name,
    "without_suffix": lambda name: name.removesuffix("-1"),
    "other_suffix": lambda name: name.replace("-1", "-2"),
    "dots_of_r": lambda name: name.replace("-", "."),
    "x_of_r": lambda name: f"X{name}",
}


@pytest.mark.parametrize("name", ["same", "without_suffix", "other_suffix", "dots_of_r"])
@pytest.mark.parametrize("by_spot", [True, False], ids=["rows", "columns"])
def test_ids_are_joined_however_they_are_spelled(name, by_spot, tmp_path):
    spell = SPELLINGS[name]
    write_counts(tmp_path / "c.tsv", spots=BARCODES, dialect=Dialect(by_spot=by_spot))
    rows = [[spell(BARCODES[i]), *POINTS[i]] for i in range(4)]
    write_rows(tmp_path / "p.csv", [["barcode", "x", "y"], *rows])
    raw = read(tmp_path)
    assert raw.xy is not None
    assert raw.xy.tolist() == [list(point) for point in POINTS]


def test_suffixes_that_tell_spots_apart_are_kept(tmp_path):
    stem = "AAACAAGTATCTCCCA"
    spots = [f"{stem}-1", f"{stem}-2", *BARCODES[1:3]]
    write_counts(tmp_path / "c.tsv", spots=spots)
    rows = [[name, *point] for name, point in zip(spots, POINTS, strict=True)]
    write_rows(tmp_path / "p.csv", [["barcode", "x", "y"], *rows[::-1]])
    raw = read(tmp_path)
    assert raw.xy is not None
    assert raw.xy.tolist() == [list(point) for point in POINTS]


def test_positions_without_header(tmp_path):
    write_counts(tmp_path / "c.tsv", spots=BARCODES)
    rows = [[BARCODES[i], int(i != 1), 7 + i, 5 * i, *POINTS[i][::-1]] for i in (3, 1, 0, 2)]
    rows.append(["AAAGTCGACCCTCAGT-1", 1, 0, 0, 9, 9])
    rows.append(["AAAGTGTGATTTATCT-1", 0, 0, 1, 9, 9])
    write_rows(tmp_path / "tissue_positions_list.csv", rows)
    raw = read(tmp_path)
    assert raw.array is not None
    assert raw.in_tissue is not None
    assert raw.xy is not None
    assert raw.array[0].tolist() == [7, 8, 9, 10]
    assert raw.array[1].tolist() == [0, 5, 10, 15]
    assert raw.in_tissue.tolist() == [True, False, True, True]
    assert raw.xy.tolist() == [list(point) for point in POINTS]
    # A site off the tissue needs no counts.
    assert raw.ledger["positions_without_counts"] == 1


HEAD = ["x", "y", "new_x", "new_y", "pixel_x", "pixel_y", "selected"]


def alignment(order=(0, 1, 2, 3), selected=(1, 1, 0, 1)):
    rows = []
    for i in order:
        x, y = SPOTS[i].split("x")
        rows.append([x, y, float(x) + 0.1, float(y) - 0.2, *POINTS[i], selected[i]])
    return rows


@pytest.mark.parametrize("named", [True, False], ids=["with_row_names", "plain"])
def test_alignment_table(named, tmp_path):
    write_counts(tmp_path / "c.tsv")
    rows = [*alignment((3, 0, 2)), [30, 30, 30, 30, 1, 1, 1], [31, 31, 31, 31, 1, 1, 0]]
    if named:  # R's write.table: a header one field shorter, rows numbered
        rows = [[i + 1, *row] for i, row in enumerate(rows)]
    write_rows(tmp_path / "align.tsv", [HEAD, *rows], "\t")
    raw = read(tmp_path)
    assert raw.array is not None
    assert raw.in_tissue is not None
    assert raw.xy is not None
    assert raw.array[0].tolist() == [13, 14, 13, 20]
    assert raw.in_tissue.tolist() == [True, False, False, True]
    assert np.isnan(raw.xy[1]).all()
    assert raw.xy[[0, 2, 3]].tolist() == [list(POINTS[i]) for i in (0, 2, 3)]
    assert raw.unit == "pixel"
    assert raw.ledger == {"spots_without_position": 1, "positions_without_counts": 1}
    assert "1 of 4 spots do not stand in align.tsv" in raw.notices[0].what


SUBSETS = {
    "selected_alone": (["x", "y", "selected"], None, None),
    "adjusted": (["x", "y", "new_x", "new_y"], [10.1, 12.8], "array"),
    "pixels_alone": (["x", "y", "pixel_x", "pixel_y"], [1.5, 20.0], "pixel"),
}


@pytest.mark.parametrize("name", SUBSETS)
def test_any_columns_of_an_alignment_table_will_do(name, tmp_path):
    columns, first, unit = SUBSETS[name]
    write_counts(tmp_path / "c.tsv")
    at = [HEAD.index(column) for column in columns]
    rows = [[row[i] for i in at] for row in alignment()]
    table = write_rows(tmp_path / "elsewhere" / "align.tsv", [columns, *rows], "\t")
    raw = read(tmp_path / "c.tsv", positions=str(table))
    assert raw.array is not None
    assert raw.array[1].tolist() == [10, 10, 11, 12]
    if first is None:
        assert raw.xy is None
        assert raw.in_tissue is not None
        assert raw.in_tissue.tolist() == [True, True, False, True]
    else:
        assert raw.xy is not None
        assert raw.xy[0].tolist() == first
        assert raw.unit == unit
        assert raw.in_tissue is None


def test_fractional_ids_with_pixels(tmp_path):
    spots = ["10.02x12.98", "10.1x13.9", "10.98x13.1", "12x20"]
    write_counts(tmp_path / "c.tsv", spots=spots)
    rows = [[*name.split("x"), *POINTS[i], 1] for i, name in enumerate(spots)]
    write_rows(tmp_path / "p.csv", [["x", "y", "pixel_x", "pixel_y", "selected"], *rows[::-1]])
    raw = read(tmp_path)
    assert raw.xy is not None
    assert raw.array is not None
    assert raw.xy.tolist() == [list(point) for point in POINTS]
    assert raw.array[0].tolist() == [12.98, 13.9, 13.1, 20]


def test_positions_without_ids_are_taken_in_order_and_said_so(tmp_path):
    write_counts(tmp_path / "c.tsv", spots=BARCODES)
    write_rows(tmp_path / "p.txt", POINTS, " ")
    raw = read(tmp_path)
    assert raw.xy is not None
    assert raw.xy.tolist() == [list(point) for point in POINTS]
    assert "4 rows are taken in the order of the spots" in raw.notices[0].what


@pytest.mark.parametrize("start", [0, 1], ids=["from_0", "from_1"])
def test_row_numbers_are_no_ids(start, tmp_path):
    write_counts(tmp_path / "c.tsv", spots=BARCODES)
    rows = [[i + start, *POINTS[i]] for i in range(4)]
    write_rows(tmp_path / "p.csv", [["", "x", "y"], *rows])
    raw = read(tmp_path)
    assert raw.xy is not None
    assert raw.xy.tolist() == [list(point) for point in POINTS]
    assert "order of the spots" in raw.notices[0].what


def test_order_is_checked_against_ids_that_are_coordinates(tmp_path):
    spots = [f"{x}x{y}" for x in range(4) for y in range(5)]
    counts = np.ones((20, 2), np.int64)
    table = write_counts(tmp_path / "c.tsv", counts, spots, ["A", "B"])
    points = [(700 - 30 * y + 2 * x, 50 + 31 * x) for x in range(4) for y in range(5)]
    good = write_rows(tmp_path / "good.txt", points, " ")
    raw = read(table, positions=str(good))
    assert "agree with the ids" in raw.notices[0].what
    assert raw.xy is not None
    assert raw.xy.tolist() == [list(point) for point in points]
    bad = write_rows(tmp_path / "bad.txt", points[::-1][1:] + points[-1:], " ")
    assert "do not follow the coordinates" in fault_of(table, positions=str(bad)).what


def test_positions_that_equal_the_ids_need_no_order(tmp_path):
    spots = ["1.5x2.5", "3.25x4", "9x1.125", "0.5x7"]
    table = write_counts(tmp_path / "c.tsv", spots=spots)
    points = [list(map(float, name.split("x"))) for name in spots]
    other = write_rows(tmp_path / "p.csv", points[::-1])
    raw = read(table, positions=str(other))
    assert raw.xy is not None
    assert raw.xy.tolist() == points
    assert raw.unit == "array"
    assert "another order" in raw.notices[0].what


def test_missing_coordinates_are_nan(tmp_path):
    write_counts(tmp_path / "c.tsv", spots=BARCODES)
    rows = [[name, *point] for name, point in zip(BARCODES, POINTS, strict=True)]
    rows[1] = [BARCODES[1], "NA", ""]
    rows[2] = [BARCODES[2], "inf", 3]
    write_rows(tmp_path / "p.csv", [["barcode", "x", "y"], *rows])
    raw = read(tmp_path)
    assert raw.xy is not None
    assert np.isnan(raw.xy).tolist() == [
        [False, False], [True, True], [True, False], [False, False],
    ]  # fmt: skip


BARCODED: list[list[object]] = [
    ["barcode", "x", "y"],
    *([BARCODES[i], *POINTS[i]] for i in range(4)),
]
WRONG: dict[str, tuple[list[list[object]], str, str]] = {
    "none_matches": ([["barcode", "x", "y"], ["GGGGGGGGGG-1", 1, 2]], "B047", "none of the 4"),
    "another_number_without_ids": ([[1, 2], [3, 4], [5, 6]], "B047", "3 positions without ids"),
    "spot_twice": ([*BARCODED, [BARCODES[2], 0, 0]], "B082", "1 spots have several rows"),
    "text": ([*BARCODED[:3], [BARCODES[2], "here", 0]], "B047", "'here' in row 3"),
    "short_row": ([*BARCODED[:3], [BARCODES[2], 1]], "B022", "line 4 has 2 fields, expected 3"),
    "no_coordinates": ([["barcode", "a"], [BARCODES[0], "b"]], "B046", "no columns of coord"),
    "four_columns": ([[BARCODES[0], 1, 2, 3]], "B046", "have 2, 3 or 6 columns"),
    "marks": (
        [["barcode", "x", "y", "in_tissue"], [BARCODES[0], 1, 2, 1], [BARCODES[1], 1, 2, 5]],
        "B047",
        "neither 0 nor 1 (first: '5' in row 2)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_positions_are_refused(name, tmp_path):
    rows, code, what = WRONG[name]
    table = write_counts(tmp_path / "c.tsv", spots=BARCODES)
    where = write_rows(tmp_path / "p.csv", rows)
    fault = fault_of(table, positions=str(where))
    assert fault.code == code
    assert what in fault.what


def test_an_alignment_table_must_name_a_spot_once(tmp_path):
    table = write_counts(tmp_path / "c.tsv")
    rows = [HEAD, *alignment(), *alignment((2,))]
    where = write_rows(tmp_path / "p.tsv", rows, "\t")
    fault = fault_of(table, positions=str(where))
    assert fault.code == "B082"
    assert "11, 13" in fault.what


def test_sections_in_the_ids_are_refused(tmp_path):
    fault = fault_of(write_counts(tmp_path / "c.tsv", spots=["A_1x1", "A_1x2", "B_1x1", "B_1x2"]))
    assert fault.code == "B056"
    assert "2 sections ('A', 'B')" in fault.what


def test_merscope_cells(tmp_path):
    cells = ["2260", "110883424764611924", "9"]
    genes = ["Slc17a7", "Blank-1", "Gad1", "Blank-22"]
    dialect = Dialect(delimiter=",", corner="cell")
    write_counts(tmp_path / "cell_by_gene.csv", COUNTS[:3], cells, genes, dialect)
    head = ["EntityID", "fov", "volume", "center_x", "center_y", "min_x", "min_y"]
    rows = [[cell, 0, 310.5, 10.5 + i, -3.25, 0.1, 0.2] for i, cell in enumerate(cells[::-1])]
    write_rows(tmp_path / "cell_metadata.csv", [head, *rows])
    raw = read(tmp_path)
    assert list(raw.barcodes) == cells
    assert list(raw.genes) == ["Slc17a7", "Gad1"]
    assert raw.unit == "um"
    assert raw.xy is not None
    assert raw.xy.tolist() == [[12.5, -3.25], [11.5, -3.25], [10.5, -3.25]]
    assert raw.ledger["features_of_other_types"] == 2
    assert raw.ledger["molecules_of_other_types"] == COUNTS[:3, [1, 3]].sum()
    assert (raw.counts.toarray() == COUNTS[:3, [0, 2]]).all()


def test_cosmx_cells(tmp_path):
    head = ["fov", "cell_ID", "GAPDH", "NegPrb01", "SystemControl3"]
    rows = [[1, 0, 50, 9, 1], [1, 1, 2, 0, 1], [1, 2, 0, 3, 0], [2, 1, 4, 0, 0]]
    write_rows(tmp_path / "S1_exprMat_file.csv", [head, *rows])
    head = ["fov", "cell_ID", "Area", "CenterX_global_px", "CenterY_global_px", "cell", "cell_id"]
    cells = [[2, 1, 99, 5.5, 1, "c_2_1", "x"], [1, 1, 98, 1.5, 2, "c_1_1", "x"]]
    cells.append([1, 2, 97, 2.5, 3, "c_1_2", "x"])
    write_rows(tmp_path / "S1_metadata_file.csv", [head, *cells])
    head = ["fov", "x_global_px", "y_global_px"]
    write_rows(tmp_path / "S1_fov_positions_file.csv", [head, [1, 0, 0], [2, 4000, 0]])
    head = ["fov", "cellID", "x_local_px", "y_local_px", "x_global_px", "y_global_px"]
    outline = [[1, 1, i, i, i, i] for i in range(4)]
    write_rows(tmp_path / "S1-polygons.csv", [head, *outline])
    head = ["fov", "cell_ID", "x_global_px", "y_global_px", "z", "target", "CellComp"]
    write_rows(tmp_path / "S1_tx_file.csv", [head, [1, 1, 5.5, 6.5, 0, "GAPDH", "None"]])
    raw = read(tmp_path)
    assert list(raw.barcodes) == ["1_0", "1_1", "1_2", "2_1"]
    assert list(raw.genes) == ["GAPDH"]
    assert (raw.unit, raw.um_per_unit) == ("pixel", None)
    assert raw.xy is not None
    assert raw.xy[1:].tolist() == [[1.5, 2], [2.5, 3], [5.5, 1]]
    # Cell 0 of a field holds what lies in no cell: it has no position and counts as off tissue.
    assert raw.in_tissue is not None
    assert raw.in_tissue.tolist() == [False, True, True, True]
    assert raw.ledger["spots_without_position"] == 1
    assert raw.ledger["molecules_of_other_types"] == 14


def write_cosmx(folder, *, atomx):
    """Write 90 cells of 3 fields at random, as AtoMx or its forerunner does; return positions."""
    rng = np.random.default_rng(3)
    fov, cell = np.repeat([1, 2, 3], 30), np.tile(np.arange(1, 31), 3)
    xy = rng.random((90, 2)) * 5000
    both = [[f, c, 1 + i % 3, i % 2] for i, (f, c) in enumerate(zip(fov, cell, strict=True))]
    write_rows(folder / "R_exprMat_file.csv", [["fov", "cell_ID", "GAPDH", "ACTB"], *both])
    head = ["fov", "cell_ID", "Area", "CenterX_global_px", "CenterY_global_px"]
    rows = [[f, c, 99, *p] for f, c, p in zip(fov, cell, xy.tolist(), strict=True)]
    if atomx:
        head = ["cell_id", *head, "cell"]
        rows = [[f"c_1_{r[0]}_{r[1]}", *r, f"c_1_{r[0]}_{r[1]}"] for r in rows]
    write_rows(folder / "R_metadata_file.csv", [head, *rows])
    return xy


@pytest.mark.parametrize("atomx", [False, True], ids=["first", "atomx"])
def test_field_and_number_of_a_cell_are_no_array_coordinates(atomx, tmp_path):
    """As coordinates they would fill a grid of fields x cells, and nobody would notice."""
    xy = write_cosmx(tmp_path, atomx=atomx)
    raw = read(tmp_path)
    assert raw.array is None
    assert raw.xy is not None
    assert np.allclose(raw.xy, xy)
    assert "B051" in {notice.code for notice in raw.notices}


def test_field_and_number_of_a_cell_alone_say_no_place(tmp_path):
    write_cosmx(tmp_path, atomx=False)
    (tmp_path / "R_metadata_file.csv").unlink()
    fault = fault_of(tmp_path)
    assert fault.code == "B046"
    assert "(first: '1_1')" in fault.what
    assert "--positions FILE" in fault.fix


def test_few_cells_do_not_make_their_field_and_number_coordinates(tmp_path):
    head = ["fov", "cell_ID", "GAPDH", "ACTB"]
    write_rows(tmp_path / "e.csv", [head, *([1 + i // 2, 1 + i % 2, 1, i] for i in range(4))])
    head = ["fov", "cell_ID", "CenterX_global_px", "CenterY_global_px"]
    write_rows(tmp_path / "m.csv", [head, *([1 + i // 2, 1 + i % 2, *POINTS[i]] for i in range(4))])
    raw = read(tmp_path)
    assert raw.array is None
    assert raw.xy is not None
    assert raw.xy.tolist() == [list(point) for point in POINTS]


def test_numbers_about_cells_beside_their_counts_are_passed_over(tmp_path):
    """MERSCOPE writes embeddings beside cell_by_gene.csv."""
    write_counts(tmp_path / "cell_by_gene.csv", spots=BARCODES, dialect=Dialect(delimiter=","))
    for name, head in (
        ("cell_metadata", ["EntityID", "center_x", "center_y"]),
        ("cell_numeric_categories", ["EntityID", "umap_X", "umap_Y"]),
    ):
        rows = [[barcode, i * 10.5, i * 3.5] for i, barcode in enumerate(BARCODES)]
        write_rows(tmp_path / f"{name}.csv", [head, *rows])
    raw = read(tmp_path)
    assert (raw.counts.toarray() == COUNTS).all()
    said = [str(notice) for notice in raw.notices if notice.code == "B025"]
    assert "cell_numeric_categories.csv beside it" in said[0]
