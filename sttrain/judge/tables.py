"""Reports as text: tables for the terminal and Markdown.

Every name that came from outside is escaped: in Markdown, and in the terminal's markup.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from sttrain.errors import printable
from sttrain.judge.remarks import SEEDS
from sttrain.judge.report import Cell, Column, Difference, Report

if TYPE_CHECKING:
    from rich.table import Table


def terminal_tables(report: Report) -> "list[Table]":
    """Return one table per split, methods down, head and metric across, then the differences."""
    from rich.markup import escape
    from rich.table import Table

    tables: list[Table] = []
    for split, group in groupby(report.columns, key=lambda column: column.split):
        columns = list(group)
        table = Table(title=f"{escape(report.corpus)}: {escape(split)}", title_justify="left")
        table.add_column("method", no_wrap=True)
        for column in columns:
            header = f"{escape(column.head)}\n{column.metric}"
            table.add_column(header, justify="right", no_wrap=True)
        for method in report.methods:
            cells = [_shown(report, method, column) for column in columns]
            table.add_row(escape(printable(method)), *cells)
        tables.append(table)
    if report.differences:
        tables.append(_difference_table(report.differences))
    return tables


def _difference_table(differences: Sequence[Difference]) -> "Table":
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="paired differences, mean and standard error", title_justify="left")
    for header in _DIFFERENCE_HEADERS:
        table.add_column(header)
    table.add_column("difference", justify="right", no_wrap=True)
    for d in differences:
        names = (d.method, d.reference, d.split, d.head, d.metric)
        table.add_row(*(escape(printable(name)) for name in names), format_difference(d))
    return table


def report_markdown(report: Report, pictures: Sequence[str]) -> str:
    """Return the report as Markdown: table, remarks, differences, maps."""
    lines = [
        f"# Probes on {escape_markdown(report.corpus)}",
        "",
        f"Corpus `{report.corpus_id}`.",
        "",
    ]
    headers = ["method", *(_header(column) for column in report.columns)]
    lines += [markdown_row(headers), markdown_row(["---", *["---:"] * len(report.columns)])]
    for method in report.methods:
        cells = (_shown(report, method, column) for column in report.columns)
        lines.append(markdown_row([escape_markdown(method), *cells]))
    lines += ["", *(f"- {escape_markdown(remark)}" for remark in report.remarks)]
    if report.differences:
        note, over = _difference_note(report)
        lines += ["", "## Paired differences", "", escape_markdown(note), ""]
        lines += [markdown_row([*_DIFFERENCE_HEADERS, "difference", over])]
        lines += [markdown_row(["---"] * 5 + ["---:"] * 2)]
        lines += [
            markdown_row(
                [
                    *(
                        escape_markdown(name)
                        for name in (d.method, d.reference, d.split, d.head, d.metric)
                    ),
                    format_difference(d),
                    str(d.n_seeds),
                ]
            )
            for d in report.differences
        ]
    if pictures:
        lines += ["", "## Domain maps"]
        for name in pictures:
            lines += ["", f"![{escape_markdown(name)}]({name})"]
    return "\n".join(lines) + "\n"


_DIFFERENCE_HEADERS = ("method", "against", "split", "head", "metric")


def _difference_note(report: Report) -> tuple[str, str]:
    """Return what the errors of differences speak of, and what their number counts."""
    units = {split: report.units[split] for split in sorted({d.split for d in report.differences})}
    over = " or ".join(dict.fromkeys(sorted(units.values(), key=lambda unit: unit != SEEDS)))
    note = f"Method minus reference on the same {over}, mean ± standard error over {over}."
    if SEEDS in units.values():
        note += (
            " Seeds share their spots: their error speaks of the choice of training spots, not of "
            "other tissue."
        )
    if held_out := [split for split, unit in units.items() if unit != SEEDS]:
        note += (
            f" {', '.join(held_out)}: every group is judged once, by what was trained on the "
            "others; their error speaks of other tissue, and as they share most of their training "
            "spots, it is rather too small."
        )
    return note, over


def _shown(report: Report, method: str, column: Column) -> str:
    """Return a cell; one that lacks fits which others have says so."""
    cell = report.cells.get((method, column))
    fits = report.fits.get((method, column.split, column.head))
    if cell is None or fits is None or fits.is_complete:
        return format_cell(cell)
    return f"{format_cell(cell)} ({fits.n_fits} of {fits.n_expected})"


def format_cell(cell: Cell | None) -> str:
    """Return ``0.905 ± 0.004``; a dash where there is nothing."""
    if cell is None:
        return "-"
    return f"{cell.mean:.3f}" if cell.sd is None else f"{cell.mean:.3f} ± {cell.sd:.3f}"


def format_difference(difference: Difference) -> str:
    """Return ``+0.021 ± 0.004`` (mean and standard error)."""
    if difference.se is None:
        return f"{difference.mean:+.3f}"
    return f"{difference.mean:+.3f} ± {difference.se:.3f}"


def _header(column: Column) -> str:
    return f"{escape_markdown(column.split)} · {escape_markdown(column.head)} · {column.metric}"


def markdown_row(cells: Sequence[str]) -> str:
    """Return cells, escaped already, as a line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def escape_markdown(text: str) -> str:
    """Escape what Markdown or the HTML around it would read as markup."""
    safe = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for character in "\\`*_[]|":
        safe = safe.replace(character, f"\\{character}")
    return safe
