"""Whole slices as training samples, drawn from the whole-slice samples of a corpus (Eq. 4).

A sample is a view: the spots of one slice and as many genes as a patch has, chosen as the corpus
chose those of its patches, by a draw of the view's own. Like patches, views are fixed: the same
in every epoch, a function of (seed, slice, view).

So that objectives can be compared, an epoch of views shows as many sites as an epoch of patches:
each slice has as many views as its patches hold its spots over again, and a batch has so many that
an epoch has about as many steps.

Letters: B batch, M genes of a view, N spots of a slice, L the most spots of a view.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.index import SampleIndex
from stbuild.corpus.reader import Corpus
from stbuild.corpus.samples import WholeSlice, decode_whole
from stbuild.corpus.tar import unpack_sample
from sttrain.errors import BadInputError, Problem
from sttrain.model.pretext import ContextConfig
from sttrain.stream.batches import Batch, PatchSource, PatchStream, StreamState
from sttrain.stream.order import Order, World, choose_order
from sttrain.train.centring import gene_variances

_KEPT_BYTES: Final = 2**28
"""Decoded slices that are kept between views."""


class SliceSource:
    """The views of the slices of one split, by number.

    Parameters
    ----------
    corpus
        A training corpus that holds whole slices.
    split
        Split whose slices are read.
    context
        How domains are found, and how many spots a view has at most.
    seed
        Of the run: views and domains.
    group
        Slices of a group, where views are read in the order of blocks.

    Raises
    ------
    BadInputError
        The split holds no whole slice, or no patch.
    IntegrityError
        A shard is missing or has not its size.
    """

    def __init__(
        self,
        corpus: Corpus,
        split: str,
        context: ContextConfig,
        seed: int,
        *,
        group: int | None = None,
    ) -> None:
        self.corpus, self.split, self.context, self.seed = corpus, split, context, seed
        self.group = group
        self.patches = PatchSource(corpus, split)
        self.index, self.spots, self.views = plan_views(corpus, split, context, self.patches.index)
        self.entries = corpus.document.shards_of(split, "slice")
        for shard in self.entries:
            corpus.shard_file(shard)
        self._ends = np.cumsum(self.views)
        self._domains: dict[int, NDArray[np.int64]] = {}
        self._weights: dict[int, tuple[NDArray[np.int32], NDArray[np.float64]]] = {}
        self._kept: OrderedDict[int, WholeSlice] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(M, 1, L): the same for every batch, so that masks depend on no other sample."""
        return self.corpus.document.config.genes, 1, int(self.spots.max())

    def batch_of(self, batch: int) -> int:
        """Return the views of a global batch that hold about the sites of `batch` patches."""
        return views_of(batch, len(self), len(self.patches))

    def order(self, batch: int, seed: int) -> Order:
        """Return the order in which the views are read; under `block` a slice is as a shard."""
        return choose_order(self.views.tolist(), batch=batch, seed=seed, group=self.group)

    def place(self, number: int) -> tuple[int, int]:
        """Return the slice of a view, as a position in the index, and its number within it."""
        at = int(np.searchsorted(self._ends, number, side="right"))
        return at, number - int(self._ends[at] - self.views[at])

    def key(self, number: int) -> str:
        """Return a view's name, such as ``H1/view-0003``."""
        at, view = self.place(number)
        return f"{self.index.slices[at]}/view-{view:04d}"

    def read(self, numbers: Sequence[int]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Read views into new arrays.

        Parameters
        ----------
        numbers
            0 to the number of views less one.

        Returns
        -------
        tuple
            Counts (B, M, 1, L) uint16 or uint32, genes (B, M) int32 ascending with -1 behind them,
            and totals (B, 1, L) uint32, 0 behind the spots of the slice.

        Raises
        ------
        IntegrityError
            A slice is damaged.
        """
        M, _, L = self.shape
        genes = np.full((len(numbers), M), -1, np.int32)
        totals = np.zeros((len(numbers), 1, L), np.uint32)
        wide = any(self._whole(self.place(n)[0]).data.itemsize == 4 for n in numbers)
        counts = np.zeros((len(numbers), M, 1, L), np.uint32 if wide else np.uint16)
        for i, number in enumerate(numbers):
            at, view = self.place(number)
            whole = self._whole(at)
            chosen = self._genes(at, view)
            spots = self._spots(at, view)
            genes[i, : len(chosen)] = chosen
            totals[i, 0, : len(spots)] = whole.totals[spots]
            counts[i, : len(chosen), 0, : len(spots)] = dense_counts(whole, chosen)[:, spots]
        return counts, genes, totals

    def domains(self, numbers: Sequence[int]) -> NDArray[np.int64]:
        """Return (B, L) the macro-domain of every spot of some views; 0 behind them."""
        found = np.zeros((len(numbers), self.shape[2]), np.int64)
        for i, number in enumerate(numbers):
            at, view = self.place(number)
            spots = self._spots(at, view)
            found[i, : len(spots)] = self._domains_of(at)[spots]
        return found

    def _whole(self, at: int) -> WholeSlice:
        with self._lock:
            if at in self._kept:
                self._kept.move_to_end(at)
                return self._kept[at]
        shard = self.entries[int(self.index.shard[at])]
        where = f"{shard.path}:{self.index.keys[at]}"
        raw = self.corpus.read_sample(shard, self.index, at)
        whole = decode_whole(unpack_sample(raw, where)[1], where)
        with self._lock:
            self._kept[at] = whole
            while len(self._kept) > 1 and sum(map(_size, self._kept.values())) > _KEPT_BYTES:
                self._kept.popitem(last=False)
        return whole

    def _domains_of(self, at: int) -> NDArray[np.int64]:
        from sttrain.train.domains import find_domains  # scikit-learn, which patches need not

        if at not in self._domains:
            self._domains[at] = find_domains(self._whole(at), self.context, self.seed)
        return self._domains[at]

    def _spots(self, at: int, view: int) -> NDArray[np.int64]:
        """Return the spots of a view, ascending: all, or as many as a view may have."""
        n, most = int(self.index.observed[at]), int(self.spots[at])
        if n == most:
            return np.arange(n)
        drawn = self._uniforms("spots", self.index.slices[at], view, n)
        return np.sort(np.argsort(drawn, kind="stable")[:most])

    def _weights_of(self, at: int) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Return the genes that some spot of a slice shows, ascending, and their variances."""
        if at not in self._weights:
            whole = self._whole(at)
            usable = np.flatnonzero(np.bincount(whole.indices)).astype(np.int32)
            self._weights[at] = usable, gene_variances(whole)[usable]
        return self._weights[at]

    def _genes(self, at: int, view: int) -> NDArray[np.int32]:
        """Return the genes of a view, ascending: Eq. 7 over all spots of the slice."""
        config = self.corpus.document.config
        usable, variance = self._weights_of(at)
        weight = variance + config.epsilon
        if config.select == "hvg":
            keys = -weight
        else:
            drawn = self._uniforms("genes", self.index.slices[at], view, len(usable))
            # Smallest -log(u) / w first: weighted sampling without replacement.
            keys = -np.log(drawn) / (weight if config.select == "weighted" else 1.0)
        chosen = usable[np.argsort(keys, kind="stable")[: config.genes]]
        return np.sort(chosen).astype(np.int32)

    def _uniforms(self, purpose: str, slug: str, view: int, n: int) -> NDArray[np.floating]:
        """Draw (n,) numbers strictly between 0 and 1; only raw words, which NumPy keeps stable."""
        text = f"sttrain/view-{purpose}/v1\0{self.seed}\0{slug}\0{view}"
        key = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], "<u8")
        return ((np.random.Philox(key=key).random_raw(n) >> np.uint64(12)) + 0.5) * 2.0**-52


class SliceStream(PatchStream):
    """The batches of one rank where samples are views of whole slices.

    Parameters
    ----------
    slices
        The views.
    order, world, workers
        As those of patches.
    """

    def __init__(
        self, slices: SliceSource, order: Order, world: World | None = None, workers: int = 0
    ) -> None:
        super().__init__(slices.patches, order, world, workers)
        self.slices = slices

    def read(self, state: StreamState) -> Batch:
        """Read one batch.

        Raises
        ------
        IntegrityError
            A slice of it is damaged.
        """
        numbers = self.order.rank_batch(state.epoch, state.step, self.world).tolist()
        rows = self.order.rank_rows(state.epoch, state.step, self.world)
        return self.gather(numbers, state, rows, self.order.size(state.step))

    def gather(
        self, numbers: Sequence[int], state: StreamState, rows: NDArray[np.int64], total: int
    ) -> Batch:
        """Return some views as a batch, also where there are none."""
        counts, genes, totals = self.slices.read(numbers)
        return Batch(
            epoch=state.epoch, step=state.step, counts=counts, genes=genes, totals=totals,
            keys=tuple(map(self.slices.key, numbers)), rows=rows, total=total,
            slices=tuple(self.slices.index.slices[self.slices.place(n)[0]] for n in numbers),
            domains=self.slices.domains(numbers),
        )  # fmt: skip


def dense_counts(whole: WholeSlice, genes: NDArray[np.int32]) -> NDArray[Any]:
    """Return (M, N) the counts of some genes at all spots of a slice, of its own type.

    Parameters
    ----------
    whole
        The slice.
    genes
        (M,) vocabulary indices; -1 is padding and has counts of 0.
    """
    n_genes = 1 + max(int(genes.max(initial=-1)), int(whole.indices.max(initial=-1)))
    row = np.full(n_genes + 1, -1)  # the last place is that of -1
    row[genes] = np.arange(len(genes))
    row[-1] = -1
    at = row[whole.indices]
    spot = np.repeat(np.arange(whole.meta.n_spots), np.diff(whole.indptr))
    dense = np.zeros((len(genes), whole.meta.n_spots), whole.data.dtype)
    dense[at[at >= 0], spot[at >= 0]] = whole.data[at >= 0]
    return dense


def plan_views(
    corpus: Corpus, split: str, context: ContextConfig, patches: SampleIndex
) -> tuple[SampleIndex, NDArray[np.int64], NDArray[np.int64]]:
    """Return what is shown of the whole slices of a split; no shard is looked at.

    Parameters
    ----------
    corpus, split
        Where they are.
    context
        How many spots a view has at most.
    patches
        Index of the patches of the split.

    Returns
    -------
    tuple
        Index of the slices, (S,) spots of a view of each, and (S,) its number of views: the sites
        of its patches over those spots, at least one.

    Raises
    ------
    BadInputError
        The split holds no whole slice.
    """
    if split not in corpus.document.splits("slice"):
        raise _no_slices(corpus, split)
    index = corpus.index(split, "slice")
    spots = np.minimum(index.observed.astype(np.int64), context.slice_spots)
    row = {slug: at for at, slug in enumerate(index.slices)}
    sites = np.zeros(len(spots))
    for slug, observed in zip(patches.slices, patches.observed.tolist(), strict=True):
        if slug in row:
            sites[row[slug]] += observed
    views = np.round(sites / np.maximum(spots, 1))
    return index, spots, np.maximum(views, 1).astype(np.int64)


def views_of(batch: int, n_views: int, n_patches: int) -> int:
    """Return how many views go into a batch that as many patches would go into."""
    return max(1, round(batch * n_views / n_patches))


def _size(whole: WholeSlice) -> int:
    return sum(array.nbytes for array in whole.arrays().values())


def _no_slices(corpus: Corpus, split: str) -> BadInputError:
    return BadInputError(
        Problem(
            code="L24",
            subject=f"corpus '{corpus.document.name}'",
            where=str(corpus.root),
            what=f"split '{split}' holds no whole slice, and --objective slice trains on them",
            fix="build the corpus again with `stbuild shard --whole-slices` (splits by block "
            "cannot hold them), or train with --objective patch, spot or multispot",
        )
    )
