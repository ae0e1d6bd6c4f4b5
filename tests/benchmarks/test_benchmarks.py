"""The benchmarks run, and the naive builder computes what it should."""

import sys

import numpy as np
import torch

from sttrain.config import RunConfig
from sttrain.model import Hidden, MaskedAutoencoder, normalise
from tests.benchmarks.bench_step import measure_step
from tests.benchmarks.measure import ROOT, Cost, middle, run
from tests.benchmarks.naive import crop_patches, read_dense
from tests.benchmarks.plain import PlainAutoencoder, plain_step
from tests.corpora import write_corpus
from tests.sttrain.judged import TINY

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


def test_the_plain_model_is_as_large_as_ours_and_learns():
    plain = PlainAutoencoder(TINY, 30)
    ours = MaskedAutoencoder(TINY, 30, torch.Generator())
    sizes = [sum(w.numel() for w in model.parameters()) for model in (plain, ours)]
    # Its token of a hidden site stands before the encoder, ours after it.
    assert sizes[0] - TINY.width == sizes[1] - TINY.decoder_width
    g = torch.Generator().manual_seed(0)
    counts, totals = torch.randint(0, 6, (3, 8, 6, 6), generator=g), torch.full((3, 6, 6), 80)
    totals[:, 0] = 0
    genes = torch.stack([torch.randperm(30, generator=g)[:8] for _ in range(3)])
    sites = normalise(counts * (totals > 0)[:, None], genes, totals)
    hidden = Hidden(sites=sites.observed & (torch.rand(3, 36, generator=g) < 0.5))
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.01)
    losses = [plain_step(plain, optimizer, sites, hidden) for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]


def test_steps_are_measured(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", n_patches=5)
    config = RunConfig.model_validate({"batch": 4, "model": TINY.model_dump()})
    results = measure_step(corpus, config, 1)
    assert [result.kind for result in results[:3]] == ["site", "block", "element"]
    assert results[3].flops == sum(
        share * result.flops for share, result in zip((0.4, 0.3, 0.3), results, strict=False)
    )
    assert all(result.row().count("|") == 8 for result in results)
    assert all(t > 0 for result in results for t in (*result.peer, *result.full, *result.half))
