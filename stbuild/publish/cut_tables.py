"""The tables and the certificate of a corpus, without the slices that are left out."""

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from math import comb

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus import names
from stbuild.corpus.documents import Kind
from stbuild.corpus.index import (
    SampleIndex,
    read_panels,
    write_genes,
    write_index,
    write_panels,
)
from stbuild.corpus.reader import Corpus
from stbuild.leakage.documents import CheckedSection, Finding, LeakageReport, PairFigures


def cut_index(corpus: Corpus, split: str, kind: Kind, kept: Collection[str]) -> bytes:
    """Return the index of one split and kind over the shards that stay.

    Parameters
    ----------
    corpus
        The corpus.
    split, kind
        Which index.
    kept
        Paths of the shards that stay; their numbers close up.
    """
    index, shards = corpus.index(split, kind), corpus.document.shards_of(split, kind)
    stays = np.asarray([shard.path in kept for shard in shards], bool)
    rows = np.flatnonzero(stays[index.shard])
    number = (np.cumsum(stays) - 1).astype(np.int32)

    def texts(values: list[str]) -> list[str]:
        return [values[i] for i in rows]

    return write_index(
        SampleIndex(
            keys=texts(list(index.keys)),
            shard=number[index.shard[rows]],
            slices=texts(list(index.slices)),
            donors=texts(list(index.donors)),
            offset=index.offset[rows],
            size=index.size[rows],
            sha256=index.sha256[rows],
            content=index.content[rows],
            row=index.row[rows],
            col=index.col[rows],
            draw=index.draw[rows],
            observed=index.observed[rows],
        )
    )


def cut_panels(corpus: Corpus, kept: Collection[str]) -> tuple[dict[str, NDArray[np.int32]], bytes]:
    """Return the panels of the slices that stay, and their table.

    Raises
    ------
    BadInputError
        The corpus was written without panels.
    """
    raw = corpus.file(names.PANELS_PARQUET)
    panels = read_panels(raw, str(corpus.root / names.PANELS_PARQUET))
    own = {slug: panel for slug, panel in panels.items() if slug in kept}
    return own, write_panels(own)


def cut_genes(corpus: Corpus, panels: Mapping[str, NDArray[np.int32]]) -> bytes:
    """Return the table of genes: the whole vocabulary, counted over the slices that stay."""
    measured = np.zeros(len(corpus.genes), np.int64)
    for panel in panels.values():
        measured[panel] += 1
    return write_genes(corpus.genes, measured.tolist())


def cut_leakage(report: LeakageReport, kept: AbstractSet[str]) -> LeakageReport:
    """Return the certificate over the sections that stay.

    What was found between them stays. Which pairs could not be compared is not told for all of
    them, so each of those counts against the ones that stay: `compared` is never too large. Every
    section of a corpus has as many windows. Findings about groups (a donor in two splits) stay only
    while sections that stay are on both sides.
    """
    sections = tuple(section for section in report.sections if section.slug in kept)
    known = {section.name for section in sections}

    def stays(figures: PairFigures | None) -> bool:
        return figures is not None and set(figures.sections) <= known

    undecided = tuple(figures for figures in report.undecided if stays(figures))
    pairs = comb(len(sections), 2)
    return report.model_copy(
        update={
            "sections": sections,
            "pairs": pairs,
            "compared": max(0, pairs - (report.pairs - report.compared)),
            "windows": report.windows // max(1, len(report.sections)) * len(sections),
            "undecided": undecided,
            "closest": report.closest if stays(report.closest) else None,
            "findings": tuple(
                finding
                for old in report.findings
                if (finding := _cut_finding(old, sections, known)) is not None
            ),
        }
    )


def _cut_finding(
    finding: Finding, sections: Collection[CheckedSection], known: AbstractSet[str]
) -> Finding | None:
    """Return what a finding says of the sections that stay; None where that is nothing."""
    if finding.figures is not None:
        return finding if set(finding.figures.sections) <= known else None
    kind, _, rest = finding.name.partition(":")
    if kind == "cells":
        return finding if rest.partition(":")[0] in {section.slug for section in sections} else None
    if kind not in ("donor-twice", "section-twice", "pair-twice"):
        return finding
    members = [section for section in sections if _group(section, kind) == rest]
    sides = sorted({(section.corpus, section.split) for section in members})
    if len(sides) < 2:
        return None
    listed = ", ".join(f"{corpus}:{split}" for corpus, split in sides)
    what = (
        f"{kind.removesuffix('-twice')} {rest!r} stands in {listed}; {len(members)} slices, the "
        f"first is '{members[0].name}'"
    )
    return finding.model_copy(update={"what": what})


def _group(section: CheckedSection, kind: str) -> str | None:
    if kind == "donor-twice":
        return section.donor
    own = section.section if kind == "section-twice" else section.pair
    return None if own is None else f"{section.donor or ''}/{own}"
