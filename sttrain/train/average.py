"""A running mean of the weights (EMA), kept beside them."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sttrain.train.sharding import is_parted, part_like


class Average:
    """The mean of a model's parameters over its steps, exponentially weighted.

    Parameters
    ----------
    model
        The model; the mean starts at its present weights.
    decay
        What is kept of the mean at each step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._weights = dict(model.named_parameters())
        self.means = {name: weight.detach().clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the present weights in."""
        # Weights that are parted over ranks and weights that are not make lists of their own.
        for parted in (False, True):
            names = [n for n, w in self._weights.items() if is_parted(w) is parted]
            means, weights = ([d[n] for n in names] for d in (self.means, self._weights))
            if names:
                torch._foreach_lerp_(means, weights, 1 - self.decay)

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put stored means in place of the present ones."""
        for name, value in self.means.items():
            value.copy_(part_like(tensors[name], value))
