"""The lattice of a point set from its Fourier peaks: sharp for a lattice, absent for anything else.

A site jittered by up to a third of the pitch keeps 0.41 of its peak; N points without order have
peaks of about sqrt(log(M) / N). Missing rows, holes and islands change neither. Letters: K is
the (2, 2) reciprocal basis in cycles per unit, one wave a row; the phase of a point is K x + phi.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

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
_LEAST_SINE: Final = 0.3
"""Of the angle between two waves or steps that count as independent."""
_FEWEST_CELLS, _MOST_CELLS = 0.05, 10.0
"""Sites per squared nearest-neighbour distance beyond which a lattice is none of the points."""
_NEIGHBOURS: Final = 8
_ASKED: Final = 500
"""Points whose neighbours are looked at."""
_FARTHEST_STEP: Final = 2.5
"""Longest step between neighbours, in nearest-neighbour distances."""
_STEP_SPREAD: Final = 0.2
"""Steps that differ by less, in the same distances, are the same step."""
_ROUNDS: Final = 12
FEWEST: Final = 9
"""Fewer positions tell nothing."""
_MOST_STEPS: Final = 2.0**40
"""Factor between a pitch and the extent of all points beyond which it is none of theirs."""


@dataclass(frozen=True)
class Waves:
    """Two waves that every site of a lattice is in phase with."""

    K: NDArray[np.float64]
    """(2, 2) cycles per unit."""
    phi: NDArray[np.float64]
    """(2,) cycles."""
    amplitude: float
    """Of the weaker wave over all points, 0 to 1."""


def find_waves(xy: NDArray[np.float64], pitch: float | None = None) -> Iterator[Waves]:
    """Find the waves of the lattice that points lie on, the likeliest first.

    The peaks of the spectrum come first: they stand whatever the jitter. In a strip of few rows
    peaks are ridges, and many waves fit; there the steps between neighbours tell, if the jitter
    is small.

    Parameters
    ----------
    xy
        (N, 2) finite positions, at least `FEWEST`.
    pitch
        Distance of neighbouring sites, where known; else that of neighbouring points, and waves
        of any length about it are looked at.

    Yields
    ------
    Waves
        None where no two independent ones stand out.
    """
    spacing, band = (nearest_distance(xy), _ANY) if pitch is None else (pitch, _OF_PITCH)
    extent = float(np.ptp(xy, axis=0).max())
    if spacing is None or not spacing / _MOST_STEPS <= extent <= spacing * _MOST_STEPS:
        return
    centre, half = _densest(xy, spacing)
    near = xy[np.abs(xy - centre).max(axis=1) <= half]
    if len(near) < FEWEST:  # the pitch is far too small, as one in another unit is
        return
    K = _two_peaks(near - centre, spacing, half, band)
    if K is not None and (found := _grow(xy, near, K, spacing, half)) is not None:
        yield found
    K = _two_steps(near, spacing)
    if K is not None and (found := _grow(xy, near, K, spacing, half)) is not None:
        yield found


def _grow(
    xy: NDArray[np.float64],
    near: NDArray[np.float64],
    K: NDArray[np.float64],
    spacing: float,
    half: float,
) -> Waves | None:
    """Refit waves from a full region, where the guess is surely right, outward to all points.

    The middle of the tissue may be a hole.
    """
    reach = max(6 * spacing, half / 5)
    centre = _densest(near, spacing, side=2 * reach)[0]
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
    # In a strip of two rows waves may drift towards each other: then the cell grows without end.
    cells = abs(float(np.linalg.det(K))) * spacing**2
    sound = bool(np.isfinite(K).all()) and _FEWEST_CELLS < cells < _MOST_CELLS
    return Waves(K=K, phi=phi - K @ centre, amplitude=amplitude) if sound else None


def _two_steps(xy: NDArray[np.float64], spacing: float) -> NDArray[np.float64] | None:
    """Return the waves of the two commonest short steps between neighbours, (2, 2)."""
    from scipy.spatial import cKDTree  # late: slow to import, and array coordinates need none

    k = min(_NEIGHBOURS + 1, len(xy))
    some = xy[np.lexsort(xy.T)][:: max(1, len(xy) // _ASKED)]
    which = np.asarray(cKDTree(xy).query(some, k=k)[1])[:, 1:]
    steps = (xy[which] - some[:, None]).reshape(-1, 2)
    steps = steps[np.hypot(steps[:, 0], steps[:, 1]) < _FARTHEST_STEP * spacing]
    steps = np.concatenate([steps, -steps])
    if not len(steps):
        return None
    tree = cKDTree(steps)
    votes = np.atleast_1d(tree.query_ball_point(steps, _STEP_SPREAD * spacing, return_length=True))
    clusters: list[NDArray[np.float64]] = []
    for i in np.lexsort((steps[:, 1], steps[:, 0], -votes)).tolist():
        if votes[i] < votes.max() / 3 or len(clusters) == 2 * _NEIGHBOURS:
            break
        if all(np.hypot(*(steps[i] - other)) > _STEP_SPREAD * spacing for other in clusters):
            near = tree.query_ball_point(steps[i], _STEP_SPREAD * spacing)
            clusters.append(np.asarray(steps[near].mean(axis=0), np.float64))
    clusters.sort(key=lambda step: (round(float(np.hypot(*step)) / spacing, 3), *step))
    for other in clusters[1:]:
        if abs(_sine(clusters[0], other)) > _LEAST_SINE:
            return np.asarray(np.linalg.inv(np.stack([clusters[0], other])).T, np.float64)
    return None


def _sine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float((a[0] * b[1] - a[1] * b[0]) / (np.hypot(*a) * np.hypot(*b)))


def noise_level(n_points: int) -> float:
    """Return the amplitude that the highest of all waves reaches for points without order."""
    return float(np.sqrt(np.log(40.0 * max(n_points, 2)) / n_points))


def nearest_distance(xy: NDArray[np.float64]) -> float | None:
    """Return the median distance to the nearest other point."""
    step = max(1, len(xy) // 20_000)
    from scipy.spatial import cKDTree  # late, as above

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
    from scipy.ndimage import maximum_filter  # late, as above

    is_peak = (spectrum == maximum_filter(spectrum, 5, mode="wrap")) & (
        spectrum >= max(_LEAST, _COMPARABLE * top)
    )
    rows, cols = np.nonzero(is_peak)
    found = np.stack([kx[cols], ky[rows]], axis=1)
    length = np.hypot(found[:, 0], found[:, 1])
    order = np.lexsort((found[:, 1], found[:, 0], np.round(length * side)))
    first = found[order[0]]
    for other in found[order[1:]]:
        if abs(_sine(first, other)) > _LEAST_SINE:
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
