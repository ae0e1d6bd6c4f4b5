"""Writers of small text tables in the forms they have in the wild, for the tests."""

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stbuild.slices import SliceRecord

COUNTS = np.asarray([[0, 3, 1, 0], [2, 0, 0, 70000], [1, 1, 0, 0], [0, 0, 5, 9]], np.uint32)
"""(4, 4) spots x genes."""
SPOTS = ("10x13", "10x14", "11x13", "12x20")
GENES = ("GAPDH", "NA", "1-Mar", "MT-CO1")
BARCODES = (
    "AAACAAGTATCTCCCA-1", "AAACACCAATAACTGC-1", "AAACAGAGCGACTCCT-1", "AAACAGCTTTCAGAAG-1",
)  # fmt: skip


@dataclass(frozen=True)
class Dialect:
    """How a table is written."""

    delimiter: str = "\t"
    by_spot: bool = True
    corner: str | None = ""
    """Name of the first column; None leaves it out, as R does."""
    quoted: bool = False
    all_quoted: bool = False
    end: str = "\n"
    bom: bool = False
    packed: bool = False
    number: str = "{}"


def record_at(path: Path, **fields: Any) -> SliceRecord:
    """Return a record of a file or folder."""
    values: dict[str, Any] = {"name": path.name, "slug": "s", "path": str(path)}
    return SliceRecord(**(values | {"source_name": path.name} | fields))


def write_text(path: Path, text: str, *, packed: bool = False) -> Path:
    """Write text as it is, optionally as gzip."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    return path


def write_rows(path: Path, rows: Sequence[Sequence[object]], delimiter: str = ",") -> Path:
    """Write rows of fields."""
    lines = (delimiter.join(map(str, row)) for row in rows)
    return write_text(path, "\n".join(lines) + "\n")


def write_counts(
    path: Path,
    counts: NDArray[Any] = COUNTS,
    spots: Sequence[str] = SPOTS,
    genes: Sequence[str] = GENES,
    dialect: Dialect = Dialect(),
) -> Path:
    """Write a table of counts (N, K) in some dialect."""
    values, rows, columns = (counts, spots, genes) if dialect.by_spot else (counts.T, genes, spots)

    def quote(name: str) -> str:
        return f'"{name}"' if dialect.quoted or dialect.all_quoted else name

    def number(value: object) -> str:
        text = dialect.number.format(value)
        return f'"{text}"' if dialect.all_quoted else text

    header = [quote(name) for name in columns]
    if dialect.corner is not None:
        header.insert(0, quote(dialect.corner))
    lines = [header]
    for name, line in zip(rows, values.tolist(), strict=True):
        lines.append([quote(name), *map(number, line)])
    text = "".join(dialect.delimiter.join(line) + dialect.end for line in lines)
    return write_text(path, "\ufeff" * dialect.bom + text, packed=dialect.packed)
