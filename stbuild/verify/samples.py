"""The shards of a corpus: every sample decoded and compared with index, slice and whole slice."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus import names
from stbuild.corpus.digests import chain_digest, lines_digest, sha256_bytes
from stbuild.corpus.documents import PatchMeta, ShardEntry, SliceEntry
from stbuild.corpus.errors import IntegrityError, Problem
from stbuild.corpus.index import SampleIndex
from stbuild.corpus.names import licence_class
from stbuild.corpus.reader import Corpus
from stbuild.corpus.samples import Codec, Patch, WholeSlice, decode_patch, decode_whole
from stbuild.corpus.tar import BLOCK, END, pack_sample, unpack_sample
from stbuild.verify.claims import Claims
from stbuild.verify.files import is_plain
from stbuild.verify.problems import bad


@dataclass(frozen=True, kw_only=True)
class _Spots:
    """What is kept of a whole slice: 14 bytes a spot."""

    cells: NDArray[np.int64]
    """Number of each spot's cell, row by row, ascending."""
    width: int
    """Columns of the grid."""
    totals: NDArray[np.uint32]
    labels: NDArray[np.int16]

    def window(self, meta: PatchMeta, grid: tuple[int, int]) -> NDArray[np.int32]:
        """Return the (h, w) numbers of the spots in a window, -1 = none.

        The window may reach beyond a grid that is smaller than it.
        """
        _, height, width = meta.shape
        rows = meta.row + np.arange(height, dtype=np.int64)[:, np.newaxis]
        cols = meta.col + np.arange(width, dtype=np.int64)
        wanted = np.where((rows < grid[0]) & (cols < grid[1]), rows * self.width + cols, -1)
        at = np.searchsorted(self.cells, wanted)
        at[at == self.cells.size] = 0
        hit = self.cells[at] == wanted if self.cells.size else np.zeros(wanted.shape, bool)
        return np.where(hit, at, -1).astype(np.int32)


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
        self._of_splits: list[Problem] = []

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
        problems += self._of_splits
        self._of_splits = []
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
        if list(members) != list(_in_order(sample, self.corpus.document.config.codec)):
            wrong.append("its members are not in the order, or the codec, of the corpus")
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
            "its window is not the one that its key says": _is_keyed(patch.meta, config.cover),
            "counts at an unobserved site": not patch.counts[:, patch.totals == 0].any(),
            "counts in a padding channel": not patch.counts[patch.meta.n_genes :].any(),
            "more counts at a site than its library size": not (sums > patch.totals).any(),
            "all genes are there, but counts do not add up to the library sizes": not every
            or bool((sums == patch.totals).all()),
            "a label code beyond the labels": patch.labels is None
            or int(patch.labels.max()) < len(document.labels),
            "a gene that its slice does not measure": self._measured(entry.slug, real),
            "it reaches beyond its slice's grid": _fits(patch, entry.grid),
            "spots and labels in a training corpus, or none in an evaluation corpus": (
                patch.spots is None
            )
            == (config.cover is None),
        }
        wrong = [what for what, good in told.items() if not good]
        spots = self._spots.get(entry.slug)
        if not wrong and spots is not None:
            wrong += _check_spots(patch, spots, entry.grid)
        return wrong

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
        wrong = [what for what, good in told.items() if not good]
        # Grids beyond what 64 bits number are refused here, and never compared with patches.
        if not wrong and max(entry.grid) < 2**31:
            cells = whole.rows.astype(np.int64) * entry.grid[1] + whole.cols
            # Copies, since the arrays are views of the whole sample.
            self._spots[entry.slug] = _Spots(
                cells=cells,
                width=entry.grid[1],
                totals=whole.totals.copy(),
                labels=whole.labels.copy(),
            )
        self._compare_splits(whole, entry.slug)
        return wrong

    def _compare_splits(self, whole: WholeSlice, slug: str) -> None:
        """Compare the evaluation splits with the spots that they are about."""
        told = self.claims.split_spots.get(slug, ())
        digest = lines_digest(raw.decode("utf-8", "replace") for raw in whole.barcodes.tolist())
        for spots in told:
            if spots.barcodes != digest:
                what = f"slice '{slug}': its barcodes are not those of the whole slice"
                self._of_splits.append(bad(spots.path, what))
            elif bool((spots.takes_part & (whole.labels < 0)).any()):
                what = f"slice '{slug}': a spot takes part that has no label"
                self._of_splits.append(bad(spots.path, what))

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


def _in_order(sample: Patch | WholeSlice, codec: Codec) -> Iterator[str]:
    """Yield the members of a sample in the order that the format gives them."""
    for name in sample.arrays():
        packed = name == names.MEMBER_COUNTS and codec != "none"
        yield f"{name}.blosc" if packed else f"{name}.npy"
    yield "json"


def _is_keyed(meta: PatchMeta, cover: int | None) -> bool:
    if cover is not None:
        expected = names.cover_key(meta.slice, meta.row, meta.col, meta.draw)
        return meta.window is None and meta.key == expected
    return meta.window is not None and meta.key == names.window_key(meta.slice, meta.window)


def _check_spots(patch: Patch, spots: _Spots, grid: tuple[int, int]) -> list[str]:
    """Compare a patch with the whole slice, site by site."""
    numbers = spots.window(patch.meta, grid)
    none, at = numbers < 0, np.maximum(numbers, 0)
    told = {
        "its library sizes are not those of the whole slice": bool(
            (patch.totals == np.where(none, 0, spots.totals[at])).all()
        ),
        "its spots are not where the whole slice has them": patch.spots is None
        or np.array_equal(patch.spots, numbers),
        "its labels are not those of the whole slice": patch.labels is None
        or bool((patch.labels == np.where(none, -1, spots.labels[at])).all()),
    }
    return [what for what, good in told.items() if not good]


def _fits(patch: Patch, grid: tuple[int, int]) -> bool:
    """Tell whether a window lies in its grid; one larger than the grid starts at its corner."""
    _, height, width = patch.meta.shape
    return patch.meta.row <= max(grid[0] - height, 0) and patch.meta.col <= max(grid[1] - width, 0)
