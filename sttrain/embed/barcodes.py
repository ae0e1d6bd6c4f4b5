"""Barcodes as other tools spell them: with or without ``-1``, with the sample before or after.

``AAAC-1`` of a corpus is ``AAAC`` where the GEM well was cut off, and ``AAAC-1-S1``, ``S1_AAAC-1``
or ``AAAC-1_S1`` where several samples were put together. All barcodes of a slice are compared as
they stand, or all without these parts; what does not account for every spot of both sides is no
match.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

_WELL: Final = re.compile(r"-\d{1,3}$")
"""The GEM well at the end of a 10x barcode."""
_BETWEEN: Final = "-_.:#"
"""What stands between a barcode and a sample's name."""


def strip_barcode(barcode: str, slug: str) -> str:
    """Return a barcode without the name of its sample, and then without its GEM well.

    Parameters
    ----------
    barcode
        As a tool spells it.
    slug
        Slug of the slice, the sample's name; upper and lower case are the same.
    """
    return _WELL.sub("", _cut_sample(barcode, slug) or barcode)


def match_barcodes(have: Sequence[str], wanted: Sequence[str], slug: str) -> dict[str, str] | None:
    """Return which of the barcodes that are there is each that is wanted.

    Parameters
    ----------
    have
        Barcodes of a file.
    wanted
        Barcodes of the corpus.
    slug
        Slug of the slice.

    Returns
    -------
    dict or None
        Barcode of the file by barcode of the corpus: the barcodes themselves where both are the
        same set, else those that are the same without sample and well. None where neither
        accounts for all of both sides, or two of one side become the same.
    """
    if set(have) == set(wanted):
        return dict(zip(wanted, wanted, strict=True))
    theirs = {strip_barcode(barcode, slug): barcode for barcode in have}
    ours = {strip_barcode(barcode, slug): barcode for barcode in wanted}
    whole = len(theirs) == len(set(have)) and len(ours) == len(set(wanted))
    if not whole or theirs.keys() != ours.keys():
        return None
    return {barcode: theirs[key] for key, barcode in ours.items()}


def rows_by_sample(barcodes: Iterable[str], slugs: Iterable[str]) -> Mapping[str, list[int]]:
    """Return the rows whose barcodes carry the name of each slice; the longest name wins."""
    ordered = sorted(slugs, key=lambda slug: (-len(slug), slug))
    found: dict[str, list[int]] = {slug: [] for slug in ordered}
    for row, barcode in enumerate(barcodes):
        owner = next((slug for slug in ordered if _cut_sample(barcode, slug)), None)
        if owner is not None:
            found[owner].append(row)
    return found


def _cut_sample(barcode: str, slug: str) -> str | None:
    """Return a barcode without the name of its sample; none where it does not carry it."""
    lower, n = barcode.lower(), len(slug)
    if lower.startswith(slug) and lower[n : n + 1] and lower[n] in _BETWEEN:
        return barcode[n + 1 :] or None
    if lower.endswith(slug) and len(lower) > n and lower[-n - 1] in _BETWEEN:
        return barcode[: -n - 1] or None
    return None
