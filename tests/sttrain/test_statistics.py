"""What is measured before the first step, against plain loops; the first gene table."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sttrain.stream.batches import PatchSource
from sttrain.stream.order import Order
from sttrain.train.centring import gene_variances, measure_slices, whole_means
from sttrain.train.gene_init import coexpression_table
from sttrain.train.statistics import measure_corpus
from tests.corpora import write_corpus

K, D = 24, 40


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("statistics") / "corpus"
    return write_corpus(root, n_patches=20, splits=("train", "train", "val"), n_slices=3)


@pytest.fixture(scope="module")
def source(corpus):
    return PatchSource(corpus, "train")


def values_of(source, numbers):
    """(genes, slice, log1p(CP10K), counts, totals) of the observed sites of each patch."""
    for number in numbers:
        counts, genes, totals = (part[0] for part in source.read([number]))
        seen = totals > 0
        sizes, shown = totals[seen].astype(float), counts[:, seen].astype(float)
        yield genes, source.index.slices[number], np.log1p(shown / sizes * 1e4), shown, sizes


def test_means_and_rates_are_those_of_a_loop(source):
    numbers = np.concatenate([Order(n_samples=len(source), batch=32, seed=3).global_batch(0, 0)])
    found = measure_corpus(source, 3, 20)  # to the next whole chunk of 32
    values: dict[int, list[float]] = {g: [] for g in range(K)}
    molecules, sizes, depth = np.zeros(K), np.zeros(K), []
    for genes, _, logs, counts, totals in values_of(source, numbers.tolist()):
        for i, gene in enumerate(genes):
            if gene >= 0:
                values[gene].extend(logs[i])
                molecules[gene] += counts[i].sum()
                sizes[gene] += totals.sum()
        depth.extend(np.log1p(totals))
    means = [np.mean(values[g]) if values[g] else 0.0 for g in range(K)]
    assert np.allclose(found.gene_mean.numpy(), np.asarray(means), atol=1e-5)
    assert found.depth_mean == pytest.approx(np.mean(depth), abs=1e-5)
    rates = np.log((molecules + 1) / (sizes / 1e4 + 1))
    assert np.allclose(found.log_rate.numpy(), rates, atol=1e-5)


def test_slices_have_means_of_their_own(corpus, source):
    held = PatchSource(corpus, "val")
    found = measure_slices(source, held)
    assert sorted(found.rows) == ["toy0", "toy1", "toy2"]
    for part in (source, held):
        for slug in sorted(set(part.index.slices)):
            mine = [n for n in range(len(part)) if part.index.slices[n] == slug]
            values: dict[int, list[float]] = {}
            for genes, _, logs, _, _ in values_of(part, mine):
                for i, gene in enumerate(genes):
                    values.setdefault(int(gene), []).extend(logs[i])
            genes = torch.tensor([[*sorted(g for g in values if g >= 0), -1]])
            means = [np.mean(values[g]) for g in genes[0].tolist() if g >= 0]
            assert np.allclose(found.of([slug], genes)[0], np.asarray([*means, 0.0]), atol=1e-5)


def test_patches_of_other_splits_have_no_part_in_the_means_of_a_slice(corpus, source):
    """As where the blocks of one slice are on several splits."""
    alone, slug = measure_slices(source), source.index.slices[0]
    twin = PatchSource(corpus, "train")
    twin.index = replace(twin.index, slices=[slug] * len(twin))
    both = measure_slices(source, twin)
    assert both.rows == alone.rows
    assert torch.equal(both.table, alone.table)


def test_whole_slices_have_means_and_variances_of_all_spots(corpus):
    whole = next(corpus.whole_slices("train"))
    dense = np.zeros((whole.meta.n_spots, K))
    for spot in range(whole.meta.n_spots):
        part = slice(whole.indptr[spot], whole.indptr[spot + 1])
        dense[spot, whole.indices[part]] = whole.data[part]
    logs = np.log1p(dense / whole.totals[:, None] * 1e4)
    assert np.allclose(whole_means(whole, K), logs.mean(0), atol=1e-5)
    variances = gene_variances(whole)
    assert np.allclose(variances, logs.var(0)[: len(variances)], atol=1e-8)


def slow_correlations(source, gene_mean):
    """(K, K) sums of products over sites that show both genes, scaled to a diagonal of 1."""
    S = np.zeros((K, K))
    for genes, _, logs, _, _ in values_of(source, range(len(source))):
        real = genes >= 0
        x = logs[real] - gene_mean[genes[real], None]
        S[np.ix_(genes[real], genes[real])] += x @ x.T
    scale = np.sqrt(np.maximum(np.diag(S), 1e-300))
    return np.where(np.outer(scale, scale) > 1e-200, S / np.outer(scale, scale), 0)


@pytest.fixture(scope="module")
def tables(source):
    means = measure_corpus(source, 0, 1000).gene_mean
    usual = torch.randn(K, 6, generator=torch.Generator().manual_seed(1))
    wide = torch.randn(K, D, generator=torch.Generator().manual_seed(1))
    return means, usual, wide


def test_a_wide_table_holds_every_correlation(source, tables):
    """With as many columns as genes nothing is left over: rows meet as their genes do."""
    means, _, wide = tables
    table = coexpression_table(source, 0, 1000, means, wide).double().numpy()
    expected = slow_correlations(source, means.numpy())
    assert np.abs(expected - np.diag(np.diag(expected))).max() > 0.3
    assert np.allclose(table @ table.T / D, expected, atol=1e-4)


def test_a_narrow_table_holds_the_leading_part(source, tables):
    means, usual, _ = tables
    table = coexpression_table(source, 0, 1000, means, usual).double().numpy()
    correlations = slow_correlations(source, means.numpy())
    values, vectors = np.linalg.eigh(correlations)
    leading = vectors[:, -6:] * np.sqrt(values[-6:])
    rest = np.sqrt(np.clip(1 - np.square(leading).sum(1), 0, 1))
    found = (table - rest[:, None] * usual.numpy()) / np.sqrt(6)
    assert np.allclose(found @ found.T, leading @ leading.T, atol=1e-4)
    apart = ~np.eye(K, dtype=bool)
    random, ours = (
        np.corrcoef((rows @ rows.T)[apart], correlations[apart])[0, 1]
        for rows in (usual.double().numpy(), table)
    )
    assert ours > random + 0.2


def test_the_table_is_the_same_every_time_and_of_training_alone(corpus, source, tables):
    means, usual, _ = tables
    one = coexpression_table(source, 0, 1000, means, usual)
    assert torch.equal(one, coexpression_table(source, 0, 1000, means, usual))
    other = coexpression_table(PatchSource(corpus, "val"), 0, 1000, means, usual)
    assert not torch.allclose(one, other)


def test_genes_that_were_never_met_stay_random(tmp_path):
    """Every seventh gene of a toy slice is not measured."""
    source = PatchSource(write_corpus(tmp_path / "c", n_slices=1, n_patches=4), "train")
    means = measure_corpus(source, 0, 100).gene_mean
    usual = torch.randn(K, 6, generator=torch.Generator().manual_seed(1))
    table = coexpression_table(source, 0, 100, means, usual)
    absent = [6, 13, 20]
    assert torch.equal(table[absent], usual[absent])
    assert not torch.isclose(table, usual).all(1)[:6].any()
