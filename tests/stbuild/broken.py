"""Builds that are broken on purpose: what the tests of durability have to notice.

Each variant replaces one guard of ``stbuild`` by what a hasty author might have written.
"""

import os
import sys
import tarfile
import time
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from unittest.mock import ANY, patch

import numpy as np

import stbuild.build.assemble
import stbuild.build.inputs
import stbuild.build.parts
import stbuild.build.shards
import stbuild.genes.vocabulary
import stbuild.grid.compact
import stbuild.patches.cropping
import stbuild.windows
from stbuild.cli import cli
from stbuild.corpus import durable, names
from stbuild.draws import keyed_stream
from stbuild.grid.catalogue import Catalogue, read_catalogue

Written = tuple[int, str]


def write_in_place() -> None:
    """Files grow under their final names."""

    def write(path: Path, blocks: bytes | Iterable[bytes], *, read_back: bool) -> Written:
        del read_back
        raw = blocks if isinstance(blocks, bytes) else b"".join(blocks)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw[: len(raw) // 2])
        with path.open("ab") as file:
            file.write(raw[len(raw) // 2 :])
        return len(raw), sha256(raw).hexdigest()

    patch.object(durable, "_write", write).start()


def write_the_mark_first() -> None:
    """``corpus.json``, which means finished, stands before the files that it names."""
    waiting: list[tuple[Path, bytes]] = []

    def write(path: Path, raw: bytes) -> Written:
        if path.name != names.CORPUS_JSON:
            waiting.append((path, raw))
            return len(raw), sha256(raw).hexdigest()
        found = durable.write_durable(path, raw)
        for other in waiting:
            durable.write_durable(*other)
        return found

    patch.object(stbuild.build.assemble, "write_durable", write).start()


def draw_by_process() -> None:
    """What is drawn depends on the process that draws."""

    def stream(purpose: str, seed: int, content: str, number: int) -> np.random.Philox:
        return keyed_stream(purpose, seed, f"{content}{os.getpid()}", number)

    for module in (stbuild.windows, stbuild.patches.cropping):
        patch.object(module, "keyed_stream", stream).start()


def skip_if_exists() -> None:
    """What stands under its name is believed to be whole."""
    patch.object(stbuild.grid.compact, "check_grid", lambda _: []).start()
    patch.object(stbuild.build.parts, "_is_whole", lambda data, _: data.is_file()).start()
    patch.object(stbuild.build.shards, "sha256_file", lambda _: ANY).start()


def take_slices_as_listed() -> None:
    """Slices come in the order in which the folder lists them, and their samples in that order."""

    def listed(grids: Path) -> Catalogue:
        found = read_catalogue(grids)
        order = [entry.name for entry in os.scandir(grids)]
        entries = sorted(found.grids, key=lambda entry: order.index(entry.file_name))
        return found.model_copy(update={"grids": tuple(entries)})

    patch.object(stbuild.build.inputs, "read_catalogue", listed).start()
    patch.object(
        stbuild.build.shards, "hashed_order", lambda *given: list(range(len(given[-1])))
    ).start()


def take_genes_as_hashed() -> None:
    """Genes come in the order of a set of their names."""

    def as_hashed(found: Iterable[str]) -> list[str]:
        return list(set(found))

    patch.object(stbuild.genes.vocabulary, "sorted", as_hashed, create=True).start()


def stamp_members() -> None:
    """Members of a shard carry the time at which they were packed."""

    plain = tarfile.TarInfo

    def stamped() -> tarfile.TarInfo:
        info = plain()
        info.mtime = int(time.time())
        return info

    patch.object(tarfile, "TarInfo", stamped).start()


Variants = dict[str, Callable[[], None]]
CRASHING: Variants = {
    break_it.__name__: break_it
    for break_it in (write_in_place, write_the_mark_first, draw_by_process)
}
"""Variants under which a build that dies and is run again does not end as it should."""
DAMAGED: Variants = {skip_if_exists.__name__: skip_if_exists}
"""Variants under which it does not where a disk lost what was written."""
ELSEWHERE: Variants = {
    break_it.__name__: break_it
    for break_it in (take_slices_as_listed, take_genes_as_hashed, stamp_members)
}
"""Variants whose corpus depends on where and when it was built."""

if __name__ == "__main__":
    ELSEWHERE[sys.argv.pop(1)]()
    cli()
