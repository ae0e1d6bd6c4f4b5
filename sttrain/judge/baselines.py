"""Controls: features that need no training, which an encoder has to beat.

Each is computed from the whole slices of an evaluation corpus, without labels. ``log1p(CP10K)``
is ``log(1 + 10,000 * count / total)`` with the spot's library size over all genes of its source.
Letters: N spots of a slice, G genes, K neighbours, D features.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.digests import sha256_json
from sttrain.embed.embeddings import Embeddings
from sttrain.embed.evaluation import EvaluationSet
from sttrain.embed.expression import expression, mean_expression
from sttrain.embed.neighbours import surroundings
from sttrain.embed.projection import principal_components, refuse_components
from sttrain.errors import Problem
from sttrain.judge.methods import Family, pack

if TYPE_CHECKING:
    from stbuild.corpus.samples import WholeSlice
    from sttrain.embed.projection import Table

BASELINE_VERSION: Final = 2
"""Raised when a control's definition changes, so that stored results are not taken for it."""
BANKSY_LAMBDA: Final = 0.8
"""Share of the surroundings in a ``banksyK``: what BANKSY recommends for domains."""

Kind = Literal["majority", "coords", "coords-shuffled", "libsize", "raw", "nbmean", "banksy"]
_KINDS: Final[Mapping[str, Kind]] = {kind: kind for kind in get_args(Kind)}


@dataclass(frozen=True, kw_only=True)
class Control:
    """A control, as its name says; a `sttrain.judge.methods.Method`."""

    name: str
    kind: Kind
    neighbours: int | None = None
    """Physical neighbours: averaged with the spot itself (nbmean), or its surroundings (banksy)."""
    components: int | None = None
    """Principal components that are kept; none keeps the genes."""
    centred: bool = False
    """Whether each slice's mean is taken off first, so that donors and batches differ less."""

    @property
    def source(self) -> str:
        """Kind of method in results."""
        return "baseline"

    @property
    def checkpoint(self) -> str | None:
        """No weights."""
        return None

    def identity(self, data: EvaluationSet) -> str:
        """Return the digest of the corpus, the name and the version of its definition."""
        return sha256_json(
            {"corpus": data.corpus_id, "baseline": self.name, "version": BASELINE_VERSION}
        )

    def compute(self, data: EvaluationSet) -> Embeddings:
        """Return the features of every spot of every slice.

        Principal components are fitted once on all spots of the corpus, labelled or not. They see
        the features of test spots, never a label.

        Raises
        ------
        BadUsageError
            More components than genes or spots.
        """
        parts: Mapping[str, NDArray[np.floating]]
        if self.kind == "majority":
            parts = {slug: np.zeros((w.meta.n_spots, 0)) for slug, w in data.slices.items()}
        elif self.kind == "libsize":
            parts = {slug: np.log1p(w.totals[:, None]) for slug, w in data.slices.items()}
        elif self.kind in ("coords", "coords-shuffled"):
            parts = _coordinates(data, shuffled=self.kind == "coords-shuffled")
        else:
            parts = self._expression(data)
        made_by = {"method": self.name, "corpus_id": data.corpus_id}
        return pack(data, {s: m.astype(np.float32) for s, m in parts.items()}, made_by)

    def refusal(self, data: EvaluationSet) -> Problem | None:
        """Return why a corpus cannot give it, before anything is computed; None if it can."""
        if self.components is None:
            return None
        n_spots = sum(whole.meta.n_spots for whole in data.slices.values())
        n_columns = data.genes.size * (3 if self.kind == "banksy" else 1)
        return refuse_components(self.components, (n_spots, n_columns), f"method '{self.name}'")

    def _expression(self, data: EvaluationSet) -> "dict[str, NDArray[np.float32]]":
        tables = {slug: self._table(data, whole) for slug, whole in data.slices.items()}
        if self.kind == "banksy":
            tables = _weigh(tables, data.genes.size)
        if self.centred:
            tables = {slug: _without_mean(table) for slug, table in tables.items()}
        if self.components is not None:
            return principal_components(tables, self.components, f"method '{self.name}'")
        return {slug: _dense(table) for slug, table in tables.items()}

    def _table(self, data: EvaluationSet, whole: "WholeSlice") -> "Table":
        """Return the genes of one slice before projection: (N, G), or (N, 3 G) of a banksy."""
        if self.kind != "banksy" or self.neighbours is None:
            return mean_expression(whole, data.genes, self.neighbours or 0)
        values = expression(whole, data.genes)
        around = surroundings(values, whole.xy, self.neighbours)
        return np.concatenate([_dense(values), *around], axis=1)


def refusals(methods: Iterable[object], data: EvaluationSet) -> dict[str, Problem]:
    """Return, by name, why a corpus cannot give some of the methods."""
    controls = [method for method in methods if isinstance(method, Control)]
    found = {control.name: control.refusal(data) for control in controls}
    return {name: problem for name, problem in found.items() if problem}


def _dense(table: "Table") -> NDArray[np.float32]:
    return np.asarray(table if isinstance(table, np.ndarray) else table.toarray(), np.float32)


def _without_mean(table: "Table") -> NDArray[np.float32]:
    wide = _dense(table)
    return np.asarray(wide - wide.mean(axis=0, dtype=np.float64), np.float32)


def _weigh(tables: "Mapping[str, Table]", n_genes: int) -> "dict[str, Table]":
    """Weigh own expression, neighbours' mean and gradient: 1 - L, 2/3 L, 1/3 L of the variance.

    The shares are BANKSY's; unlike there a block is brought to one variance as a whole and its
    genes keep their proportions, as z-scores of all genes would mostly add noise.
    """
    shares = (1 - BANKSY_LAMBDA, BANKSY_LAMBDA * 2 / 3, BANKSY_LAMBDA / 3)
    factors = np.ones(3 * n_genes, np.float32)
    for number, share in enumerate(shares):
        columns = np.s_[number * n_genes : (number + 1) * n_genes]
        block = np.concatenate([_dense(table)[:, columns] for table in tables.values()])
        variance = float(block.var(axis=0, dtype=np.float64).sum())
        factors[columns] = np.sqrt(share / variance) if variance > 0 else 0.0
    return {slug: _dense(table) * factors for slug, table in tables.items()}


def _coordinates(data: EvaluationSet, *, shuffled: bool) -> "dict[str, NDArray[np.float64]]":
    """Return (N, 2) positions in pitches, centred; with several slices, also which one it is.

    The slice stands as one column each, as large as the largest slice is wide, so that a nearest
    neighbour is always of the same slice. Shuffled, every spot has the position of another spot of
    its slice: what is then still predicted comes from the slice alone.
    """
    centred: dict[str, NDArray[np.float64]] = {}
    for slug, whole in data.slices.items():
        pitch = whole.meta.pitch or 1.0
        centred[slug] = (whole.xy - whole.xy.mean(axis=0)) / pitch
        if shuffled:
            centred[slug] = centred[slug][_permutation(slug, whole.meta.n_spots)]
    if len(centred) == 1:
        return centred
    reach = max(float(np.hypot(*(xy.max(axis=0) - xy.min(axis=0)))) for xy in centred.values())
    parts: dict[str, NDArray[np.float64]] = {}
    for number, (slug, xy) in enumerate(centred.items()):
        which = np.zeros((xy.shape[0], len(centred)))
        which[:, number] = reach
        parts[slug] = np.concatenate([xy, which], axis=1)
    return parts


def _permutation(slug: str, n: int) -> NDArray[np.int64]:
    """Return a permutation of n spots that depends on the slug alone, whatever NumPy's version."""
    key = int.from_bytes(sha256(f"sttrain/coords-shuffled/v1\0{slug}".encode()).digest()[:16])
    return np.argsort(np.random.Philox(key=key).random_raw(n), kind="stable")


def _from_match(match: re.Match[str]) -> Control:
    found = match.groupdict()
    return Control(
        name=match[0],
        kind=_KINDS[found["kind"] or "raw"],
        neighbours=int(found["k"]) if found.get("k") else None,
        components=int(found["d"]) if found.get("d") else None,
        centred=bool(found.get("centred")),
    )


_K: Final = r"(?P<k>[1-9]\d{0,2})"
_D: Final = r"(?P<d>[1-9]\d{0,3})"
_END: Final = r"(?P<centred>-centred)?"


def _family(grammar: str, what: str, pattern: str, *examples: str) -> Family:
    return Family(
        grammar=grammar,
        what=what,
        examples=examples,
        pattern=re.compile(pattern),
        make=_from_match,
    )


FAMILIES: Final = (
    _family("majority", "the most frequent training class", "(?P<kind>majority)", "majority"),
    _family("coords", "position and slice, no gene", "(?P<kind>coords)", "coords"),
    _family(
        "coords-shuffled",
        "positions of other spots of the slice: the slice alone",
        "(?P<kind>coords-shuffled)",
        "coords-shuffled",
    ),
    _family("libsize", "log1p of the library size, no gene", "(?P<kind>libsize)", "libsize"),
    _family(
        "raw[-centred]",
        "log1p(CP10K) of the genes; centred: each slice's means taken off",
        f"(?P<kind>raw){_END}",
        "raw",
        "raw-centred",
    ),
    _family(
        "pcaD[-centred]",
        "first D principal components of that",
        f"(?P<kind>)pca{_D}{_END}",
        "pca10",
        "pca50",
        "pca10-centred",
        "pca50-centred",
    ),
    _family(
        "nbmeanK[-pcaD][-centred]",
        "mean of a spot and its K nearest; its principal components",
        f"(?P<kind>nbmean){_K}(-pca{_D})?{_END}",
        *(
            f"nbmean{k}-pca{d}{end}"
            for k in (6, 18, 36)
            for d in (10, 50)
            for end in ("", "-centred")
        ),
    ),
    _family(
        "banksyK[-pcaD][-centred]",
        "own expression, mean of the K nearest and its gradient, weighed as BANKSY does",
        f"(?P<kind>banksy){_K}(-pca{_D})?{_END}",
        "banksy18-pca10",
        "banksy18-pca50",
        "banksy18-pca50-centred",
    ),
)
"""Every control, from the simplest to the strongest; the numbers are free."""
