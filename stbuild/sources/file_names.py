"""Files as vendors name them, and as archives rename them: a sample in front, gzip behind.

GEO and 10x's own download pages put all files of a sample into one folder, such as
``GSM1_A_matrix.mtx.gz`` beside ``GSM1_A_tissue_positions_list.csv.gz``. What is in a file is not
known here.
"""

from collections.abc import Sequence
from pathlib import Path

from stbuild.sources.faults import SourceFaultError


def plain_name(path: Path) -> str:
    """Return a file's name without the ``.gz`` of a packed one."""
    return path.name.removesuffix(".gz")


def sample_of(path: Path, stem: str) -> str:
    """Return what stands in front of a vendor's name, the separator included: ``GSM1_A_``."""
    return plain_name(path).partition(stem)[0]


def find_named(folder: Path, stems: Sequence[str]) -> list[tuple[Path, str]]:
    """Return the files of a folder that a vendor calls by one of some names, with that name.

    Parameters
    ----------
    folder
        Where to look; may be missing.
    stems
        Names in order of preference.

    Returns
    -------
    list of (path, stem)
        The first file of the very name, alone; else all with a sample in front, sorted.
    """
    if not folder.is_dir():
        return []
    for stem in stems:
        for path in (folder / stem, folder / f"{stem}.gz"):
            if path.is_file():
                return [(path, stem)]
    try:
        files = sorted(path for path in folder.iterdir() if path.is_file())
    except PermissionError:  # the reader that is asked last says so
        return []
    return [
        (path, stem)
        for stem in stems
        for path in files
        if plain_name(path).endswith(stem) and sample_of(path, stem)[-1:] in ("_", "-", ".")
    ]


def choose_named(folder: Path, stems: Sequence[str], sample: str) -> Path | None:
    """Return the one file of a sample that a vendor calls by one of some names, or None.

    A file of another sample is never taken: all slides of a vendor share their barcodes, so the
    positions of one would seem to fit the counts of another.

    Parameters
    ----------
    folder, stems
        As for :func:`find_named`.
    sample
        What stands in front of the name of the matrix; empty takes any.

    Raises
    ------
    SourceFaultError
        B056: several may be meant.
    """
    found = find_named(folder, stems)
    own = [(p, s) for p, s in found if not sample or sample_of(p, s) in ("", sample)]
    samples = {sample_of(path, stem) for path, stem in own}
    if len(samples) > 1:
        listed = ", ".join(path.name[:60] for path, _ in own[:5])
        what = f"{len(samples)} samples have {own[0][1]}: {listed}"
        fix = "give the one matrix itself as the path, and --positions FILE where it is not clear"
        raise SourceFaultError("B056", folder.name, what, fix)
    return own[0][0] if own else None
