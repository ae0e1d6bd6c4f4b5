"""The bytes of shards on a local disk, by (shard, offset).

Another place where shards may lie gives the same three methods: :mod:`sttrain.stream.pieces`.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.documents import ShardEntry
from stbuild.corpus.reader import Corpus

Places = tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]
"""Shard, offset and size in bytes of some samples, (B,) each."""


class Shards(Protocol):
    """Where the shards of a split are read."""

    def read_into(self, shard: int, offset: int, out: memoryview) -> int:
        """Fill `out` with the bytes of a shard from `offset` on; return how many there were.

        Raises
        ------
        OSError
            The shard cannot be read, ever.
        RemoteError
            It cannot be read now.
        """

    def forget(self, shard: int, offset: int, size: int) -> bool:
        """Drop copies of bytes that turned out to be wrong; whether a second read may help."""

    def where(self, shard: int) -> str:
        """Return the place of a shard, for messages."""

    def reading_ahead(self, coming: Iterable[Places]) -> AbstractContextManager[Callable[[], None]]:
        """Get what is `coming`, batch by batch, before it is asked for, as long as this lasts.

        Gives what is to be called when a batch was taken.
        """


class LocalShards:
    """Shards in the folder of their corpus.

    Parameters
    ----------
    corpus
        The corpus.
    shards
        Those of a split, in the order of the corpus's document.
    """

    def __init__(self, corpus: Corpus, shards: Sequence[ShardEntry]) -> None:
        self.paths = [str(corpus.root / shard.path) for shard in shards]

    def read_into(self, shard: int, offset: int, out: memoryview) -> int:
        """Fill `out` from a shard; return how many bytes there were."""
        # Opened for each read: no limit of open files, no state that threads would share.
        handle = os.open(self.paths[shard], os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            return os.preadv(handle, [out], offset)
        finally:
            os.close(handle)

    def forget(self, shard: int, offset: int, size: int) -> bool:
        """Do nothing: the disk is the source."""
        return False

    def where(self, shard: int) -> str:
        """Return the path of a shard."""
        return self.paths[shard]

    def reading_ahead(self, coming: Iterable[Places]) -> AbstractContextManager[Callable[[], None]]:
        """Do nothing: the system reads ahead itself."""
        return nullcontext(lambda: None)
