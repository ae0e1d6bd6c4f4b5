"""What a cluster has to carry: small messages, and no more memory than `plan` states."""

from pathlib import Path

import pytest
from distributed.comm import tcp
from distributed.comm.utils import from_frames
from distributed.protocol import pickle as wire

from stbuild.build.building import build_corpus
from stbuild.build.inputs import gather_inputs
from stbuild.config import GridConfig
from stbuild.corpus.documents import ShardConfig
from stbuild.grid.compact import compact
from stbuild.manifests.manifest import read_inputs
from stbuild.plan.preview import plan_slice, plan_tasks
from stbuild.tasks.pipeline import open_runner, run_loop
from tests.clusters import runner_on, running_cluster
from tests.conftest import SAMPLE
from tests.slices import Spec, write_slice

MOST_TASK = 10_000
MOST_RESULT = 50_000
MOST_MESSAGE = 200_000
"""Bytes; Dask puts several tasks or results into a message."""
GRID = GridConfig(label="label", pitch_um=100.0)
SHARD = ShardConfig(name="wide", window=8, genes=16, n_per_slice=160, samples_per_shard=320)
N_GENES = 12_000


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Slices whose genes, and a shard whose plan, are large beside a message."""
    root = tmp_path_factory.mktemp("wide")
    specs = [Spec(seed=i, rows=16, cols=14, n_genes=N_GENES, mean=0.05) for i in range(2)]
    return [write_slice(root / f"w{spec.seed}.h5ad", spec) for spec in specs]


def run_all(sources, root, runner):
    manifest = read_inputs([str(path) for path in sources])
    runner(plan_slice, plan_tasks(manifest, GRID, SHARD), lambda: None)
    compact(manifest, GRID, root / "grids", runner)
    build_corpus(gather_inputs(root / "grids", SHARD, None), root / "corpus", runner)


def test_no_task_and_no_result_is_large(wide, tmp_path):
    tasks: dict[str, int] = {}
    results: dict[str, int] = {}

    def weigh(function, given, done):
        outcomes = run_loop(function, given, done)
        tasks[function.__name__] = max(len(wire.dumps(task)) for task in given)
        results[function.__name__] = max(len(wire.dumps(outcome)) for outcome in outcomes)
        return outcomes

    run_all(wide, tmp_path, weigh)
    assert set(tasks) == {"plan_slice", "compact_slice", "cut_part", "write_shard"}
    assert max(tasks.values()) < MOST_TASK, tasks
    assert max(results.values()) < MOST_RESULT, results
    genes = (tmp_path / "corpus" / "genes.parquet").stat().st_size
    assert genes > 2 * MOST_TASK, "the vocabulary is too small for this test to fail"


@pytest.mark.dist
def test_no_message_of_a_real_cluster_is_large(wide, tmp_path, monkeypatch):
    sizes = {"out": [0], "in": [0]}
    write, decode = tcp.TCP.write, from_frames

    async def noted_write(self, *args, **kwargs):
        n = await write(self, *args, **kwargs)
        sizes["out"].append(n)
        return n

    async def noted_decode(frames, *args, **kwargs):
        parts = frames if isinstance(frames, list) else [frames]
        sizes["in"].append(sum(len(frame) for frame in parts))
        return await decode(frames, *args, **kwargs)

    monkeypatch.setattr(tcp.TCP, "write", noted_write)
    monkeypatch.setattr(tcp, "from_frames", noted_decode)
    # The scheduler is in this process: all that passes it passes here.
    with open_runner(2) as runner:
        run_all(wide, tmp_path, runner)
    assert len(sizes["out"]) > 20
    assert len(sizes["in"]) > 20
    assert max(sizes["out"]) < MOST_MESSAGE, max(sizes["out"])
    assert max(sizes["in"]) < MOST_MESSAGE, max(sizes["in"])


@pytest.mark.slow
@pytest.mark.dist
def test_a_worker_needs_no_more_memory_than_the_plan_states(tmp_path):
    sources = [str(path) for path in sorted(SAMPLE.rglob("*.h5ad"))]
    manifest = read_inputs(sources)
    grid, shard = GridConfig(), ShardConfig(name="s", n_per_slice=100)
    stated = max(plan_slice(task).memory_bytes for task in plan_tasks(manifest, grid, shard))
    with running_cluster(tmp_path, 1) as cluster, runner_on(cluster) as runner:
        compact(manifest, grid, tmp_path / "grids", runner)
        build_corpus(gather_inputs(tmp_path / "grids", shard, None), tmp_path / "corpus", runner)
        peak = peak_bytes(cluster.workers[0].pid)
    assert 100e6 < peak <= stated, (peak, stated)


def peak_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024
