"""Builds that are broken on purpose: what the tests of durability have to notice.

Each variant replaces one guard of ``stbuild`` by what a hasty author might have written.
"""

import os
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path
from unittest.mock import patch

import numpy as np

import stbuild.assemble
import stbuild.patches
import stbuild.windows
from stbuild.corpus import durable, names
from stbuild.draws import keyed_stream

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

    patch.object(stbuild.assemble, "write_durable", write).start()


def draw_by_process() -> None:
    """What is drawn depends on the process that draws."""

    def stream(purpose: str, seed: int, content: str, number: int) -> np.random.Philox:
        return keyed_stream(purpose, seed, f"{content}{os.getpid()}", number)

    for module in (stbuild.windows, stbuild.patches):
        patch.object(module, "keyed_stream", stream).start()


CRASHING: dict[str, Callable[[], None]] = {
    break_it.__name__: break_it
    for break_it in (write_in_place, write_the_mark_first, draw_by_process)
}
"""Variants under which a build that dies and is run again does not end as it should."""
