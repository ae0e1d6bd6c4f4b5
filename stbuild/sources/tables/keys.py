"""Which column of a table names the spots: the one whose values are theirs.

A usual name is no proof: pandas and R write row numbers in front, under no name or as ``index``,
and cells are called by numbers too. So every column that may hold ids is compared with the spots.
"""

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stbuild.sources.faults import SourceFaultError
from stbuild.sources.tables.columns import find_composite, find_ids, fold, is_vague
from stbuild.sources.tables.preview import Preview, is_number

_CERTAIN, _VAGUE, _UNUSUAL, _NUMBERS = range(4)
"""How much a column's name and values speak for ids, best first."""
_HALF: Final = 2


@dataclass(frozen=True, kw_only=True)
class Key:
    """One column, or several joined, that may hold the ids of the spots."""

    name: str
    """Name of the column, as messages call it."""
    values: list[str]
    """(R,) ids."""
    rank: int = _CERTAIN

    @property
    def usual(self) -> bool:
        """Whether the column is called as columns of ids are."""
        return self.rank in (_CERTAIN, _VAGUE)

    @property
    def numbers_rows(self) -> bool:
        """Whether the values may be mere row numbers, which name no spot."""
        return self.rank == _NUMBERS

    @property
    def names_rows(self) -> bool:
        """Whether the rows surely have names, so that their order says nothing."""
        if self.usual:
            return not counts_up(self.values)
        return self.rank == _UNUSUAL and not all(map(is_number, self.values))


@dataclass(frozen=True, kw_only=True)
class Found:
    """The key that finds most spots."""

    key: Key
    matches: NDArray[np.int64]
    """What the comparison returned for it, -1 where there is nothing."""


def counts_up(values: Sequence[str]) -> bool:
    """Tell whether values are the row numbers in order, from 0 or from 1."""
    return any(
        len(values) > 0 and all(value == str(i) for i, value in enumerate(values, start))
        for start in (0, 1)
    )


def key_columns(preview: Preview, taken: Set[int]) -> list[tuple[int, ...]]:
    """Return the columns that may hold the ids of spots: those of a usual name first.

    Parameters
    ----------
    preview
        The table; without a header all names are unusual.
    taken
        Columns that are known to hold something else, such as coordinates.
    """
    names = preview.names
    composite = None if names is None else find_composite(names)
    usual = [i for i in find_ids(names or ()) if i not in taken]
    rest = set(range(preview.n_fields)) - {*usual, *taken, *(composite or ())}
    others = [i for i in sorted(rest) if _may_name(preview, i)]
    return [*([composite] if composite else []), *((i,) for i in (*usual, *others))]


def _may_name(preview: Preview, i: int) -> bool:
    """Tell whether the first values of a column all differ and have the form of ids."""
    values = [value.strip() for value in preview.column(i)]
    plain = all(not is_number(value) or value.isdecimal() for value in values)
    return plain and _differ(values)


def make_keys(
    columns: Sequence[tuple[tuple[str, ...], list[str]]], inside: NDArray[np.bool_] | None = None
) -> tuple[Key, ...]:
    """Return columns as keys; one of an unusual name counts only if its values differ.

    Parameters
    ----------
    columns
        Names and values of each; an id of several columns has several names.
    inside
        (R,) rows among which values must differ; None takes all.
    """
    found = []
    rows = None if inside is None else np.flatnonzero(inside).tolist()
    for names, values in columns:
        among = values if rows is None else [values[i] for i in rows]
        rank = _rank(names, values, among)
        if rank is not None:
            found.append(Key(name=" and ".join(names), values=values, rank=rank))
    return tuple(found)


def sure_key(name: str, values: list[str]) -> Key:
    """Return a column of an unusual name that holds ids because nothing else does."""
    return Key(name=name, values=values, rank=_NUMBERS if counts_up(values) else _UNUSUAL)


def _rank(names: tuple[str, ...], values: Sequence[str], among: Sequence[str]) -> int | None:
    name = fold(names)[0]
    if len(names) > 1 or (find_ids([name]) and not is_vague(name)):
        return _CERTAIN
    if is_vague(name):
        wanted = (range(start, start + len(values)) for start in (0, 1))
        own = set(values)
        return _NUMBERS if any(own == {str(i) for i in rows} for rows in wanted) else _VAGUE
    if not _differ(among):
        return None
    return _NUMBERS if counts_up(values) else _UNUSUAL


def _differ(values: Sequence[str]) -> bool:
    """Tell whether values may be ids: numbers that all differ, or text that mostly does."""
    n = len(set(values))
    if all(value.isdecimal() for value in values):
        return n == len(values)
    return _HALF * n > len(values)


def best_key(
    keys: Sequence[Key],
    match: Callable[[Key], NDArray[np.int64]],
    n_most: int,
    fault: tuple[str, str],
) -> Found | None:
    """Return the key that finds most spots, or None if none finds any.

    Among equals a column of a usual name is preferred. Row numbers never win over a column that is
    certainly called as ids are, whatever they match.

    Parameters
    ----------
    keys
        The columns.
    match
        Compares a key with the spots: entries of what is found, -1 where there is nothing. The
        number of distinct entries from 0 on is what counts.
    n_most
        What a key can find at most, so that the others need not be looked at.
    fault
        Code and table, for messages.

    Raises
    ------
    SourceFaultError
        The given code: two columns find equally much and contradict each other.
    """
    certain = [key for key in keys if key.rank == _CERTAIN]
    found = [Found(key=key, matches=match(key)) for key in certain]
    n_best = max(map(_count, found), default=0)
    if n_best < n_most:
        passed_over = {_CERTAIN} | ({_VAGUE} if n_best else set())
        passed_over |= {_NUMBERS} if certain else set()
        rest = [key for key in keys if key.rank not in passed_over]
        found += [Found(key=key, matches=match(key)) for key in rest]
    found = [entry for entry in found if _count(entry)]
    if not found:
        return None
    best = min(found, key=_order)
    for other in found:
        same = _order(other) == _order(best)
        if same and not np.array_equal(other.matches, best.matches):
            raise _contradiction(best, other, fault)
    return best


def _count(found: Found) -> int:
    return int(np.unique(found.matches[found.matches >= 0]).size)


def _order(found: Found) -> tuple[int, int]:
    return -_count(found), found.key.rank


def _contradiction(one: Found, two: Found, fault: tuple[str, str]) -> SourceFaultError:
    what = (
        f"columns {one.key.name!r:.60} and {two.key.name!r:.60} name {_count(one):,} spots each, "
        "and not the same rows by the same names"
    )
    fix = "leave the column out that does not hold the ids of the spots"
    return SourceFaultError(*fault, what, fix)


def require_plausible(found: Found, n_spots: int, where: str) -> None:
    """Refuse a column of an unusual name that finds some spots and not most: it may be chance.

    Raises
    ------
    SourceFaultError
        B047: less than half of the spots and of the rows are found by it.
    """
    n = _count(found)
    if found.key.usual or _HALF * n >= min(n_spots, len(found.key.values)):
        return
    what = (
        f"no column is called as ids are, and {found.key.name!r:.60} names {n:,} of the "
        f"{n_spots:,} spots alone"
    )
    fix = "call the column with the ids of the spots `barcode` or `cell_id`"
    raise SourceFaultError("B047", where, what, fix)
