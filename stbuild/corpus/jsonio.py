"""Canonical JSON out, strict JSON in.

Canonical: UTF-8, sorted keys, no white space, no NaN. Strict: duplicate keys, NaN, deep nesting
and oversized text are refused, which Python's own reader accepts in silence.
"""

import json
import math
from typing import Any, Final, NoReturn

from stbuild.corpus.errors import IntegrityError, Problem
from stbuild.corpus.names import MAX_DOCUMENT_BYTES

_MAX_VALUES: Final = 20_000_000
"""Most commas and brackets of a document; each may become an object of 60 bytes or more."""
_MAX_DIGITS: Final = 20


def dump_canonical(value: object) -> bytes:
    """Return `value` as canonical JSON: sorted keys, no white space, UTF-8, finite numbers only."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def dump_document(value: object) -> bytes:
    """Return `value` as JSON that people read: sorted keys, two spaces, final newline."""
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            msg = f"key {key!r} stands twice"
            raise ValueError(msg)
        found[key] = value
    return found


def _no_constant(name: str) -> NoReturn:
    msg = f"{name} is not a JSON number"
    raise ValueError(msg)


def _integer(text: str) -> int:
    """Read an integer of 64 bits: a larger one overflows in NumPy and Arrow, wherever it gets."""
    value = int(text) if len(text) <= _MAX_DIGITS else 2**63
    if not -(2**63) <= value < 2**63:
        msg = f"{text[:40]} is beyond 64 bits"
        raise ValueError(msg)
    return value


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        msg = f"{text[:40]} is beyond what a number holds"
        raise ValueError(msg)
    return value


def load_strict(raw: bytes, where: str, max_bytes: int = MAX_DOCUMENT_BYTES) -> Any:  # noqa: ANN401 - JSON is any of seven types
    """Parse hostile JSON.

    Parameters
    ----------
    raw
        UTF-8 text.
    where
        File or member, for the message.
    max_bytes
        Larger input is refused before it is parsed.

    Raises
    ------
    IntegrityError
        Too large, too many values, not UTF-8, not JSON, duplicate key, NaN or Infinity, an integer
        beyond 64 bits, nested too deeply.
    """
    if len(raw) > max_bytes:
        raise _refused(where, f"{len(raw):,} bytes of JSON, at most {max_bytes:,} are read")
    # Lists within lists: a text within the limit could still fill the memory.
    if len(raw) > _MAX_VALUES and sum(raw.count(mark) for mark in b",[{") > _MAX_VALUES:
        raise _refused(where, f"more than {_MAX_VALUES:,} values in one document")
    try:
        return json.loads(
            raw.decode(),
            object_pairs_hook=_no_duplicates,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_integer,
        )
    except (ValueError, RecursionError) as error:
        raise _refused(where, f"not valid JSON: {str(error)[:200]}") from error


def _refused(where: str, what: str) -> IntegrityError:
    fix = "get the file again from its source and run `stbuild verify`"
    return IntegrityError(Problem(code="L14", subject="document", where=where, what=what, fix=fix))
