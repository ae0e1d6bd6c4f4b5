"""How models of the different objectives give a spot of a whole slice its vector.

- `patch`: the window's encoder, as trained, with nothing hidden;
- `spot`: each site alone, so that all windows that show it agree under one gene draw;
- `multispot`: the mean of the encoded neighbours within the window, the site itself left out;
- `slice`: the spot and the mean of its macro-domain over the whole slice, fused; no window is used.

Always what the decoder is given. Where values are centred by slice, the means are the slice's own,
over all its spots; no label is looked at. Letters: N spots, M genes of a draw, D width.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stbuild.corpus.samples import WholeSlice
from sttrain.model.autoencoder import MaskedAutoencoder, normalise
from sttrain.model.contexts import add_context, encode_sites
from sttrain.train.centring import whole_means
from sttrain.train.domains import find_domains
from sttrain.train.slice_source import dense_counts

_CHUNK: Final = 1024
"""Spots that are encoded together; it changes no result beyond rounding."""


@dataclass(frozen=True, kw_only=True)
class ModelEncoder:
    """A model on its device, ready for the slices of an evaluation corpus."""

    model: MaskedAutoencoder
    seed: int
    """Of the run; for the macro-domains."""
    rows: NDArray[np.int32]
    """Row in the model's gene table of each gene of the corpus's vocabulary."""

    def for_slice(self, whole: WholeSlice) -> "WindowEncoder | DomainEncoder":
        """Return the encoder of one slice: of its windows, or of the whole of it."""
        kind = DomainEncoder if self.model.pretext.objective == "slice" else WindowEncoder
        return kind(model=self.model, seed=self.seed, rows=self.rows, whole=whole)


@dataclass(frozen=True, kw_only=True)
class _OfSlice:
    """A model as it sees one slice."""

    model: MaskedAutoencoder
    seed: int
    rows: NDArray[np.int32]
    whole: WholeSlice

    @cached_property
    def means(self) -> NDArray[np.float32]:
        """The slice's own means, of every gene of the corpus's vocabulary."""
        return whole_means(self.whole, len(self.rows))

    def number_genes(self, genes: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the model's numbers (B, M) of the corpus's genes, and means if it needs them."""
        real, at = genes >= 0, genes.clamp(min=0).long()
        rows = torch.from_numpy(self.rows).to(genes.device)
        numbers = torch.where(real, rows[at], -1)
        if self.model.config.centre_by == "corpus":
            return numbers, None
        return numbers, torch.where(real, torch.from_numpy(self.means).to(genes.device)[at], 0)


class WindowEncoder(_OfSlice):
    """Features of the sites of windows."""

    def encode(
        self, counts: Tensor, genes: Tensor, totals: Tensor, layer: int | None = None
    ) -> Tensor:
        """Return (B, L, D) features of patches of the slice.

        Parameters
        ----------
        counts, totals, layer
            As of :meth:`MaskedAutoencoder.encode`.
        genes
            (B, M) genes as the corpus numbers them, -1 = padding.
        """
        numbers, means = self.number_genes(genes)
        return self.model.encode(counts, numbers, totals, layer, means)


class DomainEncoder(_OfSlice):
    """Features of all spots of the slice at once."""

    @torch.inference_mode()
    def encode_slice(self, genes: NDArray[np.int32], layer: int | None) -> NDArray[np.float32]:
        """Return (N, D) features of all spots, for a model of whole slices.

        Parameters
        ----------
        genes
            (M,) genes of a draw as the corpus numbers them, -1 = padding.
        layer
            Features of the spots alone after so many layers; spot and domain fused without it.
        """
        model, device = self.model, self.model.table.device
        numbers, means = self.number_genes(torch.tensor(genes)[None].to(device))
        counts: NDArray[Any] = dense_counts(self.whole, genes).astype(np.int64)
        totals = self.whole.totals.astype(np.int64)
        alone = []
        for first in range(0, len(totals), _CHUNK):
            part = slice(first, first + _CHUNK)
            shown = torch.from_numpy(counts[None, :, part]), torch.from_numpy(totals[None, part])
            sites = normalise(shown[0].to(device), numbers, shown[1].to(device))
            alone.append(encode_sites(model, replace(sites, means=means), layer, fused=False))
        x = torch.cat(alone, dim=1)  # (1, N, D)
        if layer is None:
            index = torch.arange(len(totals), device=device)[None]
            found = find_domains(self.whole, model.pretext.context, self.seed)
            domains = torch.from_numpy(found)[None].to(device)
            x = add_context(model, x, index, torch.ones_like(index).bool(), len(totals), domains)
        return np.asarray(x[0].float().cpu().numpy(), np.float32)
