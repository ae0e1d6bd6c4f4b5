"""Labels from a table of their own: joined by id or coordinates, nothing lost without a count."""

import anndata
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from stbuild.config import GridConfig
from stbuild.sources.faults import SourceFaultError
from stbuild.sources.labels import join_labels
from stbuild.sources.raw import RawSlice
from stbuild.sources.tables.reader import read_table
from tests.table_files import BARCODES, SPOTS, record_at, write_rows, write_text

LABELS = ["rim", "core", "core", "outer wall"]


def slice_of(barcodes, array=None, xy=None, **fields) -> RawSlice:
    """Return a slice without counts."""
    rows, cols = (None, None) if array is None else np.asarray(array, float)
    return RawSlice(
        counts=csr_array(np.zeros((len(barcodes), 1), np.uint32)),
        barcodes=list(barcodes),
        genes=["G"],
        array=None if rows is None or cols is None else (rows, cols),
        xy=None if xy is None else np.asarray(xy, float),
        files=(),
        **fields,
    )


BARCODED = slice_of(BARCODES)
ST = slice_of(SPOTS, ([13, 14, 13, 20], [10, 10, 11, 12]))


def join(raw, rows, tmp_path, column=None, section=None, delimiter="\t", name=None):
    path = write_rows(tmp_path / "labels.tsv", rows, delimiter)
    joined = join_labels(raw, path, column, section=section, name=name)
    assert joined.files == (path,)
    return joined


def fault_of(raw, rows, tmp_path, column=None, section=None) -> SourceFaultError:
    with pytest.raises(SourceFaultError) as caught:
        join(raw, rows, tmp_path, column, section)
    return caught.value


SPELLINGS = {
    "same": lambda name: name,
    "without_suffix": lambda name: name.removesuffix("-1"),
    "other_suffix": lambda name: f"{name[:-2]}-7",
    "dots_of_r": lambda name: name.replace("-", "."),
}


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("header", [True, False], ids=["header", "headless"])
def test_labels_are_joined_by_barcode(name, header, tmp_path):
    rows = [[SPELLINGS[name](BARCODES[i]), LABELS[i]] for i in (2, 0, 3, 1)]
    joined = join(BARCODED, [["barcode", "layer"]] * header + rows, tmp_path)
    assert joined.labels == LABELS
    assert joined.ledger["labels_without_spot"] == 0
    assert joined.ledger["spots_without_label"] == 0
    assert joined.notices == ()


def test_barcodes_that_differ_by_suffix_alone_stay_apart(tmp_path):
    stem = BARCODES[0][:-2]
    raw = slice_of([f"{stem}-1", f"{stem}-2"])
    rows = [["barcode", "label"], [f"{stem}-2", "b"], [f"{stem}-1", "a"], [f"{stem}-3", "c"]]
    joined = join(raw, rows, tmp_path)
    assert joined.labels == ["a", "b"]
    assert joined.ledger["labels_without_spot"] == 1


COORDINATES: dict[str, tuple[list[str], list[tuple[float, float]]]] = {
    "whole": (["x", "y"], [(10, 13), (10, 14), (11, 13), (12, 20)]),
    "fractional": (["x", "y"], [(9.9, 13.3), (10.2, 13.7), (11.1, 12.9), (12.32, 20)]),
    "array_names": (["array_col", "array_row"], [(10, 13), (10, 14), (11, 13), (12, 20)]),
    "row_and_col": (["col", "row"], [(10, 13), (10, 14), (11, 13), (12, 20)]),
}


@pytest.mark.parametrize("name", COORDINATES)
def test_labels_are_joined_by_array_coordinates(name, tmp_path):
    columns, points = COORDINATES[name]
    rows = [[f"{i}x9000", *points[i], LABELS[i]] for i in (3, 1, 0, 2)]
    rows.append(["5x9000", 30, 30, "rim"])
    joined = join(ST, [["Row.names", *columns, "label"], *rows], tmp_path)
    assert joined.labels == LABELS
    assert joined.ledger["labels_without_spot"] == 1
    assert "joined by array coordinates" in joined.notices[0].what
    assert ("rounded" in joined.notices[0].what) == (name == "fractional")


def test_ids_of_spots_are_ids_whatever_they_look_like(tmp_path):
    rows = [["spot", "label"], *([SPOTS[i], LABELS[i]] for i in (1, 0, 2, 3))]
    assert join(ST, rows, tmp_path).labels == LABELS


def test_fractional_spots_are_joined_as_they_stand(tmp_path):
    points = [(1.1, 2.2), (1.4, 2.3), (5.5, 6.6)]  # the first two round to one
    raw = slice_of(["a1", "a2", "a3"], xy=points, unit="array")
    rows = [["x", "y", "label"], *([*points[i], LABELS[i]] for i in (2, 1, 0))]
    assert join(raw, rows, tmp_path).labels == LABELS[:3]
    rows = [["x", "y", "label"], [1, 2, "rim"]]
    assert fault_of(raw, rows, tmp_path).code == "B076"


def test_positions_in_pixels_are_never_rounded(tmp_path):
    points = [(100.25, 200.5), (300.75, 400.5)]
    raw = slice_of(["a", "b"], xy=points)
    rows = [["pixel_x", "pixel_y", "label"], *([*points[i], LABELS[i]] for i in (1, 0))]
    assert join(raw, rows, tmp_path).labels == LABELS[:2]
    rows = [["pixel_x", "pixel_y", "label"], [100, 200, "rim"], [301, 401, "core"]]
    assert fault_of(raw, rows, tmp_path).code == "B076"


def test_cells_of_cosmx_are_joined_by_field_and_number(tmp_path):
    raw = slice_of(["1_1", "1_2", "2_1"])
    rows = [["fov", "cell_ID", "cell_type"], [2, 1, "c"], [1, 1, "a"], [1, 2, "b"]]
    assert join(raw, rows, tmp_path).labels == ["a", "b", "c"]


@pytest.mark.parametrize("missing", ["", "NA", "nan", "NaN", "<NA>"])
def test_missing_labels_are_none(missing, tmp_path):
    rows = [["barcode", "label"], [BARCODES[0], missing], [BARCODES[1], "rim"]]
    joined = join(BARCODED, rows, tmp_path, delimiter=",")
    assert joined.labels == [None, "rim", None, None]
    assert joined.ledger["spots_without_label"] == 3
    assert joined.ledger["labels_without_spot"] == 0


def test_labels_without_coordinates_are_counted(tmp_path):
    rows = [["x", "y", "label"], [10, 13, "rim"], ["NA", "NA", "core"], [40, 40, "core"]]
    joined = join(ST, rows, tmp_path)
    assert joined.labels == ["rim", None, None, None]
    assert joined.ledger["labels_without_position"] == 1
    assert joined.ledger["labels_without_spot"] == 1
    assert joined.ledger["spots_without_label"] == 3


SECTIONS = [
    ["AAACAAGTATCTCCCA-1", "151507", "L1"],
    ["AAACAAGTATCTCCCA-1", "151508", "L2"],
    ["AAACACCAATAACTGC-1", "151508", "L3"],
    ["AAACAGAGCGACTCCT-1", "151508", "WM"],
]


@pytest.mark.parametrize("header", [True, False], ids=["header", "headless"])
def test_rows_of_other_sections_are_left_alone(header, tmp_path):
    rows = [["barcode", "sample_name", "layer"]] * header + SECTIONS
    joined = join(BARCODED, rows, tmp_path, section="151507")
    assert joined.labels == ["L1", None, None, None]
    assert joined.ledger["labels_without_spot"] == 0
    assert joined.ledger["labels_of_other_sections"] == 3
    joined = join(BARCODED, rows, tmp_path, section="151508")
    assert joined.labels == ["L2", "L3", "WM", None]
    assert joined.ledger["labels_of_other_sections"] == 1
    assert ("'column 2' is taken" in joined.notices[0].what) == (not header)
    assert join(BARCODED, rows, tmp_path, name="151508").labels == joined.labels


def test_the_name_of_a_slice_is_no_value_of_any_column(tmp_path):
    """A slice called 1 lost the labels of all clusters but 1."""
    rows = [["barcode", "label", "kmeans"], *([BARCODES[i], LABELS[i], i % 2] for i in range(4))]
    joined = join(BARCODED, rows, tmp_path, "label", name="1")
    assert joined.labels == LABELS
    assert "labels_of_other_sections" not in joined.ledger
    joined = join(BARCODED, rows, tmp_path, "label", section="1")
    assert joined.labels == [None, "core", None, "outer wall"]
    assert "'kmeans' is taken to tell sections apart: 2 labels" in joined.notices[0].what
    rows = [["barcode", "label", "kmeans", "sample"]]
    rows += [[BARCODES[i % 4], LABELS[i % 4], str(i % 2), str(i // 4)] for i in range(8)]
    joined = join(BARCODED, rows, tmp_path, "label", name="1")
    assert joined.labels == LABELS


def test_a_section_that_two_columns_hold_is_refused(tmp_path):
    rows = [["barcode", "label", "kmeans", "chip"]]
    rows += [[BARCODES[i], LABELS[i], str(i % 2), str(i // 2)] for i in range(4)]
    fault = fault_of(BARCODED, rows, tmp_path, "label", section="1")
    assert fault.code == "B076"
    assert "'kmeans' and 'chip'" in fault.what


def aggregated():
    """Return the labels of two samples that were joined, as `spaceranger aggr` calls the spots."""
    rows = [["Barcode", "Cluster"]]
    for ending in (1, 2):
        rows += [[f"{name[:-2]}-{ending}", f"{ending}{name[4]}"] for name in BARCODES]
    return rows


def test_labels_of_several_samples_are_no_labels_of_one(tmp_path):
    fault = fault_of(BARCODED, aggregated(), tmp_path)
    assert fault.code == "B056"
    assert "4 spots stand in it as barcodes of several samples" in fault.what
    assert f"{BARCODES[0]}, {BARCODES[0][:-2]}-2" in fault.what
    assert "`section`" in fault.fix
    assert fault_of(BARCODED, aggregated(), tmp_path, section="three").code == "B056"


@pytest.mark.parametrize("section", ["1", "2"])
def test_the_section_may_be_the_number_of_a_sample(section, tmp_path):
    joined = join(BARCODED, aggregated(), tmp_path, section=section)
    assert joined.labels == [f"{section}{name[4]}" for name in BARCODES]
    assert joined.ledger["labels_of_other_sections"] == 4
    assert joined.ledger["labels_without_spot"] == 0


def test_spots_that_were_joined_too_have_their_own_labels(tmp_path):
    second = slice_of([f"{name[:-2]}-2" for name in BARCODES])
    assert join(second, aggregated(), tmp_path).labels == [f"2{name[4]}" for name in BARCODES]
    part = slice_of(BARCODES, sections=("sample", ["1"] * 4))
    assert join(part, aggregated(), tmp_path).labels == [f"1{name[4]}" for name in BARCODES]


def test_an_unknown_section_is_refused_with_those_that_are_there(tmp_path):
    rows = [["barcode", "sample_name", "layer"], *SECTIONS]
    fault = fault_of(BARCODED, rows, tmp_path, section="151509")
    assert fault.code == "B076"
    assert "'151507', '151508'" in fault.what


def test_sections_that_nobody_tells_apart_conflict(tmp_path):
    fault = fault_of(BARCODED, SECTIONS, tmp_path)
    assert fault.code == "B081"
    assert "'L1' and 'L2'" in fault.what
    assert "section" in fault.fix


def test_a_spot_may_stand_twice_with_one_label(tmp_path):
    rows = [["barcode", "label"], [BARCODES[0], "rim"], [BARCODES[0], "rim"]]
    assert join(BARCODED, rows, tmp_path).labels == ["rim", None, None, None]


def test_rows_that_round_to_one_spot_must_agree(tmp_path):
    rows = [["x", "y", "label"], [9.8, 13.1, "rim"], [10.3, 12.9, "core"], [11.1, 13.1, "core"]]
    fault = fault_of(ST, rows, tmp_path)
    assert fault.code == "B081"
    assert "rounded" in fault.what


COLUMNS = {
    "named": (["barcode", "zone", "note"], "zone", "z"),
    "label_is_preferred": (["barcode", "cluster", "label"], None, "n"),
    "only_usual_name": (["barcode", "size", "annotation"], None, "n"),
    "headless_by_number": (None, "2", "z"),
    "headless_last": (None, None, "n"),
    "headless_name_is_moot": (None, "layer", "n"),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_the_column_is_named_or_the_only_one(name, tmp_path):
    header, column, first = COLUMNS[name]
    rows = [[barcode, f"z{i}", f"n{i}"] for i, barcode in enumerate(BARCODES)]
    joined = join(BARCODED, ([header] if header else []) + rows, tmp_path, column)
    assert joined.labels == [f"{first}{i}" for i in range(4)]


UNCLEAR = {
    "no_such": (["barcode", "zone", "note"], "layer", "'layer' stands not in the table"),
    "twice": (["barcode", "zone", "zone"], "zone", "'zone' stands twice"),
    "two_of_text": (["barcode", "zone", "note"], None, "cannot tell"),
    "two_usual": (["barcode", "cluster", "region"], None, "cannot tell"),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_unclear_columns_are_refused_and_listed(name, tmp_path):
    header, column, what = UNCLEAR[name]
    rows = [[barcode, f"z{i}", f"n{i}"] for i, barcode in enumerate(BARCODES)]
    fault = fault_of(BARCODED, [header, *rows], tmp_path, column)
    assert fault.code == "B076"
    assert what in fault.what
    assert f"'{header[1]}'" in fault.what
    assert "--label" in fault.fix


def test_labels_of_something_else_are_refused(tmp_path):
    rows = [["barcode", "label"], ["GGGGGGGGGGGGGGGG-1", "rim"]]
    fault = fault_of(BARCODED, rows, tmp_path)
    assert fault.code == "B076"
    assert f"'{BARCODES[0]}' in the slice, 'GGGGGGGGGGGGGGGG-1' in the table" in fault.what


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "B002"),
        ("barcode\tlabel\nA\tb\tc\nB\tb\n", "B022"),
        ("A\nB\n", "B022"),
        ("id\tlabel\n", "B076"),
    ],
    ids=["empty", "ragged", "list", "header_alone"],
)
def test_damaged_tables_are_refused(text, code, tmp_path):
    with pytest.raises(SourceFaultError) as caught:
        join_labels(BARCODED, write_text(tmp_path / "l.tsv", text), None, section=None)
    assert caught.value.code == code


@given(order=st.permutations(range(4)), extra=st.integers(0, 3), labels=st.data())
def test_the_order_of_rows_does_not_matter(order, extra, labels, tmp_path_factory):
    names = labels.draw(st.lists(st.sampled_from(["a b", "c", "NA"]), min_size=4, max_size=4))
    rows = [[BARCODES[i], names[i]] for i in order]
    rows += [[f"GGGGGGGGGGGGGGG{'ACGT'[i]}-1", "c"] for i in range(extra)]
    joined = join(BARCODED, [["id", "label"], *rows], tmp_path_factory.getbasetemp())
    assert joined.labels == [None if name == "NA" else name for name in names]
    assert joined.ledger["labels_without_spot"] == extra
    assert joined.ledger["spots_without_label"] == names.count("NA")


def test_real_labels_with_fractional_coordinates(shared_data):
    folder = shared_data / "raw/her2st_A1"
    raw = read_table(record_at(folder), GridConfig())
    path = folder / "A1_labeled_coordinates.tsv"
    joined = join_labels(raw, path, None, section="A1")
    source = anndata.read_h5ad(shared_data / "her2st/A1.h5ad").obs["label"]
    # The .h5ad has no label where the table says that it is undetermined.
    wanted = source.astype(object).where(source.notna(), "undetermined")
    assert list(joined.barcodes) == list(source.index)
    assert joined.labels == list(wanted)
    assert joined.ledger["labels_without_spot"] == 2
    assert joined.ledger["spots_without_label"] == 0
    assert path in joined.files


def test_real_labels_with_a_row_without_coordinates(shared_data):
    points = [(x, y) for x in range(40) for y in range(40)]
    rows, cols = [y for _, y in points], [x for x, _ in points]
    raw = slice_of([f"{x}x{y}" for x, y in points], (rows, cols))
    path = shared_data / "raw/her2st_labels_only/F1_labeled_coordinates.tsv"
    joined = join_labels(raw, path, "label", section="F1")
    assert joined.ledger["labels_without_position"] == 1
    assert joined.ledger["labels_without_spot"] == 0


@pytest.mark.parametrize("section", ["151507", "151509", "151510"])
def test_real_labels_of_several_sections_in_one_table(section, shared_data):
    source = anndata.read_h5ad(shared_data / f"dlpfc/{section}.h5ad").obs["label"]
    raw = slice_of(list(source.index))
    path = shared_data / "raw/dlpfc_layout/barcode_level_layer_map.tsv"
    joined = join_labels(raw, path, None, section=section)
    long = {None: None, "WM": "WM"} | {f"L{i}": f"Layer{i}" for i in range(1, 7)}
    wanted = [None if label != label else label for label in source.astype(object)]
    assert [long[label] for label in joined.labels or ()] == wanted
    assert joined.ledger["labels_without_spot"] == 0
    assert joined.ledger["spots_without_label"] == wanted.count(None)
