"""Sites encoded one by one, and what they then learn of others (Eqs. 2, 3 and 4).

The same tokens, layers, gene table and decoder as those of patches: only what a site knows of
others differs. Under `spot` that is nothing, under `multispot` a mean over its nearest
neighbours, under `slice` a mean over its macro-domain.

Letters: B batch, M genes, L sites, V tokens (observed sites), D width, C macro-domains.
Masks read True = yes.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from sttrain.errors import BadUsageError, Problem
from sttrain.model.autoencoder import (
    Hidden,
    MaskedAutoencoder,
    Reconstruction,
    Sites,
    locate_hidden,
)
from sttrain.model.layers import position_code
from sttrain.model.multispot import neighbour_weights
from sttrain.model.places import pick


def reconstruct(
    model: MaskedAutoencoder, sites: Sites, hidden: Hidden, domains: Tensor | None = None
) -> Reconstruction:
    """Predict hidden values where sites are encoded one by one; what the model's `forward` does.

    A hidden value reaches no token under any of them, and a site that is hidden altogether is
    nobody's context, not even its own.

    Parameters
    ----------
    model
        The model.
    sites
        A batch.
    hidden
        Which of its values are to be predicted.
    domains
        (B, L) int64 macro-domain of every site; for `slice`.

    Returns
    -------
    Reconstruction
        At all observed sites.
    """
    places = hidden.places or locate_hidden(sites.observed, hidden)
    index, valid = places.observed, places.there
    shown, elements = _without(model, sites, hidden)
    open_ = valid & ~hidden.sites.gather(1, index)
    x = model.norm(encode_alone(model, shown, index, elements)[-1])
    x = add_context(model, x, index, open_, sites.observed.shape[1], domains)
    return model.predict(sites, decode_alone(model, x), index, valid)


def encode_sites(
    model: MaskedAutoencoder,
    sites: Sites,
    layer: int | None = None,
    domains: Tensor | None = None,
    *,
    fused: bool = True,
) -> Tensor:
    """Return the features of every site for use: what the decoder is given, with nothing hidden.

    Parameters
    ----------
    model
        A model of single sites; patches have :meth:`MaskedAutoencoder.encode`.
    sites
        A batch.
    layer
        The same after this many layers, 0 = the bare tokens; the encoder's normalised output
        without it. Neighbours are averaged at any layer, macro-domains fused at the output alone.
    domains
        (B, L) int64 macro-domain of every site; for `slice`.
    fused
        Whether sites learn of others; alone they are what others would learn of them.

    Returns
    -------
    torch.Tensor
        (B, L, D) float32; 0 at unobserved sites.
    """
    index, valid = pick(sites.observed)
    states = encode_alone(model, sites, index, None)
    x = model.norm(states[-1]) if layer is None else states[layer]
    if fused and (layer is None or model.pretext.objective == "multispot"):
        x = add_context(model, x, index, valid, sites.observed.shape[1], domains)
    x = torch.where(valid[..., None], x.float(), 0)
    out = x.new_zeros(*sites.observed.shape, x.shape[2])
    return out.scatter(1, index[..., None].expand_as(x), x)


def encode_alone(
    model: MaskedAutoencoder, sites: Sites, index: Tensor, elements: Tensor | None
) -> list[Tensor]:
    """Return the (B, V, D) state before the first and after every layer, each site by itself.

    Every site is a window of one site: attention finds nothing but the site.
    """
    x = model.tokens(sites, index, elements)
    B, V, D = x.shape
    if model.config.position:
        x = x + position_code(1, D, x.device)
    # (B, V, D) -> (B * V, 1, D), and back
    return [state.view(B, V, D) for state in _run(model.blocks, x.reshape(B * V, 1, D))]


def decode_alone(model: MaskedAutoencoder, x: Tensor) -> Tensor:
    """Return the decoder's features (B, V, D) of embeddings (B, V, D), each by itself."""
    B, V, D = x.shape
    E = model.config.decoder_width
    # (B, V, E) -> (B * V, 1, E)
    y = model.narrow(x).view(B * V, 1, E) + position_code(1, E, x.device)
    y = _run(model.decoder, y)[-1]
    phi: Tensor = model.widen(model.decoder_norm(y))
    return phi.view(B, V, D)


def _run(blocks: torch.nn.ModuleList, x: Tensor) -> list[Tensor]:
    """Return the states (B * V, 1, D) before the first and after every layer."""
    apart = x.new_zeros(1, 1, 1, 1)
    states = [x]
    for block in blocks:
        states.append(block(states[-1], None, apart))
    return states


def add_context(
    model: MaskedAutoencoder,
    x: Tensor,
    index: Tensor,
    shown: Tensor,
    L: int,
    domains: Tensor | None,
) -> Tensor:
    """Return the (B, V, D) embeddings that predictions are made from.

    Parameters
    ----------
    model
        The model.
    x
        (B, V, D) sites encoded alone.
    index
        (B, V) their places in the window or slice.
    shown
        (B, V) which of them others may know of.
    L
        Sites of a window.
    domains
        (B, L) int64 macro-domain of every site; for `slice`.

    Raises
    ------
    BadUsageError
        A model of whole slices without macro-domains.
    """
    pretext = model.pretext
    if pretext.objective == "spot":
        return x
    if pretext.objective == "multispot":
        weights = neighbour_weights(index, shown, L, pretext.context)
        return torch.bmm(weights.to(x.dtype), x)
    if domains is None or model.fuse is None:
        what = "it was trained on whole slices; the macro-domains of the sites are not known here"
        fix = "embed an evaluation corpus with `sttrain embed`, which holds whole slices"
        raise BadUsageError(Problem(code="B111", subject="model", what=what, fix=fix))
    around = domain_means(x, domains.gather(1, index), shown, pretext.context.domains)
    fused: Tensor = model.fuse(torch.cat([x, around.to(x.dtype)], dim=2))
    return fused


def domain_means(x: Tensor, domains: Tensor, shown: Tensor, n_domains: int) -> Tensor:
    """Return (B, V, D) for each site the mean of `x` over the sites of its macro-domain.

    Parameters
    ----------
    x
        (B, V, D) embeddings.
    domains
        (B, V) int64 macro-domain of each.
    shown
        (B, V) which of them count; a domain of none has the mean 0.
    n_domains
        Macro-domains, C.
    """
    member = (one_hot(domains, n_domains) * shown[..., None]).to(x.dtype)  # (B, V, C)
    number = member.sum(1).clamp(min=1)[..., None]  # (B, C, 1)
    means = torch.bmm(member.transpose(1, 2), x) / number  # (B, C, D)
    return means.gather(1, domains[..., None].expand(-1, -1, x.shape[2]))


def _without(model: MaskedAutoencoder, sites: Sites, hidden: Hidden) -> tuple[Sites, Tensor]:
    """Hide sites altogether: all their values, and their library size."""
    elements = hidden.sites[:, None, :].expand(-1, sites.genes.shape[1], -1)
    if hidden.elements is not None:
        elements = elements | hidden.elements
    depth = torch.where(hidden.sites, model.depth_mean, sites.depth)
    return replace(sites, depth=depth), elements
