"""Which samples every step took: one file a rank and start, for whoever wants to audit a run."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path
from typing import Final

from stbuild.corpus.durable import append_whole, guard_disk
from sttrain.stream.batches import Batch
from sttrain.stream.order import World

FOLDER: Final = "trace"


class Trace:
    """Notes the keys of each step of one rank, before the step is taken."""

    def __init__(self, file: RawIOBase, path: Path) -> None:
        self._file, self._path = file, path

    def write(self, step: int, batch: Batch) -> None:
        """Note a step; the line is on its way to the disk when this returns.

        Raises
        ------
        ResourceError
            The disk refuses.
        """
        rows = [[int(row), key] for row, key in zip(batch.rows, batch.keys, strict=True)]
        line = json.dumps({"step": step, "epoch": batch.epoch, "rows": rows}) + "\n"
        guard_disk(self._path, lambda: append_whole(self._file, line.encode()))


@contextmanager
def open_trace(run: Path, done: int, world: World) -> Iterator[Trace]:
    """Open the trace of one rank, from step `done` on.

    Raises
    ------
    ResourceError
        The disk refuses.
    """
    path = run / FOLDER / f"{done:08d}-{world.rank:04d}-of-{world.n_ranks:04d}.jsonl"
    guard_disk(path, lambda: path.parent.mkdir(parents=True, exist_ok=True))
    with guard_disk(path, lambda: path.open("wb", buffering=0)) as file:
        yield Trace(file, path)


def read_trace(run: Path) -> dict[int, list[str]]:
    """Return the keys of each step's global batch, in the order of its rows.

    What a start noted of steps that a later start took again is left out: those steps were undone
    with the process that was killed.
    """
    starts: dict[int, list[Path]] = {}
    for path in sorted((run / FOLDER).glob("*.jsonl")):
        starts.setdefault(int(path.name.split("-")[0]), []).append(path)
    found: dict[int, dict[int, str]] = {}
    for start, paths in sorted(starts.items()):
        found = {step: rows for step, rows in found.items() if step <= start}
        for path in paths:
            for line in path.read_text("utf-8").splitlines(keepends=True):
                if not line.endswith("\n"):  # torn by a kill
                    continue
                value = json.loads(line)
                found.setdefault(value["step"], {}).update(dict(value["rows"]))
    return {step: [rows[row] for row in sorted(rows)] for step, rows in sorted(found.items())}
