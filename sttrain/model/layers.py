"""A transformer layer that may prefer near sites, and the codes of places in a window.

Letters: B batch, V tokens, T wanted tokens, L sites of a window (P by P, row by row), D width,
H heads.
"""

import math
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from sttrain.model.attention import FAR, attend

_PERIOD: Final = 100.0
"""Longest wavelength of the position code over 2 pi, in sites; windows have at most 64."""
FIRST_SLOPES: Final = math.log(1.5), math.log(0.05)
"""Range of the heads' first slopes: the nearest neighbours, to most of a window."""


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

    def forward(
        self, x: Tensor, keys: Tensor | None, apart: Tensor, seats: Tensor | None = None
    ) -> Tensor:
        """Map (B, V, D) to (B, V, D), or to (B, T, D) where only some outputs are wanted.

        Parameters
        ----------
        x
            Tokens.
        keys
            (B or 1, 1, 1, V) bool, which of them may be attended to; None where `apart` says so.
        apart
            (B or 1, 1, V, V) distance of their sites, in sites; :data:`.attention.FAR` where a
            token may not be attended to. Without `local` near is 0.
        seats
            (B, T) int64, the tokens whose output is wanted; None for all of them.
        """
        apart = (apart if keys is None else torch.where(keys, apart, FAR))[:, 0]
        B, V, D = x.shape
        fall = None if self.slopes is None else self.slopes.exp()
        normed, weight, bias = self.norm1(x), self.qkv.weight, self.qkv.bias
        if V == 1:  # all attention goes to the only token, whatever the slopes
            mixed = linear(normed, weight[2 * D :], bias[2 * D :])
            mixed = mixed if fall is None else mixed + 0 * fall.sum()  # DDP wants a gradient of all
        elif seats is None:
            q, k, v = self.qkv(normed).view(B, V, 3, self.heads, -1).unbind(2)
            mixed = attend(q, k, v, fall, apart)
        else:
            q = linear(take(normed, seats), weight[:D], bias[:D])
            k, v = linear(normed, weight[D:], bias[D:]).view(B, V, 2, self.heads, -1).unbind(2)
            apart = take(apart.expand(B, -1, -1), seats)
            mixed = attend(q.view(B, -1, *k.shape[2:]), k, v, fall, apart)
        x = (x if seats is None or V == 1 else take(x, seats)) + self.out(mixed)
        y: Tensor = x + self.down(gelu(self.up(self.norm2(x))))
        return y


def take(values: Tensor, index: Tensor) -> Tensor:
    """Return the rows (B, T, X) of `values` (B, V, X) at `index` (B, T)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))


def distances(index: Tensor, L: int) -> Tensor:
    """Return the distances (B, 1, V, V) between sites `index` (B, V) of a square window."""
    P = math.isqrt(L)
    rows, cols = index // P, index % P
    # Whole numbers up to their root: the same on every device.
    square = (rows[:, :, None] - rows[:, None]) ** 2 + (cols[:, :, None] - cols[:, None]) ** 2
    return square.float().sqrt()[:, None]


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
