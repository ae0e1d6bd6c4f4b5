"""The check of a whole corpus: declared groups, content of every pair of sections, windows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations, pairwise
from typing import Final

from stbuild.corpus import names
from stbuild.corpus.errors import BadUsageError, GateError, Problem
from stbuild.leakage.compare import Comparison, Verdict, compare_sections
from stbuild.leakage.documents import (
    Apart,
    CheckedSection,
    Finding,
    Kind,
    LeakageReport,
    PairFigures,
    Thresholds,
)
from stbuild.leakage.fingerprints import Fingerprint, Section, take_fingerprints
from stbuild.leakage.windows import PlacedWindow, find_overlaps
from stbuild.slices import Notice

_DECLARED: Final = ("donor-twice", "section-twice", "pair-twice")
"""Kinds that may be allowed as a whole: other kinds only one by one."""
_FIX: Final = "put both on one side, or leave one out; `--allow {name}` publishes it all the same"


def check_leakage(
    sections: Sequence[Section],
    *,
    apart: Apart = "split",
    windows: Sequence[PlacedWindow] = (),
    fitted: Mapping[str, Sequence[str]] | None = None,
    allow: Sequence[str] = (),
) -> LeakageReport:
    """Look for data of one side on another.

    Sections of two splits, and of two corpora, are on two sides, and so are two that are parted by
    blocks, as each holds all splits; under ``donor`` also those of
    two donors, as in ``donor-out``. Every pair is compared, so copies on one side are listed too.

    Parameters
    ----------
    sections
        All sections of all corpora that are checked against each other, in any order.
    apart
        What must not share data.
    windows
        Windows of slices that are split by blocks.
    fitted
        Fitted statistic to the splits that it was fitted on; anything but ``train`` is a finding
        where there is a split ``train``.
    allow
        Names of findings that do not refuse the corpus; ``donor-twice``, ``section-twice`` and
        ``pair-twice`` allow all findings of that kind, as a split by another group needs.

    Returns
    -------
    LeakageReport
        Same bytes whatever the order of the input, the machine and its threads.

    Raises
    ------
    BadUsageError
        Two sections of one name; a name in `allow` that names no finding.
    """
    ordered = sorted(sections, key=lambda section: section.name)
    _require_unique(ordered)
    prints = list(take_fingerprints(ordered))
    figures = [
        (a, b, compare_sections(prints[a], prints[b]))
        for a, b in combinations(range(len(ordered)), 2)
    ]
    findings = [
        *_declared(ordered),
        *_by_content(ordered, figures, apart),
        *_by_cells(windows),
        *_by_fit(ordered, fitted or {}),
    ]
    undecided = [
        _figures(ordered, a, b, found)
        for a, b, found in figures
        if _verdict(ordered[a], ordered[b], found) == "undecided"
        and _on_two_sides(ordered[a], ordered[b], apart)
    ]
    return LeakageReport(
        apart=apart,
        thresholds=Thresholds(),
        sections=tuple(map(_checked, ordered, prints)),
        pairs=len(figures),
        compared=sum(_verdict(ordered[a], ordered[b], f) != "undecided" for a, b, f in figures),
        undecided=tuple(sorted(undecided, key=lambda found: -found.genes)),
        closest=_closest(ordered, figures),
        windows=len(windows),
        fitted={name: tuple(sorted(set(found))) for name, found in sorted((fitted or {}).items())},
        findings=_apply(findings, allow),
    )


def require_no_leak(report: LeakageReport) -> None:
    """Refuse a report with findings that are not allowed.

    Raises
    ------
    GateError
        Every such finding, by name.
    """
    problems = [
        Problem(
            code="G10",
            subject=f"leak '{finding.name}'",
            what=finding.what,
            fix=_FIX.format(name=finding.name),
        )
        for finding in report.findings
        if finding.refused
    ]
    if problems:
        raise GateError(*problems)


def undecided_notices(report: LeakageReport) -> Iterator[Notice]:
    """Say how many pairs of two sides nothing can be told of, whatever else was found."""
    if report.undecided:
        first = report.undecided[0]
        what = (
            f"{len(report.undecided):,} of {report.pairs:,} pairs of sections could not be "
            f"compared: a leak between them may go unseen; the first is '{first.sections[0]}' and "
            f"'{first.sections[1]}', with {first.genes} shared genes"
        )
        yield Notice(code="G12", subject="leakage", what=what)


def _on_two_sides(a: Section, b: Section, apart: Apart) -> bool:
    if (a.corpus, a.split) != (b.corpus, b.split) or a.split == names.BLOCKS:
        return True
    return apart == "donor" and (a.donor is None or a.donor != b.donor)


def _declared(sections: Sequence[Section]) -> Iterator[Finding]:
    """Yield donors, sections and pairs that the sample sheet itself puts on two sides."""
    groups: dict[tuple[Kind, str, str], list[Section]] = {}
    for section in sections:
        donor = section.donor or ""
        if section.donor is not None:
            groups.setdefault(("donor-twice", donor, donor), []).append(section)
        if section.section is not None:
            group = f"{donor}/{section.section}"
            groups.setdefault(("section-twice", group, donor), []).append(section)
        if section.pair is not None:
            group = f"{donor}/{section.pair}"
            groups.setdefault(("pair-twice", group, donor), []).append(section)
    for (kind, group, _), members in sorted(groups.items()):
        sides = sorted({(m.corpus, m.split) for m in members})
        if len(sides) > 1:
            listed = ", ".join(f"{corpus}:{split}" for corpus, split in sides)
            what = (
                f"{kind.removesuffix('-twice')} {group!r} stands in {listed}; "
                f"{len(members)} slices, the first is '{members[0].name}'"
            )
            # One id in two corpora need not be one donor: that is told, not refused.
            apart = len({corpus for corpus, _ in sides}) < len(sides)
            yield _finding(f"{kind}:{group}", kind, what, apart=apart)


def _verdict(one: Section, two: Section, found: Comparison) -> Verdict:
    """Return what follows for two sections: the same whole slice needs no number of genes."""
    return "identical-spots" if one.counts_digest == two.counts_digest else found.verdict


def _by_content(
    sections: Sequence[Section], figures: Sequence[tuple[int, int, Comparison]], apart: Apart
) -> Iterator[Finding]:
    for a, b, found in figures:
        one, two = sections[a], sections[b]
        verdict = _verdict(one, two, found)
        if verdict in ("distinct", "undecided"):
            continue
        same = one.counts_digest == two.counts_digest
        what = (
            f"'{one.name}' ({one.split}) and '{two.name}' ({two.split}) are copies: "
            f"{'the whole slice is the same; ' if same else ''}"
            f"{found.sparse_identical} of {found.sparse} spots have identical counts over "
            f"{found.genes} genes, {found.matched} of {found.compared} compared spots share "
            "their noise"
        )
        yield _finding(
            f"{one.name}+{two.name}",
            "identical-spots" if verdict == "identical-spots" else "near-duplicate",
            what,
            apart=_on_two_sides(one, two, apart),
            figures=_figures(sections, a, b, found),
        )


def _by_cells(windows: Sequence[PlacedWindow]) -> Iterator[Finding]:
    for overlap in find_overlaps(windows):
        one, two = overlap.splits
        what = f"windows of {one} and {two} share {overlap.cells} cells of slice '{overlap.slug}'"
        name = f"cells:{overlap.slug}:{one}+{two}"
        yield _finding(name, "shared-cells", what, apart=True)


def _by_fit(sections: Sequence[Section], fitted: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    if not any(section.split == "train" for section in sections):
        return
    for name, splits in sorted(fitted.items()):
        if outside := sorted(set(splits) - {"train"}):
            what = f"'{name}' was fitted on {', '.join(outside)}, not on train alone"
            yield _finding(f"fitted:{name}", "fitted-outside-train", what, apart=True)


def _finding(
    name: str, kind: Kind, what: str, *, apart: bool, figures: PairFigures | None = None
) -> Finding:
    return Finding(name=name, kind=kind, what=what, apart=apart, allowed=False, figures=figures)


def _figures(sections: Sequence[Section], a: int, b: int, found: Comparison) -> PairFigures:
    return PairFigures(sections=(sections[a].name, sections[b].name), **asdict(found))


def _closest(
    sections: Sequence[Section], figures: Sequence[tuple[int, int, Comparison]]
) -> PairFigures | None:
    distinct = [
        (a, b, found)
        for a, b, found in figures
        if _verdict(sections[a], sections[b], found) == "distinct"
    ]
    if not distinct:
        return None
    # The first of equally close pairs, by name.
    a, b, found = max(distinct, key=lambda entry: entry[2].matched / entry[2].compared)
    return _figures(sections, a, b, found)


def _checked(section: Section, found: Fingerprint) -> CheckedSection:
    return CheckedSection(
        name=section.name,
        corpus=section.corpus,
        slug=section.slug,
        split=section.split,
        donor=section.donor,
        section=section.section,
        pair=section.pair,
        n_spots=len(found.counts),
        n_genes=len(section.genes),
        counts_digest=section.counts_digest,
    )


def _apply(findings: Sequence[Finding], allow: Sequence[str]) -> tuple[Finding, ...]:
    """Mark what is allowed; an allowance of nothing is a mistake, or out of date."""
    known = {finding.name for finding in findings} | set(_DECLARED)
    given = set(allow)
    if unknown := sorted(given - known):
        what = f"{len(unknown)} names of no finding, the first is '{unknown[0]}'"
        fix = f"findings: {', '.join(sorted(known)) or 'none'}"
        raise BadUsageError(Problem(code="G11", subject="allowed leaks", what=what, fix=fix))
    return tuple(f.model_copy(update={"allowed": bool({f.name, f.kind} & given)}) for f in findings)


def _require_unique(ordered: Sequence[Section]) -> None:
    for one, two in pairwise(ordered):
        if one.name == two.name:
            what = "it stands twice among the sections to check"
            fix = "give the two corpora different names"
            raise BadUsageError(
                Problem(code="G11", subject=f"section '{one.name}'", what=what, fix=fix)
            )
