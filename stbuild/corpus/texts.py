"""Columns of texts without a Python object for each: packed bytes, or codes of few words.

Ten million keys are 1 GB as Python strings and 0.3 GB packed; packed ones may also lie in a file
that is mapped into memory.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class PackedTexts(Sequence[str]):
    """Texts as UTF-8, one behind the other. S texts."""

    starts: NDArray[np.int64]
    """(S + 1,) first byte of each text; the last number is the number of all bytes."""
    data: NDArray[np.uint8]
    """All bytes."""

    @classmethod
    def of(cls, texts: Iterable[str]) -> "PackedTexts":
        """Pack texts."""
        raw = [text.encode() for text in texts]
        starts = np.zeros(len(raw) + 1, np.int64)
        np.cumsum([len(text) for text in raw], out=starts[1:])
        return cls(starts, np.frombuffer(b"".join(raw), np.uint8))

    def __len__(self) -> int:
        return len(self.starts) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        """Return a text, or a list of texts."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return self.raw(index).decode()

    def raw(self, index: int) -> bytes:
        """Return a text as UTF-8.

        Raises
        ------
        IndexError
            There is no such text.
        """
        n = len(self)
        if not -n <= index < n:
            msg = f"text {index} of {n}"
            raise IndexError(msg)
        at = index % n
        return self.data[self.starts[at] : self.starts[at + 1]].tobytes()


@dataclass(frozen=True, eq=False)
class CodedTexts(Sequence[str]):
    """Texts of which many are alike. S texts."""

    codes: NDArray[np.int32]
    """(S,) position of each text among the words."""
    words: tuple[str, ...]
    """The different texts."""

    @classmethod
    def of(cls, texts: Iterable[str]) -> "CodedTexts":
        """Code texts; words come in the order in which they are met."""
        words: dict[str, int] = {}
        codes = [words.setdefault(text, len(words)) for text in texts]
        return cls(np.array(codes, np.int32), tuple(words))

    def __len__(self) -> int:
        return len(self.codes)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        """Return a text, or a list of texts."""
        if isinstance(index, slice):
            return [self.words[code] for code in self.codes[index].tolist()]
        return self.words[int(self.codes[index])]
