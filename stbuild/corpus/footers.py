"""What a Parquet file claims of itself in its footer, read without pyarrow's own metadata.

On a footer that contradicts itself, `pyarrow.parquet.RowGroupMetaData.column` does not raise but
aborts the interpreter (pyarrow 26, found by fuzzing). So the numbers that decide whether a table is
read at all are read here: the compact protocol of Thrift, as far as footers need it.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, Final

_MAGIC: Final = b"PAR1"
_DEEPEST: Final = 16
_STOP, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = (
    0, 1, 2, 3, 7, 8, 9, 10, 11, 12,
)  # fmt: skip
_NUMBERS: Final = (4, 5, 6)
_LONGEST_NUMBER: Final = 10
"""Bytes of a 64-bit number."""


@dataclass(frozen=True, kw_only=True)
class RowGroup:
    """What a file claims of one group of rows."""

    n_rows: int
    n_bytes: int
    values: dict[str, int]
    """Values by column; a column of lists has those of all lists."""


@dataclass(frozen=True, kw_only=True)
class Footer:
    """What a file claims of itself."""

    n_rows: int
    groups: tuple[RowGroup, ...]


def read_footer(file: IO[bytes]) -> Footer:
    """Read the footer of a Parquet file.

    Parameters
    ----------
    file
        The file; its position is changed.

    Raises
    ------
    ValueError
        It has none, or one that is damaged.
    """
    size = file.seek(0, 2)
    file.seek(max(0, size - 8))
    end = file.read(8)
    length = int.from_bytes(end[:4], "little")
    if len(end) < 8 or end[4:] != _MAGIC or length > size - 8:
        msg = "no footer of plain Parquet"
        raise ValueError(msg)
    file.seek(size - 8 - length)
    try:
        found = _Thrift(file.read(length)).struct(0)
        groups = tuple(map(_group, found[4]))
        return Footer(n_rows=_number(found[3]), groups=groups)
    except (KeyError, IndexError, TypeError, AttributeError, struct.error) as error:
        msg = f"its footer is damaged ({type(error).__name__})"
        raise ValueError(msg) from error


def _group(found: dict[int, Any]) -> RowGroup:
    values: dict[str, int] = {}
    for chunk in found[1]:
        told = chunk[3]
        name = b".".join(told[3]).decode().partition(".")[0]
        values[name] = max(values.get(name, 0), _number(told[5]), key=abs)
    return RowGroup(n_rows=_number(found[3]), n_bytes=_number(found[2]), values=values)


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError
    return value


class _Thrift:
    """Values of the compact protocol, one after the other."""

    def __init__(self, raw: bytes) -> None:
        self._raw, self._at = raw, 0

    def struct(self, depth: int) -> dict[int, Any]:
        """Return the fields of a struct by their number."""
        if depth > _DEEPEST:
            msg = "its footer is nested too deeply"
            raise ValueError(msg)
        fields: dict[int, Any] = {}
        number = 0
        while (head := self._take(1)[0]) & 15 != _STOP:
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            kind = head & 15
            fields[number] = kind == _TRUE if kind <= _FALSE else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:  # noqa: ANN401 - whatever stands there
        simple: dict[int, Callable[[], Any]] = {
            _TRUE: lambda: self._take(1)[0] == _TRUE,
            _FALSE: lambda: self._take(1)[0] == _TRUE,
            _BYTE: lambda: self._take(1)[0],
            _DOUBLE: lambda: struct.unpack("<d", self._take(8))[0],
            _BINARY: lambda: self._take(self._varint()),
            _LIST: lambda: self._list(depth),
            _SET: lambda: self._list(depth),
            _MAP: lambda: self._map(depth),
            _STRUCT: lambda: self.struct(depth + 1),
        }
        return self._zigzag() if kind in _NUMBERS else simple[kind]()

    def _list(self, depth: int) -> list[Any]:
        head = self._take(1)[0]
        size = head >> 4 if head >> 4 < 15 else self._varint()
        # Each takes a byte at least: a claimed length beyond the file ends at its end.
        return [self._value(head & 15, depth + 1) for _ in range(size)]

    def _map(self, depth: int) -> list[tuple[Any, Any]]:
        size = self._varint()
        kinds = self._take(1)[0] if size else 0
        return [
            (self._value(kinds >> 4, depth + 1), self._value(kinds & 15, depth + 1))
            for _ in range(size)
        ]

    def _take(self, n: int) -> bytes:
        found = self._raw[self._at : self._at + n]
        self._at += n
        if len(found) < n:
            raise IndexError
        return found

    def _varint(self) -> int:
        value = 0
        for i in range(_LONGEST_NUMBER):
            byte = self._take(1)[0]
            value |= (byte & 127) << 7 * i
            if byte < 128:
                return value
        raise IndexError

    def _zigzag(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)
