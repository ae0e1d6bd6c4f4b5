"""The page itself: HTML, style and a little script in one file; no server, no network.

Text from inputs is escaped, and a content policy forbids the page to load anything. The same plan
gives the same bytes but for the expected times.
"""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Final

from stbuild.corpus.durable import write_durable
from stbuild.corpus.errors import Problem
from stbuild.corpus.outputs import refuse_inside
from stbuild.plan.flags import flag_slice
from stbuild.plan.pictures import (
    LABEL_COLOURS,
    histogram,
    picture_labels,
    picture_places,
    picture_totals,
)
from stbuild.plan.preview import PlanTask, SlicePlan
from stbuild.screen import format_size
from stbuild.tasks.pipeline import Outcome

_HERE: Final = Path(__file__).parent
_HEADS: Final = (
    "slice", "state", "layout", "grid", "filled", "window", "spots", "genes", "per spot",
    "labelled", "patches", "in shards", "remarks",
)  # fmt: skip
_MEASURES: Final = {
    "pitch": "pitch", "row_pitch": "row pitch", "angle_deg": "turned by, degrees",
    "mirrored": "mirrored", "residual": "off the lattice, pitches (rms)", "parity": "parity",
    "confidence": "confidence", "n_collisions": "spots sharing a cell", "n_off_grid": "off grid",
    "n_gap_rows": "rows kept open", "n_gap_cols": "columns kept open",
}  # fmt: skip


def write_qc(
    path: Path,
    name: str,
    tasks: Sequence[PlanTask],
    outcomes: Sequence[Outcome[SlicePlan]],
    summary: Mapping[str, Any],
) -> None:
    """Write the report of a plan.

    Parameters
    ----------
    path
        HTML file.
    name
        Of the manifest.
    tasks, outcomes
        What was looked at, and what became of each, in the same order.
    summary
        Totals, as ``plan --json`` prints them.

    Raises
    ------
    BadUsageError
        A place inside a corpus or grid.
    PlatformError
        Pillow is not installed.
    ResourceError
        The disk refuses.
    """
    refuse_inside(path)
    write_durable(path, render_page(name, tasks, outcomes, summary).encode())


def render_page(
    name: str,
    tasks: Sequence[PlanTask],
    outcomes: Sequence[Outcome[SlicePlan]],
    summary: Mapping[str, Any],
) -> str:
    """Return the page as HTML."""
    rows, sections = [], []
    for task, outcome in zip(tasks, outcomes, strict=True):
        if outcome.result is not None:
            rows.append(_row(outcome.result))
            sections.append(_section(outcome.result))
        elif outcome.error is not None:
            rows.append(_refused_row(task))
            sections.append(_refused(task, outcome.error.problems))
    style, script = ((_HERE / part).read_text("utf-8") for part in ("page.css", "page.js"))
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    )
    heads = "".join(f'<th scope="col">{head}</th>' for head in _HEADS)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)}: plan</title><style>{style}</style></head><body>"
        f"<header><h1>{escape(name)}</h1>{_summary(summary)}</header><main>"
        f'<div class="wide"><table id="slices"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{''.join(sections)}</main>"
        f"<script>{script}</script></body></html>\n"
    )


def _summary(summary: Mapping[str, Any]) -> str:
    refused = summary["slices"] - summary["good"]
    facts = {
        "slices": f"{summary['good']:,}" + (f" + {refused:,} refused" if refused else ""),
        "genes in all": f"{summary['genes_union']:,}",
        "in every slice": f"{summary['genes_common']:,}",
        "patches": f"{summary['patches']:,}",
        "in shards": format_size(summary["shard_bytes"]),
        "a worker": format_size(summary["memory_bytes"]),
        "one core": f"{summary['seconds']:,.0f} s",
    }
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items())
    return f'<dl class="facts">{cells}</dl>'


def _row(plan: SlicePlan) -> str:
    warnings = sum(flag.severity == "warn" for flag in flag_slice(plan))
    state = "look" if warnings else "good"
    numbers: tuple[tuple[float, str], ...] = (
        (plan.shape[0] * plan.shape[1], f"{plan.shape[0]} &times; {plan.shape[1]}"),
        (plan.occupancy, f"{plan.occupancy:.0%}"),
        (plan.median_fill, f"{plan.median_fill}"),
        (plan.n_spots, f"{plan.n_spots:,}"),
        (plan.n_genes, f"{plan.n_genes:,}"),
        (plan.median_total, f"{plan.median_total:,}"),
        (plan.n_labelled, f"{plan.n_labelled:,}"),
        (plan.n_patches, f"{plan.n_patches:,}"),
        (plan.shard_bytes, format_size(plan.shard_bytes)),
        (warnings, f"{warnings or '-'}"),
    )
    cells = "".join(f'<td data-value="{value:g}">{text}</td>' for value, text in numbers)
    return (
        f'<tr><th scope="row"><a href="#{escape(plan.slug)}">{escape(plan.name)}</a></th>'
        f'<td class="{state}">{state}</td><td>{escape(plan.layout)}</td>{cells}</tr>'
    )


def _refused_row(task: PlanTask) -> str:
    record = task.read.record
    blank = "<td></td>" * (len(_HEADS) - 2)
    return (
        f'<tr><th scope="row"><a href="#{escape(record.slug)}">{escape(record.name)}</a></th>'
        f'<td class="refused">refused</td>{blank}</tr>'
    )


def _refused(task: PlanTask, problems: Sequence[Problem]) -> str:
    record = task.read.record
    items = "".join(
        f"<li><b>{escape(p.code)}</b> {escape(p.what)}<br><span>what to do: {escape(p.fix)}</span>"
        f"</li>"
        for p in problems
    )
    return (
        f'<section id="{escape(record.slug)}" class="refused"><h2>{escape(record.name)}</h2>'
        f'<p class="path">{escape(record.source_name)}</p><ul>{items}</ul></section>'
    )


def _section(plan: SlicePlan) -> str:
    flags = "".join(f'<li class="{f.severity}">{escape(f.text)}</li>' for f in flag_slice(plan))
    measures = "".join(
        f"<tr><th scope='row'>{name}</th><td>{plan.measures[key]:.4g}</td></tr>"
        for key, name in _MEASURES.items()
        if key in plan.measures
    )
    ledger = "".join(
        f"<tr><th scope='row'>{escape(name.replace('_', ' '))}</th><td>{value:,}</td></tr>"
        for name, value in plan.ledger.items()
    )
    return (
        f'<section id="{escape(plan.slug)}"><h2>{escape(plan.name)}</h2>'
        f'<p class="evidence">{escape(plan.layout)}: {escape(plan.evidence)}</p>'
        f'<ul class="flags">{flags}</ul><div class="pictures">{_pictures(plan)}</div>'
        f'<details><summary>numbers</summary><div class="tables"><table><caption>lattice</caption>'
        f"{measures}</table><table><caption>ledger</caption>{ledger}</table></div></details>"
        "</section>"
    )


def _pictures(plan: SlicePlan) -> str:
    shown = plan.picture
    if shown is None:
        return ""
    occupied = shown.totals > 0
    parts = [
        _figure(
            picture_totals(shown.totals), "molecules per spot on the grid, log scale", "few", "many"
        ),
        _figure(
            picture_places(shown.xy, shown.totals[occupied]),
            f"where the source has them ({shown.unit})",
        ),
    ]
    if shown.label_names:
        names = enumerate(shown.label_names)
        legend = "".join(
            f'<li><i style="background:{LABEL_COLOURS[i % len(LABEL_COLOURS)]}"></i>'
            f"{escape(label)}</li>"
            for i, label in names
        )
        picture = picture_labels(shown.labels, occupied)
        parts.append(_figure(picture, "labels", extra=f'<ul class="legend">{legend}</ul>'))
    parts.append(histogram(shown.totals[occupied], "molecules per spot"))
    parts.append(histogram(shown.genes_per_spot, "genes per spot"))
    return "".join(parts)


def _figure(uri: str, caption: str, low: str = "", high: str = "", extra: str = "") -> str:
    scale = f'<span class="scale">{low}<i></i>{high}</span>' if low else ""
    return (
        f'<figure><img src="{uri}" alt="{escape(caption)}">'
        f"<figcaption>{escape(caption)} {scale}</figcaption>{extra}</figure>"
    )
