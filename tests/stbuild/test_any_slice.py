"""Slices of every kind and container are read alike; a valid file hurt anywhere is refused."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from stbuild.corpus.errors import StError
from stbuild.grid.grids import Grid
from stbuild.grid.placing import build_grid
from stbuild.lattices import assign_cells
from stbuild.reading.opening import read_here
from tests.slices import record_of
from tests.stbuild.test_zoo import MESSAGE
from tests.strategies import CONTAINERS, DTYPES, Drawn, hurt, slices

few = settings(
    max_examples=25,
    suppress_health_check=list(HealthCheck),
    # Shrinking takes minutes: what was done to a file is short as it is.
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
many = settings(few, max_examples=3000)


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def grid_from(path: Path, drawn: Drawn) -> Grid:
    record = record_of(path)
    read = read_here(record, drawn.config)
    return build_grid(record, drawn.config, read, assign_cells(record, read, drawn.config))


def stored_alike(folder, drawn, seed, dtype, container):
    """Order, type and container of a source leave no trace; no molecule is lost (P13, P17)."""
    if dtype == "?" and int(drawn.counts.max()) > 1:
        dtype = "<u2"
    other = drawn.stored_otherwise(np.random.default_rng(seed), dtype, container)
    first = grid_from(drawn.write(folder / "s.h5ad"), drawn)
    second = grid_from(other.write(folder / "s.h5ad"), other)
    assert first.meta.content == second.meta.content
    assert int(first.counts.sum()) == int(drawn.counts.sum())
    assert int(first.totals.astype(np.int64).sum()) == int(drawn.counts.sum())
    n_spots = first.meta.n_members if drawn.kind == "irregular" else first.meta.n_spots
    assert n_spots == len(drawn.barcodes)


def refused_or_read(folder, drawn, data):
    """Whatever is changed in a file: our own error in its one form, or a slice that adds up."""
    path = drawn.write(folder / "s.h5ad")
    hurt(data.draw, path)
    try:
        grid = grid_from(path, drawn)
    except StError as error:
        for problem in error.problems:
            assert MESSAGE.fullmatch(str(problem)), str(problem)
            assert problem.code != "B017"
    else:
        assert 0 < int(grid.counts.sum()) <= int(grid.totals.astype(np.int64).sum())
        assert grid.counts.shape == (len(grid.barcodes), len(grid.genes))


how = (slices(), st.integers(0, 2**32), st.sampled_from(DTYPES), st.sampled_from(CONTAINERS))


@few
@given(*how)
def test_order_type_and_container_of_a_source_leave_no_trace(folder, drawn, seed, dtype, container):
    stored_alike(folder, drawn, seed, dtype, container)


@few
@given(slices(), st.data())
def test_a_valid_file_hurt_anywhere_is_refused_or_read(folder, drawn, data):
    refused_or_read(folder, drawn, data)


@pytest.mark.slow
@many
@given(*how)
def test_many_ways_of_storing_a_slice_leave_no_trace(folder, drawn, seed, dtype, container):
    stored_alike(folder, drawn, seed, dtype, container)


@pytest.mark.slow
@settings(many, max_examples=10_000)
@given(slices(), st.data())
def test_a_valid_file_hurt_in_many_ways_is_refused_or_read(folder, drawn, data):
    refused_or_read(folder, drawn, data)
