"""What a peer is asked for, and the data that all of them are given.

A peer is a module of this folder with ``PACKAGES`` (what it runs on), ``WHAT`` (how it is driven)
and ``open_peer(data, work, variant) -> Peer``, which may first write the data in the peer's own
format. It runs in the peers' environment, so that only NumPy is imported here.

Letters: N patches, B patches of a batch, M genes, P sites of a side.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BATCH = 32
_TARGET_SUM = 1e4


@dataclass(frozen=True, kw_only=True)
class Data:
    """The patches of a corpus, and the slices that they were cropped from."""

    root: Path
    """Holds ``slice-0000.h5ad`` ... (X: CSR counts over the vocabulary; obs: row, col, total)."""
    counts: NDArray[np.uint16]
    """(N, M, P, P) raw counts."""
    genes: NDArray[np.int32]
    """(N, M) vocabulary indices."""
    totals: NDArray[np.uint32]
    """(N, P, P) library sizes, 0 = not observed."""
    places: NDArray[np.int32]
    """(N, 3) slice, row and column of the window's first site."""

    @property
    def slices(self) -> list[Path]:
        """The slices, by their number."""
        return sorted(self.root.glob("slice-*.h5ad"))

    def values(self, start: int, stop: int) -> NDArray[np.float32]:
        """Return log1p(CP10K) of some patches, (B, M, P, P) float32."""
        return log1p_cp10k(self.counts[start:stop], self.totals[start:stop, None])


def log1p_cp10k(counts: NDArray[Any], totals: NDArray[Any]) -> NDArray[np.float32]:
    """Return log1p(10^4 count / library size); `totals` are broadcast over the counts."""
    scale = (_TARGET_SUM / np.maximum(totals, 1)).astype(np.float32)
    found: NDArray[np.float32] = np.log1p(counts * scale)
    return found


def read_data(root: Path) -> Data:
    """Map what :func:`tests.benchmarks.exchange.write_exchange` wrote."""
    arrays = {
        name: np.lib.format.open_memmap(root / f"{name}.npy", mode="r")
        for name in ("counts", "genes", "totals", "places")
    }
    return Data(root=root, **arrays)


@dataclass(frozen=True, kw_only=True)
class Peer:
    """Two ways to go through one epoch, batch by batch; a batch may be site-major or gene-major."""

    integers: Callable[[], Iterator[Any]]
    """Yields counts as integers, (B, M, P, P), or (B, P, P, M) where `site_major`."""
    floats: Callable[[], Iterator[Any]]
    """Yields float32 log1p(CP10K) of the same shape."""
    stored: Mapping[str, Path | Sequence[Path]]
    """Files or folders that each way reads, by its name."""
    site_major: bool = False
    close: Callable[[], None] = lambda: None
