"""Points on lattices of every kind: turned, mirrored, jittered, with holes; and points on none."""

import numpy as np

KINDS = ("square", "hex", "quincunx")


def sites(kind: str, rows: int = 40, cols: int = 36) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return array rows and columns and positions with pitch 1."""
    row, col = np.divmod(np.arange(rows * cols), cols)
    if kind == "square":
        return row, col, np.stack([col, row], axis=1).astype(float)
    col = 2 * col + row % 2
    if kind == "hex":
        return row, col, np.stack([col / 2, row * np.sqrt(3) / 2], axis=1)
    return row, col, np.stack([col * 108.2, row * 120.3], axis=1) / 161.8


def holes(row: np.ndarray, col: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return which sites are kept: some are missing, some rows, and a hole in the tissue."""
    kept = rng.random(row.size) > 0.15
    kept &= ~((row > row.max() * 0.25) & (row < row.max() * 0.36))
    middle = np.abs(col - col.mean()) < col.max() / 12
    kept &= ~(middle & (row > row.max() / 2))
    return np.asarray(kept)


def jitter(xy: np.ndarray, radius: float, rng: np.random.Generator) -> np.ndarray:
    """Move every point uniformly within a disc of `radius` pitches."""
    angle = rng.random(len(xy)) * 2 * np.pi
    away = radius * np.sqrt(rng.random(len(xy)))
    return xy + np.stack([away * np.cos(angle), away * np.sin(angle)], axis=1)


def turn(xy: np.ndarray, degrees: float, *, mirrored: bool = False) -> np.ndarray:
    """Turn, maybe mirror, scale and shift points."""
    a = np.radians(degrees)
    rotation = np.asarray([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    turned = (xy * [1, -1 if mirrored else 1]) @ rotation.T
    return np.asarray(turned * 137.0 + [5000.0, -300.0])


def share_recovered(
    found: tuple[np.ndarray, np.ndarray], true: tuple[np.ndarray, np.ndarray]
) -> float:
    """Return the share of spots whose indices are the true ones up to the lattice's symmetry."""
    design = np.stack([*found, np.ones(found[0].size)], axis=1).astype(float)
    wanted = np.stack(true, axis=1).astype(float)
    fit, *_ = np.linalg.lstsq(design, wanted, rcond=None)
    fit = np.rint(fit * 2) / 2  # symmetries of these lattices have whole or half entries
    return float(np.all(design @ fit == wanted, axis=1).mean())
