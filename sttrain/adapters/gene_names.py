"""Which gene of a published model is which gene of a corpus, by symbol.

Published models know genes by symbol, exactly as it is spelt. A corpus that has Ensembl ids needs
a table of pairs, which ``stbuild genes`` writes. Letters: K genes of the corpus's vocabulary.
"""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sttrain.errors import BadInputError, Problem

_NAMED: Final = 3
"""Unknown genes that a message names."""
_MAX_BYTES: Final = 256 * 2**20


@dataclass(frozen=True, kw_only=True)
class GeneMapping:
    """The genes of a corpus in a model's gene table."""

    rows: NDArray[np.int64]
    """(K,) row of each gene, -1 where the model does not know it."""
    n_ambiguous: int
    """Genes left out because the table gives them several symbols, or a symbol to several."""

    @property
    def n_mapped(self) -> int:
        """Genes that the model knows."""
        return int(np.count_nonzero(self.rows >= 0))

    @property
    def share(self) -> float:
        """Share of the genes that the model knows."""
        return self.n_mapped / max(1, self.rows.size)


def map_genes(
    genes: Sequence[str],
    known: Mapping[str, int],
    symbols: Mapping[str, tuple[str, ...]] | None = None,
) -> GeneMapping:
    """Look genes up by their own name, or by the symbol that a table gives them.

    Parameters
    ----------
    genes
        The K genes of the corpus.
    known
        Row of each symbol of the model.
    symbols
        Symbols of each Ensembl id without version. A gene that the table gives several known
        symbols, and genes that share one, are left out and counted: which is meant is unknown.
    """
    rows = np.array([known.get(gene, -1) for gene in genes], np.int64)
    taken = set(rows[rows >= 0].tolist())
    found: dict[int, set[int]] = {}
    if symbols is not None:
        for i in np.flatnonzero(rows < 0).tolist():
            names = symbols.get(genes[i].partition(".")[0], ())
            if candidates := {known[name] for name in names if name in known}:
                found[i] = candidates
    claims = Counter(row for candidates in found.values() for row in candidates)
    clear = {
        i: row
        for i, candidates in found.items()
        for row in candidates
        if len(candidates) == 1 and claims[row] == 1 and row not in taken
    }
    for i, row in clear.items():
        rows[i] = row
    return GeneMapping(rows=rows, n_ambiguous=len(found) - len(clear))


def require_mapped(
    mapping: GeneMapping, genes: Sequence[str], least: float, subject: str, model: str
) -> None:
    """Refuse a corpus too few of whose genes a model knows.

    Raises
    ------
    BadInputError
        Less than the share `least`, or none at all.
    """
    if mapping.n_mapped and mapping.share >= least:
        return
    unknown = [gene for gene, row in zip(genes, mapping.rows.tolist(), strict=True) if row < 0]
    what = (
        f"{model} knows {mapping.n_mapped:,} of {len(genes):,} genes ({mapping.share:.1%}), at "
        f"least {least:.0%} expected; {mapping.n_ambiguous:,} are ambiguous "
        f"(first unknown: {', '.join(unknown[:_NAMED])})"
    )
    fix = "published models know human symbols: give --gene-table for Ensembl ids, or --min-mapped"
    raise BadInputError(Problem(code="V22", subject=subject, what=what, fix=fix))


def read_symbols(path: Path) -> dict[str, tuple[str, ...]]:
    """Read a table with the columns ``ensembl`` and ``symbol``, as ``stbuild genes`` writes it.

    Returns
    -------
    dict
        The symbols of each Ensembl id.

    Raises
    ------
    BadInputError
        Missing, too large, or without these columns.
    """
    if not path.is_file() or path.stat().st_size > _MAX_BYTES:
        raise _refused(path, f"no file of at most {_MAX_BYTES:,} bytes")
    try:
        lines = [line for line in path.read_text("utf-8").splitlines() if line[:1] != "#"]
        rows = list(csv.DictReader(lines, delimiter="\t"))
    except (UnicodeDecodeError, csv.Error) as error:
        raise _refused(path, f"no table: {str(error)[:200]}") from error
    if not rows or not {"ensembl", "symbol"} <= set(rows[0]):
        raise _refused(path, f"columns {', '.join(map(str, rows[0] if rows else ()))!r}")
    found: dict[str, tuple[str, ...]] = {}
    for row in rows:
        gene, symbol = row["ensembl"], row["symbol"]
        if gene and symbol and symbol not in found.get(gene, ()):
            found[gene] = (*found.get(gene, ()), symbol)
    return found


def _refused(path: Path, what: str) -> BadInputError:
    fix = (
        "give a tab-separated table with the columns ensembl and symbol; `stbuild genes` makes one"
    )
    subject = f"gene table '{path.name}'"
    return BadInputError(Problem(code="V22", subject=subject, where=str(path), what=what, fix=fix))
