"""The rows of the gene table that a batch uses, against the table as a whole."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from sttrain.model import gene_rows
from sttrain.model.autoencoder import Hidden, MaskedAutoencoder, normalise
from sttrain.model.gene_rows import GeneRows, RowOptimizer, drawn_genes
from sttrain.train.config import OptimizerConfig
from sttrain.train.objectives import squared_errors
from sttrain.train.optimizer import build_optimizer, pack_state
from tests.sttrain.judged import TINY

K = 700


def make_model() -> MaskedAutoencoder:
    return MaskedAutoencoder(TINY, K, torch.Generator().manual_seed(0))


def draw(seed: int, padding: int = 2):
    """Counts, genes and totals of three patches."""
    rng = np.random.default_rng(seed)
    genes = np.stack([np.sort(rng.choice(K, 12, replace=False)) for _ in range(3)]).astype(np.int32)
    genes[:, 12 - padding :] = -1
    counts = torch.from_numpy(rng.poisson(2, (3, 12, 4, 4)).astype(np.int16))
    return counts, genes, torch.full((3, 4, 4), 90)


def loss_of(model, wire, rows=None):
    counts, genes, totals = wire
    sites = normalise(counts, torch.from_numpy(genes), totals)
    if rows is not None:
        sites = rows.lend(sites, genes)
    hidden = Hidden(sites=torch.arange(16).expand(3, -1) % 3 == 0)
    return squared_errors(sites, hidden, model(sites, hidden))[0].sum()


def test_which_genes_a_batch_names():
    genes = np.array([[3, 5, -1], [5, 9, -1]], np.int32)
    assert np.flatnonzero(drawn_genes(genes, 12)).tolist() == [3, 5, 9]
    assert np.flatnonzero(drawn_genes(genes[:0], 12)).tolist() == [0]
    assert np.flatnonzero(drawn_genes(np.full((2, 2), -1, np.int32), 12)).tolist() == [0]


def test_lent_rows_give_the_loss_and_the_gradient_of_the_table():
    model, wire = make_model(), draw(0)
    dense = loss_of(model, wire)
    dense.backward()
    assert model.table.grad is not None
    expected = model.table.grad.clone()
    rows = GeneRows(model.table, drawn_genes(wire[1], K))
    model.table.requires_grad_(False)
    lent = loss_of(model, wire, rows)
    lent.backward()
    assert torch.equal(lent, dense)
    assert rows.values.shape == (len(np.unique(wire[1])) - 1, TINY.width)
    assert rows.values.grad is not None
    assert torch.allclose(rows.values.grad, expected[rows.genes], rtol=1e-5, atol=1e-7)
    assert not np.delete(expected.numpy(), rows.genes.numpy(), axis=0).any()


def test_no_gradient_is_as_long_as_the_vocabulary():
    model, wire = make_model(), draw(0)
    model.table.requires_grad_(False)
    rows = GeneRows(model.table, drawn_genes(wire[1], K))
    sizes = []

    def pack(tensor):
        sizes.append(tensor.shape)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss_of(model, wire, rows).backward()
    assert all(K not in size for size in sizes)
    assert model.table.grad is None


@pytest.mark.parametrize("name", ["adamw", "adam"])
@pytest.mark.parametrize("piece", [64, 1 << 18])
def test_the_update_is_the_dense_one_bit_for_bit(monkeypatch, name, piece):
    """Ten steps with other genes each; some are never drawn, some once and then move on."""
    monkeypatch.setattr(gene_rows, "_PIECE", piece)
    config = OptimizerConfig(name=name, table_rate=3.0)
    model, dense = make_model(), make_model()
    model.table.requires_grad_(False)
    ours, theirs = build_optimizer(model, config), build_optimizer(dense, config)
    table = RowOptimizer(model.table, ours)
    rng = np.random.default_rng(0)
    for _ in range(10):
        drawn = rng.random(K) < 0.05
        rows = GeneRows(model.table, drawn)
        rows.values.grad = torch.from_numpy(rng.normal(size=rows.values.shape)).float()
        dense.table.grad = torch.zeros_like(dense.table)
        dense.table.grad[rows.genes] = rows.values.grad
        table.take(rows)
        table.step(rows)
        theirs.step()
    assert torch.equal(model.table, dense.table)
    mine, other = pack_state(model, ours), pack_state(dense, theirs)
    for what in ("exp_avg/table", "exp_avg_sq/table", "step/table"):
        assert torch.equal(mine[what], other[what])


def test_rows_that_are_padding_reach_nothing():
    model, wire = make_model(), draw(0, padding=5)
    rows = GeneRows(model.table, drawn_genes(wire[1], K))
    before = loss_of(model, wire, rows)
    sites = rows.lend(normalise(wire[0], torch.from_numpy(wire[1]), wire[2]), wire[1])
    assert sites.rows is not None
    other = replace(sites, rows=torch.where(sites.real, sites.rows, 3))
    hidden = Hidden(sites=torch.arange(16).expand(3, -1) % 3 == 0)
    assert torch.equal(before, squared_errors(other, hidden, model(other, hidden))[0].sum())
