"""From the rows of a suite to what is reported: cells, ranks, differences, remarks.

A cell is the mean and sample standard deviation over seeds of the scores that are pooled over
slices. Ranks and differences are over donors (or slices), each the mean of its slices, seeds and
repeats: `sttrain.bench.inference` says why.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, log2
from pathlib import Path
from statistics import fmean, stdev
from typing import Final

from sttrain.bench.inference import (
    FEWEST,
    LEVEL,
    Comparison,
    Rank,
    Values,
    compare,
    holm,
    rank_methods,
)
from sttrain.bench.printed import AVERAGE, Printed
from sttrain.bench.rows import CLUSTERING, DETECTION, LOWER_IS_BETTER, BenchRow
from sttrain.bench.run import BenchDocument
from sttrain.bench.suite import untrained_name
from sttrain.errors import BadInputError, Problem
from sttrain.judge.metrics import METRICS
from sttrain.judge.remarks import class_remarks, seen_remarks, solver_remarks
from sttrain.judge.report import Cell, require_known
from sttrain.judge.rows import DAMAGED, RowTable
from sttrain.seals import read_sealed

AGAINST: Final = ("raw", "nbmean18-pca50", "coords")
"""What models are compared with, beside their own first weights, where it is there."""


@dataclass(frozen=True, kw_only=True, order=True)
class Column:
    """What one column of a table shows."""

    data: str
    task: str
    split: str
    head: str
    metric: str


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One method in one column."""

    cell: Cell
    rank: Rank
    n_units: int
    """Donors or slices that the rank is over."""
    printed: Printed | None
    """The paper's number, where the data set is the same."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A model against a reference."""

    column: Column
    method: str
    reference: str
    found: Comparison
    adjusted: float | None
    """p value after Holm's correction over all differences of the data set."""

    @property
    def verdict(self) -> str:
        """``better``, ``worse``, or ``open`` where the data does not decide."""
        if self.adjusted is None or self.adjusted > LEVEL:
            return "open"
        return "better" if (self.found.mean > 0) != is_lower_better(self.column) else "worse"


@dataclass(frozen=True, kw_only=True)
class Summary:
    """All that is reported of a suite."""

    document: BenchDocument
    jobs: frozenset[str]
    """Digests of the jobs whose rows it is of."""
    methods: tuple[str, ...]
    columns: tuple[Column, ...]
    entries: Mapping[tuple[str, Column], Entry]
    differences: tuple[Difference, ...]
    averages: tuple[Printed, ...]
    """Printed means over all data sets; shown only where all of them are there."""
    remarks: tuple[str, ...]


def read_bench(root: Path, suite: str) -> tuple[BenchDocument, list[BenchRow]]:
    """Read what `sttrain bench` left of a suite.

    Raises
    ------
    BadInputError
        Nothing of this name stands there, or rows of a corpus that it does not name.
    IntegrityError
        Damaged files.
    """
    mark = root / f"{suite}.json"
    if not mark.is_file():
        found = ", ".join(path.stem for path in sorted(root.glob("*.parquet"))) or "none"
        what = f"no results of suite '{suite}' stand there"
        raise BadInputError(_problem(root, "V20", what, f"suites there: {found}"))
    document = read_sealed(BenchDocument, mark, _problem(mark, "V20", "", DAMAGED))
    rows = RowTable(root, BenchRow, "").read(root / f"{suite}.parquet")
    known = {name: record.corpus_id for name, record in document.data.items()}
    others = sorted({r.corpus_id[:12] for r in rows if known.get(r.data) != r.corpus_id})
    if others:
        what = f"rows of corpora that it does not name: {', '.join(others)}"
        raise BadInputError(_problem(root, "V10", what, "run the suite again"))
    return document, rows


def summarise(
    document: BenchDocument,
    rows: Sequence[BenchRow],
    *,
    metrics: Sequence[str] = (),
    compared: Sequence[str] = (),
    against: Sequence[str] = (),
) -> Summary:
    """Summarise the rows of a suite.

    Parameters
    ----------
    document, rows
        As `read_bench` returns them.
    metrics
        Metrics of classifiers; those of the suite without it.
    compared
        Methods whose differences are shown; every model and all vectors without it.
    against
        References; `AGAINST`, where they are there, without it.

    Raises
    ------
    BadInputError
        No rows.
    BadUsageError
        A metric or method that is not there.
    """
    if not rows:
        what, fix = "it has no rows", "give the suite what it skipped, and run it again"
        raise BadInputError(_problem(Path(document.suite.name), "V20", what, fix))
    shown = tuple(metrics) or document.suite.metrics
    methods = _ordered(document, {row.method: row.source for row in rows})
    require_known(shown, METRICS, "metric")
    require_known([*compared, *against], methods, "method")
    scores = _scores(rows, shown)
    columns = tuple(sorted(scores, key=lambda c: (c.data, c.task, c.split, c.head)))
    same = {n for n, record in document.data.items() if record.corpus == n}
    printed = [p for p in document.printed if p.data in same]
    entries: dict[tuple[str, Column], Entry] = {}
    for column in columns:
        units = {m: of for m in methods if (of := scores[column].units.get(m))}
        ranks = rank_methods(units, lower_is_better=is_lower_better(column))
        for method, by_seed in scores[column].seeds.items():
            place = (method, column.split, column.head, column.metric)
            beside = (p for p in printed if p.data == column.data and p.is_of(*place))
            entries[method, column] = Entry(
                cell=_cell(list(by_seed.values())),
                rank=ranks.get(method, Rank(first=1, last=len(methods))),
                n_units=len(units.get(method, {})),
                printed=next(beside, None),
            )
    models = compared or [m for m in methods if _is_model(rows, m)]
    differences = _differences(scores, columns, models, _references(document, against or AGAINST))
    return Summary(
        document=document,
        jobs=frozenset(row.job for row in rows),
        methods=methods,
        columns=columns,
        entries=entries,
        differences=differences,
        averages=tuple(p for p in document.printed if p.data == AVERAGE),
        remarks=(
            *_remarks(document, rows, entries, same),
            *_interval_remarks(differences),
        ),
    )


def is_lower_better(column: Column) -> bool:
    """Return whether the least value of a column is the best."""
    return column.metric in LOWER_IS_BETTER


@dataclass(frozen=True)
class _Scores:
    """Scores of one column by method."""

    seeds: dict[str, dict[int, float]]
    """Mean of each seed."""
    units: dict[str, Values]
    """Mean of each donor or slice."""


def _scores(rows: Iterable[BenchRow], metrics: Sequence[str]) -> dict[Column, _Scores]:
    """Collect the defined scores of rows; undefined ones are left out and counted in remarks."""
    seeds: dict[Column, dict[str, dict[int, list[float]]]] = {}
    units: dict[Column, dict[str, dict[str, list[float]]]] = {}
    for row in rows:
        wanted = _metrics_of(row.task, metrics)
        pooled = row.slice is None or row.task != DETECTION
        for metric in wanted:
            value = getattr(row, metric)
            if value is None:
                continue
            column = Column(
                data=row.data, task=row.task, split=row.split, head=row.head, metric=metric
            )
            if pooled:
                by_seed = seeds.setdefault(column, {}).setdefault(row.method, {})
                # Repetitions of a hidden square are draws, as seeds are elsewhere.
                draw = row.seed if row.task in (DETECTION, CLUSTERING) else row.repeat
                by_seed.setdefault(draw, []).append(value)
            if row.group is not None:
                by_unit = units.setdefault(column, {}).setdefault(row.method, {})
                by_unit.setdefault(row.group, []).append(value)
    return {
        column: _Scores(
            {m: {s: fmean(v) for s, v in of.items()} for m, of in by_method.items()},
            {m: {u: fmean(v) for u, v in of.items()} for m, of in units.get(column, {}).items()},
        )
        for column, by_method in seeds.items()
    }


def _metrics_of(task: str, metrics: Sequence[str]) -> Sequence[str]:
    if task == DETECTION:
        return metrics
    return ("ari", "nmi") if task == CLUSTERING else ("mse", "mae", "pearson_gene")


def _differences(
    scores: Mapping[Column, _Scores],
    columns: Sequence[Column],
    models: Sequence[str],
    references: Mapping[str, Sequence[str]],
) -> tuple[Difference, ...]:
    """Compare models with references; all of a data set are one family for Holm."""
    found: list[tuple[Column, str, str, Comparison]] = []
    for column in columns:
        units = scores[column].units
        for model in models:
            for reference in references.get(model, references[""]):
                if reference != model and model in units and reference in units:
                    comparison = compare(units[model], units[reference])
                    if comparison is not None:
                        found.append((column, model, reference, comparison))
    adjusted: dict[int, float | None] = {}
    for data in dict.fromkeys(column.data for column in columns):
        mine = [i for i, entry in enumerate(found) if entry[0].data == data]
        adjusted |= dict(zip(mine, holm([found[i][3].p for i in mine]), strict=True))
    return tuple(
        Difference(
            column=column, method=model, reference=reference, found=comparison, adjusted=adjusted[i]
        )
        for i, (column, model, reference, comparison) in enumerate(found)
    )


def _references(document: BenchDocument, against: Sequence[str]) -> dict[str, Sequence[str]]:
    """Return the references of every model; under the empty name, those of all others."""
    found: dict[str, Sequence[str]] = {"": tuple(against)}
    for checkpoint in document.suite.checkpoints:
        if checkpoint.untrained:
            found[checkpoint.name] = (untrained_name(checkpoint), *against)
    return found


def _ordered(document: BenchDocument, sources: Mapping[str, str]) -> tuple[str, ...]:
    """Return methods in the order of the suite, others behind by name."""
    suite = document.suite
    wanted = [*suite.methods, *suite.published, *suite.embeddings]
    for checkpoint in suite.checkpoints:
        wanted += [untrained_name(checkpoint), checkpoint.name]
    place = {name: i for i, name in enumerate(wanted)}
    return tuple(sorted(sources, key=lambda name: (place.get(name, len(place)), name)))


def _is_model(rows: Sequence[BenchRow], method: str) -> bool:
    return any(
        row.method == method and (row.source == "embedding" or row.checkpoint is not None)
        for row in rows
    )


def _remarks(
    document: BenchDocument,
    rows: Sequence[BenchRow],
    entries: Mapping[tuple[str, Column], Entry],
    same: set[str],
) -> Iterable[str]:
    yield (
        "Cells: mean ± standard deviation over seeds (over donors or pairs, where these are held "
        "out), pooled over slices; in brackets the ranks "
        f"that paired comparisons over donors (or slices) leave open at {100 * LEVEL:.0f} %, "
        "Holm-adjusted "
        "over all pairs of the column."
    )
    if not entries:
        yield "None of the metrics that are shown is defined here."
    units = sorted({entry.n_units for entry in entries.values()})
    n_methods = max(Counter(column for _, column in entries).values(), default=0)
    needed = ceil(log2(n_methods * (n_methods - 1) / LEVEL)) if n_methods > 1 else 0
    if units and units[0] < needed:
        yield (
            f"The test of signs cannot give less than 2 / 2^U for U donors or slices: with "
            f"{n_methods} methods in a column no rank is decided below {needed} of them; here are "
            f"{units[0]}{'' if units[0] == units[-1] else f' to {units[-1]}'}."
        )
    for name, record in document.data.items():
        nothing = "" if any(row.data == name for row in rows) else "; nothing was judged on it"
        yield f"{name}: corpus {record.corpus}, {record.corpus_id[:12]}{nothing}."
        if document.printed and name not in same:
            yield (
                f"{name}: printed numbers are not shown, as the corpus is named '{record.corpus}', "
                "not as the sheet of the paper's data set."
            )
    if document.skipped:
        yield f"{len(document.skipped)} things that the suite asks for were skipped:"
        yield from document.skipped
    yield from _detection_remarks(document, [row for row in rows if row.task == DETECTION])
    for note in dict.fromkeys(p for p in document.printed if p.note):
        yield f"Printed {note.table}, {note.row}, {note.data}, {note.metric}: {note.note}."


def _detection_remarks(document: BenchDocument, rows: Sequence[BenchRow]) -> Iterable[str]:
    """Say of classifiers what the report of one folder of results says of them."""
    for name in document.data:
        mine = [row for row in rows if row.data == name]
        for line in (*seen_remarks(mine), *class_remarks(mine)):
            yield f"{name}: {line}"
    if undefined := sum(row.ari_pred is None for row in rows):
        yield f"ari_pred is undefined where the scored spots have one class: {undefined:,} rows."
    yield from solver_remarks(rows)
    if epochs := sorted({row.epochs for row in rows if row.epochs is not None}):
        yield f"The MLP was trained for {', '.join(map(str, epochs))} epochs (800 in the paper)."


def _interval_remarks(differences: Sequence[Difference]) -> Iterable[str]:
    few = sorted({d.found.n_units for d in differences if d.found.n_units < FEWEST})
    if few:
        yield (
            f"No confidence interval of a difference is shown below {FEWEST} donors or slices "
            f"(here {', '.join(map(str, few))}): resampling U of them covers the mean with a "
            "probability of 1 - 2 / 2^U at most."
        )


def _cell(values: Sequence[float]) -> Cell:
    sd = stdev(values) if len(values) > 1 else None
    return Cell(mean=fmean(values), sd=sd, n_seeds=len(values))


def _problem(path: Path, code: str, what: str, fix: str) -> Problem:
    return Problem(code=code, subject=f"results '{path.name}'", where=str(path), what=what, fix=fix)
