"""A corpus behind a URL: its documents are got and checked first, its shards piece by piece.

What is got stands in the cache of the user. Paths of the corpus's document are those that the
format allows, joined to the URL and to a folder of the cache; a document with any other is refused.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, TypeVar

from stbuild.corpus import names
from stbuild.corpus.cache import default_cache
from stbuild.corpus.digests import sha256_bytes
from stbuild.corpus.documents import CorpusDocument, ShardEntry, read_document
from stbuild.corpus.durable import write_durable
from stbuild.corpus.index import SampleIndex
from stbuild.corpus.reader import MAX_TABLE_BYTES, Corpus, open_corpus
from sttrain.errors import BadInputError, IntegrityError, Problem

if TYPE_CHECKING:
    from sttrain.stream.pieces import PieceCache, RemoteShards
    from sttrain.stream.transport import Patience, RemoteFolder

Content = TypeVar("Content")

_BLOCK: Final = 8 * 2**20
"""Bytes of a table that are asked for at a time."""
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
CACHE_GB: Final = 16.0
"""Most that the cache holds of shards, in 10^9 bytes, unless told otherwise."""


@dataclass(frozen=True)
class RemoteCorpus(Corpus):
    """A corpus whose files are got when they are needed; `root` is where they then stand."""

    folder: "RemoteFolder"
    pieces: "PieceCache"

    def file(self, path: str) -> bytes:
        """Read a document or table, getting it first where it is not at hand.

        Raises
        ------
        BadInputError
            The corpus has no such file.
        IntegrityError
            The bytes are not those that ``corpus.json`` names.
        RemoteError
            It cannot be had.
        """
        return self._healed(path, super().file)

    def open_file(self, path: str) -> IO[bytes]:
        """Open a table that is too large to hold; otherwise as :meth:`file`."""
        return self._healed(path, super().open_file)

    def _healed(self, path: str, read: Callable[[str], Content]) -> Content:
        """Read a file; what stood in the cache and has rotted there is got once more."""
        if self._fetch(path):
            return read(path)
        try:
            return read(path)
        except IntegrityError:
            (self.root / path).unlink(missing_ok=True)
            self._fetch(path)
            return read(path)

    def shard_file(self, shard: ShardEntry) -> Path:
        """Refuse: no shard is at hand as a file.

        Raises
        ------
        BadInputError
            Always.
        """
        fix = "get the corpus to this machine first, and give its folder"
        what = "this needs shards as files, and they are behind a URL"
        where = self.folder.where(shard.path)
        raise BadInputError(Problem(code="L23", subject="corpus", where=where, what=what, fix=fix))

    def shards(self, entries: Sequence[ShardEntry]) -> "RemoteShards":
        """Return the shards of a split, as they are read over the network."""
        from sttrain.stream.pieces import RemoteShards

        return RemoteShards(self.folder, entries, self.pieces)

    def read_sample(self, shard: ShardEntry, index: SampleIndex, i: int) -> bytes:
        """Read the tar blocks of one sample and check their digest.

        Raises
        ------
        IntegrityError
            The shard is missing or of another size, or the sample is damaged.
        RemoteError
            It cannot be had.
        """
        shards, out = self.shards([shard]), bytearray(int(index.size[i]))
        where, offset = shards.where(0), int(index.offset[i])
        for again in (True, False):
            try:
                n = shards.read_into(0, offset, memoryview(out))
            except OSError as error:
                raise _damaged(where, f"unreadable: {error.strerror or error}") from error
            if n == len(out) and sha256_bytes(memoryview(out)) == index.sha256[i].tobytes().hex():
                break
            if not again:
                raise _damaged(where, f"sample {index.keys[i]} fails its digest")
            shards.forget(0, offset, len(out))
        return bytes(out)

    def _fetch(self, path: str) -> bool:
        """Get a file where it is not at hand; whether that was so."""
        entry = self.entry(path)
        place = self.root / entry.path
        if place.is_file() and place.stat().st_size == entry.bytes:
            return False  # whoever reads it compares its digest
        if entry.bytes > MAX_TABLE_BYTES:
            raise _damaged(self.folder.where(path), f"{entry.bytes:,} bytes are more than are read")
        digest = hashlib.sha256()

        def blocks() -> Iterator[bytes]:
            for start in range(0, entry.bytes, _BLOCK):
                block = self._read(path, start, entry.bytes)
                digest.update(block)
                yield block
            if digest.hexdigest() != entry.sha256:
                what = "its SHA-256 is not the one in corpus.json"
                raise _damaged(self.folder.where(path), what)

        write_durable(place, blocks())
        return True

    def _read(self, path: str, start: int, total: int) -> bytes:
        try:
            return self.folder.read(path, start, _BLOCK, total)
        except OSError as error:
            what = f"unreadable: {error.strerror or error}"
            raise _damaged(self.folder.where(path), what) from error


def is_url(location: str | Path) -> bool:
    """Tell whether a location is a URL rather than a path, which a path object always is."""
    looks_so = isinstance(location, str) and _URL.match(location) is not None
    return looks_so and not Path(location).exists()


def open_location(
    location: str | Path,
    *,
    cache: Path | None = None,
    cache_gb: float = CACHE_GB,
    patience: "Patience | None" = None,
) -> Corpus:
    """Open the corpus in a folder, or behind a URL.

    Parameters
    ----------
    location
        Folder, or URL of one: https, s3, gs, hf, or http on this machine.
    cache, cache_gb
        Folder for what comes over the network, and how much of it is kept.
    patience
        How long a server may take.

    Raises
    ------
    BadInputError
        No finished corpus stands there, or the URL is not opened.
    IntegrityError
        ``corpus.json`` is damaged, or of an unknown format or version.
    RemoteError
        It cannot be had.
    """
    if not is_url(location):
        return open_corpus(Path(location))
    from sttrain.stream.pieces import PieceCache
    from sttrain.stream.transport import RemoteFolder

    folder = RemoteFolder(str(location), patience)
    where = folder.where(names.CORPUS_JSON)
    try:
        raw = folder.read(names.CORPUS_JSON, 0, names.MAX_DOCUMENT_BYTES + 1)
    except OSError as error:
        raise _no_corpus(where, error) from error
    if len(raw) > names.MAX_DOCUMENT_BYTES:
        raise _damaged(where, f"more than the {names.MAX_DOCUMENT_BYTES:,} bytes that are read")
    document = read_document(CorpusDocument, raw, where)
    base = cache or default_cache("train")
    root = base / "corpora" / sha256_bytes(raw)
    return RemoteCorpus(root, document, folder, PieceCache(base, int(cache_gb * 10**9)))


def _no_corpus(where: str, error: OSError) -> BadInputError:
    return BadInputError(
        Problem(
            code="L23",
            subject="corpus",
            where=where,
            what=f"no finished corpus stands there: {error.strerror or error}",
            fix="give the URL of the folder that holds corpus.json",
        )
    )


def _damaged(where: str, what: str) -> IntegrityError:
    fix = "check the corpus at its source with `stbuild verify`"
    return IntegrityError(Problem(code="L01", subject="corpus", where=where, what=what, fix=fix))
