"""What a manifest wants on the disk, and which downloads that takes.

Files of the same URL become one download. Everything wrong with the sheet's URLs and paths is
reported at once, before anything is asked for.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stbuild.corpus.documents import as_error
from stbuild.corpus.errors import BadInputError, Problem
from stbuild.corpus.urls import refuse_url, show_url
from stbuild.fetch.archives import refuse_member
from stbuild.fetch.errors import file_problem
from stbuild.fetch.places import nested, refuse_path, refuse_place
from stbuild.fetch.sheet import Row, Sheet, read_sheet
from stbuild.fetch.transport import refused_url
from stbuild.manifests.rows import SourceRow

__all__ = ["Plan", "SourceRow", "Wanted", "fetched_path", "read_plan"]

_PREFIXES: Final = {"path": "", "positions": "positions_", "labels_file": "labels_"}
"""What the columns of a source begin with, by the column that names its place."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One file that is to stand at its place."""

    subject: str
    """Whose it is, for messages: the first slice that names it."""
    place: Path
    shown: str
    """The place as the sheet names it."""
    url: str | None
    sha256: str | None
    """Of what the URL gives; without a URL, of the file itself."""
    n_bytes: int | None
    member: str | None
    """Member of the archive at the URL."""
    accession: str | None
    """Where a person finds it, if there is no URL."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All files of a manifest."""

    name: str
    manifest: Path
    base: Path
    """Folder of the sheet; nothing is written outside it."""
    files: tuple[Wanted, ...]
    """In the order of the sheet, each place once."""

    def downloads(self) -> tuple[tuple[Wanted, ...], ...]:
        """Return the files that have a URL, those of the same one together."""
        groups: dict[str, list[Wanted]] = {}
        for wanted in self.files:
            if wanted.url is not None:
                groups.setdefault(wanted.url, []).append(wanted)
        return tuple(tuple(group) for group in groups.values())


def fetched_path(manifest: Path) -> Path:
    """Return where the record of fetched files stands: ``NAME.fetched.json`` by the manifest."""
    return manifest.with_name(f"{manifest.stem}.fetched.json")


def read_plan(manifest: Path) -> Plan:
    """Read a manifest and say what it wants on the disk.

    Raises
    ------
    BadInputError
        Everything wrong with the sheet, its URLs and its paths, at once.
    BadUsageError
        Unknown keys of the manifest.
    """
    sheet = read_sheet(manifest)
    base = sheet.path.parent
    wanted = [item for row in sheet.rows for item in _wanted(row, base)]
    if not sheet.rows:
        what, fix = "no rows: nothing is to be fetched", "fill the sheet; see the manifest's notes"
        raise BadInputError(_sheet_problem(sheet, f"corpus '{sheet.name}'", what, fix))
    problems = [*_url_problems(sheet), *_path_problems(sheet, wanted), *_clashes(wanted)]
    if refusal := as_error(dict.fromkeys(problems), BadInputError):
        raise refusal
    files: dict[Path, Wanted] = {}
    for item in wanted:
        files.setdefault(item.place, item)
    return Plan(name=sheet.name, manifest=manifest, base=base, files=tuple(files.values()))


def _wanted(row: Row, base: Path) -> Iterator[Wanted]:
    for column, shown in row.places.items():
        url, sha256, n_bytes, member = (
            getattr(row.source, f"{_PREFIXES[column]}{name}")
            for name in ("url", "sha256", "bytes", "unpack")
        )
        yield Wanted(
            subject=f"slice '{row.slice_id}'", place=base / shown, shown=shown, url=url,
            sha256=sha256, n_bytes=n_bytes, member=member, accession=row.source.accession,
        )  # fmt: skip


def _url_problems(sheet: Sheet) -> Iterator[Problem]:
    for row in sheet.rows:
        subject = f"slice '{row.slice_id}'"
        for column, prefix in _PREFIXES.items():
            url = getattr(row.source, f"{prefix}url")
            member = getattr(row.source, f"{prefix}unpack")
            if url is not None and (reason := refuse_url(url)):
                yield refused_url(subject, url, reason)
            if url is not None and column not in row.places:
                what = f"{prefix}url without {column}: there is no place for the file"
                yield _sheet_problem(sheet, subject, what, f"name the file in column {column}")
            if member is not None and url is None:
                what = f"{prefix}unpack without {prefix}url"
                yield _sheet_problem(sheet, subject, what, f"fill {prefix}url, or empty both")
            elif member is not None and (reason := refuse_member(member)):
                what = f"{prefix}unpack {member!r:.80} is refused: {reason}"
                yield _sheet_problem(sheet, subject, what, "name a file as the archive names it")


def _path_problems(sheet: Sheet, wanted: Sequence[Wanted]) -> Iterator[Problem]:
    own = (sheet.path, sheet.manifest, fetched_path(sheet.manifest))
    for item in wanted:
        if item.url is None:
            continue  # nothing is written there
        reason = refuse_path(item.shown) or refuse_place(sheet.path.parent, item.place, own)
        if reason is not None:
            what = f"the path {item.shown!r:.80} is refused: {reason}"
            fix = "give a path below the sheet's folder, such as data/NAME"
            yield _sheet_problem(sheet, item.subject, what, fix, code="R03")


def _clashes(wanted: Sequence[Wanted]) -> Iterable[Problem]:
    places: dict[Path, Wanted] = {}
    urls: dict[str, Wanted] = {}
    for item in wanted:
        first = places.setdefault(item.place, item)
        if (item.url, item.sha256, item.member) != (first.url, first.sha256, first.member):
            yield _clash(item, first, f"the place {item.shown!r:.80} with another source")
        first = item if item.url is None else urls.setdefault(item.url, item)
        if (item.sha256, item.n_bytes) != (first.sha256, first.n_bytes):
            yield _clash(item, first, "the same URL with another sha256 or other bytes")
    fetched = {item.place: item.shown for item in wanted if item.url is not None}
    for folder, place in nested(fetched):
        what = f"{fetched[place]!r:.80} lies inside {fetched[folder]!r:.80}, which is a file"
        yield file_problem("B022", places[place].subject, fetched[place], what, "rename one")


def _clash(item: Wanted, first: Wanted, what: str) -> Problem:
    where = show_url(item.url) if item.url else item.shown
    what = f"{what} than {first.subject}"
    return file_problem("B022", item.subject, where, what, "make the rows agree, or rename one")


def _sheet_problem(
    sheet: Sheet, subject: str, what: str, fix: str, *, code: str = "B022"
) -> Problem:
    return file_problem(code, subject, str(sheet.path), what, fix)
