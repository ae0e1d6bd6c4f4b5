"""The ``.npy`` members of a sample: NumPy format 1.0, little-endian, C order, no objects.

The header is parsed and compared with an allow-list and with the length of the buffer before
anything is allocated.
"""

import io
import re
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.errors import IntegrityError, Problem

_MAGIC = b"\x93NUMPY\x01\x00"
_MAX_HEADER = 1024
_MAX_TEXT = 4096
_HEADER = re.compile(
    rb"\{'descr': '([<>|][biufcSUV][0-9]{1,9})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:[0-9]{1,20}, ?)*(?:[0-9]{1,20})?)\), \} *\n"
)
"""The header exactly as NumPy writes it for plain numbers and byte strings."""


def write_npy(array: NDArray[Any]) -> bytes:
    """Return `array` as the bytes of a ``.npy`` file, format 1.0, little-endian, C order.

    The bytes are the same on every NumPy since 1.17 and every platform.
    """
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if little.dtype.hasobject:
        msg = "an array of Python objects has no place in a sample"
        raise ValueError(msg)
    return _make_header(little.dtype.str, little.shape) + little.tobytes()


@lru_cache(maxsize=1024)
def _make_header(descr: str, shape: tuple[int, ...]) -> bytes:
    """Return all that stands before the values; one shape stands in thousands of samples."""
    out = io.BytesIO()
    fields = {"descr": descr, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, fields)
    return out.getvalue()


@lru_cache(maxsize=1024)
def _parse_header(header: bytes) -> tuple[np.dtype[Any], tuple[int, ...]]:
    found = _HEADER.fullmatch(header)
    if found is None:
        msg = "not as NumPy writes it, or not plain numbers"
        raise ValueError(msg)
    descr, fortran, sides = (group.decode() for group in found.groups())
    shape = tuple(int(side) for side in sides.split(",") if side.strip())
    if fortran == "True" and len(shape) > 1:
        msg = "Fortran order"
        raise ValueError(msg)
    return np.dtype(descr), shape


def read_npy(
    raw: bytes | memoryview, where: str, dtype: str | tuple[str, ...], ndim: int
) -> NDArray[Any]:
    """Read a ``.npy`` buffer without copying it.

    Parameters
    ----------
    raw
        The whole file.
    where
        File and member, for the message.
    dtype
        Allowed type strings, such as ``"<u2"``; ``"|S"`` allows byte strings of any length up
        to 4,096.
    ndim
        Number of dimensions that the array must have.

    Returns
    -------
    numpy.ndarray
        A read-only view of `raw`.

    Raises
    ------
    IntegrityError
        Wrong magic or version, object dtype, another dtype or rank than expected, Fortran order,
        or a length that does not match the header.
    """
    view = memoryview(raw)
    size = int.from_bytes(view[8:10], "little")
    if bytes(view[:8]) != _MAGIC or not 0 < size <= _MAX_HEADER or len(view) < 10 + size:
        raise _refused(where, "not a .npy file of format 1.0")
    try:
        found, shape = _parse_header(bytes(view[10 : 10 + size]))
    except (ValueError, TypeError) as error:
        raise _refused(where, f"unreadable .npy header: {str(error)[:120]}") from error
    allowed = (dtype,) if isinstance(dtype, str) else dtype
    is_text = found.kind == "S" and "|S" in allowed and 0 < found.itemsize <= _MAX_TEXT
    if not is_text and found.str not in allowed:
        raise _refused(where, f"dtype {found.str}, expected {' or '.join(allowed)}")
    if len(shape) != ndim:
        raise _refused(where, f"shape {shape}, expected {ndim} dimensions")
    if prod(shape) * found.itemsize != len(view) - 10 - size:
        raise _refused(where, f"shape {shape} does not match {len(view) - 10 - size:,} data bytes")
    return np.frombuffer(view, dtype=found, offset=10 + size).reshape(shape)


def _refused(where: str, what: str) -> IntegrityError:
    fix = "run `stbuild verify` on the corpus and get the damaged shard again"
    return IntegrityError(Problem(code="L12", subject="array", where=where, what=what, fix=fix))
