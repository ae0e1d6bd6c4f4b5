"""What integer array coordinates lie on: parity tells a checkerboard, positions its pitches."""

from math import sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stbuild.lattices.lattice import Sites, round_angle, round_length, round_share

HEX_RATIO: Final = sqrt(3)
"""Row pitch over half the spot distance of a hexagonal array (Visium)."""
DISAGREE: Final = 0.2
"""Residual, in pitches, from which array coordinates and positions are said to disagree."""
_NEAR: Final = 1.2
"""Factor within which a ratio of pitches is a known one: the quincunx of ST 2k arrays is 1.11."""


def read_array(
    rows: NDArray[np.int64], cols: NDArray[np.int64], xy: NDArray[np.float64] | None
) -> Sites:
    """Say what array coordinates lie on.

    A checkerboard (row + col of one parity for all spots, both parities of rows present) is
    ``hex`` if its rows are sqrt(3) column steps apart, and ``quincunx`` if about one. Any other
    ratio has confidence 0, that of a ``hex`` whose rows and columns are swapped too.

    Parameters
    ----------
    rows, cols
        (N,) whole numbers.
    xy
        (N, 2) positions of the same spots, or None; NaN rows are passed over.
    """
    even = int(np.count_nonzero((rows + cols) % 2 == 0))
    share = max(even, rows.size - even) / rows.size
    measures, confidence = {"parity": share}, 1.0
    fit = _fit(rows, cols, xy)
    if fit is not None:
        measures |= fit
    kind, evidence = "square", f"rows and columns of mixed parity ({share:.0%} of one)"
    if share == 1 and np.unique(rows % 2).size == 2 and rows.size >= 4:
        evidence = "row + col has one parity for all spots"
        kind = "hex"
        if fit is None:
            evidence += "; no positions to tell hex from quincunx"
        else:
            ratio = fit["row_pitch"] / fit["pitch"]
            swapped = _is_near(ratio, 1 / HEX_RATIO)
            kind = "hex" if swapped or abs(ratio - HEX_RATIO) < abs(ratio - 1) else "quincunx"
            known = _is_near(ratio, HEX_RATIO) or _is_near(ratio, 1)
            if not known and fit["residual"] < DISAGREE:
                confidence = 0.0
            evidence += f"; row pitch is {ratio:.2f} of the column pitch (hex {HEX_RATIO:.2f})"
    if kind != "square" and fit is not None:
        measures["pitch"] = 2 * fit["pitch"]  # neighbours along a row are two columns apart
    if fit is not None:
        evidence += f"; positions agree to {fit['residual']:.2f} pitches"
    return Sites(
        kind=kind,
        row=rows,
        col=cols,
        placed=np.ones(rows.size, bool),
        evidence=evidence,
        measures=measures | {"confidence": confidence},
    )


def is_swapped(sites: Sites) -> bool:
    """Tell whether rows and columns of a hexagonal array stand in each other's place."""
    measures = sites.measures
    doubtful = sites.kind == "hex" and measures["confidence"] == 0
    return doubtful and _is_near(2 * measures["row_pitch"] / measures["pitch"], 1 / HEX_RATIO)


def _is_near(ratio: float, known: float) -> bool:
    return 1 / _NEAR <= ratio / known <= _NEAR


def _fit(
    rows: NDArray[np.int64], cols: NDArray[np.int64], xy: NDArray[np.float64] | None
) -> dict[str, float] | None:
    """Fit positions linearly to the indices: pitches, angle, mirror, residual."""
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
    rest = places - at @ solution
    down, right = solution
    return {
        "row_pitch": round_length(float(steps[0])),
        "pitch": round_length(float(steps[1])),
        "angle_deg": round_angle(float(np.degrees(np.arctan2(right[1], right[0])))),
        "mirrored": float(right[0] * down[1] - right[1] * down[0] < 0),
        "residual": round_share(float(np.sqrt((rest**2).sum(axis=1).mean()) / steps.min())),
    }
