"""log1p(CP10K) of a batch on the CPU, for training loops that are not ours.

Our own loop hands integers to its device and normalises there
(:func:`sttrain.model.autoencoder.normalise`); this is the same function of the same integers, in
NumPy and in reused memory.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sttrain.stream.buffers import Buffers

_TARGET_SUM: Final = np.float32(1e4)


def normalise_counts(
    counts: NDArray[Any],
    genes: NDArray[np.int32],
    totals: NDArray[np.uint32],
    buffers: Buffers | None = None,
) -> NDArray[np.float32]:
    """Return log1p(10^4 count / library size) of a batch.

    Worked out patch by patch, while it is in the cache, as log(1 + x): four times as fast as log1p
    here, and within 6e-8 of it in absolute terms.

    Parameters
    ----------
    counts
        (B, M, P, P) raw counts.
    genes
        (B, M) vocabulary indices, -1 = padding.
    totals
        (B, P, P) library sizes, 0 = not observed.
    buffers
        Memory to use again, such as that of the source; without it the array is new.

    Returns
    -------
    numpy.ndarray
        (B, M, P, P) float32; 0 at unobserved sites and in padding.
    """
    shape = counts.shape
    values: NDArray[np.float32]
    values = np.empty(shape, np.float32) if buffers is None else buffers.take(shape, np.float32)
    scale = np.where(totals > 0, _TARGET_SUM / np.maximum(totals, 1).astype(np.float32), 0)
    for one, patch, factor in zip(values, counts, scale.astype(np.float32), strict=True):
        np.copyto(one, patch, casting="unsafe")  # integers of 16 or 32 bits
        np.multiply(one, factor, out=one)
        np.add(one, np.float32(1), out=one)
        np.log(one, out=one)
    if bool((genes < 0).any()):
        values[genes < 0] = 0
    return values
