"""One peer as a process that takes turns: a line in (``integers`` or ``floats``), a line out.

``python -m tests.benchmarks.peers.serve MODULE[:VARIANT] DATA WORK SECONDS`` prepares, says what
it runs on, and then yields batches for SECONDS of CPU time for every line it reads, epoch after
epoch. It is run by the interpreter of the peers' environment.
"""

import argparse
import json
import os
import platform
import resource
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.metadata import version
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.peers.protocol import Data, Peer, read_data


def cpu_seconds() -> float:
    """Return user and system seconds of this process, its threads and its finished children."""
    found = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in found)


def take_turn(epoch: Callable[[], Iterator[Any]], seconds: float) -> dict[str, float]:
    """Go through epochs until so many CPU seconds are spent; slow peers end within the first."""
    patches, spent, wall, start = 0, 0.0, time.perf_counter(), cpu_seconds()
    for batch in chain.from_iterable(epoch() for _ in count()):
        patches += len(batch)
        spent = cpu_seconds() - start
        if spent > seconds:
            break
    return {"patches": patches, "cpu": spent, "wall": time.perf_counter() - wall}


def stored_bytes(at: Path | Sequence[Path]) -> int:
    """Return the size of files and folders."""
    roots = [at] if isinstance(at, Path) else at
    files = [f for root in roots for f in (root, *root.rglob("*")) if f.is_file()]
    return sum(file.stat().st_size for file in files)


class Checker:
    """Whether batches hold the patches of the data, in any order."""

    def __init__(self, data: Data) -> None:
        self.crcs = {zlib.crc32(patch.tobytes()) for patch in data.counts}
        n = len(data.counts)
        self.sums = np.sort([float(data.values(i, i + 1).sum(dtype=np.float64)) for i in range(n)])

    def check(self, kind: str, batch: Any, *, site_major: bool) -> None:
        """Compare every patch of a batch.

        Raises
        ------
        ValueError
            A patch that is none of the data's, or of another type.
        """
        array = np.asarray(batch)
        array = np.moveaxis(array, -1, 1) if site_major else array
        wanted = np.float32 if kind == "floats" else np.integer
        if array.ndim != 4 or not np.issubdtype(array.dtype, wanted):
            msg = f"expected a batch of patches of {wanted}; got {array.dtype} {array.shape}"
            raise ValueError(msg)
        for patch in array:
            if not (self._is_float(patch) if kind == "floats" else self._is_counts(patch)):
                msg = f"a patch of {kind} is none of those that were given"
                raise ValueError(msg)

    def _is_counts(self, patch: Any) -> bool:
        return zlib.crc32(patch.astype(np.uint16).tobytes()) in self.crcs

    def _is_float(self, patch: Any) -> bool:
        found = float(patch.sum(dtype=np.float64))
        at = np.searchsorted(self.sums, found)
        near = self.sums[max(at - 1, 0) : at + 1]
        return bool(np.isclose(near, found, rtol=1e-5).any())


def check_peer(peer: Peer, data: Data, seconds: float) -> None:
    """Compare what a peer yields in both ways; this is its warm-up, too."""
    checker = Checker(data)
    for kind in ("integers", "floats"):
        start = time.process_time()
        for batch in getattr(peer, kind)():
            checker.check(kind, batch, site_major=peer.site_major)
            if time.process_time() - start > seconds:
                break


def serve(name: str, root: Path, work: Path, seconds: float, out: Any) -> None:
    """Prepare a peer and take turns until there are no more lines."""

    def say(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    module, _, variant = name.partition(":")
    try:
        data = read_data(root)
        found = import_module(f"tests.benchmarks.peers.{module}")
        peer = found.open_peer(data, work, variant)
        check_peer(peer, data, seconds)
    except Exception as error:  # noqa: BLE001 - whatever a peer raises is what the table says
        text = str(error).strip().splitlines()
        say({"error": f"{type(error).__name__}: {text[0] if text else ''}"})
        return
    versions = {package: version(package) for package in found.PACKAGES}
    sizes = {kind: stored_bytes(at) / len(data.counts) for kind, at in peer.stored.items()}
    runs = {"versions": versions, "python": platform.python_version()}
    say({"what": found.WHAT, "bytes": sizes, **runs})
    for line in sys.stdin:
        say(take_turn(getattr(peer, line.strip()), seconds))
    peer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("seconds", type=float)
    options = parser.parse_args()
    # Whatever a library prints must not look like an answer.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(options.name, options.data, options.work, options.seconds, out)


if __name__ == "__main__":
    main()
