"""scGPT's cell encoder, under the tensor names of its checkpoints, and its per-cell decoder.

A post-norm transformer without positions (``scgpt/model/model.py`` of bowang-lab/scGPT): a token
is the normed embedding of a gene plus a code of its bin; a cell's vector is the last layer's
output at ``<cls>``. Built on no memory (``meta``), so that nothing is drawn at random.
Letters: B batch, T tokens, D width, H heads, V vocabulary, G genes.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import relu, scaled_dot_product_attention

MAX_VALUE: Final = 512.0
"""Values above it are clamped; bins never reach it."""


class CellEncoder(nn.Module):
    """Tokens of cells to one vector each."""

    def __init__(self, *, V: int, D: int, heads: int, ffn: int, layers: int) -> None:
        super().__init__()
        with torch.device("meta"):
            self.encoder = GeneEncoder(V, D)
            self.value_encoder = ValueEncoder(D)
            self.transformer_encoder = LayerStack(D, heads, ffn, layers)

    def forward(self, genes: Tensor, values: Tensor, real: Tensor) -> Tensor:
        """Return (B, D), the last layer's output at position 0.

        Parameters
        ----------
        genes
            (B, T) int64 rows of the gene table.
        values
            (B, T) float32 bins.
        real
            (B, T) bool, what may be attended to; padding may not.
        """
        found: Tensor = self.transformer_encoder(
            self.encoder(genes) + self.value_encoder(values), real
        )
        return found


class GeneEncoder(nn.Module):
    """Rows of the gene table, normed."""

    def __init__(self, V: int, D: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(V, D)
        self.enc_norm = nn.LayerNorm(D)

    def forward(self, genes: Tensor) -> Tensor:
        """Map (B, T) to (B, T, D)."""
        found: Tensor = self.enc_norm(self.embedding(genes))
        return found


class ValueEncoder(nn.Module):
    """The code of a number."""

    def __init__(self, D: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(1, D)
        self.linear2 = nn.Linear(D, D)
        self.norm = nn.LayerNorm(D)

    def forward(self, values: Tensor) -> Tensor:
        """Map (B, T) to (B, T, D)."""
        hidden = relu(self.linear1(values.clamp(max=MAX_VALUE)[..., None]))
        found: Tensor = self.norm(self.linear2(hidden))
        return found


class LayerStack(nn.Module):
    """The layers, of the last of which nothing but position 0 is worked out."""

    def __init__(self, D: int, heads: int, ffn: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(PostNormLayer(D, heads, ffn) for _ in range(layers))

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """Map tokens (B, T, D) to the output at position 0, (B, D)."""
        last = len(self.layers) - 1
        for number, layer in enumerate(self.layers):
            x = layer(x[:, :1] if number == last else x, x, real)
        return x[:, 0]


class PostNormLayer(nn.Module):
    """Attention and two linear maps, each added to its input and normed after it."""

    def __init__(self, D: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.self_attn = nn.MultiheadAttention(D, heads, batch_first=True)  # for its tensors
        self.linear1 = nn.Linear(D, ffn)
        self.linear2 = nn.Linear(ffn, D)
        self.norm1 = nn.LayerNorm(D)
        self.norm2 = nn.LayerNorm(D)

    def forward(self, queries: Tensor, tokens: Tensor, real: Tensor) -> Tensor:
        """Map the queries (B, Q, D) to (B, Q, D); they are some or all of the tokens (B, T, D)."""
        x = self.norm1(queries + self._attend(queries, tokens, real))
        y: Tensor = self.norm2(x + self.linear2(relu(self.linear1(x))))
        return y

    def _attend(self, queries: Tensor, tokens: Tensor, real: Tensor) -> Tensor:
        # torch's own modules keep all (B, H, T, T) scores in memory at inference on a CPU:
        # 1.5 GB for 32 cells of 1,200 genes. The fused kernel does not.
        attention = self.self_attn
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        D = tokens.shape[-1]

        def split(x: Tensor, part: int) -> Tensor:
            rows = slice(part * D, (part + 1) * D)
            B, T, _ = x.shape
            projected = nn.functional.linear(x, weight[rows], bias[rows])
            # (B, T, D) -> (B, H, T, D / H)
            return projected.view(B, T, attention.num_heads, -1).transpose(1, 2)

        mixed = scaled_dot_product_attention(
            split(queries, 0), split(tokens, 1), split(tokens, 2), real[:, None, None]
        )
        # (B, H, Q, D / H) -> (B, Q, D)
        found: Tensor = attention.out_proj(mixed.transpose(1, 2).flatten(2))
        return found


class CellDecoder(nn.Module):
    """Values of genes from a cell's vector: an inner product with a query of each gene (MVC)."""

    def __init__(self, D: int) -> None:
        super().__init__()
        with torch.device("meta"):
            self.gene2query = nn.Linear(D, D)
            self.W = nn.Linear(D, D, bias=False)

    def forward(self, cells: Tensor, genes: Tensor) -> Tensor:
        """Return the predicted bins (B, G) of cells (B, D), not normalised, and genes (G, D)."""
        queries: Tensor = self.W(torch.sigmoid(self.gene2query(genes)))
        return cells @ queries.T
