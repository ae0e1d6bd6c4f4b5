"""Layouts: adjacency, detection with evidence, collisions, gaps, the gate."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from stbuild.config import GridConfig
from stbuild.corpus.documents import SourceFile
from stbuild.corpus.errors import BadInputError, GateError
from stbuild.corpus.names import MAX_WINDOW
from stbuild.lattices import assign_cells
from stbuild.lattices.arrays import read_array
from stbuild.slices import Slice, SliceRecord
from tests.lattice_points import KINDS, holes, jitter, sites, turn

RECORD = SliceRecord(name="S", slug="s", path="S.h5ad", source_name="S.h5ad")
AUTO = GridConfig()


def slice_at(row=None, col=None, xy=None, **fields):
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
        sources=(SourceFile(name="S.h5ad", bytes=1, sha256="0" * 64),),
        **fields,
    )


def visium(rows=30, cols=24, offset=(0, 0)):
    row, k = np.divmod(np.arange(rows * cols), cols)
    return row + offset[0], 2 * k + (row + offset[0] + offset[1]) % 2 + offset[1]


NEIGHBOURS = ((0, 2), (0, -2), (1, 1), (1, -1), (-1, 1), (-1, -1))


def share_kept_near(lattice, row, col, neighbours=NEIGHBOURS):
    """Return the share of array neighbours that lie in the 3 x 3 around their site."""
    cells = {(r, c): i for i, (r, c) in enumerate(zip(row.tolist(), col.tolist(), strict=True))}
    near = total = 0
    for (r, c), i in cells.items():
        for dr, dc in neighbours:
            j = cells.get((r + dr, c + dc))
            if j is not None:
                step = (lattice.row[i] - lattice.row[j], lattice.col[i] - lattice.col[j])
                near += max(abs(step[0]), abs(step[1])) == 1
                total += 1
    return near / max(1, total)


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_hex_offset_keeps_every_hex_neighbour_in_the_3x3(down, right, seed):
    row, col = visium(12, 10, (down, right))
    keep = np.random.default_rng(seed).random(row.size) < 0.8
    keep[:2] = True
    row, col = row[keep], col[keep]
    lattice = assign_cells(RECORD, slice_at(row, col), GridConfig(layout="hex-offset"))
    assert share_kept_near(lattice, row, col) == 1


@pytest.mark.parametrize("degrees", [0, 12.4, 30, 77, 90])
@pytest.mark.parametrize("kind", ["hex", "quincunx"])
def test_positions_alone_keep_every_neighbour_too(kind, degrees):
    row, col, xy = sites(kind, 24, 20)
    lattice = assign_cells(RECORD, slice_at(xy=turn(xy, degrees)), AUTO)
    assert lattice.layout == f"{kind}-offset"
    # Nearest are six sites of a hexagonal array, and four of a quincunx.
    nearest = NEIGHBOURS if kind == "hex" else NEIGHBOURS[2:]
    assert share_kept_near(lattice, row, col, nearest) == 1
    assert lattice.measures["median_window"] > 190


def test_auto_finds_hex_and_says_why():
    row, col = visium()
    xy = np.stack([50.0 * col, 50.0 * np.sqrt(3) * row], axis=1)
    lattice = assign_cells(RECORD, slice_at(row, col, xy), AUTO)
    assert (lattice.layout, lattice.kind, lattice.shape) == ("hex-offset", "hex", (30, 24))
    assert "1.73" in lattice.evidence
    assert lattice.pitch == pytest.approx(100)
    assert lattice.occupancy == lattice.measures["occupancy"] == 1
    assert lattice.measures["confidence"] == 1
    assert lattice.measures["residual"] == pytest.approx(0, abs=1e-9)


def test_auto_tells_quincunx_by_its_pitches():
    row, col = visium()
    xy = np.stack([50.0 * col, 55.0 * row], 1)
    lattice = assign_cells(RECORD, slice_at(row, col, xy), AUTO)
    assert (lattice.kind, lattice.layout) == ("quincunx", "quincunx-offset")


def test_a_mirrored_and_turned_array_is_measured():
    row, col = visium()
    xy = turn(np.stack([0.5 * col, np.sqrt(3) / 2 * row], axis=1), 20, mirrored=True)
    measures = assign_cells(RECORD, slice_at(row, col, xy), AUTO).measures
    assert measures["mirrored"] == 1
    assert measures["angle_deg"] == pytest.approx(20)
    assert measures["pitch"] == pytest.approx(137)


def test_auto_takes_a_full_array_as_square_and_keeps_its_gaps():
    row, col = np.divmod(np.arange(100), 10)
    keep = row != 4
    lattice = assign_cells(RECORD, slice_at(row[keep] + 7, col[keep] + 3), AUTO)
    assert (lattice.layout, lattice.shape) == ("square", (10, 10))


def test_rank_is_eq_5_and_closes_narrow_gaps_aloud():
    row, col = np.divmod(np.arange(100), 10)
    keep = row != 4
    lattice = assign_cells(RECORD, slice_at(row[keep], col[keep]), GridConfig(layout="rank"))
    assert lattice.shape == (9, 10)
    assert "1 missing lines closed" in lattice.evidence


@pytest.mark.parametrize(
    ("gaps", "height"), [("insert", 20), ("cut", 20 - 8 + MAX_WINDOW)], ids=["insert", "cut"]
)
def test_wide_gaps_stay_open_as_configured_and_are_counted(gaps, height):
    row, col = np.divmod(np.arange(200), 10)
    keep = (row < 6) | (row >= 14)
    config = GridConfig(layout="rank", gaps=gaps)
    lattice = assign_cells(RECORD, slice_at(row[keep], col[keep]), config)
    assert lattice.shape == (height, 10)
    assert lattice.measures["n_gap_rows"] == height - 12
    assert f"{height - 12} empty rows" in lattice.evidence


def test_rank_leaves_the_checkerboard_half_empty_but_builds_it():
    row, col = visium(64, 32)
    lattice = assign_cells(RECORD, slice_at(row, col), GridConfig(layout="rank"))
    assert lattice.occupancy == pytest.approx(0.5)
    assert lattice.measures["median_window"] == 128


def test_px100_never_collides_on_a_visium_array():
    row, col = visium(78, 64)
    xy = np.stack([50.0 * col, 50.0 * np.sqrt(3) * row], axis=1)
    lattice = assign_cells(RECORD, slice_at(row, col, xy), GridConfig(layout="px100"))
    assert lattice.measures["n_collisions"] == 0
    assert max(lattice.shape) <= 101
    assert 0.4 < lattice.occupancy < 0.7


def test_positions_with_minus_zero_share_a_rank():
    xy = [[0.0, 0.0], [-0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    assert assign_cells(RECORD, slice_at(xy=xy), GridConfig(layout="rank")).shape == (2, 2)


def test_two_spots_in_a_cell_are_named_or_settled():
    row, col = [0, 0, 1, 1], [0, 1, 1, 1]
    with pytest.raises(BadInputError, match=r"error\[B049\] slice 'S'.*1 pairs.*b2 and b3"):
        assign_cells(RECORD, slice_at(row, col), AUTO)
    for settled in ("sum", "first"):
        lattice = assign_cells(RECORD, slice_at(row, col), GridConfig(collisions=settled))
        assert lattice.measures["n_collisions"] == 1
        assert lattice.row.tolist() == row


@pytest.mark.parametrize("seed", range(25))
def test_points_without_order_are_refused_with_the_flags_that_decide(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(12, 3000))
    xy = rng.random((n, 2)) * 1000
    if seed % 3 == 1:  # clusters
        xy = rng.normal(rng.random((n // 6 + 1, 2))[rng.integers(n // 6 + 1, size=n)], 0.02)
    if seed % 3 == 2:  # hard cores, as cells have
        far = np.sqrt(0.3 / n)
        kept: list[np.ndarray] = []
        for point in rng.random((n, 2)):
            if not kept or np.hypot(*(np.asarray(kept) - point).T).min() > far:
                kept.append(point)
        xy = np.asarray(kept)
    with pytest.raises(GateError, match=r"error\[B053\].*--layout bin --bin-size \d"):
        assign_cells(RECORD, slice_at(xy=xy), AUTO)


def test_bins_hold_what_was_promised():
    rng = np.random.default_rng(1)
    xy = rng.random((4000, 2)) * 500
    bins = GridConfig(layout="bin", bin_size=10)
    lattice = assign_cells(RECORD, slice_at(xy=xy, unit="um"), bins)
    assert lattice.shape == (50, 50)
    assert lattice.pitch == 10
    assert (lattice.row == ((xy[:, 1] - xy[:, 1].min()) // 10)).all()
    assert lattice.measures["n_collisions"] == 4000 - lattice.occupancy * 2500
    scaled = assign_cells(RECORD, slice_at(xy=xy * 4, um_per_unit=0.25), bins)
    assert (scaled.row == lattice.row).all()
    mean = assign_cells(RECORD, slice_at(xy=xy), GridConfig(layout="bin"))
    assert mean.pitch == pytest.approx(np.sqrt(500 * 500 / 4000), rel=0.02)
    assert mean.measures["median_window"] > 130


def test_pixel_ranks_are_refused_unless_forced():
    xy = np.random.default_rng(0).random((400, 2)) * 1000
    config = GridConfig(layout="rank")
    with pytest.raises(GateError, match=r"error\[B050\].*0\.25%.*400 x 400"):
        assign_cells(RECORD, slice_at(xy=xy), config)
    forced = config.model_copy(update={"force": True})
    assert assign_cells(RECORD, slice_at(xy=xy), forced).shape == (400, 400)


def test_an_array_beyond_all_reason_is_refused_before_memory_is_taken():
    with pytest.raises(GateError, match="B050") as caught:
        assign_cells(RECORD, slice_at([0, 10**9, 5, 7], [0, 1, 10**9, 3]), GridConfig(force=True))
    assert "--force" not in str(caught.value)


def test_a_thin_tissue_on_the_right_lattice_passes():
    row, col = visium(78, 64)
    keep = np.abs(row - col / 2) < 3
    lattice = assign_cells(RECORD, slice_at(row[keep], col[keep]), AUTO)
    assert lattice.measures["median_window"] < 64 + 40


def test_hex_offset_is_refused_for_a_full_array():
    row, col = np.divmod(np.arange(100), 10)
    with pytest.raises(BadInputError, match="B052"):
        assign_cells(RECORD, slice_at(row, col), GridConfig(layout="hex-offset"))


def test_spots_without_a_position_are_refused_or_dropped():
    _, _, xy = sites("square", 12, 12)
    xy[5] = np.nan
    with pytest.raises(BadInputError, match=r"B048.*1 of 144 rows are not finite \(first: spot b5"):
        assign_cells(RECORD, slice_at(xy=xy), AUTO)
    lattice = assign_cells(RECORD, slice_at(xy=xy), GridConfig(off_grid="drop"))
    assert lattice.row[5] == lattice.col[5] == -1
    assert lattice.measures["n_off_grid"] == 1
    assert lattice.shape == (12, 12)


def test_a_spot_between_the_sites_of_a_sharp_lattice_is_off_the_grid():
    _, _, xy = sites("square", 20, 20)
    xy[7] += 0.48
    with pytest.raises(BadInputError, match=r"B055.*1 of 400 spots lie off the lattice"):
        assign_cells(RECORD, slice_at(xy=xy), AUTO)
    lattice = assign_cells(RECORD, slice_at(xy=xy), GridConfig(off_grid="drop"))
    assert lattice.measures["n_off_grid"] == 1


@pytest.mark.parametrize("with_xy", [True, False])
@pytest.mark.parametrize("kind", ["hex", "quincunx"])
def test_an_odd_spot_on_a_checkerboard_is_off_it_by_name(kind, with_xy):
    row, col, xy = sites(kind, 20, 18)
    points = xy * 100 if with_xy else None
    odd = col.copy()
    odd[[5, 77]] += [1, -3]
    told = (
        r"B055.*2 of 360 spots lie off the lattice \(first: b5\).*one parity for all but 2 of 360"
    )
    with pytest.raises(BadInputError, match=told):
        assign_cells(RECORD, slice_at(row, odd, points), AUTO)
    good = assign_cells(RECORD, slice_at(row, col, points), AUTO)
    lattice = assign_cells(RECORD, slice_at(row, odd, points), GridConfig(off_grid="drop"))
    assert (lattice.layout, lattice.shape) == (good.layout, good.shape)
    assert np.flatnonzero(lattice.row < 0).tolist() == [5, 77]
    others = np.delete(np.arange(360), [5, 77])
    assert (lattice.row[others] == good.row[others]).all()
    assert (lattice.col[others] == good.col[others]).all()
    assert lattice.measures["n_off_grid"] == 2
    square = assign_cells(RECORD, slice_at(row, odd, points), GridConfig(layout="square"))
    assert square.measures["n_off_grid"] == 0
    assert (square.row >= 0).all()


@pytest.mark.parametrize("share", [0.0, 0.06, 0.5])
def test_a_full_array_and_one_of_many_odd_spots_stay_square(share):
    rng = np.random.default_rng(1)
    row, col, _ = sites("hex", 20, 18)
    if share == 0:
        row, col, _ = sites("square", 20, 18)
    else:
        odd = rng.permutation(360)[: int(np.ceil(360 * share))]
        col = np.where(np.isin(np.arange(360), odd), col + 1, col)
    read = read_array(row, col, None)
    assert read.kind == "square"
    assert read.placed.all()


@given(st.integers(2, 8), st.integers(2, 8), st.integers(0, 10**6))
def test_what_is_left_of_a_square_of_any_size_is_no_checkerboard_but_for_its_parity(h, w, seed):
    """Few spots may all be of one parity by chance; that a few are not says square."""
    rng = np.random.default_rng(seed)
    row, col = np.divmod(np.flatnonzero(rng.random(h * w) < 0.8), w)
    if row.size < 4:
        return
    read = read_array(row, col, None)
    parities = np.bincount((row + col) % 2, minlength=2)
    if parities.min():
        assert read.kind == "square"
        assert read.placed.all()


def test_fractional_array_coordinates_become_the_numbers_they_stand_next_to():
    rng = np.random.default_rng(2)
    row, col = np.divmod(np.arange(400), 20)
    keep = rng.random(400) < 0.8
    keep[[0, 399]] = True
    xy = jitter(np.stack([col + 7.0, row + 4.0], axis=1), 0.3, rng)[keep]
    lattice = assign_cells(RECORD, slice_at(xy=xy, unit="array"), AUTO)
    assert (lattice.row == row[keep]).all()
    assert (lattice.col == col[keep]).all()


@given(st.integers(-(10**9), 10**9))
def test_a_shifted_array_gives_the_same_cells(offset):
    row, col = visium(8, 6)
    base = assign_cells(RECORD, slice_at(row, col), AUTO)
    moved = assign_cells(RECORD, slice_at(row + 2 * offset, col - 4 * offset), AUTO)
    assert (base.row == moved.row).all()
    assert (base.col == moved.col).all()


@pytest.mark.parametrize("layout", ["auto", "rank", "px100", "bin"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_spots_leaves_no_trace(kind, layout):
    rng = np.random.default_rng(3)
    row, col, xy = sites(kind, 25, 25)
    kept = holes(row, col, rng)
    xy = turn(jitter(xy, 0.1, rng), 0 if layout == "rank" else 25)[kept]
    order = rng.permutation(len(xy))
    config = GridConfig(layout=layout, collisions="sum", force=True)
    first = assign_cells(RECORD, slice_at(xy=xy), config)
    second = assign_cells(RECORD, slice_at(xy=xy[order]), config)
    assert (first.row[order] == second.row).all()
    assert (first.col[order] == second.col).all()


def test_one_spot_is_a_grid_of_one_cell():
    assert assign_cells(RECORD, slice_at([5], [9]), AUTO).shape == (1, 1)


def test_few_positions_tell_nothing():
    with pytest.raises(GateError, match="B053"):
        assign_cells(RECORD, slice_at(xy=[[0, 0], [0, 1], [1, 0], [1, 1]]), AUTO)


def test_a_hexagon_with_rows_and_columns_swapped_is_refused_with_the_way_out():
    row, col, xy = sites("hex", 20, 18)
    swapped = slice_at(col, row, xy=xy * 100)
    for layout in ("auto", "hex-offset"):
        with pytest.raises(GateError, match=r"B051.*swapped.*0\.58.*--coords positions"):
            assign_cells(RECORD, swapped, GridConfig(layout=layout))
    lattice = assign_cells(RECORD, swapped, GridConfig(coords="positions"))
    mended = assign_cells(RECORD, slice_at(row, col, xy=xy * 100), AUTO)
    assert lattice.layout == mended.layout == "hex-offset"
    assert lattice.shape == mended.shape
    assert share_kept_near(lattice, row, col) == 1


@pytest.mark.parametrize("ratio", [0.3, 0.75, 1.3, 3.0])
def test_pitches_of_no_known_array_are_refused_unless_a_layout_is_asked_for(ratio):
    row, col, _ = sites("hex", 20, 18)
    strange = slice_at(row, col, xy=np.stack([col * 50.0, row * 50.0 * ratio], axis=1))
    with pytest.raises(GateError, match=r"B051.*no known array.*--layout"):
        assign_cells(RECORD, strange, AUTO)
    lattice = assign_cells(RECORD, strange, GridConfig(layout="hex-offset"))
    assert lattice.shape == (20, 18)
    assert lattice.measures["confidence"] == 0


@pytest.mark.parametrize("pitch", [0.1, 0.01, 1e-6, 1e-300, 1e308])
def test_a_pitch_in_another_unit_is_refused_with_the_distance_that_is_there(pitch):
    _, _, xy = sites("square", 20, 20)
    with pytest.raises(GateError, match=r"B053.*lie 100 apart, --pitch says.*leave it out"):
        assign_cells(RECORD, slice_at(xy=xy * 100), GridConfig(pitch=pitch))


@pytest.mark.parametrize("side", [1e-6, 1e-17, 1e-300])
def test_bins_beyond_all_reason_are_refused_before_they_are_numbered(side):
    xy = np.random.default_rng(0).random((50, 2)) * 1e6
    with pytest.raises(GateError, match=r"B050.*occupancy 0\.00%"):
        assign_cells(RECORD, slice_at(xy=xy), GridConfig(layout="bin", bin_size=side))


ADVICE = {
    "a_row": np.stack([np.arange(40) * 100.0, np.full(40, 7.0)], axis=1),
    "a_slope": np.stack([np.arange(40) * 100.0, np.arange(40) * 50.0], axis=1),
    "few": np.asarray([[0.0, 0], [0, 100], [100, 0], [100, 100]]),
    "no_order": np.random.default_rng(3).random((900, 2)) * 1000,
}


@pytest.mark.parametrize("name", ADVICE)
def test_whatever_layout_is_advised_builds_a_grid(name):
    st_slice = slice_at(xy=ADVICE[name])
    with pytest.raises(GateError, match="B053") as caught:
        assign_cells(RECORD, st_slice, AUTO)
    advised = re.findall(r"--layout ([\w-]+)(?: --bin-size (\S+))?", str(caught.value))
    assert advised[0][0] == "bin"
    for layout, side in advised:
        # A grid that is mostly empty is another matter, and says so by itself.
        config = GridConfig(layout=layout, bin_size=side or None, off_grid="drop", force=True)
        if layout != "bin":
            config = config.model_copy(update={"collisions": "sum"})
        assert assign_cells(RECORD, st_slice, config).layout == layout
