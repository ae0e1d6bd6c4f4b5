"""The evaluation splits of a corpus, as the documents that are published."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from stbuild.corpus.documents import ShardConfig
from stbuild.corpus.split_documents import SplitAssignment, SplitDocument
from stbuild.grid.grids import Grid
from stbuild.splits.blocks import BLOCK_RULE, assign_block20, wide_rule, wide_seeds
from stbuild.splits.codes import N_SEEDS, is_labelled
from stbuild.splits.few_shot import SHOTS, assign_few_shot, few_shot_rule
from stbuild.splits.held_out import DONOR_RULE, PAIR_RULE, hold_out
from stbuild.splits.random20 import PAPER_RULE, assign_paper20

_WINDOW: Final = int(ShardConfig.model_fields["window"].default)


def evaluation_splits(
    grids: Sequence[Grid],
    window: int = _WINDOW,
    pairs: Mapping[str, str | None] | None = None,
) -> list[SplitDocument]:
    """Return the split documents for all labelled slices; none where no slice has labels.

    Always ``paper20``, ``block20`` and ``few-shot-1``, ``-5``, ``-20``; ``block20-wide`` where at
    least one slice can have it; ``donor-out`` and ``pair-out`` where at least two donors (pairs)
    are known.

    Parameters
    ----------
    grids
        The slices; counts are not looked at, and their order leaves no trace.
    window
        Side of a patch in cells: it decides the buffer of ``block20-wide``.
    pairs
        Pair of adjacent sections of each slug, where known.
    """
    labelled = sorted(
        (grid for grid in grids if bool(is_labelled(grid).any())), key=lambda g: g.meta.slug
    )
    if not labelled:
        return []
    found = [
        _by_seed("paper20", PAPER_RULE, labelled, assign_paper20),
        _by_seed("block20", BLOCK_RULE, labelled, assign_block20),
        _wide(labelled, window),
        _held_out("donor-out", DONOR_RULE, labelled, _donors(labelled), "its donor is unknown"),
        _held_out("pair-out", PAIR_RULE, labelled, _pairs(labelled, pairs or {}), "it has no pair"),
    ]
    found += [_few_shot(labelled, shots) for shots in SHOTS]
    return [document for document in found if document is not None]


def _by_seed(
    task: str, rule: str, grids: Sequence[Grid], assign: Callable[[Grid, int], str]
) -> SplitDocument:
    assignments = tuple(
        SplitAssignment(seed=seed, slices={grid.meta.slug: assign(grid, seed) for grid in grids})
        for seed in range(N_SEEDS)
    )
    return _document(task, rule, grids, assignments)


def _few_shot(grids: Sequence[Grid], shots: int) -> SplitDocument:
    return _by_seed(
        f"few-shot-{shots}",
        few_shot_rule(shots),
        grids,
        lambda grid, seed: assign_few_shot(grid, seed, shots),
    )


def _wide(grids: Sequence[Grid], window: int) -> SplitDocument | None:
    codes = {grid.meta.slug: wide_seeds(grid, window) for grid in grids}
    defined = [grid for grid in grids if codes[grid.meta.slug] is not None]
    if not defined:
        return None
    assignments = tuple(
        SplitAssignment(
            seed=seed, slices={slug: found[seed] for slug, found in codes.items() if found}
        )
        for seed in range(N_SEEDS)
    )
    reason = "no draw leaves 10 % of the test spots and two classes on both sides"
    undefined = {slug: reason for slug, found in codes.items() if found is None}
    return _document("block20-wide", wide_rule(window), defined, assignments, undefined=undefined)


def _held_out(
    task: str, rule: str, grids: Sequence[Grid], groups: Mapping[str, str], reason: str
) -> SplitDocument | None:
    assignments, taking_part = hold_out(grids, groups)
    if not assignments:
        return None
    undefined = {grid.meta.slug: reason for grid in grids if grid.meta.slug not in groups}
    # Windows never reach from one slice into another, so no feature crosses this border.
    return _document(task, rule, taking_part, assignments, undefined=undefined, transductive=False)


def _donors(grids: Sequence[Grid]) -> dict[str, str]:
    return {grid.meta.slug: grid.meta.donor for grid in grids if grid.meta.donor is not None}


def _pairs(grids: Sequence[Grid], pairs: Mapping[str, str | None]) -> dict[str, str]:
    """Return the pair of each slug; pairs of two donors are two, whatever their ids."""
    found = {}
    for grid in grids:
        pair, donor = pairs.get(grid.meta.slug), grid.meta.donor
        if pair is not None:
            found[grid.meta.slug] = pair if donor is None else f"{donor}/{pair}"
    return found


def _document(
    task: str,
    rule: str,
    grids: Sequence[Grid],
    assignments: tuple[SplitAssignment, ...],
    *,
    undefined: Mapping[str, str] | None = None,
    transductive: bool = True,
) -> SplitDocument:
    return SplitDocument(
        task=task,
        task_version=1,
        rule=rule,
        transductive=transductive,
        barcodes={grid.meta.slug: tuple(grid.barcodes) for grid in grids},
        assignments=assignments,
        undefined=dict(undefined or {}),
    )
