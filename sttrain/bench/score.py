"""Score predictions that somebody submits: the scores are always our own.

A file says, for every judged spot of every seed of a split, one class name. Nothing is scored on a
part of the spots: whatever is missing, superfluous, twice there or unknown is counted and refused.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.footers import read_footer
from stbuild.corpus.jsonio import dump_canonical
from stbuild.corpus.reader import open_corpus
from stbuild.corpus.storage import read_file
from sttrain.embed.evaluation import EvaluationSet, read_evaluation_set
from sttrain.embed.splits import EvaluationSplit, Fold, read_split, require_usable
from sttrain.errors import BadInputError, BadUsageError, Problem
from sttrain.judge.exposure import UNKNOWN
from sttrain.judge.methods import NAME, is_taken
from sttrain.judge.metrics import score_predictions
from sttrain.judge.results import ResultRow
from sttrain.judge.rows import RowTable, read_table
from sttrain.train.environment import describe_versions

COLUMNS: Final = ("slice", "barcode", "split", "seed", "predicted")
HEAD: Final = "submitted"
"""What stands where other rows name their classifier."""
_LONGEST: Final = 10
"""Digits of a seed."""
_SHOWN: Final = 3
"""Examples in a message."""

_Key = tuple[str, str]
"""Slice and barcode."""


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A file of predictions, read but not compared with anything."""

    path: Path
    digest: str
    """SHA-256 of the file."""
    rows: Mapping[tuple[str, int], Sequence[tuple[_Key, str | None]]]
    """By split and seed: where, and which class; none where nothing is said."""


def score_file(
    path: Path, root: Path, *, name: str | None = None, seeds: int | None = None
) -> list[ResultRow]:
    """Score a file of predictions on an evaluation corpus.

    Parameters
    ----------
    path
        ``.parquet`` or ``.csv`` with the columns ``slice, barcode, split, seed, predicted``.
    root
        Evaluation corpus.
    name
        Name in tables; without it, that of the file.
    seeds
        The first so many seeds of every split of the file are expected; all without it.

    Returns
    -------
    list
        Rows as `sttrain probe` writes them, pooled and per slice, by split and seed.

    Raises
    ------
    BadUsageError
        Another suffix (V13), a name that is none (V15), an unknown split (V14).
    BadInputError
        Columns, values, classes or rows that do not fit, all of it at once, with counts.
    IntegrityError
        A file or a corpus that is damaged.
    """
    label = _slug(name if name is not None else path.stem, given=name is not None)
    submission = read_submission(path)
    corpus = open_corpus(root)
    data = read_evaluation_set(corpus)
    names = list(dict.fromkeys(split for split, _ in submission.rows))
    splits = [read_split(corpus, data, split, seeds) for split in names]
    require_usable(splits, 1)
    problems: list[Problem] = []
    rows: list[ResultRow] = []
    for split in splits:
        problems += _seed_problems(submission, split)
        for fold in split.folds:
            said = submission.rows.get((split.name, fold.seed), ())
            codes, found = _match(submission, data, split, fold, said)
            problems += found
            if codes is not None:
                rows += _score(label, submission, data, split, fold, codes)
    if problems:
        raise BadInputError(*problems)
    return rows


def read_submission(path: Path) -> Submission:
    """Read a file of predictions.

    Raises
    ------
    BadUsageError
        Neither ``.parquet`` nor ``.csv``: nothing that could hold a program is opened.
    BadInputError
        No such file, missing columns, seeds that are no numbers, no rows.
    IntegrityError
        A Parquet file that is damaged.
    """
    if path.suffix not in (".parquet", ".csv"):
        what = f"predictions are .parquet or .csv, not '{path.suffix}'"
        raise BadUsageError(_problem(path, "V13", what, f"columns: {', '.join(COLUMNS)}"))
    if not path.is_file():
        raise BadInputError(_problem(path, "V20", "no such file", "give a file of predictions"))
    raw = read_file(path)
    columns = _parquet(path, raw) if path.suffix == ".parquet" else _csv(path, raw)
    rows: dict[tuple[str, int], list[tuple[_Key, str | None]]] = {}
    bad = 0
    for st_slice, barcode, split, seed, predicted in zip(*columns.values(), strict=True):
        number = _seed(seed)
        if number is None or split is None:
            bad += 1
            continue
        value = predicted if isinstance(predicted, str) and predicted else None
        rows.setdefault((str(split), number), []).append(((str(st_slice), str(barcode)), value))
    if bad or not rows:
        what = (
            f"{bad:,} rows without a split or with a seed that is no number" if bad else "no rows"
        )
        raise BadInputError(_problem(path, "V04", what, f"columns: {', '.join(COLUMNS)}"))
    return Submission(path=path, digest=sha256(raw).hexdigest(), rows=rows)


def write_scores(rows: Sequence[ResultRow], out: Path) -> list[Path]:
    """Write scores as ``NAME-scores.parquet`` and ``NAME-scores.csv``."""
    stem = out / f"{rows[0].method}-scores"
    RowTable(out, ResultRow, rows[0].corpus_id).summarise(stem, rows)
    return [stem.with_suffix(".parquet"), stem.with_suffix(".csv")]


def _parquet(path: Path, raw: bytes) -> dict[str, list[Any]]:
    import pyarrow.parquet as pq

    try:
        read_footer(io.BytesIO(raw))  # pyarrow aborts the interpreter where this one raises
        known = set(pq.read_schema(io.BytesIO(raw)).names)
    except (OSError, ValueError):
        known = set(COLUMNS)  # The reader below says what is wrong with the file.
    _require_columns(path, known)
    table = read_table(path, set(COLUMNS))
    return {name: table.column(name).to_pylist() for name in COLUMNS}


def _csv(path: Path, raw: bytes) -> dict[str, list[Any]]:
    try:
        reader = csv.DictReader(io.StringIO(raw.decode("utf-8-sig"), newline=""), strict=True)
        listed = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        what = f"unreadable: {error}"
        raise BadInputError(_problem(path, "V20", what, "write UTF-8 CSV with a header")) from error
    header = list(reader.fieldnames or ())
    _require_columns(path, set(header))
    if twice := sorted({name for name in header if header.count(name) > 1}):
        what = f"columns that stand twice: {', '.join(twice)}"
        raise BadInputError(_problem(path, "V04", what, f"columns: {', '.join(COLUMNS)}"))
    if odd := [i for i, row in enumerate(listed, 2) if None in row or None in row.values()]:
        what = f"{len(odd):,} rows have more or fewer cells than the header (first: line {odd[0]})"
        raise BadInputError(_problem(path, "V04", what, "write every row whole"))
    return {name: [row[name] for row in listed] for name in COLUMNS}


def _require_columns(path: Path, known: set[str]) -> None:
    if missing := [name for name in COLUMNS if name not in known]:
        what = f"columns missing: {', '.join(missing)}"
        raise BadInputError(_problem(path, "V04", what, f"columns: {', '.join(COLUMNS)}"))


def _seed(value: object) -> int | None:
    if isinstance(value, bool) or value is None:
        return None
    text = str(value)
    return int(text) if text.isascii() and text.isdecimal() and len(text) < _LONGEST else None


def _seed_problems(submission: Submission, split: EvaluationSplit) -> Iterator[Problem]:
    """Yield what is wrong with the seeds of a split; seeds that are missing lack all their rows."""
    expected = {fold.seed for fold in split.folds}
    extra = sorted(
        seed for name, seed in submission.rows if name == split.name and seed not in expected
    )
    if extra:
        listed = ", ".join(map(str, extra[:10]))
        what = f"split '{split.name}': {len(extra):,} seeds that are not expected ({listed})"
        fix = "give the seeds of the split; `--seeds N` expects the first N of them"
        yield _problem(submission.path, "V01", what, fix)


def _match(
    submission: Submission,
    data: EvaluationSet,
    split: EvaluationSplit,
    fold: Fold,
    said: Sequence[tuple[_Key, str | None]],
) -> tuple[NDArray[np.int16] | None, list[Problem]]:
    """Return the predicted code of every judged spot, in their order, or what is wrong."""
    spots = [(slug, barcode) for slug in split.slugs for barcode in data.barcodes(slug)]
    judged = [spots[i] for i in np.flatnonzero(fold.test).tolist()]
    place = {key: i for i, key in enumerate(judged)}
    code = {label: i for i, label in enumerate(data.labels)}
    codes = np.full(len(judged), -1, np.int16)
    twice: list[_Key] = []
    extra: list[_Key] = []
    empty: list[_Key] = []
    unknown: list[str] = []
    seen: set[_Key] = set()
    for key, label in said:
        if key in seen:
            twice.append(key)
        elif key not in place:
            extra.append(key)
        elif label is None:
            empty.append(key)
        elif label not in code:
            unknown.append(label)
        else:
            codes[place[key]] = code[label]
        seen.add(key)
    missing = [key for key in judged if key not in seen]
    faults: list[tuple[str, str, Sequence[object]]] = [
        ("V01", "judged spots missing", missing),
        ("V01", "rows of spots that are not judged", extra),
        ("V01", "rows that stand twice", twice),
        ("V02", "rows without a class (empty, NaN or no text)", empty),
        ("V06", "rows of classes that the corpus does not have", sorted(set(unknown))),
    ]
    counts = [len(missing), len(extra), len(twice), len(empty), len(unknown)]
    where = f"split '{split.name}', seed {fold.seed}"
    fix = "give every judged spot (code E of the split) one row, with a class of the corpus"
    problems = [
        _problem(
            submission.path, number, f"{where}: {count:,} {what} (first: {_listed(examples)})", fix
        )
        for (number, what, examples), count in zip(faults, counts, strict=True)
        if count
    ]
    return (None if problems else codes), problems


def _score(
    method: str,
    submission: Submission,
    data: EvaluationSet,
    split: EvaluationSplit,
    fold: Fold,
    codes: NDArray[np.int16],
) -> Iterator[ResultRow]:
    test = np.flatnonzero(fold.test)
    predicted = np.full(fold.codes.size, -1, np.int16)
    predicted[test] = codes
    train = split.training_spots(fold)
    known = np.unique(split.labels[train])
    for slug in (None, *split.slugs):
        inside = np.zeros(fold.codes.size, np.bool_)
        inside[np.s_[:] if slug is None else split.spots_of(slug)] = True
        chosen = fold.test & inside
        if not chosen.any():
            continue
        truth = split.labels[chosen]
        absent = np.setdiff1d(truth, known).tolist()
        yield ResultRow(
            job=submission.digest[:16],
            corpus=data.corpus,
            corpus_id=data.corpus_id,
            method=method,
            source="predictions",
            source_digest=submission.digest,
            checkpoint=None,
            head=HEAD,
            epochs=None,
            converged=None,
            split=split.name,
            split_digest=split.digest,
            transductive=split.transductive,
            seen=UNKNOWN,
            held_out=fold.held_out,
            seed=fold.seed,
            repeat=0,
            slice=slug,
            n_train=int(inside[train].sum()),
            n_test=int(chosen.sum()),
            n_classes=int(known.size),
            rare="; ".join(data.labels[label] for label in split.rare),
            absent="; ".join(data.labels[label] for label in absent),
            settings=dump_canonical({"head": HEAD}).decode(),
            versions=describe_versions(),
            **asdict(score_predictions(truth, predicted[chosen])),
        )


def _slug(text: str, *, given: bool) -> str:
    """Return a name of tables and files from a name, or from that of a file.

    Raises
    ------
    BadUsageError
        A name that is given and holds other letters, or that of a control.
    """
    name = text
    if not given:
        kept = "".join(c if c.isascii() and c.isalnum() else " " for c in text.lower())
        name = "-".join(kept.split())[:40] or "predictions"
        name = f"submitted-{name}"[:40] if is_taken(name) else name
    if not NAME.fullmatch(name) or is_taken(name):
        what = "a name holds lower-case letters, digits and hyphens, and is not that of a control"
        raise BadUsageError(
            Problem(code="V15", subject=f"--name {name}", what=what, fix="rename it")
        )
    return name


def _listed(examples: Sequence[object]) -> str:
    shown = [" ".join(e) if isinstance(e, tuple) else str(e) for e in examples[:_SHOWN]]
    return ", ".join(text[:60] for text in shown)


def _problem(path: Path, code: str, what: str, fix: str) -> Problem:
    subject = f"predictions '{path.name}'"
    return Problem(code=code, subject=subject, where=str(path), what=what, fix=fix)
