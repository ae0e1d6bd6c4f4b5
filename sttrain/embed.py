"""One vector per measured spot from an encoder: windows, overlaps and gene draws averaged.

Slices are embedded one after the other, their windows in the order of their keys, sums in float64:
the vectors do not depend on the batch size beyond the rounding of the encoder itself.
Letters: B batch, P patch side, L = P * P sites, N spots of a slice, D features.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sttrain.embeddings import Embeddings, SliceEmbedding
from sttrain.errors import BadInputError, IntegrityError, Problem
from sttrain.evaluation import read_patch, require_evaluation

if TYPE_CHECKING:
    import torch

    from stbuild.corpus.index import SampleIndex
    from stbuild.corpus.reader import Corpus
    from stbuild.corpus.samples import Patch, WholeSlice


class SiteEncoder(Protocol):
    """What is asked of a model."""

    def encode(
        self,
        counts: "torch.Tensor",
        genes: "torch.Tensor",
        totals: "torch.Tensor",
        layer: int | None = None,
    ) -> "torch.Tensor":
        """Return (B, L, D) features of counts (B, M, P, P), genes (B, M), totals (B, P, P)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How often the spots of a slice were seen."""

    slice: str
    n_spots: int
    n_windows: int
    """Windows times gene draws."""
    fewest: int
    """Vectors that went into the mean of the least covered spot."""
    mean: float
    most: int

    def __str__(self) -> str:
        return (
            f"{self.slice}: {self.n_spots:,} of {self.n_spots:,} spots, {self.n_windows:,} windows "
            f"and draws, {self.fewest} to {self.most} vectors a spot (mean {self.mean:.1f})"
        )


@dataclass(frozen=True, kw_only=True)
class EmbedOutcome:
    """Vectors, and how they came about."""

    embeddings: Embeddings
    coverage: tuple[Coverage, ...]


def embed_corpus(
    corpus: "Corpus",
    encoder: SiteEncoder,
    *,
    provenance: Mapping[str, Any],
    batch: int = 32,
    layer: int | None = None,
    device: str = "cpu",
    progress: Callable[[int, int, str], None] | None = None,
) -> EmbedOutcome:
    """Embed every measured spot of an evaluation corpus.

    Parameters
    ----------
    corpus
        An evaluation corpus; its stride, gene draws and genes are what they are.
    encoder
        The model, on `device`.
    provenance
        JSON values about the model; corpus and coverage are added.
    batch
        Patches that are encoded together.
    layer
        Features after this many layers; the encoder's output without it.
    device
        Torch device.
    progress
        Called with (patches done, patches in all, slice).

    Raises
    ------
    BadInputError
        A training corpus, a spot that no window covers, vectors that are not finite.
    IntegrityError
        A damaged sample, or one that points at spots which the slice does not have.
    """
    require_evaluation(corpus)
    slices: dict[str, SliceEmbedding] = {}
    coverage: list[Coverage] = []
    total = sum(s.n_samples for s in corpus.document.shards if s.kind == "patch")
    done = 0
    for split in corpus.document.splits("slice"):
        index = corpus.index(split)
        positions = _positions_by_slice(index)
        for whole in corpus.whole_slices(split):
            slug = whole.meta.slice
            mine = positions.get(slug, [])
            sums = _SpotSums(whole)
            for patches in _batches(corpus, split, index, mine, batch):
                if progress:
                    progress(done, total, slug)
                sums.add(patches, _encode(encoder, patches, layer, device))
                done += len(patches)
            matrix, seen = sums.means()
            coverage.append(_coverage(whole, seen, len(mine)))
            slices[slug] = SliceEmbedding(
                barcodes=sums.barcodes, matrix=matrix, labels=_labels(corpus, whole)
            )
    made_from = {
        **provenance,
        "corpus": corpus.document.name,
        "corpus_id": corpus.document.corpus_id,
        "layer": layer,
    }
    return EmbedOutcome(
        embeddings=Embeddings(slices=dict(sorted(slices.items())), provenance=made_from),
        coverage=tuple(sorted(coverage, key=lambda found: found.slice)),
    )


class _SpotSums:
    """Running sums of the vectors of one slice, in float64."""

    def __init__(self, whole: "WholeSlice") -> None:
        self.slug = whole.meta.slice
        self.barcodes = tuple(raw.decode() for raw in whole.barcodes.tolist())
        self.seen = np.zeros(len(self.barcodes), np.int64)
        self.total: NDArray[np.float64] | None = None

    def add(self, patches: "list[Patch]", features: NDArray[np.float32]) -> None:
        """Add the features (B, L, D) of some patches, patch by patch."""
        if self.total is None:
            self.total = np.zeros((len(self.barcodes), features.shape[2]))
        for patch, vectors in zip(patches, features, strict=True):
            spots = self._spots(patch)
            inside = spots >= 0
            # Within one patch every spot stands once, so plain indexing adds all of them.
            with np.errstate(invalid="ignore"):  # what is not finite is named by `means`
                self.total[spots[inside]] += vectors[inside]
            self.seen[spots[inside]] += 1

    def _spots(self, patch: "Patch") -> NDArray[np.int32]:
        """Return (L,) spot numbers, -1 where there is none."""
        if patch.spots is None:
            raise _damaged(patch, "it does not say which spots it shows")
        spots = patch.spots.ravel()
        shown = spots[spots >= 0]
        measured = patch.totals.ravel() > 0
        if shown.size and int(shown.max()) >= len(self.barcodes):
            raise _damaged(patch, f"spot {int(shown.max())} of {len(self.barcodes)}")
        if np.unique(shown).size != shown.size or not np.array_equal(measured, spots >= 0):
            raise _damaged(patch, "a spot stands twice, or where nothing was measured")
        return spots

    def means(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Return (N, D) mean vectors and (N,) how many went into each."""
        missing = np.flatnonzero(self.seen == 0)
        if self.total is None or missing.size:
            first = self.barcodes[int(missing[0])] if missing.size else "none"
            what = f"{missing.size:,} of {self.seen.size:,} spots are in no window (first: {first})"
            raise _refused("V18", self.slug, what, "build the corpus again with a smaller --cover")
        means = (self.total / self.seen[:, None]).astype(np.float32)
        bad = np.flatnonzero(~np.isfinite(means).all(axis=1))
        if bad.size:
            what = f"{bad.size:,} vectors are not finite (first: {self.barcodes[int(bad[0])]})"
            raise _refused("V02", self.slug, what, "the model has diverged; use an earlier one")
        return means, self.seen


def _positions_by_slice(index: "SampleIndex") -> dict[str, list[int]]:
    """Return the positions of every slice's patches, in the order of their keys."""
    positions: dict[str, list[int]] = {}
    for i in sorted(range(len(index)), key=index.keys.__getitem__):
        positions.setdefault(index.slices[i], []).append(i)
    return positions


def _batches(
    corpus: "Corpus", split: str, index: "SampleIndex", positions: list[int], size: int
) -> "Iterator[list[Patch]]":
    for start in range(0, len(positions), size):
        chosen = positions[start : start + size]
        yield [read_patch(corpus, split, index, i) for i in chosen]


def _encode(
    encoder: SiteEncoder, patches: "list[Patch]", layer: int | None, device: str
) -> NDArray[np.float32]:
    """Return (B, L, D) float32 features."""
    import torch

    counts = np.stack([patch.counts.astype(np.int32) for patch in patches])
    genes = np.stack([patch.genes for patch in patches])
    totals = np.stack([patch.totals.astype(np.int64) for patch in patches])
    with torch.inference_mode():
        features = encoder.encode(
            torch.from_numpy(counts).to(device),
            torch.from_numpy(genes).to(device),
            torch.from_numpy(totals).to(device),
            layer=layer,
        )
    return np.asarray(features.float().cpu().numpy(), np.float32)


def _coverage(whole: "WholeSlice", seen: NDArray[np.int64], n_windows: int) -> Coverage:
    return Coverage(
        slice=whole.meta.slice,
        n_spots=int(seen.size),
        n_windows=n_windows,
        fewest=int(seen.min()),
        mean=float(seen.mean()),
        most=int(seen.max()),
    )


def _labels(corpus: "Corpus", whole: "WholeSlice") -> tuple[str | None, ...]:
    names = corpus.document.labels
    return tuple(names[code] if code >= 0 else None for code in whole.labels.tolist())


def _damaged(patch: "Patch", what: str) -> IntegrityError:
    fix = "run `stbuild verify` on the corpus and get it again"
    subject = f"sample '{patch.meta.key}'"
    return IntegrityError(Problem(code="L11", subject=subject, what=what, fix=fix))


def _refused(code: str, slug: str, what: str, fix: str) -> BadInputError:
    return BadInputError(Problem(code=code, subject=f"slice '{slug}'", what=what, fix=fix))
