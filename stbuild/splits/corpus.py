"""Corpus splits: whole groups of slices to train, val, test; no group is ever parted.

A group is a donor, a section or a pair of adjacent sections. Blocks of one slice are
:mod:`stbuild.splits.masks`. What the groups do not tell (a donor under two names) is looked for
by :mod:`stbuild.leakage`.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Final, Literal, Protocol

from stbuild.corpus import names
from stbuild.corpus.errors import BadInputError, BadUsageError, Problem
from stbuild.draws import hashed_order
from stbuild.slices import Notice

Rule = Literal["donor", "section", "pair"]

_DRAWS: Final = 64
"""Orders of the groups that are tried; the one that comes nearest to the fractions is kept."""


_USUAL: Final = ("train", "val", "test")
_NEAR: Final = 0.7
"""Likeness from which another name looks like a slip of one of these."""


def doubtful_splits(splits: Sequence[str]) -> tuple[Notice, ...]:
    """Say which names of splits, one of every slice, look like slips of the usual ones.

    The slices of such a split are in the corpus, and nobody trains on them.
    """
    found = []
    for name, n in sorted(Counter(splits).items()):
        near = [] if name in _USUAL else get_close_matches(name, _USUAL, n=1, cutoff=_NEAR)
        if near:
            what = f"{n:,} of {len(splits):,} slices are in it; did you mean '{near[0]}'?"
            found.append(Notice(code="B121", subject=f"split '{name}'", what=what))
    return tuple(found)


class SplitMember(Protocol):
    """What a slice must tell to be assigned."""

    @property
    def slug(self) -> str:
        """Id of the slice."""
        ...

    @property
    def donor(self) -> str | None:
        """Donor."""
        ...

    @property
    def section(self) -> str | None:
        """Tissue section, unique within its donor."""
        ...

    @property
    def pair(self) -> str | None:
        """Pair of adjacent sections, unique within its donor."""
        ...

    @property
    def n_spots(self) -> int:
        """Observed spots."""
        ...


def assign_splits(
    metas: Sequence[SplitMember],
    rule: Rule,
    seed: int,
    fractions: Mapping[str, float],
    fixed: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Assign every slice to a split, group by group.

    Groups are taken in the order of their hash and each goes where the spots are then nearest to
    the fractions; of 64 orders the nearest is kept. Every split gets at least one group.

    Parameters
    ----------
    metas
        The slices, in any order.
    rule
        What is never parted: ``donor``; ``section`` (a slice without one is its own); ``pair``
        (a slice without one falls back to its section).
    seed
        Seed of the order.
    fractions
        Wanted share of the spots of each split; positive, together 1.
    fixed
        Splits of slices that were assigned before: their groups stay, so that a corpus can be
        extended.

    Returns
    -------
    dict
        Slug to split, slugs ascending.

    Raises
    ------
    BadUsageError
        Fractions that are not shares, or are of unusable names.
    BadInputError
        Unknown donors under ``donor``, fewer groups than splits, or a group that `fixed` parts.
    """
    _check_fractions(fractions)
    groups = _group(metas, rule)
    kept = _fixed_groups(groups, fixed or {}, fractions)
    sizes = {key: sum(meta.n_spots for meta in members) for key, members in groups.items()}
    if len(groups) < len(fractions):
        what = f"{len(groups)} groups by {rule}, {len(fractions)} splits are wanted"
        raise BadInputError(_problem("B122", "split", what, "ask for fewer splits"))
    total = sum(sizes.values())
    wanted = {name: fractions[name] * total for name in sorted(fractions)}
    draws = (
        _assign_groups(sizes, kept, wanted, hashed_order(f"split-{rule}", seed, ids))
        for ids in ([f"{key}\0{draw}" for key in sorted(groups)] for draw in range(_DRAWS))
    )
    best = min(draws, key=lambda found: _deviation(found, sizes, wanted))
    chosen = {meta.slug: best[key] for key, members in groups.items() for meta in members}
    return dict(sorted(chosen.items()))


def _assign_groups(
    sizes: Mapping[str, int],
    kept: Mapping[str, str],
    wanted: Mapping[str, float],
    order: Sequence[int],
) -> dict[str, str]:
    """Return the split of each group, taken in one order."""
    ids = sorted(sizes)
    found = dict(kept)
    filled = _fill(found, sizes, wanted)
    open_groups = [ids[i] for i in order if ids[i] not in kept]
    for left, key in zip(range(len(open_groups), 0, -1), open_groups, strict=True):
        empty = [name for name in filled if name not in found.values()]
        # The last groups belong to the splits that would otherwise stay empty.
        options = empty if left <= len(empty) else list(filled)
        # What a group adds to the squared deviation of a split: the least of it wins.
        found[key] = min(options, key=lambda name: sizes[key] + 2 * (filled[name] - wanted[name]))
        filled[found[key]] += sizes[key]
    return found


def _deviation(
    found: Mapping[str, str], sizes: Mapping[str, int], wanted: Mapping[str, float]
) -> float:
    """Return the sum of squared distances from the wanted spots, over all splits."""
    filled = _fill(found, sizes, wanted)
    return sum((filled[name] - wanted[name]) ** 2 for name in filled)


def _fill(
    found: Mapping[str, str], sizes: Mapping[str, int], wanted: Mapping[str, float]
) -> dict[str, int]:
    """Return the spots that each split holds so far."""
    filled = dict.fromkeys(sorted(wanted), 0)
    for key, name in found.items():
        filled[name] += sizes[key]
    return filled


def _group(metas: Sequence[SplitMember], rule: Rule) -> dict[str, list[SplitMember]]:
    if rule == "donor" and (unknown := sorted(m.slug for m in metas if m.donor is None)):
        what = f"{len(unknown)} of {len(metas)} slices have no donor, the first is '{unknown[0]}'"
        fix = "fill the column 'donor' of the sample sheet, or split by section"
        raise BadInputError(_problem("B120", "split by donor", what, fix))
    groups: dict[str, list[SplitMember]] = {}
    for meta in sorted(metas, key=lambda m: m.slug):
        groups.setdefault(_key(meta, rule), []).append(meta)
    return groups


def _key(meta: SplitMember, rule: Rule) -> str:
    donor = meta.donor or ""
    if rule == "donor":
        return f"donor\0{donor}"
    if rule == "pair" and meta.pair is not None:
        return f"pair\0{donor}\0{meta.pair}"
    if meta.section is not None:
        return f"section\0{donor}\0{meta.section}"
    return f"slice\0{meta.slug}"


def _fixed_groups(
    groups: Mapping[str, Sequence[SplitMember]],
    fixed: Mapping[str, str],
    fractions: Mapping[str, float],
) -> dict[str, str]:
    kept, problems = {}, []
    for key, members in groups.items():
        found = sorted({fixed[m.slug] for m in members if m.slug in fixed})
        if len(found) > 1:
            what = f"its group is already in {' and '.join(found)}"
            fix = "give all slices of the group the same split"
            problems.append(_problem("B123", f"slice '{members[0].slug}'", what, fix))
        elif found and found[0] not in fractions:
            what = f"it is already in split '{found[0]}', which has no fraction"
            fix = f"give '{found[0]}' a fraction"
            problems.append(_problem("B123", f"slice '{members[0].slug}'", what, fix))
        elif found:
            kept[key] = found[0]
    if problems:
        raise BadInputError(*problems)
    return kept


def _check_fractions(fractions: Mapping[str, float]) -> None:
    bad = [name for name in sorted(fractions) if not re.fullmatch(names.SPLIT_PATTERN, name)]
    low = [name for name in sorted(fractions) if not fractions[name] > 0]
    total = sum(fractions[name] for name in sorted(fractions))
    if bad or low or not abs(total - 1) <= 1e-9:
        what = f"shares {dict(fractions)!r}: each needs a plain name and more than 0, together 1"
        fix = "such as train=0.8, val=0.1, test=0.1"
        raise BadUsageError(_problem("B121", "split fractions", what, fix))


def _problem(code: str, subject: str, what: str, fix: str) -> Problem:
    return Problem(code=code, subject=subject, what=what, fix=fix)
