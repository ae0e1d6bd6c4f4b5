"""The evaluation splits of a corpus, without the slices that are left out.

Rules within a slice do not look at others, so their codes stay. Where groups are held out, what the
other slices teach decides which test spots are scored, so those codes are made again from the
labels of the whole-slice samples.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus import names
from stbuild.corpus.documents import SliceEntry
from stbuild.corpus.reader import Corpus
from stbuild.corpus.split_documents import SplitAssignment, SplitDocument

Labels = Mapping[str, NDArray[np.int16]]


def cut_splits(corpus: Corpus, slices: Sequence[SliceEntry]) -> dict[str, bytes]:
    """Return the evaluation splits over the slices that stay, by path.

    A split that no longer has a slice, or a group to hold out, is dropped.

    Raises
    ------
    BadInputError
        Groups are held out, but the corpus has no whole-slice samples.
    """
    kept = {entry.slug for entry in slices}
    labels: Labels | None = None
    found: dict[str, bytes] = {}
    for name in corpus.evaluation_splits():
        old = corpus.evaluation_split(name)
        if any(assignment.held_out is not None for assignment in old.assignments):
            labels = _labels(corpus, kept) if labels is None else labels
            assignments = _hold_out(old.assignments, kept, labels)
        else:
            assignments = [_keep(assignment, kept) for assignment in old.assignments]
        barcodes = {slug: codes for slug, codes in old.barcodes.items() if slug in kept}
        if not assignments or not barcodes:
            continue
        document = SplitDocument(
            task=old.task,
            task_version=old.task_version,
            rule=old.rule,
            transductive=old.transductive,
            barcodes=barcodes,
            assignments=tuple(assignments),
            undefined={slug: why for slug, why in old.undefined.items() if slug in kept},
        )
        found[names.split_path(old.task, old.task_version)] = document.to_bytes()
    return found


def _keep(assignment: SplitAssignment, kept: set[str]) -> SplitAssignment:
    slices = {slug: codes for slug, codes in assignment.slices.items() if slug in kept}
    return assignment.model_copy(update={"slices": slices})


def _labels(corpus: Corpus, kept: set[str]) -> Labels:
    """Return (N,) label codes of each slice that stays; -1 is none."""
    wholes = (w for split in corpus.document.splits("slice") for w in corpus.whole_slices(split))
    return {whole.meta.slice: whole.labels for whole in wholes if whole.meta.slice in kept}


def _hold_out(
    assignments: Sequence[SplitAssignment], kept: set[str], labels: Labels
) -> list[SplitAssignment]:
    """Hold out each group that still has slices once; none where fewer than two have."""
    test_of = [
        sorted(slug for slug, codes in old.slices.items() if slug in kept and "T" not in codes)
        for old in assignments
    ]
    groups = [(old, test) for old, test in zip(assignments, test_of, strict=True) if test]
    if len(groups) < 2:
        return []
    found = []
    for number, (old, test) in enumerate(groups):
        train = [slug for slug in old.slices if slug in kept and slug not in test]
        classes = np.unique(np.concatenate([labels[slug] for slug in train]))
        slices = {
            slug: _score(codes, labels[slug], classes) if slug in test else codes
            for slug, codes in old.slices.items()
            if slug in kept
        }
        found.append(SplitAssignment(seed=number, held_out=old.held_out, slices=slices))
    scored = any("E" in codes for fold in found for codes in fold.slices.values())
    return found if scored else []


def _score(codes: str, labels: NDArray[np.int16], classes: NDArray[np.int16]) -> str:
    """Return the codes of a held-out slice: ``E`` where its class is in training, else ``x``."""
    known = np.isin(labels, classes).tolist()
    return "".join(
        "E" if code in "Ex" and scored else "x" if code in "Ex" else code
        for code, scored in zip(codes, known, strict=True)
    )
