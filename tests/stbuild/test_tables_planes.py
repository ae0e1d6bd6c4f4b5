"""Tables of several sections or planes: told apart or refused, never put on top of each other."""

import numpy as np
import pytest

from stbuild.config import GridConfig
from stbuild.corpus.errors import BadInputError
from stbuild.reading.opening import list_sections, read_here
from stbuild.sources.faults import SourceFaultError
from stbuild.sources.formats import read_source
from stbuild.sources.placed import place_by_table
from stbuild.sources.tables.reader import read_table
from tests.stbuild.test_labels import slice_of
from tests.table_files import record_at, write_rows

N = 80
RNG = np.random.default_rng(0)
XY = RNG.uniform(0, 1000, (N, 2)).round(2).tolist()
COUNTS = RNG.poisson(2, (N, 3)).tolist()
CELLS = [f"c{i}" for i in range(N)]
GENES = ["Gapdh", "Actb", "Mbp"]


def write(folder, column, values, *, beside=True):
    """Write counts and positions; the column stands among the latter, or before the counts."""
    if beside:
        write_rows(folder / "c.csv", [["cell", *GENES], *_rows(COUNTS)])
        rows = _rows([[*XY[i], values[i]] for i in range(N)])
        write_rows(folder / "p.csv", [["cell", "x", "y", column], *rows])
        return folder
    rows = _rows([[*XY[i], values[i], *COUNTS[i]] for i in range(N)])
    return write_rows(folder / "c.csv", [["cell", "x", "y", column, *GENES], *rows])


def _rows(values):
    return [[cell, *row] for cell, row in zip(CELLS, values, strict=True)]


def fault_of(path, **fields) -> SourceFaultError:
    with pytest.raises(SourceFaultError) as caught:
        read_table(record_at(path, **fields), GridConfig())
    return caught.value


LAYERS = [f"s{i % 4}" for i in range(N)]
PLACES = pytest.mark.parametrize("beside", [True, False], ids=["positions", "counts"])


@PLACES
@pytest.mark.parametrize("column", ["z", "center_z", "Z"])
def test_several_planes_are_refused(column, beside, tmp_path):
    path = write(tmp_path, column, [i % 3 * 10.5 for i in range(N)], beside=beside)
    fault = fault_of(path)
    assert fault.code == "B047"
    assert "3 depths (0, 10.5, 21)" in fault.what
    assert f"--split-by {column}" in fault.fix
    one = read_table(record_at(path, split_by=column, part="10.5"), GridConfig())
    assert list(one.barcodes) == CELLS[1::3]
    assert list(one.genes) == GENES


@PLACES
def test_one_plane_says_nothing(beside, tmp_path):
    raw = read_table(record_at(write(tmp_path, "z", [7.5] * N, beside=beside)), GridConfig())
    assert list(raw.genes) == GENES
    assert raw.counts.toarray().tolist() == COUNTS
    assert not [n for n in raw.notices if n.code != "B073"]


@PLACES
@pytest.mark.parametrize("column", ["section", "sample_id", "Slice"])
def test_sections_on_top_of_each_other_are_refused(column, beside, tmp_path):
    path = write(tmp_path, column, LAYERS, beside=beside)
    fault = fault_of(path)
    assert fault.code == "B056"
    assert "4 sections (s0, s1, s2, s3) lie on top of each other" in fault.what
    assert f"--split-by {column}" in fault.fix


@PLACES
@pytest.mark.parametrize("column", ["section", "mouse"])
def test_sections_are_built_one_by_one(column, beside, tmp_path):
    values = [*LAYERS[:-1], ""]
    path = write(tmp_path, column, values, beside=beside)
    config = GridConfig(layout="bin", bin_size=100)
    assert list_sections(record_at(path, split_by=column), config) == ["s0", "s1", "s2", "s3"]
    one = read_here(record_at(path, split_by=column, part="s3"), config)
    assert int(one.counts.sum()) == np.asarray(COUNTS)[3:-1:4].sum()
    assert any("1 of 80 spots of the file have no" in notice.what for notice in one.notices)
    with pytest.raises(BadInputError, match="there are: s0, s1, s2, s3"):
        read_here(record_at(path, split_by=column, part="s9"), config)


@PLACES
def test_an_unknown_column_to_split_by_is_refused(beside, tmp_path):
    path = write(tmp_path, "section", LAYERS, beside=beside)
    fault = fault_of(path, split_by="mouse")
    assert fault.code == "B056"
    assert "'mouse' to split by" in fault.what
    assert "section" in fault.what


def test_planes_are_judged_section_by_section(tmp_path):
    rows = _rows([[*XY[i], LAYERS[i], i % 4 + (i == 8)] for i in range(N)])
    write_rows(tmp_path / "c.csv", [["cell", *GENES], *_rows(COUNTS)])
    write_rows(tmp_path / "p.csv", [["cell", "x", "y", "section", "z"], *rows])
    record = record_at(tmp_path, split_by="section", part="s1")
    assert list(read_table(record, GridConfig()).barcodes) == CELLS[1::4]
    assert "2 depths (0, 1)" in fault_of(tmp_path, split_by="section", part="s0").what


def test_sections_side_by_side_are_told(tmp_path):
    write_rows(tmp_path / "c.csv", [["cell", *GENES], *_rows(COUNTS)])
    rows = _rows([[x + 2000 * (i % 2), y, i % 2] for i, (x, y) in enumerate(XY)])
    write_rows(tmp_path / "p.csv", [["cell", "x", "y", "section"], *rows])
    raw = read_table(record_at(tmp_path), GridConfig())
    assert "'section' names 2 sections (0, 1) side by side" in raw.notices[-1].what


def test_a_part_of_a_table_without_sections_is_refused(tmp_path):
    assert fault_of(write(tmp_path, "area", [5] * N), part="1").code == "B056"


def test_positions_beside_another_format_are_judged_alike(tmp_path):
    write(tmp_path, "z", [i % 2 for i in range(N)])
    with pytest.raises(SourceFaultError, match="2 depths"):
        place_by_table(slice_of(CELLS), tmp_path / "p.csv", subject="slice 's'")
    write(tmp_path, "section", LAYERS)
    record, path = record_at(tmp_path), tmp_path / "p.csv"
    with pytest.raises(SourceFaultError, match="on top of each other"):
        place_by_table(slice_of(CELLS), path, subject="slice 's'", record=record)
    record = record_at(tmp_path, split_by="section", part="s2")
    one = place_by_table(slice_of(CELLS), path, subject="slice 's'", record=record)
    assert list(one.barcodes) == CELLS[2::4]
    part = slice_of(CELLS, sections=("library_id", ["a"] * N))
    assert place_by_table(part, path, subject="slice 's'", record=record).barcodes == CELLS


def test_an_option_reaches_the_table_of_positions(tmp_path):
    write(tmp_path, "section", LAYERS)
    record = record_at(
        tmp_path / "c.csv", positions=str(tmp_path / "p.csv"), split_by="section", part="s1"
    )
    assert list(read_source(record, GridConfig()).barcodes) == CELLS[1::4]
