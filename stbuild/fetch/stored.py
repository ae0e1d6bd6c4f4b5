"""Files of this machine and of object stores, which are read without credentials.

Object stores need their fsspec package (s3fs, gcsfs); no other protocol of fsspec is opened.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from typing import IO, Any, Final
from urllib.parse import unquote, urlsplit

from stbuild.corpus.errors import PlatformError, RemoteError
from stbuild.corpus.transient import TransientError
from stbuild.corpus.urls import show_url
from stbuild.fetch.errors import file_problem
from stbuild.fetch.transport import BLOCK, Reply, Request

_ANONYMOUS: Final[dict[str, dict[str, Any]]] = {"s3": {"anon": True}, "gs": {"token": "anon"}}
_PACKAGE: Final = {"s3": "s3fs", "gs": "gcsfs"}


@contextmanager
def open_stored(request: Request, scheme: str) -> Iterator[Reply]:
    """Open a file of this machine or an object of a store, from an offset on.

    Raises
    ------
    RemoteError
        Not there, not a plain file, or not readable without credentials.
    PlatformError
        The package of the object store is not installed.
    TransientError
        Any other failure of the store.
    """
    with ExitStack() as stack:
        with _explained(request.url):
            opened = _open_file(request) if scheme == "file" else _open_object(request, scheme)
            file = stack.enter_context(opened.file)
            # Without a validator there is no telling whether it is still the same file.
            same = request.tag is not None and request.tag == opened.tag
            start = request.offset if same and request.offset <= opened.total else 0
            file.seek(start)
        yield Reply(
            start=start, total=opened.total, is_framed=True, tag=opened.tag, encoding=None,
            is_page=False, blocks=_blocks(request.url, file),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Opened:
    file: IO[bytes]
    total: int
    tag: str | None


@contextmanager
def _explained(url: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        what = f"cannot be read: {error.strerror or type(error).__name__}"
        raise _for_good(url, what) from None
    except OSError as error:
        msg = f"the store failed ({error.strerror or type(error).__name__})"
        raise TransientError(msg) from None


def _blocks(url: str, file: IO[bytes]) -> Iterator[bytes]:
    while True:
        with _explained(url):
            block = file.read(BLOCK)
        if not block:
            return
        yield block


def _open_file(request: Request) -> _Opened:
    path = Path(unquote(urlsplit(request.url).path))
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would block for ever
    state = os.fstat(handle)
    if not S_ISREG(state.st_mode):
        os.close(handle)
        raise _for_good(request.url, "is not a plain file")
    tag = f"{state.st_size}-{state.st_ino}"  # content is judged by its digest alone
    return _Opened(file=os.fdopen(handle, "rb"), total=state.st_size, tag=tag)


def _open_object(request: Request, scheme: str) -> _Opened:
    import fsspec  # type: ignore[import-untyped]

    try:
        store = fsspec.filesystem(scheme, skip_instance_cache=True, **_ANONYMOUS[scheme])
    except ImportError:
        package = _PACKAGE[scheme]
        what = f"{scheme}: URLs need the package {package}, which is not installed"
        problem = file_problem("E009", "download", show_url(request.url), what,
                               f"pip install {package}")  # fmt: skip
        raise PlatformError(problem) from None
    parts = urlsplit(request.url)
    name = f"{parts.netloc}{unquote(parts.path)}"
    info = store.info(name)
    if info.get("type") != "file":
        raise _for_good(request.url, "is not a plain object")
    tag = info.get("ETag") or info.get("etag")
    file = store.open(name, "rb", block_size=8 << 20, cache_type="readahead")
    return _Opened(file=file, total=int(info["size"]), tag=None if tag is None else str(tag))


def _for_good(url: str, what: str) -> RemoteError:
    fix = "check the URL in the sheet, or get the file by hand"
    return RemoteError(file_problem("R05", "download", show_url(url), what, fix))
