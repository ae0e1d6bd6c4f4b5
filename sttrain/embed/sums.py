"""Vectors of the spots of a slice, summed over overlapping windows and gene draws.

Letters: B batch, L sites of a window, N spots of a slice, D features.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sttrain.embed.evaluation import decode_barcodes
from sttrain.errors import BadInputError, IntegrityError, Problem

if TYPE_CHECKING:
    from stbuild.corpus.samples import Patch, WholeSlice


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How often the spots of a slice were seen."""

    slice: str
    n_spots: int
    n_windows: int
    """Windows times gene draws."""
    fewest: int
    """Vectors that went into the mean of the least covered spot."""
    mean: float
    most: int

    def __str__(self) -> str:
        return (
            f"{self.slice}: {self.n_spots:,} of {self.n_spots:,} spots, {self.n_windows:,} windows "
            f"and draws, {self.fewest} to {self.most} vectors a spot (mean {self.mean:.1f})"
        )


class SpotSums:
    """Running sums of the vectors of one slice, in float64."""

    def __init__(self, whole: "WholeSlice") -> None:
        self.slug = whole.meta.slice
        self.barcodes = decode_barcodes(whole)
        self.seen = np.zeros(len(self.barcodes), np.int64)
        self.total: NDArray[np.float64] | None = None

    def add(self, patches: "list[Patch]", features: NDArray[np.float32]) -> None:
        """Add the features (B, L, D) of some patches, patch by patch."""
        if self.total is None:
            self.total = np.zeros((len(self.barcodes), features.shape[2]))
        for patch, vectors in zip(patches, features, strict=True):
            spots = self._spots(patch)
            inside = spots >= 0
            # Within one patch every spot stands once, so plain indexing adds all of them.
            with np.errstate(invalid="ignore"):  # what is not finite is named by `means`
                self.total[spots[inside]] += vectors[inside]
            self.seen[spots[inside]] += 1

    def add_all(self, parts: Iterable[NDArray[np.float32]]) -> None:
        """Add features (N, D) of all spots, draw by draw."""
        for vectors in parts:
            if self.total is None:
                self.total = np.zeros(vectors.shape)
            self.total += vectors
            self.seen += 1

    def _spots(self, patch: "Patch") -> NDArray[np.int32]:
        """Return (L,) spot numbers, -1 where there is none."""
        if patch.spots is None:
            raise _damaged(patch, "it does not say which spots it shows")
        spots = patch.spots.ravel()
        shown = spots[spots >= 0]
        measured = patch.totals.ravel() > 0
        if shown.size and int(shown.max()) >= len(self.barcodes):
            raise _damaged(patch, f"spot {int(shown.max())} of {len(self.barcodes)}")
        if np.unique(shown).size != shown.size or not np.array_equal(measured, spots >= 0):
            raise _damaged(patch, "a spot stands twice, or where nothing was measured")
        return spots

    def means(self) -> NDArray[np.float32]:
        """Return (N, D) mean vectors.

        Raises
        ------
        BadInputError
            A spot without a vector, vectors that are not finite.
        """
        missing = np.flatnonzero(self.seen == 0)
        if self.total is None or missing.size:
            first = self.barcodes[int(missing[0])] if missing.size else "none"
            what = f"{missing.size:,} of {self.seen.size:,} spots are in no window (first: {first})"
            raise _refused("V18", self.slug, what, "build the corpus again with a smaller --cover")
        means = (self.total / self.seen[:, None]).astype(np.float32)
        bad = np.flatnonzero(~np.isfinite(means).all(axis=1))
        if bad.size:
            what = f"{bad.size:,} vectors are not finite (first: {self.barcodes[int(bad[0])]})"
            raise _refused("V02", self.slug, what, "the model has diverged; use an earlier one")
        return means

    def coverage(self, n_windows: int) -> Coverage:
        """Return how often the spots were seen, in so many windows times gene draws."""
        return Coverage(
            slice=self.slug,
            n_spots=int(self.seen.size),
            n_windows=n_windows,
            fewest=int(self.seen.min()),
            mean=float(self.seen.mean()),
            most=int(self.seen.max()),
        )


def _damaged(patch: "Patch", what: str) -> IntegrityError:
    fix = "run `stbuild verify` on the corpus and get it again"
    subject = f"sample '{patch.meta.key}'"
    return IntegrityError(Problem(code="L11", subject=subject, what=what, fix=fix))


def _refused(code: str, slug: str, what: str, fix: str) -> BadInputError:
    return BadInputError(Problem(code=code, subject=f"slice '{slug}'", what=what, fix=fix))
