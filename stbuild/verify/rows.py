"""The rows of the indices against each other and against the slices; no shard is opened."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

import numpy as np

from stbuild.corpus import names
from stbuild.corpus.digests import sha256_json
from stbuild.corpus.documents import CorpusDocument, Kind, SliceEntry
from stbuild.corpus.errors import Problem
from stbuild.corpus.index import SampleIndex
from stbuild.corpus.reader import Corpus
from stbuild.leakage.windows import PlacedWindow, find_overlaps
from stbuild.verify.problems import bad

Indices = Mapping[tuple[str, Kind], SampleIndex]

_MOST_CELLS = 2**28
"""Largest grid whose windows are laid on a mask of its cells."""


def check_rows(corpus: Corpus, indices: Indices) -> Iterator[Problem]:
    """Yield what the indices say otherwise than the slices of ``corpus.json``, or of each other.

    Parameters
    ----------
    corpus
        The corpus.
    indices
        Its indices, as far as they could be read, by split and kind.
    """
    yield from _check_slices(corpus, indices)
    yield from _check_keys(corpus, indices)
    yield from _check_overlaps(corpus, indices)
    yield from _check_counts(corpus, indices)


def plan_of(document: CorpusDocument, indices: Indices) -> str | None:
    """Return the digest of the keys of every shard, in order; None where an index is missing."""
    keys: dict[str, list[str]] = {shard.path: [] for shard in document.shards}
    for split, kind in sorted({(shard.split, shard.kind) for shard in document.shards}):
        if (split, kind) not in indices:
            return None
        index = indices[split, kind]
        paths = [shard.path for shard in document.shards_of(split, kind)]
        for key, number in zip(index.keys, index.shard.tolist(), strict=True):
            keys[paths[number]].append(key)
    return sha256_json([[shard.path, keys[shard.path]] for shard in document.shards])


def _check_slices(corpus: Corpus, indices: Indices) -> Iterator[Problem]:
    """Compare split, donor and generation of every sample with those of its slice."""
    entries = {entry.slug: entry for entry in corpus.document.slices}
    for (split, kind), index in indices.items():
        where = corpus.root / names.index_path(split, kind)
        shards = corpus.document.shards_of(split, kind)
        wrong: dict[str, list[str]] = defaultdict(list)
        for i, slug in enumerate(index.slices):
            generation = shards[int(index.shard[i])].generation
            if what := _contradicts(entries.get(slug), split, index.donors[i], generation):
                wrong[f"its slice '{slug}' {what}"].append(index.keys[i])
        # One line a slice, however many samples an index of strangers has.
        for what, keys in sorted(wrong.items()):
            yield bad(where, f"sample {keys[0]}: {what} ({len(keys):,} such samples)")


def _contradicts(entry: SliceEntry | None, split: str, donor: str, generation: int) -> str:
    if entry is None or entry.split not in (split, names.BLOCKS):
        return f"is not of split {split}"
    if (entry.donor or "") != donor:
        return "is of another donor"
    if entry.generation != generation:
        return f"is not of generation {generation}, as its shard is"
    return ""


def _check_keys(corpus: Corpus, indices: Indices) -> Iterator[Problem]:
    """Look for keys that stand twice, and keys that do not follow from their rows."""
    keys = Counter(key for index in indices.values() for key in index.keys)
    if twice := sorted(key for key, n in keys.items() if n > 1):
        where = corpus.root / names.CORPUS_JSON
        yield bad(where, f"{len(twice)} keys stand twice (first: {twice[0]})")
    for (split, kind), index in indices.items():
        where = corpus.root / names.index_path(split, kind)
        other = [i for i in range(len(index)) if not _follows(corpus, kind, index, i)]
        if other:
            first = index.keys[other[0]]
            yield bad(where, f"{len(other)} keys are not those of their rows (first: {first})")
        if bool(np.any(index.shard[1:] < index.shard[:-1])):
            yield bad(where, "its rows are not in the order of the shards")


def _follows(corpus: Corpus, kind: Kind, index: SampleIndex, i: int) -> bool:
    """Tell whether a key is the one that slice, place and draw give it."""
    slug, key = index.slices[i], index.keys[i]
    if kind == "slice":
        return key == names.whole_key(slug)
    if corpus.document.config.cover is None:
        number = key.removeprefix(f"{slug}_w")
        return len(number) == 6 and number.isdecimal() and number.isascii() and key != number
    place = int(index.row[i]), int(index.col[i]), int(index.draw[i])
    return key == names.cover_key(slug, *place)


def _check_overlaps(corpus: Corpus, indices: Indices) -> Iterator[Problem]:
    """Look for cells in windows of two splits, in slices that are parted by blocks."""
    document, where = corpus.document, corpus.root / names.CORPUS_JSON
    parted = {entry.slug: entry.grid for entry in document.slices if entry.split == names.BLOCKS}
    for slug, (height, width) in parted.items():
        if height * width > _MOST_CELLS:
            yield bad(where, f"slice '{slug}': a grid of {height:,} x {width:,} sites")
    windows, side = [], document.config.window
    for (split, kind), index in indices.items():
        for i, slug in enumerate(index.slices if kind == "patch" else ()):
            row, col = int(index.row[i]), int(index.col[i])
            height, width = parted.get(slug, (0, 0))
            # Those outside their grid are named with their samples.
            if row < height and col < width and height * width <= _MOST_CELLS:
                windows.append(PlacedWindow(slug=slug, split=split, row=row, col=col, side=side))
    for overlap in find_overlaps(windows):
        one, two = overlap.splits
        yield bad(where, f"windows of {one} and {two} share cells of slice '{overlap.slug}'")


def _check_counts(corpus: Corpus, indices: Indices) -> Iterator[Problem]:
    """Look for slices with other numbers of samples than they tell."""
    document, where = corpus.document, corpus.root / names.CORPUS_JSON
    told = {(shard.split, shard.kind) for shard in document.shards}
    if not told <= set(indices):
        return
    found: Counter[tuple[str, str]] = Counter()
    for (_, kind), index in indices.items():
        found.update((kind, slug) for slug in index.slices)
    has_whole = document.config.whole_slices or document.config.cover is not None
    for entry in document.slices:
        for told_kind, n in (("patch", entry.n_patches), ("slice", int(has_whole))):
            n_found = found[told_kind, entry.slug]
            if n_found != n:
                what = f"slice '{entry.slug}': {n_found} samples of kind {told_kind}"
                yield bad(where, f"{what}, {n} are told")
