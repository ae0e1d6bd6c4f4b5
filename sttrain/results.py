"""Rows of results on disk: one small Parquet file per fit, so that a rerun adds what is missing.

``results.json`` says which corpus the folder belongs to and refuses any other. ``jobs/`` holds
the scores of a fit, ``predictions/`` its predictions, ``spots/`` where the spots lie;
``results.parquet`` and ``results.csv`` are all rows together, written from the former.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.documents import Document, Sha256, read_document
from stbuild.corpus.durable import write_durable
from sttrain.errors import BadInputError, ConflictError, IntegrityError, Problem
from sttrain.evaluation import EvaluationSet

if TYPE_CHECKING:
    import pyarrow as pa

MARK: Final = "results.json"
FORMAT: Final = "sttrain/results"


class ResultsDocument(Document):
    """``results.json``: the corpus that all results of a folder belong to."""

    format: Literal["sttrain/results"] = FORMAT
    version: Literal[1] = 1
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
    split: str
    split_digest: str
    transductive: bool
    seed: int
    slice: str | None
    """Slug; none for the scores pooled over all slices."""
    n_train: int
    n_test: int
    n_classes: int
    """Classes trained on."""
    rare: str
    """Classes too small to train on, separated by semicolons; they are scored."""
    accuracy: float
    ari_pred: float
    macro_f1: float
    balanced_accuracy: float
    settings: str
    """Settings of the head, JSON."""
    versions: str
    """Versions of the software, JSON."""


_TYPES: Final[Mapping[str, str]] = {
    **{field.name: "string" for field in fields(ResultRow)},
    **dict.fromkeys(("epochs", "seed", "n_train", "n_test", "n_classes"), "int64"),
    **dict.fromkeys(("accuracy", "ari_pred", "macro_f1", "balanced_accuracy"), "float64"),
    "transductive": "bool_",
}


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

    def finished(self) -> set[str]:
        """Return the digests of the jobs whose scores and predictions are stored."""
        jobs, predictions = (
            {path.stem.rpartition("_")[2] for path in (self.root / folder).glob("*.parquet")}
            for folder in ("jobs", "predictions")
        )
        return jobs & predictions

    def rows(self) -> list[ResultRow]:
        """Read all rows, sorted by method, head, split, seed and slice.

        Raises
        ------
        BadInputError
            Rows of another corpus among them.
        IntegrityError
            A file that is damaged.
        """
        found: list[ResultRow] = []
        for path in sorted((self.root / "jobs").glob("*.parquet")):
            table = _read_table(path, set(_TYPES))
            found += [ResultRow(**values) for values in table.select(list(_TYPES)).to_pylist()]
        others = {row.corpus_id for row in found} - {self.document.corpus_id}
        if others:
            what = f"rows of corpus {min(others)[:12]}, expected {self.document.corpus_id[:12]}"
            fix = "keep the results of each corpus in a folder of its own"
            raise BadInputError(_problem("V10", self.root, what, fix))
        return sorted(
            found, key=lambda r: (r.method, r.head, r.split, r.seed, r.slice is not None, r.slice)
        )

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
        write_durable(self.root / "predictions" / name, _to_parquet(spots))
        write_durable(self.root / "jobs" / name, _to_parquet(_rows_table(rows)))

    def remove(self, rows: Iterable[ResultRow]) -> None:
        """Delete the files of the jobs of some rows; scores first."""
        for name in sorted({job_file(row) for row in rows}):
            for folder in ("jobs", "predictions"):
                (self.root / folder / name).unlink(missing_ok=True)

    def predictions(self, row: ResultRow) -> list[Predictions]:
        """Read the predictions of the fit that a row belongs to.

        Raises
        ------
        IntegrityError
            The file is missing or damaged.
        """
        path = self.root / "predictions" / job_file(row)
        table = _read_table(path, {"slice", "code", "predicted"})
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
        table = _read_table(self.root / "spots" / f"{slug}.parquet", columns)
        return SpotTable(
            barcodes=tuple(table.column("barcode").to_pylist()),
            xy=np.stack([table.column(axis).to_numpy() for axis in "xy"], axis=1),
            labels=tuple(table.column("label").to_pylist()),
        )

    def summarise(self) -> list[ResultRow]:
        """Write all rows together as ``results.parquet`` and ``results.csv`` and return them."""
        rows = self.rows()
        tables = {
            "results.parquet": _to_parquet(_rows_table(rows)),
            "results.csv": rows_csv(asdict(row) for row in rows),
        }
        for name, content in tables.items():
            path = self.root / name
            if not path.is_file() or path.read_bytes() != content:
                write_durable(path, content)
        return rows


def create_store(root: Path, data: EvaluationSet) -> ResultStore:
    """Open the results of a corpus, or start them.

    Raises
    ------
    ConflictError
        The folder holds results of another corpus, or something else.
    """
    wanted = ResultsDocument(corpus=data.corpus, corpus_id=data.corpus_id)
    mark = root / MARK
    if not mark.exists():
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            what = "not empty, and not a folder of results"
            raise ConflictError(_problem("V10", root, what, "choose another -o folder"))
        write_durable(mark, wanted.to_bytes())
    store = open_store(root)
    if store.document.corpus_id != wanted.corpus_id:
        what = (
            f"it holds results of corpus '{store.document.corpus}' "
            f"({store.document.corpus_id[:12]}), this one is {wanted.corpus_id[:12]}"
        )
        raise ConflictError(_problem("V10", root, what, "choose another -o folder"))
    return store


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
    return ResultStore(root, read_document(ResultsDocument, mark.read_bytes(), str(mark)))


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
        write_durable(path, _to_parquet(table))


def job_file(row: ResultRow) -> str:
    """Return the file name of the job of a row: readable, and unique by its digest."""
    return f"{row.method}_{head_slug(row.head)}_{row.split}_s{row.seed:03d}_{row.job}.parquet"


def head_slug(head: str) -> str:
    """Return a head's name as file names use it."""
    return "-".join("".join(c if c.isalnum() else " " for c in head.lower()).split())


def rows_csv(rows: Iterable[Mapping[str, object]]) -> bytes:
    """Return rows as CSV with a header, UTF-8, Unix line ends; nothing at all for no rows."""
    listed = list(rows)
    buffer = io.StringIO()
    if listed:
        writer = csv.DictWriter(buffer, list(listed[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(listed)
    return buffer.getvalue().encode()


def _rows_table(rows: Sequence[ResultRow]) -> "pa.Table":
    import pyarrow as pa

    return pa.table(
        {
            name: pa.array([getattr(row, name) for row in rows], getattr(pa, kind)())
            for name, kind in _TYPES.items()
        }
    )


def _to_parquet(table: "pa.Table") -> bytes:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _read_table(path: Path, columns: set[str]) -> Any:  # noqa: ANN401 - pyarrow ships no types
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(path.read_bytes()))
    except (pa.ArrowException, OSError) as error:
        what = f"unreadable: {str(error)[:120]}"
        raise IntegrityError(_problem("V20", path, what, _DAMAGED)) from error
    if missing := columns - set(table.column_names):
        what = f"columns missing: {', '.join(sorted(missing))}"
        raise IntegrityError(_problem("V20", path, what, _DAMAGED))
    return table


_DAMAGED: Final = "remove the file and run the same `sttrain probe` command again"


def _problem(code: str, path: Path, what: str, fix: str) -> Problem:
    return Problem(code=code, subject=f"results '{path.name}'", where=str(path), what=what, fix=fix)
