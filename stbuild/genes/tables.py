"""Pairs of Ensembl id and symbol: reading a table, and making one from files people can download.

A table is tab-separated text with the columns ensembl, symbol and species; lines that start with
``#`` say where it came from. Nothing is shipped: annotations have releases, so a corpus names
the table it used, with its digest.
"""

import csv
import gzip
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, TextIO

from stbuild.corpus.digests import sha256_file
from stbuild.corpus.errors import BadInputError, Problem
from stbuild.corpus.paths import look_at
from stbuild.genes.ids import ENSEMBL, strip_version

_COLUMNS: Final = ("ensembl", "symbol", "species")
_MAX_LINE: Final = 1 << 20
_SPECIES_OF: Final = {"": "human", "MUS": "mouse", "RNO": "rat", "DAR": "zebrafish", "SSC": "pig"}


@dataclass(frozen=True)
class GeneTable:
    """Pairs of unversioned Ensembl ids and symbols, sorted; either side may repeat."""

    pairs: tuple[tuple[str, str, str], ...]
    """(ensembl, symbol, species)."""

    @cached_property
    def by_ensembl(self) -> dict[str, tuple[str, ...]]:
        """Symbols of each Ensembl id."""
        return _group((ensembl, symbol) for ensembl, symbol, _ in self.pairs)

    @cached_property
    def by_symbol(self) -> dict[str, tuple[str, ...]]:
        """Ensembl ids of each symbol, exactly as it is spelt."""
        return _group((symbol, ensembl) for ensembl, symbol, _ in self.pairs)


def _group(pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for key, value in pairs:
        values = found.setdefault(key, [])
        if value not in values:
            values.append(value)
    return {key: tuple(values) for key, values in found.items()}


def read_gene_table(path: Path) -> GeneTable:
    """Read a table that :func:`write_gene_table` wrote, or any with the same columns.

    Raises
    ------
    BadInputError
        No such file, not text, columns missing, or a row that is no pair; with its line.
    """
    with _open_text(path) as file:
        rows = csv.reader((line for line in file if not line.startswith("#")), delimiter="\t")
        header = next(rows, [])
        if list(header[:3]) != list(_COLUMNS):
            what = f"expected the columns {', '.join(_COLUMNS)}, got {', '.join(header)[:80]!r}"
            raise _bad(path, what)
        pairs = []
        for number, row in enumerate(rows, start=2):
            if len(row) < 3 or not ENSEMBL.fullmatch(row[0]) or not row[1]:
                raise _bad(path, f"row {number} is no pair: {row[:3]!r:.80}")
            pairs.append((strip_version(row[0]), row[1], row[2]))
    return GeneTable(tuple(sorted(set(pairs))))


def make_gene_table(sources: Sequence[Path]) -> GeneTable:
    """Make a table from annotation files, told apart by their first lines.

    Ensembl or GENCODE GTF (``gene_id``, ``gene_name`` of ``gene`` rows), HGNC's complete set
    (``symbol``, ``ensembl_gene_id``), MGI's ``MRK_ENSEMBL.rpt``, 10x ``features.tsv``; each plain
    or gzip.

    Raises
    ------
    BadInputError
        A file of another form, or one without a single pair.
    """
    pairs: set[tuple[str, str, str]] = set()
    for path in sources:
        before = len(pairs)
        with _open_text(path) as file:
            pairs |= {
                (strip_version(ensembl), symbol, _species(ensembl))
                for ensembl, symbol in _read_pairs(path, file)
                if symbol and ENSEMBL.fullmatch(ensembl) and not ENSEMBL.fullmatch(symbol)
            }
        if len(pairs) == before:
            raise _bad(path, "no pair of Ensembl id and symbol that is not there already")
    return GeneTable(tuple(sorted(pairs)))


def pairs_of(ids: Sequence[str], names: Sequence[str]) -> list[tuple[str, str]]:
    """Return (ensembl, symbol) wherever one of the two is an Ensembl id and the other is not."""
    found = []
    for one, other in zip(ids, names, strict=True):
        if one and other and bool(ENSEMBL.fullmatch(one)) != bool(ENSEMBL.fullmatch(other)):
            pair = (one, other) if ENSEMBL.fullmatch(one) else (other, one)
            found.append((strip_version(pair[0]), pair[1]))
    return found


def write_gene_table(table: GeneTable, sources: Sequence[Path]) -> bytes:
    """Return a table as text: where it came from, then the sorted pairs; the same every time."""
    out = io.StringIO()
    for path in sources:
        out.write(f"# {path.name} sha256:{sha256_file(path)}\n")
    writer = csv.writer(out, delimiter="\t", lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(table.pairs)
    return out.getvalue().encode()


@contextmanager
def _open_text(path: Path) -> Iterator[TextIO]:
    if not (look := look_at(path)).is_file:
        raise _bad(path, look.fault or "not a regular file")
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            unpacked = gzip.GzipFile(fileobj=raw) if packed else raw
            with io.TextIOWrapper(unpacked, encoding="utf-8", newline="") as file:
                yield file
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError, csv.Error) as error:
        raise _bad(path, f"unreadable: {str(error)[:100]}") from None


def _read_pairs(path: Path, file: TextIO) -> Iterator[tuple[str, str]]:
    first = file.readline(_MAX_LINE)
    while first.startswith("#"):
        first = file.readline(_MAX_LINE)
    cells = first.rstrip("\n").split("\t")
    lines = _chain(first, file)
    if len(cells) == 9 and ";" in cells[8]:
        yield from _read_gtf(lines)
    elif {"symbol", "ensembl_gene_id"} <= set(cells):
        yield from _read_columns(lines, cells, "ensembl_gene_id", "symbol")
    elif cells[0].startswith("MGI:") and len(cells) > 5:
        yield from ((row[5], row[1]) for row in _split(lines) if len(row) > 5)
    elif len(cells) in (2, 3) and ENSEMBL.fullmatch(cells[0]):
        yield from ((row[0], row[1]) for row in _split(lines) if len(row) > 1)
    else:
        raise _bad(path, f"neither GTF, HGNC, MGI nor 10x features: {first[:60]!r}")


def _chain(first: str, file: TextIO) -> Iterator[str]:
    yield first
    yield from file


def _split(lines: Iterable[str]) -> Iterator[list[str]]:
    return (line.rstrip("\n").split("\t") for line in lines)


def _read_gtf(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    for row in _split(lines):
        if len(row) == 9 and row[2] == "gene":
            facts = dict(re.findall(r'(gene_id|gene_name) "([^"]*)"', row[8]))
            if "gene_name" in facts and "gene_id" in facts:
                yield facts["gene_id"], facts["gene_name"]


def _read_columns(
    lines: Iterable[str], header: list[str], ensembl: str, symbol: str
) -> Iterator[tuple[str, str]]:
    at, other = header.index(ensembl), header.index(symbol)
    for row in _split(lines):
        if len(row) > max(at, other):
            yield row[at], row[other]


def _species(ensembl: str) -> str:
    match = ENSEMBL.fullmatch(ensembl)
    letters = match.group(1) if match else ""
    return _SPECIES_OF.get(letters, f"ENS{letters}")


def _bad(path: Path, what: str) -> BadInputError:
    fix = "give a table with the columns ensembl, symbol, species; `stbuild genes` makes one"
    return BadInputError(
        Problem(
            code="B075", subject=f"gene table '{path.name}'", where=str(path), what=what, fix=fix
        )
    )
