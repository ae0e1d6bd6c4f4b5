"""The lattice of a point set from its Fourier peaks: sharp for a lattice, absent for anything else.

A site jittered by up to a third of the pitch keeps 0.41 of its peak; N points without order have
peaks of about sqrt(log(M) / N). Missing rows, holes and islands change neither. Letters: K is
the (2, 2) reciprocal basis in cycles per unit, one wave a row; the phase of a point is K x + phi.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter
from scipy.spatial import cKDTree

_RASTER: Final = 8
"""Raster cells per nearest-neighbour distance."""
_SIDE: Final = 160
"""Side of the first region, in nearest-neighbour distances."""
_LONGEST: Final = 2048
"""Largest raster side."""
_ANY: Final = (0.35, 1.7)
"""Waves looked at, in cycles per nearest-neighbour distance."""
_OF_PITCH: Final = (0.9, 1.3)
"""The same where the pitch is known: first order is 1 on a square lattice, 1.15 on a hexagon."""
_LEAST: Final = 0.2
"""Peaks below this amplitude are never looked at."""
_COMPARABLE: Final = 0.45
"""Peaks of at least this share of the highest count as first order, if they are short."""
_ROUNDS: Final = 12


@dataclass(frozen=True)
class Waves:
    """Two waves that every site of a lattice is in phase with."""

    K: NDArray[np.float64]
    """(2, 2) cycles per unit."""
    phi: NDArray[np.float64]
    """(2,) cycles."""
    amplitude: float
    """Of the weaker wave over all points, 0 to 1."""


def find_waves(xy: NDArray[np.float64], pitch: float | None = None) -> Waves | None:
    """Find the waves of the lattice that points lie on.

    Parameters
    ----------
    xy
        (N, 2) finite positions, at least 9.
    pitch
        Distance of neighbouring sites, where known; else that of neighbouring points, and waves
        of any length about it are looked at.

    Returns
    -------
    Waves or None
        None where no two independent peaks stand out.
    """
    spacing, band = (_nearest(xy), _ANY) if pitch is None else (pitch, _OF_PITCH)
    if spacing is None:
        return None
    centre, half = _densest(xy, spacing)
    near = np.flatnonzero(np.abs(xy - centre).max(axis=1) <= half)
    K = _two_peaks(xy[near] - centre, spacing, half, band)
    if K is None:
        return None
    # Grow from a full region where the first guess is surely right to all points, refitting as
    # we go; the middle of the tissue may be a hole.
    reach = max(6 * spacing, half / 5)
    centre = _densest(xy[near], spacing, side=2 * reach)[0]
    shifted = xy - centre
    distance = np.hypot(shifted[:, 0], shifted[:, 1])
    phi = np.zeros(2)
    while True:
        inside = distance <= reach
        if np.count_nonzero(inside) >= min(24, len(xy)):
            K, phi = _refine(shifted[inside], K)
        if bool(inside.all()):
            break
        reach *= 1.6
    waves = np.exp(2j * np.pi * (shifted @ K.T + phi))
    amplitude = float(np.abs(waves.mean(axis=0)).min())
    return Waves(K=K, phi=phi - K @ centre, amplitude=amplitude)


def noise_level(n_points: int) -> float:
    """Return the amplitude that the highest of all waves reaches for points without order."""
    return float(np.sqrt(np.log(40.0 * max(n_points, 2)) / n_points))


def _nearest(xy: NDArray[np.float64]) -> float | None:
    """Return the median distance to the nearest other point."""
    step = max(1, len(xy) // 20_000)
    found = np.asarray(cKDTree(xy).query(xy[np.lexsort(xy.T)][::step], k=2)[0])[:, 1]
    found = found[found > 0]
    return float(np.median(found)) if found.size else None


def _densest(
    xy: NDArray[np.float64], spacing: float, side: float | None = None
) -> tuple[NDArray[np.float64], float]:
    """Return the centre and half side of the fullest region of a bounded size."""
    low, high = xy.min(axis=0), xy.max(axis=0)
    side = _SIDE * spacing if side is None else side
    if float((high - low).max()) <= side:
        return (low + high) / 2, float((high - low).max()) / 2 + spacing
    cell = np.floor((xy - low) / side).astype(np.int64)
    names, times = np.unique(cell, axis=0, return_counts=True)
    best = names[int(times.argmax())]
    return low + (best + 0.5) * side, side / 2


def _two_peaks(
    xy: NDArray[np.float64], spacing: float, half: float, band: tuple[float, float]
) -> NDArray[np.float64] | None:
    """Return the two shortest strong waves as a (2, 2) array of cycles per unit."""
    n = min(_LONGEST, int(2 ** np.ceil(np.log2(2 * half / spacing * _RASTER))))
    side = 2 * half
    # A taper keeps the side lobes of a peak below the peaks of jittered sites.
    weights = np.prod(0.5 + 0.5 * np.cos(np.pi * xy / half), axis=1)
    cells = np.clip(((xy + half) / side * n).astype(np.int64), 0, n - 1)
    raster = np.zeros((n, n))
    np.add.at(raster, (cells[:, 1], cells[:, 0]), weights)
    spectrum = np.abs(np.fft.rfft2(raster)) / max(weights.sum(), 1e-12)
    ky = np.fft.fftfreq(n, side / n)
    kx = np.fft.rfftfreq(n, side / n)
    speed = np.hypot(ky[:, None], kx[None, :]) * spacing
    spectrum[(speed < band[0]) | (speed > band[1])] = 0
    top = float(spectrum.max())
    if top < _LEAST:
        return None
    is_peak = (spectrum == maximum_filter(spectrum, 5, mode="wrap")) & (
        spectrum >= max(_LEAST, _COMPARABLE * top)
    )
    rows, cols = np.nonzero(is_peak)
    found = np.stack([kx[cols], ky[rows]], axis=1)
    length = np.hypot(found[:, 0], found[:, 1])
    order = np.lexsort((found[:, 1], found[:, 0], np.round(length * side)))
    first = found[order[0]]
    for other in found[order[1:]]:
        cross = abs(first[0] * other[1] - first[1] * other[0])
        if cross > 0.3 * np.hypot(*first) * np.hypot(*other):
            return np.stack([first, other])
    return None


def _refine(
    xy: NDArray[np.float64], K: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit waves to points by least squares on their wrapped phases."""
    design = np.concatenate([xy, np.ones((len(xy), 1))], axis=1)
    scale = np.maximum(np.abs(design).max(axis=0), 1e-12)
    inverse = np.linalg.pinv(design / scale)
    phi = np.zeros(2)
    for _ in range(_ROUNDS):
        turn = np.exp(2j * np.pi * (xy @ K.T))
        phi = -np.angle(turn.mean(axis=0)) / (2 * np.pi)
        rest = np.angle(turn * np.exp(2j * np.pi * phi)) / (2 * np.pi)
        step = (inverse @ rest) / scale[:, None]
        K = K - step[:2].T
        phi = phi - step[2]
        if float(np.abs(step[:2].T @ np.abs(xy).max(axis=0)).max()) < 1e-9:
            break
    return K, phi
