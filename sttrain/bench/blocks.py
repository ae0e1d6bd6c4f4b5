"""A summary as titled tables of plain text, which Markdown, HTML and CSV are written from."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from statistics import fmean

from sttrain.bench.inference import FEWEST, LEVEL
from sttrain.bench.printed import Printed
from sttrain.bench.summary import Difference, Entry, Summary
from sttrain.judge.tables import format_cell

NOTHING = "-"
_DIFFERENCES = (
    "Model minus reference, mean over donors (or slices) with its 95 % confidence interval, not "
    f"adjusted, from {FEWEST} of them on; p of the test of signs, Holm-adjusted over all "
    "differences of the data set. Open: "
    f"the data does not decide at {100 * LEVEL:.0f} %."
)


@dataclass(frozen=True, kw_only=True)
class Block:
    """One table of plain text; nothing is escaped yet."""

    title: str
    note: str = ""
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def report_blocks(summary: Summary) -> list[Block]:
    """Return the tables of a report: the paper's layout, one for each split, the differences."""
    return [*_paper_layout(summary), *_tables(summary), *_difference_tables(summary)]


def table_rows(summary: Summary) -> list[dict[str, object]]:
    """Return one row for each method and column, for ``table.csv``."""
    return [
        {
            **asdict(column),
            "method": method,
            **asdict(entry.cell),
            "first_rank": entry.rank.first,
            "last_rank": entry.rank.last,
            "n_units": entry.n_units,
            "printed": None if entry.printed is None else entry.printed.value,
            "note": "" if entry.printed is None else entry.printed.note,
        }
        for column in summary.columns
        for method in summary.methods
        if (entry := summary.entries.get((method, column)))
    ]


def difference_rows(summary: Summary) -> list[dict[str, object]]:
    """Return one row for each difference, for ``differences.csv``."""
    return [
        {
            **asdict(d.column),
            "method": d.method,
            "reference": d.reference,
            **asdict(d.found),
            "p_adjusted": d.adjusted,
            "verdict": d.verdict,
        }
        for d in summary.differences
    ]


def _tables(summary: Summary) -> Iterator[Block]:
    for (data, task, split), group in groupby(
        summary.columns, key=lambda c: (c.data, c.task, c.split)
    ):
        columns = list(group)
        rows = [
            (method, *(_shown(summary.entries.get((method, c))) for c in columns))
            for method in summary.methods
            if any((method, column) in summary.entries for column in columns)
        ]
        yield Block(
            title=f"{data}: {task}, {split}",
            headers=("method", *(f"{c.head} {c.metric}".strip() for c in columns)),
            rows=tuple(rows),
        )


def _difference_tables(summary: Summary) -> Iterator[Block]:
    for data, group in groupby(summary.differences, key=lambda d: d.column.data):
        yield Block(
            title=f"{data}: differences",
            note=_DIFFERENCES,
            headers=(
                "method", "against", "split", "head", "metric", "difference", "units", "p", "",
            ),
            rows=tuple(_difference(d) for d in group),
        )  # fmt: skip


def _difference(d: Difference) -> tuple[str, ...]:
    interval = "" if d.found.low is None else f" [{d.found.low:+.3f}, {d.found.high:+.3f}]"
    p = NOTHING if d.adjusted is None else f"{d.adjusted:.3f}"
    return (
        d.method, d.reference, d.column.split, d.column.head, d.column.metric,
        f"{d.found.mean:+.3f}{interval}", str(d.found.n_units), p, d.verdict,
    )  # fmt: skip


def _paper_layout(summary: Summary) -> Iterator[Block]:
    """Yield the paper's table, ours / printed, for the data sets that are the same."""
    table = summary.document.suite.table
    same = [n for n, record in summary.document.data.items() if record.corpus == n]
    printed = [p for p in summary.document.printed if p.data in same]
    if table is None or not printed:
        return
    columns = list(dict.fromkeys((p.data, p.size, p.metric) for p in printed))
    complete = len(same) == len(summary.document.suite.data)
    averages = [(p.size, p.metric) for p in summary.averages] if complete else []
    averages = list(dict.fromkeys(averages))
    rows = []
    for method in dict.fromkeys(p.method for p in printed):
        found = {(p.data, p.size, p.metric): p for p in printed if p.method == method}
        cells = [_beside(summary, method, found.get(key)) for key in columns]
        row = next(iter(found.values())).row
        for size, metric in averages:
            of_data = {p.data: p for p in found.values() if (p.size, p.metric) == (size, metric)}
            cells.append(_average(summary, method, size, metric, of_data))
        rows.append((f"{method} ({row})", *cells))
    headers = [" ".join(part for part in key if part) for key in columns]
    headers += [f"average {metric}" for _, metric in averages]
    yield Block(
        title=f"{table.replace('table', 'Table ')} of the paper",
        note="Ours / as printed. Numbers that are not here have no model or data set.",
        headers=("method", *headers),
        rows=tuple(rows),
    )


def _beside(summary: Summary, method: str, printed: Printed | None) -> str:
    return NOTHING if printed is None else _pair(_ours(summary, method, printed), printed)


def _average(
    summary: Summary, method: str, size: str, metric: str, of_data: Mapping[str, Printed]
) -> str:
    """Return the mean of our cells over all data sets, if none is missing, beside the printed."""
    wanted = [p for p in summary.averages if (p.method, p.size, p.metric) == (method, size, metric)]
    if not wanted:
        return NOTHING
    ours = [_ours(summary, method, of_data.get(d.name)) for d in summary.document.suite.data]
    known = [mean for mean in ours if mean is not None]
    return _pair(fmean(known) if len(known) == len(ours) else None, wanted[0])


def _ours(summary: Summary, method: str, printed: Printed | None) -> float | None:
    """Return our number where a printed one stands."""
    if printed is None:
        return None
    ours = (
        entry.cell.mean
        for (name, _), entry in summary.entries.items()
        if name == method and entry.printed == printed
    )
    return next(ours, None)


def _pair(ours: float | None, printed: Printed) -> str:
    star = "*" if printed.note else ""
    return f"{NOTHING if ours is None else format(ours, '.3f')} / {printed.value:.3f}{star}"


def _shown(entry: Entry | None) -> str:
    if entry is None:
        return NOTHING
    printed = "" if entry.printed is None else f" paper {entry.printed.value:.3f}"
    return f"{format_cell(entry.cell)} ({entry.rank}){printed}"
