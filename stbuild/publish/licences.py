"""Licences by SPDX: what an expression means, and what text goes with a release."""

import re
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

UNKNOWN: Final = "unknown"
"""Class of slices that say nothing, as flags name it."""
_WORD: Final = re.compile(r"[A-Za-z0-9.+-]+")
_TOKEN: Final = re.compile(r"[()]|[A-Za-z0-9.+-]+")


@dataclass(frozen=True, kw_only=True)
class Licence:
    """One licence that is known here."""

    spdx: str
    name: str
    terms: tuple[str, ...]

    @property
    def url(self) -> str:
        """Page of the licence at SPDX."""
        return f"https://spdx.org/licenses/{self.spdx}.html"

    @property
    def allows_changes(self) -> bool:
        """Whether changed copies may be passed on: a corpus of patches is one."""
        return "no-derivatives" not in self.terms


@cache
def known_licences() -> dict[str, Licence]:
    """Return the licences whose terms are known, by SPDX id."""
    raw = (files(__package__) / "licences.toml").read_text("utf-8")
    return {
        key: Licence(spdx=key, name=entry["name"], terms=tuple(entry["terms"]))
        for key, entry in tomllib.loads(raw).items()
    }


def parse_licence(text: str | None) -> str | None:
    """Return the canonical SPDX expression, or None where it is no such thing."""
    if text is None:
        return None
    try:
        return str(canonicalize_license_expression(text))
    except InvalidLicenseExpression:
        return None


def licence_ids(expression: str) -> list[str]:
    """Return the licence ids of a canonical expression, each once, in order."""
    words = [w for w in _WORD.findall(expression) if w not in {"AND", "OR"}]
    skip = {words[i + 1] for i, word in enumerate(words[:-1]) if word == "WITH"} | {"WITH"}
    return list(dict.fromkeys(word for word in words if word not in skip))


def why_refused(text: str | None) -> str | None:
    """Return in words why data under a licence cannot be published, or None if it can.

    Parameters
    ----------
    text
        What the sample sheet says.
    """
    if text is None:
        return "it states no licence"
    expression = parse_licence(text)
    if expression is None:
        return f"licence {text!r} is no SPDX expression"
    tokens = _TOKEN.findall(expression)
    return _either(tokens)


def _either(tokens: list[str]) -> str | None:
    """Return why no side of an ``OR`` allows it; None if one does. Consumes the tokens."""
    reasons = [_both(tokens)]
    while tokens and tokens[0] == "OR":
        tokens.pop(0)
        reasons.append(_both(tokens))
    return None if None in reasons else reasons[0]


def _both(tokens: list[str]) -> str | None:
    """Return why one side of an ``AND`` does not allow it; None if all do."""
    reasons = [_single(tokens)]
    while tokens and tokens[0] == "AND":
        tokens.pop(0)
        reasons.append(_single(tokens))
    return next((reason for reason in reasons if reason is not None), None)


def _single(tokens: list[str]) -> str | None:
    name = tokens.pop(0)
    if name == "(":
        reason = _either(tokens)
        tokens.pop(0)  # the library has checked that it closes
        return reason
    if tokens and tokens[0] == "WITH":  # an exception only grants more
        del tokens[:2]
    found = known_licences().get(name)
    if found is None:
        return f"whether {name} allows redistribution is not known here"
    return None if found.allows_changes else f"{name} does not allow changed copies"


def licence_text(spdx: str) -> str:
    """Return the text of a licence; where it is not at hand, its name and where it stands."""
    name = spdx.removesuffix("-only").removesuffix("-or-later")
    place = files(__package__) / "texts" / f"{name}.txt"
    if place.is_file():
        return place.read_text("utf-8")
    found = known_licences().get(spdx)
    name = found.name if found else spdx
    return (
        f"{name}\nSPDX-License-Identifier: {spdx}\n\n"
        f"The text of this licence is at https://spdx.org/licenses/{spdx}.html\n"
    )
