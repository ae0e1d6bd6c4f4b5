"""The masked autoencoder: site tokens through a gene table, a ViT encoder, a small decoder.

Letters: B batch, M genes of a patch, P patch side, L = P * P sites (row by row), V tokens that the
encoder is given, D width, K genes of the vocabulary, H heads. Masks read True = yes.

Three rules hold everywhere: a site with total 0 was not measured and is neither token nor target;
a gene index of -1 is padding and contributes nothing; a hidden value reaches no token.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from sttrain.errors import BadUsageError, Problem
from sttrain.model.attention import FAR
from sttrain.model.config import ModelConfig as ModelConfig  # for those who build models
from sttrain.model.layers import FIRST_SLOPES, Block, distances, position_code, take
from sttrain.model.places import Places, locate, pick, send
from sttrain.model.pretext import Pretext

TARGET_SUM = 1e4
"""Counts per site after normalisation (CP10K)."""
_SHARED: Final = frozenset({"hidden", "slopes"})
"""Weights that only sites which share a window have a use for."""


@dataclass(frozen=True, kw_only=True)
class Sites:
    """A batch of patches as the model sees it. Letters as in the module's legend."""

    values: Tensor
    """(B, M, L) float32, log1p(CP10K); 0 at unobserved sites and padding genes."""
    observed: Tensor
    """(B, L) bool, whether the site was measured."""
    genes: Tensor
    """(B, M) int64, vocabulary index, 0 in place of padding."""
    real: Tensor
    """(B, M) bool, whether the gene is no padding."""
    depth: Tensor
    """(B, L) float32, log1p of the library size; 0 at unobserved sites."""
    means: Tensor | None = None
    """(B, M) float32, means of the genes over the patch's own slice; the model's without them."""
    rows: Tensor | None = None
    """(B, M) int64, row of `table` of each gene; with it only."""
    table: Tensor | None = None
    """(U, D) float32, the rows of the gene table that are used; the model's own table without."""


def normalise(counts: Tensor, genes: Tensor, totals: Tensor) -> Sites:
    """Turn the integers of the wire into what the model sees, on their device.

    Parameters
    ----------
    counts
        (B, M, P, P) raw counts of any integer type.
    genes
        (B, M) vocabulary indices, -1 = padding.
    totals
        (B, P, P) library sizes over all genes of the source, 0 = unobserved.
    """
    observed = totals.flatten(1) > 0
    real = genes >= 0
    depth = totals.flatten(1).float()
    scale = torch.where(observed, TARGET_SUM / depth.clamp(min=1), 0)
    # (B, M, P, P) -> (B, M, L)
    values = torch.log1p(counts.flatten(2).float() * scale[:, None, :]) * real[..., None]
    return Sites(
        values=values,
        observed=observed,
        genes=genes.clamp(min=0).long(),
        real=real,
        depth=torch.log1p(depth),
    )


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """What the encoder does not get to see. Letters as in the module's legend."""

    sites: Tensor
    """(B, L) bool, sites that are hidden altogether; observed sites only."""
    elements: Tensor | None = None
    """(B, M, L) bool, single values that are hidden at the other sites."""
    places: Places | None = None
    """What follows for the sites, where it was worked out beforehand."""

    def located(self, observed: Tensor) -> "Hidden":
        """Return the same with its places, given the observed sites (B, L)."""
        return replace(self, places=locate_hidden(observed, self))

    def to(self, device: torch.device) -> "Hidden":
        """Return the same masks on a device."""
        return Hidden(
            sites=send(self.sites, device),
            elements=None if self.elements is None else send(self.elements, device),
            places=None if self.places is None else self.places.to(device),
        )


def locate_hidden(observed: Tensor, hidden: Hidden) -> Places:
    """Return the places of a batch from its observed sites (B, L) and its masks."""
    return locate(observed, hidden.sites, elements=hidden.elements is not None)


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """Predictions at the sites where something was hidden; T is the most of them in a patch."""

    values: Tensor
    """(B, M, T) float32, predicted log1p(CP10K); under a loss of counts the logarithm of the rate
    per 10,000 molecules."""
    index: Tensor
    """(B, T) int64, the site of each row."""
    valid: Tensor
    """(B, T) bool, False where a patch has fewer than T such sites."""
    dispersion: Tensor | None = None
    """(B, M) log of the size r of the negative binomial of each gene; under that loss."""


class MaskedAutoencoder(nn.Module):
    """Encoder, decoder and gene table.

    A site token is the sum over the observed genes g of (value - mean) x E[g], over the square
    root of their number, plus a position code and, optionally, the library size. The decoder's
    features come back to width D and meet the same table: the prediction for gene g is
    mean[g] + e_g . phi.

    Parameters
    ----------
    config
        Sizes.
    n_genes
        Genes of the vocabulary, K.
    generator
        Source of the initial weights; nothing else is random here.
    pretext
        What is asked of it; the weights that all kinds share start alike.
    """

    gene_mean: Tensor
    """(K,) mean log1p(CP10K) of each gene over the training corpus; 0 without `centre`."""
    depth_mean: Tensor
    """() mean log1p library size over the training corpus; 0 without `centre`."""
    log_rate: Tensor
    """(K,) log of each gene's molecules per 10,000 over the corpus; only under losses of counts."""

    def __init__(
        self,
        config: ModelConfig,
        n_genes: int,
        generator: torch.Generator,
        pretext: Pretext | None = None,
    ) -> None:
        super().__init__()
        self.config, self.pretext = config, pretext or Pretext()
        objective, loss = self.pretext.objective, self.pretext.loss
        D, E = config.width, config.decoder_width
        # Built without storage: PyTorch's own initialisation would draw from the global stream.
        with torch.device("meta"):
            self.table = nn.Parameter(torch.empty(n_genes, D))
            self.token = nn.Linear(D, D)
            self.depth = nn.Linear(1, D) if config.library_size else None
            self.blocks = nn.ModuleList(
                Block(D, config.heads, config.ffn, local=config.local) for _ in range(config.layers)
            )
            self.norm = nn.LayerNorm(D)
            self.narrow = nn.Linear(D, E)
            self.hidden = nn.Parameter(torch.empty(E))
            self.decoder = nn.ModuleList(
                Block(E, config.decoder_heads, config.decoder_ffn, local=config.local)
                for _ in range(config.decoder_layers)
            )
            self.decoder_norm = nn.LayerNorm(E)
            self.widen = nn.Linear(E, D)
            # Drawn last, so that the weights above are the same whatever is asked.
            fuse = nn.Sequential(nn.Linear(2 * D, D), nn.GELU(), nn.Linear(D, D))
            self.fuse = fuse if objective == "slice" else None
            self.dispersion = nn.Parameter(torch.empty(n_genes)) if loss == "nb" else None
        self.to_empty(device="cpu")
        self.register_buffer("gene_mean", torch.zeros(n_genes))
        self.register_buffer("depth_mean", torch.zeros(()))
        if self.pretext.counts:
            self.register_buffer("log_rate", torch.zeros(n_genes))
        # Only patches have sites of which nothing is shown, and sites that attend to others.
        for name, weight in self.named_parameters():
            weight.requires_grad_(objective == "patch" or name.rpartition(".")[2] not in _SHARED)
        self._draw_weights(generator)

    def _draw_weights(self, generator: torch.Generator) -> None:
        with torch.no_grad():
            for name, weight in self.named_parameters():
                if name in {"table", "hidden"}:
                    weight.normal_(0, 1 if name == "table" else 0.02, generator=generator)
                elif name.endswith("slopes"):
                    weight.copy_(torch.linspace(*FIRST_SLOPES, len(weight)))
                elif weight.ndim == 2:
                    # Xavier's uniform bound, as in the masked autoencoder for images.
                    bound = math.sqrt(6 / sum(weight.shape))
                    weight.uniform_(-bound, bound, generator=generator)
                else:
                    weight.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
            self.token.weight.mul_(self.config.token_scale)
            # Predictions start at the gene means instead of at noise.
            self.widen.weight.mul_(0.1)

    @torch.no_grad()
    def set_statistics(
        self, gene_mean: Tensor, depth_mean: float, log_rate: Tensor | None = None
    ) -> None:
        """Set the means over the training corpus: (K,) log1p(CP10K), and log1p library size.

        Losses of counts also need (K,) the log of each gene's molecules per 10,000.
        """
        if self.pretext.counts and log_rate is not None:
            self.log_rate.copy_(log_rate)
        if not self.config.centre:
            return
        self.gene_mean.copy_(gene_mean)
        self.depth_mean.fill_(depth_mean)

    def centres(self, sites: Sites) -> Tensor:
        """Return (B, M) the mean of each gene that its values are differences from."""
        if self.config.centre_by == "corpus":
            return self.gene_mean[sites.genes]
        if sites.means is None:
            raise _no_means()
        return sites.means

    def vectors(self, sites: Sites) -> Tensor:
        """Return the table's rows (B, M, D) of the genes of each patch."""
        if sites.table is None or sites.rows is None:
            found = embedding(sites.genes, self.table)
        else:
            found = embedding(sites.rows, sites.table)
        kind = found.device.type
        # Once for all products: autocast would cast them anew for each.
        return (
            found.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else found
        )

    def tokens(
        self, sites: Sites, index: Tensor, elements: Tensor | None, vectors: Tensor | None = None
    ) -> Tensor:
        """Return the (B, V, D) tokens of the sites at `index` (B, V), without hidden elements."""
        shown = sites.real[..., None].expand(-1, -1, index.shape[1])
        if elements is not None:
            shown = shown & ~gather_sites(elements, index)
        values = gather_sites(sites.values, index) - self.centres(sites)[..., None]
        scale = shown.sum(1).clamp(min=1).rsqrt()[..., None]  # (B, V, 1)
        # (B, M, V) -> (B, V, M), then times (B, M, D) -> (B, V, D)
        mixed = torch.bmm(
            torch.where(shown, values, 0).transpose(1, 2),
            self.vectors(sites) if vectors is None else vectors,
        )
        x: Tensor = self.token(mixed * scale)
        if self.depth is not None:
            x = x + self.depth((sites.depth - self.depth_mean).gather(1, index)[..., None])
        return x

    def forward(
        self, sites: Sites, hidden: Hidden, domains: Tensor | None = None
    ) -> Reconstruction:
        """Predict the hidden values from the others; other units than patches in their own way.

        Hidden sites are dropped before the encoder, which makes a high share of them cheap; the
        decoder sees a learnt token in their place. Unobserved sites are dropped from both.

        Parameters
        ----------
        sites
            A batch.
        hidden
            Which of its values are to be predicted.
        domains
            (B, L) int64 macro-domain of every site; for models of whole slices.
        """
        if self.pretext.objective != "patch":
            from sttrain.model.contexts import reconstruct  # it needs this module

            return reconstruct(self, sites, hidden, domains)
        places = hidden.places or locate_hidden(sites.observed, hidden)
        vectors = self.vectors(sites)
        x = self._encode(sites, places.visible, places.shown, hidden.elements, vectors)[-1]
        y = self._decode(self.norm(x), places, sites.observed.shape[1])
        phi = self.widen(self.decoder_norm(y))  # (B, T, D)
        return self.predict(sites, phi, places.targets, places.valid, vectors)

    def predict(
        self,
        sites: Sites,
        phi: Tensor,
        rows: Tensor,
        valid: Tensor,
        vectors: Tensor | None = None,
    ) -> Reconstruction:
        """Return what features (B, T, D) of the sites `rows` (B, T) say of every gene."""
        vectors = self.vectors(sites) if vectors is None else vectors
        phi = phi / math.sqrt(self.config.width)
        # (B, M, D) x (B, D, T) -> (B, M, T)
        values = torch.bmm(vectors.to(phi.dtype), phi.transpose(1, 2)).float()
        base = self.log_rate[sites.genes] if self.pretext.counts else self.centres(sites)
        values = values + base[..., None]
        spread = None if self.dispersion is None else self.dispersion[sites.genes]
        return Reconstruction(values=values, index=rows, valid=valid, dispersion=spread)

    def _decode(self, x: Tensor, places: Places, L: int) -> Tensor:
        """Return the decoder's state (B, T, E) at the targets, from the visible sites (B, V, D)."""
        E = self.config.decoder_width
        narrow = torch.where(places.shown[..., None], self.narrow(x), self.hidden.to(x.dtype))
        # (B, V, E) -> (B, L, E), with the hidden token wherever nothing was encoded
        y = self.hidden.to(narrow.dtype).expand(len(x), L, E)
        y = y.scatter(1, places.visible[..., None].expand(-1, -1, E), narrow)
        # (B, L, E) -> (B, O, E)
        y = take(y + position_code(L, E, y.device), places.observed)
        apart = self._reach(places.observed, places.there, L)
        *blocks, last = self.decoder
        for block in blocks:
            y = block(y, None, apart)
        found: Tensor = last(y, None, apart, places.seats)
        return found

    def _reach(self, index: Tensor, keys: Tensor, L: int) -> Tensor:
        """Return how far (B, 1, V, V) sites `index` (B, V) are for attention; keys (B, V) open."""
        near = distances(index, L) if self.config.local else index.new_zeros(1, 1, 1, 1).float()
        V = index.shape[1]
        return torch.where(keys[:, None, None, :], near, FAR).expand(-1, -1, V, -1)

    def encode(
        self,
        counts: Tensor,
        genes: Tensor,
        totals: Tensor,
        layer: int | None = None,
        means: Tensor | None = None,
    ) -> Tensor:
        """Return the features of every site of patches, with nothing hidden.

        Models of single spots encode each alone, those of `multispot` return means of neighbours
        within the patch; those of whole slices are used by :mod:`sttrain.embed.encoders`.

        Parameters
        ----------
        counts
            (B, M, P, P) raw counts.
        genes
            (B, M) vocabulary indices, -1 = padding.
        totals
            (B, P, P) library sizes, 0 = unobserved.
        layer
            Features after this many transformer layers, 0 = the bare site tokens; without it the
            encoder's normalised output.
        means
            (B, M) means of the genes over each patch's slice, where the model centres by slice.

        Returns
        -------
        torch.Tensor
            (B, P * P, D) float32, sites row by row; 0 at unobserved sites.

        Raises
        ------
        BadUsageError
            The model centres by slice and has no means, or is one of whole slices.
        """
        sites = replace(normalise(counts, genes, totals), means=means)
        if self.pretext.objective != "patch":
            from sttrain.model.contexts import encode_sites  # it needs this module

            return encode_sites(self, sites, layer)
        index, valid = pick(sites.observed)
        states = self._encode(sites, index, valid, None, self.vectors(sites))
        x = (self.norm(states[-1]) if layer is None else states[layer]).float()
        out = x.new_zeros(*sites.observed.shape, x.shape[2])
        x = torch.where(valid[..., None], x, 0)
        return out.scatter(1, index[..., None].expand_as(x), x)

    def _encode(
        self, sites: Sites, index: Tensor, valid: Tensor, elements: Tensor | None, vectors: Tensor
    ) -> list[Tensor]:
        """Return the (B, V, D) state before the first and after every layer."""
        L = sites.observed.shape[1]
        x = self.tokens(sites, index, elements, vectors)
        if self.config.position:
            x = x + position_code(L, self.config.width, index.device)[index]
        # A patch that shows nothing attends to one padding token, so that no softmax is empty.
        first = torch.arange(index.shape[1], device=index.device) == 0
        keys = valid | (first & ~valid.any(1, keepdim=True))
        states, apart = [x], self._reach(index, keys, L)
        for block in self.blocks:
            states.append(block(states[-1], None, apart))
        return states


def _no_means() -> BadUsageError:
    what = "it centres values by slice, and was given no means of the slices"
    fix = "give encode(..., means=...), or embed an evaluation corpus with `sttrain embed`"
    return BadUsageError(Problem(code="B111", subject="model", what=what, fix=fix))


def gather_sites(values: Tensor, index: Tensor) -> Tensor:
    """Return the columns (B, M, V) of `values` (B, M, L) at the sites `index` (B, V)."""
    return values.gather(2, index[:, None, :].expand(-1, values.shape[1], -1))
