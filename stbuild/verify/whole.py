"""The verification of a finished corpus, from its files to its samples."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stbuild.corpus.errors import IntegrityError, Problem
from stbuild.corpus.reader import open_corpus
from stbuild.verify.claims import check_claims
from stbuild.verify.files import (
    check_checksums,
    check_extra,
    check_files,
    listed_files,
    read_release,
)
from stbuild.verify.samples import SampleChecker


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What was checked and what is wrong."""

    corpus_id: str
    n_files: int
    n_samples: int
    n_bytes: int
    problems: tuple[Problem, ...]


def verify_corpus(
    root: Path, *, quick: bool = False, done: Callable[[], None] = lambda: None
) -> VerifyReport:
    """Check a finished corpus.

    Parameters
    ----------
    root
        Corpus folder.
    quick
        Only sizes and SHA-256 of the files.
    done
        Called after each shard.

    Returns
    -------
    VerifyReport
        Its problems are empty where all is well.

    Raises
    ------
    BadInputError
        No finished corpus stands there.
    IntegrityError
        ``corpus.json`` itself is unreadable.
    """
    corpus = open_corpus(root)
    document = corpus.document
    problems: list[Problem] = []
    release = None
    try:
        release = read_release(corpus)
    except IntegrityError as error:
        problems += error.problems
    for check in (check_files, check_checksums, check_extra):
        problems += check(corpus, release)
    n_samples = 0
    if not quick:
        claims = check_claims(corpus, {str(problem.where) for problem in problems})
        problems += claims.problems
        checker = SampleChecker(corpus, claims)
        # Whole slices first: patches are compared with them.
        for split, kind in sorted(claims.indices, key=lambda pair: (pair[1] != "slice", pair[0])):
            index = claims.indices[split, kind]
            order = np.argsort(index.shard, kind="stable")
            ends = np.cumsum(np.bincount(index.shard, minlength=1))
            for number, shard in enumerate(document.shards_of(split, kind)):
                first = int(ends[number - 1]) if number else 0
                members = order[first : int(ends[number])] if number < ends.size else order[:0]
                problems += checker.check_shard(shard, index, members.tolist())
                n_samples += members.size
                done()
    listed = listed_files(document, release)
    return VerifyReport(
        corpus_id=document.corpus_id,
        n_files=len(listed) + 2,
        n_samples=n_samples,
        n_bytes=sum(size for size, _ in listed.values()),
        problems=tuple(problems),
    )
