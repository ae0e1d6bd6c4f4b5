"""The leakage certificate of a build, or of several folders of grids against each other."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from stbuild.catalogue import read_catalogue
from stbuild.inputs import BuildInputs
from stbuild.leakage import LeakageReport, Section, check_leakage, gather_sections
from stbuild.store import StoredGrid


def certify_build(inputs: BuildInputs) -> LeakageReport | None:
    """Look for data of one split in another; None where there is one split alone.

    Every pair of slices is compared by content; the vocabulary must come from training slices.
    """
    splits = inputs.splits()
    if len(set(splits.values())) < 2:
        return None
    grids = [StoredGrid(inputs.grid_path(meta.slug)) for meta in inputs.metas]
    pairs = {meta.slug: meta.pair for meta in inputs.metas}
    fitted = {} if inputs.vocabulary_rule == "given" else {"vocabulary": ["train"]}
    sections = gather_sections(grids, splits, inputs.config.name, pairs)
    return check_leakage(sections, fitted=fitted, allow=inputs.config.allow)


def certify_folders(folders: Sequence[Path], allow: Sequence[str]) -> LeakageReport:
    """Look for slices of one folder of grids in another, and between the splits of each.

    Parameters
    ----------
    folders
        Folders that ``stbuild compact`` wrote; each stands for a corpus.
    allow
        Names of findings that are allowed.

    Raises
    ------
    BadInputError
        A folder without finished grids.
    """
    sections: list[Section] = []
    times: Counter[str] = Counter()
    for folder in folders:
        name = folder.absolute().name
        times[name] += 1
        name = name if times[name] == 1 else f"{name}-{times[name]}"
        grids = [StoredGrid(folder / entry.file_name) for entry in read_catalogue(folder).grids]
        splits = {grid.meta.slug: grid.meta.split for grid in grids}
        pairs = {grid.meta.slug: grid.meta.pair for grid in grids}
        sections += gather_sections(grids, splits, name, pairs)
    return check_leakage(sections, allow=allow)
