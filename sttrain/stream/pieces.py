"""Shards of a remote corpus, in pieces that are kept on the disk.

A piece is 8 MiB of a shard. It stands in the cache under the SHA-256 of its shard and its number,
so that runs and ranks share what they have got, whatever URL it came from. What the cache holds is
believed as little as what a server sends: every sample is checked against the index whenever it is
read, and a piece that turns out to be wrong is got once more.

The cache is bounded; pieces that this process did not use go first, then those that it used longest
ago. That decides what is read twice, and nothing else.
"""

import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import numpy as np
from filelock import FileLock

from stbuild.corpus.documents import ShardEntry
from stbuild.corpus.durable import guard_disk
from sttrain.errors import StError
from sttrain.stream.shards import Places
from sttrain.stream.transport import RemoteFolder

PIECE: Final = 8 * 2**20
"""Bytes of a piece; the last one of a shard has fewer."""
_PIECE_NAME: Final = re.compile(r"([0-9a-f]{64})-[0-9]+-([0-9]{6,})")
_JOBS: Final = 4
"""Pieces that are got at a time, ahead of their use."""
_FIX: Final = "free space, or name another folder with --cache or less of it with --cache-gb"


class PieceCache:
    """A folder of pieces.

    Parameters
    ----------
    root
        The folder; it is made when the first piece goes in.
    most
        Most bytes that it holds; one piece is always kept.
    """

    def __init__(self, root: Path, most: int) -> None:
        self.root, self.most = root, most
        self._lock = threading.Lock()
        self._used: dict[tuple[str, int], None] = {}
        """Pieces that this process used, the latest last."""

    def place(self, sha256: str, piece: int) -> Path:
        """Return where a piece stands, or would."""
        return self.root / "shards" / f"{sha256}-{PIECE}-{piece:06d}"

    def find(self, sha256: str, piece: int, size: int) -> int | None:
        """Return an open file of a piece; None where there is none of that size."""
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            handle = os.open(self.place(sha256, piece), flags)
        except OSError:
            return None
        if os.fstat(handle).st_size == size:
            with self._lock:
                self._use((sha256, piece))
            return handle
        os.close(handle)
        return None

    def holds(self, sha256: str, piece: int) -> bool:
        """Tell whether a piece is there."""
        return self.place(sha256, piece).is_file()

    def add(self, sha256: str, piece: int, raw: bytes) -> None:
        """Keep a piece, for which others are dropped first until all fit.

        Raises
        ------
        ResourceError
            The disk refuses.
        """
        place, key = self.place(sha256, piece), (sha256, piece)
        with self._lock:  # two at once would each make room for its own alone
            self._make_room(key, len(raw))
            guard_disk(place, lambda: _write(place, raw), _FIX)
            self._use(key)

    def _use(self, key: tuple[str, int]) -> None:
        self._used.pop(key, None)
        self._used[key] = None

    def drop(self, sha256: str, piece: int) -> None:
        """Forget a piece."""
        with suppress(OSError):
            self.place(sha256, piece).unlink()

    @contextmanager
    def locked(self, sha256: str, piece: int) -> Iterator[None]:
        """Hold a piece alone, among all threads and processes: who waits finds it there then."""
        name = f"{sha256}-{piece:06d}"
        path = self.root / "locks" / f"{name[:2]}{piece % 64:02d}.lock"
        guard_disk(path, lambda: path.parent.mkdir(parents=True, exist_ok=True), _FIX)
        lock = FileLock(path, thread_local=False)
        guard_disk(path, lock.acquire, _FIX)
        try:
            yield
        finally:
            lock.release()

    def size(self) -> int:
        """Return the bytes of all pieces."""
        return sum(self._pieces().values())

    def _pieces(self) -> dict[tuple[str, int], int]:
        """Return the bytes of every piece; those that this process did not use come first."""
        found = {}
        for path in sorted((self.root / "shards").glob(f"*-{PIECE}-*")):
            name = _PIECE_NAME.fullmatch(path.name)
            if name is not None:
                with suppress(FileNotFoundError):  # another process drops pieces too
                    found[name[1], int(name[2])] = path.stat().st_size
        foreign = {key: size for key, size in found.items() if key not in self._used}
        return foreign | {key: found[key] for key in self._used if key in found}

    def _make_room(self, coming: tuple[str, int], size: int) -> None:
        pieces = self._pieces()
        pieces.pop(coming, None)  # it is written over
        total = size + sum(pieces.values())
        for key, held in pieces.items():
            if total <= self.most:
                return
            self.drop(*key)
            self._used.pop(key, None)
            total -= held


def _write(place: Path, raw: bytes) -> None:
    """Write a piece; it appears whole or not at all. What a power cut takes is got again.

    Whoever writes it holds it alone, so the name on the way needs to be no other every time: what
    a kill leaves behind is written over.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f"{place.name}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
        file.write(raw)
    temporary.replace(place)


class RemoteShards:
    """The shards of a split of a remote corpus.

    Parameters
    ----------
    folder
        The corpus.
    shards
        Those of a split, in the order of the corpus's document.
    cache
        Where pieces are kept.
    """

    def __init__(
        self, folder: RemoteFolder, shards: Sequence[ShardEntry], cache: PieceCache
    ) -> None:
        self.folder, self.shards, self.cache = folder, shards, cache

    def read_into(self, shard: int, offset: int, out: memoryview) -> int:
        """Fill `out` from a shard; return how many bytes there were.

        Raises
        ------
        OSError
            There is no such shard, or it has another size.
        RemoteError
            It cannot be had, or not after all attempts.
        ResourceError
            The cache cannot be written.
        """
        done = 0
        while done < len(out):
            piece, inside = divmod(offset + done, PIECE)
            n = min(len(out) - done, PIECE - inside)
            found = self._read_piece(shard, piece, inside, out[done : done + n])
            done += found
            if found < n:
                break
        return done

    def _read_piece(self, shard: int, piece: int, inside: int, out: memoryview) -> int:
        entry = self.shards[shard]
        while True:  # a piece that another process got may be dropped before it is opened here
            handle = self.cache.find(entry.sha256, piece, _size(entry, piece))
            if handle is not None:
                break
            raw = self.get(shard, piece)
            if raw is not None:
                part = memoryview(raw)[inside : inside + len(out)]
                out[: len(part)] = part
                return len(part)
        try:
            return os.preadv(handle, [out], inside)
        finally:
            os.close(handle)

    def get(self, shard: int, piece: int) -> bytes | None:
        """Get a piece into the cache and return it; None where somebody else was faster."""
        entry = self.shards[shard]
        size = _size(entry, piece)
        with self.cache.locked(entry.sha256, piece):
            handle = self.cache.find(entry.sha256, piece, size)
            if handle is not None:
                os.close(handle)
                return None
            raw = self.folder.read(entry.path, piece * PIECE, size, entry.bytes)
            self.cache.add(entry.sha256, piece, raw)
            return raw

    def forget(self, shard: int, offset: int, size: int) -> bool:
        """Drop the pieces of a sample whose bytes turned out to be wrong."""
        for piece in range(offset // PIECE, (offset + size - 1) // PIECE + 1):
            self.cache.drop(self.shards[shard].sha256, piece)
        return True

    def where(self, shard: int) -> str:
        """Return the URL of a shard."""
        return self.folder.where(self.shards[shard].path)

    @contextmanager
    def reading_ahead(self, coming: Iterable[Places]) -> Iterator[Callable[[], None]]:
        """Get the pieces of what is coming, as long as this lasts.

        So far ahead that what waits to be used fills half of the cache.
        """
        ahead = ReadAhead(self, coming, self.cache.most // 2)
        ahead.start()
        try:
            yield ahead.used
        finally:
            ahead.stop()


def _size(entry: ShardEntry, piece: int) -> int:
    return min(PIECE, entry.bytes - piece * PIECE)


class ReadAhead(threading.Thread):
    """Walks the batches that come, and gets the pieces that they need.

    A piece that cannot be had is left to whoever asks for it, who is told why.

    Parameters
    ----------
    shards
        What is read.
    coming
        Where the samples of each batch lie.
    most
        Bytes of pieces that may wait to be used; those of one batch always may.
    """

    def __init__(self, shards: RemoteShards, coming: Iterable[Places], most: int) -> None:
        super().__init__(name="sttrain-ahead", daemon=True)
        self._shards, self._coming, self._most = shards, coming, most
        self._changed = threading.Condition()
        self._stopped = False
        self._waiting: deque[set[tuple[int, int]]] = deque()
        self._n_used = 0

    def used(self) -> None:
        """Note that a batch was taken."""
        with self._changed:
            self._n_used += 1
            self._changed.notify_all()

    def stop(self) -> None:
        """End; what is being got is got to its end."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self.join()

    def run(self) -> None:
        """Get pieces until there are no more, or nobody wants them."""
        with ThreadPoolExecutor(_JOBS, thread_name_prefix="sttrain-ahead") as pool:
            for places in self._coming:
                wanted = pieces_of(places)
                fresh = wanted.difference(*self._waiting)
                if not self._has_room(fresh):
                    return
                self._waiting.append(fresh)
                for result in [pool.submit(self._get, *piece) for piece in sorted(fresh)]:
                    result.result()

    def _has_room(self, fresh: set[tuple[int, int]]) -> bool:
        """Wait until a batch's pieces may come; False where nobody wants them any more."""
        with self._changed:
            while not self._stopped:
                while self._n_used and self._waiting:
                    self._waiting.popleft()
                    self._n_used -= 1
                n = len(fresh) + sum(map(len, self._waiting))
                if n * PIECE <= self._most or not self._waiting:
                    return True
                self._changed.wait()
            return False

    def _get(self, shard: int, piece: int) -> None:
        entry = self._shards.shards[shard]
        if not self._stopped and not self._shards.cache.holds(entry.sha256, piece):
            with suppress(StError, OSError):
                self._shards.get(shard, piece)


def pieces_of(places: Places) -> set[tuple[int, int]]:
    """Return (shard, piece) of all that samples lie in."""
    shard, offset, size = places
    first, last = offset // PIECE, (offset + np.maximum(size, 1) - 1) // PIECE
    return {
        (s, piece)
        for s, a, b in zip(shard.tolist(), first.tolist(), last.tolist(), strict=True)
        for piece in range(a, b + 1)
    }
