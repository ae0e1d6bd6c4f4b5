"""The peer of the training step: the same model out of PyTorch's own parts, float32.

What one would write first: :class:`torch.nn.TransformerEncoderLayer`, every site a token of encoder
and decoder, a learnt token in the place of a hidden site, a dense gene table under dense AdamW.
"""

import math

import torch
from torch import Tensor, nn

from sttrain.model.autoencoder import Hidden, ModelConfig, Sites
from sttrain.model.layers import FIRST_SLOPES, distances, position_code


class PlainAutoencoder(nn.Module):
    """The masked autoencoder of :mod:`sttrain.model.autoencoder` at full length.

    Letters as there. Site masks only: single hidden values are set to 0.
    """

    def __init__(self, config: ModelConfig, n_genes: int) -> None:
        super().__init__()
        self.config = config
        D, E = config.width, config.decoder_width
        self.table = nn.Embedding(n_genes, D)
        self.token, self.depth = nn.Linear(D, D), nn.Linear(1, D)
        self.masked = nn.Parameter(torch.zeros(D))
        self.norm, self.decoder_norm = nn.LayerNorm(D), nn.LayerNorm(E)
        self.narrow, self.widen = nn.Linear(D, E), nn.Linear(E, D)
        heads = config.heads, config.decoder_heads
        self.blocks = self._stack(config.layers, D, heads[0], config.ffn)
        self.decoder = self._stack(config.decoder_layers, E, heads[1], config.decoder_ffn)
        # One slope a head and layer, as the model's own.
        layers = [heads[0]] * config.layers + [heads[1]] * config.decoder_layers
        self.slopes = nn.ParameterList(
            nn.Parameter(torch.linspace(*FIRST_SLOPES, n)) for n in layers if config.local
        )

    @staticmethod
    def _stack(layers: int, width: int, heads: int, ffn: int) -> nn.ModuleList:
        return nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, ffn, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )

    def forward(self, sites: Sites, hidden: Hidden) -> Tensor:
        """Return the (B, M, L) predictions of every value."""
        x, rows = self.encode(sites, hidden)
        closed, apart = self._surroundings(sites)
        x = self.narrow(self.norm(x))
        x = x + position_code(x.shape[1], self.config.decoder_width, x.device)
        for number, block in enumerate(self.decoder, len(self.blocks)):
            x = block(x, **self._masks(number, apart, closed))
        phi = self.widen(self.decoder_norm(x)) / math.sqrt(self.config.width)
        return torch.bmm(rows, phi.transpose(1, 2))

    def encode(self, sites: Sites, hidden: Hidden | None = None) -> tuple[Tensor, Tensor]:
        """Return the (B, L, D) states after the encoder, and the (B, M, D) gene vectors."""
        values, L = sites.values, sites.observed.shape[1]
        if hidden is not None and hidden.elements is not None:
            values = values * ~hidden.elements
        rows = self.table(sites.genes) * sites.real[..., None]
        x = self.token(torch.bmm(values.transpose(1, 2), rows) / math.sqrt(rows.shape[1]))
        x = x + self.depth(sites.depth[..., None])
        if hidden is not None:
            x = torch.where(hidden.sites[..., None], self.masked, x)
        x = x + position_code(L, self.config.width, x.device)
        closed, apart = self._surroundings(sites)
        for number, block in enumerate(self.blocks):
            x = block(x, **self._masks(number, apart, closed))
        return x, rows

    @staticmethod
    def _surroundings(sites: Sites) -> tuple[Tensor, Tensor]:
        """Return which sites are closed (B, L), and how far apart all are (1, L, L)."""
        L = sites.observed.shape[1]
        return ~sites.observed, distances(torch.arange(L)[None], L)[:, 0]

    def _masks(self, number: int, apart: Tensor, closed: Tensor) -> dict[str, Tensor]:
        if not self.config.local:
            return {"src_key_padding_mask": closed}
        fall = self.slopes[number].exp()[:, None, None]
        bias = (-apart * fall).expand(len(closed), -1, -1, -1)  # (B, H, L, L)
        bias = bias.masked_fill(closed[:, None, None], -math.inf)
        return {"src_mask": bias.flatten(0, 1)}


def plain_step(
    model: PlainAutoencoder, optimizer: torch.optim.Optimizer, sites: Sites, hidden: Hidden
) -> float:
    """Take one step and return its loss."""
    optimizer.zero_grad()
    secret = hidden.sites[:, None].expand_as(sites.values)
    if hidden.elements is not None:
        secret = secret | hidden.elements
    secret = secret & sites.observed[:, None] & sites.real[..., None]
    loss = ((model(sites, hidden) - sites.values) ** 2)[secret].mean()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return float(loss.detach())
