"""The leakage report as a page for people: Markdown for the card."""

from collections import Counter
from collections.abc import Iterator, Sequence

from stbuild.corpus.errors import printable
from stbuild.leakage.documents import Finding, LeakageReport, PairFigures

_LISTED = 20
"""Undecided pairs that are written out; the report holds them all."""


def render_certificate(report: LeakageReport) -> str:
    """Return the certificate: what was checked, against what, what was found, and its limits."""
    return "\n".join([*_summary(report), *_findings(report), *_figures(report), *_limits(report)])


def _summary(report: LeakageReport) -> Iterator[str]:
    refused = sum(finding.refused for finding in report.findings)
    allowed = sum(finding.apart and finding.allowed for finding in report.findings)
    yield "# Leakage certificate\n"
    undecided = f"{len(report.undecided)} of {report.pairs} pairs could not be compared"
    if refused:
        yield f"**Not clean: {refused} leaks.**\n"
    elif report.undecided:
        but = f"; {allowed} leaks were allowed by name" if allowed else ""
        yield f"**Not decided: {undecided}{but} (below).**\n"
    elif allowed:
        yield f"**No leak but {allowed} that were allowed by name (below).**\n"
    else:
        yield "**No leak was found.**\n"
    sides = Counter((section.corpus, section.split) for section in report.sections)
    yield "| corpus | split | sections |"
    yield "|---|---|---|"
    for (corpus, split), n in sorted(sides.items()):
        yield f"| {_cell(corpus)} | {_cell(split)} | {n} |"
    between = "splits and corpora" + (", and of donors" if report.apart == "donor" else "")
    unlike = sum(found.genes < report.thresholds.min_genes for found in report.undecided)
    sparse = len(report.undecided) - unlike
    unseen = sum(not found.sparse for found in report.undecided)
    yield (
        f"\nSections of different {between} must share nothing. {report.compared} of "
        f"{report.pairs} pairs of sections were compared by content. Of the pairs on two sides, "
        f"{unlike} share fewer than {report.thresholds.min_genes} genes and {sparse} are too "
        f"sparse: they were searched for identical counts only, and {unseen} of them not even for "
        f"these. Donors, sections and pairs were compared by name, {report.windows} windows by "
        "cells."
    )
    for name, splits in sorted(report.fitted.items()):
        yield f"{_cell(name)} was fitted on: {', '.join(map(_cell, splits))}."
    yield ""


def _findings(report: LeakageReport) -> Iterator[str]:
    yield "## Findings\n"
    if not report.findings:
        yield "None.\n"
        return
    yield "| finding | kind | what | |"
    yield "|---|---|---|---|"
    for finding in report.findings:
        yield (
            f"| {_cell(finding.name)} | {finding.kind} | {_cell(finding.what)} | "
            f"{_standing(finding)} |"
        )
    yield ""


def _standing(finding: Finding) -> str:
    if finding.refused:
        return "**refused**"
    return "allowed by name" if finding.allowed else "told only"


def _figures(report: LeakageReport) -> Iterator[str]:
    rows: list[tuple[str, PairFigures]] = []
    if report.closest is not None:
        rows.append(("closest different sections", report.closest))
    rows += [("undecided", figures) for figures in report.undecided[:_LISTED]]
    if not rows:
        return
    yield "## Figures\n"
    yield "| | sections | genes | spots | identical | matched |"
    yield "|---|---|---|---|---|---|"
    for label, found in rows:
        yield (
            f"| {label} | {_join(found.sections)} | {found.genes} | {found.spots[0]}, "
            f"{found.spots[1]} | {found.sparse_identical} of {found.sparse} | {found.matched} of "
            f"{found.compared} |"
        )
    if (more := len(report.undecided) - _LISTED) > 0:
        yield f"\nand {more} more undecided pairs, listed in `splits/leakage.json`."
    yield ""


def _limits(report: LeakageReport) -> Iterator[str]:
    rule = report.thresholds
    yield "## Method and limits\n"
    yield (
        f"Method version {rule.version}. Two sections are compared on the {rule.panel} genes that "
        "are most abundant in both, whatever their coordinates, barcodes and order. Identical: the "
        f"counts of a spot with {rule.min_distinct} of these genes stand in the other section, "
        f"gene for gene; or those of {100 * rule.min_share:g} % of the spots with "
        f"{rule.min_exact} of them, the one rule on fewer than {rule.min_genes} shared genes, "
        "where spots of one section are to differ. The same whole slice is found on any number of "
        "genes. Near duplicate: at least "
        f"{100 * rule.min_share:g} % of up to {rule.queries} spots (at least {rule.min_matches}) "
        "have a match: nearest to each other by the cosine of what library size and mean "
        f"expression do not explain, {rule.margin:g} and {rule.errors:g} standard errors ahead of "
        "the second nearest. Serial sections share tissue, not counting noise. Measured: at most "
        "one match in any of 7,317 pairs of different sections; of 57 sections with a copy "
        "thinned to 50, 20, 10 and 5 % of the counts, 57, 56, 56 and 45 copies are found."
    )
    yield (
        f"\nNot found: copies with other counts on fewer than {rule.min_genes} shared genes, "
        "copies under other kinds of gene ids, of which few genes or a twentieth of "
        "the counts are left, split into independent halves, summed over other bins, "
        f"or that hold less than {100 * rule.min_share:g} % of the smaller section and no "
        "identical spot. Different sections of one donor under two names are not recognised: "
        "tissue and strain make sections of different donors as alike as those of one."
    )


def _join(sections: Sequence[str]) -> str:
    return ", ".join(map(_cell, sections))


def _cell(text: str) -> str:
    """Escape what would leave the cell of a table or start markup."""
    safe = printable(text)
    for mark in "\\`*_[]<>|#":
        safe = safe.replace(mark, f"\\{mark}")
    return safe
