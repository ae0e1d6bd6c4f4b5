"""One URL and the files it gives: what stands already, what is missing, and getting that.

A file at its place is left alone if it has the right content and refused if it has another one;
nothing is replaced unless that was asked for.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

from stbuild.corpus.digests import sha256_file
from stbuild.corpus.durable import guard_disk, sync_directory
from stbuild.corpus.errors import BadInputError, ConflictError, StError
from stbuild.corpus.urls import show_url
from stbuild.fetch.archives import take_member
from stbuild.fetch.cache import Cache, link_or_copy
from stbuild.fetch.download import Progress, Received, Say, Target, download
from stbuild.fetch.errors import file_problem
from stbuild.fetch.partial import Partial
from stbuild.fetch.plan import Wanted
from stbuild.fetch.record import FetchedFile
from stbuild.fetch.transport import Options

How = Literal["downloaded", "cached", "kept"]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a run may do, and whom it tells."""

    allow_unverified: bool
    replace: bool
    cache: Cache | None
    options: Options
    say: Say
    progress: Progress


@dataclass(frozen=True, kw_only=True)
class Got:
    """One file that stands at its place now."""

    file: FetchedFile
    how: How
    notes: tuple[str, ...] = ()


def get_group(
    files: Sequence[Wanted], known: Mapping[str, FetchedFile], rules: Rules
) -> tuple[list[Got], list[StError]]:
    """Bring the files of one URL to their places.

    Parameters
    ----------
    files
        The files, all of the same URL.
    known
        What earlier runs fetched, by path.
    rules
        What may be done.

    Returns
    -------
    tuple
        The files that stand, and what went wrong with the others.
    """
    try:
        return _Group(files=files, known=known, rules=rules).get()
    except StError as error:
        return [], [error]


@dataclass(kw_only=True)
class _Group:
    files: Sequence[Wanted]
    known: Mapping[str, FetchedFile]
    rules: Rules

    @property
    def first(self) -> Wanted:
        return self.files[0]

    @property
    def url(self) -> str:
        return self.first.url or ""

    def get(self) -> tuple[list[Got], list[StError]]:
        if self.first.sha256 is None and not self.rules.allow_unverified:
            raise self._unverified()
        standing = {item.place: self._standing(item) for item in self.files}
        missing = [item for item in self.files if standing[item.place] is None]
        got = [item for item in standing.values() if isinstance(item, Got)]
        errors = [item for item in standing.values() if isinstance(item, StError)]
        if missing:
            fresh, faults = self._bring(missing)
            got, errors = got + fresh, errors + faults
        return got, errors

    def pinned(self) -> str | None:
        """Return the hash that the URL has to give: the sheet's, else that of an earlier run."""
        if self.first.sha256 is not None or self.rules.replace:
            return self.first.sha256
        for item in self.files:
            old = self.known.get(item.shown)
            if old is not None and old.url == show_url(self.url) and old.source_sha256 is not None:
                return old.source_sha256
        return None

    def _standing(self, item: Wanted) -> Got | StError | None:
        """Return what stands at a place, if it may stay; None if it has to be brought."""
        if not os.path.lexists(item.place):
            return None
        if not item.place.is_file():
            return self._conflict(item, "something else than a file stands there")
        wanted = self._wanted_hash(item)
        if wanted is None and (item.member is not None or self.rules.replace):
            return None  # only the source can tell; compared when it is at hand
        found = guard_disk(item.place, lambda: sha256_file(item.place))
        if wanted is None or found == wanted:
            notes = () if wanted is not None else ("it stood there already; taken as it is",)
            return Got(file=self._entry(item, found, None), how="kept", notes=notes)
        if self.rules.replace:
            return None
        return self._conflict(item, f"SHA-256 of the file there is {found}, expected {wanted}")

    def _wanted_hash(self, item: Wanted) -> str | None:
        """Return the hash that the file at its place must have, where that is known."""
        pinned, old = self.pinned(), self.known.get(item.shown)
        if old is None or old.url != show_url(self.url) or old.member != item.member:
            return pinned if item.member is None else None
        if pinned is None:  # it stood there before anything was asked for
            return old.sha256 if item.member is None and not self.rules.replace else None
        if item.member is None:
            return pinned
        return old.sha256 if old.source_sha256 == pinned else None

    def _bring(self, missing: Sequence[Wanted]) -> tuple[list[Got], list[StError]]:
        """Have the URL's content, and put it, or members of it, in their places."""
        source, how = self._content()
        got: list[Got] = []
        errors: list[StError] = []
        for item in missing:
            try:
                got.append(self._put(item, source, how))
            except StError as error:
                errors.append(error)
        if how == "downloaded":
            Partial(source.path, self.url).forget()
        return got, errors

    def _content(self) -> tuple[Received, How]:
        """Return the URL's content: from the cache, or downloaded and kept there."""
        pinned, cache = self.pinned(), self.rules.cache
        if pinned is not None and cache is not None and (path := cache.find(pinned)) is not None:
            return Received(path=path, n_bytes=path.stat().st_size, sha256=pinned), "cached"
        target = Target(
            subject=self.first.subject, url=self.url, sha256=pinned, n_bytes=self.first.n_bytes,
            who="the sheet" if self.first.sha256 is not None else "an earlier run",
        )  # fmt: skip
        received = download(
            target, self._partial(), self.rules.options, say=self.rules.say,
            progress=self.rules.progress,
        )  # fmt: skip
        if cache is not None:
            cache.add(received.path, received.sha256)
        return received, "downloaded"

    def _partial(self) -> Path:
        place = self.first.place
        if self.first.member is None:
            return place.with_name(f"{place.name}.partial")
        # An archive has no place of its own; its name is that of its URL.
        return place.with_name(f".archive-{sha256(self.url.encode()).hexdigest()[:16]}.partial")

    def _put(self, item: Wanted, source: Received, how: How) -> Got:
        place = item.place
        if item.member is None:
            self._refuse_taken(item, source.sha256)
            guard_disk(place, lambda: link_or_copy(source.path, place))
            return Got(file=self._entry(item, source.sha256, source), how=how, notes=source.notes)
        fresh = place.with_name(f"{place.name}.partial")
        guard_disk(place, lambda: place.parent.mkdir(parents=True, exist_ok=True))
        try:
            _, found = take_member(
                source.path, item.member, fresh, subject=item.subject, where=show_url(self.url),
                most=self.rules.options.most_bytes,
            )  # fmt: skip
            self._refuse_taken(item, found)
            guard_disk(place, lambda: fresh.replace(place))
        finally:
            fresh.unlink(missing_ok=True)
        guard_disk(place, lambda: sync_directory(place.parent))
        return Got(file=self._entry(item, found, source), how=how, notes=source.notes)

    def _refuse_taken(self, item: Wanted, fresh: str) -> None:
        """Refuse to replace another file, which may have come only just now."""
        if self.rules.replace or not os.path.lexists(item.place):
            return
        found = guard_disk(item.place, lambda: sha256_file(item.place))
        if found != fresh:
            raise self._conflict(item, f"SHA-256 of the file there is {found}, expected {fresh}")

    def _entry(self, item: Wanted, found: str, source: Received | None) -> FetchedFile:
        old = self.known.get(item.shown)
        n_bytes, digest = (None, None) if source is None else (source.n_bytes, source.sha256)
        if source is None and item.member is None:
            n_bytes, digest = self._of_kept(item, found)
        elif source is None and old is not None:
            n_bytes, digest = old.source_bytes, old.source_sha256
        return FetchedFile(
            path=item.shown, url=show_url(self.url), member=item.member,
            bytes=item.place.stat().st_size, sha256=found, source_bytes=n_bytes,
            source_sha256=digest, verified=item.sha256 is not None,
        )  # fmt: skip

    def _of_kept(self, item: Wanted, found: str) -> tuple[int | None, str | None]:
        """Return what is known of the source of a file that stood there already."""
        if self.pinned() is None:
            return None, None  # nothing says that it came from there
        return item.place.stat().st_size, found

    def _unverified(self) -> StError:
        what = "no SHA-256 of it is known, so nothing tells whether the right file comes"
        fix = "fill sha256 in the sheet, or take it as it comes with --allow-unverified"
        problem = file_problem("R09", self.first.subject, show_url(self.url), what, fix)
        return BadInputError(problem)

    def _conflict(self, item: Wanted, what: str) -> StError:
        fix = "move it away, or replace it with --replace"
        where = f"{item.shown}, from {show_url(self.url)}"
        return ConflictError(file_problem("R04", item.subject, where, what, fix))
