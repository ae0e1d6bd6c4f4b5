"""TOML that somebody wrote: everything that is wrong with it is a ``ValueError``."""

import tomllib
from typing import Any


def parse_toml(text: str) -> dict[str, Any]:
    """Parse a TOML document.

    Raises
    ------
    ValueError
        It is none, or nested too deep, or holds numbers of too many digits.
    """
    try:
        return tomllib.loads(text)
    except RecursionError:
        msg = "it is nested too deep"
        raise ValueError(msg) from None
