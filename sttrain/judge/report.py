"""From rows of results to tables: means over seeds, paired differences, files.

Nothing is computed that the rows do not hold; rendering is in :mod:`sttrain.judge.tables`, remarks
are in :mod:`sttrain.judge.remarks`, maps in :mod:`sttrain.judge.figures`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Final

from stbuild.corpus.durable import remove_dead, write_durable
from sttrain.errors import BadInputError, BadUsageError, Problem
from sttrain.judge.metrics import METRICS
from sttrain.judge.remarks import Fits, count_fits, find_units, report_remarks
from sttrain.judge.results import (
    Predictions,
    ResultRow,
    ResultStore,
    head_slug,
    open_store,
)
from sttrain.judge.rows import rows_csv

MEAN_OF_SLICES: Final = "ari_slices"
"""Mean over slices of each slice's own ``ari_pred``: a donor counts by the number of its slices."""
SHOWN: Final = ("accuracy", "ari_pred")
"""Metrics of the table, unless others are asked for."""
REFERENCES: Final = ("untrained", "raw")
"""What methods are compared with, where it is there."""
ALL_METRICS: Final = (*METRICS, MEAN_OF_SLICES)


@dataclass(frozen=True, kw_only=True, order=True)
class Column:
    """One column of a table."""

    split: str
    head: str
    metric: str


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Mean and sample standard deviation over seeds; no deviation of a single seed.

    Where a donor or a pair is held out, a seed is the number of the group.
    """

    mean: float
    sd: float | None
    n_seeds: int


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Mean over seeds of (method - reference) on the same split, head and seed (and slice)."""

    method: str
    reference: str
    split: str
    head: str
    metric: str
    mean: float
    se: float | None
    """Standard error of the mean over seeds; none of a single seed."""
    n_seeds: int


@dataclass(frozen=True, kw_only=True)
class Report:
    """All tables of a folder of results."""

    corpus: str
    corpus_id: str
    methods: tuple[str, ...]
    columns: tuple[Column, ...]
    cells: Mapping[tuple[str, Column], Cell]
    differences: tuple[Difference, ...]
    remarks: tuple[str, ...]
    units: Mapping[str, str]
    """What means are over, by split: ``seeds``, ``donors``, ``pairs`` or ``groups``."""
    fits: Mapping[tuple[str, str, str], Fits]
    """Fits by method, split and head."""

    def as_dict(self) -> dict[str, object]:
        """Return the report as JSON values."""
        return {
            "corpus": self.corpus,
            "corpus_id": self.corpus_id,
            "table": self.long_rows(),
            "differences": [asdict(difference) for difference in self.differences],
            "remarks": list(self.remarks),
        }

    def long_rows(self) -> list[dict[str, object]]:
        """Return one row per method and column."""
        return [
            {
                "method": method,
                **asdict(column),
                **asdict(self.cells[method, column]),
                **asdict(self.fits[method, column.split, column.head]),
            }
            for method in self.methods
            for column in self.columns
            if (method, column) in self.cells
        ]


def build_report(
    rows: Sequence[ResultRow],
    *,
    metrics: Sequence[str] = SHOWN,
    compare: Sequence[str] = (),
    against: Sequence[str] = (),
) -> Report:
    """Summarise rows.

    Parameters
    ----------
    rows
        Rows of one corpus.
    metrics
        Names among ``accuracy, ari_pred, macro_f1, balanced_accuracy, ari_slices``.
    compare
        Methods whose paired differences are wanted; none takes every embedding.
    against
        References; `REFERENCES`, where they are there, without it.

    Raises
    ------
    BadInputError
        No rows, or rows of several corpora.
    BadUsageError
        A metric or method that is not there.
    """
    _require_one_corpus(rows)
    methods = sorted({row.method: row for row in rows}.values(), key=_method_order)
    names = tuple(row.method for row in methods)
    require_known(metrics, ALL_METRICS, "metric")
    require_known([*compare, *against], names, "method")
    values = _scores(rows)
    pairs = sorted({(row.split, row.head) for row in rows})
    columns = tuple(
        Column(split=split, head=head, metric=metric) for split, head in pairs for metric in metrics
    )
    cells = {
        (method, column): _cell(found)
        for method in names
        for column in columns
        if (found := values.get((method, column)))
    }
    chosen = compare or [r.method for r in methods if r.source == "embedding"]
    differences = tuple(
        difference
        for method in chosen
        for reference in against or REFERENCES
        if reference in names and reference != method
        for column in columns
        if (difference := _difference(values, method, reference, column))
    )
    return Report(
        corpus=rows[0].corpus,
        corpus_id=rows[0].corpus_id,
        methods=names,
        columns=columns,
        cells=cells,
        differences=differences,
        remarks=tuple(report_remarks(rows, any_cell=bool(cells))),
        units=find_units(rows),
        fits=count_fits(rows),
    )


def write_report(
    source: Path,
    out: Path,
    report: Report,
    *,
    st_slice: str | None = None,
    seed: int | None = None,
    maps: bool = True,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Path]:
    """Write ``report.md``, ``table.csv``, ``differences.csv`` and the domain maps.

    Parameters
    ----------
    source
        Folder of results.
    out
        Folder of the report; made if needed, files of the same names are replaced.
    report
        What `build_report` returned.
    st_slice
        Slug of the slice that is drawn; none takes the one with the most labelled spots.
    seed
        Seed that is drawn; none takes the first.
    maps
        Whether maps are drawn; they need matplotlib.
    progress
        Called with (maps done, maps in all, name).

    Returns
    -------
    list
        The files, in the order of writing.

    Raises
    ------
    BadUsageError
        No such slice or seed.
    PlatformError
        Maps are wanted and matplotlib is not there.
    """
    from sttrain.judge.tables import report_markdown

    store = open_store(source)
    pictures = draw_maps(store, store.rows(), report, st_slice, seed, progress) if maps else {}
    files = {
        **pictures,
        "table.csv": rows_csv(report.long_rows()),
        "differences.csv": rows_csv(asdict(difference) for difference in report.differences),
        "report.md": report_markdown(report, list(pictures)).encode(),
    }
    return write_files(out, files)


def write_files(out: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write files of a folder, made if needed, and return where they are."""
    for name, content in files.items():
        remove_dead(out, name)
        write_durable(out / name, content)
    return [out / name for name in files]


def draw_maps(
    store: ResultStore,
    rows: Sequence[ResultRow],
    report: Report,
    st_slice: str | None,
    seed: int | None,
    progress: Callable[[int, int, str], None] | None,
) -> dict[str, bytes]:
    """Return one picture per split and head: the labels beside every method's predictions.

    `rows` are those of the store that are drawn from; `report` is of them too.

    Raises
    ------
    BadUsageError
        No such slice or seed.
    PlatformError
        matplotlib is not installed.
    """
    from sttrain.judge.figures import Panel, domain_map

    slugs = sorted({row.slice for row in rows if row.slice is not None})
    if st_slice is None:
        st_slice = max(slugs, key=lambda slug: sum(x is not None for x in store.spots(slug).labels))
    require_known([st_slice], slugs, "slice")
    if seed is not None:
        require_known([str(seed)], [str(s) for s in sorted({row.seed for row in rows})], "seed")
    spots = store.spots(st_slice)
    pairs = sorted({(column.split, column.head) for column in report.columns})
    pictures: dict[str, bytes] = {}
    for number, (split, head) in enumerate(pairs):
        chosen = _rows_to_draw(rows, split, head, st_slice, seed)
        panels: list[Panel] = []
        for method in (m for m in report.methods if m in chosen):
            found = _of_slice(store.predictions(chosen[method]), st_slice)
            ari = chosen[method].ari_pred
            shown = "undefined" if ari is None else f"{ari:.3f}"
            score = f"acc {chosen[method].accuracy:.3f}, ARI {shown}"
            panels.append(Panel(title=method, note=score, spots=found))
        if not panels:
            continue
        drawn = next(iter(chosen.values())).seed
        name = f"map_{st_slice}_{split}_{head_slug(head)}_s{drawn:03d}.png"
        if progress:
            progress(number, len(pairs), name)
        title = f"{st_slice}, {split}, {head}, seed {drawn}"
        pictures[name] = domain_map(spots, panels, title)
    return pictures


def _rows_to_draw(
    rows: Iterable[ResultRow], split: str, head: str, st_slice: str, seed: int | None
) -> dict[str, ResultRow]:
    """Return by method the rows that score a slice: of the seed, or of its first draw or fold.

    Where a donor or a pair is held out, the seed numbers the folds, and a slice is scored in its
    own alone.
    """
    wanted = (split, head, st_slice, 0)
    found = [row for row in rows if (row.split, row.head, row.slice, row.repeat) == wanted]
    first = min((row.seed for row in found), default=0) if seed is None else seed
    return {row.method: row for row in found if row.seed == first}


def _of_slice(found: Iterable[Predictions], slug: str) -> Predictions:
    return next(predictions for predictions in found if predictions.slice == slug)


Scores = Mapping[tuple[int, str | None], float]
"""Means over repeats, by seed and slice; the slice is none for scores that are pooled."""


def _scores(rows: Iterable[ResultRow]) -> dict[tuple[str, Column], Scores]:
    """Return the defined scores of every method and column, repeats averaged."""
    found: dict[tuple[str, Column], dict[tuple[int, str | None], list[float]]] = {}
    for row in rows:
        scores = (
            {metric: getattr(row, metric) for metric in METRICS}
            if row.slice is None
            else {MEAN_OF_SLICES: row.ari_pred}
        )
        for metric, score in scores.items():
            if score is not None:
                column = Column(split=row.split, head=row.head, metric=metric)
                drawn = found.setdefault((row.method, column), {})
                drawn.setdefault((row.seed, row.slice), []).append(score)
    return {
        key: {place: fmean(repeats) for place, repeats in drawn.items()}
        for key, drawn in found.items()
    }


def _by_seed(scores: Scores) -> list[list[float]]:
    """Return the scores of each seed: one that is pooled, or one a slice."""
    found: dict[int, list[float]] = {}
    for (seed, _), score in scores.items():
        found.setdefault(seed, []).append(score)
    return list(found.values())


def _cell(scores: Scores) -> Cell:
    """Return the mean of all scores, so that every slice counts alike, and the seeds' deviation."""
    means = [fmean(of) for of in _by_seed(scores)]
    sd = stdev(means) if len(means) > 1 else None
    return Cell(mean=fmean(scores.values()), sd=sd, n_seeds=len(means))


def _standard_error(scores: Scores) -> float | None:
    """Return the error of the mean of all scores over seeds, which may have different numbers.

    With as many scores in each it is the seeds' sample deviation over the root of their number.
    """
    seeds, mean = _by_seed(scores), fmean(scores.values())
    if len(seeds) < 2:
        return None
    squares = sum((len(of) * (fmean(of) - mean)) ** 2 for of in seeds)
    return sqrt(squares * len(seeds) / (len(seeds) - 1)) / len(scores)


def _difference(
    values: Mapping[tuple[str, Column], Scores], method: str, reference: str, column: Column
) -> Difference | None:
    mine, theirs = values.get((method, column), {}), values.get((reference, column), {})
    paired = {place: score - theirs[place] for place, score in mine.items() if place in theirs}
    if not paired:
        return None
    cell = _cell(paired)
    return Difference(
        method=method,
        reference=reference,
        mean=cell.mean,
        se=_standard_error(paired),
        n_seeds=cell.n_seeds,
        **asdict(column),
    )


def _method_order(row: ResultRow) -> tuple[int, int, list[int], str]:
    """Order methods from the simplest control to the embeddings, untrained ones first."""
    prefixes = ("majority", "libsize", "coords", "raw", "pca", "nbmean", "banksy")
    numbers = [int(n) for n in "".join(c if c.isdigit() else " " for c in row.method).split()]
    if row.source == "embedding":
        return len(prefixes), int(row.method != "untrained"), [], row.method
    known = (i for i, prefix in enumerate(prefixes) if row.method.startswith(prefix))
    place = next(known, len(prefixes))
    return place, 0, numbers, row.method


def _require_one_corpus(rows: Sequence[ResultRow]) -> None:
    corpora = sorted({row.corpus_id[:12] for row in rows})
    if len(corpora) == 1:
        return
    what = f"rows of corpora {', '.join(corpora)}" if corpora else "no rows"
    fix = "run `sttrain probe` first; keep each corpus in a folder of its own"
    raise BadInputError(
        Problem(code="V10" if corpora else "V20", subject="results", what=what, fix=fix)
    )


def require_known(asked: Sequence[str], known: Sequence[str], kind: str) -> None:
    """Refuse names of a kind that the results do not hold.

    Raises
    ------
    BadUsageError
        All of them at once.
    """
    problems = [
        Problem(
            code="V03",
            subject=f"{kind} '{name}'",
            what=f"the results hold no {kind} of this name",
            fix=f"choose among {', '.join(known)}",
        )
        for name in asked
        if name not in known
    ]
    if problems:
        raise BadUsageError(*problems)
