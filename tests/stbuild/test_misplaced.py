"""Positions beside array coordinates that say something else: told and counted, or refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stbuild.config import GridConfig
from stbuild.corpus.errors import BadInputError
from stbuild.grid.placing import placing_notices
from stbuild.lattices.arrays import compare_positions
from stbuild.reading.opening import read_here
from tests.lattice_points import KINDS, holes, jitter, sites, turn
from tests.slices import Spec, grid_of, make_anndata, record_of

PLAIN = GridConfig()


def write(tmp_path, change, spec=None):
    data = make_anndata(spec or Spec(seed=4))
    change(data.obsm["spatial"], np.random.default_rng(0))
    path = tmp_path / "s.h5ad"
    data.write_h5ad(path)
    return path


def erase(xy, rng):
    xy[:] = 0


def erase_some(xy, rng):
    xy[::5] = 0


def shuffle(xy, rng):
    xy[:] = rng.permutation(xy)


def shuffle_some(xy, rng):
    xy[::20] = xy[::20][::-1].copy()


def bend(xy, rng):
    """As of a section that was warped onto an atlas."""
    xy[:, 0] += 60 * np.sin(xy[:, 1] / 400)


def swap_two(xy, rng):
    xy[[10, 11]] = xy[[11, 10]]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (erase, "332 of 332 spots stand at the position of another one"),
        (erase_some, "67 of 332 spots stand at the position of another one"),
        (shuffle_some, "positions lie more than half a pitch off the array"),
        (bend, "positions lie more than half a pitch off the array"),
    ],
)
@pytest.mark.parametrize("layout", ["auto", "rank"])
def test_positions_of_other_spots_give_way_to_the_array_with_their_number(
    tmp_path, change, told, layout
):
    config = GridConfig(layout=layout)
    grid = grid_of(path := write(tmp_path, change), config)
    said = [str(notice) for notice in read_here(record_of(path), config).notices]
    assert [told in text for text in said if "B051" in text] == [True]
    assert any("array coordinates are used for the whole slice" in text for text in said)
    assert grid.meta.unit == "array"
    # No two sites are nearer than the array has them, and it alone says where they are.
    assert np.unique(grid.xy, axis=0).shape == grid.xy.shape
    data = make_anndata(Spec(seed=4))
    del data.obsm["spatial"]
    data.write_h5ad(tmp_path / "none.h5ad")
    assert grid.meta.content == grid_of(tmp_path / "none.h5ad", config).meta.content


def test_positions_and_array_that_contradict_each_other_are_refused_with_the_way_out(tmp_path):
    path = write(tmp_path, shuffle)
    with pytest.raises(BadInputError, match=r"B051.*of 332 spots.*--coords array or --coords pos"):
        read_here(record_of(path), PLAIN)
    assert grid_of(path, GridConfig(coords="array")).meta.unit == "array"
    by_positions = grid_of(path, GridConfig(coords="positions"))
    assert (by_positions.meta.unit, by_positions.meta.layout) == ("pixel", "hex-offset")
    binned = GridConfig(layout="bin", bin_size=200)
    assert grid_of(path, binned).meta.unit == "pixel"


def test_what_stands_nearly_where_the_array_has_it_stays(tmp_path):
    grid = grid_of(write(tmp_path, swap_two), PLAIN)
    assert grid.meta.unit == "pixel"
    assert grid.meta.measures["residual"] > 0.1
    heart = Spec(kind="square", rows=14, cols=12, seed=4)
    grid = grid_of(
        write(tmp_path, lambda xy, rng: xy.__iadd__(rng.normal(0, 20, xy.shape)), heart), PLAIN
    )
    assert grid.meta.unit == "pixel"
    (said,) = [n.what for n in placing_notices(grid.meta) if n.code == "B051"]
    assert "cells are those of the array, distances those of the positions" in said


@given(
    st.sampled_from(KINDS),
    st.floats(0, 360),
    st.booleans(),
    st.floats(0, 0.2),
    st.integers(0, 10**6),
)
def test_turned_mirrored_and_shaken_positions_are_those_of_the_array(
    kind, degrees, mirrored, radius, seed
):
    rng = np.random.default_rng(seed)
    row, col, xy = sites(kind, 20, 18)
    kept = holes(row, col, rng)
    places = turn(jitter(xy, radius, rng), degrees, mirrored=mirrored)[kept]
    found = compare_positions(row[kept], col[kept], places)
    assert not found.is_misplaced
    assert not found.is_contradiction


@given(st.integers(0, 10**6), st.permutations(range(60)))
def test_who_shares_a_position_is_counted_whatever_the_order(seed, order):
    rng = np.random.default_rng(seed)
    row, col = rng.integers(6, size=(2, 60))
    xy = rng.integers(5, size=(60, 2)).astype(float) * rng.choice([1.0, -1.0], size=(60, 2))
    n = sum(
        any((xy[i] == xy[j]).all() and (row[i], col[i]) != (row[j], col[j]) for j in range(60))
        for i in range(60)
    )
    turned = list(order)
    assert compare_positions(row, col, xy).n_shared == n
    assert compare_positions(row[turned], col[turned], xy[turned]).n_shared == n


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_spots_contradict_nothing(n):
    row, col, xy = np.arange(n), np.zeros(n, int), np.random.default_rng(0).random((n, 2))
    assert not compare_positions(row, col, xy).is_misplaced
