"""Zenodo's deposit interface: a draft that is filled, compared, and published only when told to.

A draft is seen by its owner alone; it becomes a record in one step, which cannot be taken back.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, Final
from urllib.parse import quote

from stbuild.corpus.jsonio import load_strict
from stbuild.publish.push.faults import conflict, differs, strange
from stbuild.publish.push.plan import LocalFile, PushPlan, require_unchanged
from stbuild.publish.push.report import PushReport, SentFile
from stbuild.publish.push.rest import Rest
from stbuild.publish.push.retry import try_patiently

_PATH: Final = "/deposit/depositions"
_PAGE: Final = 100
_MOST_PAGES: Final = 200
_CROISSANT: Final = "croissant.json"
_MOST_METADATA: Final = 16 << 20


@dataclass(frozen=True, kw_only=True)
class Deposition:
    """A draft or record of Zenodo."""

    number: int
    is_public: bool
    bucket: str | None
    page: str | None
    marked: str
    """Notes of its metadata, where the release is named."""


@dataclass(frozen=True, kw_only=True)
class _Held:
    """One file of a deposition."""

    number: str
    bytes: int
    md5: str


def mark_of(plan: PushPlan) -> str:
    """Return the line by which a later run finds the deposition of a release."""
    return f"stcorpus release {plan.release_id}"


def compare_zenodo(plan: PushPlan, rest: Rest) -> PushReport:
    """Say what a push would send; only questions are asked."""
    found = _find(plan, rest)
    held = _list(rest, found) if found is not None else {}
    files = tuple(_said(file, "there" if _same(file, held) else "to send") for file in plan.files)
    return _report(plan, rest, found, files + _beyond(plan, held, "to delete"), dry_run=True)


def push_zenodo(
    plan: PushPlan, rest: Rest, *, confirm: bool, done: Callable[[LocalFile], None]
) -> PushReport:
    """Fill the draft of a release, compare all of it, and publish it if told to.

    Parameters
    ----------
    plan
        What is sent.
    rest
        Client of ``<endpoint>/api``.
    confirm
        Publish. This cannot be undone: a record keeps its files for good.
    done
        Called after each file that stands there.

    Raises
    ------
    IntegrityError
        What arrived is not what was sent.
    RemoteError, ConflictError
        The host refuses, fails, or holds something else.
    """
    found = _find_or_create(plan, rest)
    held = _list(rest, found)
    if found.is_public:
        _require_equal(plan, rest, held)
        files = tuple(_said(file, "there") for file in plan.files)
        return _report(plan, rest, found, files)
    gone = _beyond(plan, held, "deleted")
    for file in gone:
        rest.delete(f"{_PATH}/{found.number}/files/{quote(held[file.path].number, safe='')}")
    files = tuple(_send(rest, found, file, held, done) for file in plan.files)
    _require_equal(plan, rest, _list(rest, found))
    if confirm:
        found = _publish(rest, found)
    return _report(plan, rest, found, files + gone)


def make_metadata(plan: PushPlan) -> dict[str, Any]:
    """Return the metadata of a new draft: what the release says of itself, and nothing else."""
    source = next((file for file in plan.files if file.path == _CROISSANT), None)
    said: dict[str, Any] = {}
    if source is not None and source.bytes <= _MOST_METADATA:
        said = load_strict(require_unchanged(source), str(source.source))
    people = said.get("creator") or []
    people = people if isinstance(people, list) else [people]
    creators = [{"name": str(person["name"])} for person in people if person.get("name")]
    licences = sorted({entry.spdx for entry in plan.release.licences if entry.spdx})
    title = str(said.get("name") or plan.root.name)
    return {
        "upload_type": "dataset",
        "title": title,
        "description": f"<p>{escape(str(said.get('description') or title))}</p>",
        "version": str(said.get("version") or "1.0.0"),
        "access_right": "open",
        "license": _licence(licences, n_classes=len(plan.release.licences)),
        "notes": mark_of(plan),
        **({"creators": creators} if creators else {}),
    }


def _licence(licences: list[str], *, n_classes: int) -> str:
    """Return Zenodo's name of the licence; of several, the one that promises least."""
    if len(licences) == n_classes == 1:
        return licences[0].lower()
    return "other-closed" if len(licences) < n_classes else (
        "other-nc" if any("-NC" in name for name in licences) else "other-open"
    )  # fmt: skip


def _find_or_create(plan: PushPlan, rest: Rest) -> Deposition:
    """Find the deposition of the release, or make one that is marked from its first moment."""

    def attempt() -> Deposition:
        # A creation whose answer was lost is found here the next time, and not made twice.
        found = _find(plan, rest)
        if found is not None:
            return found
        return _parse(rest, rest.post_once(_PATH, {"metadata": make_metadata(plan)}))

    return try_patiently(attempt, rest.host, _PATH, rest.options, rest.say)


def _find(plan: PushPlan, rest: Rest) -> Deposition | None:
    if rest.options.deposition is not None:
        found = _get(rest, rest.options.deposition)
        if found.marked != mark_of(plan):
            what = f"deposition {found.number} is not one of this release: its notes differ"
            fix = f"put the line '{mark_of(plan)}' into its notes, or leave --deposition out"
            raise conflict(rest.host, f"{_PATH}/{found.number}", what, fix)
        return found
    mine = []
    for page in range(1, _MOST_PAGES + 1):
        rows = rest.get(_PATH, {"page": page, "size": _PAGE})
        if not isinstance(rows, list):
            raise strange(rest.host, _PATH, "the list of depositions is no list")
        mine += [d for d in (_parse(rest, row) for row in rows) if d.marked == mark_of(plan)]
        if len(rows) < _PAGE:
            break
    # A record before a draft, the older draft before the newer: reruns choose the same one.
    chosen = min(mine, key=lambda d: (not d.is_public, d.number), default=None)
    return chosen if chosen is None else _get(rest, chosen.number)


def _get(rest: Rest, number: int) -> Deposition:
    return _parse(rest, rest.get(f"{_PATH}/{number}"))


def _parse(rest: Rest, value: object) -> Deposition:
    try:
        if not isinstance(value, Mapping):
            raise TypeError
        links = value.get("links") or {}
        metadata = value.get("metadata") or {}
        return Deposition(
            number=int(value["id"]),
            is_public=bool(value.get("submitted")) and value.get("state") != "inprogress",
            bucket=links.get("bucket"),
            page=links.get("record_html") or links.get("html"),
            marked=str(metadata.get("notes") or ""),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        raise strange(rest.host, _PATH, "it is no deposition") from None


def _list(rest: Rest, found: Deposition) -> dict[str, _Held]:
    path = f"{_PATH}/{found.number}/files"
    rows = rest.get(path)
    try:
        return {
            str(row["filename"]): _Held(
                number=str(row["id"]), bytes=int(row["filesize"]),
                md5=str(row["checksum"]).removeprefix("md5:"),
            )
            for row in rows
        }  # fmt: skip
    except (KeyError, TypeError, ValueError):
        raise strange(rest.host, path, "it is no list of files") from None


def _same(file: LocalFile, held: Mapping[str, _Held]) -> bool:
    there = held.get(file.path)
    return there is not None and (there.bytes, there.md5) == (file.bytes, file.remote)


def _send(
    rest: Rest,
    found: Deposition,
    file: LocalFile,
    held: Mapping[str, _Held],
    done: Callable[[LocalFile], None],
) -> SentFile:
    how = _said(file, "there")
    if not _same(file, held):
        if found.bucket is None:
            raise strange(rest.host, f"{_PATH}/{found.number}", "the draft has no bucket")
        url = f"{found.bucket}/{quote(file.path)}"
        answer = rest.put_file(url, file.source, file.bytes)
        md5 = str(answer.get("checksum", "")) if isinstance(answer, Mapping) else ""
        if md5.removeprefix("md5:") != file.remote:
            raise differs(rest.host, file.path, "the MD5 of what arrived is not that of the file")
        how = _said(file, "sent")
    done(file)
    return how


def _require_equal(plan: PushPlan, rest: Rest, held: Mapping[str, _Held]) -> None:
    wrong = [file.path for file in plan.files if not _same(file, held)]
    wrong += [file.path for file in _beyond(plan, held, "there")]
    if wrong:
        what = f"{len(wrong)} files there are not those of the release, such as {wrong[0]!r}"
        raise differs(rest.host, _PATH, what)


def _publish(rest: Rest, found: Deposition) -> Deposition:
    path = f"{_PATH}/{found.number}/actions/publish"

    def attempt() -> Deposition:
        now = _get(rest, found.number)
        return now if now.is_public else _parse(rest, rest.post_once(path, {}))

    published = try_patiently(attempt, rest.host, path, rest.options, rest.say)
    return _get(rest, found.number) if not published.is_public else published


def _said(file: LocalFile, how: Any) -> SentFile:  # noqa: ANN401 - one of the report's words
    return SentFile(path=file.path, bytes=file.bytes, sha256=file.sha256, how=how)


def _beyond(plan: PushPlan, held: Mapping[str, _Held], how: Any) -> tuple[SentFile, ...]:  # noqa: ANN401
    ours = {file.path for file in plan.files}
    names = sorted(set(held) - ours)
    return tuple(SentFile(path=n, bytes=held[n].bytes, sha256=None, how=how) for n in names)


def _report(
    plan: PushPlan,
    rest: Rest,
    found: Deposition | None,
    files: tuple[SentFile, ...],
    *,
    dry_run: bool = False,
) -> PushReport:
    is_public = found is not None and found.is_public
    notices = []
    if found is not None and not is_public and not dry_run:
        notices.append(
            "the deposition is a draft that only you see: look at it, complete its metadata, then "
            "run the same command with --confirm to publish it; publishing cannot be undone"
        )
    return PushReport(
        target=plan.target.name,
        host=rest.host,
        files=files,
        dry_run=dry_run,
        is_public=is_public,
        compared=True,
        url=found.page if found is not None else None,
        revision=str(found.number) if found is not None else None,
        notices=tuple(notices),
    )
