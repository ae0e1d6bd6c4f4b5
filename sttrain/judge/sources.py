"""What a name stands for in a folder of results: one source, in whichever kind of rows.

Probes and domains are of vectors and known by their digest. Filled regions are of a model; with
the others they share the checkpoint, where both say which.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stbuild.corpus.durable import write_durable
from sttrain.embed.evaluation import EvaluationSet
from sttrain.errors import ConflictError, Problem
from sttrain.judge.methods import Method
from sttrain.judge.results import ResultStore
from sttrain.judge.rows import RowTable, read_table, rows_csv, write_parquet

REGIONS: Final = "regions"
_PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    "jobs": ("predictions",),
    "clusters": ("domains",),
    REGIONS: (),
}
"""Folders of rows, and what stands beside each of their files."""
_TABLES: Final = ("clusters", REGIONS)
"""Tables of all rows together that `sttrain probe` does not write itself."""


@dataclass(frozen=True, kw_only=True)
class SourceRow:
    """The part of a row, of any kind, that says whose it is."""

    job: str
    corpus_id: str
    method: str
    source_digest: str
    checkpoint: str | None


@dataclass(frozen=True, kw_only=True)
class Source:
    """What a name stands for in this run."""

    digest: str
    """Of vectors, of a model or of a definition: what decides the answers."""
    checkpoint: str | None


Stored = Mapping[str, Iterable[SourceRow]]
"""Rows by the folder that they stand in."""


def sources_of(methods: Iterable[Method], data: EvaluationSet) -> dict[str, Source]:
    """Return what the names of methods stand for."""
    return {m.name: Source(digest=m.identity(data), checkpoint=m.checkpoint) for m in methods}


def stored_sources(store: ResultStore) -> Stored:
    """Read whose rows a folder of results holds.

    Raises
    ------
    BadInputError
        Rows of another corpus among them.
    IntegrityError
        A file that is damaged.
    """
    return {folder: dict.fromkeys(_table(store, folder).rows()) for folder in _PARTS}


def require_same_sources(
    store: ResultStore,
    stored: Stored,
    sources: Mapping[str, Source],
    *,
    of_models: bool = False,
    fix: str | None = None,
) -> None:
    """Refuse names that stand for other vectors or weights in stored rows of any kind.

    Parameters
    ----------
    store
        Folder of results.
    stored
        What `stored_sources` read of it.
    sources
        What is to be judged, by name; other names are left alone.
    of_models
        Whether these are models that fill regions, and no vectors.
    fix
        How the stored results are got rid of; without it, by removing their files.

    Raises
    ------
    ConflictError
        All such names at once.
    """
    stale: dict[str, list[Path]] = {}
    for folder, rows in stored.items():
        for name in sorted(
            {row.method for row in _stale(folder, rows, sources, of_models=of_models)}
        ):
            stale.setdefault(name, []).append(store.root / folder / f"{name}_*.parquet")
    if stale:
        what = "the stored results of this name are of other vectors or weights"
        raise ConflictError(
            *(
                Problem(
                    code="V16",
                    subject=f"method '{name}'",
                    what=what,
                    fix="choose another name, another -o folder, or "
                    + (fix or f"remove the stored results: {', '.join(map(str, files))}"),
                )
                for name, files in sorted(stale.items())
            )
        )


def drop_other_sources(store: ResultStore, stored: Stored, sources: Mapping[str, Source]) -> None:
    """Delete stored rows of any kind whose name now stands for other vectors, scores first.

    Parameters
    ----------
    store, stored
        Folder of results, and what `stored_sources` read of it.
    sources
        Vectors that are to be judged, by name; rows of other names stay.

    Raises
    ------
    IntegrityError
        A table of all rows that is damaged.
    """
    for folder, rows in stored.items():
        jobs = {row.job for row in _stale(folder, rows, sources, of_models=False)}
        for part in (folder, *_PARTS[folder]) if jobs else ():
            for path in sorted((store.root / part).glob("*.parquet")):
                if path.stem.rpartition("_")[2] in jobs:
                    path.unlink(missing_ok=True)
    for name in _TABLES:
        _keep_stored(store, name)


def _keep_stored(store: ResultStore, name: str) -> None:
    """Leave in a table of all rows those whose files are there; without any it goes."""
    path = store.root / f"{name}.parquet"
    if not path.is_file():
        return
    finished = _table(store, name).finished()
    table = read_table(path, {"job"})
    kept = [job in finished for job in table.column("job").to_pylist()]
    if all(kept):
        return
    if not any(kept):
        for file in (path, path.with_suffix(".csv")):
            file.unlink(missing_ok=True)
        return
    table = table.filter(kept)
    write_parquet(path, table)
    write_durable(path.with_suffix(".csv"), rows_csv(table.to_pylist()))


def _stale(
    folder: str, rows: Iterable[SourceRow], sources: Mapping[str, Source], *, of_models: bool
) -> list[SourceRow]:
    """Return the rows of a folder whose name now stands for something else."""
    by_digest = (folder == REGIONS) == of_models
    known = [(row, sources[row.method]) for row in rows if row.method in sources]
    if by_digest:
        return [row for row, source in known if row.source_digest != source.digest]
    return [
        row
        for row, source in known
        if None not in (row.checkpoint, source.checkpoint) and row.checkpoint != source.checkpoint
    ]


def _table(store: ResultStore, folder: str) -> RowTable[SourceRow]:
    return RowTable(store.root / folder, SourceRow, store.document.corpus_id)
