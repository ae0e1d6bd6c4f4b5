"""Rank compaction (Eq. 5), and what to do about the gaps that it would close in silence."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.names import MAX_WINDOW


@dataclass(frozen=True)
class Ranked:
    """Rank of each value, and how many empty lines keep gaps open."""

    rank: NDArray[np.int64]
    """(N,) from 0."""
    n_inserted: int
    n_closed: int
    """Missing lines that were closed, since their gaps are narrow."""


def rank_axis(values: NDArray[np.float64], max_gap: int, gaps: str) -> Ranked:
    """Rank one coordinate among its distinct values.

    A gap wider than `max_gap` pitches is kept open: by as many empty lines as are missing
    (``insert``), or by so many that no window reaches across (``cut``). The pitch is the most
    common step of the distinct values, the smaller of equally common ones.

    Parameters
    ----------
    values
        (N,) finite coordinates; equal floats share a rank, -0.0 equals 0.0.
    max_gap, gaps
        From the configuration.
    """
    distinct, position = np.unique(values + 0.0, return_inverse=True)
    steps = np.diff(distinct)
    if not steps.size:
        return Ranked(position.astype(np.int64), 0, 0)
    # Compared to nine digits of the largest: an absolute limit would make all tiny steps zero.
    sizes, first, times = np.unique(
        np.round(steps / steps.max(), 9), return_index=True, return_counts=True
    )
    common = int(times.argmax())
    pitch = float(steps[first[common]]) if times[common] > 1 else float(np.median(steps))
    if sizes[common] == 0 or times[common] < 0.25 * steps.size:
        # Steps have no common size: there is no lattice line to be missing.
        return Ranked(position.astype(np.int64), 0, 0)
    missing = np.maximum(np.rint(steps / pitch).astype(np.int64) - 1, 0)
    wide = steps > max_gap * pitch * (1 + 1e-9)
    added = np.where(wide, MAX_WINDOW if gaps == "cut" else missing, 0)
    shift = np.concatenate([np.zeros(1, np.int64), np.cumsum(added)])
    rank = (np.arange(distinct.size) + shift)[position]
    return Ranked(rank.astype(np.int64), int(added.sum()), int(missing[~wide].sum()))


def scale_axis(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale one coordinate to 0..100 by its range and round it (the likely reading of Fig. 2)."""
    low, high = float(values.min()), float(values.max())
    if high == low:
        return np.zeros_like(values)
    return np.rint((values - low) / (high - low) * 100)
