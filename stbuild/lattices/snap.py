"""From raw positions to lattice sites: any unit, angle and mirror, jitter, holes and islands.

The kind follows from the reduced basis: 60 degrees is hex; 90 degrees is square (or rectangular,
a square of two pitches); equal sides at 75 to 87 degrees are a quincunx, whose row and column
pitches differ (ST 2k arrays: 1.11). A square lattice turned by 45 degrees stays a square one.
"""

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stbuild.lattices.fourier import FEWEST, Waves, find_waves, noise_level
from stbuild.lattices.lattice import Sites, round_angle, round_length, round_share

LEAST_CONFIDENCE: Final = 0.5
"""Below it nothing is decided without the user."""
_SURE, _UNSURE = 0.4, 0.2
"""Amplitudes at which confidence is 1 and 0."""
_Combine = Callable[[NDArray[np.int64]], tuple[NDArray[np.int64], NDArray[np.int64]]]
_FAR: Final = 0.45
"""Spots further from their site than this, in pitches, are off the grid if the others are not."""
_PREFER_X: Final = 3.0
"""Degrees by which the y axis must be closer to a lattice direction to be preferred."""
_SAME: Final = 1e-9
"""Relative difference of squared lengths that is rounding."""
_BETWEEN: Final = (86.0, 88.0)
"""Angles of equal sides that a square (90) and a quincunx (83.9) are equally far from."""
_TORN: Final = 0.4
"""Confidence there: not enough."""
_CALM: Final = 0.15
"""Residual up to which `_FAR` means anything."""


def snap_positions(xy: NDArray[np.float64], pitch: float | None = None) -> Sites | None:
    """Recognise the lattice of raw positions and index every spot on it.

    Grid rows follow the lattice direction that is closest to an axis of the source; nothing is
    mirrored.

    Parameters
    ----------
    xy
        (N, 2) positions, x first; NaN rows have no site.
    pitch
        Distance of neighbouring sites in the same unit, where it is known.

    Returns
    -------
    Sites or None
        None where there are too few positions, or nothing periodic in them. What was found may
        still be doubtful: see ``measures["confidence"]``.
    """
    known = finite_rows(xy)
    points = xy[known]
    if len(points) < FEWEST or _on_a_line(points):
        return None
    best: Sites | None = None
    for waves in find_waves(points, pitch):
        sites = _index_spots(xy, known, waves)
        sure = sites.measures["confidence"]
        if best is None or sure > best.measures["confidence"]:
            best = sites
        if sure >= LEAST_CONFIDENCE:
            break
    return best


def _index_spots(xy: NDArray[np.float64], known: NDArray[np.bool_], waves: Waves) -> Sites:
    """Index every known spot on the lattice of two waves."""
    points = xy[known]
    # Rows are the sides of the primitive cell.
    basis: NDArray[np.float64] = np.linalg.inv(waves.K).T.astype(np.float64)
    origin = -basis.T @ waves.phi
    basis = reduce_basis(basis)
    kind = _kind(basis)
    axes, combine = _orient(basis, kind)
    index = _nearest_sites(points - origin, axes)
    rest = points - origin - index @ axes
    step = float(np.hypot(*axes[0]))
    residual = np.hypot(rest[:, 0], rest[:, 1]) / step
    rms = float(np.sqrt((residual**2).mean()))
    row, col = combine(index)
    placed = known.copy()
    if rms < _CALM:
        placed[known] = residual <= _FAR
    whole = np.zeros((2, len(xy)), np.int64)
    whole[:, known] = row, col
    measures = _measures(waves, axes, kind, row, col, rms)
    equal, angle = _measure_cell(basis)
    if equal and _BETWEEN[0] < angle < _BETWEEN[1]:
        measures["confidence"] = min(measures["confidence"], _TORN)
    evidence = (
        f"positions lie on a {kind} lattice: pitch {round_length(step):.4g}, turned by "
        f"{measures['angle_deg']:.1f} degrees, rms {measures['residual']:.2f} pitches off it"
    )
    return Sites(
        kind=kind,
        row=np.where(placed, whole[0], 0),
        col=np.where(placed, whole[1], 0),
        placed=placed,
        evidence=evidence,
        measures=measures,
    )


def _on_a_line(points: NDArray[np.float64]) -> bool:
    """Tell whether all points lie on one line: then only one direction of a lattice shows."""
    sizes = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    return bool(sizes[1] <= 1e-6 * sizes[0])


def finite_rows(xy: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return (N,) whether both coordinates of each position are finite."""
    return np.isfinite(xy[:, 0]) & np.isfinite(xy[:, 1])


def reduce_basis(basis: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Gauss-reduced basis: the two shortest sides, 60 to 90 degrees apart."""
    a, b = basis
    while True:
        if a @ a > b @ b:
            a, b = b, a
        shorter = b - np.rint((a @ b) / (a @ a)) * a
        # At 60 degrees two choices are equally short: without a margin they take turns for ever.
        if not shorter @ shorter < (1 - _SAME) * (b @ b):
            break
        b = shorter
    if a @ b < 0:
        b = -b
    return np.stack([a, b])


def _measure_cell(basis: NDArray[np.float64]) -> tuple[bool, float]:
    """Return whether the sides of a reduced cell are equal, and their angle in degrees."""
    a, b = np.hypot(basis[:, 0], basis[:, 1])
    angle = np.degrees(np.arccos(np.clip(basis[0] @ basis[1] / (a * b), -1, 1)))
    return bool(b / a < 1.08), float(angle)


def _kind(basis: NDArray[np.float64]) -> str:
    equal, angle = _measure_cell(basis)
    if equal and angle < 68:
        return "hex"
    if equal and 75 <= angle <= 87:
        return "quincunx"
    return "square" if angle > 84 else "irregular"


def _orient(basis: NDArray[np.float64], kind: str) -> tuple[NDArray[np.float64], _Combine]:
    """Return two lattice vectors and how their multiples become (row, col)."""
    a, b = basis
    if kind == "hex":
        right = _closest_to_axis([a, b, b - a])
        others = [v for v in (a, b, b - a, -a, -b, a - b) if abs(_cross(right, v)) > 1e-9]
        # Down the grid: 60 degrees from the row, on its right-hand side in image coordinates.
        down = max((v for v in others if _cross(right, v) > 0), key=lambda v: float(v @ right))
        return np.stack([right, down]), _hex_indices
    if kind == "quincunx":
        wide, tall = a + b, a - b
        right = _closest_to_axis([wide, tall])
        down = tall if right is wide or np.allclose(abs(right @ wide), wide @ wide) else wide
        down = down if _cross(right, down) > 0 else -down
        return np.stack([(right + down) / 2, (right - down) / 2]), _quincunx_indices
    right = _closest_to_axis([a, b])
    down = b if abs(_cross(right, b)) > abs(_cross(right, a)) else a
    down = down if _cross(right, down) > 0 else -down
    return np.stack([right, down]), _square_indices


def _square_indices(index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return index[:, 1], index[:, 0]


def _hex_indices(index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return index[:, 1], 2 * index[:, 0] + index[:, 1]


def _quincunx_indices(index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return index[:, 0] - index[:, 1], index[:, 0] + index[:, 1]


def _closest_to_axis(directions: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the direction with the smallest angle to the x axis, or else to the y axis."""

    def off(v: NDArray[np.float64], axis: int) -> float:
        return float(np.degrees(np.arccos(min(1.0, abs(v[axis]) / float(np.hypot(*v))))))

    best_x = min(directions, key=lambda v: round(off(v, 0), 3))
    best_y = min(directions, key=lambda v: round(off(v, 1), 3))
    # Lattices with square corners have both; then rows follow x.
    axis, best = (0, best_x) if off(best_x, 0) <= off(best_y, 1) + _PREFER_X else (1, best_y)
    return best if best[axis] > 0 else -best


def _cross(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(a[0] * b[1] - a[1] * b[0])


def _nearest_sites(points: NDArray[np.float64], axes: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return (N, 2) multiples of the axes of the nearest site of each point."""
    guess = np.rint(points @ np.linalg.inv(axes)).astype(np.int64)
    best, least = guess, np.full(len(points), np.inf)
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            candidate = guess + np.asarray([i, j])
            rest = points - candidate @ axes
            distance = np.round((rest**2).sum(axis=1) / (axes[0] @ axes[0]), 12)
            closer = distance < least
            best = np.where(closer[:, None], candidate, best)
            least = np.minimum(least, distance)
    return best


def _measures(
    waves: Waves,
    axes: NDArray[np.float64],
    kind: str,
    row: NDArray[np.int64],
    col: NDArray[np.int64],
    rms: float,
) -> dict[str, float]:
    right, down = axes
    if kind == "quincunx":
        right, down = axes[0] + axes[1], axes[0] - axes[1]
    n = row.size
    n_sites = np.unique(np.stack([row, col]), axis=1).shape[1]
    amplitude = waves.amplitude
    confidence = np.clip((amplitude - _UNSURE) / (_SURE - _UNSURE), 0, 1)
    if amplitude < 1.5 * noise_level(n) or kind == "irregular":
        confidence = 0.0
    confidence *= max(0.0, 1 - 5 * (1 - n_sites / n))
    height = abs(_cross(right, down)) / float(np.hypot(*right))
    return {
        "pitch": round_length(float(np.hypot(*right))),
        "row_pitch": round_length(height if kind != "quincunx" else height / 2),
        "angle_deg": round_angle(float(np.degrees(np.arctan2(right[1], right[0])))),
        "residual": round_share(rms),
        "peak": round_share(amplitude),
        "confidence": round_share(float(confidence)),
    }
