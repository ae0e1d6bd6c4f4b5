"""Rows of one kind as small Parquet files, one a job, and all of them together as one table.

A row is a frozen dataclass of strings, integers, numbers and truth values, any of them possibly
none; it names its ``job`` (digest of all that decides it) and its ``corpus_id``. Every file is
sealed under its name (:mod:`sttrain.seals`): one that was damaged, or that took the place of
another, is named and never read.
"""

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Final,
    Generic,
    Protocol,
    TypeVar,
    get_args,
    get_type_hints,
)

from stbuild.corpus.durable import write_durable
from stbuild.corpus.parquet import read_all
from stbuild.corpus.storage import read_file
from sttrain.errors import BadInputError, IntegrityError, Problem, ResourceError
from sttrain.seals import find_fault, seal_parquet

if TYPE_CHECKING:
    import pyarrow as pa

_ARROW: Final = {str: "string", int: "int64", float: "float64", bool: "bool_"}
_LATER: Final = "later"
DAMAGED: Final = "remove the file and run the same command again"


def later_column() -> Any:  # noqa: ANN401 - as dataclasses.field
    """Return a field of a row that older versions did not write; none is read there."""
    return field(default=None, metadata={_LATER: True})


class AnyRow(Protocol):
    """What every row has."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def job(self) -> str:
        """Digest of all that decides it."""
        ...

    @property
    def corpus_id(self) -> str:
        """Corpus that it belongs to."""
        ...


Row = TypeVar("Row", bound=AnyRow)


@dataclass(frozen=True)
class RowTable(Generic[Row]):
    """A folder of rows of one kind."""

    root: Path
    kind: type[Row]
    corpus_id: str
    """The only corpus whose rows may stand there."""
    beside: Path | None = None
    """Folder with what else is stored of every job, under the same name and written before it."""

    def finished(self) -> set[str]:
        """Return the digests of the jobs that are stored, with all that belongs to them."""
        found = _digests(self.root)
        return found if self.beside is None else found & _digests(self.beside)

    def rows(self) -> list[Row]:
        """Read all rows, in the order of their files and within them.

        Raises
        ------
        BadInputError
            Rows of another corpus among them.
        IntegrityError
            A file that is damaged.
        """
        found: list[Row] = []
        for path in sorted(self.root.glob("*.parquet")):
            found += self.read(path)
        others = {row.corpus_id for row in found} - {self.corpus_id}
        if others:
            what = f"rows of corpus {min(others)[:12]}, expected {self.corpus_id[:12]}"
            fix = "keep the results of each corpus in a folder of its own"
            raise BadInputError(_problem("V10", self.root, what, fix))
        return found

    def read(self, path: Path) -> list[Row]:
        """Read the rows of one file, whatever corpus they belong to.

        Columns that older versions did not write may be missing.

        Raises
        ------
        IntegrityError
            A file that is damaged.
        """
        columns = list(_types(self.kind))
        later = {f.name for f in fields(self.kind) if f.metadata.get(_LATER)}
        table = read_table(path, set(columns) - later)
        columns = [name for name in columns if name in table.column_names]
        return [self.kind(**values) for values in table.select(columns).to_pylist()]

    def add(self, name: str, rows: Sequence[Row]) -> None:
        """Store the rows of one job under a file name that ends in ``_<job>``."""
        write_parquet(self.root / f"{name}.parquet", self._table(rows))

    def summarise(self, path: Path, rows: Sequence[Row]) -> None:
        """Write rows together as Parquet and as CSV, beside each other; same bytes stay."""
        table = path.with_suffix(".parquet")
        contents = {
            table: to_parquet(self._table(rows), table.name),
            path.with_suffix(".csv"): rows_csv(asdict(row) for row in rows),
        }
        for file, content in contents.items():
            if not file.is_file() or read_file(file) != content:
                write_durable(file, content)

    def summarise_all(
        self,
        path: Path,
        jobs: Iterable[str],
        read: Callable[[], list[Row]],
    ) -> list[Row]:
        """Write all rows together and return them; again, where others were stored meanwhile.

        Two runs in one folder store jobs of their own, and whoever ends last has seen them all.

        Parameters
        ----------
        path
            Of the table, without suffix.
        jobs
            Digests that are stored by now: a table without them is never written.
        read
            Reads all rows, in the order of the table.

        Raises
        ------
        ResourceError
            Jobs that something else took away in the meantime.
        """
        wanted = set(jobs)
        while True:
            known = self.finished()
            self._require(wanted - known)
            rows = read()
            if self.finished() != known:  # some may have come or gone while they were read
                continue
            self.summarise(path, rows)
            if self.finished() == known:
                return rows

    def _require(self, gone: set[str]) -> None:
        if gone:
            what = (
                f"{len(gone):,} results that were written are gone: something else works in the "
                "folder"
            )
            fix = "leave the folder alone, and run the same command again"
            raise ResourceError(_problem("P05", self.root, what, fix))

    def _table(self, rows: Sequence[Row]) -> "pa.Table":
        import pyarrow as pa

        return pa.table(
            {
                name: pa.array([getattr(row, name) for row in rows], getattr(pa, kind)())
                for name, kind in _types(self.kind).items()
            }
        )


def _digests(folder: Path) -> set[str]:
    """Return the digests that the names of files end in."""
    return {path.stem.rpartition("_")[2] for path in folder.glob("*.parquet")}


def of_jobs(rows: Iterable[Row], jobs: Iterable[str]) -> list[Row]:
    """Return the rows of some jobs, in their order: a folder holds those of other settings too."""
    asked = set(jobs)
    return [row for row in rows if row.job in asked]


def _types(kind: type[AnyRow]) -> dict[str, str]:
    """Return the Arrow type of every field of a row."""
    hints = get_type_hints(kind)
    found: dict[str, str] = {}
    for each in fields(kind):
        choices = set(get_args(hints[each.name]) or (hints[each.name],)) - {NoneType}
        found[each.name] = _ARROW[choices.pop()]
    return found


def rows_csv(rows: Iterable[Mapping[str, object]]) -> bytes:
    """Return rows as CSV with a header, UTF-8, Unix line ends; nothing at all for no rows."""
    listed = list(rows)
    buffer = io.StringIO()
    if listed:
        writer = csv.DictWriter(buffer, list(listed[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(listed)
    return buffer.getvalue().encode()


def write_parquet(path: Path, table: "pa.Table") -> None:
    """Write a table as a sealed Parquet file."""
    write_durable(path, to_parquet(table, path.name))


def to_parquet(table: "pa.Table", name: str) -> bytes:
    """Return a table as the bytes of a Parquet file that is sealed under a name."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return seal_parquet(buffer.getvalue(), name)


def read_table(path: Path, columns: set[str]) -> Any:  # noqa: ANN401 - pyarrow ships no types
    """Read a Parquet file that has to hold some columns.

    Raises
    ------
    IntegrityError
        It is missing, damaged, lacks a column, or was sealed under another name.
    ResourceError
        The storage fails.
    """
    import pyarrow as pa

    try:
        raw = read_file(path)
        if fault := find_fault(raw, path.name):
            raise IntegrityError(_problem("V20", path, fault, DAMAGED))
        table = read_all(raw)
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        what = f"unreadable: {str(error)[:120]}"
        raise IntegrityError(_problem("V20", path, what, DAMAGED)) from error
    if missing := columns - set(table.column_names):
        what = f"columns missing: {', '.join(sorted(missing))}"
        raise IntegrityError(_problem("V20", path, what, DAMAGED))
    return table


def _problem(code: str, path: Path, what: str, fix: str) -> Problem:
    return Problem(code=code, subject=f"results '{path.name}'", where=str(path), what=what, fix=fix)
