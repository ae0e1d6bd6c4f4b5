"""Which column names the spots: the one that matches them, never mere row numbers beside it."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from stbuild.config import GridConfig
from stbuild.sources.faults import SourceFaultError
from stbuild.sources.labels import join_labels
from stbuild.sources.placed import place_by_table
from stbuild.sources.raw import RawSlice
from stbuild.sources.tables.reader import read_table
from tests.stbuild.test_labels import slice_of
from tests.table_files import record_at, write_rows

N = 24
ORDER = [int(i) for i in np.random.default_rng(0).permutation(N)]
XY = [(10.5 * (i % 5), 7.25 * (i // 5)) for i in range(N)]
NUMBERS = [str(i) for i in range(N)]
BARCODES = [f"{''.join('ACGT'[(i // 4**k) % 4] for k in range(8))}ACGTACGT-1" for i in range(N)]
SPOTS = {"numbers": NUMBERS, "numbers_from_9": [str(i + 9) for i in range(N)], "barcodes": BARCODES}


def table(head: Sequence[object], body: Iterable[Sequence[object]]) -> list[Sequence[object]]:
    return [head, *body]


def place(raw: RawSlice, rows, folder: Path) -> RawSlice:
    return place_by_table(raw, write_rows(folder / "p.csv", rows), subject="slice 's'")


def fault_of(raw: RawSlice, rows, folder: Path) -> SourceFaultError:
    with pytest.raises(SourceFaultError) as caught:
        place(raw, rows, folder)
    return caught.value


def rows_of(names, *heads, values=XY):
    """Return a table in another order; columns ``#`` number its rows, ``id`` names the spots."""
    rows: list[list[object]] = [[head.removeprefix("#") for head in heads]]
    for k, i in enumerate(ORDER):
        ids = [k if head in ("#", "#index", "#X1", "#Unnamed: 0") else names[i] for head in heads]
        rows.append(ids)
    rows[0] += ["x", "y"] if values is XY else ["label"]
    for row, i in zip(rows[1:], ORDER, strict=True):
        row.extend(values[i] if values is XY else [values[i]])
    return rows


HEADS = {
    "pandas": ("#", "cell_id"),
    "pandas_read_again": ("#Unnamed: 0", "barcode"),
    "named_index": ("#index", "spot_id"),
    "after_the_ids": ("cell_id", "#index"),
    "alone": ("cell_id",),
    "unlisted": ("Object ID",),
    "unlisted_beside_numbers": ("#", "Object ID"),
    "unlisted_beside_numbers_of_readr": ("#X1", "nucleus"),
    "merscope_of_old": ("",),
}


@pytest.mark.parametrize("spots", SPOTS)
@pytest.mark.parametrize("heads", HEADS)
def test_the_column_that_matches_names_the_spots(heads, spots, tmp_path):
    names = SPOTS[spots]
    raw = place(slice_of(names), rows_of(names, *HEADS[heads]), tmp_path)
    assert raw.xy is not None
    assert raw.xy.tolist() == [list(point) for point in XY]
    assert raw.notices == ()
    labels = [f"L{i}" for i in range(N)]
    table = write_rows(tmp_path / "l.csv", rows_of(names, *HEADS[heads], values=labels))
    joined = join_labels(slice_of(names), table, "label", section=None)
    assert joined.labels == labels
    assert joined.notices == ()


@pytest.mark.parametrize("values", ["text", "numbers"])
def test_row_numbers_are_no_labels(values, tmp_path):
    labels = [f"L{i}" if values == "text" else str(i % 3) for i in range(N)]
    rows = rows_of(BARCODES, "#", "barcode", values=labels)
    rows[0][-1] = "zone"
    path = write_rows(tmp_path / "l.csv", rows)
    assert join_labels(slice_of(BARCODES), path, None, section=None).labels == labels


def test_the_index_of_a_sorted_frame_gives_way_to_a_column_of_ids(tmp_path):
    """`df.sort_values('x').to_csv()` leaves the numbers out of order, and all of them match."""
    rows = table(["", "cell_id", "x", "y"], ([i, (i + 1) % N, *XY[(i + 1) % N]] for i in ORDER))
    raw = place(slice_of(NUMBERS), rows, tmp_path)
    assert raw.xy is not None
    assert raw.xy.tolist() == [list(point) for point in XY]


def test_two_columns_that_contradict_each_other_are_refused(tmp_path):
    rows = table(["cell_id", "spot_id", "x", "y"], ([i, (i + 1) % N, *XY[i]] for i in ORDER))
    fault = fault_of(slice_of(NUMBERS), rows, tmp_path)
    assert fault.code == "B047"
    assert "'cell_id' and 'spot_id' name 24 spots each" in fault.what
    labels = table(["cell_id", "spot_id", "label"], ([i, (i + 1) % N, f"L{i}"] for i in ORDER))
    path = write_rows(tmp_path / "l.csv", labels)
    with pytest.raises(SourceFaultError, match="'cell_id' and 'spot_id'") as caught:
        join_labels(slice_of(NUMBERS), path, "label", section=None)
    assert caught.value.code == "B076"


def test_two_columns_that_agree_are_taken(tmp_path):
    rows = table(["cell_id", "spot_id", "x", "y"], ([i, i, *XY[i]] for i in ORDER))
    assert place(slice_of(NUMBERS), rows, tmp_path).notices == ()


def test_row_numbers_never_stand_in_for_ids_of_something_else(tmp_path):
    rows = table(["", "barcode", "x", "y"], ([k, BARCODES[k], *XY[k]] for k in range(N)))
    fault = fault_of(slice_of(NUMBERS), rows, tmp_path)
    assert fault.code == "B047"
    assert "none of the 24 spots" in fault.what
    rows = table(["", "image", "x", "y"], ([k, f"a{k}.png", *XY[k]] for k in range(N)))
    assert "none of the 24 spots" in fault_of(slice_of(BARCODES), rows, tmp_path).what


def test_numbers_that_match_by_chance_are_no_ids(tmp_path):
    rows = table(["total", "x", "y"], ([97 * i + 5, *XY[i]] for i in range(N)))
    fault = fault_of(slice_of(NUMBERS), rows, tmp_path)
    assert fault.code == "B047"
    assert "'total' names 1 of the 24 spots alone" in fault.what
    assert "cell_id" in fault.fix


def test_numbers_that_match_nothing_are_passed_over(tmp_path):
    rows = table(["", "total", "x", "y"], ([k, 97 * k + 5, *XY[k]] for k in range(N)))
    raw = place(slice_of(BARCODES), rows, tmp_path)
    assert raw.xy is not None
    assert raw.xy.tolist() == [list(point) for point in XY]
    assert "order of the spots" in raw.notices[0].what


GENES = ["Gapdh", "Actb", "Mbp"]
COUNTS = [[i, 1, 2 * i] for i in range(N)]


@pytest.mark.parametrize("heads", [("", "cell_id"), ("cell_id", ""), ("index", "spot")])
def test_a_leading_column_of_ids_is_no_gene(heads, tmp_path):
    own = next(i for i, head in enumerate(heads) if head in ("cell_id", "spot"))
    body = [[k, k, *COUNTS[i]] for k, i in enumerate(ORDER)]
    for row, i in zip(body, ORDER, strict=True):
        row[own] = i + 1000
    write_rows(tmp_path / "counts.csv", [[*heads, *GENES], *body])
    where = table(["cell_id", "x", "y"], ([i + 1000, *XY[i]] for i in range(N)))
    write_rows(tmp_path / "where.csv", where)
    raw = read_table(record_at(tmp_path), GridConfig())
    assert list(raw.genes) == GENES
    assert list(raw.barcodes) == [str(i + 1000) for i in ORDER]
    assert raw.counts.toarray().tolist() == [COUNTS[i] for i in ORDER]
    assert raw.xy is not None
    assert raw.xy.tolist() == [list(XY[i]) for i in ORDER]
    assert "1 columns hold no counts of genes" in raw.notices[0].what


def test_the_ids_of_a_count_table_are_those_that_the_positions_have(tmp_path):
    body = [[i, BARCODES[i], *COUNTS[i]] for i in ORDER]
    write_rows(tmp_path / "counts.csv", [["cell_id", "barcode", *GENES], *body])
    where = table(["barcode", "x", "y"], ([BARCODES[i], *XY[i]] for i in range(N)))
    write_rows(tmp_path / "where.csv", where)
    assert list(read_table(record_at(tmp_path), GridConfig()).barcodes) == [
        BARCODES[i] for i in ORDER
    ]


def test_row_numbers_before_the_genes_are_no_names_of_them(tmp_path):
    spots = ["1x1", "1x2", "2x1", "2x2"]
    body = [[k, gene, *COUNTS[k + 1], 5] for k, gene in enumerate(GENES)]
    path = write_rows(tmp_path / "t.csv", [["", "gene", *spots], *body])
    for config in (GridConfig(), GridConfig(gene_id_column="gene")):
        raw = read_table(record_at(path), config)
        assert (list(raw.genes), raw.gene_names) == (GENES, None)
        assert list(raw.barcodes) == spots


def test_outlines_behind_row_numbers_are_no_positions(tmp_path):
    body = [[i + 1000, *COUNTS[i]] for i in range(N)]
    write_rows(tmp_path / "counts.csv", [["cell_id", *GENES], *body])
    where = table(["", "cell_id", "x", "y"], ([i, i + 1000, *XY[i]] for i in range(N)))
    write_rows(tmp_path / "where.csv", where)
    outline = table(["", "cell_id", "x", "y"], ([i, 1000 + i // 4, i, i] for i in range(4 * N)))
    write_rows(tmp_path / "outline.csv", outline)
    raw = read_table(record_at(tmp_path), GridConfig())
    assert raw.files == (tmp_path / "counts.csv", tmp_path / "where.csv")
