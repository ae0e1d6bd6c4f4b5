"""The shards of a corpus: every sample decoded and compared with index, slice and whole slice."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.digests import chain_digest, sha256_bytes
from stbuild.corpus.documents import ShardEntry, SliceEntry
from stbuild.corpus.errors import IntegrityError, Problem
from stbuild.corpus.index import SampleIndex
from stbuild.corpus.names import licence_class
from stbuild.corpus.reader import Corpus
from stbuild.corpus.samples import Patch, WholeSlice, decode_patch, decode_whole
from stbuild.corpus.tar import BLOCK, END, pack_sample, unpack_sample
from stbuild.verify.claims import Claims
from stbuild.verify.files import is_plain
from stbuild.verify.problems import bad


@dataclass(frozen=True, kw_only=True)
class _Spots:
    """What is kept of a whole slice: 18 bytes a spot."""

    totals: NDArray[np.uint32]
    rows: NDArray[np.int32]
    cols: NDArray[np.int32]
    labels: NDArray[np.int16]


class SampleChecker:
    """Checks shards; whole slices come first, so that patches can be compared with them.

    Parameters
    ----------
    corpus
        The corpus.
    claims
        Its tables.
    """

    def __init__(self, corpus: Corpus, claims: Claims) -> None:
        self.corpus, self.claims = corpus, claims
        self._entries = {entry.slug: entry for entry in corpus.document.slices}
        self._spots: dict[str, _Spots] = {}

    def check_shard(
        self, shard: ShardEntry, index: SampleIndex, members: list[int]
    ) -> list[Problem]:
        """Return everything that is wrong with a shard; nothing where it is missing.

        Parameters
        ----------
        shard, index
            The shard, and the index of its split and kind.
        members
            Rows of its samples in `index`, in stored order.
        """
        path = self.corpus.root / shard.path
        if not is_plain(self.corpus.root, shard.path):
            return []  # named already
        problems: list[Problem] = []
        chain: list[tuple[str, bytes]] = []
        position = 0
        if len(members) != shard.n_samples:
            what = f"{len(members)} samples in the index, corpus.json says {shard.n_samples}"
            problems.append(bad(path, what))
        with path.open("rb") as file:
            for i in members:
                if int(index.offset[i]) != position:
                    what = f"sample {index.keys[i]} is not where the one before it ends"
                    problems.append(bad(path, what))
                position = int(index.offset[i]) + int(index.size[i])
                file.seek(int(index.offset[i]))
                raw = file.read(int(index.size[i]))
                try:
                    content = self._check_sample(shard, index, i, raw)
                except IntegrityError as error:
                    problems += error.problems
                    content = b""
                chain.append((index.keys[i], content))
            file.seek(position)
            if file.read(len(END) + 1) != END:
                problems.append(bad(path, "it does not end with the two zero blocks of a tar"))
        if chain_digest(chain) != shard.content and not problems:
            problems.append(bad(path, "its content digest is not the one in corpus.json"))
        return problems

    def _check_sample(self, shard: ShardEntry, index: SampleIndex, i: int, raw: bytes) -> bytes:
        """Return the content digest of a sample after checking all that is said about it."""
        key, first = index.keys[i], int(index.offset[i])
        where = f"{self.corpus.root / shard.path}:{key}"
        if sha256_bytes(raw) != index.sha256[i].tobytes().hex():
            what = f"its {len(raw):,} bytes from byte {first:,} on fail their digest"
            raise IntegrityError(bad(where, what))
        found, members = unpack_sample(raw, where)
        packed = pack_sample(found, {suffix: bytes(data) for suffix, data in members.items()})
        if found != key or len(raw) % BLOCK or packed != raw:
            raise IntegrityError(bad(where, f"its tar headers are not those of sample {key}"))
        sample: Patch | WholeSlice
        is_patch = shard.kind == "patch"
        sample = decode_patch(members, where) if is_patch else decode_whole(members, where)
        entry = self._entries.get(index.slices[i])
        wrong = _contradictions(sample, index, i)
        if entry is None or licence_class(entry.licence) != shard.licence:
            wrong.append("its slice is not of the shard's licence class")
        elif isinstance(sample, Patch):
            wrong += self._check_patch(sample, entry)
        else:
            wrong += self._check_whole(sample, entry)
        content = sample.content()
        if content != index.content[i].tobytes():
            wrong.append("its content digest is not the one in the index")
        if wrong:
            raise IntegrityError(*(bad(where, what) for what in wrong))
        return content

    def _check_patch(self, patch: Patch, entry: SliceEntry) -> list[str]:
        document = self.corpus.document
        config = document.config
        real = patch.genes[: patch.meta.n_genes]
        sums = patch.counts.sum(axis=0, dtype=np.int64)
        every = patch.meta.n_genes == entry.n_genes
        told = {
            "its shape is not the corpus's": patch.meta.shape
            == (config.genes, config.window, config.window),
            "its recipe is not the corpus's": (patch.meta.select, patch.meta.seed)
            == (config.select, config.seed),
            "its layout is not its slice's": patch.meta.layout == entry.layout,
            "counts at an unobserved site": not patch.counts[:, patch.totals == 0].any(),
            "counts in a padding channel": not patch.counts[patch.meta.n_genes :].any(),
            "more counts at a site than its library size": not (sums > patch.totals).any(),
            "all genes are there, but counts do not add up to the library sizes": not every
            or bool((sums == patch.totals).all()),
            "a gene that its slice does not measure": self._measured(entry.slug, real),
            "it reaches beyond its slice's grid": _fits(patch, entry.grid),
            "spots and labels in a training corpus, or none in an evaluation corpus": (
                patch.spots is None
            )
            == (config.cover is None),
        }
        wrong = [what for what, good in told.items() if not good]
        if not wrong and patch.spots is not None:
            wrong += self._check_spots(patch, entry.slug)
        return wrong

    def _check_spots(self, patch: Patch, slug: str) -> list[str]:
        spots = self._spots.get(slug)
        if spots is None or patch.spots is None or patch.labels is None:
            return []
        if int(patch.spots.max()) >= spots.totals.size:
            return ["a spot that the whole slice does not have"]
        rows, cols = np.nonzero(patch.spots >= 0)
        numbers = patch.spots[rows, cols]
        told = {
            "its spots are not where the whole slice has them": bool(
                (spots.rows[numbers] == rows + patch.meta.row).all()
                and (spots.cols[numbers] == cols + patch.meta.col).all()
            ),
            "its library sizes are not those of the whole slice": bool(
                (spots.totals[numbers] == patch.totals[rows, cols]).all()
            ),
            "its labels are not those of the whole slice": bool(
                (spots.labels[numbers] == patch.labels[rows, cols]).all()
            ),
        }
        return [what for what, good in told.items() if not good]

    def _check_whole(self, whole: WholeSlice, entry: SliceEntry) -> list[str]:
        n_labels = len(self.corpus.document.labels)
        panel = self.claims.panels.get(entry.slug)
        running = np.concatenate([[0], np.cumsum(whole.data, dtype=np.int64)])
        sums = np.diff(running[whole.indptr])
        told = {
            "its grid or layout is not its slice's": (whole.meta.grid, whole.meta.layout)
            == (entry.grid, entry.layout),
            "its spots are not as many as its slice has": whole.meta.n_spots == entry.n_spots,
            "its labelled spots are not as many as its slice has": int((whole.labels >= 0).sum())
            == entry.n_labelled,
            "a label code beyond the labels": int(whole.labels.max(initial=-1)) < n_labels,
            "its genes are not those of panels.parquet": panel is None
            or np.array_equal(whole.genes, panel),
            "more counts at a spot than its library size": not (sums > whole.totals).any(),
            "all genes are there, but counts do not add up to the library sizes": (
                entry.n_genes != whole.meta.n_genes or bool((sums == whole.totals).all())
            ),
        }
        self._spots[entry.slug] = _Spots(
            totals=whole.totals, rows=whole.rows, cols=whole.cols, labels=whole.labels
        )
        return [what for what, good in told.items() if not good]

    def _measured(self, slug: str, genes: NDArray[np.int32]) -> bool:
        panel = self.claims.panels.get(slug)
        if panel is None:
            n_genes = self.corpus.document.vocabulary.n_genes
            return not genes.size or int(genes.max()) < n_genes
        return bool(np.isin(genes, panel).all())


def _contradictions(sample: Patch | WholeSlice, index: SampleIndex, i: int) -> list[str]:
    told = (index.keys[i], index.slices[i], int(index.observed[i]))
    place = tuple(int(getattr(index, name)[i]) for name in ("row", "col", "draw"))
    meta = sample.meta
    if isinstance(sample, Patch):
        own = (sample.meta.key, sample.meta.slice, sample.meta.observed)
        same = own == told and place == (sample.meta.row, sample.meta.col, sample.meta.draw)
    else:
        same = (meta.key, meta.slice, sample.meta.n_spots) == told and place == (0, 0, 0)
    return [] if same else ["its json contradicts the index"]


def _fits(patch: Patch, grid: tuple[int, int]) -> bool:
    """Tell whether a window lies in its grid; one larger than the grid starts at its corner."""
    _, height, width = patch.meta.shape
    return patch.meta.row <= max(grid[0] - height, 0) and patch.meta.col <= max(grid[1] - width, 0)
