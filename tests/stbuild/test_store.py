"""Grids on disk: round trip, and damage that Zarr would not see."""

import shutil

import numpy as np
import pytest

from stbuild.corpus.errors import IntegrityError
from stbuild.store import check_grid, read_grid, read_inventory, write_grid
from tests.slices import Spec, grid_of, write_slice


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    return grid_of(write_slice(tmp_path_factory.mktemp("s") / "one.h5ad", Spec(seed=5)))


@pytest.fixture
def stored(grid, tmp_path):
    path = tmp_path / "one.zarr"
    write_grid(path, grid, "0" * 64)
    return path


def test_round_trip(grid, stored):
    again = read_grid(stored)
    assert again.meta == grid.meta
    assert (again.counts != grid.counts).nnz == 0
    for name in ("totals", "rows", "cols", "xy", "labels"):
        assert np.array_equal(getattr(again, name), getattr(grid, name)), name
    assert list(again.barcodes) == list(grid.barcodes)
    assert list(again.genes) == list(grid.genes)


def test_large_counts_are_stored_in_32_bits(tmp_path, grid):
    big = grid.counts.copy()
    big.data = big.data.astype(np.uint32)
    big.data[0] = 70_000
    changed = grid.__class__(**{**vars(grid), "counts": big})
    write_grid(tmp_path / "big.zarr", changed, "0" * 64)
    assert read_grid(tmp_path / "big.zarr").counts.max() == 70_000


def test_a_band_of_rows_a_shard_reads_back_the_same(tmp_path, grid, monkeypatch):
    monkeypatch.setattr("stbuild.store._SHARD_BYTES", 8 * 18 * 40 * 2)
    write_grid(tmp_path / "bands.zarr", grid, "0" * 64)
    inventory = read_inventory(tmp_path / "bands.zarr")
    assert inventory is not None
    assert sum(file.path.startswith("counts/c/") for file in inventory.files) == 3
    assert (read_grid(tmp_path / "bands.zarr").counts != grid.counts).nnz == 0


def test_every_missing_file_is_named(stored):
    inventory = read_inventory(stored)
    assert inventory is not None
    for entry in inventory.files:
        copy = stored.with_name("copy.zarr")
        shutil.copytree(stored, copy)
        (copy / entry.path).unlink()
        assert [problem.where for problem in check_grid(copy)] == [str(copy / entry.path)]
        shutil.rmtree(copy)


def test_a_flipped_bit_anywhere_is_named(stored):
    inventory = read_inventory(stored)
    assert inventory is not None
    rng = np.random.default_rng(0)
    for _ in range(40):
        entry = inventory.files[int(rng.integers(len(inventory.files)))]
        path = stored / entry.path
        raw = bytearray(path.read_bytes())
        raw[int(rng.integers(len(raw)))] ^= 1 << int(rng.integers(8))
        good = path.read_bytes()
        path.write_bytes(raw)
        with pytest.raises(IntegrityError, match="G01"):
            read_grid(stored)
        path.write_bytes(good)
    assert not check_grid(stored)


def test_an_extra_file_is_named(stored):
    (stored / "counts" / "c" / "9").write_bytes(b"x")
    assert "does not list" in check_grid(stored)[0].what
