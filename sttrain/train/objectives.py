"""What is hidden, and which of it is predicted (Eqs. 2, 3, 4 and 8).

Patches lose sites, blocks or values. The units that are single sites (`spot`, `multispot`, `slice`)
lose values alone: a site of which nothing is shown has nothing to be predicted from. They lose as
many as a patch of the same sites would, so that at every step every objective is asked for the same
number of values, and under the kind `element` for the very same ones.

A mask is a function of (seed, epoch, step, row of the global batch) and of the patch, so it depends
on no worker and no rank. Letters: B batch, M genes, P patch side, L = P * P sites, T target sites.
Masks read True = hidden, or True = counts.
"""

import hashlib
import math
from typing import Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, model_validator
from torch import Tensor

from stbuild.corpus.documents import Document
from sttrain.model.autoencoder import Hidden, Reconstruction, Sites, gather_sites

Kind = Literal["site", "block", "element"]
KINDS: Final[tuple[Kind, ...]] = ("site", "block", "element")
_SQUARES: Final = 64
"""Squares drawn for a block mask; what they do not reach is hidden at random."""


class MaskConfig(Document):
    """What is hidden from the encoder."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    kind: Literal["site", "block", "element", "mix"] = "mix"
    """Whole sites at random, whole sites in square blocks, single values, or each in turn."""
    mix: tuple[float, float, float] = (0.4, 0.3, 0.3)
    """Shares of steps that hide sites, blocks and elements under `mix`; one kind a step, because a
    batch is as long as its longest patch."""
    site_ratio: float = Field(0.75, gt=0, lt=1)
    """Share of a patch's observed sites that is hidden by kinds `site` and `block`."""
    element_ratio: float = Field(0.3, gt=0, lt=1)
    """Share of values that is hidden by kind `element`."""
    visible_ratio: float = Field(0.0, ge=0, lt=1)
    """Share of the values of visible sites that kinds `site` and `block` hide too."""
    block_sides: tuple[int, int] = (4, 8)
    """Least and greatest side of a block, in sites."""

    @model_validator(mode="after")
    def _sensible(self) -> "MaskConfig":
        if min(self.mix) < 0 or not math.isclose(sum(self.mix), 1):
            msg = f"mix {self.mix} is not three shares that add up to 1"
            raise ValueError(msg)
        if not 1 <= self.block_sides[0] <= self.block_sides[1] <= 64:
            msg = f"block_sides {self.block_sides} is not a least and a greatest side from 1 to 64"
            raise ValueError(msg)
        return self


def keyed_generator(purpose: str, *numbers: int) -> torch.Generator:
    """Return a CPU generator for one draw, keyed by its purpose and any numbers.

    The key is SHA-256, so that neighbouring seeds, epochs and steps share nothing.
    """
    text = f"sttrain/{purpose}/v1\0" + "\0".join(map(str, numbers))
    key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    return torch.Generator().manual_seed(key >> 1)


def kind_shares(mask: MaskConfig) -> dict[Kind, float]:
    """Return the share of steps that hides each kind."""
    shares = mask.mix if mask.kind == "mix" else tuple(float(mask.kind == kind) for kind in KINDS)
    return dict(zip(KINDS, shares, strict=True))


def draw_kind(config: MaskConfig, seed: int, epoch: int, step: int) -> Kind:
    """Return what is hidden in a step: the same on every rank."""
    if config.kind != "mix":
        return config.kind
    drawn = torch.rand((), generator=keyed_generator("kind", seed, epoch, step)).item()
    if drawn < config.mix[0]:
        return "site"
    return "block" if drawn < config.mix[0] + config.mix[1] else "element"


def draw_hidden(
    config: MaskConfig,
    *,
    seed: int,
    epoch: int,
    step: int,
    rows: Tensor,
    totals: Tensor,
    genes: int,
) -> Hidden:
    """Draw the masks of a batch, on the CPU.

    At least one observed site of a patch stays visible, and at least one is hidden where there
    are two or more.

    Parameters
    ----------
    config
        What to hide.
    seed, epoch, step
        Of the run.
    rows
        (B,) row of each patch in the global batch.
    totals
        (B, P, P) library sizes, 0 = unobserved.
    genes
        Genes of a patch, M.
    """
    kind = draw_kind(config, seed, epoch, step)
    observed = totals.flatten(1) > 0
    sites = torch.zeros_like(observed)
    ratio = config.element_ratio if kind == "element" else config.visible_ratio
    elements = None
    if ratio:
        elements = torch.empty(len(observed), genes, observed.shape[1], dtype=torch.bool)
    for i, row in enumerate(rows.tolist()):
        generator = keyed_generator("mask", seed, epoch, step, row)
        if kind != "element":
            rank = _rank_sites(config, kind, observed[i], generator)
            sites[i] = _hide_first(rank, observed[i], config.site_ratio)
        if elements is not None:
            elements[i] = torch.rand(elements.shape[1:], generator=generator) < ratio
    return Hidden(sites=sites, elements=elements)


def draw_values(
    config: MaskConfig,
    *,
    seed: int,
    epoch: int,
    step: int,
    rows: Tensor,
    totals: Tensor,
    real: Tensor,
) -> Hidden:
    """Draw the masks of a batch whose samples are single sites, on the CPU.

    Where a patch would lose n sites, n times its real genes are lost here: values at random places
    of all observed sites, in exactly that number.

    Parameters
    ----------
    config
        What to hide.
    seed, epoch, step
        Of the run.
    rows
        (B,) row of each sample in the global batch.
    totals
        (B, ...) library sizes, 0 = unobserved.
    real
        (B, M) bool, whether the gene is no padding.
    """
    observed = totals.flatten(1) > 0
    keys = {"seed": seed, "epoch": epoch, "step": step}
    if draw_kind(config, seed, epoch, step) == "element":
        return draw_hidden(config, **keys, rows=rows, totals=totals, genes=real.shape[1])
    elements = torch.zeros(*real.shape, observed.shape[1], dtype=torch.bool)
    for i, row in enumerate(rows.tolist()):
        generator = keyed_generator("mask", seed, epoch, step, row)
        # In double precision no two numbers are equal, so that the count is exact.
        noise = torch.rand(elements.shape[1:], dtype=torch.float64, generator=generator)
        lost = hidden_sites(int(observed[i].sum()), config.site_ratio) * int(real[i].sum())
        if lost:
            open_ = observed[i] & real[i, :, None]
            noise = torch.where(open_, noise, math.inf)
            elements[i] = noise <= noise.flatten().kthvalue(lost).values
        if config.visible_ratio:
            more = torch.rand(elements.shape[1:], generator=generator)
            elements[i] |= more < config.visible_ratio
    return Hidden(sites=torch.zeros_like(observed), elements=elements)


def hidden_sites(n: int, ratio: float) -> int:
    """Return how many of n observed sites are hidden: at least one, and one stays."""
    return max(min(max(round(ratio * n), 1), n - 1), 0)


def count_hidden(mask: MaskConfig, kind: Kind, observed: NDArray[np.int64], genes: int) -> float:
    """Return how many values a batch asks for, on average where they are drawn.

    Parameters
    ----------
    mask, kind
        What is hidden.
    observed
        (B,) observed sites of its samples.
    genes
        Genes of a sample, all of them real.
    """
    if kind == "element":
        return float(observed.sum() * genes * mask.element_ratio)
    lost = sum(hidden_sites(n, mask.site_ratio) for n in observed.tolist())
    return float(genes * (lost + mask.visible_ratio * (int(observed.sum()) - lost)))


def _rank_sites(
    config: MaskConfig, kind: Kind, observed: Tensor, generator: torch.Generator
) -> Tensor:
    """Return a number per site (L,); sites are hidden in its ascending order."""
    noise = torch.rand(observed.shape, generator=generator)
    if kind == "site":
        return noise
    P = math.isqrt(len(observed))
    low, high = config.block_sides
    side = torch.randint(low, high + 1, (_SQUARES,), generator=generator)
    # A square may stick out of the patch, so that rim sites are hidden as often as others.
    corner = (torch.rand(_SQUARES, 2, generator=generator) * (P + side[:, None] - 1)).long()
    corner = corner - (side[:, None] - 1)
    along = torch.arange(P)
    inside = (along >= corner[..., None]) & (along < (corner + side[:, None])[..., None])
    # (squares, P, 1) and (squares, 1, P) -> (squares, L)
    covered = (inside[:, 0, :, None] & inside[:, 1, None, :]).flatten(1)
    first = torch.where(covered.any(0), covered.to(torch.uint8).argmax(0), _SQUARES)
    return first + noise


def _hide_first(rank: Tensor, observed: Tensor, ratio: float) -> Tensor:
    """Hide (L,) the share `ratio` of the observed sites, those of the lowest rank."""
    hide = hidden_sites(int(observed.sum()), ratio)
    order = torch.sort(torch.where(observed, rank, math.inf), stable=True).indices
    hidden = torch.zeros_like(observed)
    hidden[order[:hide]] = True
    return hidden


def target_mask(sites: Sites, hidden: Hidden, found: Reconstruction) -> Tensor:
    """Return (B, M, T) which predictions count: hidden values of real genes at observed sites."""
    counted = hidden.sites.gather(1, found.index)[:, None, :]  # (B, 1, T)
    if hidden.elements is not None:
        counted = counted | gather_sites(hidden.elements, found.index)
    return counted & found.valid[:, None, :] & sites.real[..., None]


def squared_errors(sites: Sites, hidden: Hidden, found: Reconstruction) -> tuple[Tensor, Tensor]:
    """Return the sum of squared errors and the number of targets of each patch.

    The loss of Eqs. 2, 3, 4 and 8 is the sum of all sums over the sum of all numbers, over the
    global batch.

    Returns
    -------
    tuple
        (B,) float32 and (B,) int64.
    """
    counted = target_mask(sites, hidden, found)
    errors = (found.values - gather_sites(sites.values, found.index)).square()
    # Not a product: whatever stands where nothing counts must not come in, not even as NaN.
    return torch.where(counted, errors, 0).sum((1, 2)), counted.sum((1, 2))
