"""Values of columns: which of them say that there is none, and how the others read as text.

One rule for AnnData and for text tables, so that the same labels give the same classes.
"""

import re
from collections.abc import Iterable
from typing import Final

import numpy as np

_NONE: Final = frozenset({"", "na", "nan", "n/a", "<na>", "null", "none"})

_WHOLE: Final = re.compile(r"(-?\d+)(\.0+)?")


def is_missing(value: object) -> bool:
    """Tell whether a value says that there is none: NaN, or a word such as NA in any case."""
    return value is None or str(value).strip().lower() in _NONE


def to_text(value: object) -> str:
    """Return an id, a label or a section as text; 3.0 becomes '3'."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def to_id(value: object) -> str:
    """Return an entry of an index as text, empty where there is none; text is always an id."""
    return "" if not isinstance(value, str) and is_missing(value) else to_text(value)


def to_labels(values: Iterable[object]) -> list[str | None]:
    """Return the labels of a column as text, None where there is none.

    Where all of them are whole numbers they are written without a fraction, whether the column
    holds numbers or text: one without a value makes floats of a table's ``0, 1, 2``.
    """
    found = [None if is_missing(value) else to_text(value) for value in values]
    whole = {text: _WHOLE.fullmatch(text) for text in found if text is not None}
    if any(match is None for match in whole.values()):
        return found
    short = {text: match[1] for text, match in whole.items() if match is not None}
    return [None if text is None else short[text] for text in found]


def count_words(values: Iterable[object]) -> str | None:
    """Return how many texts say that there is no value, and which; None where none does.

    NaN and empty text are no words: nobody takes them for a class.
    """
    found = [v for v in values if isinstance(v, str) and v and is_missing(v)]
    if not found:
        return None
    named = ", ".join(repr(word) for word in sorted(set(found))[:5])
    return f"{len(found):,} labels say that there is none ({named}): no class of their own"
