"""Headers that are shorter than the rows: R left a name out, or the rows end with a delimiter."""

import pytest

from stbuild.config import GridConfig
from stbuild.sources.faults import SourceFaultError
from stbuild.sources.labels import join_labels
from stbuild.sources.tables.preview import read_preview
from stbuild.sources.tables.reader import read_table
from tests.stbuild.test_labels import BARCODED, LABELS
from tests.table_files import BARCODES, COUNTS, GENES, SPOTS, record_at, write_text

POINTS = [(1.5, 20.0), (2.5, -30.0), (3.5, 40.0), (4.5, 50.0)]


def lines(head, rows, delimiter=",", end=""):
    text = [delimiter.join(map(str, fields)) for fields in (head, *rows)]
    return "\n".join([text[0], *(line + end for line in text[1:])]) + "\n"


@pytest.mark.parametrize("headed", [True, False], ids=["header_too", "rows_alone"])
@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
def test_a_delimiter_at_the_end_of_rows_moves_no_column(delimiter, headed, tmp_path):
    end = delimiter if headed else ""
    head = ["barcode", "layer", f"score{end}"]
    rows = [[BARCODES[i], LABELS[i], i] for i in range(4)]
    path = write_text(tmp_path / "l.csv", lines(head, rows, delimiter, delimiter))
    assert join_labels(BARCODED, path, "layer", section=None).labels == LABELS
    head = ["barcode", "x", "y", f"area{end}"]
    rows = [[BARCODES[i], *POINTS[i], 50] for i in range(4)]
    where = write_text(tmp_path / "p.csv", lines(head, rows, delimiter, delimiter))
    head = ["", *GENES[:-1], GENES[-1] + end]
    rows = [[BARCODES[i], *COUNTS[i]] for i in range(4)]
    table = write_text(tmp_path / "c.csv", lines(head, rows, delimiter, delimiter))
    raw = read_table(record_at(table, positions=str(where)), GridConfig())
    assert raw.xy is not None
    assert raw.xy.tolist() == [list(point) for point in POINTS]
    assert (raw.counts.toarray() == COUNTS).all()
    assert list(raw.genes) == list(GENES)


def test_a_row_without_the_delimiter_of_the_others_is_refused(tmp_path):
    rows = [[f"{i}x1", *COUNTS[0]] for i in range(80)]
    text = lines(["", *GENES], rows, end=",").removesuffix(",\n") + "\n"
    path = write_text(tmp_path / "t.csv", text)
    with pytest.raises(SourceFaultError, match="line 81 does not end with ','") as caught:
        read_table(record_at(path), GridConfig())
    assert caught.value.code == "B022"


R_FORMS = {
    "counts": (list(GENES), [[SPOTS[i], *COUNTS[i]] for i in range(4)]),
    "positions": (["x", "y"], [[BARCODES[i], *POINTS[i]] for i in range(4)]),
    "row_numbers": (["barcode", "x"], [[i + 1, BARCODES[i], 2.5] for i in range(4)]),
    "row_numbers_of_a_part": (["barcode", "x"], [[3 * i, BARCODES[i], 2.5] for i in range(4)]),
    "ids_twice": (["barcode", "x"], [[BARCODES[i], BARCODES[i], 2.5] for i in range(4)]),
    "gene_names": (["gene_name", *SPOTS], [[f"ENSG0000{i}", f"G{i}", 1, 2, 3, 4] for i in "123"]),
}


@pytest.mark.parametrize("name", R_FORMS)
def test_the_short_header_of_r_is_known(name, tmp_path):
    head, rows = R_FORMS[name]
    preview = read_preview(write_text(tmp_path / "t.tsv", lines(head, rows, "\t")))
    assert preview.names == ("", *map(str, head))
    assert not preview.trailing


UNCLEAR = {
    "one_name_less": (["barcode", "layer"], [[BARCODES[i], LABELS[i], i] for i in range(4)]),
    "numbers": (["cell_id", "x", "y"], [[i + 1, 5 * i, 2, 7] for i in range(4)]),
    "empty_column_of_r": (["layer", "score"], [[BARCODES[i], LABELS[i], ""] for i in range(4)]),
    "empty_column_behind_numbers": (["x", "y"], [[i + 1, 2.5, ""] for i in range(4)]),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_headers_that_fit_two_ways_are_refused(name, tmp_path):
    head, rows = UNCLEAR[name]
    path = write_text(tmp_path / "t.csv", lines(head, rows))
    with pytest.raises(SourceFaultError) as caught:
        read_preview(path)
    assert caught.value.code == "B022"
    assert f"the header has {len(head)} names" in caught.value.what
    assert "name every column" in caught.value.fix
