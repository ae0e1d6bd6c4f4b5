"""What is asked of a model that gives spots their vectors. No torch is imported."""

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

    from stbuild.corpus.samples import WholeSlice


class SiteEncoder(Protocol):
    """A model that sees windows."""

    def encode(
        self,
        counts: "torch.Tensor",
        genes: "torch.Tensor",
        totals: "torch.Tensor",
        layer: int | None = None,
    ) -> "torch.Tensor":
        """Return (B, L, D) features of counts (B, M, P, P), genes (B, M), totals (B, P, P)."""
        ...


@runtime_checkable
class WholeEncoder(Protocol):
    """A model that sees a slice as a whole."""

    def encode_slice(self, genes: NDArray[np.int32], layer: int | None) -> NDArray[np.float32]:
        """Return (N, D) features of all its spots under a gene draw (M,)."""
        ...


@runtime_checkable
class PerSlice(Protocol):
    """A model that is made ready for each slice."""

    def for_slice(self, whole: "WholeSlice") -> SiteEncoder | WholeEncoder:
        """Return the encoder of a slice."""
        ...
