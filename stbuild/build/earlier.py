"""The shards of a corpus that is extended: taken over byte for byte, never written again."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from stbuild.build.parts import Sample
from stbuild.build.shards import ShardPlan
from stbuild.corpus.digests import sha256_file
from stbuild.corpus.documents import Kind, ShardEntry
from stbuild.corpus.durable import guard_disk, partial_name, sync_directory, write_durable
from stbuild.corpus.errors import IntegrityError, Problem
from stbuild.corpus.index import SampleIndex
from stbuild.corpus.reader import Corpus


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """What stands already of a corpus."""

    corpus: Corpus
    plans: tuple[ShardPlan, ...]
    """Plan of every shard, read back from the index."""

    @property
    def n_generations(self) -> int:
        """Generations of the corpus."""
        return len(self.corpus.document.vocabulary.sizes)

    def take_over(self, out: Path) -> dict[str, ShardEntry]:
        """Put every shard into another corpus folder: a hard link, or a copy, checked either way.

        Returns
        -------
        dict
            Entry of each shard by its path.

        Raises
        ------
        IntegrityError
            Shards that are missing or damaged, all of them at once.
        ResourceError
            The disk refuses.
        """
        problems: list[Problem] = []
        for shard in self.corpus.document.shards:
            try:
                guard_disk(out / shard.path, partial(put_shard, self.corpus.root, out, shard))
            except IntegrityError as error:
                problems += error.problems
        if problems:
            raise IntegrityError(*problems)
        return {shard.path: shard for shard in self.corpus.document.shards}


def read_earlier(corpus: Corpus) -> Earlier:
    """Read the plan of every shard of a corpus from its indices.

    Raises
    ------
    IntegrityError
        An index is damaged.
    """
    document = corpus.document
    plans: list[ShardPlan] = []
    for split, kind in sorted({(shard.split, shard.kind) for shard in document.shards}):
        index = corpus.index(split, kind)
        shards = document.shards_of(split, kind)
        for number, shard in enumerate(shards):
            plans.append(_plan(shard, index, np.flatnonzero(index.shard == number).tolist()))
    return Earlier(corpus=corpus, plans=tuple(plans))


def _plan(shard: ShardEntry, index: SampleIndex, rows: Sequence[int]) -> ShardPlan:
    return ShardPlan(
        path=shard.path,
        split=shard.split,
        kind=shard.kind,
        generation=shard.generation,
        licence=shard.licence,
        samples=tuple((index.slices[i], _sample(shard.split, shard.kind, index, i)) for i in rows),
    )


def _sample(split: str, kind: Kind, index: SampleIndex, i: int) -> Sample:
    return Sample(
        key=index.keys[i],
        kind=kind,
        split=split,
        offset=int(index.offset[i]),
        size=int(index.size[i]),
        sha256=index.sha256[i].tobytes().hex(),
        content=index.content[i].tobytes().hex(),
        row=int(index.row[i]),
        col=int(index.col[i]),
        draw=int(index.draw[i]),
        observed=int(index.observed[i]),
    )


def put_shard(root: Path, out: Path, shard: ShardEntry) -> None:
    """Put a shard of one folder into another: a hard link, or a copy, checked either way.

    Raises
    ------
    IntegrityError
        It is missing or damaged.
    """
    source, target = root / shard.path, out / shard.path
    if not _is_whole(target, shard):
        _link(source, target)
    if not _is_whole(target, shard):
        raise IntegrityError(_damaged(source))


def _is_whole(path: Path, shard: ShardEntry) -> bool:
    if path.is_symlink() or not path.is_file() or path.stat().st_size != shard.bytes:
        return False
    return sha256_file(path) == shard.sha256


def _link(source: Path, target: Path) -> None:
    """Put a finished shard in its new place; ours are never edited, so two names are safe."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = partial_name(target)
    fresh.unlink(missing_ok=True)
    if source.is_symlink() or not source.is_file():
        return
    try:
        os.link(source, fresh)
    except OSError:  # another file system, or one without hard links
        with source.open("rb") as file:
            write_durable(target, iter(partial(file.read, 2**20), b""))
        return
    fresh.replace(target)
    sync_directory(target.parent)


def _damaged(path: Path) -> Problem:
    return Problem(
        code="P20",
        subject=f"file '{path.name}'",
        where=str(path),
        what="missing, or not the bytes that its corpus.json says",
        fix="`stbuild repair` it from its grids first",
    )
