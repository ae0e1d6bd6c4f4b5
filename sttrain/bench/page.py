"""Reports of a suite as files: one self-contained HTML page, Markdown and CSV.

The page loads nothing: no script, no font, no picture that is not inside it. Every text that came
from outside is escaped.
"""

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Final

from sttrain.bench.blocks import Block, difference_rows, report_blocks, table_rows
from sttrain.bench.rows import DETECTION
from sttrain.bench.run import BenchDocument
from sttrain.bench.summary import Summary
from sttrain.errors import printable
from sttrain.judge.report import build_report, draw_maps, write_files
from sttrain.judge.results import open_store
from sttrain.judge.rows import rows_csv
from sttrain.judge.tables import escape_markdown, markdown_row

_STYLE: Final = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px; }
th, td { padding: .2rem .6rem; text-align: right; white-space: nowrap; }
th { border-bottom: 1px solid #888; } tr:nth-child(even) td { background: #8881; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: Canvas; }
img { max-width: 100%; height: auto; background: white; } p.note { color: GrayText; }
"""
_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_bench_report(
    root: Path,
    out: Path,
    summary: Summary,
    *,
    maps: bool = True,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Path]:
    """Write ``report.html``, ``report.md``, ``table.csv``, ``differences.csv`` and pictures.

    Parameters
    ----------
    root
        Folder of `sttrain bench -o`.
    out
        Folder of the report; made if needed, files of the same names are replaced.
    summary
        What `sttrain.bench.summary.summarise` returned.
    maps
        Whether pictures are drawn; they need matplotlib.
    progress
        Called with (pictures done, pictures in all, name).

    Returns
    -------
    list
        The files, in the order of writing.

    Raises
    ------
    PlatformError
        Pictures are wanted and matplotlib is not there.
    """
    pictures = _pictures(root, summary, progress) if maps else {}
    blocks = report_blocks(summary)
    files = {
        **pictures,
        "table.csv": rows_csv(table_rows(summary)),
        "differences.csv": rows_csv(difference_rows(summary)),
        "report.md": bench_markdown(summary, blocks, list(pictures)).encode(),
        "report.html": bench_page(summary, blocks, pictures).encode(),
    }
    return write_files(out, files)


def bench_markdown(summary: Summary, blocks: Sequence[Block], pictures: Sequence[str]) -> str:
    """Return the report as Markdown."""
    suite = summary.document.suite
    lines = [f"# {escape_markdown(suite.name)}: {escape_markdown(suite.title)}", ""]
    lines += [f"- {escape_markdown(remark)}" for remark in summary.remarks]
    for block in blocks:
        lines += ["", f"## {escape_markdown(block.title)}", ""]
        lines += [escape_markdown(block.note), ""] if block.note else []
        lines += [markdown_row([escape_markdown(header) for header in block.headers])]
        lines += [markdown_row(["---", *["---:"] * (len(block.headers) - 1)])]
        lines += [markdown_row([escape_markdown(cell) for cell in row]) for row in block.rows]
    for name in pictures:
        lines += ["", f"![{escape_markdown(name)}]({name})"]
    return "\n".join(lines) + "\n"


def bench_page(summary: Summary, blocks: Sequence[Block], pictures: Mapping[str, bytes]) -> str:
    """Return the report as one HTML page that loads nothing."""
    suite = summary.document.suite
    title = _html(f"{suite.name}: {suite.title}")
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>{title}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{title}</h1>",
        "<ul>",
        *(f"<li>{_html(remark)}</li>" for remark in summary.remarks),
        "</ul>",
        *(_block(block) for block in blocks),
    ]
    for name, content in pictures.items():
        source = f"data:image/png;base64,{b64encode(content).decode()}"
        caption = _html(name.removesuffix(".png").replace("_", " "))
        parts.append(f'<h2>{caption}</h2><img alt="{caption}" src="{source}">')
    return "\n".join([*parts, "</body></html>"]) + "\n"


def _block(block: Block) -> str:
    head = "".join(f"<th>{_html(header)}</th>" for header in block.headers)
    body = "\n".join(
        f"<tr>{''.join(f'<td>{_html(cell)}</td>' for cell in row)}</tr>" for row in block.rows
    )
    note = f'<p class="note">{_html(block.note)}</p>' if block.note else ""
    return (
        f'<h2>{_html(block.title)}</h2>{note}<div class="wide"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table></div>"
    )


def _pictures(
    root: Path, summary: Summary, progress: Callable[[int, int, str], None] | None
) -> dict[str, bytes]:
    """Return the curves of a suite, the box plots of every data set, and its domain maps."""
    from sttrain.bench.boxes import box_plots
    from sttrain.bench.trends import draw_trends, find_trends

    trends = find_trends(summary)
    found = {"curves.png": draw_trends(trends)} if trends else {}
    document: BenchDocument = summary.document
    judged = {column.data for column in summary.columns if column.task == DETECTION}
    for data in (name for name in document.data if name in judged):
        store = open_store(root / data)
        # Other suites keep theirs in the same folder.
        rows = [row for row in store.rows() if row.job in summary.jobs]
        report = build_report(rows, metrics=list(document.suite.metrics))
        found[f"{data}_seeds.png"] = box_plots(rows, summary.methods, document.suite.metrics[0])
        maps = draw_maps(store, rows, report, None, None, progress)
        found |= {f"{data}_{name}": content for name, content in maps.items()}
    return found


def _html(text: str) -> str:
    return escape(printable(text), quote=True)
