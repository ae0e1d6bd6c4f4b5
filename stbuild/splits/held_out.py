"""``donor-out`` and ``pair-out``: every group of slices is held out once.

One assignment per group: its slices test, those of all other groups train. Slices whose group is
unknown take no part, and the document names them.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from stbuild.corpus.split_documents import SplitAssignment
from stbuild.grid.grids import Grid
from stbuild.splits.codes import blank_codes, is_labelled

DONOR_RULE: Final = (
    "Each donor with labelled slices is held out once: its labelled spots test and those of all "
    "other donors train; test spots of a class without any training spot are not scored; slices "
    "of an unknown donor are undefined."
)
PAIR_RULE: Final = (
    "Each pair of adjacent sections with labelled slices is held out once: its labelled spots "
    "test and those of all other pairs train; test spots of a class without any training spot "
    "are not scored; slices without a pair are undefined."
)


def hold_out(
    grids: Sequence[Grid], groups: Mapping[str, str]
) -> tuple[tuple[SplitAssignment, ...], tuple[Grid, ...]]:
    """Hold out each group once.

    Parameters
    ----------
    grids
        Labelled slices.
    groups
        Group of each slug; a slice that is not in it takes no part.

    Returns
    -------
    assignments
        One per group, in the order of the names; none where fewer than two groups are known, or
        where no held-out group shares a class with the others.
    taking_part
        The slices that stand in them.
    """
    taking_part = tuple(grid for grid in grids if grid.meta.slug in groups)
    names = sorted({groups[grid.meta.slug] for grid in taking_part})
    if len(names) < 2:
        return (), ()
    found = []
    for number, name in enumerate(names):
        known = _known_classes([g for g in taking_part if groups[g.meta.slug] != name])
        slices = {
            grid.meta.slug: _codes(grid, known if groups[grid.meta.slug] == name else None)
            for grid in taking_part
        }
        found.append(SplitAssignment(seed=number, held_out=name, slices=slices))
    if not any("E" in codes for assignment in found for codes in assignment.slices.values()):
        return (), ()
    return tuple(found), taking_part


def _known_classes(train: Sequence[Grid]) -> frozenset[str]:
    """Return the names of the classes of some slices: codes differ between slices."""
    return frozenset(
        grid.meta.label_names[code]
        for grid in train
        for code in np.unique(grid.labels[is_labelled(grid)]).tolist()
    )


def _codes(grid: Grid, known: frozenset[str] | None) -> str:
    """Return the codes of a training slice, or of a held-out one, given the classes in training."""
    codes = blank_codes(grid)
    labelled = is_labelled(grid)
    if known is None:
        codes[labelled] = "T"
        return "".join(codes)
    scored = np.asarray([name in known for name in grid.meta.label_names], bool)
    codes[labelled] = np.where(scored[grid.labels[labelled]], "E", "x")
    return "".join(codes)
