"""Sections of a published corpus, from its whole-slice samples: no grids and no sources needed."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from stbuild.corpus import names
from stbuild.corpus.documents import ShardEntry
from stbuild.corpus.errors import BadInputError, Problem
from stbuild.corpus.index import SampleIndex, read_panels
from stbuild.corpus.reader import Corpus
from stbuild.corpus.samples import decode_whole
from stbuild.corpus.tar import unpack_sample
from stbuild.leakage.fingerprints import Section


def gather_corpus(corpus: Corpus, name: str) -> list[Section]:
    """Return the sections of a corpus that holds whole slices; no counts are read yet.

    Parameters
    ----------
    corpus
        The corpus.
    name
        Its name in the report.

    Raises
    ------
    BadInputError
        Slices without a whole-slice sample, all of them named.
    IntegrityError
        The corpus is damaged.
    """
    document = corpus.document
    raw = corpus.file(names.PANELS_PARQUET)
    panels = read_panels(raw, str(corpus.root / names.PANELS_PARQUET))
    loaders: dict[str, _Loader] = {}
    for split in document.splits("slice"):
        index, shards = corpus.index(split, "slice"), document.shards_of(split, "slice")
        for i, slug in enumerate(index.slices):
            loaders[slug] = _Loader(corpus, shards[int(index.shard[i])], index, i)
    if missing := [entry.slug for entry in document.slices if entry.slug not in loaders]:
        what = f"{len(missing)} slices have no whole-slice sample, the first is '{missing[0]}'"
        fix = "give its folder of grids instead, or build it with --whole-slices"
        raise BadInputError(Problem(code="L24", subject=f"corpus '{name}'", what=what, fix=fix))
    return [
        Section(
            corpus=name,
            slug=entry.slug,
            split=entry.split,
            donor=entry.donor,
            section=entry.section,
            pair=entry.pair,
            counts_digest=loaders[entry.slug].digest,
            genes=[corpus.genes[gene] for gene in panels[entry.slug]],
            load=loaders[entry.slug],
        )
        for entry in document.slices
    ]


@dataclass(frozen=True)
class _Loader:
    """Reads the counts of a whole-slice sample when they are asked for."""

    corpus: Corpus
    shard: ShardEntry
    index: SampleIndex
    row: int

    @property
    def digest(self) -> str:
        """Content digest of the sample."""
        return str(self.index.content[self.row].tobytes().hex())

    def __call__(self) -> csr_array:
        raw = self.corpus.read_sample(self.shard, self.index, self.row)
        where = f"{self.shard.path}:{self.index.keys[self.row]}"
        whole = decode_whole(unpack_sample(raw, where)[1], where)
        columns = np.searchsorted(whole.genes, whole.indices)
        shape = (whole.indptr.size - 1, whole.genes.size)
        return csr_array((whole.data, columns, whole.indptr), shape=shape)
