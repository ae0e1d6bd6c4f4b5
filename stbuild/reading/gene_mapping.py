"""The genes of one slice: which are kept, under which id, and what became of the others.

Every molecule is accounted for: kept, or dropped by a named reason. Library sizes are taken
before, over all genes of the source; what is no gene (:func:`find_genes`) has no part in them.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stbuild.config import GridConfig
from stbuild.genes.ids import (
    ENSEMBL,
    GeneFacts,
    describe_genes,
    find_other_types,
    is_control,
    strip_version,
    unmangled,
)
from stbuild.genes.tables import GeneTable, pairs_of
from stbuild.slices import Notice
from stbuild.sources.faults import SourceFaultError

_LISTED: Final = 5
_LEAST_MAPPED: Final = 0.5
"""Share of the molecules that must map, when ids are asked to be mapped."""


@dataclass(frozen=True, kw_only=True)
class GeneReport:
    """What became of the genes of a source, and of their molecules, by reason."""

    facts: GeneFacts
    n_source: int
    n_kept: int
    genes: dict[str, int] = field(default_factory=dict)
    """Genes by what happened: renamed, summed, dropped_duplicates, dropped_controls,
    dropped_other_types, dropped_ambiguous, dropped_unmapped."""
    molecules: dict[str, int] = field(default_factory=dict)
    """Molecules of them, by the same names."""

    def as_ledger(self) -> dict[str, int]:
        """Return the numbers for the ledger of a slice."""
        ledger = {"genes_read": self.n_source, "genes_kept": self.n_kept}
        ledger |= {f"genes_{name}": n for name, n in sorted(self.genes.items())}
        return ledger | {f"molecules_{name}": n for name, n in sorted(self.molecules.items())}


@dataclass(frozen=True, kw_only=True)
class GeneMapping:
    """Ids of the kept genes, and where each gene of the source went."""

    genes: tuple[str, ...]
    """(G,) unique ids, sorted by code point."""
    column: NDArray[np.int64]
    """(K,) position of each source gene in `genes`, -1 = left out."""
    report: GeneReport
    notices: tuple[Notice, ...]


class _Ids:
    """Ids on their way: the present one of each source gene, or the reason that it has none."""

    def __init__(self, ids: Sequence[str]) -> None:
        self.ids: list[str | None] = list(ids)
        self.reason: list[str | None] = [None] * len(ids)
        self.renamed = [False] * len(ids)
        self.known_by: Counter[str] = Counter()

    def drop(self, i: int, reason: str) -> None:
        self.ids[i], self.reason[i] = None, reason

    def rename(self, i: int, name: str) -> None:
        self.renamed[i] = self.renamed[i] or self.ids[i] != name
        self.ids[i] = name

    def learn(self, i: int, name: str, whence: str) -> None:
        self.rename(i, name)
        self.known_by[whence] += 1

    def each(self) -> list[tuple[int, str]]:
        return [(i, name) for i, name in enumerate(self.ids) if name is not None]


def find_genes(ids: Sequence[str], types: Sequence[str] | None) -> NDArray[np.bool_]:
    """Return which features of a source are genes: all but controls and those of other types.

    Parameters
    ----------
    ids
        (K,) ids as the source has them.
    types
        (K,) what the source calls their types, or None.
    """
    genes = np.asarray([not is_control(name) for name in ids], np.bool_)
    return genes if types is None else genes & ~np.asarray(find_other_types(types), np.bool_)


def map_genes(
    ids: Sequence[str],
    other: Sequence[str] | None,
    molecules: NDArray[np.int64],
    config: GridConfig,
    table: GeneTable | None,
    *,
    subject: str,
    types: Sequence[str] | None = None,
) -> GeneMapping:
    """Decide which genes of a source are kept, and under which id.

    Parameters
    ----------
    ids
        (K,) ids as the source has them.
    other
        (K,) the other name of each gene, or None.
    molecules
        (K,) counts of each gene over the kept spots.
    config
        gene_ids, strip_version, unmangle, duplicate_genes, mixed_species.
    table
        Pairs of Ensembl ids and symbols beside the source's own.
    subject
        The slice, for notices.
    types
        (K,) what the source calls the types of its features, or None.

    Raises
    ------
    SourceFaultError
        B067: duplicate ids, where they are refused. B068: human and mouse genes in one slice.
        B070: fewer than half of the molecules map to the ids that were asked for.
    """
    others = [False] * len(ids) if types is None else find_other_types(types)
    facts = describe_genes([name for name, other in zip(ids, others, strict=True) if not other])
    if len(facts.species) > 1 and not config.mixed_species:
        what = f"genes of {' and '.join(facts.species)} in one slice"
        fix = "keep one species, or pass --mixed-species if the tissue is a mixture"
        raise SourceFaultError("B068", "genes", what, fix)
    names = _Ids(ids)
    controls = set(facts.controls)
    for i, name in names.each():
        if others[i] or name in controls:
            names.drop(i, "dropped_other_types" if others[i] else "dropped_controls")
    if config.unmangle:
        _unmangle(names, other, table)
    if config.strip_version:
        for i, name in names.each():
            names.rename(i, strip_version(name))
    if config.gene_ids != "source":
        _translate(names, other, table, config.gene_ids)
        _require_mapped(names, molecules, config.gene_ids)
    _settle_duplicates(names, config)
    return _finish(ids, names, molecules, facts, config, subject)


def _unmangle(names: _Ids, other: Sequence[str] | None, table: GeneTable | None) -> None:
    """Undo R's make.names where the table, or the other names, know what the id was."""
    known = set(table.by_symbol) if table is not None else set()
    known |= set(other or ())
    for i, name in names.each():
        if name not in known:
            fitting = [candidate for candidate in unmangled(name) if candidate in known]
            if fitting:
                names.learn(i, fitting[0], "undoing what R made of symbols")


def _translate(
    names: _Ids, other: Sequence[str] | None, table: GeneTable | None, wanted: str
) -> None:
    """Map every id to an Ensembl id or to a symbol: by the source's own pair, then the table."""
    is_wanted: Callable[[str], bool] = (
        (lambda name: bool(ENSEMBL.fullmatch(name)))
        if wanted == "ensembl"
        else (lambda name: not ENSEMBL.fullmatch(name))
    )
    known = {} if table is None else (table.by_symbol if wanted == "ensembl" else table.by_ensembl)
    for i, name in names.each():
        if is_wanted(name):
            names.rename(i, strip_version(name) if wanted == "ensembl" else name)
            continue
        own = [] if other is None else pairs_of([name], [other[i]])
        targets = [pair[0] if wanted == "ensembl" else pair[1] for pair in own]
        whence = "pairs of id and name in the source itself" if targets else "the gene table"
        targets = targets or list(known.get(strip_version(name), ()))
        if len(targets) == 1:
            names.learn(i, targets[0], whence)
        else:
            names.drop(i, "dropped_ambiguous" if targets else "dropped_unmapped")


def _require_mapped(names: _Ids, molecules: NDArray[np.int64], wanted: str) -> None:
    lost = [
        i for i, why in enumerate(names.reason) if why in ("dropped_ambiguous", "dropped_unmapped")
    ]
    total = int(molecules.sum())
    kept = 1 - int(molecules[lost].sum()) / max(1, total)
    if lost and kept < _LEAST_MAPPED:
        what = f"only {kept:.0%} of the molecules have {wanted} ids ({len(lost):,} genes have none)"
        fix = "give --gene-table FILE (`stbuild genes` makes one), or leave --gene-ids source"
        raise SourceFaultError("B070", "genes", what, fix)


def _settle_duplicates(names: _Ids, config: GridConfig) -> None:
    times = Counter(name for _, name in names.each())
    twice = sorted(name for name, n in times.items() if n > 1)
    if not twice or config.duplicate_genes == "sum":
        return
    if config.duplicate_genes == "error":
        what = f"{len(twice):,} gene ids stand more than once ({', '.join(twice[:_LISTED])})"
        fix = "--gene-id-column may hold unique ids; or --duplicate-genes drop or sum"
        raise SourceFaultError("B067", "genes", what, fix)
    for i, name in names.each():
        if times[name] > 1:
            names.drop(i, "dropped_duplicates")


def _finish(
    ids: Sequence[str],
    names: _Ids,
    molecules: NDArray[np.int64],
    facts: GeneFacts,
    config: GridConfig,
    subject: str,
) -> GeneMapping:
    times = Counter(name for _, name in names.each())
    genes = tuple(sorted(times))
    if not genes:
        lost = Counter(why for why in names.reason if why is not None)
        listed = ", ".join(f"{n:,} {why.replace('_', ' ')}" for why, n in sorted(lost.items()))
        fix = "; ".join(_MENDED[why] for why in sorted(lost)) or "give a source with genes"
        raise SourceFaultError("B070", "genes", f"no gene is left ({listed or 'none given'})", fix)
    position = {gene: i for i, gene in enumerate(genes)}
    column = np.asarray([-1 if name is None else position[name] for name in names.ids], np.int64)
    happened: dict[str, list[int]] = {}
    for i, (name, why) in enumerate(zip(names.ids, names.reason, strict=True)):
        if why is not None:
            happened.setdefault(why, []).append(i)
        if names.renamed[i] and name is not None:
            happened.setdefault("renamed", []).append(i)
        if name is not None and times[name] > 1:
            happened.setdefault("summed", []).append(i)
    report = GeneReport(
        facts=facts,
        n_source=len(ids),
        n_kept=len(genes),
        genes={why: len(rows) for why, rows in happened.items()},
        molecules={why: int(molecules[rows].sum()) for why, rows in happened.items()},
    )
    notices = _notices(ids, facts, happened, report, config, subject)
    notices += [
        Notice(code="B071", subject=subject, what=f"{n:,} genes renamed by {whence}")
        for whence, n in sorted(names.known_by.items())
    ]
    return GeneMapping(genes=genes, column=column, report=report, notices=tuple(notices))


_MENDED: Final = {
    "dropped_duplicates": "--gene-id-column may hold unique ids, or --duplicate-genes sum",
    "dropped_controls": "give the counts of genes: control probes are never kept",
    "dropped_other_types": "give the counts of genes: features of other types are never kept",
    "dropped_ambiguous": "--gene-ids source keeps the ids as they are",
    "dropped_unmapped": "give --gene-table FILE, or leave --gene-ids source",
}
"""What may be done about genes that were left out, where none is left."""
_SAID: Final = {
    "dropped_duplicates": (
        "B067", "share an id with another", "left out; --gene-id-column may hold unique ids"
    ),
    "dropped_controls": ("B073", "are control probes, spike-ins or reads of no gene", "left out"),
    "dropped_other_types": ("B073", "are no genes by their feature type", "left out"),
    "dropped_ambiguous": ("B071", "have several possible ids", "left out"),
    "dropped_unmapped": ("B071", "have no id of the kind asked for", "left out"),
    "summed": ("B067", "share an id with another", "summed"),
}  # fmt: skip


def _notices(
    ids: Sequence[str],
    facts: GeneFacts,
    happened: dict[str, list[int]],
    report: GeneReport,
    config: GridConfig,
    subject: str,
) -> list[Notice]:
    found = []
    for why, (code, what, done) in _SAID.items():
        if rows := happened.get(why):
            listed = ", ".join(sorted({ids[i] for i in rows})[:_LISTED])
            lost = f", {report.molecules[why]:,} molecules" if report.molecules[why] else ""
            text = f"{len(rows):,} genes {what} ({listed}){lost}: {done}"
            if code == "B073":
                text = f"{text.replace('genes', 'features', 1)}; they are in no library size"
            elif why.startswith("dropped"):
                text += "; their molecules stay in the library sizes"
            found.append(Notice(code=code, subject=subject, what=text))
    if facts.excel:
        listed = ", ".join(facts.excel[:_LISTED])
        what = f"{len(facts.excel):,} gene names look like dates ({listed}): a spreadsheet ate them"
        found.append(Notice(code="B072", subject=subject, what=what))
    if facts.n_versioned and not config.strip_version and config.gene_ids == "source":
        what = f"{facts.n_versioned:,} Ensembl ids carry a version; --strip-version cuts it off"
        found.append(Notice(code="B069", subject=subject, what=what))
    if facts.kind == "mixed" and config.gene_ids == "source":
        what = (
            f"{facts.n_ensembl:,} Ensembl ids and {facts.n_symbols:,} symbols in one slice; "
            "--gene-ids maps them to one kind"
        )
        found.append(Notice(code="B068", subject=subject, what=what))
    return found
