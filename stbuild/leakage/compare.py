"""Whether two sections share spots: identical count vectors, or the same shot noise.

Two serial sections share their biology, but only copies of one spot share its counting noise. Each
spot is its vector of Anscombe residuals (what its library size and the section's mean do not
explain) over the most abundant shared genes. A spot has a match where it and its nearest spot of
the other section are each other's nearest and both beat the second nearest by 0.1 in cosine.

Measured on all 48 sections of ``../shared/data`` (763 pairs with 64 or more shared genes, share of
up to 256 spots with a match): 66 pairs of serial sections of one her2st donor at most 0.006, 369
pairs of two her2st donors at most 0.006, all 758 pairs of different sections at most 0.006 and none
with an identical spot; known copies 0.92 to 1.00 (five pairs). Copies made for the measurement:
thinned to 50 % 0.99 to 1.00 (down to 200 of 20,000 genes), to 10 % 0.26 to 0.98 (all genes), to 5 %
0.02 to 0.43. The threshold is 0.03: five times what was seen between different sections.
"""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from stbuild.draws import hashed_order
from stbuild.leakage.fingerprints import PANEL, Fingerprint

MIN_GENES: Final = 64
"""Shared genes below which two sections cannot be compared."""
MIN_DISTINCT: Final = 16
"""Shared genes that a spot must express to take part; emptier spots look alike by chance."""
MIN_SPOTS: Final = 16
"""Spots of that kind that each section must have."""
MARGIN: Final = 0.1
"""By how much, in cosine, a match must beat the second nearest spot, both ways."""
MIN_SHARE: Final = 0.03
"""Share of the compared spots with a match from which two sections are called duplicates."""
MIN_MATCHES: Final = 5
"""Matches that there must be at least."""
QUERIES: Final = 256
"""Spots of the smaller section that are looked for in the larger one."""

_SCALE: Final = 8.0
_BLOCK: Final = 4096

Verdict = Literal["distinct", "identical-spots", "near-duplicate", "undecided"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What the comparison of two sections found."""

    genes: int
    """Genes compared on."""
    spots: tuple[int, int]
    """Spots of each with enough expressed genes."""
    identical: int = 0
    """Spots of the smaller section whose counts stand in the other one, gene for gene."""
    compared: int = 0
    """Spots of the smaller section that were looked for."""
    matched: int = 0
    """Those of them with a match."""

    @property
    def verdict(self) -> Verdict:
        """What follows from the figures."""
        if self.genes < MIN_GENES or min(self.spots) < MIN_SPOTS:
            return "undecided"
        if self.identical:
            return "identical-spots"
        enough = self.matched >= max(MIN_MATCHES, MIN_SHARE * self.compared)
        return "near-duplicate" if enough else "distinct"


def compare_sections(a: Fingerprint, b: Fingerprint) -> Comparison:
    """Compare two sections on the genes they share.

    Spots of the smaller one are drawn by a hash of their counts, so the order of spots leaves no
    trace. All arithmetic that decides is in whole numbers or rounds once.
    """
    one, two = _shared_counts(a, b)
    n_genes = int(one.shape[1])
    if n_genes < MIN_GENES:
        return Comparison(genes=n_genes, spots=(0, 0))
    rich = [
        np.flatnonzero(np.count_nonzero(counts, axis=1) >= MIN_DISTINCT) for counts in (one, two)
    ]
    spots = int(rich[0].size), int(rich[1].size)
    if min(spots) < MIN_SPOTS:
        return Comparison(genes=n_genes, spots=spots)
    first, second = _features(one)[rich[0]], _features(two)[rich[1]]
    if spots[0] > spots[1]:
        one, two, first, second, rich = two, one, second, first, rich[::-1]
    keys = [row.tobytes() for row in one[rich[0]]]
    others = {row.tobytes() for row in two[rich[1]]}
    queries = _draw_queries(keys)
    return Comparison(
        genes=n_genes,
        spots=spots,
        identical=sum(key in others for key in keys),
        compared=int(queries.size),
        matched=_count_matches(first, second, queries),
    )


def _shared_counts(a: Fingerprint, b: Fingerprint) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Return the counts of both over the 512 genes that are the most abundant in both."""
    _, left, right = np.intersect1d(a.genes, b.genes, assume_unique=True, return_indices=True)
    if not left.size:
        return a.counts[:, :0], b.counts[:, :0]
    share = np.minimum(
        a.totals[left] / a.totals[left].sum(), b.totals[right] / b.totals[right].sum()
    )
    best = np.sort(np.argsort(-share, kind="stable")[:PANEL])
    return (
        np.ascontiguousarray(a.counts[:, left[best]]),
        np.ascontiguousarray(b.counts[:, right[best]]),
    )


def _features(counts: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return (N, G) whole numbers from -127 to 127: eight times the Anscombe residuals.

    Every step rounds element by element, so neither SIMD nor threads can change a value.
    """
    per_spot = counts.sum(axis=1, dtype=np.int64)
    per_gene = counts.sum(axis=0, dtype=np.int64)
    share = (per_gene / max(1, int(per_gene.sum()))).astype(np.float32)
    expected = per_spot.astype(np.float32)[:, None] * share[None, :]
    offset = np.float32(0.375)
    residual = np.sqrt(counts.astype(np.float32) + offset) - np.sqrt(expected + offset)
    scaled = np.rint(residual * np.float32(2 * _SCALE))
    return np.asarray(np.clip(scaled, -127, 127), np.float32)


def _draw_queries(keys: list[bytes]) -> NDArray[np.int64]:
    """Return the spots to look for: up to 256, drawn by a hash of their counts."""
    order = hashed_order("leakage", 0, [key.hex() for key in keys])
    return np.asarray(order[:QUERIES], np.int64)


def _count_matches(
    small: NDArray[np.float32], large: NDArray[np.float32], queries: NDArray[np.int64]
) -> int:
    """Count the queries whose nearest spot is distinct, and has them as its distinct nearest."""
    nearest, margin = _nearest(small[queries], large)
    hits = np.flatnonzero(margin >= MARGIN)
    if not hits.size:
        return 0
    back, back_margin = _nearest(large[nearest[hits]], small)
    return int(((back == queries[hits]) & (back_margin >= MARGIN)).sum())


def _nearest(
    queries: NDArray[np.float32], reference: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the nearest spot of each query and its lead over the second nearest, in cosine."""
    n = len(queries)
    best = np.full(n, -2, np.float32)
    second = np.full(n, -2, np.float32)
    where = np.zeros(n, np.int64)
    lengths = _lengths(queries)
    rows = np.arange(n)
    for start in range(0, len(reference), _BLOCK):
        block = reference[start : start + _BLOCK]
        cosine = (queries @ block.T) / lengths[:, None] / _lengths(block)[None, :]
        top = cosine.argmax(axis=1)
        value = cosine[rows, top]
        cosine[rows, top] = -2
        runner = np.maximum(cosine.max(axis=1), np.minimum(value, best))
        second = np.maximum(second, runner)
        better = value > best
        best[better], where[better] = value[better], start + top[better]
    return where, best - second


def _lengths(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the length of each row, at least 1: squares add up exactly."""
    return np.maximum(np.sqrt((features * features).sum(axis=1)), np.float32(1))
