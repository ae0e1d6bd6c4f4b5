"""The Hugging Face Hub's own client, set up for a push: patient, in words, and with care.

Files go over HTTPS (LFS), never through the binary client of Xet: this is the way that is tested,
and the token stays in this process's own requests, to the one host that the user named.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from stbuild.corpus.errors import PlatformError, Problem, StError
from stbuild.fetch.errors import TransientError
from stbuild.publish.push.faults import PASSING, conflict, refused, shorten, strange
from stbuild.publish.push.options import PushOptions
from stbuild.publish.push.retry import Say, try_patiently
from stbuild.publish.push.targets import Target

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete

    Operation = CommitOperationAdd | CommitOperationCopy | CommitOperationDelete

Result = TypeVar("Result")
IsDone = Callable[["Head"], bool]
_OTHERS: Final = "somebody else writes to it; run the same command again when they are done"
_MOST_ATTEMPTS: Final = 3
"""The client of the Hub tries most requests five times by itself."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """One file at the head of the repository."""

    bytes: int
    blob: str
    sha256: str | None
    """Of large files only."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """What a stranger gets now."""

    commit: str | None
    """None: there is no repository."""
    files: Mapping[str, Held]


class Hub:
    """One repository of data on the Hub; :func:`open_hub` gives it.

    Parameters
    ----------
    target
        Repository, endpoint and token.
    options
        Patience.
    say
        Told of failed attempts.
    """

    def __init__(self, target: Target, options: PushOptions, say: Say) -> None:
        from huggingface_hub import HfApi

        self.target, self.say = target, say
        self.options = replace(options, attempts=min(options.attempts, _MOST_ATTEMPTS))
        self.api: HfApi = HfApi(endpoint=target.endpoint, token=target.token or False)
        self.page = f"{target.endpoint}/datasets/{target.repository}"

    def head(self, revision: str | None = None) -> Head:
        """Return the files at a commit, or at the head.

        Raises
        ------
        RemoteError
            The Hub refuses or fails.
        """
        return self._patiently(lambda: self._head(revision))

    def _head(self, revision: str | None) -> Head:
        from huggingface_hub.errors import RepositoryNotFoundError
        from huggingface_hub.hf_api import RepoFile

        name = self.target.repository
        try:
            if revision is None:
                revision = self.api.repo_info(name, repo_type="dataset").sha
        except RepositoryNotFoundError:
            return Head(commit=None, files={})
        rows = self.api.list_repo_tree(name, recursive=True, revision=revision, repo_type="dataset")
        files = {
            row.path: Held(
                bytes=row.size, blob=row.blob_id, sha256=row.lfs.sha256 if row.lfs else None
            )
            for row in rows
            if isinstance(row, RepoFile)
        }
        return Head(commit=revision, files=files)

    def create(self) -> None:
        """Make the repository, if there is none."""
        private = True if self.options.private else None
        self._patiently(
            lambda: self.api.create_repo(
                self.target.repository, repo_type="dataset", exist_ok=True, private=private
            )
        )

    def preupload(self, operations: "list[CommitOperationAdd]") -> None:
        """Send large files to where nobody sees them; those that are there already are not sent."""
        self._patiently(
            lambda: self.api.preupload_lfs_files(
                self.target.repository, operations, repo_type="dataset", free_memory=False,
                num_threads=self.options.jobs,
            )
        )  # fmt: skip

    def commit(
        self, operations: "list[Operation]", parent: str, words: tuple[str, str], is_done: IsDone
    ) -> str:
        """Make all operations visible at once, and return the commit.

        Parameters
        ----------
        operations
            Files to add, sent before by :meth:`preupload`, and files to delete.
        parent
            Head for which they were made.
        words
            Title and text of the commit.
        is_done
            Whether a head is what the commit would make it.

        Raises
        ------
        ConflictError
            Somebody else changed the repository in between.
        """

        def attempt() -> str:
            now = self._head(None)
            if now.commit is not None and is_done(now):
                return now.commit  # an earlier attempt arrived, its answer did not
            if now.commit != parent:
                what = f"its head moved from {parent[:12]} to {str(now.commit)[:12]} meanwhile"
                raise conflict(self.target.host, self.target.repository, what, _OTHERS)
            made = self.api.create_commit(
                self.target.repository, operations, commit_message=words[0], repo_type="dataset",
                commit_description=words[1], parent_commit=parent, num_threads=self.options.jobs,
            )  # fmt: skip
            return made.oid

        return self._patiently(attempt)

    def _patiently(self, call: Callable[[], Result]) -> Result:
        def explained() -> Result:
            with _explained(self.target):
                return call()

        where = f" {self.target.repository}"
        return try_patiently(explained, self.target.host, where, self.options, self.say)


@contextmanager
def open_hub(target: Target, options: PushOptions, say: Say) -> Iterator[Hub]:
    """Give the client of one repository; the settings of the library are as before afterwards.

    Raises
    ------
    PlatformError
        The package ``huggingface_hub`` is missing.
    """
    require_hub()
    with _transfer(target, options):
        yield Hub(target, options, say)


def require_hub() -> None:
    """Check that the client of the Hub is installed.

    Raises
    ------
    PlatformError
        It is not.
    """
    try:
        from huggingface_hub import set_client_factory  # noqa: F401 - since 1.0
    except ImportError as error:
        problem = Problem(
            code="E009", subject="package huggingface_hub", what="not installed, or before 1.0",
            fix="pip install 'stcorpus[publish]'",
        )  # fmt: skip
        raise PlatformError(problem) from error


@contextmanager
def _transfer(target: Target, options: PushOptions) -> Iterator[None]:
    """Set the client of the Hub up: a timeout, no Xet, no bars, and a token for one host only."""
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.utils._http import default_client_factory
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    home = urlsplit(target.endpoint)

    def guard(request: Any) -> None:  # noqa: ANN401 - of the HTTP library that the client chose
        there = request.url
        origin = (there.scheme, there.netloc.decode())
        if "authorization" in request.headers and origin != (home.scheme, home.netloc):
            what = f"it names {origin[0]}://{origin[1]}, to which the token does not go"
            raise strange(target.host, str(there.path), what)

    def make() -> Any:  # noqa: ANN401
        client = default_client_factory()
        client.timeout = options.timeout
        hooks = client.event_hooks
        client.event_hooks = {**hooks, "request": [*hooks.get("request", []), guard]}
        return client

    kept, quiet = constants.HF_HUB_DISABLE_XET, are_progress_bars_disabled()
    constants.HF_HUB_DISABLE_XET = True
    disable_progress_bars()
    set_client_factory(make)
    try:
        yield
    finally:
        set_client_factory(default_client_factory)
        constants.HF_HUB_DISABLE_XET = kept
        if not quiet:
            enable_progress_bars()


@contextmanager
def _explained(target: Target) -> Iterator[None]:
    """Turn what the client of the Hub raises into what it means for a push."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, _network_error()) as error:
        raise _explain(target, error) from None


def _explain(target: Target, error: BaseException) -> Exception:
    from huggingface_hub import errors

    if isinstance(error, (StError, TransientError)):
        return error
    where = target.repository
    if isinstance(error, errors.HfHubHTTPError):
        return _answered(target, error)
    if isinstance(error, errors.OfflineModeIsEnabled):
        fix = "unset HF_HUB_OFFLINE"
        return refused(target.host, where, "the client is told to stay offline", fix)
    if isinstance(error, _network_error()):
        return TransientError(shorten(f"{type(error).__name__}: {error}"))
    if error.__cause__ is not None:
        return _explain(target, error.__cause__)
    if isinstance(error, OSError):
        return TransientError(shorten(f"{type(error).__name__}: {error}"))
    return strange(target.host, where, shorten(f"{type(error).__name__}: {error}"))


def _answered(target: Target, error: Any) -> Exception:  # noqa: ANN401 - HfHubHTTPError
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", 0)
    path = str(getattr(getattr(response, "url", None), "path", target.repository))
    what = f"answered {status}: {shorten(str(error.server_message or ''))}".rstrip(": ")
    if status in PASSING:
        return TransientError(f"{path} is {what}")
    if status == 412:
        return conflict(target.host, path, what, _OTHERS)
    fix = {
        401: f"check {target.variable}: the Hub does not know it",
        403: f"check {target.variable}: it needs the right to write to {target.repository}",
        404: "check the name, and that the token's account may write to it",
    }.get(status, "mend what the host names, then run the same command again")
    return refused(target.host, path, what, fix)


def _network_error() -> type[Exception]:
    """Return the base of the network errors of the HTTP library that the client uses."""
    from huggingface_hub import errors

    return errors.HfHubHTTPError.__bases__[0]
