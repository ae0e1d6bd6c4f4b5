"""An evaluation corpus as it is judged: its whole slices and the genes that its patches hold.

Everything that a baseline or a probe needs stands here, once, in memory; patches are not read
except one per slice and gene draw, to learn its genes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.digests import sha256_bytes
from stbuild.corpus.reader import Corpus
from stbuild.corpus.samples import Patch, WholeSlice, decode_patch
from stbuild.corpus.tar import unpack_sample
from sttrain.errors import BadInputError, IntegrityError, Problem

if TYPE_CHECKING:
    from stbuild.corpus.index import SampleIndex


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """The slices of an evaluation corpus. Letters: N spots of a slice."""

    corpus_id: str
    corpus: str
    """Name of the corpus."""
    labels: tuple[str, ...]
    """Label names; a label code is a position in this list."""
    slices: Mapping[str, WholeSlice]
    """Every slice by slug, slugs ascending."""
    genes: NDArray[np.int32]
    """Vocabulary indices, ascending: drawn in some patch, measured by every slice."""

    @property
    def labelled(self) -> tuple[str, ...]:
        """The slices with a labelled spot, ascending."""
        return tuple(slug for slug, whole in self.slices.items() if bool((whole.labels >= 0).any()))

    def barcodes(self, slug: str) -> tuple[str, ...]:
        """Return the barcodes of a slice as text, in grid order."""
        return decode_barcodes(self.slices[slug])

    def label_names(self, slug: str) -> tuple[str | None, ...]:
        """Return the label of every spot of a slice, none where it has none."""
        return name_labels(self.slices[slug], self.labels)


def name_labels(whole: WholeSlice, names: Sequence[str]) -> tuple[str | None, ...]:
    """Return the label of every spot of a slice, none where it has none."""
    return tuple(names[code] if code >= 0 else None for code in whole.labels.tolist())


def decode_barcodes(whole: WholeSlice) -> tuple[str, ...]:
    """Return the barcodes of a whole slice as text, in grid order."""
    return tuple(raw.decode() for raw in whole.barcodes.tolist())


def read_evaluation_set(corpus: Corpus) -> EvaluationSet:
    """Read the whole slices of an evaluation corpus and the genes of its draws.

    The gene set of every baseline is what the encoder is shown: the union of the gene draws of
    all slices, cut down to the genes that every slice measures, so that columns mean the same
    everywhere and nothing is filled with invented zeros.

    Raises
    ------
    BadInputError
        A training corpus, a corpus without whole slices, or slices that share no drawn gene.
    IntegrityError
        A damaged sample.
    """
    require_evaluation(corpus)
    found = [
        whole for split in corpus.document.splits("slice") for whole in corpus.whole_slices(split)
    ]
    for whole in found:
        require_sound(whole, len(corpus.document.labels))
    slices = {whole.meta.slice: whole for whole in sorted(found, key=lambda w: w.meta.slice)}
    genes = drawn_genes(corpus)
    for whole in slices.values():
        genes = np.intersect1d(genes, whole.genes, assume_unique=True)
    if not slices or not genes.size:
        what = (
            "it holds no whole slice" if not slices else "no drawn gene is measured by all slices"
        )
        raise BadInputError(
            _problem(corpus, what, "build it with `stbuild shard --cover`; leave the odd slice out")
        )
    return EvaluationSet(
        corpus_id=corpus.document.corpus_id,
        corpus=corpus.document.name,
        labels=corpus.document.labels,
        slices=slices,
        genes=genes,
    )


def require_sound(whole: WholeSlice, n_labels: int) -> None:
    """Refuse a slice whose values make no sense, whatever its digests say.

    Raises
    ------
    IntegrityError
        Every problem at once: empty spots, positions that are not finite, labels without a
        name, barcodes that are no text or stand twice.
    """
    faults: list[str] = []
    if not bool(np.all(whole.totals > 0)):
        faults.append("a spot with library size 0")
    if not bool(np.all(np.isfinite(whole.xy))):
        faults.append("a position that is not finite")
    if (
        whole.labels.size
        and not -1 <= int(whole.labels.min()) <= int(whole.labels.max()) < n_labels
    ):
        faults.append(f"a label code outside the {n_labels} names of the corpus")
    try:
        twice = len(set(decode_barcodes(whole))) != len(whole.barcodes)
    except UnicodeDecodeError:
        faults.append("a barcode that is not UTF-8")
    else:
        faults += ["a barcode that stands twice"] if twice else []
    fix = "run `stbuild verify` on the corpus and get it again"
    if faults:
        raise IntegrityError(
            *(
                Problem(code="L11", subject=f"slice '{whole.meta.slice}'", what=what, fix=fix)
                for what in faults
            )
        )


def require_evaluation(corpus: Corpus) -> None:
    """Refuse a training corpus.

    Raises
    ------
    BadInputError
        The corpus was written without ``--cover``.
    """
    if corpus.document.config.cover is None:
        what = "a training corpus; an evaluation corpus was expected, which covers every spot"
        raise BadInputError(
            _problem(corpus, what, "build one with `stbuild shard grids/ -o eval/ --cover STRIDE`")
        )


def drawn_genes(corpus: Corpus) -> NDArray[np.int32]:
    """Return the union of the genes of all patches, ascending.

    All patches of one slice and draw hold the same genes, so one of each is read.
    """
    drawn: list[NDArray[np.int32]] = []
    for split in corpus.document.splits("patch"):
        index = corpus.index(split)
        first = {(index.slices[i], int(index.draw[i])): i for i in range(len(index) - 1, -1, -1)}
        drawn += [read_patch(corpus, split, index, i).genes for i in sorted(first.values())]
    genes = np.unique(np.concatenate([np.empty(0, np.int32), *drawn]))
    return genes[genes >= 0]


def read_patch(corpus: Corpus, split: str, index: "SampleIndex", position: int) -> Patch:
    """Read one patch by its position in the index, checked against its digest.

    Raises
    ------
    IntegrityError
        The bytes are not those of the index.
    """
    shard = corpus.document.shards_of(split)[int(index.shard[position])]
    with corpus.shard_file(shard).open("rb") as file:
        file.seek(int(index.offset[position]))
        raw = file.read(int(index.size[position]))
    where = f"{shard.path}:{index.keys[position]}"
    if sha256_bytes(raw) != index.sha256[position].tobytes().hex():
        raise IntegrityError(
            Problem(
                code="L01",
                subject=f"sample '{index.keys[position]}'",
                where=where,
                what="its SHA-256 is not the one in the index",
                fix="run `stbuild verify` on the corpus and get the shard again",
            )
        )
    return decode_patch(unpack_sample(raw, where)[1], where)


def stack_slices(
    parts: Mapping[str, NDArray[np.float32]], slugs: Iterable[str]
) -> NDArray[np.float32]:
    """Return the rows of several slices below each other, in the order of `slugs`."""
    return np.concatenate([parts[slug] for slug in slugs])


def _problem(corpus: Corpus, what: str, fix: str) -> Problem:
    return Problem(
        code="V17",
        subject=f"corpus '{corpus.document.name}'",
        where=str(corpus.root),
        what=what,
        fix=fix,
    )
