"""A release on the Hugging Face Hub: large files first, then one commit for all.

What is sent before the commit is seen by nobody. The commit names the head that it was made for,
so that two pushes at a time cannot mix.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from stbuild.corpus.errors import StError
from stbuild.publish.push.faults import conflict, differs, strange
from stbuild.publish.push.hub_client import Head, Hub
from stbuild.publish.push.plan import LocalFile, PushPlan, require_unchanged
from stbuild.publish.push.report import PushReport, SentFile

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

_SMALL: Final = 1 << 20
"""Files up to this size are held in memory from the check of their bytes to the commit."""
_KEPT: Final = frozenset({".gitattributes"})
"""What the Hub itself puts into a repository."""


def compare_hub(plan: PushPlan, hub: Hub) -> PushReport:
    """Say what a push would send; only questions are asked."""
    head = hub.head()
    missing = {file.path for file in _missing(plan, head)}
    files = [_said(file, "to send" if file.path in missing else "there") for file in plan.files] + [
        _foreign(head, path, "to delete") for path in _beyond(plan, head)
    ]
    notices = _notices(plan, head, hub)
    return _report(plan, hub, head.commit, tuple(files), dry_run=True, notices=notices)


def push_hub(plan: PushPlan, hub: Hub, done: Callable[[LocalFile], None]) -> PushReport:
    """Bring the repository to hold the release and nothing else, by one commit.

    Raises
    ------
    ConflictError
        It holds files that the release does not, and ``replace`` was not given; or somebody else
        writes to it.
    IntegrityError
        A file changed under way, or the Hub holds something else than was sent.
    RemoteError
        The Hub refuses or fails.
    """
    head = hub.head()
    beyond = _beyond(plan, head)
    if beyond and not hub.options.replace:
        raise _other_files(hub, beyond)
    if head.commit is None:
        hub.create()
        head = hub.head()
    missing = _missing(plan, head)
    if missing or beyond:
        commit = _send(plan, hub, head, missing, beyond, done)
        _require_equal(plan, hub, hub.head(commit))
    else:
        commit = head.commit or ""
    sent = {file.path for file in missing}
    files = [_said(file, "sent" if file.path in sent else "there") for file in plan.files]
    files += [_foreign(head, path, "deleted") for path in beyond]
    return _report(plan, hub, commit, tuple(files))


def _send(
    plan: PushPlan,
    hub: Hub,
    head: Head,
    missing: list[LocalFile],
    beyond: list[str],
    done: Callable[[LocalFile], None],
) -> str:
    from huggingface_hub import CommitOperationDelete

    operations: list[Any] = []
    step = hub.options.jobs
    for start in range(0, len(missing), step):
        files = missing[start : start + step]
        made = [_operation(file) for file in files]
        hub.preupload(made)
        for file, operation in zip(files, made, strict=True):
            if operation.upload_info.sha256.hex() != file.sha256:
                raise differs(hub.target.host, file.path, "the file changed while it was sent")
            done(file)
        operations += made
    operations += [CommitOperationDelete(path_in_repo=path) for path in beyond]
    if head.commit is None:
        raise strange(hub.target.host, hub.target.repository, "a new repository without a commit")
    words = f"Release {plan.release.corpus_id[:12]}", f"SHA-256 of SHA256SUMS: {plan.release_id}"
    return hub.commit(operations, head.commit, words, lambda now: _is_equal(plan, now))


def _operation(file: LocalFile) -> "CommitOperationAdd":
    from huggingface_hub import CommitOperationAdd

    small = file.bytes <= _SMALL
    content: bytes | str = require_unchanged(file) if small else str(file.source)
    return CommitOperationAdd(path_in_repo=file.path, path_or_fileobj=content)


def _missing(plan: PushPlan, head: Head) -> list[LocalFile]:
    """Return the files that the head does not hold byte for byte."""

    def same(file: LocalFile) -> bool:
        held = head.files.get(file.path)
        if held is None or held.bytes != file.bytes:
            return False
        return held.sha256 == file.sha256 if held.sha256 else held.blob == file.remote

    return [file for file in plan.files if not same(file)]


def _beyond(plan: PushPlan, head: Head) -> list[str]:
    return sorted(set(head.files) - {file.path for file in plan.files} - _KEPT)


def _require_equal(plan: PushPlan, hub: Hub, head: Head) -> None:
    wrong = [file.path for file in _missing(plan, head)] + _beyond(plan, head)
    if wrong:
        what = (
            f"after the commit {len(wrong)} files are not those of the release, such as "
            f"{wrong[0]!r} (a .gitignore there?)"
        )
        raise differs(hub.target.host, hub.target.repository, what)


def _is_equal(plan: PushPlan, head: Head) -> bool:
    return not _missing(plan, head) and not _beyond(plan, head)


def _other_files(hub: Hub, beyond: list[str]) -> StError:
    shown = ", ".join(repr(path) for path in beyond[:5])
    what = f"it holds {len(beyond)} files that the release does not: {shown}"
    fix = "push to a new name, or delete them in the same commit with --replace"
    return conflict(hub.target.host, hub.target.repository, what, fix)


def _notices(plan: PushPlan, head: Head, hub: Hub) -> tuple[str, ...]:
    if head.commit is None:
        kind = "a private" if hub.options.private else "a public"
        return (f"{hub.target.repository} does not exist, or is not to be seen: the push makes "
                f"{kind} repository",)  # fmt: skip
    if (beyond := _beyond(plan, head)) and not hub.options.replace:
        return (f"{len(beyond)} files there are not in the release: the push needs --replace",)
    return ()


def _said(file: LocalFile, how: Any) -> SentFile:  # noqa: ANN401 - one of the report's words
    return SentFile(path=file.path, bytes=file.bytes, sha256=file.sha256, how=how)


def _foreign(head: Head, path: str, how: Any) -> SentFile:  # noqa: ANN401
    held = head.files[path]
    return SentFile(path=path, bytes=held.bytes, sha256=held.sha256, how=how)


def _report(
    plan: PushPlan,
    hub: Hub,
    commit: str | None,
    files: tuple[SentFile, ...],
    *,
    dry_run: bool = False,
    notices: tuple[str, ...] = (),
) -> PushReport:
    return PushReport(
        target=plan.target.name,
        host=plan.target.host,
        files=files,
        dry_run=dry_run,
        is_public=all(file.how in ("there", "sent", "deleted") for file in files),
        compared=True,
        url=hub.page,
        revision=commit,
        notices=notices,
    )
