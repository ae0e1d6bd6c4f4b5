"""Snapping raw positions: true indices at any angle, with jitter and holes; nothing from noise."""

import anndata
import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from stbuild.lattices import snap
from stbuild.lattices.snap import LEAST_CONFIDENCE, snap_positions
from tests.lattice_points import KINDS, holes, jitter, share_recovered, sites, turn

ANGLES = (0.0, 0.4, 7.0, 12.4, 30.0, 31.7, 45.0, 60.0, 77.0, 90.0, 133.0, 180.0)


@pytest.mark.parametrize("radius", [0.0, 0.1, 0.2, 1 / 3], ids=["0", "0.1", "0.2", "a_third"])
@pytest.mark.parametrize("kind", KINDS)
def test_true_indices_come_back(kind, radius):
    rng = np.random.default_rng(4)
    for degrees in ANGLES:
        row, col, xy = sites(kind)
        kept = holes(row, col, rng)
        points = turn(jitter(xy, radius, rng), degrees, mirrored=degrees in (7.0, 77.0))[kept]
        found = snap_positions(points)
        assert found is not None, degrees
        assert found.kind == kind, degrees
        assert found.measures["confidence"] >= LEAST_CONFIDENCE
        share = share_recovered((found.row, found.col), (row[kept], col[kept]))
        assert share >= 0.999, (degrees, share)


@pytest.mark.parametrize("kind", KINDS)
def test_islands_share_one_lattice(kind):
    rng = np.random.default_rng(5)
    row, col, xy = sites(kind, 120, 60)
    kept = (row < 30) | (row > 90)
    found = snap_positions(turn(jitter(xy, 0.2, rng), 17)[kept])
    assert found is not None
    assert share_recovered((found.row, found.col), (row[kept], col[kept])) == 1


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_the_unit_does_not_matter(scale):
    row, col, xy = sites("hex", 20, 20)
    found = snap_positions(turn(xy, 3) * scale)
    assert found is not None
    assert found.kind == "hex"
    assert found.measures["pitch"] == pytest.approx(137 * scale)
    assert share_recovered((found.row, found.col), (row, col)) == 1


@pytest.mark.parametrize("seed", range(40))
def test_points_without_order_have_no_lattice(seed):
    rng = np.random.default_rng(seed)
    found = snap_positions(rng.random((int(rng.integers(9, 4000)), 2)))
    assert found is None or found.measures["confidence"] < LEAST_CONFIDENCE


def test_a_square_lattice_turned_by_45_degrees_stays_square():
    _, _, xy = sites("square", 20, 20)
    found = snap_positions(turn(xy, 45))
    assert found is not None
    assert found.kind == "square"


def test_a_quarter_of_a_million_spots_are_snapped():
    row, col, xy = sites("hex", 500, 500)
    found = snap_positions(turn(xy, 11))
    assert found is not None
    assert share_recovered((found.row, found.col), (row, col)) == 1


PIXELS = [
    "dlpfc/151507", "dlpfc/151510", "dlpfc_br8325/Br8325_ant", "her2st/A1", "her2st/D3",
    "her2st/F1", "heart/heart_3_CN73_D2", "heart/heart_6_CN74_E2", "mouse_brain_2k/Hippo1",
    "mouse_brain_2k/MOB2", "visium_unlabelled/mouse_brain_all_spots",
    "visium_unlabelled/mouse_embryo_cytassist", "visium_unlabelled/prostate_NP",
    "mouse_olfactory_bulb/MOB_Rep11", "breast_cancer_layers/layer2",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*names are not unique:UserWarning")
@pytest.mark.parametrize("name", PIXELS)
def test_real_pixels_alone_give_the_array_coordinates(name, shared_data):
    data = anndata.read_h5ad(shared_data / f"{name}.h5ad", backed="r")
    xy = np.asarray(data.obsm["spatial"], float)
    known = np.isfinite(xy).all(axis=1)
    found = snap_positions(xy)
    assert found is not None
    assert found.kind == data.uns["lattice"]
    if "array_row" in data.obs:
        true = tuple(data.obs[c].to_numpy()[known].astype(int) for c in ("array_row", "array_col"))
        at = (found.row[known], found.col[known])
        assert share_recovered(at, true) >= 0.999


@pytest.mark.parametrize("sample", range(151507, 151511))
def test_real_full_visium_layouts_fill_their_windows(sample, shared_data):
    from stbuild.windows import window_fill

    path = shared_data / f"raw/dlpfc_layout/{sample}/tissue_positions_list.txt"
    cells = [line.split(",") for line in path.read_text().split()]
    inside = [c for c in cells if c[1] == "1"]
    found = snap_positions(np.asarray([[float(c[5]), float(c[4])] for c in inside]))
    assert found is not None
    assert found.kind == "hex"
    row, col = found.row - found.row.min(), found.col
    col = (col + (row[0] + col[0]) % 2) // 2
    occupied = np.zeros((row.max() + 1, np.ptp(col) + 1), bool)
    occupied[row, col - col.min()] = True
    fill = window_fill(occupied, 16)
    in_tissue = fill[occupied[8 : 8 + fill.shape[0], 8 : 8 + fill.shape[1]]]
    assert np.mean(in_tissue) / 256 >= 0.9


@st.composite
def lattices(draw):
    """Draw points of a lattice of any kind: turned, mirrored, jittered, few or in strips."""
    kind = draw(st.sampled_from(KINDS))
    rows, cols = draw(st.sampled_from([(7, 9), (9, 6), (3, 40), (30, 4), (2, 60), (25, 24)]))
    radius = draw(st.sampled_from([0.0, 0.1, 0.2]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    row, col, xy = sites(kind, rows, cols)
    kept = rng.random(row.size) < 0.95
    degrees = draw(st.floats(0, 360, allow_subnormal=False))
    points = turn(jitter(xy, radius, rng), degrees, mirrored=draw(st.booleans()))[kept]
    points = draw(st.sampled_from([points, points / 137, np.rint(points), np.float32(points)]))
    return kind, np.asarray(points, np.float64), (row[kept], col[kept])


@settings(max_examples=60)
@given(lattices())
def test_a_lattice_is_recognised_whole_or_not_at_all(drawn):
    """Few spots and thin strips may be too little to tell, but nothing is ever placed wrongly."""
    kind, points, true = drawn
    found = snap_positions(points)
    if found is None or found.measures["confidence"] < LEAST_CONFIDENCE:
        assert len(points) < 150
        event("refused")
        return
    assert found.kind == kind
    assert found.placed.all()
    assert share_recovered((found.row, found.col), true) == 1


def test_a_basis_at_sixty_degrees_is_reduced_in_finite_time():
    """Rounding made two equally short sides take turns for ever, in one of 300 hexagons."""
    hexagon = np.asarray([[1.0, 0.0], [0.5, np.sqrt(3) / 2]])
    for degrees in np.linspace(0, 360, 2000):
        found = snap.reduce_basis(turn(hexagon, degrees) - [5000, -300])
        assert np.isfinite(found).all()


def test_a_given_pitch_decides_between_a_lattice_and_its_pairs():
    """Every site is a pair of spots: the step between twins is shorter than the pitch."""
    rng = np.random.default_rng(3)
    row, col, xy = sites("square", 14, 14)
    twins = jitter(np.repeat(xy, 2, axis=0), 0.12, rng)
    told = snap_positions(turn(twins, 9), 137.0)
    assert told is not None
    assert told.measures["pitch"] == pytest.approx(137, rel=0.01)
    at = (np.repeat(row, 2), np.repeat(col, 2))
    assert share_recovered((told.row, told.col), at) == 1
