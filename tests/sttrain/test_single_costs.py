"""Costs of single sites: compared with what PyTorch counts."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sttrain.model.autoencoder import MaskedAutoencoder, ModelConfig, normalise
from sttrain.model.pretext import ContextConfig, Pretext
from sttrain.train.costs import StepShape
from sttrain.train.objectives import MaskConfig, draw_values, squared_errors
from sttrain.train.single_costs import count_single_flops, estimate_single_memory

SMALL = ModelConfig(
    width=64, layers=3, heads=4, ffn=128, decoder_width=32, decoder_layers=2, decoder_heads=4,
    decoder_ffn=64,
)  # fmt: skip
B, M, P, K = 3, 96, 9, 200


def forward(objective):
    """One step forward: model, loss and shape."""
    pretext = Pretext(objective=objective, context=ContextConfig(domains=5))
    generator = torch.Generator().manual_seed(3)
    model = MaskedAutoencoder(SMALL, K, generator, pretext)
    counts = torch.randint(0, 5, (B, M, P, P), generator=generator)
    genes = torch.stack([torch.randperm(K, generator=generator)[:M] for _ in range(B)])
    totals = torch.randint(100, 900, (B, P, P), generator=generator)
    totals = totals * (torch.rand(B, P, P, generator=generator) < 0.8)
    domains = torch.randint(0, 5, (B, P * P), generator=generator)
    hidden = draw_values(
        MaskConfig(kind="element"), seed=0, epoch=0, step=0, rows=torch.arange(B), totals=totals,
        real=genes >= 0,
    )  # fmt: skip
    sites = normalise(counts, genes, totals)
    errors, n = squared_errors(sites, hidden, model(sites, hidden, domains))
    most = int((totals > 0).flatten(1).sum(1).max())
    sizes = {"patches": B, "genes": M, "sites": P * P}
    shape = StepShape(**sizes, visible=most, observed=most, targets=most)
    return model, errors.sum() / n.sum(), shape


@pytest.mark.parametrize("objective", ["spot", "multispot", "slice"])
def test_products_are_those_that_pytorch_counts(objective):
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model, loss, shape = forward(objective)
        loss.backward()
    found = count_single_flops(SMALL, shape, model.pretext).total
    assert found == pytest.approx(counter.get_total_flops(), rel=0.03)


@pytest.mark.parametrize("objective", ["spot", "multispot", "slice"])
def test_activations_are_about_what_autograd_keeps(objective):
    seen: dict[int, int] = {}
    kept = []

    def pack(tensor):
        storage = tensor.untyped_storage()
        seen.setdefault(storage.data_ptr(), storage.nbytes())
        kept.append(tensor)  # a storage that is freed would give its place to another
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model, _, shape = forward(objective)
    for weight in model.parameters():
        seen[weight.untyped_storage().data_ptr()] = 0
    found = estimate_single_memory(SMALL, K, shape, "fp32", model.pretext)
    assert found.activations == pytest.approx(sum(seen.values()), rel=0.15)
    assert found.weights == sum(value.nbytes for value in model.state_dict().values())
    drawn = min(K, shape.patches * shape.genes)  # rows of the gene table, and their copy
    others = sum(weight.nbytes for weight in model.parameters()) - model.table.nbytes
    assert found.gradients == others + 2 * drawn * model.table[0].nbytes
