"""Small batches and models of every objective."""

from dataclasses import replace

import torch

from sttrain.model.autoencoder import Hidden, MaskedAutoencoder, ModelConfig, normalise
from sttrain.model.pretext import ContextConfig, Pretext
from sttrain.train.losses import count_errors
from sttrain.train.objectives import squared_errors

K, B, M, P = 30, 3, 12, 6
L = P * P
TINY = ModelConfig(
    width=16, layers=2, heads=4, ffn=32, decoder_width=8, decoder_layers=1, decoder_heads=2,
    decoder_ffn=16,
)  # fmt: skip
OBJECTIVES = ("patch", "spot", "multispot", "slice")
SINGLE = OBJECTIVES[1:]
CONTEXT = ContextConfig(neighbours=4, domains=3)


def make_model(objective="patch", loss="mse", config=TINY, context=CONTEXT, seed=0):
    """A model with noise everywhere, so that no term is zero by its initial value."""
    pretext = Pretext(objective=objective, loss=loss, context=context)
    model = MaskedAutoencoder(config, K, torch.Generator().manual_seed(seed), pretext)
    means = torch.rand(K, generator=torch.Generator().manual_seed(9))
    model.set_statistics(means, 4.0, torch.log(means + 0.1))
    noise = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=noise))
    return model.eval()


def make_wire(seed=5):
    """Counts, genes with two paddings, totals with some unobserved sites."""
    g = torch.Generator().manual_seed(seed)
    counts = torch.randint(0, 6, (B, M, P, P), generator=g)
    genes = torch.stack([torch.randperm(K, generator=g)[:M].sort().values for _ in range(B)])
    genes[:, -2:] = -1
    totals = counts.sum(1) + 50
    totals[:, 0, :4] = 0
    totals[1, 2] = 0
    counts = counts * (totals > 0)[:, None] * (genes >= 0)[..., None, None]
    return counts, genes, totals


def make_domains(seed=7):
    return torch.randint(0, 3, (B, L), generator=torch.Generator().manual_seed(seed))


def make_hidden(wire, *, sites=False, share=0.3, seed=6):
    g = torch.Generator().manual_seed(seed)
    observed = wire[2].flatten(1) > 0
    lost = observed & (torch.rand(B, L, generator=g) < 0.4)
    return Hidden(
        sites=lost if sites else torch.zeros_like(observed),
        elements=torch.rand(B, M, L, generator=g) < share,
    )


def predict(model, wire, hidden, domains=None, means=None):
    """Predictions (B, M, L) at their places, 0 where nothing was predicted."""
    sites = replace(normalise(*wire), means=means)
    found = model(sites, hidden, make_domains() if domains is None else domains)
    out = torch.zeros(len(found.values), M, L)
    values = torch.where(found.valid[:, None], found.values, 0)
    index = found.index[:, None].expand_as(values)
    return out.scatter_add(2, index, values)


def errors(model, wire, hidden, domains=None):
    """Errors (B,) under the model's loss."""
    sites = normalise(*wire)
    found = model(sites, hidden, make_domains() if domains is None else domains)
    if model.pretext.counts:
        return count_errors(sites, hidden, found, wire[0], wire[2])
    return squared_errors(sites, hidden, found)[0]
