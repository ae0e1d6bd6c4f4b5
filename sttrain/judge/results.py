"""Rows of results on disk: one small Parquet file per fit, so that a rerun adds what is missing.

``results.json`` says which corpus the folder belongs to and refuses any other. ``jobs/`` holds
the scores of a fit, ``predictions/`` its predictions, ``spots/`` where the spots lie;
``results.parquet`` and ``results.csv`` are all rows together, written from the former.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.documents import Sha256
from stbuild.corpus.durable import PARTIAL, remove_dead_below, write_durable
from stbuild.corpus.outputs import refuse_foreign
from sttrain.embed.evaluation import EvaluationSet
from sttrain.errors import BadInputError, ConflictError, Problem
from sttrain.judge.rows import DAMAGED, RowTable, later_column, read_table, write_parquet
from sttrain.seals import SealedDocument, read_sealed

MARK: Final = "results.json"
_FOLDERS: Final = (
    "clusters", "costs", "domains", "jobs", "predictions", "provenance", "regions", "spots",
)  # fmt: skip
"""That runs make beside it."""
_TABLES: Final = tuple(
    f"{name}.{suffix}"
    for name in ("clusters", "regions", "results")
    for suffix in ("csv", "parquet")
)
FORMAT: Final = "sttrain/results"


class ResultsDocument(SealedDocument):
    """``results.json``: the corpus that all results of a folder belong to."""

    format: Literal["sttrain/results"] = FORMAT
    version: Literal[2] = 2
    corpus: str
    corpus_id: Sha256


@dataclass(frozen=True, kw_only=True)
class ResultRow:
    """Scores of one fit, over all judged spots or over those of one slice."""

    job: str
    """Digest of everything that decides the predictions."""
    corpus: str
    corpus_id: str
    method: str
    source: str
    """``baseline`` or ``embedding``."""
    source_digest: str
    """Of the vectors of an embedding, of the definition of a baseline."""
    checkpoint: str | None
    """Digest of the checkpoint that an embedding came from, where it says so."""
    head: str
    """Name in tables, with its numbers."""
    epochs: int | None
    """Epochs that were trained."""
    converged: bool | None
    """Whether the solver ended before its limit of iterations, where there is one."""
    split: str
    split_digest: str
    transductive: bool
    """Whether features of test spots may have been seen in training: under this split by any
    method, or by this one, as `seen` tells."""
    seen: str | None = later_column()
    """How judged spots took part in making the features, as `sttrain.judge.exposure` finds it:
    ``components``, ``training``, ``unknown``, separated by semicolons."""
    held_out: str | None
    """Donor or pair that is judged, where a group is held out."""
    seed: int
    """Seed of the split, or number of the group that is held out."""
    repeat: int
    """Number of the fit among those of the same seed that differ by their draws alone."""
    slice: str | None
    """Slug; none for the scores pooled over all slices."""
    n_train: int
    n_test: int
    n_classes: int
    """Classes trained on."""
    rare: str
    """Classes too small to train on, separated by semicolons; they are scored."""
    absent: str
    """Classes that are scored here and that no training spot has, separated by semicolons."""
    accuracy: float
    ari_pred: float | None
    """None where the scored spots have one class: agreement of partitions is then undefined."""
    macro_f1: float
    balanced_accuracy: float
    settings: str
    """Settings of the head, JSON."""
    versions: str
    """Versions of the software, JSON."""


@dataclass(frozen=True, kw_only=True)
class SpotTable:
    """Where the spots of a slice lie and what they are labelled. N spots."""

    barcodes: tuple[str, ...]
    xy: NDArray[np.float64]
    """(N, 2) position (x, y)."""
    labels: tuple[str | None, ...]


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What one fit said of every spot of one slice. N spots, in grid order."""

    slice: str
    codes: str
    """N characters: T train, E test, b buffer, a dot for unlabelled."""
    predicted: tuple[str, ...]
    """N class names."""


@dataclass(frozen=True)
class ResultStore:
    """A folder of results of one corpus."""

    root: Path
    document: ResultsDocument

    @property
    def jobs(self) -> RowTable[ResultRow]:
        """The scores of all fits; one is done when its predictions stand, too."""
        beside = self.root / "predictions"
        return RowTable(self.root / "jobs", ResultRow, self.document.corpus_id, beside)

    def finished(self) -> set[str]:
        """Return the digests of the jobs whose scores and predictions are stored."""
        return self.jobs.finished()

    def rows(self) -> list[ResultRow]:
        """Read all rows, sorted by method, head, split, seed, repeat and slice.

        Raises
        ------
        BadInputError
            Rows of another corpus among them.
        IntegrityError
            A file that is damaged.
        """
        return sorted(
            self.jobs.rows(),
            key=lambda r: (
                r.method, r.head, r.split, r.seed, r.repeat, r.slice is not None, r.slice or ""
            ),
        )  # fmt: skip

    def add(self, rows: Sequence[ResultRow], predictions: Sequence[Predictions]) -> None:
        """Store a fit: first its predictions, then its scores, which mean that it is done."""
        import pyarrow as pa

        name = job_file(rows[0])
        spots = pa.table(
            {
                "slice": pa.array(
                    [p.slice for p in predictions for _ in p.predicted], pa.string()
                ).dictionary_encode(),
                "code": pa.array([code for p in predictions for code in p.codes], pa.string()),
                "predicted": pa.array(
                    [value for p in predictions for value in p.predicted], pa.string()
                ).dictionary_encode(),
            }
        )
        write_parquet(self.root / "predictions" / f"{name}.parquet", spots)
        self.jobs.add(name, rows)

    def predictions(self, row: ResultRow) -> list[Predictions]:
        """Read the predictions of the fit that a row belongs to.

        Raises
        ------
        IntegrityError
            The file is missing or damaged.
        """
        path = self.root / "predictions" / f"{job_file(row)}.parquet"
        table = read_table(path, {"slice", "code", "predicted"})
        columns = {name: table.column(name).to_pylist() for name in table.column_names}
        members: dict[str, list[int]] = {}
        for i, slug in enumerate(columns["slice"]):
            members.setdefault(slug, []).append(i)
        return [
            Predictions(
                slice=slug,
                codes="".join(columns["code"][i] for i in chosen),
                predicted=tuple(columns["predicted"][i] for i in chosen),
            )
            for slug, chosen in members.items()
        ]

    def spots(self, slug: str) -> SpotTable:
        """Read where the spots of a slice lie.

        Raises
        ------
        IntegrityError
            The file is missing or damaged.
        """
        columns = {"barcode", "x", "y", "label"}
        table = read_table(self.root / "spots" / f"{slug}.parquet", columns)
        return SpotTable(
            barcodes=tuple(table.column("barcode").to_pylist()),
            xy=np.stack([table.column(axis).to_numpy() for axis in "xy"], axis=1),
            labels=tuple(table.column("label").to_pylist()),
        )

    def summarise(self, jobs: Iterable[str]) -> list[ResultRow]:
        """Write all rows together as ``results.parquet`` and ``results.csv`` and return them.

        `jobs`, digests, have to be among them.
        """
        return self.jobs.summarise_all(self.root / "results", jobs, self.rows)


def create_store(root: Path, data: EvaluationSet) -> ResultStore:
    """Open the results of a corpus, or start them; see `open_or_create`."""
    return open_or_create(root, data.corpus, data.corpus_id)


def open_or_create(root: Path, corpus: str, corpus_id: str) -> ResultStore:
    """Open the results of a corpus by its name and id, or start them.

    Raises
    ------
    ConflictError
        The folder holds results of another corpus, or something else.
    """
    wanted = ResultsDocument(corpus=corpus, corpus_id=corpus_id)
    mark = root / MARK
    if not mark.exists():
        refuse_foreign(
            root, "results", mark=lambda _: False, leftover=_is_ours, code="V10", thing="results"
        )
        write_durable(mark, wanted.to_bytes())
    remove_dead_below(root)
    store = open_store(root)
    if store.document.corpus_id != wanted.corpus_id:
        what = (
            f"it holds results of corpus '{store.document.corpus}' "
            f"({store.document.corpus_id[:12]}), this one is {wanted.corpus_id[:12]}"
        )
        raise ConflictError(_problem("V10", root, what, "choose another -o folder"))
    return store


def _is_ours(path: Path) -> bool:
    """Return whether a run leaves it whose mark is not there, or no more."""
    known = path.name in _FOLDERS if path.is_dir() else path.name in _TABLES
    return known or PARTIAL in path.name


def open_store(root: Path) -> ResultStore:
    """Open a folder of results.

    Raises
    ------
    BadInputError
        No results stand there.
    IntegrityError
        ``results.json`` is damaged or of an unknown version.
    """
    mark = root / MARK
    if not mark.is_file():
        what = f"no {MARK} stands there"
        raise BadInputError(_problem("V20", root, what, "give the folder of `sttrain probe -o`"))
    document = read_sealed(ResultsDocument, mark, _problem("V20", mark, "", DAMAGED))
    return ResultStore(root, document)


def write_spots(store: ResultStore, data: EvaluationSet, slugs: Iterable[str]) -> None:
    """Store where the spots of the judged slices lie, for maps; what is there stays."""
    import pyarrow as pa

    for slug in slugs:
        path = store.root / "spots" / f"{slug}.parquet"
        if path.exists():
            continue
        xy = data.slices[slug].xy
        table = pa.table(
            {
                "barcode": pa.array(data.barcodes(slug), pa.string()),
                "x": pa.array(xy[:, 0]),
                "y": pa.array(xy[:, 1]),
                "label": pa.array(data.label_names(slug), pa.string()),
            }
        )
        write_parquet(path, table)


def job_file(row: ResultRow) -> str:
    """Return the name of the files of a job, without suffix: readable, and unique by its digest."""
    return f"{row.method}_{head_slug(row.head)}_{row.split}_s{row.seed:03d}_{row.job}"


def head_slug(head: str) -> str:
    """Return a head's name as file names use it."""
    return "-".join("".join(c if c.isalnum() else " " for c in head.lower()).split())


def _problem(code: str, path: Path, what: str, fix: str) -> Problem:
    return Problem(code=code, subject=f"results '{path.name}'", where=str(path), what=what, fix=fix)
