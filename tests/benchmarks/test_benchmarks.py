"""The benchmarks run, and the naive builder computes what it should."""

import sys
import tarfile
from typing import Any

import numpy as np
import pytest
import torch

from sttrain.model.autoencoder import Hidden, MaskedAutoencoder, normalise
from sttrain.stream.normalised import normalise_counts
from sttrain.stream.source import PatchSource
from sttrain.train.config import RunConfig
from tests.benchmarks.bench_load import (
    LoadResult,
    decode_float,
    load_rows,
    measure_load,
    stream,
    write_float_shards,
)
from tests.benchmarks.bench_probe import measure_probe
from tests.benchmarks.bench_step import measure_step
from tests.benchmarks.measure import ROOT, Cost, middle, run
from tests.benchmarks.naive import crop_patches, read_dense
from tests.benchmarks.plain import PlainAutoencoder, plain_step
from tests.benchmarks.timing import spread
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


def test_the_probe_benchmark_measures_all_three_ways():
    speed = measure_probe(8, 1, n_spots=64, epochs=1, n_problems=2)
    assert min(*speed.sklearn, *speed.single, *speed.batched) > 0
    assert speed.row().startswith("| 64 x 8 | 2 |")


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_loading_is_measured_round_by_round(tmp_path):
    """Every loader reads every patch; a ratio is of two times of the same round."""
    for codec in ("zstd", "lz4"):
        write_corpus(tmp_path / codec, codec=codec, n_patches=40)
    found = measure_load(tmp_path / "zstd", tmp_path / "lz4", tmp_path / "out", repeats=2)
    assert {r.n_patches for r in found} == {80}
    assert all(len(r.seconds) == 2 and min(r.seconds) > 0 for r in found)
    rows = load_rows(found)
    assert len(rows) == len(found) == 11
    assert "| **1.0** (1.0 to 1.0) |" in rows[0]
    one = LoadResult("a", "b", 10, [1.0, 2.0, 4.0])
    other = LoadResult("a", "b", 10, [2.0, 6.0, 4.0])
    assert one.times(other) == [2.0, 3.0, 1.0]
    assert spread(one.times(other), 1) == "**2.0** (1.0 to 3.0)"
    assert one.speed == 5.0


def test_loaders_yield_the_same_patches(tmp_path):
    """What is compared in speed is the same in content: ours against the peer's float32."""
    corpus = write_corpus(tmp_path / "c", n_patches=20)
    source = PatchSource(corpus, "train")
    ours: dict[str, Any] = {}
    for batch in stream(source):
        values = normalise_counts(batch.counts, batch.genes, batch.totals)
        ours |= dict(zip(batch.keys, values, strict=True))
    peer = [decode_float(s)[0] for s in raw_samples(write_float_shards(corpus, tmp_path / "f"))]
    keys = list(source.index.keys)
    assert len(peer) == len(ours) == len(keys) == 40
    for key, values in zip(keys, peer, strict=True):
        np.testing.assert_allclose(ours[key], values, atol=1e-6)


def raw_samples(paths):
    for path in paths:
        members: dict[str, dict[str, bytes]] = {}
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                key, _, suffix = info.name.partition(".")
                file = tar.extractfile(info)
                assert file is not None
                members.setdefault(key, {})[suffix] = file.read()
        yield from members.values()


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
