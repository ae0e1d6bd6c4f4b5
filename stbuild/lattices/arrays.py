"""What integer array coordinates lie on: parity tells a checkerboard, positions its pitches."""

from dataclasses import dataclass
from math import sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stbuild.lattices.lattice import Sites, round_angle, round_length, round_share

HEX_RATIO: Final = sqrt(3)
"""Row pitch over half the spot distance of a hexagonal array (Visium)."""
DISAGREE: Final = 0.2
"""Residual, in pitches, from which array coordinates and positions are said to disagree."""
_HALF: Final = 0.5
"""Residual, in pitches, beyond which positions are not those of the array but between them."""
_EXPLAINED: Final = 0.5
"""Share of the spread of positions below which an array says nothing of them: of shuffled ones it
explains next to nothing, of any that are merely warped nearly all."""
_NEARLY: Final = 0.95
"""Share of spots of one parity that makes a checkerboard; on a full array it is about half."""
_NEAR: Final = 1.2
"""Factor within which a ratio of pitches is a known one: the quincunx of ST 2k arrays is 1.11."""


def read_array(
    rows: NDArray[np.int64], cols: NDArray[np.int64], xy: NDArray[np.float64] | None
) -> Sites:
    """Say what array coordinates lie on.

    A checkerboard (row + col of one parity for nearly all spots, both parities of rows present) is
    ``hex`` if its rows are sqrt(3) column steps apart, and ``quincunx`` if about one. Any other
    ratio has confidence 0, that of a ``hex`` whose rows and columns are swapped too. Spots of the
    other parity have no site on it: no such array has one where they say they are.

    Parameters
    ----------
    rows, cols
        (N,) whole numbers.
    xy
        (N, 2) positions of the same spots, or None; NaN rows are passed over.
    """
    even = (rows + cols) % 2 == 0
    major = even if 2 * np.count_nonzero(even) >= rows.size else ~even
    share = float(np.count_nonzero(major)) / rows.size
    checkered = share >= _NEARLY and np.unique(rows[major] % 2).size == 2
    if not checkered or np.count_nonzero(major) < 4:
        checkered, major = False, np.ones(rows.size, bool)
    fit = _fit(rows[major], cols[major], None if xy is None else xy[major])
    kind, evidence = "square", f"rows and columns of mixed parity ({share:.0%} of one)"
    confidence = 1.0
    if checkered:
        n_odd = int(np.count_nonzero(~major))
        others = f"all but {n_odd:,} of {rows.size:,}" if n_odd else "all"
        kind, said, confidence = _tell_checkerboard(fit)
        evidence = f"row + col has one parity for {others} spots{said}"
    measures = {"parity": share} | (fit or {})
    if kind != "square" and fit is not None:
        measures["pitch"] = 2 * fit["pitch"]  # neighbours along a row are two columns apart
    if fit is not None:
        evidence += f"; positions agree to {fit['residual']:.2f} pitches"
    return Sites(
        kind=kind,
        row=np.where(major, rows, 0),
        col=np.where(major, cols, 0),
        placed=major,
        evidence=evidence,
        measures=measures | {"confidence": confidence},
    )


def _tell_checkerboard(fit: dict[str, float] | None) -> tuple[str, str, float]:
    """Return the kind of a checkerboard, what says so, and the confidence."""
    if fit is None:
        return "hex", "; no positions to tell hex from quincunx", 1.0
    ratio = fit["row_pitch"] / fit["pitch"]
    swapped = _is_near(ratio, 1 / HEX_RATIO)
    kind = "hex" if swapped or abs(ratio - HEX_RATIO) < abs(ratio - 1) else "quincunx"
    known = _is_near(ratio, HEX_RATIO) or _is_near(ratio, 1)
    said = f"; row pitch is {ratio:.2f} of the column pitch (hex {HEX_RATIO:.2f})"
    return kind, said, 1.0 if known or fit["residual"] >= DISAGREE else 0.0


def is_swapped(sites: Sites) -> bool:
    """Tell whether rows and columns of a hexagonal array stand in each other's place."""
    measures = sites.measures
    doubtful = sites.kind == "hex" and measures["confidence"] == 0
    return doubtful and _is_near(2 * measures["row_pitch"] / measures["pitch"], 1 / HEX_RATIO)


def _is_near(ratio: float, known: float) -> bool:
    return 1 / _NEAR <= ratio / known <= _NEAR


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """How positions differ from the array coordinates of the same N spots."""

    n_shared: int
    """Spots at the very position of a spot of another cell."""
    n_far: int
    """Others that lie more than half a pitch from where the array has them."""
    residual: float
    """Of the others, rms in pitches; 0.0 where too few are left to say."""
    explained: float
    """Share of the spread of the others that follows the array; 1.0 where too few are left."""

    @property
    def is_misplaced(self) -> bool:
        """Whether positions cannot be those of the spots that the array has there."""
        return self.n_shared > 0 or self.residual > _HALF

    @property
    def is_contradiction(self) -> bool:
        """Whether positions say one thing and the array another, so that either may be wrong."""
        return self.residual > _HALF and self.explained < _EXPLAINED


def compare_positions(
    rows: NDArray[np.int64], cols: NDArray[np.int64], xy: NDArray[np.float64]
) -> Disagreement:
    """Say how positions differ from array coordinates, but for unit, angle, mirror and shear.

    Parameters
    ----------
    rows, cols
        (N,) whole numbers, at least one spot.
    xy
        (N, 2) finite positions of the same spots.
    """
    shared = _share_position(rows, cols, xy)
    alone = ~shared
    fit = _solve(rows[alone], cols[alone], xy[alone])
    n_shared = int(np.count_nonzero(shared))
    if fit is None:
        return Disagreement(n_shared=n_shared, n_far=0, residual=0.0, explained=1.0)
    squares = (fit.rest**2).sum(axis=1)
    spread = float(((xy[alone] - xy[alone].mean(axis=0)) ** 2).sum())
    return Disagreement(
        n_shared=n_shared,
        n_far=int(np.count_nonzero(np.sqrt(squares) > _HALF * fit.steps.min())),
        residual=fit.residual,
        explained=1.0 - float(squares.sum()) / spread,
    )


def _share_position(
    rows: NDArray[np.int64], cols: NDArray[np.int64], xy: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Return the (N,) spots whose position is that of a spot of another cell, too."""
    order = np.lexsort((rows, cols, xy[:, 1], xy[:, 0]))
    same = (np.diff(xy[order], axis=0) == 0).all(axis=1)
    shared = np.zeros(order.size, bool)
    if (clash := same & ((np.diff(rows[order]) != 0) | (np.diff(cols[order]) != 0))).any():
        place = np.concatenate([[0], np.cumsum(~same)])
        shared[order] = np.isin(place, place[1:][clash])
    return shared


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """A linear fit of positions to array coordinates."""

    solution: NDArray[np.float64]
    """(2, 2): a step down and one to the right."""
    steps: NDArray[np.float64]
    """(2,) their lengths, neither of them 0."""
    rest: NDArray[np.float64]
    """(K, 2) what the fit leaves of the known positions."""

    @property
    def residual(self) -> float:
        """Rms of the rest, in pitches."""
        return round_share(float(np.sqrt((self.rest**2).sum(axis=1).mean()) / self.steps.min()))


def _solve(
    rows: NDArray[np.int64], cols: NDArray[np.int64], xy: NDArray[np.float64] | None
) -> _Fit | None:
    """Fit positions linearly to the indices; None where they are too few or on one line."""
    if xy is None:
        return None
    known = np.isfinite(xy).all(axis=1)
    if np.count_nonzero(known) < 4:
        return None
    at, places = np.stack([rows, cols], axis=1)[known].astype(np.float64), xy[known]
    at, places = at - at.mean(axis=0), places - places.mean(axis=0)
    solution, _, rank, _ = np.linalg.lstsq(at, places, rcond=None)
    steps = np.hypot(solution[:, 0], solution[:, 1])
    if rank < 2 or not steps.all():
        return None
    return _Fit(solution=solution, steps=steps, rest=places - at @ solution)


def _fit(
    rows: NDArray[np.int64], cols: NDArray[np.int64], xy: NDArray[np.float64] | None
) -> dict[str, float] | None:
    """Fit positions linearly to the indices: pitches, angle, mirror, residual."""
    fit = _solve(rows, cols, xy)
    if fit is None:
        return None
    down, right = fit.solution
    return {
        "row_pitch": round_length(float(fit.steps[0])),
        "pitch": round_length(float(fit.steps[1])),
        "angle_deg": round_angle(float(np.degrees(np.arctan2(right[1], right[0])))),
        "mirrored": float(right[0] * down[1] - right[1] * down[0] < 0),
        "residual": fit.residual,
    }
