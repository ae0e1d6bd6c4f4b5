"""Whether two sections share spots: identical count vectors, or the same shot noise.

Two serial sections share their biology, but only copies of one spot share its counting noise. Each
spot is its vector of Anscombe residuals (what its library size and the section's mean do not
explain) over the most abundant shared genes. A spot has a match where it and its nearest spot of
the other section are each other's nearest and lead the second nearest by 0.1 in cosine and by two
standard errors of a cosine of vectors such as these.

Measured on 59 different sections of ``../shared/data``, as they are, on random 30, 10, 3 and 1 % of
the genes, and thinned to 30 %: in 7,317 pairs with 64 shared genes no pair had more than one match
among up to 256 spots (0.013 of them at most), serial sections of one her2st donor included, and
none an identical spot. Known copies (five pairs): 0.9 to 1.0. Of 57 sections and a copy of 60 % of
their spots, thinned to 50, 20, 10 and 5 % of the counts, 57, 56, 56 and 45 are found; with a tenth
of the genes 52 of 53, 46 of 51, 44 of 50 and 30 of 49 that are not too sparse to be compared.
Without the standard errors 118 of the 7,317 pairs were false alarms, all on few and weakly
expressed genes. The threshold is 0.03 of the spots, and 5.

Sparse sections (dlpfc 151507 and 151509: 68 shared genes, 6 counts a spot) have too few spots for
that; there only identical counts are looked for, in spots with 8 genes: none of 712 spots of one
stands in the other, nor of the halves of any sparse section; with 4 genes 25 of 2,872 do.

Sections that share fewer than 64 genes are searched in the same way, and only so. On 8 to 63 genes
(the most abundant, the next 200, or any), 1,508 pairs of different sections had one identical spot
at most (0.6 % of the spots), and both known copies were found in 103 of 103. Where counts are so
low that spots of one section equal each other, two sections tell nothing: they stay undecided.
"""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from stbuild.draws import hashed_order
from stbuild.leakage.fingerprints import PANEL, Fingerprint

MIN_GENES: Final = 64
"""Shared genes below which noise cannot be compared, and identical counts alone are looked for."""
MIN_DISTINCT: Final = 16
"""Shared genes that a spot must express to take part; emptier spots look alike by chance."""
MIN_SPOTS: Final = 16
"""Spots of that kind that each section must have."""
MIN_EXACT: Final = 8
"""Shared genes that a spot of a sparse section must express to be looked for gene for gene."""
REPEATS: Final = 4.0
"""On fewer genes: how many times as often as within a section spots must be identical."""
MARGIN: Final = 0.1
"""By how much, in cosine, a match must lead the second nearest spot, both ways."""
ERRORS: Final = 2.0
"""By how many standard errors of the cosine it must lead at least."""
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
    """Spots of each that express at least 16 of them; 0 where they share too few genes."""
    identical: int = 0
    """Those of the smaller section whose counts stand in the other one, gene for gene."""
    sparse: int = 0
    """Spots of the smaller section that express at least 8 of the genes."""
    sparse_identical: int = 0
    """Those of them whose counts stand in the other one, gene for gene."""
    compared: int = 0
    """Spots of the smaller section that were looked for."""
    matched: int = 0
    """Those of them with a match."""

    @property
    def verdict(self) -> Verdict:
        """What follows from the figures.

        One identical spot of 16 genes is no chance; of 8 genes it may be, so a share is asked for.
        """
        if self.identical or _many(self.sparse_identical, self.sparse):
            return "identical-spots"
        if not self.compared:
            return "undecided"
        return "near-duplicate" if _many(self.matched, self.compared) else "distinct"


def _many(found: int, among: int) -> bool:
    return found >= max(MIN_MATCHES, MIN_SHARE * among)


def compare_sections(a: Fingerprint, b: Fingerprint) -> Comparison:
    """Compare two sections on the genes they share.

    Spots of the smaller one are drawn by a hash of their counts, so the order of spots leaves no
    trace. All arithmetic that decides is in whole numbers or rounds once.
    """
    one, two = _shared_counts(a, b)
    n_genes = int(one.shape[1])
    if n_genes < MIN_GENES:
        return _compare_on_few(one, two)
    spots = int(_expressive(one, MIN_DISTINCT).size), int(_expressive(two, MIN_DISTINCT).size)
    if (spots[0], len(one)) > (spots[1], len(two)):
        one, two = two, one
    found = replace(_find_identical(one, two), genes=n_genes, spots=spots)
    if min(spots) < MIN_SPOTS:
        return found
    compared, matched = _count_matches(one, two)
    return replace(found, compared=compared, matched=matched)


def _compare_on_few(one: NDArray[np.uint16], two: NDArray[np.uint16]) -> Comparison:
    """Look for identical counts on fewer genes than noise can be compared on.

    What is no more frequent than chance makes it within a section is not told: it decides nothing.
    """
    spots = _expressive(one, MIN_EXACT).size, _expressive(two, MIN_EXACT).size
    if (spots[0], len(one)) > (spots[1], len(two)):
        one, two = two, one
    found = replace(_find_identical(one, two), identical=0)
    chance = REPEATS * max(_share_repeated(one), _share_repeated(two))
    if found.verdict == "undecided" or found.sparse_identical > chance * found.sparse:
        return found
    return Comparison(genes=found.genes, spots=(0, 0))


def _share_repeated(counts: NDArray[np.uint16]) -> float:
    """Return the share of spots whose counts another spot of the section has, gene for gene."""
    times = Counter(row.tobytes() for row in counts[_expressive(counts, MIN_EXACT)])
    return sum(n for n in times.values() if n > 1) / max(1, times.total())


def _find_identical(small: NDArray[np.uint16], large: NDArray[np.uint16]) -> Comparison:
    """Count the spots of `small` that stand in `large`, gene for gene."""
    spots = _expressive(small, MIN_EXACT)
    others = {row.tobytes() for row in large[_expressive(large, MIN_EXACT)]}
    found = spots[np.asarray([row.tobytes() in others for row in small[spots]], bool)]
    return Comparison(
        genes=int(small.shape[1]),
        spots=(0, 0),
        identical=int(_expressive(small[found], MIN_DISTINCT).size),
        sparse=int(spots.size),
        sparse_identical=int(found.size),
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


def _expressive(counts: NDArray[np.uint16], least: int) -> NDArray[np.int64]:
    """Return the spots that express at least so many of the genes."""
    return np.flatnonzero(np.count_nonzero(counts, axis=1) >= least)


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


def _draw_queries(counts: NDArray[np.uint16]) -> NDArray[np.int64]:
    """Return up to 256 spots, drawn by a hash of their counts."""
    order = hashed_order("leakage", 0, [row.tobytes().hex() for row in counts])
    return np.asarray(order[:QUERIES], np.int64)


def _count_matches(small: NDArray[np.uint16], large: NDArray[np.uint16]) -> tuple[int, int]:
    """Return how many spots were looked for, and how many have a match.

    A match is the nearest, and has the spot as its own nearest, both well ahead of the second.
    """
    one, two = (_features(counts)[_expressive(counts, MIN_DISTINCT)] for counts in (small, large))
    queries = _draw_queries(small[_expressive(small, MIN_DISTINCT)])
    nearest, margin = _nearest(one[queries], two)
    least = np.maximum(MARGIN, ERRORS * _standard_errors(one[queries], two[nearest]))
    hits = np.flatnonzero(margin >= least)
    if not hits.size:
        return int(queries.size), 0
    back, back_margin = _nearest(two[nearest[hits]], one)
    matched = (back == queries[hits]) & (back_margin >= least[hits])
    return int(queries.size), int(matched.sum())


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


def _standard_errors(one: NDArray[np.float32], two: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the spread of the cosine of each pair of rows, were their signs independent.

    It is large where few genes carry most of the length: there two spots look alike by chance.
    The sums are of whole numbers below 2^53, so they are exact.
    """
    a, b = np.square(one, dtype=np.float64), np.square(two, dtype=np.float64)
    lengths = np.maximum(a.sum(axis=1), 1) * np.maximum(b.sum(axis=1), 1)
    return np.asarray(np.sqrt((a * b).sum(axis=1) / lengths), np.float64)


def _lengths(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the length of each row, at least 1: squares add up exactly."""
    squares = (features * features).sum(axis=1)
    return np.asarray(np.maximum(np.sqrt(squares), 1), np.float32)
