"""Learning rates and which weights decay."""

import pytest
import torch

from sttrain.model.autoencoder import MaskedAutoencoder, ModelConfig
from sttrain.train.config import OptimizerConfig
from sttrain.train.optimizer import build_optimizer, learning_rate, set_rate


def test_rises_then_falls_along_half_a_cosine():
    config = OptimizerConfig(lr=2.0e-3, warmup=0.1)
    rates = [learning_rate(config, done, 100) for done in range(100)]
    assert rates[:10] == pytest.approx([2e-4 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(2e-3)
    assert rates[55] == pytest.approx(1e-3)
    assert rates[-1] < 1e-5
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize("total", [1, 2, 3])
def test_short_runs_have_positive_rates(total):
    for warmup in (0.0, 0.5, 1.0):
        config = OptimizerConfig(warmup=warmup)
        assert all(learning_rate(config, done, total) > 0 for done in range(total))


def test_constant_after_the_rise():
    config = OptimizerConfig(lr=0.5, warmup=0.5, schedule="constant")
    assert [learning_rate(config, done, 4) for done in range(4)] == [0.25, 0.5, 0.5, 0.5]


def test_only_matrices_of_layers_decay_and_the_table_has_its_rate():
    model = MaskedAutoencoder(ModelConfig(width=16, layers=1), 5, torch.Generator())
    config = OptimizerConfig(weight_decay=0.1, table_rate=7.0)
    optimizer = build_optimizer(model, config)
    set_rate(optimizer, 0.5)
    decayed, free, table = optimizer.param_groups
    assert (decayed["weight_decay"], free["weight_decay"], table["weight_decay"]) == (0.1, 0, 0)
    assert (decayed["lr"], free["lr"], table["lr"]) == (0.5, 0.5, 3.5)
    assert {weight.ndim for weight in decayed["params"]} == {2}
    assert [weight.shape for weight in table["params"]] == [(5, 16)]
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam)]
)
def test_both_kinds(name, kind):
    model = MaskedAutoencoder(ModelConfig(width=16, layers=1), 5, torch.Generator())
    assert type(build_optimizer(model, OptimizerConfig(name=name))) is kind


def test_rises_stays_and_falls_at_the_end():
    """Warm-up, stable, decay."""
    config = OptimizerConfig(lr=1.0, warmup=0.1, schedule="wsd", decay=0.2)
    rates = [learning_rate(config, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10:81] == [1.0] * 71
    assert rates[80:] == pytest.approx([1.0 - 0.05 * i for i in range(20)])
