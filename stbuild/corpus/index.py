"""The Parquet tables of a corpus: index of samples, genes, slices.

What they are made of, and how much of a stranger's is read: :mod:`stbuild.corpus.parquet`.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.documents import SliceEntry, sources_digest
from stbuild.corpus.parquet import (
    column_of,
    lists_of,
    numbers_of,
    read_parts,
    read_table,
    refused,
    texts_of,
    to_parquet,
)
from stbuild.corpus.texts import CodedTexts, PackedTexts

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, kw_only=True)
class SampleIndex:
    """Where each sample of one split and kind lies. S samples, in stored order."""

    keys: Sequence[str]
    shard: NDArray[np.int32]
    """(S,) position in ``CorpusDocument.shards_of(split, kind)``."""
    offset: NDArray[np.int64]
    """(S,) first byte of the sample's first tar header."""
    size: NDArray[np.int64]
    """(S,) bytes up to the end of its last member's padding."""
    sha256: NDArray[np.uint8]
    """(S, 32) digest of those bytes, tar headers included."""
    content: NDArray[np.uint8]
    """(S, 32) content digest."""
    slices: Sequence[str]
    donors: Sequence[str]
    row: NDArray[np.int32]
    col: NDArray[np.int32]
    draw: NDArray[np.int32]
    observed: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.offset)


_MOST_GENES: Final = 2**20
"""Most genes of a slice, where the vocabulary is not known."""
INT_COLUMNS: Final[Mapping[str, type[np.signedinteger[Any]]]] = {
    "shard": np.int32,
    "offset": np.int64,
    "size": np.int64,
    "row": np.int32,
    "col": np.int32,
    "draw": np.int32,
    "observed": np.int32,
}
DIGEST_COLUMNS: Final = ("sha256", "content")
ARRAY_COLUMNS: Final[Mapping[str, tuple[type[np.integer[Any]], tuple[int, ...]]]] = {
    **{name: (dtype, ()) for name, dtype in INT_COLUMNS.items()},
    **dict.fromkeys(DIGEST_COLUMNS, (np.uint8, (32,))),
}
"""Type of a value, and what its shape has after the number of samples."""


def write_index(index: SampleIndex) -> bytes:
    """Return the index as Parquet; the same index gives the same bytes under one pyarrow."""
    import pyarrow as pa

    columns: dict[str, Any] = {"key": texts_of(list(index.keys))}
    columns |= {name: column_of(getattr(index, name)) for name in INT_COLUMNS}
    columns |= {name: column_of(getattr(index, name)) for name in DIGEST_COLUMNS}
    columns["slice"] = texts_of(list(index.slices))
    columns["donor"] = texts_of(list(index.donors))
    return to_parquet(pa.Table.from_arrays(list(columns.values()), list(columns)))


def read_index(raw: bytes, where: str, n_rows: int | None = None) -> SampleIndex:
    """Read an index and check its columns.

    Parameters
    ----------
    raw, where
        The file, and its name for messages.
    n_rows
        Samples that it must have; a table of another length is refused unread.

    Raises
    ------
    IntegrityError
        Not Parquet, a missing column, a null, a negative number.
    """
    return join_parts(list(read_index_parts(io.BytesIO(raw), where, n_rows)))


def read_index_parts(
    source: IO[bytes], where: str, n_rows: int | None = None
) -> Iterator[SampleIndex]:
    """Read an index some rows at a time; otherwise as :func:`read_index`."""
    needed = {name: np.dtype(dtype).name for name, dtype in INT_COLUMNS.items()}
    needed |= dict.fromkeys(("key", "slice", "donor"), "string")
    needed |= dict.fromkeys(DIGEST_COLUMNS, "fixed_size_binary[32]")
    for table in read_parts(source, where, needed, n_rows):
        integers: dict[str, NDArray[Any]] = {
            name: np.ascontiguousarray(table.column(name).to_numpy(), dtype=dtype)
            for name, dtype in INT_COLUMNS.items()
        }
        if any(bool(np.any(column < 0)) for column in integers.values()):
            raise refused(where, "a negative number")
        yield SampleIndex(
            keys=_pack(table.column("key")),
            slices=_code(table.column("slice")),
            donors=_code(table.column("donor")),
            sha256=_digests(table.column("sha256")),
            content=_digests(table.column("content")),
            **integers,
        )


def join_parts(parts: Sequence[SampleIndex]) -> SampleIndex:
    """Return the rows of all parts as one index."""
    columns = {
        name: np.concatenate([np.empty((0, *tail), dtype), *(getattr(p, name) for p in parts)])
        for name, (dtype, tail) in ARRAY_COLUMNS.items()
    }
    return SampleIndex(
        keys=PackedTexts.of(key for part in parts for key in part.keys),
        slices=CodedTexts.of(text for part in parts for text in part.slices),
        donors=CodedTexts.of(text for part in parts for text in part.donors),
        **columns,
    )


def _pack(column: "pa.ChunkedArray") -> PackedTexts:
    """Pack a column of strings without making any."""
    (chunk,) = column.chunks if column.num_chunks == 1 else (column.combine_chunks(),)
    _, offsets, data = chunk.buffers()
    at, n = chunk.offset, len(chunk)
    starts = np.frombuffer(offsets, np.int32, n + 1, 4 * at).astype(np.int64)
    raw = np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    return PackedTexts(starts - starts[0], raw[starts[0] : starts[-1]])


def _code(column: "pa.ChunkedArray") -> CodedTexts:
    """Code a column of strings."""
    import pyarrow.compute as pc

    coded = pc.dictionary_encode(column).combine_chunks()
    return CodedTexts(
        np.asarray(coded.indices.to_numpy(), np.int32), tuple(coded.dictionary.to_pylist())
    )


def _digests(column: "pa.ChunkedArray") -> NDArray[np.uint8]:
    """Return a column of digests as (S, 32) bytes."""
    parts = [
        np.frombuffer(chunk.buffers()[1], np.uint8, 32 * len(chunk), 32 * chunk.offset)
        for chunk in column.chunks
    ]
    return np.concatenate([np.empty(0, np.uint8), *parts]).reshape(-1, 32)


def write_genes(genes: Sequence[str], n_slices: Sequence[int]) -> bytes:
    """Return ``genes.parquet``: the vocabulary in order, and how many slices measure each gene."""
    import pyarrow as pa

    columns = [texts_of(genes), numbers_of(n_slices)]
    return to_parquet(pa.Table.from_arrays(columns, ["gene", "n_slices"]))


def read_genes(raw: bytes, where: str, n_rows: int | None = None) -> list[str]:
    """Read the vocabulary.

    Parameters
    ----------
    raw, where
        The file, and its name for messages.
    n_rows
        Genes that it must have.

    Raises
    ------
    IntegrityError
        Not Parquet, no column ``gene``, or ids that are not unique.
    """
    genes: list[str] = read_table(raw, where, {"gene": "string"}, n_rows).column("gene").to_pylist()
    if len(set(genes)) < len(genes):
        raise refused(where, "gene ids are not unique")
    return genes


def write_panels(panels: Mapping[str, NDArray[np.int32]]) -> bytes:
    """Return ``panels.parquet``: which genes each slice measures; others are unknown, not zero.

    Parameters
    ----------
    panels
        Per slug, ascending gene indices.
    """
    import pyarrow as pa

    slugs = sorted(panels)
    columns = [texts_of(slugs), lists_of([panels[slug] for slug in slugs])]
    return to_parquet(pa.Table.from_arrays(columns, ["slice", "genes"]))


def read_panels(
    raw: bytes, where: str, n_rows: int | None = None, n_genes: int | None = None
) -> dict[str, NDArray[np.int32]]:
    """Read ``panels.parquet``.

    Parameters
    ----------
    raw, where
        The file, and its name for messages.
    n_rows
        Slices that it must have.
    n_genes
        Size of the vocabulary: no slice measures more.

    Raises
    ------
    IntegrityError
        Not Parquet, other columns, a slice that stands twice, or genes that do not ascend.
    """
    needed = {"slice": "string", "genes": "list<element: int32>"}
    table = read_table(raw, where, needed, n_rows, _MOST_GENES if n_genes is None else n_genes)
    column = table.column("genes").combine_chunks()
    if column.flatten().null_count:
        raise refused(where, "nulls in the lists of ``genes``")
    slugs = table.column("slice").to_pylist()
    panels = {
        slug: np.asarray(genes.values.to_numpy(zero_copy_only=False), np.int32)
        for slug, genes in zip(slugs, column, strict=True)
    }
    ascend = all(
        panel.size == 0 or (panel[0] >= 0 and bool(np.all(panel[1:] > panel[:-1])))
        for panel in panels.values()
    )
    if len(panels) < len(slugs) or not ascend:
        raise refused(where, "a slice stands twice, or its genes do not ascend")
    return panels


def write_slices(slices: Sequence[SliceEntry]) -> bytes:
    """Return ``slices.parquet``: one row per slice, for people who do not read JSON."""
    import pyarrow as pa

    rows = [
        {
            **{k: v for k, v in entry.model_dump().items() if k not in {"sources", "grid"}},
            "grid_rows": entry.grid[0],
            "grid_cols": entry.grid[1],
            "source_name": ", ".join(file.name for file in entry.sources),
            "source_sha256": sources_digest(entry.sources),
        }
        for entry in slices
    ]
    texts = {"slug", "name", "split", "donor", "section", "pair", "platform", "tissue", "species"}
    texts |= {"licence", "layout", "grid_content", "source_name", "source_sha256"}
    keys = list(rows[0]) if rows else []
    columns = [(texts_of if k in texts else numbers_of)([row[k] for row in rows]) for k in keys]
    return to_parquet(pa.Table.from_arrays(columns, keys))


def same_tables(raw: bytes, own: bytes, where: str) -> bool:
    """Tell whether a Parquet table holds the rows of another, whatever wrote them.

    Parameters
    ----------
    raw, where
        A table of anybody, and its name for messages; it is read only where its footer agrees.
    own
        A table of our own making.

    Raises
    ------
    IntegrityError
        Not Parquet, or of other columns or another length.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    expected = pq.read_table(pa.BufferReader(own), use_threads=False, pre_buffer=False)
    columns = {field.name: str(field.type) for field in expected.schema}
    lists = [c for c in expected.columns if pa.types.is_list(c.type)]
    longest = max((len(item) for column in lists for item in column), default=0)
    found = read_table(raw, where, columns, expected.num_rows, longest, nulls=True)
    return bool(found.select(expected.column_names).equals(expected)) and _has_only(raw, columns)


def _has_only(raw: bytes, columns: Mapping[str, str]) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    return bool(pq.read_schema(pa.BufferReader(raw)).names == list(columns))
