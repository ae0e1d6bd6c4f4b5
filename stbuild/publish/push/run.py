"""One push: read the release, compare it with the remote, send what is missing, compare again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stbuild.corpus.errors import StError
from stbuild.publish.push.faults import without
from stbuild.publish.push.options import PushOptions
from stbuild.publish.push.plan import LocalFile, PushPlan, plan_push
from stbuild.publish.push.report import PushReport, SentFile
from stbuild.publish.push.targets import Target, find_target

Say = Callable[[str], None]


def push_release(
    release: Path,
    target: str,
    *,
    dry_run: bool = False,
    confirm: bool = False,
    options: PushOptions | None = None,
    say: Say = lambda _line: None,
    started: Callable[[str, int], Callable[[], None]] = lambda _stage, _n: lambda: None,
) -> PushReport:
    """Send a release to a remote; what is there already is not sent again.

    Killed at any moment, a stranger sees what was there before, or the whole release.

    Parameters
    ----------
    release
        Folder that ``stbuild publish`` wrote; every file is checked against ``SHA256SUMS`` first.
    target
        ``hf:ORG/NAME``, ``zenodo`` or ``zenodo-sandbox``. The token comes from ``HF_TOKEN`` or
        ``ZENODO_TOKEN``.
    dry_run
        Say what would be sent; no request is made that writes. Without a token Zenodo cannot be
        asked what it holds.
    confirm
        Zenodo only: publish the draft. This cannot be undone.
    options
        Patience, endpoint, and what may be deleted.
    say
        Told of failed attempts.
    started
        Called with each stage and its number of files; returns what to call after each file.

    Raises
    ------
    BadUsageError
        No such target, no token, or more than the remote takes.
    BadInputError
        No finished release.
    IntegrityError
        The release is damaged, or the remote holds other bytes than were sent.
    ConflictError
        The remote holds something else.
    RemoteError
        The remote refuses, or fails at every attempt.
    PlatformError
        The client of the Hub is not installed.
    """
    told = options or PushOptions()
    place = find_target(target, told)
    with _redacted(place.token):
        if not dry_run:
            place.require_token()
        done = started("check", sum(1 for _ in release.rglob("*")) if release.is_dir() else 0)
        plan = plan_push(release, place, lambda _file: done())
        quiet = _hide(say, place.token)
        if dry_run:
            return _compare(plan, told, quiet)
        sent = started("send", len(plan.files))

        def count(_file: LocalFile) -> None:
            sent()

        return _push(plan, told, quiet, count, confirm=confirm)


def _compare(plan: PushPlan, options: PushOptions, say: Say) -> PushReport:
    if plan.target.kind == "hub":
        from stbuild.publish.push.hub import compare_hub
        from stbuild.publish.push.hub_client import open_hub

        with open_hub(plan.target, options, say) as hub:
            return compare_hub(plan, hub)
    if plan.target.token is None:
        return _unasked(plan)
    from stbuild.publish.push.rest import Rest
    from stbuild.publish.push.zenodo import compare_zenodo

    return compare_zenodo(plan, Rest(_api(plan.target), plan.target.token, options, say))


def _push(
    plan: PushPlan,
    options: PushOptions,
    say: Say,
    done: Callable[[LocalFile], None],
    *,
    confirm: bool,
) -> PushReport:
    if plan.target.kind == "hub":
        from stbuild.publish.push.hub import push_hub
        from stbuild.publish.push.hub_client import open_hub

        with open_hub(plan.target, options, say) as hub:
            return push_hub(plan, hub, done)
    from stbuild.publish.push.rest import Rest
    from stbuild.publish.push.zenodo import push_zenodo

    rest = Rest(_api(plan.target), plan.target.require_token(), options, say)
    return push_zenodo(plan, rest, confirm=confirm, done=done)


def _api(target: Target) -> str:
    return f"{target.endpoint}/api"


def _unasked(plan: PushPlan) -> PushReport:
    files = tuple(
        SentFile(path=f.path, bytes=f.bytes, sha256=f.sha256, how="to send") for f in plan.files
    )
    return PushReport(
        target=plan.target.name,
        host=plan.target.host,
        files=files,
        dry_run=True,
        is_public=False,
        compared=False,
        notices=(f"{plan.target.variable} is not set: what the host holds was not asked",),
    )


@contextmanager
def _redacted(token: str | None) -> Iterator[None]:
    try:
        yield
    except StError as error:
        raise without(error, token) from None


def _hide(say: Say, token: str | None) -> Say:
    return lambda line: say(line.replace(token, "<token>") if token else line)
