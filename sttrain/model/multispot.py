"""Weights of the nearest neighbours of a site within its window (alpha of Eq. 3).

Distances are those of grid cells, as in the model's own attention. On a lattice many sites are
equally far: those that tie for the last places share them, so that no direction is favoured and the
weights turn with the window. Letters: B batch, V tokens, L sites of a window.
"""

import math

import torch
from torch import Tensor

from sttrain.model.pretext import ContextConfig


def neighbour_weights(index: Tensor, shown: Tensor, L: int, config: ContextConfig) -> Tensor:
    """Return the weights (B, V, V) float32 of sites (last axis) for each site.

    Each row adds up to 1; it is 0 altogether for a site without a neighbour. A site is no neighbour
    of itself.

    Parameters
    ----------
    index
        (B, V) places of the sites in the window, row by row.
    shown
        (B, V) bool, which of them may be neighbours.
    L
        Sites of the window.
    config
        How many neighbours, and how they are weighted.
    """
    P, V = math.isqrt(L), index.shape[1]
    places = torch.stack([index // P, index % P], dim=-1)
    # (B, V, 1, 2) - (B, 1, V, 2) -> (B, V, V), whole numbers: equal distances are equal
    exact = (places[:, :, None] - places[:, None]).square().sum(-1).float()
    usable = shown[:, None, :] & ~torch.eye(V, dtype=torch.bool, device=index.device)
    squared = torch.where(usable, exact, torch.inf)
    k = min(config.neighbours, V)
    last = squared.kthvalue(k, dim=2, keepdim=True).values  # (B, V, 1)
    closer, tied = squared < last, (squared == last) & usable
    left = (k - closer.sum(2, keepdim=True)).float()
    weights = closer + tied * (left / tied.sum(2, keepdim=True).clamp(min=1))
    if config.weights == "softmax":
        nearest = squared.amin(2, keepdim=True).sqrt().nan_to_num(posinf=0.0)
        weights = weights * torch.exp((nearest - exact.sqrt()) / config.tau)
    return weights / weights.sum(2, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
