"""A text table of counts as a sparse matrix: read line by line, parsed block by block.

Rows are spots or genes, whichever the caller says. Every row must have as many fields as the
header implies, every value must be a count. Only one block of numbers is ever dense.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv
from numpy.typing import NDArray
from scipy.sparse import csr_array

from stbuild.counts import allocate, as_csr
from stbuild.sources.faults import SourceFaultError
from stbuild.sources.matrices import to_counts
from stbuild.sources.tables.preview import Preview, cut_end, is_number, split_fields
from stbuild.sources.tables.text import decode, read_lines
from stbuild.sources.values import is_missing

_BLOCK: Final = 4 * 2**20
"""Bytes of text that are parsed at a time."""
_QUOTED_ID: Final = re.compile(rb'"([^"]*)"([^"]*)')
"""A line whose first field alone is quoted, which saves parsing the rest for quotes."""
_MAX_COUNT: Final = 2**31 - 1
_READ: Final[dict[str, Any]] = {"use_threads": False, "column_names": ["value"]}
# Values stand one per line by then, so nothing in them parts, quotes or escapes.
_PARSE: Final = arrow_csv.ParseOptions(
    delimiter="\x1f", quote_char=False, escape_char=False, ignore_empty_lines=False
)
_CONVERT: Final = arrow_csv.ConvertOptions(
    column_types={"value": pa.float64()}, null_values=[], strings_can_be_null=False
)


@dataclass(frozen=True, kw_only=True)
class CountTable:
    """What stands in a table of R rows and C columns of values."""

    counts: csr_array
    """(R, C) uint32, sorted indices, no explicit zeros."""
    leads: list[list[str]]
    """Leading columns of text, each (R,)."""


@dataclass
class _Block:
    """Lines that are parsed together."""

    first: list[int] = field(default_factory=list)
    """Number of each line in the file."""
    texts: list[bytes] = field(default_factory=list)
    """Values of each line, one per line of text."""
    size: int = 0


def read_counts(
    preview: Preview, n_leading: int, kept: Sequence[int], scratch: Path | None
) -> CountTable:
    """Read a table of counts.

    Parameters
    ----------
    preview
        How the table is written; it has a header.
    n_leading
        Columns of text before the values.
    kept
        The columns that hold counts, numbered from the first column of the table, ascending.
    scratch
        Folder for counts that do not fit into memory.

    Raises
    ------
    SourceFaultError
        B022: a row of another length. B058: no rows. B074: an id that is not UTF-8. B033: text
        where a count should stand. B028 to B031: values that are not counts.
    """
    leads: list[list[str]] = [[] for _ in range(n_leading)]
    data: list[NDArray[np.uint32]] = []
    indices: list[NDArray[np.int32]] = []
    lengths: list[NDArray[np.int64]] = [np.zeros(1, np.int64)]
    columns = np.asarray(kept, np.int64) - n_leading
    for block in _blocks(preview, leads):
        counts = _parse(block, preview, n_leading, columns)
        rows, cols = np.nonzero(counts)
        data.append(counts[rows, cols])
        indices.append(cols.astype(np.int32))
        lengths.append(np.bincount(rows, minlength=counts.shape[0]))
    starts = np.cumsum(np.concatenate(lengths))
    if starts.size == 1:
        what = "the table has a header and nothing else"
        raise SourceFaultError("B058", preview.path.name, what, "drop this slice from the list")
    n = int(starts[-1])
    shape = (starts.size - 1, columns.size)
    values = _join(data, allocate(n, np.uint32, scratch))
    places = _join(indices, allocate(n, np.int32, scratch))
    return CountTable(counts=as_csr(values, places, starts, shape), leads=leads)


def _join(parts: list[NDArray[Any]], whole: NDArray[Any]) -> NDArray[Any]:
    """Fill `whole` with the parts, each of which is let go as soon as it is copied."""
    filled = 0
    parts.reverse()
    while parts:
        part = parts.pop()
        whole[filled : filled + part.size] = part
        filled += part.size
    return whole


def _blocks(preview: Preview, leads: list[list[str]]) -> Iterator[_Block]:
    """Yield the rows in blocks, with their leading fields taken off and kept in `leads`."""
    block = _Block()
    with closing(read_lines(preview.path)) as lines:
        for number, line in enumerate(lines, 1):
            if number <= preview.n_header or not line.strip():
                continue
            row = cut_end(line, preview, number)
            fields, values = _cut(row, preview, len(leads), number)
            for column, text in zip(leads, fields, strict=True):
                column.append(decode(text, preview.path, number).strip())
            block.first.append(number)
            block.texts.append(values)
            block.size += len(values)
            if block.size >= _BLOCK:
                yield block
                block = _Block()
    if block.texts:
        yield block


def _cut(line: bytes, preview: Preview, n_leading: int, number: int) -> tuple[list[bytes], bytes]:
    """Return the leading fields of a line, and its values one per line."""
    delimiter = preview.delimiter.encode()
    quoted = _QUOTED_ID.fullmatch(line)
    if quoted and delimiter not in quoted[1]:
        line = quoted[1] + quoted[2]
    if b'"' in line:
        text = split_fields(decode(line, preview.path, number), preview.delimiter)
        _require_length(len(text), preview, number)
        return [part.encode() for part in text[:n_leading]], "\n".join(text[n_leading:]).encode()
    if delimiter == b" ":
        fields = line.split()
    else:
        fields = line.split(delimiter, n_leading)
        n = len(fields) - 1 + fields[-1].count(delimiter) + 1
        _require_length(n, preview, number)
        return fields[:n_leading], fields[n_leading].replace(delimiter, b"\n")
    _require_length(len(fields), preview, number)
    return fields[:n_leading], b"\n".join(fields[n_leading:])


def _require_length(n: int, preview: Preview, number: int) -> None:
    if n == preview.n_fields:
        return
    what = f"line {number:,} has {n:,} fields, the header and first row {preview.n_fields:,}"
    fix = "mend that line; if it is the last one, the file is cut off: get it again"
    raise SourceFaultError("B022", preview.path.name, what, fix)


def _parse(
    block: _Block, preview: Preview, n_leading: int, columns: NDArray[np.int64]
) -> NDArray[np.uint32]:
    """Return the counts of some lines: (lines, columns)."""
    text = b"\n".join(block.texts) + b"\n"
    read = arrow_csv.ReadOptions(**_READ, block_size=len(text) + 1)
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(text), read_options=read, parse_options=_PARSE, convert_options=_CONVERT
        )
    except pa.ArrowInvalid:
        raise _text_fault(block, preview, n_leading, columns) from None
    width = preview.n_fields - n_leading
    values = table.column(0).to_numpy()
    if values.size != len(block.texts) * width:  # a carriage return amid a line
        raise _text_fault(block, preview, n_leading, columns)
    values = values.reshape(len(block.texts), width)
    if columns.size < width:
        values = values[:, columns]
    try:
        return to_counts(values.ravel(), preview.path.name, values.size).reshape(values.shape)
    except SourceFaultError as fault:
        raise _value_fault(fault, values, block, preview, n_leading, columns) from None


def _value_fault(
    fault: SourceFaultError,
    values: NDArray[np.float64],
    block: _Block,
    preview: Preview,
    n_leading: int,
    columns: NDArray[np.int64],
) -> SourceFaultError:
    """Say where the first value stands that is no count."""
    good = np.isfinite(values) & (values >= 0) & (values <= _MAX_COUNT)
    good &= np.floor(values) == values
    row, column = divmod(int(np.argmin(good)), values.shape[1])
    name = (preview.names or ())[n_leading + int(columns[column])]
    what = f"{fault.what}, in line {block.first[row]:,}, column {name!r:.60}"
    return SourceFaultError(fault.code, fault.field, what, "give the table of raw counts")


def _text_fault(
    block: _Block, preview: Preview, n_leading: int, columns: NDArray[np.int64]
) -> SourceFaultError:
    """Say where the first field stands that is no number."""
    names = (preview.names or ())[n_leading:]
    for number, line in zip(block.first, block.texts, strict=True):
        for i, part in enumerate(line.split(b"\n")):
            value = part.decode(errors="replace")
            # float() also takes 1_000 and space around a number.
            if is_number(value) and value.strip(" ") == value.strip() and "_" not in value:
                continue
            what = f"{value!r:.60} in line {number:,}, column {names[i]!r:.60} is no count"
            if i not in columns:
                what = f"{value!r:.60} in line {number:,}: column {names[i]!r:.60} is no number"
                fix = "put columns of text before the counts, or leave them out"
                return SourceFaultError("B033", preview.path.name, what, fix)
            code = "B028" if is_missing(value) else "B033"
            fix = "give the table of raw counts: every field a whole number, zeros written as 0"
            return SourceFaultError(code, preview.path.name, what, fix)
    what = "numbers that cannot be read"
    return SourceFaultError("B033", preview.path.name, what, "write the table again")
