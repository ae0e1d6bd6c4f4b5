"""Turned windows: every distance of the lattice is kept, nothing is lost, ranks agree."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from sttrain.stream.batches import Batch
from sttrain.train.augment import N_SYMMETRIES, SQUARE_LAYOUTS, draw_symmetry, turn, turn_batch


def places(P, layout, phase):
    """(P, P, 2) positions of cells in a window whose rows of parity `phase` are shifted."""
    row, col = np.mgrid[:P, :P].astype(float)
    if layout == "hex-offset":
        return np.stack([col + 0.5 * ((row + phase) % 2), row * np.sqrt(3) / 2], -1)
    return np.stack([col, row], -1)


def lattice(P, layout, phase):
    """Squared distances of all pairs of cells, by the cells."""
    xy = places(P, layout, phase).reshape(-1, 2)
    return np.round(np.square(xy[:, None] - xy[None]).sum(-1), 6)


@pytest.mark.parametrize("P", [4, 5])
@pytest.mark.parametrize(
    ("layout", "symmetry"),
    [("square", s) for s in range(8)] + [("hex-offset", s) for s in range(4)],
)
def test_symmetries_keep_every_distance(P, layout, symmetry):
    """Cells that lay so far apart lie so far apart, in a window of one of the two phases."""
    moved = turn(np.arange(P * P).reshape(P, P), symmetry).ravel()
    before = lattice(P, layout, 0)[np.ix_(moved, moved)]
    assert any(np.array_equal(before, lattice(P, layout, phase)) for phase in (0, 1))


@pytest.mark.parametrize("P", [4, 5])
@pytest.mark.parametrize("symmetry", [4, 5, 6, 7])
def test_exchanging_rows_and_columns_would_tear_hexagons(P, symmetry):
    moved = turn(np.arange(P * P).reshape(P, P), symmetry).ravel()
    before = lattice(P, "hex-offset", 0)[np.ix_(moved, moved)]
    assert not any(np.array_equal(before, lattice(P, "hex-offset", ph)) for ph in (0, 1))


def test_there_are_eight_of_them():
    cells = np.arange(9).reshape(3, 3)
    turned = [turn(cells, s).tolist() for s in range(N_SYMMETRIES)]
    assert all(one != two for one, two in combinations(turned, 2))
    assert turned[0] == cells.tolist()


@pytest.mark.parametrize("layout", ["square", "bin", "hex-offset", "quincunx-offset", "rank"])
def test_layouts_get_those_that_fit_evenly(layout):
    n = N_SYMMETRIES if layout in SQUARE_LAYOUTS else N_SYMMETRIES // 2
    drawn = [draw_symmetry(layout, 0, 1, 2, row) for row in range(1600)]
    numbers = np.bincount(drawn, minlength=N_SYMMETRIES)
    assert numbers[:n].min() > 0.7 * 1600 / n
    assert not numbers[n:].any()


def make_batch(n=6, epoch=0, step=0):
    rng = np.random.default_rng(3)
    counts = rng.integers(0, 50, (n, 5, 4, 4)).astype(np.uint16)
    return Batch(
        epoch=epoch, step=step, counts=counts, genes=np.zeros((n, 5), np.int32),
        totals=counts.sum(1).astype(np.uint32), keys=tuple(map(str, range(n))),
        rows=np.arange(n), total=n, slices=("a", "b") * (n // 2),
    )  # fmt: skip


LAYOUTS = {"a": "square", "b": "hex-offset"}


def test_counts_and_library_sizes_turn_together():
    batch = make_batch()
    before = batch.counts.copy()
    turned = turn_batch(batch, 1, LAYOUTS)
    assert np.array_equal(turned.counts.sum(1), turned.totals)
    assert np.array_equal(batch.counts, before)
    assert not np.array_equal(turned.counts, before)
    one, two = (np.sort(part.reshape(6, 5, -1), axis=2) for part in (before, turned.counts))
    assert np.array_equal(one, two)


def test_a_row_is_turned_alike_whoever_turns_it():
    whole = turn_batch(make_batch(), 1, LAYOUTS)
    batch = make_batch()
    part = replace(
        batch, counts=batch.counts[1::2], genes=batch.genes[1::2], totals=batch.totals[1::2],
        rows=batch.rows[1::2], slices=batch.slices[1::2],
    )  # fmt: skip
    assert np.array_equal(turn_batch(part, 1, LAYOUTS).counts, whole.counts[1::2])


@pytest.mark.parametrize("change", [{"epoch": 1}, {"step": 1}])
def test_epochs_and_steps_turn_otherwise(change):
    one = turn_batch(make_batch(), 1, LAYOUTS).counts
    assert not np.array_equal(one, turn_batch(make_batch(**change), 1, LAYOUTS).counts)
