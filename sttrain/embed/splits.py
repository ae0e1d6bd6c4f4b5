"""Evaluation splits of a corpus: who trains and who is judged, by seed, over all labelled slices.

The splits themselves are frozen files of the corpus; nothing is drawn here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.reader import Corpus
from sttrain.embed.evaluation import EvaluationSet
from sttrain.errors import BadInputError, BadUsageError, IntegrityError, Problem

if TYPE_CHECKING:
    from stbuild.corpus.split_documents import SplitDocument

MIN_CLASS: Final = 5
"""A class with fewer labelled spots is not trained on; it is still scored."""
TRAIN: Final = ord("T")
TEST: Final = ord("E")
UNKNOWN: Final = ord("x")
"""A spot that is not scored, as no training spot has its class."""


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One seed of a split over the spots of its slices, one below the other. Letter: N spots."""

    seed: int
    codes: NDArray[np.uint8]
    """(N,) ASCII codes of the split document: T, E, b, x or a dot; all but T and E take no part."""
    held_out: str | None = None
    """Donor or pair that is judged, where a group is held out."""

    @property
    def train(self) -> NDArray[np.bool_]:
        """(N,) spots that train, before rare classes are left out."""
        return np.equal(self.codes, TRAIN)

    @property
    def test(self) -> NDArray[np.bool_]:
        """(N,) spots that are judged."""
        return np.equal(self.codes, TEST)

    @property
    def is_unknown(self) -> bool:
        """Whether a group is held out of whose classes none is known from the others."""
        unknown = bool(np.any(self.codes == UNKNOWN))
        return self.held_out is not None and unknown and not self.test.any()


@dataclass(frozen=True, kw_only=True)
class EvaluationSplit:
    """A split of the labelled slices of a corpus."""

    name: str
    """``task@version``."""
    digest: str
    """SHA-256 of the split file."""
    rule: str
    transductive: bool
    """Whether features of test spots may have been seen in training."""
    slugs: tuple[str, ...]
    """The labelled slices that take part, ascending; spots are numbered over them in this order."""
    offsets: tuple[int, ...]
    """First spot of each slice, and at last the number of spots."""
    labels: NDArray[np.int16]
    """(N,) label codes, -1 = none."""
    folds: tuple[Fold, ...]
    unknown_groups: tuple[str, ...] = ()
    """Groups that are not held out: none of their classes is known from the others."""

    @property
    def rare(self) -> tuple[int, ...]:
        """Label codes with fewer than 5 labelled spots over all slices."""
        codes, counts = np.unique(self.labels[self.labels >= 0], return_counts=True)
        return tuple(codes[counts < MIN_CLASS].tolist())

    def training_spots(self, fold: Fold) -> NDArray[np.int64]:
        """Return the spots to fit on: those of the fold, without rare classes."""
        return np.flatnonzero(fold.train & ~np.isin(self.labels, self.rare))

    def spots_of(self, slug: str) -> slice:
        """Return the range of the spots of one slice."""
        number = self.slugs.index(slug)
        return np.s_[self.offsets[number] : self.offsets[number + 1]]


def read_split(
    corpus: Corpus, data: EvaluationSet, name: str, n_seeds: int | None
) -> EvaluationSplit:
    """Read one evaluation split and check it against the slices.

    Parameters
    ----------
    corpus
        The corpus that holds the split.
    data
        Its slices.
    name
        ``task@version``, such as ``block20@1``.
    n_seeds
        The first so many seeds; all where it is none, and of groups that are held out always all.

    Raises
    ------
    BadUsageError
        No such split (the nearest name is suggested), or fewer seeds than asked for.
    IntegrityError
        The split speaks of other spots or labels than the slices have.
    """
    known = corpus.evaluation_splits()
    if name not in known:
        raise _unknown_split(name, known, corpus.document.name)
    document = corpus.evaluation_split(name)
    have = len(document.assignments)
    if any(assignment.held_out for assignment in document.assignments):
        n_seeds = None
    if n_seeds is not None and n_seeds > have:
        what = f"{n_seeds} seeds asked for, the split holds {have}"
        raise BadUsageError(_problem("V14", name, what, f"give --seeds {have} or fewer"))
    entry = next(f for f in corpus.document.files if f.path == f"splits/{name}.json")
    return assemble_split(document, data, name=name, digest=entry.sha256, n_seeds=n_seeds)


def assemble_split(
    document: "SplitDocument", data: EvaluationSet, *, name: str, digest: str, n_seeds: int | None
) -> EvaluationSplit:
    """Lay the seeds of a split document over the slices, one below the other.

    Raises
    ------
    IntegrityError
        Every disagreement of barcodes or labels at once.
    """
    slugs = tuple(sorted(document.barcodes))
    problems = [
        _problem("V11", name, what, "the corpus is damaged; get it again")
        for slug in slugs
        for what in _disagreements(document, data, slug)
    ]
    if problems:
        raise IntegrityError(*problems)
    counts = [len(document.barcodes[slug]) for slug in slugs]
    drawn = tuple(
        Fold(
            seed=assignment.seed,
            held_out=assignment.held_out,
            codes=np.frombuffer(
                "".join(assignment.slices[slug] for slug in slugs).encode(), np.uint8
            ),
        )
        for assignment in document.assignments[:n_seeds]
    )
    folds = tuple(fold for fold in drawn if not fold.is_unknown)
    return EvaluationSplit(
        name=name,
        digest=digest,
        rule=document.rule,
        transductive=document.transductive,
        slugs=slugs,
        offsets=(0, *np.cumsum(counts).tolist()),
        labels=np.concatenate(
            [np.empty(0, np.int16), *(data.slices[slug].labels for slug in slugs)]
        ),
        folds=folds,
        unknown_groups=tuple(str(fold.held_out) for fold in drawn if fold.is_unknown),
    )


def require_usable(splits: Sequence[EvaluationSplit], least: int) -> None:
    """Refuse splits on which no score means anything, before anything is fitted.

    Parameters
    ----------
    splits
        The splits to be judged on.
    least
        Training spots that a head needs, such as k of the nearest neighbours.

    Raises
    ------
    BadInputError
        Every problem at once: nothing to judge, one class only, too few training spots.
    """
    if problems := [problem for split in splits for problem in split_faults(split, least)]:
        raise BadInputError(*problems)


def split_faults(split: EvaluationSplit, least: int) -> list[Problem]:
    """Return why no score on a split means anything; nothing where it is usable."""
    faults: dict[tuple[str, str], list[int]] = {}
    for fold in split.folds:
        for fault in _fold_faults(split, fold, least):
            faults.setdefault(fault, []).append(fold.seed)
    if not split.folds:
        faults["V07", "no spot to judge"] = list(range(len(split.unknown_groups)))
    problems: list[Problem] = []
    for (code, what), seeds in faults.items():
        listed = ", ".join(map(str, seeds[:10]))
        few = "give a smaller --k, " if code == "V12" else ""
        fix = f"{few}leave this split out, or label more spots"
        problems.append(_problem(code, split.name, f"{what} (seeds {listed})", fix))
    return problems


def _fold_faults(split: EvaluationSplit, fold: Fold, least: int) -> list[tuple[str, str]]:
    spots = split.training_spots(fold)
    faults: list[tuple[str, str]] = []
    if not fold.test.any():
        faults.append(("V07", "no spot to judge"))
    if np.unique(split.labels[spots]).size < 2:
        faults.append(("V09", f"fewer than two classes of {MIN_CLASS} or more spots to train on"))
    if spots.size < least:
        faults.append(("V12", f"{spots.size} training spots, at least {least} are needed"))
    return faults


def _disagreements(document: "SplitDocument", data: EvaluationSet, slug: str) -> list[str]:
    if slug not in data.slices:
        return [f"slice '{slug}' is not in the corpus"]
    if data.barcodes(slug) != tuple(document.barcodes[slug]):
        return [f"slice '{slug}': its barcodes are not those of the whole slice"]
    labelled = data.slices[slug].labels >= 0
    found: list[str] = []
    for assignment in document.assignments:
        codes = np.frombuffer(assignment.slices.get(slug, "").encode(), np.uint8)
        if codes.size != labelled.size:
            found.append(f"slice '{slug}', seed {assignment.seed}: no assignment")
        elif bool(np.any(((codes == TRAIN) | (codes == TEST)) & ~labelled)):
            found.append(f"slice '{slug}', seed {assignment.seed}: unlabelled spots take part")
    return found


def _unknown_split(name: str, known: Sequence[str], corpus: str) -> BadUsageError:
    near = get_close_matches(name, known, n=1, cutoff=0.3)
    hint = f"did you mean '{near[0]}'? " if near else ""
    listed = ", ".join(known) or "none; it has no labelled slice"
    fix = f"{hint}splits of corpus '{corpus}': {listed}"
    return BadUsageError(_problem("V14", name, "the corpus has no such split", fix))


def _problem(code: str, name: str, what: str, fix: str) -> Problem:
    return Problem(code=code, subject=f"split '{name}'", what=what, fix=fix)
