"""Rows of domains and of filled regions as a short table: means over everything else."""

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sttrain.errors import printable

if TYPE_CHECKING:
    from rich.table import Table


def mean_rows(
    rows: Sequence[object], keys: Sequence[str], metrics: Sequence[str]
) -> list[dict[str, Any]]:
    """Return one entry for each combination of the keys, in the order of the rows.

    Parameters
    ----------
    rows
        Dataclasses that have these fields.
    keys
        Fields that make an entry.
    metrics
        Fields that are averaged over the rows of an entry; undefined ones are left out, and where
        nothing is left the mean is none.
    """
    groups: dict[tuple[Any, ...], list[object]] = {}
    for row in rows:
        groups.setdefault(tuple(getattr(row, key) for key in keys), []).append(row)
    return [
        dict(zip(keys, entry, strict=True))
        | {metric: _mean([getattr(row, metric) for row in found]) for metric in metrics}
        | {"rows": len(found)}
        for entry, found in groups.items()
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return fmean(defined) if defined else None


def means_table(means: Sequence[dict[str, Any]]) -> "Table":
    """Return the entries of `mean_rows` as a table for the terminal."""
    from rich.markup import escape
    from rich.table import Table

    table = Table()
    for name in means[0] if means else ():
        table.add_column(name, no_wrap=True)
    for entry in means:
        table.add_row(*(escape(printable(_shown(value))) for value in entry.values()))
    return table


def _shown(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
