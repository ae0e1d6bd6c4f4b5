"""The Parquet tables of a corpus: index of samples, genes, slices.

Only this module touches pyarrow, and only inside its functions.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.documents import SliceEntry, sources_digest
from stbuild.corpus.errors import IntegrityError, Problem

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq


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


_MOST_TEXT: Final = 4096
"""Longest text of a table, in bytes: ids and names are far shorter."""
_MOST_GENES: Final = 2**20
"""Most genes of a slice, where the vocabulary is not known."""
_FIXED_BYTES: Final = 16 * 2**20
_ROW_BYTES: Final = 2**20
"""Most bytes that a table's columns may claim: so much, and so much a row (panels hold lists)."""

_INT_COLUMNS = {
    "shard": np.int32,
    "offset": np.int64,
    "size": np.int64,
    "row": np.int32,
    "col": np.int32,
    "draw": np.int32,
    "observed": np.int32,
}


def write_index(index: SampleIndex) -> bytes:
    """Return the index as Parquet; the same index gives the same bytes under one pyarrow."""
    import pyarrow as pa

    columns: dict[str, Any] = {"key": pa.array(list(index.keys), pa.string())}
    columns |= {name: pa.array(getattr(index, name)) for name in _INT_COLUMNS}
    for name in ("sha256", "content"):
        digests = [row.tobytes() for row in getattr(index, name)]
        columns[name] = pa.array(digests, pa.binary(32))
    columns["slice"] = pa.array(list(index.slices), pa.string())
    columns["donor"] = pa.array(list(index.donors), pa.string())
    return _to_parquet(pa.table(columns))


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
    digest_type = "fixed_size_binary[32]"
    needed = {name: np.dtype(dtype).name for name, dtype in _INT_COLUMNS.items()}
    needed |= dict.fromkeys(("key", "slice", "donor"), "string")
    digests_too = needed | {"sha256": digest_type, "content": digest_type}
    table = _from_parquet(raw, where, digests_too, n_rows)
    integers: dict[str, NDArray[Any]] = {
        name: np.ascontiguousarray(table.column(name).to_numpy(), dtype=dtype)
        for name, dtype in _INT_COLUMNS.items()
    }
    if any(bool(np.any(column < 0)) for column in integers.values()):
        raise _refused(where, "a negative number")
    digests: dict[str, NDArray[np.uint8]] = {}
    for name in ("sha256", "content"):
        joined = b"".join(table.column(name).to_pylist())
        digests[name] = np.frombuffer(joined, np.uint8).reshape(-1, 32)
    return SampleIndex(
        keys=table.column("key").to_pylist(),
        slices=table.column("slice").to_pylist(),
        donors=table.column("donor").to_pylist(),
        sha256=digests["sha256"],
        content=digests["content"],
        **integers,
    )


def write_genes(genes: Sequence[str], n_slices: Sequence[int]) -> bytes:
    """Return ``genes.parquet``: the vocabulary in order, and how many slices measure each gene."""
    import pyarrow as pa

    return _to_parquet(
        pa.table({"gene": pa.array(list(genes), pa.string()), "n_slices": pa.array(n_slices)})
    )


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
    genes: list[str] = (
        _from_parquet(raw, where, {"gene": "string"}, n_rows).column("gene").to_pylist()
    )
    if len(set(genes)) < len(genes):
        raise _refused(where, "gene ids are not unique")
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
    lists = pa.array([panels[slug] for slug in slugs], pa.list_(pa.int32()))
    return _to_parquet(pa.table({"slice": pa.array(slugs, pa.string()), "genes": lists}))


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
    table = _from_parquet(raw, where, needed, n_rows, _MOST_GENES if n_genes is None else n_genes)
    column = table.column("genes").combine_chunks()
    if column.flatten().null_count:
        raise _refused(where, "nulls in the lists of ``genes``")
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
        raise _refused(where, "a slice stands twice, or its genes do not ascend")
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
    fields = [(k, pa.string() if k in texts else pa.int64()) for k in rows[0]] if rows else []
    return _to_parquet(pa.Table.from_pylist(rows, schema=pa.schema(fields)))


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
    found = _from_parquet(raw, where, columns, expected.num_rows, longest, nulls=True)
    return bool(found.select(expected.column_names).equals(expected)) and _has_only(raw, columns)


def _has_only(raw: bytes, columns: Mapping[str, str]) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    return bool(pq.read_schema(pa.BufferReader(raw)).names == list(columns))


def _to_parquet(table: "pa.Table") -> bytes:
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd", store_schema=False)
    return out.getvalue()


def _from_parquet(
    raw: bytes,
    where: str,
    needed: Mapping[str, str],
    n_rows: int | None = None,
    longest: int = 0,
    *,
    nulls: bool = False,
) -> "pa.Table":
    """Read the needed columns of a table, after its own account of itself was checked.

    Parameters
    ----------
    raw, where
        The file, and its name for messages.
    needed
        Type of each column; others are not read.
    n_rows
        Rows that it must have.
    longest
        Longest list of a column of lists.
    nulls
        Whether values may be missing.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(io.BytesIO(raw), pre_buffer=False)
        _check_account(file, where, needed, n_rows, longest)
        # Texts stay dictionaries until their lengths are known: a tiny file can repeat a long one.
        texts = [name for name, kind in needed.items() if kind == "string"]
        file = pq.ParquetFile(io.BytesIO(raw), pre_buffer=False, read_dictionary=texts)
        # Without threads: pyarrow's pool can abort an interpreter that ends while it still runs.
        table = file.read(columns=list(needed), use_threads=False)
        table = _spell_out(table, texts, where)
        table.validate(full=True)  # text that is not UTF-8 fails here and not at some reader
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise _refused(where, f"not a readable Parquet table: {str(error)[:160]}") from error
    if holes := sorted(name for name in needed if table.column(name).null_count and not nulls):
        raise _refused(where, f"nulls in {', '.join(holes)}")
    return table


def _check_account(
    file: "pq.ParquetFile",
    where: str,
    needed: Mapping[str, str],
    n_rows: int | None,
    longest: int,
) -> None:
    """Refuse a table by its footer, before a column is read."""
    schema, account = file.schema_arrow, file.metadata
    if len(set(schema.names)) < len(schema.names):
        raise _refused(where, "a column that stands twice")
    if missing := sorted(set(needed) - set(schema.names)):
        raise _refused(where, f"columns missing: {', '.join(missing)}")
    types = {name: str(schema.field(name).type) for name in needed}
    if wrong := sorted(name for name, expected in needed.items() if types[name] != expected):
        listed = ", ".join(f"{name} is {types[name]}, not {needed[name]}" for name in wrong)
        raise _refused(where, f"column types: {listed}")
    if n_rows is not None and account.num_rows != n_rows:
        raise _refused(where, f"{account.num_rows:,} rows, {n_rows:,} are expected")
    groups = [account.row_group(i) for i in range(account.num_row_groups)]
    # Runs of one value weigh nothing in the file, so bytes alone do not tell what it decodes to.
    for group in groups:
        most = group.num_rows * max(longest, 1)
        columns = [group.column(i) for i in range(group.num_columns)]
        values = [c.num_values for c in columns if c.path_in_schema.partition(".")[0] in needed]
        if group.num_rows < 0 or any(not 0 <= n <= most for n in values):
            raise _refused(where, f"it claims {max(values):,} values in {group.num_rows:,} rows")
    if sum(group.num_rows for group in groups) != account.num_rows:
        raise _refused(where, "its parts do not have the rows that it claims")
    size = sum(group.total_byte_size for group in groups)
    most = _FIXED_BYTES + _ROW_BYTES * account.num_rows
    if not 0 <= size <= most:
        raise _refused(where, f"it claims {size:,} bytes of columns for {account.num_rows:,} rows")


def _spell_out(table: "pa.Table", texts: Sequence[str], where: str) -> "pa.Table":
    """Turn dictionaries of texts into texts, unless one is too long to be an id or a name."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for name in texts:
        column = table.column(name)
        for chunk in column.chunks:
            words = chunk.dictionary if pa.types.is_dictionary(chunk.type) else chunk
            longest = pc.max(pc.binary_length(words)).as_py() or 0
            if longest > _MOST_TEXT:
                raise _refused(where, f"column {name}: a text of {longest:,} bytes")
        at = table.column_names.index(name)
        table = table.set_column(at, name, column.cast(pa.string()))
    return table


def _refused(where: str, what: str) -> IntegrityError:
    fix = "run `stbuild verify` on the corpus and get the file again"
    return IntegrityError(Problem(code="L16", subject="table", where=where, what=what, fix=fix))
