"""Parquet of strangers: refused by its own account of itself before a column is decoded.

Only this module and :mod:`stbuild.corpus.index` touch pyarrow, and only inside their functions.
"""

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.errors import IntegrityError, Problem
from stbuild.corpus.footers import Footer, read_footer

if TYPE_CHECKING:
    import pyarrow as pa

_MOST_TEXT: Final = 4096
"""Longest text of a table, in bytes: ids and names are far shorter."""
_FIXED_BYTES: Final = 16 * 2**20
_ROW_BYTES: Final = 2**20
"""Most bytes that a table's columns may claim: so much, and so much a row (panels hold lists)."""
_PART_ROWS: Final = 2**14
"""Rows that are decoded at once where a table is read in parts."""


def to_parquet(table: "pa.Table") -> bytes:
    """Return a table as Parquet; the same table gives the same bytes under one pyarrow."""
    import pyarrow.parquet as pq

    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd", store_schema=False)
    return out.getvalue()


def column_of(values: NDArray[Any]) -> "pa.Array":
    """Return numbers (N,), or bytes (N, width) as a column of fixed width.

    Columns are made of buffers: whatever else makes one has pyarrow import pandas, which takes
    longer than all tables of a corpus.
    """
    import pyarrow as pa

    kind = pa.binary(values.shape[1]) if values.ndim == 2 else pa.from_numpy_dtype(values.dtype)
    buffer = pa.py_buffer(np.ascontiguousarray(values).data.cast("B")) if values.size else None
    return pa.Array.from_buffers(kind, len(values), [None, buffer or pa.py_buffer(b"")])


def numbers_of(values: Sequence[int | None]) -> "pa.Array":
    """Return a column of 64-bit integers; None is null."""
    import pyarrow as pa

    filled = np.asarray([0 if value is None else value for value in values], np.int64)
    return pa.Array.from_buffers(
        pa.int64(), len(values), [_validity(values), pa.py_buffer(filled.tobytes())]
    )


def texts_of(values: Sequence[str | None]) -> "pa.Array":
    """Return a column of text; None is null."""
    import pyarrow as pa

    encoded = [b"" if value is None else value.encode() for value in values]
    ends = np.cumsum([0, *map(len, encoded)])
    if int(ends[-1]) >= 2**31:
        msg = f"{int(ends[-1]):,} bytes of text in one column, at most 2 GiB"
        raise OverflowError(msg)
    buffers = [_validity(values), pa.py_buffer(ends.astype("<i4").tobytes())]
    return pa.Array.from_buffers(
        pa.string(), len(encoded), [*buffers, pa.py_buffer(b"".join(encoded))]
    )


def lists_of(values: Sequence[NDArray[Any]]) -> "pa.Array":
    """Return a column of lists of 32-bit integers."""
    import pyarrow as pa

    ends = np.cumsum([0, *(len(value) for value in values)]).astype(np.int32)
    flat = np.concatenate([np.zeros(0, np.int32), *values]).astype(np.int32)
    return pa.ListArray.from_arrays(column_of(ends), column_of(flat))


def _validity(values: Sequence[object]) -> "pa.Buffer | None":
    import pyarrow as pa

    if None not in values:
        return None
    known = np.asarray([value is not None for value in values])
    return pa.py_buffer(np.packbits(known, bitorder="little").tobytes())


def read_table(
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

    Raises
    ------
    IntegrityError
        Not Parquet, of other columns or another length, or nulls.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        account = read_footer(io.BytesIO(raw))
        file = pq.ParquetFile(io.BytesIO(raw), pre_buffer=False)
        _check_account(file.schema_arrow, account, where, needed, n_rows, longest)
        # Texts stay dictionaries until their lengths are known: a tiny file can repeat a long one.
        texts = [name for name, kind in needed.items() if kind == "string"]
        file = pq.ParquetFile(io.BytesIO(raw), pre_buffer=False, read_dictionary=texts)
        # Without threads: see `read_all`.
        table = file.read(columns=list(needed), use_threads=False)
        table = _spell_out(table, texts, where)
        table.validate(full=True)  # text that is not UTF-8 fails here and not at some reader
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise refused(where, f"not a readable Parquet table: {str(error)[:160]}") from error
    if not nulls:
        _refuse_nulls(table, where)
    return table


def read_all(raw: bytes) -> "pa.Table":
    """Read all columns of a table, whatever they are, with the checksums of its pages.

    Nothing is left behind in a thread: a worker of pyarrow's pool that still holds the bytes when
    the interpreter ends aborts it, and `pyarrow.parquet.read_table` leaves one even when told
    to use no threads.

    Raises
    ------
    pyarrow.ArrowException, OSError, ValueError
        Not Parquet, damaged, or a column stands twice.
    """
    import pyarrow.parquet as pq

    read_footer(io.BytesIO(raw))  # pyarrow aborts the interpreter where this one raises
    file = pq.ParquetFile(io.BytesIO(raw), pre_buffer=False, page_checksum_verification=True)
    name, times = max(Counter(file.schema_arrow.names).items(), key=itemgetter(1), default=("", 0))
    if times > 1:
        msg = f"column {name!r} stands {times} times"
        raise ValueError(msg)
    return file.read(use_threads=False)


def read_parts(
    source: IO[bytes], where: str, needed: Mapping[str, str], n_rows: int | None = None
) -> Iterator["pa.Table"]:
    """Read a table some rows at a time, so that memory does not grow with it.

    Parameters
    ----------
    source, where, needed, n_rows
        As of :func:`read_table`, but for a file instead of its bytes.

    Raises
    ------
    IntegrityError
        Not Parquet, of other columns or another length, or nulls.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = [name for name, kind in needed.items() if kind == "string"]
    found = 0
    try:
        account = read_footer(source)
        file = pq.ParquetFile(source, pre_buffer=False)
        _check_account(file.schema_arrow, account, where, needed, n_rows, 0)
        file = pq.ParquetFile(source, pre_buffer=False, read_dictionary=texts)
        for batch in file.iter_batches(_PART_ROWS, columns=list(needed), use_threads=False):
            table = _spell_out(pa.Table.from_batches([batch]), texts, where)
            table.validate(full=True)
            _refuse_nulls(table, where)
            found += table.num_rows
            yield table
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise refused(where, f"not a readable Parquet table: {str(error)[:160]}") from error
    if n_rows is not None and found != n_rows:
        raise refused(where, f"{found:,} rows came, {n_rows:,} are expected")


def _refuse_nulls(table: "pa.Table", where: str) -> None:
    if holes := sorted(n for n in table.column_names if table.column(n).null_count):
        raise refused(where, f"nulls in {', '.join(holes)}")


def _check_account(
    schema: "pa.Schema",
    account: Footer,
    where: str,
    needed: Mapping[str, str],
    n_rows: int | None,
    longest: int,
) -> None:
    """Refuse a table by its footer, before a column is read."""
    if len(set(schema.names)) < len(schema.names):
        raise refused(where, "a column that stands twice")
    if missing := sorted(set(needed) - set(schema.names)):
        raise refused(where, f"columns missing: {', '.join(missing)}")
    types = {name: str(schema.field(name).type) for name in needed}
    if wrong := sorted(name for name, expected in needed.items() if types[name] != expected):
        listed = ", ".join(f"{name} is {types[name]}, not {needed[name]}" for name in wrong)
        raise refused(where, f"column types: {listed}")
    if n_rows is not None and account.n_rows != n_rows:
        raise refused(where, f"{account.n_rows:,} rows, {n_rows:,} are expected")
    # Runs of one value weigh nothing in the file, so bytes alone do not tell what it decodes to.
    for group in account.groups:
        most = group.n_rows * max(longest, 1)
        if absent := sorted(set(needed) - set(group.values)):
            raise refused(where, f"a group of rows without {', '.join(absent)}")
        values = [group.values[name] for name in needed]
        if group.n_rows < 0 or any(not 0 <= n <= most for n in values):
            raise refused(where, f"it claims {max(values):,} values in {group.n_rows:,} rows")
    if sum(group.n_rows for group in account.groups) != account.n_rows:
        raise refused(where, "its parts do not have the rows that it claims")
    size = sum(group.n_bytes for group in account.groups)
    most = _FIXED_BYTES + _ROW_BYTES * account.n_rows
    if not 0 <= size <= most:
        raise refused(where, f"it claims {size:,} bytes of columns for {account.n_rows:,} rows")


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
                raise refused(where, f"column {name}: a text of {longest:,} bytes")
        at = table.column_names.index(name)
        table = table.set_column(at, name, column.cast(pa.string()))
    return table


def refused(where: str, what: str) -> IntegrityError:
    """Return the error of a table."""
    fix = "run `stbuild verify` on the corpus and get the file again"
    return IntegrityError(Problem(code="L16", subject="table", where=where, what=what, fix=fix))
