"""The leakage report as it is published: ``splits/leakage.json``."""

from typing import Final, Literal

from stbuild.corpus import names
from stbuild.corpus.documents import Count, Document, Sha256, Slug, SplitName
from stbuild.leakage import compare
from stbuild.leakage.fingerprints import PANEL

FORMAT_LEAKAGE: Final = "stcorpus/leakage"
LEAKAGE_JSON: Final = "splits/leakage.json"
"""Path of the report inside its corpus."""

Apart = Literal["split", "donor"]
Kind = Literal[
    "donor-twice", "section-twice", "pair-twice", "identical-spots", "near-duplicate",
    "shared-cells", "fitted-outside-train",
]  # fmt: skip


class Thresholds(Document):
    """The fixed numbers of the comparison."""

    version: Literal[1] = 1
    """Version of the method."""
    panel: int = PANEL
    """Genes that two sections are compared on, at most."""
    min_genes: int = compare.MIN_GENES
    min_distinct: int = compare.MIN_DISTINCT
    """Shared genes that a spot must express to take part."""
    min_spots: int = compare.MIN_SPOTS
    min_exact: int = compare.MIN_EXACT
    """Shared genes that a spot must express to be looked for gene for gene."""
    margin: float = compare.MARGIN
    """Lead in cosine over the second nearest spot, both ways, that makes a match."""
    errors: float = compare.ERRORS
    """The same in standard errors of the cosine."""
    min_share: float = compare.MIN_SHARE
    """Share of the compared spots with a match from which two sections are duplicates."""
    min_matches: int = compare.MIN_MATCHES
    queries: int = compare.QUERIES


class CheckedSection(Document):
    """A section that was checked."""

    name: str
    """``corpus/slug``."""
    corpus: str
    slug: Slug
    split: SplitName
    donor: str | None
    section: str | None
    pair: str | None
    n_spots: Count
    n_genes: Count
    counts_digest: Sha256


class PairFigures(Document):
    """What the comparison of two sections found."""

    sections: tuple[str, str]
    genes: Count
    """Genes compared on."""
    spots: tuple[Count, Count]
    """Spots of each that express enough of them."""
    identical: Count
    """Those of the smaller section whose counts stand in the other one, gene for gene."""
    sparse: Count
    """Spots of the smaller section that express enough genes to be looked for gene for gene."""
    sparse_identical: Count
    """Those of them that stand in the other one."""
    compared: Count
    """Spots of the smaller section that were looked for."""
    matched: Count
    """Those of them with a match."""


class Finding(Document):
    """Something that stands on two sides."""

    name: str
    """Name to allow it by."""
    kind: Kind
    what: str
    """In words, with numbers."""
    apart: bool
    """Whether it joins two sides that are to be apart; otherwise it is only reported."""
    allowed: bool
    """Whether it was allowed by name."""
    figures: PairFigures | None = None

    @property
    def refused(self) -> bool:
        """Whether it stops the corpus."""
        return self.apart and not self.allowed


class LeakageReport(Document):
    """``splits/leakage.json``: what was checked, against what, and what was found."""

    format: Literal["stcorpus/leakage"] = FORMAT_LEAKAGE
    version: Literal[1] = names.VERSION
    apart: Apart
    """What must not share data: sections of two splits (or corpora), or of two donors as well."""
    thresholds: Thresholds
    sections: tuple[CheckedSection, ...]
    pairs: Count
    """Pairs of sections."""
    compared: Count
    """Pairs that could be compared by content."""
    undecided: tuple[PairFigures, ...]
    """Pairs on two sides of which copies with fewer counts would not be found: too few shared
    genes, or too few spots that express enough of them. Only identical counts were looked for, and
    not even these where `sparse` is 0. Most shared genes first."""
    closest: PairFigures | None
    """Of the pairs that are different sections, the one with the largest share of matches."""
    windows: Count
    """Windows whose cells were compared across splits."""
    fitted: dict[str, tuple[str, ...]]
    """Fitted statistic, such as the vocabulary, to the splits that it was fitted on."""
    findings: tuple[Finding, ...]
