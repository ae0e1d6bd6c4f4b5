"""The plan tells what is built afterwards: patches exactly, bytes within a tenth."""

import pytest

from stbuild.build.building import build_corpus
from stbuild.build.inputs import gather_inputs
from stbuild.config import GridConfig
from stbuild.corpus.documents import ShardConfig
from stbuild.grid.compact import compact
from stbuild.manifests.manifest import read_inputs
from stbuild.plan.preview import plan_slice, plan_tasks, shared_genes
from stbuild.tasks.pipeline import run_loop
from tests.conftest import SAMPLE

REAL = ["her2st/B2", "mouse_brain_2k/MOB3", "heart/heart_4_CN73_C2"]
MODES = {
    "training": ShardConfig(n_per_slice=150),
    "training_with_whole_slices": ShardConfig(n_per_slice=40, window=8, whole_slices=True),
    "evaluation": ShardConfig(n_per_slice=None, cover=8, draws=2),
    "lz4": ShardConfig(n_per_slice=60, codec="lz4"),
}


def compare(paths, shard, tmp_path):
    manifest = read_inputs([str(path) for path in paths])
    grid = GridConfig()
    plans = [plan_slice(task) for task in plan_tasks(manifest, grid, shard)]
    compact(manifest, grid, tmp_path / "grids", run_loop)
    inputs = gather_inputs(tmp_path / "grids", shard, None)
    document = build_corpus(inputs, tmp_path / "corpus", run_loop).document
    assert [p.n_patches for p in plans] == [entry.n_patches for entry in document.slices]
    assert [p.n_spots for p in plans] == [entry.n_spots for entry in document.slices]
    assert shared_genes(plans)[0] == document.vocabulary.n_genes
    real = sum(entry.bytes for entry in document.shards)
    assert sum(p.shard_bytes for p in plans) == pytest.approx(real, rel=0.1)
    return plans


@pytest.mark.parametrize("mode", MODES)
def test_the_bundled_slices_become_what_was_planned(mode, tmp_path):
    paths = sorted(SAMPLE.glob("*.h5ad"))
    if mode != "training":
        paths = paths[:1]
    plans = compare(paths, MODES[mode], tmp_path)
    for plan in plans:
        row = plan.as_row()
        assert row["memory_bytes"] > 0
        assert row["seconds"] > 0
        assert row["ledger"]["molecules_read"] >= row["ledger"]["molecules_kept"]


@pytest.mark.parametrize("name", REAL)
def test_real_slices_become_what_was_planned(name, shared_data, tmp_path):
    compare([shared_data / f"{name}.h5ad"], ShardConfig(n_per_slice=60), tmp_path)
