"""Layouts: adjacency, detection with evidence, collisions, occupancy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from stbuild.corpus.documents import SourceFile
from stbuild.corpus.errors import BadInputError, GateError
from stbuild.lattices import assign_cells
from stbuild.slices import Slice, SliceRecord

RECORD = SliceRecord(name="S", slug="s", path="S.h5ad", source_name="S.h5ad")


def slice_at(row=None, col=None, xy=None):
    n = len(row if row is not None else xy)
    return Slice(
        counts=csr_array(np.ones((n, 1), np.uint32)),
        genes=["G"],
        totals=np.ones(n, np.int64),
        barcodes=[f"b{i}" for i in range(n)],
        array_row=None if row is None else np.asarray(row, np.int64),
        array_col=None if col is None else np.asarray(col, np.int64),
        xy=None if xy is None else np.asarray(xy, np.float64),
        labels=None,
        source=SourceFile(name="S.h5ad", bytes=1, sha256="0" * 64),
    )


def visium(rows=30, cols=24, offset=(0, 0)):
    row, k = np.divmod(np.arange(rows * cols), cols)
    return row + offset[0], 2 * k + (row + offset[0] + offset[1]) % 2 + offset[1]


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_hex_offset_keeps_every_hex_neighbour_in_the_3x3(down, right, seed):
    row, col = visium(12, 10, (down, right))
    keep = np.random.default_rng(seed).random(row.size) < 0.8
    keep[:2] = True
    row, col = row[keep], col[keep]
    lattice = assign_cells(RECORD, slice_at(row, col), "hex-offset")
    cells = {(r, c): i for i, (r, c) in enumerate(zip(row, col, strict=True))}
    for (r, c), i in cells.items():
        for dr, dc in ((0, 2), (0, -2), (1, 1), (1, -1), (-1, 1), (-1, -1)):
            j = cells.get((r + dr, c + dc))
            if j is not None:
                step = (lattice.row[i] - lattice.row[j], lattice.col[i] - lattice.col[j])
                assert max(abs(step[0]), abs(step[1])) == 1


def test_auto_finds_hex_and_says_why():
    row, col = visium()
    xy = np.stack([50.0 * col, 50.0 * np.sqrt(3) * row], axis=1)
    lattice = assign_cells(RECORD, slice_at(row, col, xy), "auto")
    assert (lattice.layout, lattice.kind, lattice.shape) == ("hex-offset", "hex", (30, 24))
    assert "1.73" in lattice.evidence
    assert lattice.pitch == pytest.approx(100)
    assert lattice.occupancy == 1


def test_auto_tells_quincunx_by_its_pitches():
    row, col = visium()
    lattice = assign_cells(
        RECORD, slice_at(row, col, np.stack([50.0 * col, 55.0 * row], 1)), "auto"
    )
    assert lattice.kind == "quincunx"


def test_auto_takes_a_full_array_as_square_and_keeps_its_gaps():
    row, col = np.divmod(np.arange(100), 10)
    keep = row != 4
    lattice = assign_cells(RECORD, slice_at(row[keep] + 7, col[keep] + 3), "auto")
    assert (lattice.layout, lattice.shape) == ("square", (10, 10))


def test_rank_is_eq_5_and_closes_gaps():
    row, col = np.divmod(np.arange(100), 10)
    keep = row != 4
    lattice = assign_cells(RECORD, slice_at(row[keep], col[keep]), "rank")
    assert lattice.shape == (9, 10)


def test_rank_leaves_the_checkerboard_half_empty():
    row, col = visium()
    lattice = assign_cells(RECORD, slice_at(row, col), "rank")
    assert lattice.occupancy == pytest.approx(0.5)


def test_positions_with_minus_zero_share_a_rank():
    xy = [[0.0, 0.0], [-0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    lattice = assign_cells(RECORD, slice_at(xy=xy), "auto")
    assert lattice.shape == (2, 2)


def test_two_spots_in_a_cell_are_named():
    row, col = [0, 0, 1, 1], [0, 1, 1, 1]
    with pytest.raises(BadInputError, match=r"error\[B049\] slice 'S'.*1 pairs.*b2 and b3"):
        assign_cells(RECORD, slice_at(row, col), "auto")


def test_positions_that_are_no_lattice_are_refused():
    xy = np.random.default_rng(0).random((400, 2)) * 1000
    with pytest.raises(GateError, match=r"error\[B050\].*occupancy 0\.25% < 5%.*400 x 400"):
        assign_cells(RECORD, slice_at(xy=xy), "auto")


def test_hex_offset_is_refused_for_a_full_array():
    row, col = np.divmod(np.arange(100), 10)
    with pytest.raises(BadInputError, match="B052"):
        assign_cells(RECORD, slice_at(row, col), "hex-offset")


@given(st.integers(-(10**9), 10**9))
def test_a_shifted_array_gives_the_same_cells(offset):
    row, col = visium(8, 6)
    base = assign_cells(RECORD, slice_at(row, col), "auto")
    moved = assign_cells(RECORD, slice_at(row + 2 * offset, col - 4 * offset), "auto")
    assert (base.row == moved.row).all()
    assert (base.col == moved.col).all()


def test_one_spot_is_a_grid_of_one_cell():
    assert assign_cells(RECORD, slice_at([5], [9]), "auto").shape == (1, 1)
