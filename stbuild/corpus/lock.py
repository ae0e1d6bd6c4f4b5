"""``corpus.lock.json``: what a corpus was made from, enough to make it again.

No file is opened here.
"""

from collections import Counter
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from stbuild.corpus import names
from stbuild.corpus.documents import (
    Count,
    Document,
    Sha256,
    ShardConfig,
    ShardPath,
    Slug,
    SourceFile,
    SplitName,
    VocabularyEntry,
)


class Origin(Document):
    """Where a slice came from, as its manifest or command line said; names as published."""

    path: str
    """File or folder."""
    positions: str | None = None
    """Table of coordinates."""
    labels_file: str | None = None
    """Table of labels."""
    gene_table: str | None = None
    """Table of gene ids."""
    split_by: str | None = None
    """Column that tells the sections of the file apart."""
    part: str | None = None
    """The section of the file that the slice is."""


class LockedGrid(Document):
    """What a grid was made from."""

    slug: Slug
    name: str
    split: SplitName
    """As the sample sheet says; a draw (`assign` of the configuration) may overrule it."""
    generation: Count = 0
    """Number of the extension that brought it."""
    donor: str | None
    section: str | None
    pair: str | None
    species: str | None
    tissue: str | None
    platform: str | None
    licence: str | None
    origin: Origin
    sources: Annotated[tuple[SourceFile, ...], Field(min_length=1)]
    config: dict[str, Any]
    """Resolved grid configuration."""
    content: Sha256


class LockedShard(Document):
    """What a shard must be again."""

    path: ShardPath
    sha256: Sha256
    content: Sha256


class LockDocument(Document):
    """``corpus.lock.json``: enough to build the corpus again."""

    format: Literal["stcorpus/lock"] = names.FORMAT_LOCK
    version: Literal[1] = names.VERSION
    config: ShardConfig
    grids: tuple[LockedGrid, ...]
    vocabulary: VocabularyEntry
    vocabulary_rules: Annotated[tuple[str, ...], Field(min_length=1)]
    """For each generation ``union``, ``intersection`` or ``share:X`` of its training slices, or
    ``given``: then the genes stand in the ``genes.parquet`` beside the lock."""
    labels: tuple[str, ...]
    """Label names in the order of their codes."""
    shards: tuple[LockedShard, ...]
    plan: Sha256
    """Digest of the shard plan: the keys of every shard, in order."""
    tools: dict[str, str]
    """Versions of what determines bytes."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        sizes, rules = self.vocabulary.sizes, self.vocabulary_rules
        if len(sizes) != len(rules):
            msg = f"{len(rules)} vocabulary_rules, but {len(sizes)} sizes of the vocabulary"
            raise ValueError(msg)
        if late := [grid.slug for grid in self.grids if grid.generation >= len(rules)]:
            msg = f"grid '{late[0]}' is of a generation beyond the {len(rules)} of the vocabulary"
            raise ValueError(msg)
        if twice := [s for s, times in Counter(g.slug for g in self.grids).items() if times > 1]:
            msg = f"grid '{twice[0]}' stands twice"
            raise ValueError(msg)
        return self
