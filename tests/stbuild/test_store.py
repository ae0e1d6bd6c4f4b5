"""Grids on disk: round trip, and damage that Zarr would not see."""

import os
import shutil

import numpy as np
import pytest

from stbuild.corpus.errors import IntegrityError
from stbuild.grid.grids import Box
from stbuild.grid.store import StoredGrid, check_grid, read_grid, read_inventory, write_grid
from stbuild.grid.written import WrittenFiles
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
    meta = grid.meta.model_copy(update={"max_count": 70_000})
    changed = grid.__class__(**{**vars(grid), "counts": big, "meta": meta})
    write_grid(tmp_path / "big.zarr", changed, "0" * 64)
    assert read_grid(tmp_path / "big.zarr").counts.max() == 70_000


@pytest.mark.parametrize(("cells", "n_shards"), [(64, 9), (8 * 24, 3), (16 * 24, 2), (10**6, 1)])
def test_a_grid_in_several_zarr_shards_reads_back_the_same(
    tmp_path, grid, monkeypatch, cells, n_shards
):
    monkeypatch.setattr("stbuild.grid.arrays._SHARD_BYTES", cells * 40 * 2)
    monkeypatch.setattr("stbuild.grid.store._READ_BYTES", 8 * 18 * 40 * 2)
    path = tmp_path / "blocks.zarr"
    write_grid(path, grid, "0" * 64)
    inventory = read_inventory(path)
    assert inventory is not None
    assert sum(file.path.startswith("counts/c/") for file in inventory.files) == n_shards
    assert (read_grid(path).counts != grid.counts).nnz == 0
    stored = StoredGrid(path)
    for box in (Box(0, 20, 0, 18), Box(3, 11, 5, 18), Box(7, 9, 0, 1), Box(19, 20, 17, 18)):
        read, kept = stored.cells(box), grid.cells(box)
        assert (read.counts != kept.counts).nnz == 0
        for name in ("totals", "rows", "cols", "labels", "numbers"):
            assert np.array_equal(getattr(read, name), getattr(kept, name)), name


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


@pytest.mark.parametrize("name", ["xy/zarr.json", "counts/c/0/0/0", "xy/c/0/0", "inventory.json"])
def test_a_write_that_lies_is_not_sealed(tmp_path, grid, monkeypatch, name):
    path, really = tmp_path / "one.zarr", WrittenFiles.write

    def lie(files, where, blocks):
        really(files, where, blocks)
        if where.as_posix().endswith(f"/{name}"):
            os.truncate(where, where.stat().st_size - 1)

    with monkeypatch.context() as patch:
        patch.setattr(WrittenFiles, "write", lie)
        with pytest.raises(IntegrityError, match="read back differs") as caught:
            write_grid(path, grid, "0" * 64)
    assert [problem.where for problem in caught.value.problems] == [str(path / name)]
    assert list(tmp_path.iterdir()) == []
    write_grid(path, grid, "0" * 64)
    assert not check_grid(path)
