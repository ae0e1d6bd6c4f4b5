"""A folder of an object store, through fsspec: list, put, read back. Errors are put in words.

Credentials come from the environment or the files of the store's own tools, never from us.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from stbuild.corpus.errors import PlatformError, Problem, StError
from stbuild.corpus.storage import read_file
from stbuild.corpus.transient import TransientError
from stbuild.corpus.urls import refuse_url, show_url
from stbuild.publish.push.faults import refused, shorten, usage
from stbuild.publish.push.finished import FinishedFile
from stbuild.publish.push.options import PushOptions
from stbuild.publish.push.retry import try_patiently

Result = TypeVar("Result")

OBJECT_SCHEMES: Final = ("s3", "gs")
_PACKAGE: Final = {"s3": "s3fs", "gs": "gcsfs"}
_BLOCK: Final = 8 << 20


def is_object_url(target: str) -> bool:
    """Tell whether a target is a folder of an object store."""
    return target.partition("://")[0] in OBJECT_SCHEMES and "://" in target


class ObjectStore:
    """The objects below a URL.

    Parameters
    ----------
    url
        ``s3://BUCKET/PREFIX`` or ``gs://BUCKET/PREFIX``.
    options
        Patience, and another endpoint for S3.
    say
        Told of failed attempts.

    Raises
    ------
    BadUsageError
        A URL that is not opened.
    PlatformError
        The store's package is not installed.
    """

    def __init__(self, url: str, options: PushOptions, say: Callable[[str], None]) -> None:
        if reason := refuse_url(url, OBJECT_SCHEMES):
            raise usage("P50", "target", f"{url[:120]!r}: {reason}", "name s3://BUCKET/PREFIX")
        parts = urlsplit(url)
        self.url, self.host = show_url(url).rstrip("/"), parts.netloc
        self._root = f"{parts.netloc}{parts.path}".rstrip("/")
        self._options, self._say = options, say
        self._files = _open(parts.scheme, options)

    def list(self) -> dict[str, int]:
        """Return size by path of everything below the URL."""

        def ask() -> dict[str, int]:
            self._files.invalidate_cache()
            try:
                found = self._files.find(self._root, detail=True)
            except FileNotFoundError:
                # A bucket that is not there; a prefix needs no making.
                self._files.ls(self._root.partition("/")[0])
                return {}
            start = len(self._root) + 1
            # Of a prefix that fills at this moment, it may return the "folder" itself.
            files = {name: info for name, info in found.items() if info["type"] == "file"}
            return {name[start:]: int(info["size"]) for name, info in files.items()}

        return self._patiently("", ask)

    def put(self, file: FinishedFile) -> None:
        """Send a file; the object appears whole or not at all."""
        where = f"{self._root}/{file.path}"
        self._patiently(file.path, lambda: self._files.put_file(str(file.source), where))

    def create(self, file: FinishedFile) -> None:
        """Send a small file, unless the object is there already."""
        where, raw = f"{self._root}/{file.path}", read_file(file.source)

        def send() -> None:
            try:
                self._files.pipe_file(where, raw, mode="create")
            except FileExistsError:
                return

        self._patiently(file.path, send)

    def digest(self, path: str) -> str:
        """Return the SHA-256 of an object, by reading it."""

        def read() -> str:
            found = hashlib.sha256()
            with self._files.open(
                f"{self._root}/{path}", "rb", block_size=_BLOCK, cache_type="readahead"
            ) as file:
                while block := file.read(_BLOCK):
                    found.update(block)
            return found.hexdigest()

        return self._patiently(path, read)

    def _patiently(self, path: str, call: Callable[[], Result]) -> Result:
        def explained() -> Result:
            with self._explained(path):
                return call()

        return try_patiently(explained, self.host, f" {path}", self._options, self._say)

    @contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        where = f"{self.url}/{path}".rstrip("/")
        try:
            yield
        except FileNotFoundError:
            fix = "make the bucket first, or mend its name"
            raise refused(self.host, where, "there is no such bucket or object", fix) from None
        except PermissionError as error:
            fix = "check the credentials (AWS_ACCESS_KEY_ID ..., or a profile) and their rights"
            raise refused(self.host, where, shorten(str(error)), fix) from None
        except OSError as error:
            raise TransientError(shorten(f"{type(error).__name__}: {error}")) from error
        except _foreign() as error:
            what = shorten(f"{type(error).__name__}: {error}")
            if "Credential" not in what:
                raise TransientError(what) from error
            fix = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            raise refused(self.host, where, what, fix) from None


def _open(scheme: str, options: PushOptions) -> Any:  # noqa: ANN401 - fsspec ships no types
    import fsspec  # type: ignore[import-untyped]

    told: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    if options.endpoint is not None:
        reason = refuse_url(f"{options.endpoint.rstrip('/')}/x", ("https", "http"))
        if scheme != "s3" or reason is not None:
            fix = "give https://HOST for s3: targets, or http://127.0.0.1:PORT for a test"
            raise usage("P50", "endpoint", f"{options.endpoint[:120]!r}: {reason or scheme}", fix)
        told["endpoint_url"] = options.endpoint
    try:
        return fsspec.filesystem(scheme, **told)
    except ImportError as error:
        package = _PACKAGE[scheme]
        problem = Problem(
            code="E009", subject=f"{scheme}: targets", what=f"{package} is not installed: {error}",
            fix=f"pip install '{'stcorpus[s3]' if scheme == 's3' else package}'",
        )  # fmt: skip
        raise PlatformError(problem) from error


def _foreign() -> tuple[type[Exception], ...]:
    """Return the errors of a store's own library that fsspec lets through."""
    if find_spec("botocore") is None:
        return (StError,)
    from botocore.exceptions import BotoCoreError

    return (BotoCoreError,)
