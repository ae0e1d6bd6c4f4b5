"""The benchmarks run, and the naive builder computes what it should."""

import sys

import numpy as np

from tests.benchmarks.bench_probe import measure_probe
from tests.benchmarks.measure import ROOT, Cost, middle, run
from tests.benchmarks.naive import crop_patches, read_dense

SECTION = ROOT / "sample" / "Br8325_ant.h5ad"


def test_a_process_tree_is_measured():
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'sum(range(10**7))'])"
    cost = run([sys.executable, "-c", code])
    assert 0.05 < cost.cpu < 30
    assert cost.peak_mb > 1
    assert (cost + cost).cpu == 2 * cost.cpu
    assert middle([Cost(1, 1, 1), Cost(5, 5, 5), Cost(2, 2, 2)]) == Cost(2, 2, 2)


def test_the_naive_builder_draws_genes_by_their_variance():
    grid, genes = read_dense(SECTION)
    assert grid.shape[2] == len(genes) == 5000
    variance = grid.reshape(-1, 5000).var(axis=0)
    rng = np.random.default_rng(0)
    chosen = np.zeros(5000)
    for patch, positions in crop_patches(grid, 20, 16, 512, rng):
        assert (patch.shape, patch.dtype) == ((16, 16, 512), np.dtype(np.float32))
        assert np.unique(positions).size == 512
        chosen[positions] += 1
    often = np.argsort(-variance, kind="stable")[:100]
    assert chosen[often].mean() > 10 * chosen.mean() / 5


def test_the_probe_benchmark_measures_all_three_ways():
    speed = measure_probe(8, 1, n_spots=64, epochs=1, n_problems=2)
    assert min(speed.sklearn, speed.single, speed.batched) > 0
    assert speed.row().startswith("| 64 x 8 | 2 |")
