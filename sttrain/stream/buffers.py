"""Memory of batches, used again when nobody looks at it any more.

A new batch of 64 patches is 16 MB of fresh pages, which the system clears and maps one by one:
measured 15 of 240 us a patch. Whether memory is free is told by its reference count: arrays and
tensors that share it hold a reference, so a batch that somebody keeps is never written over.
"""

import sys
from collections.abc import Sequence
from math import prod
from threading import Lock
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray


def _references(held: list[NDArray[np.uint8]], at: int) -> int:
    return sys.getrefcount(held[at])


_UNUSED: Final = _references([np.empty(1, np.uint8)], 0)
"""References to a buffer that only a list holds, as this interpreter counts them."""


class Buffers:
    """A few pieces of memory that arrays are cut from.

    Parameters
    ----------
    most
        Pieces that are kept; arrays beyond those are made as usual and forgotten.
    """

    def __init__(self, most: int = 32) -> None:
        self.most = most
        self._held: list[NDArray[np.uint8]] = []
        self._lock = Lock()

    def take(self, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        """Return an array of that shape and type; what it holds is left over from others."""
        kind = np.dtype(dtype)
        size = prod(shape) * kind.itemsize
        with self._lock:
            buffer = self._find(size)
            if buffer is None:
                buffer = np.empty(size, np.uint8)
                self._keep(buffer)
            # Taken under the lock: from here on the view holds a reference to the buffer.
            return buffer[:size].view(kind).reshape(shape)

    def _find(self, size: int) -> NDArray[np.uint8] | None:
        """Return an unused buffer of that size, or up to twice as large."""
        for at in range(len(self._held)):
            if size <= self._held[at].nbytes <= 2 * size and _references(self._held, at) == _UNUSED:
                return self._held[at]
        return None

    def _keep(self, fresh: NDArray[np.uint8]) -> None:
        if len(self._held) >= self.most:
            unused = (i for i in range(len(self._held)) if _references(self._held, i) == _UNUSED)
            oldest = next(unused, None)
            if oldest is None:
                return
            del self._held[oldest]
        self._held.append(fresh)
