"""However work is spread, and in whatever pieces it is done: the same corpus (P12)."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from distributed import LocalCluster

from stbuild.build.building import build_corpus
from stbuild.build.inputs import gather_inputs
from stbuild.config import GridConfig
from stbuild.corpus.documents import ShardConfig
from stbuild.draws import keyed_stream
from stbuild.grid import arrays as grid_arrays
from stbuild.grid import store
from stbuild.grid.catalogue import read_catalogue
from stbuild.grid.compact import compact
from stbuild.manifests.manifest import read_inputs
from stbuild.patches import cutting
from stbuild.patches.cropping import crop_training, view_part
from stbuild.tasks.pipeline import Patience, Runner, attempt, open_runner, run_loop
from tests.clusters import runner_on, running_cluster
from tests.slices import Spec, write_slice
from tests.trees import tree_digests

pytestmark = pytest.mark.dist
SPECS = {
    "long": Spec("square", rows=72, cols=20, n_genes=20, seed=1),
    "hexes": Spec("hex", rows=20, cols=18, n_genes=24, seed=2),
    "small": Spec("square", rows=14, cols=12, n_genes=22, seed=3),
}
GRID = GridConfig(label="label", pitch_um=100.0)
SHARD = ShardConfig(
    name="cross", window=8, genes=12, n_per_slice=9, samples_per_shard=8, whole_slices=True
)
SIDES = (16, 64, None)
"""Sites per side of what is stored, read and cut in one go; None: whole slices."""
CELL = 20 * 2
"""Bytes of a site, about."""
CALM = Patience(worker=300.0, scheduler=120.0)
"""Nothing dies here, but the machine may be busy."""
WHOLE = (grid_arrays._shard_shape, store._READ_BYTES, cutting.PART_BYTES)


def take_pieces(side: int | None) -> None:
    """Let this process work in pieces of so many sites."""
    shape, read, part = WHOLE
    if side is not None:
        shape, read, part = (lambda *_: (side, side)), side * side * CELL, side * side * CELL
    grid_arrays._shard_shape, store._READ_BYTES = shape, read  # type: ignore[misc]
    cutting.cut_slice.__kwdefaults__ = {"windows": None, "part_bytes": part}


@dataclass(frozen=True)
class InPieces:
    """A task's function, wherever it runs."""

    function: Callable[[Any], Any]
    side: int | None

    def __call__(self, task: Any) -> Any:
        take_pieces(self.side)
        return self.function(task)


def build(sources: list[Path], root: Path, runner: Runner, side: int | None) -> dict[str, str]:
    """Build a corpus; return what must not depend on how. Bytes of grids depend on pieces."""

    def pieced(function: Any, tasks: Any, done: Any) -> Any:
        return runner(InPieces(function, side), tasks, done)

    try:
        compact(read_inputs([str(path) for path in sources]), GRID, root / "grids", pieced)
        build_corpus(gather_inputs(root / "grids", SHARD, None), root / "corpus", pieced)
    finally:
        take_pieces(None)
    grids = {entry.slug: entry.content for entry in read_catalogue(root / "grids").grids}
    return grids | tree_digests(root / "corpus")


def run_threads(n: int, function: Any, tasks: Any, done: Any) -> Any:
    with ThreadPoolExecutor(n) as pool:
        outcomes = list(pool.map(partial(attempt, function), tasks))
    for _ in outcomes:
        done()
    return outcomes


@contextmanager
def open_place(place: str, n: int, threads: int, folder: Path) -> Iterator[Runner]:
    """Give a runner: a loop, threads of this process, local processes, or a cluster of others."""
    if place == "loop":
        yield run_loop
    elif place == "threads":
        yield partial(run_threads, n * threads)
    elif place == "processes":

        def start(**told: Any) -> Any:
            return LocalCluster(**{**told, "n_workers": n, "threads_per_worker": threads})

        with patch("stbuild.tasks.dask_runner.LocalCluster", start), open_runner(jobs=2) as runner:
            yield runner
    else:
        with running_cluster(folder, 0) as cluster, runner_on(cluster, CALM) as runner:
            for _ in range(n):
                cluster.start_worker("--nthreads", str(threads))
            yield runner


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    return [write_slice(root / f"{name}.h5ad", spec) for name, spec in SPECS.items()]


@pytest.fixture(scope="module")
def wanted(sources, tmp_path_factory):
    return build(sources, tmp_path_factory.mktemp("wanted"), run_loop, None)


SPREAD = [(n, threads) for n in (1, 2, 4) for threads in (1, 2)]
CROSS = [("loop", 1, 1)] + [(p, *s) for p in ("threads", "processes", "cluster") for s in SPREAD]
EACH_TIME = [("loop", 1, 1, SIDES), ("threads", 2, 1, SIDES[:2]), ("threads", 2, 2, SIDES[2:])]
"""Six cells of the cross; test_durability.py starts a cluster each time."""


def check(sources, wanted, folder, place, n, threads, sides):
    with open_place(place, n, threads, folder) as runner:
        for side in sides:
            assert build(sources, folder / f"by-{side}", runner, side) == wanted, side


@pytest.mark.parametrize(("place", "n", "threads", "sides"), EACH_TIME)
def test_some_ways_of_spreading_work(sources, wanted, tmp_path, place, n, threads, sides):
    check(sources, wanted, tmp_path, place, n, threads, sides)


@pytest.mark.slow
@pytest.mark.parametrize(("place", "n", "threads"), CROSS)
def test_every_way_of_spreading_work(sources, wanted, tmp_path, place, n, threads):
    check(sources, wanted, tmp_path, place, n, threads, SIDES)


def test_pieces_are_what_they_say(sources, tmp_path):
    """Else nothing could differ, and no test would show it."""
    build(sources[:1], tmp_path, run_loop, 16)
    chunks = tmp_path / "grids" / "long.zarr" / "counts" / "c"
    assert len([path for path in chunks.rglob("*") if path.is_file()]) == 5 * 2
    assert [_count_parts(chunks.parents[1], side) for side in SIDES] == [4, 1, 1]


def _count_parts(path: Path, side: int | None) -> int:
    vocabulary, views = gather_inputs(path.parent, SHARD, None).vocabulary, []
    take_pieces(side)

    def view(*arguments: Any) -> Any:
        views.append(arguments)
        return view_part(*arguments)

    try:
        with patch.object(cutting, "view_part", view):
            list(cutting.cut_slice(store.StoredGrid(path), vocabulary, (), SHARD))
    finally:
        take_pieces(None)
    return len(views)


def test_draws_by_the_thread_are_noticed(sources, wanted, tmp_path, monkeypatch):
    def stream(purpose: str, seed: int, content: str, number: int) -> np.random.Philox:
        return keyed_stream(purpose, seed, f"{content}{threading.get_ident()}", number)

    monkeypatch.setattr("stbuild.patches.cropping.keyed_stream", stream)
    with pytest.raises(AssertionError):
        check(sources, wanted, tmp_path, "threads", 2, 1, [None])


def test_draws_by_the_piece_are_noticed(sources, wanted, tmp_path, monkeypatch):
    def crop(view, config, windows):
        return crop_training(view, config.model_copy(update={"seed": len(windows)}), windows)

    monkeypatch.setattr(cutting, "crop_training", crop)
    with pytest.raises(AssertionError):
        check(sources, wanted, tmp_path, "loop", 1, 1, [16])
