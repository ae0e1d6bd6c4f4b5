"""Ids of spots: which ids are spots', which carry coordinates, and which two ids are the same.

Spots of ST arrays are called ``XxY`` after their array coordinates (X = column, Y = row), those of
other platforms after barcodes or numbers. No file is read here.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stbuild.slices import Unit

_LONGEST: Final = 200
"""Longer text is no id; patterns would be slow on it."""
_FEW: Final = 16
_WIDEST: Final = 10.0
"""Mean spacing beyond which coordinates in ids are no steps of an array."""
_NUMBER: Final = r"-?\d+(?:\.\d+)?"
_COORDINATES: Final = re.compile(
    rf"(?:(?P<prefix>.*?[A-Za-z].*?)[_\-:]|X)??(?P<x>{_NUMBER})x(?P<y>{_NUMBER})(?P<suffix>_\d+)?"
)
_UNDERSCORED: Final = re.compile(rf"X?(?P<x>{_NUMBER})_(?P<y>{_NUMBER})")
_BARCODE: Final = re.compile(r"(?:.*[^A-Za-z])?[ACGTN]{8,}(?:[^A-Za-z].*)?")
_SQUARE: Final = re.compile(r"s_\d{3}um_\d+_\d+(?:-\d+)?")
_PLAIN: Final = re.compile(r"(?:cell|spot|bead|bc|c|s|x|v)?[_.\- ]?\d+(?:[_.\-]\d+)*", re.I)
_GENE: Final = re.compile(r"ENS[A-Z]*[GT]\d{6,}(?:\.\d+)?|(?:MT|mt|Mt)-\w+")
_SUFFIX: Final = re.compile(r"(?P<stem>.*[ACGTN]{6,})[-.](?P<ending>\d+)")


@dataclass(frozen=True, kw_only=True)
class Coordinates:
    """Coordinates that stand in the ids themselves."""

    x: NDArray[np.float64]
    """(N,) x, or array column."""
    y: NDArray[np.float64]
    """(N,) y, or array row."""
    groups: tuple[str, ...]
    """Distinct prefixes and suffixes, sorted: more than one names several sections."""
    underscored: bool
    """Whether the ids have the form ``X_Y``, which numbers of other kinds have too."""

    @property
    def xy(self) -> NDArray[np.float64]:
        """(N, 2) coordinates (x, y)."""
        return np.stack([self.x, self.y], axis=1)

    @property
    def spacing(self) -> float:
        """Mean distance of neighbours, if the spots filled their bounding box."""
        width, height = (float(np.ptp(axis)) + 1 for axis in (self.x, self.y))
        return float(np.sqrt(width * height / self.x.size))

    @property
    def steps(self) -> bool:
        """Whether they are steps of an array: spots lie about one or two apart, not hundreds."""
        return self.x.size < _FEW or self.spacing <= _WIDEST

    @property
    def unit(self) -> Unit:
        """Unit of the coordinates."""
        return "array" if self.steps else "pixel"

    @property
    def whole(self) -> bool:
        """Whether all are integers."""
        return bool(np.all(self.x == np.round(self.x)) and np.all(self.y == np.round(self.y)))


def is_coordinates(name: str) -> bool:
    """Tell whether an id has the form of array coordinates, such as ``10x13``."""
    return _match(name) is not None


def is_spot(name: str) -> bool:
    """Tell whether an id is a barcode or array coordinates."""
    if len(name) > _LONGEST:
        return False
    return is_coordinates(name) or any(p.fullmatch(name) for p in (_BARCODE, _SQUARE))


def is_plain(name: str) -> bool:
    """Tell whether an id is a mere number, such as ``17`` or ``cell_17``."""
    return len(name) <= _LONGEST and _PLAIN.fullmatch(name) is not None


def is_gene(name: str) -> bool:
    """Tell whether an id is certainly a gene's."""
    return _GENE.fullmatch(name) is not None


def share(names: Sequence[str], test: Callable[[str], bool], most: int = 1000) -> float:
    """Return the share of ids that pass a test, taken over at most `most` of them."""
    step = max(1, len(names) // most)
    sample = names[::step]
    return sum(map(test, sample)) / len(sample) if sample else 0.0


def _match(name: str) -> re.Match[str] | None:
    if len(name) > _LONGEST:
        return None
    return _COORDINATES.fullmatch(name) or _UNDERSCORED.fullmatch(name)


def parse_coordinates(names: Sequence[str]) -> Coordinates | None:
    """Return the coordinates in the ids, or None unless every id has them."""
    found = []
    groups = set()
    for name in names:
        match = _match(name)
        if match is None:
            return None
        found.append((float(match["x"]), float(match["y"])))
        parts = match.groupdict()
        groups.add(f"{parts.get('prefix') or ''}{parts.get('suffix') or ''}")
    if not found:
        return None
    pair = np.asarray(found, np.float64)
    return Coordinates(
        x=pair[:, 0].copy(),
        y=pair[:, 1].copy(),
        groups=tuple(sorted(groups)),
        underscored=not any("x" in name for name in names),
    )


def _as_is(name: str) -> str:
    return name


def _mangled(name: str) -> str:
    """Return an id as R's ``make.names`` spells it."""
    changed = re.sub(r"[^A-Za-z0-9]", ".", name)
    return changed[1:] if re.match(r"X\d", changed) else changed


def _bare(name: str) -> str:
    """Return a barcode without the number of its sample or library (``-1``)."""
    match = _SUFFIX.fullmatch(name) if len(name) <= _LONGEST else None
    return match["stem"] if match else name


def endings_of(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return barcodes without the number of their sample, and that number, empty without one."""
    found = []
    for name in names:
        match = _SUFFIX.fullmatch(name) if len(name) <= _LONGEST else None
        found.append((match["stem"], match["ending"]) if match else (name, ""))
    return found


def match_ids(names: Sequence[str], keys: Sequence[str]) -> NDArray[np.int64]:
    """Return for each spot the row of a table with the same id, -1 where there is none.

    Ids are compared as they stand; then as R spells them (dots for hyphens, a leading X); then
    without the ``-1`` of barcodes. A looser comparison counts only if it finds more and confuses
    no two spots and no two rows that differ.

    Parameters
    ----------
    names
        (N,) spot ids.
    keys
        (R,) ids of the table; of repeated ones the first is found.
    """
    best = np.full(len(names), -1, np.int64)
    n_best = 0
    for form in (_as_is, _mangled, _bare):
        if n_best == len(names):
            break
        rows = _lookup(names, keys, form)
        n = -1 if rows is None else int(np.count_nonzero(rows >= 0))
        if rows is not None and n > n_best:
            best, n_best = rows, n
    return best


def _lookup(
    names: Sequence[str], keys: Sequence[str], form: Callable[[str], str]
) -> NDArray[np.int64] | None:
    where: dict[str, int] = {}
    for row, key in enumerate(keys):
        first = where.setdefault(form(key), row)
        if first != row and keys[first] != key:
            return None
    if form is not _as_is and len({form(name) for name in names}) < len(set(names)):
        return None
    return np.asarray([where.get(form(name), -1) for name in names], np.int64)


def match_points(
    spots: NDArray[np.float64], points: NDArray[np.float64]
) -> tuple[NDArray[np.int64], bool]:
    """Return for each row of a table the spot at its coordinates, and whether they were rounded.

    Coordinates are compared as they stand (to 1e-6). Where that finds less than half of the rows,
    they are compared rounded to whole numbers, provided that rounding brings no two spots together
    and finds more.

    Parameters
    ----------
    spots
        (N, 2) coordinates of the spots.
    points
        (R, 2) coordinates of the table, NaN where a row has none.

    Returns
    -------
    tuple
        (R,) spot of each row, -1 where there is none; whether rounded.
    """
    exact = _point_lookup(np.round(spots, 6), np.round(points, 6))
    n_exact = np.count_nonzero(exact >= 0)
    if 2 * n_exact >= np.count_nonzero(np.isfinite(points).all(axis=1)):
        return exact, False
    near = np.rint(spots)
    known = near[np.isfinite(near).all(axis=1)]
    if np.unique(known, axis=0).shape[0] < known.shape[0]:
        return exact, False
    rounded = _point_lookup(near, np.rint(points))
    better = np.count_nonzero(rounded >= 0) > n_exact
    return (rounded, True) if better else (exact, False)


def _point_lookup(spots: NDArray[np.float64], points: NDArray[np.float64]) -> NDArray[np.int64]:
    # Adding zero turns -0.0 into 0.0; NaN equals nothing, not even itself.
    where: dict[tuple[float, float], int] = {}
    for i, (x, y) in enumerate((spots + 0.0).tolist()):
        where.setdefault((x, y), i)
    return np.asarray([where.get((x, y), -1) for x, y in (points + 0.0).tolist()], np.int64)
