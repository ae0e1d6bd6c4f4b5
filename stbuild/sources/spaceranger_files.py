"""Which files of a Space Ranger run belong to one section: matrix, positions, scale factors.

Told by names alone, in every generation's layout and as archives rename them. Filtered matrices
are preferred to raw ones and ``.h5`` to ``.mtx``; what was taken is said.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stbuild.corpus.paths import look_at
from stbuild.slices import Notice, SliceRecord
from stbuild.sources.faults import Faults, SourceFaultError
from stbuild.sources.file_names import choose_named, find_named, plain_name, sample_of
from stbuild.sources.tissue_positions import NAMES

_KINDS: Final = ("filtered", "raw")
_SCALE: Final = "scalefactors_json.json"
_MTX: Final = "matrix.mtx"
_SEGMENTED: Final = "filtered_feature_cell_matrix.h5"


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """What belongs to one section."""

    matrix: Path
    """An ``.h5`` file, a folder with ``matrix.mtx``, or that file itself."""
    positions: Path
    scalefactors: Path | None
    part: str | None
    """What the record's ``part`` names beside a bin size: one of several samples."""
    notices: tuple[Notice, ...]


def looks_like_spaceranger(path: Path) -> bool:
    """Tell by names alone whether a path is an output of Space Ranger."""
    if not path.is_dir():
        return path.is_file() and plain_name(path).endswith(_MTX)
    for root in (path, path / "outs"):
        if find_named(root / "spatial", NAMES) or _bins(root) or _matrices(root, None):
            return True
        if (root / "raw_probe_bc_matrix.h5").is_file() or find_named(root, (_SEGMENTED,)):
            return True
    named = path.name.endswith("_feature_bc_matrix") or path.parent.name.endswith("_bc_matrices")
    return (named and _is_mtx(path)) or bool(find_named(path, NAMES))


def find_files(record: SliceRecord, layer: str | None) -> RunFiles:
    """Find matrix and positions of a run.

    Parameters
    ----------
    record
        Its folder, or the matrix itself; ``part`` names one of several bin sizes.
    layer
        ``filtered`` or ``raw``; None prefers the first.

    Raises
    ------
    BadInputError
        What is missing of both, at once.
    SourceFaultError
        B056: several bin sizes or samples. B023: the matrix itself was given, which is not the
        layer.
    """
    path, faults = Path(record.path), Faults()
    notices: tuple[Notice, ...] = ()
    matrix: Path | None = path
    if path.is_dir() and not _is_mtx(path):
        root = _choose_bins(_enter(path), record.part)
        matrix = faults.attempt(lambda: _choose_matrix(root, layer))
        if matrix is not None:
            notices = _choice_notice(record, root, matrix)
    else:
        _require_layer(path, layer)
        root = path.parent.parent if path.parent.name.endswith("_bc_matrices") else path.parent
    places = [root / "spatial", root, root.parent / "spatial", path]
    sample = "" if matrix is None else _sample_of_matrix(matrix)
    positions = faults.attempt(lambda: _find_positions(record, root, places, sample))
    if matrix is None or positions is None:
        raise faults.error(record.name, record.path)
    found = (choose_named(place, (_SCALE,), sample) for place in places)
    scale = next((file for file in found if file is not None), None)
    is_bin = path.is_dir() and (bool(_bins(_enter(path))) or record.part == root.name)
    return RunFiles(
        matrix=matrix,
        positions=positions,
        scalefactors=scale,
        part=None if is_bin else record.part,
        notices=notices,
    )


def _require_layer(matrix: Path, layer: str | None) -> None:
    """Refuse a layer that the matrix which was given is not."""
    names = matrix.name, matrix.parent.name
    stems = [f"{layer}_{what}_bc_matri" for what in ("feature", "gene")]
    if layer is not None and not any(stem in name for stem in stems for name in names):
        what = f"no layer {layer!r:.40}: {matrix.name!r:.80} itself was given"
        fix = "leave out --layer, or give the folder in which the matrices stand"
        raise SourceFaultError("B023", matrix.name, what, fix)


def _sample_of_matrix(matrix: Path) -> str:
    for stem in (*(f"{kind}_feature_bc_matrix" for kind in _KINDS), _MTX):
        if stem in matrix.name:
            return sample_of(matrix, stem)
    return ""


def _enter(path: Path) -> Path:
    outs = path / "outs"
    return outs if outs.is_dir() and not _matrices(path, None) else path


def _bins(root: Path) -> list[Path]:
    """Return the folders of the bin sizes of a Visium HD run, sorted; none of any other."""
    folder = root if root.name == "binned_outputs" else root / "binned_outputs"
    return sorted(entry for entry in folder.glob("square_*um") if entry.is_dir())


def _choose_bins(root: Path, part: str | None) -> Path:
    """Return the folder of one bin size of a Visium HD run, or the folder itself."""
    bins = {folder.name: folder for folder in _bins(root)}
    if not bins:
        return root  # a part may be one of several samples
    digits = "".join(c for c in part or "" if c.isdecimal())
    wanted = (part, f"square_{int(digits):03d}um" if digits else None)
    chosen = next((name for name in wanted if name in bins), None)
    if chosen is None and part is None and len(bins) == 1:
        chosen = next(iter(bins))
    if chosen is not None:
        return bins[chosen]
    what = f"{len(bins)} bin sizes: {', '.join(bins)}" + (f"; no {part!r:.40}" if part else "")
    fix = (
        f"give one of the folders, such as binned_outputs/{list(bins)[-1]}, or name it in the "
        "column `part` of a sample sheet"
    )
    raise SourceFaultError("B056", "binned_outputs", what, fix)


def _is_mtx(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (f"{_MTX}.gz", _MTX))


def _matrices(root: Path, layer: str | None) -> list[list[Path]]:
    """Return the matrices of a folder in groups, the preferred group first, none of them empty."""
    groups: list[list[Path]] = []
    for kind in _KINDS if layer is None else (layer,):
        stems = f"*{kind}_feature_bc_matrix", f"*{kind}_gene_bc_matrices"
        groups.append(
            sorted(file for stem in stems for file in root.glob(f"{stem}*.h5") if file.is_file())
        )
        folders = [f for stem in stems for f in sorted(root.glob(stem)) if f.is_dir()]
        inside = [entry for folder in folders for entry in (folder, *sorted(folder.iterdir()))]
        groups.append(sorted(entry for entry in inside if entry.is_dir() and _is_mtx(entry)))
    if layer is None:  # all files of a sample in one folder, with its name in front
        groups.append([path for path, _ in find_named(root, (_MTX,))])
    return [group for group in groups if group]


def _choose_matrix(root: Path, layer: str | None) -> Path:
    if layer not in (None, *_KINDS):
        what = f"no layer {layer!r:.40}: Space Ranger has 'filtered' and 'raw' matrices"
        raise SourceFaultError("B023", root.name, what, "--layer filtered or raw, or none")
    groups = _matrices(root, layer)
    if not groups:
        raise _no_matrix(root, layer)
    several = groups[0]
    if len({_sample_of_matrix(path) for group in groups for path in group}) > 1:
        several = [path for group in groups for path in group]
    if len(several) > 1:
        listed = ", ".join(path.relative_to(root).as_posix() for path in several[:5])
        what = f"{len(several)} matrices of different samples or genomes: {listed}"
        raise SourceFaultError("B056", root.name, what, "give the one matrix itself as the path")
    return groups[0][0]


def _no_matrix(root: Path, layer: str | None) -> SourceFaultError:
    if (root / "raw_probe_bc_matrix.h5").is_file():
        what = "a matrix of probes alone"
        fix = "give filtered_feature_bc_matrix.h5 of the same run, where probes are summed"
        return SourceFaultError("B007", "raw_probe_bc_matrix.h5", what, fix)
    if find_named(root, (_SEGMENTED,)):
        what = "cells of segmented_outputs, whose places are outlines in a .geojson file"
        fix = "give binned_outputs/square_008um of the same run"
        return SourceFaultError("B007", _SEGMENTED, what, fix)
    listed = ", ".join(sorted(entry.name[:60] for entry in root.iterdir())[:6]) or "nothing"
    stem = "filtered_ or raw_" if layer is None else f"{layer}_"
    what = f"no counts: no {stem}feature_bc_matrix (.h5 or folder); it holds {listed}"
    packed = sorted(file.name for file in root.glob("*_bc_matrix*.tar.gz"))
    fix = f"unpack {packed[0]}" if packed else "give the whole outs folder of Space Ranger"
    return SourceFaultError("B023", root.name, what, fix)


def _choice_notice(record: SliceRecord, root: Path, taken: Path) -> tuple[Notice, ...]:
    found = [path for group in _matrices(root, None) for path in group if path != taken]
    if not found:
        return ()
    others = ", ".join(path.relative_to(root).as_posix() for path in found[:3])
    what = (
        f"took {taken.relative_to(root).as_posix()}; {others} beside it were not read "
        "(--layer raw or filtered chooses)"
    )
    return (Notice(code="B025", subject=f"slice '{record.name}'", what=what),)


def _find_positions(record: SliceRecord, root: Path, places: list[Path], sample: str) -> Path:
    if record.positions is not None:
        given = Path(record.positions)
        if not (look := look_at(given)).is_file:
            what = look.fault or "not a regular file"
            raise SourceFaultError("B001", given.name, what, "check --positions")
        return given
    for place in places:
        if (found := choose_named(place, NAMES, sample)) is not None:
            return found
    what = f"no positions: none of {', '.join(NAMES)} in spatial/"
    if sample:
        what += f", with or without {sample!r:.60} in front"
    raise SourceFaultError("B046", root.name, what, "add it, or name the table with --positions")
