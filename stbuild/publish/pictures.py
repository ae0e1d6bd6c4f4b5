"""Pictures of a few slices for the card, from the patches alone."""

import io
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.documents import CorpusDocument, SliceEntry
from stbuild.corpus.names import BLOCKS
from stbuild.corpus.reader import Corpus
from stbuild.corpus.samples import decode_patch
from stbuild.corpus.tar import unpack_sample
from stbuild.show.figures import new_figure

_MOST = 6
"""Slices that are drawn: the first of each tissue and donor, then others."""
_PATCHES = 300
"""Patches of a slice that are read for its picture."""


def draw_pictures(corpus: Corpus, document: CorpusDocument) -> dict[str, bytes]:
    """Return ``figures/<slice>.png``: the library sizes of the slice as its patches show them.

    Parameters
    ----------
    corpus
        Where the patches are read.
    document
        What is published of it.

    Raises
    ------
    IntegrityError
        A patch is damaged.
    PlatformError
        matplotlib is not installed.
    """
    return {
        f"figures/{entry.slug}.png": _draw(entry, _totals(corpus, entry))
        for entry in choose_slices(document)
    }


def choose_slices(document: CorpusDocument) -> list[SliceEntry]:
    """Return the slices that are drawn, in the order of the corpus."""
    first: dict[tuple[str | None, str | None], SliceEntry] = {}
    for entry in document.slices:
        first.setdefault((entry.tissue, entry.donor), entry)
    chosen = [*first.values(), *document.slices]
    slugs = list(dict.fromkeys(entry.slug for entry in chosen))[:_MOST]
    return [entry for entry in document.slices if entry.slug in slugs]


def _totals(corpus: Corpus, entry: SliceEntry) -> NDArray[np.float64]:
    """Return the (H, W) library sizes, NaN where no patch shows an observed site."""
    window = corpus.document.config.window
    found = np.full((entry.grid[0] + window, entry.grid[1] + window), np.nan)
    for split in _splits(corpus, entry):
        index, shards = corpus.index(split), corpus.document.shards_of(split)
        rows = [i for i, slug in enumerate(index.slices) if slug == entry.slug][:_PATCHES]
        for i in rows:
            shard = shards[int(index.shard[i])]
            where = f"{shard.path}:{index.keys[i]}"
            patch = decode_patch(
                unpack_sample(corpus.read_sample(shard, index, i), where)[1], where
            )
            row, col = patch.meta.row, patch.meta.col
            box = found[row : row + window, col : col + window]
            box[patch.totals > 0] = patch.totals[patch.totals > 0]
    return found[: entry.grid[0], : entry.grid[1]]


def _splits(corpus: Corpus, entry: SliceEntry) -> Iterator[str]:
    splits = corpus.document.splits()
    yield from splits if entry.split == BLOCKS else [s for s in splits if s == entry.split]


def _draw(entry: SliceEntry, totals: NDArray[np.float64]) -> bytes:
    figure = new_figure(4.0, 4.0 * min(2.0, max(0.5, entry.grid[0] / entry.grid[1])))
    axes = figure.add_subplot()
    image = axes.imshow(np.log10(totals), cmap="viridis", interpolation="nearest")
    axes.set(xlabel="grid column", ylabel="grid row")
    axes.set_title(entry.slug, fontsize=9)
    figure.colorbar(image, ax=axes, label="log10 counts per site", shrink=0.8)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()
