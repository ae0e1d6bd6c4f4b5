"""The forward pass as compiled code: one graph without breaks, for batches of any length.

What varies from step to step are the lengths of a batch (patches, visible, observed and target
sites, genes); they are marked, so that code is compiled once for each kind of mask and not for
each length. (Where two lengths of the first batch happen to be equal, the compiler takes them for
one, and compiles once more.)
"""

import torch
from torch import Tensor

from sttrain.model.autoencoder import Hidden, MaskedAutoencoder, Sites


def compile_model(model: MaskedAutoencoder, *, layers: bool, backend: str = "inductor") -> None:
    """Compile the forward pass of a model, in place; nothing is compiled before it is called.

    Parameters
    ----------
    model
        The model; the names of its weights stay.
    layers
        Layer by layer instead of as a whole: where every layer gathers its weights before it runs.
    backend
        Of :func:`torch.compile`; others than the default help to find what breaks.
    """
    for module in (*model.blocks, *model.decoder) if layers else (model,):
        module.compile(fullgraph=True, backend=backend)


def loosen(sites: Sites, hidden: Hidden) -> None:
    """Mark the lengths of a batch that the next one need not share."""
    _mark(0, sites.values, sites.observed, sites.genes, sites.real, sites.depth, sites.rows)
    _mark(0, sites.table, hidden.sites, hidden.elements)
    places = hidden.places
    if places is not None:
        tensors = places.visible, places.shown, places.observed, places.there
        for tensor in (*tensors, places.targets, places.valid, places.seats):
            _mark(0, tensor)
            _mark(1, tensor)


def _mark(dim: int, *tensors: Tensor | None) -> None:
    for tensor in tensors:
        if tensor is not None:
            torch._dynamo.maybe_mark_dynamic(tensor, dim)
