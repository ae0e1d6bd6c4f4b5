"""Patches from a grid: windows, gene choice (Eq. 7), crops. In memory; nothing is written.

Rows before columns; counts are gene-major (M, P, P). Genes are chosen among those of the slice
that are in the vocabulary and seen in the window; fewer than m are padded with gene -1.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from stbuild.corpus.documents import PatchMeta, ShardConfig, WholeMeta
from stbuild.corpus.names import cover_key, whole_key, window_key
from stbuild.corpus.samples import Patch, WholeSlice
from stbuild.draws import draw_uniforms, keyed_stream, smallest_keys
from stbuild.genes.vocabulary import Vocabulary
from stbuild.grid.chunks import CHUNK
from stbuild.grid.grids import Box, Grid, GridMeta, GridSource
from stbuild.patches.moments import WindowMoments, variance_weights
from stbuild.windows import Window

_GENES_AT_ONCE: Final = 256
"""Genes that are turned together: their counts in a row of sites stay in a core's cache."""


@dataclass(frozen=True, kw_only=True)
class SliceView:
    """A part of a grid seen through a vocabulary: its dense counts, row by row and gene by gene."""

    meta: GridMeta
    box: Box
    columns: NDArray[np.int64]
    """(G,) columns of the grid that are in the vocabulary, in vocabulary order."""
    genes: NDArray[np.int32]
    """(G,) their vocabulary indices, ascending."""
    dense: NDArray[np.uint16] | NDArray[np.uint32]
    """(h, G, w) counts of the part, padded to at least the window."""
    totals: NDArray[np.uint32]
    """(h, w) library sizes, 0 = unobserved."""
    spots: NDArray[np.int32]
    """(h, w) spot number within the whole grid, -1 = none."""
    labels: NDArray[np.int16]
    """(h, w) label code of the corpus, -1 = none."""

    def crop_counts(self, chosen: NDArray[np.int64], row: int, col: int, P: int) -> NDArray[Any]:
        """Return the (len(chosen), P, P) counts of genes `chosen` in the window at (row, col).

        A window's row of one gene lies in one line of the cache and is gathered as one item:
        200 us for 512 genes, where plain indexing takes 290 and sites side by side 580.
        """
        H, G, W = self.dense.shape
        runs: NDArray[np.void] = np.ndarray(
            (H, G, W - P + 1),
            dtype=f"V{P * self.dense.itemsize}",
            buffer=self.dense,
            strides=self.dense.strides,
        )
        gathered = runs.transpose(1, 0, 2)[chosen, row : row + P, col]
        return gathered.view(self.dense.dtype).reshape(chosen.size, P, P)


def view_part(
    grid: GridSource, box: Box, vocabulary: Vocabulary, labels: Sequence[str], P: int
) -> SliceView:
    """Lay a part of a grid out for cropping.

    Parameters
    ----------
    grid
        The slice.
    box
        The part; all of a slice, or what some windows see of it.
    vocabulary
        Genes of the corpus.
    labels
        Label names of the corpus, sorted; the grid's codes are translated to it.
    P
        Window side; a smaller part is padded with unobserved cells.
    """
    columns, genes = vocabulary.locate(grid.genes)
    H, W = (max(side, P) for side in box.shape)
    dense = _read_dense(grid, box, columns, (H, W))
    sites = grid.sites(box)
    cells = (sites.rows, sites.cols)
    totals = np.zeros((H, W), np.uint32)
    totals[cells] = sites.totals
    spots = np.full((H, W), -1, np.int32)
    spots[cells] = sites.numbers
    codes = np.full((H, W), -1, np.int16)
    codes[cells] = translate_labels(sites.labels, grid.meta.label_names, labels)
    return SliceView(
        meta=grid.meta,
        box=box,
        columns=columns,
        genes=genes,
        dense=dense,
        totals=totals,
        spots=spots,
        labels=codes,
    )


def _read_dense(
    grid: GridSource, box: Box, columns: NDArray[np.int64], shape: tuple[int, int]
) -> NDArray[Any]:
    """Return the (h, G, w) counts of a part, turned from sites side by side a band at a time."""
    (H, W), dtype = shape, np.uint16 if grid.meta.max_count < 2**16 else np.uint32
    dense = np.zeros((H, columns.size, W), dtype)
    taken = None if _is_range(columns, len(grid.genes)) else columns
    first = -(-(box.top + 1) // CHUNK) * CHUNK
    edges = [box.top, *range(first, box.bottom, CHUNK), box.bottom]
    whole = np.zeros((min(CHUNK, box.shape[0]), W, columns.size), dtype)
    for top, bottom in pairwise(edges):
        band = whole[: bottom - top]
        band.fill(0)
        grid.fill_counts(Box(top, bottom, box.left, box.right), band, taken)
        for row, sites in enumerate(band, top - box.top):
            for gene in range(0, columns.size, _GENES_AT_ONCE):
                some = np.s_[gene : gene + _GENES_AT_ONCE]
                dense[row, some] = sites[:, some].T
    return dense


def _is_range(columns: NDArray[np.int64], n: int) -> bool:
    return bool(np.array_equal(columns, np.arange(n)))


def select_genes(counts: csr_array, columns: NDArray[np.int64]) -> csr_array:
    """Return the (N, G) counts of some columns, rows sorted; all of them are not copied.

    Columns ascend unless the vocabulary grew: later genes come last, whatever their names.
    """
    ascending = bool(np.all(columns[1:] > columns[:-1]))
    if ascending and columns.size == counts.shape[1]:
        return counts
    part = counts[:, columns]
    if not ascending:
        part.sort_indices()
    return part


def translate_labels(
    codes: NDArray[np.int16], own: Sequence[str], labels: Sequence[str]
) -> NDArray[np.int16]:
    """Return (N,) label codes of the corpus; a name outside `labels` becomes -1.

    Parameters
    ----------
    codes
        (N,) codes of the grid.
    own, labels
        Label names of the grid and of the corpus.
    """
    code = {name: i for i, name in enumerate(labels)}
    # The extra last entry is what code -1 selects: no label stays no label.
    table = np.asarray([code.get(name, -1) for name in own] + [-1], np.int16)
    return table[codes]


def crop_training(
    view: SliceView, config: ShardConfig, windows: Sequence[Window]
) -> Iterator[tuple[Window, Patch]]:
    """Yield the training patches of some windows of a slice, rows ascending (Algorithm 1)."""
    moments = WindowMoments(view.dense, view.totals)
    origins = moments.origins(windows, config.window, view.box.top, view.box.left)
    for members, first, second in origins:
        n_sites = members[0].observed if config.holes == "ignore" else config.window**2
        weights = gene_weights(first, second, n_sites, config)
        for window in members:
            chosen = choose_genes(
                weights,
                purpose="genes",
                content=view.meta.counts_digest,
                number=window.number,
                slots=view.columns,
                config=config,
            )
            key = window_key(view.meta.slug, window.number)
            yield window, _crop(view, config, window, chosen, key, draw=0, numbered=True)


def crop_cover(
    view: SliceView,
    config: ShardConfig,
    windows: Sequence[Window],
    draws: Sequence[NDArray[np.int64]],
) -> Iterator[tuple[Window, Patch]]:
    """Yield the evaluation patches of a slice: every covering window under every gene draw."""
    for draw, chosen in enumerate(draws):
        for window in windows:
            key = cover_key(view.meta.slug, window.row, window.col, draw)
            yield window, _crop(view, config, window, chosen, key, draw=draw, numbered=False)


def choose_draws(
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    columns: NDArray[np.int64],
    meta: GridMeta,
    config: ShardConfig,
) -> list[NDArray[np.int64]]:
    """Choose the genes of every evaluation draw of a slice.

    A draw is one gene set for the whole slice, so that all its spots are comparable.

    Parameters
    ----------
    first, second
        (G,) sums of q and q^2 over the whole slice.
    columns
        (G,) position of each gene within the slice's own sorted genes.
    meta, config
        The slice and the configuration.
    """
    n_sites = meta.n_spots if config.holes == "ignore" else meta.shape[0] * meta.shape[1]
    weights = gene_weights(first, second, n_sites, config)
    return [
        choose_genes(
            weights,
            purpose="draw",
            content=meta.counts_digest,
            number=draw,
            slots=columns,
            config=config,
        )
        for draw in range(config.draws)
    ]


def gene_weights(
    first: NDArray[np.int64], second: NDArray[np.int64], n_sites: int, config: ShardConfig
) -> NDArray[np.float64]:
    """Return the (G,) weights by which genes are chosen: 0 for those that are not seen at all.

    Parameters
    ----------
    first, second
        (G,) sums of q and q^2 over the window or slice.
    n_sites
        Sites that the variance is taken over.
    config
        Selection and epsilon.
    """
    if config.select == "random":
        return (first > 0).astype(np.float64)
    # 2^-64 keeps a gene without variance drawable, last, when epsilon is 0.
    weights = variance_weights(first, second, n_sites, config.epsilon + 2.0**-64)
    weights[first <= 0] = 0
    return weights


def choose_genes(
    weights: NDArray[np.float64],
    *,
    purpose: str,
    content: str,
    number: int,
    slots: NDArray[np.int64],
    config: ShardConfig,
) -> NDArray[np.int64]:
    """Choose at most m genes (Eq. 7), ascending.

    Weighted: the exponential keys of Efraimidis and Spirakis (2006), the m smallest of
    -log(u) / weight, which is exactly sequential weighted sampling without replacement.
    ``hvg``: the m largest variances. ``random``: uniform.

    Parameters
    ----------
    weights
        (G,) weight of each gene, 0 = never.
    purpose, content, number
        Key of the random stream.
    slots
        (G,) position of each gene within the slice's own sorted genes: the word of the stream
        that is its own, so the vocabulary cannot shift a draw.
    config
        m, selection, seed.

    Returns
    -------
    numpy.ndarray
        Positions in 0..G-1.
    """
    if config.select == "hvg":
        keys = np.ones(weights.size)
    else:
        stream = keyed_stream(purpose, config.seed, content, number)
        uniforms = draw_uniforms(stream, int(slots.max()) + 1 if slots.size else 0)
        keys = uniforms[slots]
        np.negative(np.log(keys, out=keys), out=keys)
    with np.errstate(divide="ignore"):  # a gene of weight 0 has an infinite key
        keys /= weights
    return smallest_keys(keys, min(config.genes, int(np.count_nonzero(weights))))


def _crop(
    view: SliceView,
    config: ShardConfig,
    window: Window,
    chosen: NDArray[np.int64],
    key: str,
    *,
    draw: int,
    numbered: bool,
) -> Patch:
    P, m = config.window, config.genes
    meta, row, col = view.meta, window.row - view.box.top, window.col
    col -= view.box.left
    box = np.s_[row : row + P, col : col + P]
    genes = np.full(m, -1, np.int32)
    genes[: chosen.size] = view.genes[chosen]
    counts = view.crop_counts(chosen, row, col, P)
    if chosen.size < m:
        padding = np.zeros((m - chosen.size, P, P), counts.dtype)
        counts = np.concatenate([counts, padding])
    described = PatchMeta(
        key=key,
        slice=meta.slug,
        row=window.row,
        col=window.col,
        window=window.number if numbered else None,
        draw=draw,
        layout=meta.layout,
        select=config.select,
        seed=config.seed,
        shape=(m, P, P),
        dtype="<u2" if counts.itemsize == 2 else "<u4",
        observed=window.observed,
        n_genes=int(chosen.size),
    )
    totals = np.ascontiguousarray(view.totals[box])
    if numbered:
        return Patch(meta=described, counts=counts, genes=genes, totals=totals)
    spots, labels = view.spots[box].copy(), view.labels[box].copy()
    return Patch(
        meta=described, counts=counts, genes=genes, totals=totals, spots=spots, labels=labels
    )


def whole_sample(grid: Grid, vocabulary: Vocabulary, labels: Sequence[str]) -> WholeSlice:
    """Return a slice as one sample: the sparse counts of all vocabulary genes it measures."""
    columns, genes = vocabulary.locate(grid.genes)
    part = select_genes(grid.counts, columns)
    dtype = np.uint16 if int(part.data.max(initial=0)) < 2**16 else np.uint32
    meta = grid.meta
    return WholeSlice(
        meta=WholeMeta(
            key=whole_key(meta.slug),
            slice=meta.slug,
            grid=meta.shape,
            layout=meta.layout,
            unit=meta.unit,
            pitch=meta.pitch,
            pitch_um=meta.pitch_um,
            n_spots=meta.n_spots,
            n_genes=int(genes.size),
            dtype="<u2" if dtype is np.uint16 else "<u4",
        ),
        indptr=part.indptr.astype(np.int64),
        indices=genes[part.indices],
        data=part.data.astype(dtype),
        genes=genes,
        totals=grid.totals,
        rows=grid.rows,
        cols=grid.cols,
        xy=grid.xy,
        labels=translate_labels(grid.labels, meta.label_names, labels),
        barcodes=_pack_ids(grid.barcodes),
        members=None if grid.members is None else _pack_ids(grid.members.barcodes),
        seats=None if grid.members is None else grid.members.spots,
    )


def _pack_ids(ids: Sequence[str]) -> NDArray[np.bytes_]:
    encoded = [text.encode() for text in ids]
    return np.asarray(encoded, f"S{max(map(len, encoded), default=1)}")
