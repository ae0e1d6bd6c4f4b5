"""What fills a masked region: means, neighbours, and models, behind one protocol.

A filler sees a region's spots outside of the hidden square and says log1p(CP10K) of its genes at
the hidden ones. Letters: n hidden spots, M genes, P window side, L = P * P sites.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.digests import sha256_json
from sttrain.embed.neighbours import nearest_among
from sttrain.embed.spots import gene_rows
from sttrain.errors import BadUsageError, Problem
from sttrain.judge.regions import Region

if TYPE_CHECKING:
    from stbuild.corpus.reader import Corpus
    from sttrain.model.autoencoder import MaskedAutoencoder

NEIGHBOURS: Final = 16
"""Spots of the neighbour mean (the paper's multi-spot objective looks at as many)."""
FILLING: Final = ("patch", "multispot")
"""Objectives whose models know something of a site of which nothing is shown."""
FILLER_VERSION: Final = 1
"""Raised when the definition of a control changes, so that stored rows are not taken for it."""


class Filler(Protocol):
    """A method of reconstruction."""

    @property
    def name(self) -> str:
        """Name in tables."""
        ...

    @property
    def identity(self) -> str:
        """Digest of all that decides its answers beside the region."""
        ...

    @property
    def checkpoint(self) -> str | None:
        """Digest of the weights, where there are any."""
        ...

    def fill(self, region: Region) -> NDArray[np.float64]:
        """Return (n, M) log1p(CP10K) of the hidden spots, in grid order.

        It may look at all spots of ``region.whole`` that are not hidden, and at which sites are
        measured; neither at the values nor at the library sizes of hidden spots.
        """
        ...


@dataclass(frozen=True)
class Interpolation:
    """A control: a function of positions and of the values around."""

    name: str
    compute: Callable[[Region], NDArray[np.float64]]

    @property
    def identity(self) -> str:
        """Digest of its name and version."""
        return sha256_json({"filler": self.name, "version": FILLER_VERSION})

    @property
    def checkpoint(self) -> str | None:
        """No weights."""
        return None

    def fill(self, region: Region) -> NDArray[np.float64]:
        """Return (n, M) values."""
        return self.compute(region)


def gene_mean(region: Region) -> NDArray[np.float64]:
    """Return the mean of every gene over all spots of the slice that are not hidden."""
    mean = region.values_of(~region.hidden).mean(axis=0)
    return np.tile(mean, (int(region.hidden.sum()), 1))


def neighbour_mean(region: Region) -> NDArray[np.float64]:
    """Return the mean over the 16 nearest spots that are not hidden, by physical distance."""
    xy = region.whole.xy
    near = nearest_among(xy[region.hidden], xy[~region.hidden], NEIGHBOURS)
    return np.asarray(region.values_of(~region.hidden)[near].mean(axis=1))


def inverse_distance(region: Region) -> NDArray[np.float64]:
    """Return the mean over the window's shown spots, weighed by 1 / distance^2."""
    xy = region.whole.xy
    apart = xy[region.hidden][:, None, :] - xy[region.shown][None, :, :]
    # Two spots at one position: the weight is large instead of infinite.
    squared = np.maximum((apart**2).sum(axis=2), 1e-12)
    weights = 1.0 / squared
    weights /= weights.sum(axis=1, keepdims=True)
    return np.asarray(weights @ region.values_of(region.shown))


INTERPOLATIONS: Final[Mapping[str, Interpolation]] = {
    name: Interpolation(name, compute)
    for name, compute in (
        ("gene-mean", gene_mean),
        (f"nearest{NEIGHBOURS}", neighbour_mean),
        ("inverse-distance", inverse_distance),
    )
}


@dataclass(frozen=True, kw_only=True)
class ModelFiller:
    """A model that is shown the window; the square's sites are hidden from it, as in training.

    Patches: the masked autoencoder (Eq. 8). Neighbourhoods: the mean of the shown neighbours'
    embeddings, decoded (Eq. 3).
    """

    name: str
    model: "MaskedAutoencoder"
    digest: str
    """Of the weights."""
    identity: str
    """Of the weights and of all that decides what the model makes of them."""
    rows: NDArray[np.int32]
    """Row in the model's gene table of each gene of the corpus's vocabulary."""
    rates: bool = False
    """Whether it predicts the log of the rate per 10,000 molecules instead of log1p(CP10K)."""

    @property
    def checkpoint(self) -> str | None:
        """Digest of the weights."""
        return self.digest

    def fill(self, region: Region) -> NDArray[np.float64]:
        """Return (n, M) values; sites that are not measured are not tokens, as everywhere."""
        import torch

        from sttrain.model.autoencoder import Hidden, normalise

        counts, totals, hidden = _as_patch(region)
        sites = normalise(
            torch.from_numpy(counts)[None],
            torch.from_numpy(self.rows[region.genes])[None],
            torch.from_numpy(totals)[None],
        )
        if self.model.config.centre_by == "slice":
            # Of all spots but the hidden ones, of which nothing may be known.
            means = region.values_of(~region.hidden).mean(0).astype(np.float32)
            sites = replace(sites, means=torch.from_numpy(means)[None])
        with torch.inference_mode():
            found = self.model(sites, Hidden(sites=torch.from_numpy(hidden.ravel())[None]))
        # Some models answer for every site. Sites come row by row, as spots do: (1, M, T) -> (n, M)
        wanted = found.valid[0] & torch.from_numpy(hidden.ravel())[found.index[0]]
        values = np.asarray(found.values[0][:, wanted].T.double().numpy())
        return np.log1p(np.exp(values)) if self.rates else values


def _as_patch(
    region: Region,
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.bool_]]:
    """Return counts (M, P, P), totals (P, P) and hidden sites (P, P) of the window.

    Hidden sites hold nothing but that they are measured.
    """
    P = region.window
    counts = np.zeros((region.genes.size, P, P), np.int32)
    totals = np.zeros((P, P), np.int64)
    hidden = np.zeros((P, P), np.bool_)
    row, col = (
        axis - first
        for axis, first in zip((region.whole.rows, region.whole.cols), region.corner, strict=True)
    )
    shown = region.shown
    counts[:, row[shown], col[shown]] = region.counts_of(shown).T
    totals[row[shown], col[shown]] = region.whole.totals[shown]
    totals[row[region.hidden], col[region.hidden]] = 1
    hidden[row[region.hidden], col[region.hidden]] = True
    return counts, totals, hidden


def load_filler(
    checkpoint: Path, corpus: "Corpus", name: str, *, initial: bool, say: Callable[[str], None]
) -> Filler:
    """Load a checkpoint for reconstruction.

    Raises
    ------
    BadInputError
        No checkpoint; genes of the corpus that the model does not know.
    BadUsageError
        A model of an objective that knows nothing of hidden sites.
    IntegrityError
        A damaged checkpoint.
    """
    from sttrain.release.encoder import load_encoder

    model, info = load_encoder(checkpoint, initial=initial, say=say)
    # Models that name no pretext task were trained on patches and squared errors.
    pretext = getattr(info, "pretext", None)
    objective = getattr(pretext, "objective", "patch")
    if objective not in FILLING:
        what = f"trained on '{objective}'; regions are filled by {' and '.join(FILLING)} models"
        fix = "give a checkpoint of one of these objectives"
        raise BadUsageError(Problem(code="V21", subject=f"model '{name}'", what=what, fix=fix))
    return ModelFiller(
        name=name,
        model=model,
        digest=info.digest,
        identity=info.identity,
        rows=gene_rows(corpus, info.genes),
        rates=bool(getattr(pretext, "counts", False)),
    )
