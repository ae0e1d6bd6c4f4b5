"""The leakage certificate of a build, or of several folders of grids against each other."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from stbuild.build.growth import GIVEN
from stbuild.build.inputs import BuildInputs
from stbuild.corpus import names
from stbuild.corpus.documents import ShardConfig
from stbuild.corpus.errors import BadInputError, StError, merge_errors
from stbuild.corpus.reader import open_corpus
from stbuild.grid.catalogue import read_catalogue
from stbuild.grid.store import StoredGrid
from stbuild.leakage import LeakageReport, Section, check_leakage, gather_sections
from stbuild.leakage.corpora import gather_corpus
from stbuild.leakage.windows import PlacedWindow
from stbuild.patches.cutting import plan_windows


def certify_build(inputs: BuildInputs) -> LeakageReport | None:
    """Look for data of one split in another; None where there is nothing to be kept apart.

    Every pair of slices is compared by content; the vocabulary must come from training slices;
    windows of slices that are parted by blocks must share no cell. In an evaluation corpus that
    is judged donor by donor, the slices of two donors are what must be apart.
    """
    config, splits = inputs.config, inputs.splits()
    by_donor = config.cover is not None and config.label_splits and _count_donors(inputs) > 1
    if len(set(splits.values()) - {names.BLOCKS}) < 2 and config.assign != "block" and not by_donor:
        return None
    grids = [StoredGrid(inputs.grid_path(meta.slug)) for meta in inputs.metas]
    pairs = {meta.slug: meta.pair for meta in inputs.metas}
    fitted = {}
    if not by_donor and any(rule != GIVEN for rule in inputs.growth.rule_names):
        fitted = {"vocabulary": [names.BLOCKS if config.assign == "block" else "train"]}
    return check_leakage(
        gather_sections(grids, splits, config.name, pairs),
        apart="donor" if by_donor else "split",
        windows=_place_windows(grids, config) if config.assign == "block" else (),
        fitted=fitted,
        allow=config.allow,
    )


def _count_donors(inputs: BuildInputs) -> int:
    return len({meta.donor for meta in inputs.metas if meta.n_labelled and meta.donor is not None})


def _place_windows(grids: Sequence[StoredGrid], config: ShardConfig) -> list[PlacedWindow]:
    """Return every window of every slice; raise for all slices that are too small, at once."""
    placed: list[PlacedWindow] = []
    errors: list[StError] = []
    for grid in grids:
        try:
            windows = plan_windows(grid, config)
        except BadInputError as error:
            errors.append(error)
            continue
        placed += [
            PlacedWindow(
                slug=grid.meta.slug,
                split=window.split or names.BLOCKS,
                row=window.row,
                col=window.col,
                side=config.window,
            )
            for window in windows
        ]
    if errors:
        raise merge_errors(errors)
    return placed


def certify_folders(folders: Sequence[Path], allow: Sequence[str]) -> LeakageReport:
    """Look for slices of one folder of grids in another, and between the splits of each.

    Parameters
    ----------
    folders
        Folders that ``stbuild compact`` wrote, or finished corpora with whole slices.
    allow
        Names of findings that are allowed.

    Raises
    ------
    BadInputError
        A folder without finished grids, a corpus without whole slices.
    """
    sections: list[Section] = []
    times: Counter[str] = Counter()
    for folder in folders:
        name = folder.absolute().name
        times[name] += 1
        name = name if times[name] == 1 else f"{name}-{times[name]}"
        if (folder / names.CORPUS_JSON).is_file():
            sections += gather_corpus(open_corpus(folder), name)
            continue
        grids = [StoredGrid(folder / entry.file_name) for entry in read_catalogue(folder).grids]
        splits = {grid.meta.slug: grid.meta.split for grid in grids}
        pairs = {grid.meta.slug: grid.meta.pair for grid in grids}
        sections += gather_sections(grids, splits, name, pairs)
    return check_leakage(sections, allow=allow)
