"""Text tables as lines: plain or gzip, checked while they are read.

Damage is named here (empty, not text, cut off, inflating without end); what the fields of a line
mean is not known.
"""

import gzip
import io
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Final, Protocol

from stbuild.corpus.paths import look_at
from stbuild.sources.faults import SourceFaultError

MAX_INFLATED: Final = 4 * 2**30
"""Bytes that a compressed table may inflate to."""
MAX_LINE: Final = 256 * 2**20
"""Bytes of one line: a header of ten million barcodes."""
_GZIP: Final = b"\x1f\x8b"
_BOM: Final = b"\xef\xbb\xbf"
_HEAD: Final = 64 * 2**10
_BUFFER: Final = 2**20
_FOREIGN: Final = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run `git lfs pull`"),
    (b"PK\x03\x04", "a zip file", "unpack it first"),
    (b"BZh", "a bzip2 file", "unpack it, or pack it with gzip"),
    (b"\xfd7zXZ", "an xz file", "unpack it, or pack it with gzip"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file", "unpack it, or pack it with gzip"),
    (_GZIP, "a gzip file inside a gzip file", "unpack it once"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "name it .h5ad or .h5, or pass --format"),
    (b"PAR1", "a Parquet file", "write it as CSV"),
    (b"\xff\xfe", "UTF-16 text", "save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text", "save it as UTF-8"),
    (b"%%MatrixMarket", "a Matrix Market file", "give the folder that holds it"),
    (b"<", "HTML or XML", "this is likely an error page: download the file itself"),
    (b"{", "JSON", "give the tables as TSV or CSV"),
)


class _Lines(Protocol):
    def readline(self, size: int, /) -> bytes:
        """Return the next line, or as much of it as `size` bytes."""
        ...


def read_lines(path: Path) -> Generator[bytes]:
    """Yield the lines of a text file without their ends and without a byte order mark.

    Raises
    ------
    SourceFaultError
        B001, B002, B003, B008, B011: no such file, empty, not text, not regular, not readable.
        B004: the compressed data is cut off or damaged. B043: it inflates beyond 4 GiB, or a line
        is longer than 256 MiB. B003: a NUL byte.
    """
    with _open(path) as raw:
        packed = raw.read(2) == _GZIP
        raw.seek(0)
        stream = io.BufferedReader(gzip.GzipFile(fileobj=raw), _BUFFER) if packed else raw
        try:
            _require_text(path, stream.peek(_HEAD)[:_HEAD])
            limit = MAX_INFLATED if packed else None
            yield from _split(path, stream, limit)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            what = f"the compressed data is cut off or damaged: {str(error)[:120]}"
            raise SourceFaultError("B004", path.name, what, "get the file again") from None


def decode(line: bytes, path: Path, number: int) -> str:
    """Return (a part of) a line as text.

    Raises
    ------
    SourceFaultError
        B074: it is not valid UTF-8.
    """
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        what = f"line {number:,} is not valid UTF-8 (byte {line[error.start : error.start + 1]!r})"
        raise SourceFaultError("B074", path.name, what, "save the table as UTF-8") from None


def _open(path: Path) -> "io.BufferedReader[io.FileIO]":
    # A pipe or device would hang on opening, so the kind of file is looked at first.
    try:
        if (look := look_at(path)).fault is not None:
            fix = "check the path in the list or manifest"
            raise SourceFaultError("B001", path.name, look.fault, fix)
        if not look.is_file:
            raise SourceFaultError("B008", path.name, "not a regular file", "give the file itself")
        return io.BufferedReader(io.FileIO(path), _BUFFER)
    except PermissionError:
        fix = "make it readable for this user"
        raise SourceFaultError("B011", path.name, "the file may not be read", fix) from None


def _require_text(path: Path, head: bytes) -> None:
    """Check the first bytes: text, with line ends that are known."""
    if not head:
        raise SourceFaultError("B002", path.name, "the file is empty (0 bytes)", "get it again")
    start = head.removeprefix(_BOM).lstrip()
    for signature, what, fix in _FOREIGN:
        if head.startswith(signature) or start.startswith(signature):
            raise SourceFaultError("B003", path.name, f"not a text table: {what}", fix)
    if (at := head.find(b"\0")) >= 0:
        what = f"not a text table: a NUL byte at offset {at:,}"
        raise SourceFaultError("B003", path.name, what, "give the tables as TSV or CSV")
    if b"\r" in head and b"\n" not in head:
        what = "lines end with a carriage return alone (old Mac)"
        raise SourceFaultError("B003", path.name, what, "save it with Unix line ends")


def _split(path: Path, stream: _Lines, limit: int | None) -> Iterator[bytes]:
    n_bytes = number = 0
    while line := stream.readline(MAX_LINE):
        n_bytes, number = n_bytes + len(line), number + 1
        if len(line) == MAX_LINE:
            what = f"line {number:,} is longer than {MAX_LINE:,} bytes"
            raise SourceFaultError("B043", path.name, what, "the file is damaged or hostile")
        if limit is not None and n_bytes > limit:
            what = f"inflates to more than {limit:,} bytes"
            raise SourceFaultError("B043", path.name, what, "unpack it, or write it as .h5ad")
        if b"\0" in line:
            what = f"a NUL byte in line {number:,}"
            raise SourceFaultError("B003", path.name, what, "get the file again")
        yield (line.removeprefix(_BOM) if number == 1 else line).rstrip(b"\r\n")
