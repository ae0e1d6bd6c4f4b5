"""A transformer layer that may prefer near sites, and the codes of places in a window.

Letters: B batch, V tokens, L sites of a window (P by P, row by row), D width, H heads.
"""

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

_PERIOD: Final = 100.0
"""Longest wavelength of the position code over 2 pi, in sites; windows have at most 64."""
FIRST_SLOPES: Final = math.log(1.5), math.log(0.05)
"""Range of the heads' first slopes: the nearest neighbours, to most of a window."""
_CLOSED: Final = -30000.0
"""Score of what may not be attended to; finite, so that no gradient is lost in bfloat16."""


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Return the attention output (B, H, V, D / H); `bias` is added to the scores (B, H, V, V).

    On a CPU in bfloat16 the fused kernel's backward pass takes four to eight times as long as
    plain products (64 tokens: 19 ms against 2; 256 tokens: 53 against 18, one core).
    """
    if q.device.type != "cpu" or q.dtype != torch.bfloat16 or not torch.is_grad_enabled():
        return scaled_dot_product_attention(q, k, v, bias.to(q.dtype))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + bias.to(q.dtype)
    return torch.softmax(scores, dim=-1, dtype=q.dtype) @ v


class Block(nn.Module):
    """A pre-norm transformer layer; with `local`, each head prefers near sites by its own slope."""

    slopes: nn.Parameter | None

    def __init__(self, width: int, heads: int, ffn: int, *, local: bool) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, ffn)
        self.down = nn.Linear(ffn, width)
        self.slopes = nn.Parameter(torch.empty(heads)) if local else None

    def forward(self, x: Tensor, keys: Tensor, apart: Tensor) -> Tensor:
        """Map (B, V, D) to (B, V, D).

        Parameters
        ----------
        x
            Tokens.
        keys
            (B, 1, 1, V) bool, which of them may be attended to.
        apart
            (B or 1, 1, V, V) distance of their sites, in sites.
        """
        B, V, D = x.shape
        bias: Tensor | float = 0.0
        if self.slopes is not None:
            bias = -apart * self.slopes.exp()[:, None, None]  # (B, H, V, V)
        bias = torch.where(keys, bias, _CLOSED)
        # (B, V, 3 D) -> (3, B, H, V, D / H)
        q, k, v = self.qkv(self.norm1(x)).view(B, V, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        # (B, H, V, D / H) -> (B, V, D)
        mixed = attend(q, k, v, bias).transpose(1, 2).reshape(B, V, D)
        x = x + self.out(mixed)
        y: Tensor = x + self.down(gelu(self.up(self.norm2(x))))
        return y


def distances(index: Tensor, L: int) -> Tensor:
    """Return the distances (B, 1, V, V) between sites `index` (B, V) of a square window."""
    P = math.isqrt(L)
    places = torch.stack([index // P, index % P], dim=-1).float()  # (B, V, 2)
    return torch.cdist(places, places)[:, None]


def position_code(L: int, D: int, device: torch.device) -> Tensor:
    """Return the (L, D) sine-cosine code of a square window: half for rows, half for columns."""
    side = torch.arange(math.isqrt(L), device=device, dtype=torch.float32)
    n = D // 4
    rates = _PERIOD ** -(torch.arange(n, device=device, dtype=torch.float32) / n)
    angles = side[:, None] * rates  # (P, D / 4)
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)  # (P, D / 2)
    P = len(side)
    rows, cols = axis[:, None].expand(P, P, -1), axis[None].expand(P, P, -1)
    # (P, P, D) -> (L, D)
    return torch.cat([rows, cols], dim=2).reshape(L, D)
