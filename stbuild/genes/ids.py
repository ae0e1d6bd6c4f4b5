"""Kinds of gene ids: what a list of them looks like, and what has been done to them.

Pure functions of text; which ids are kept and what they are mapped to is decided in
:mod:`stbuild.reading.gene_mapping`.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal, NamedTuple

Kind = Literal["ensembl", "symbol", "mixed"]
Case = Literal["upper", "title", "other"]

ENSEMBL: Final = re.compile(r"ENS([A-Z]{0,6})G\d{11}(\.\d+)?")
"""An Ensembl gene id: species letters (none for human), eleven digits, maybe a version."""
CONTROLS: Final = re.compile(
    r"(?i:NegControl(Probe|Codeword)_|NegPrb|Negative ?Control|SystemControl|antisense_"
    r"|(Unassigned|Deprecated|Intergenic)Codeword_|Unassigned_Codeword|Blank[-_]|BLANK_)"
    r"|ERCC-\d{5}|(Negative|FalseCode)\d+$|Intergenic_Region_\d"
    r"|X?__(no_feature|ambiguous|too_low_aQual|not_aligned|alignment_not_unique)\b"
    r"|N_(unmapped|multimapping|noFeature|ambiguous)$"
)
"""Beginnings of what is no gene: controls of platforms, ERCC spike-ins, and the rows that HTSeq and
STAR add for reads of no gene (R writes an X before an underscore)."""
_GENE_TYPE: Final = "gene expression"
_OTHER_TYPES: Final = frozenset({
    "antibody capture", "antigen capture", "blank codeword", "chromatin accessibility",
    "crispr guide capture", "custom", "deprecated codeword", "genomic control",
    "multiplexing capture", "negative control codeword", "negative control probe", "peaks",
    "protein", "protein expression", "unassigned codeword",
})  # fmt: skip
"""Feature types, compared without case, that are no genes even where no feature is called one."""
_GENOME: Final = re.compile(r"(GRCh3\d|hg19|hg38|GRCm3\d|mm10|mm39)_{1,3}(.+)")
_EXCEL: Final = re.compile(
    r"\d{1,2}-(?:Mar|Sep|Dec|Oct|Apr)|(?:Mar|Sep|Dec)-\d{2}|\d{4}-\d{2}-\d{2}( 00:00:00)?"
)
_MANGLED: Final = re.compile(r"X\d")
_RIKEN: Final = re.compile(r"\d{7}[A-Z]\d{2}Rik|Gm\d+|[A-Z]{1,2}\d{6}(\.\d+)?|A[CL]\d{6}\.\d+")
_PLAIN: Final = re.compile(r"(?!ENS|NEG|SYSTEM|BLANK|[A-Z]{1,2}\d{6}$)[A-Z][A-Z0-9]*")
"""Capitals and digits that are none of the above: most symbols of human genes, at a glance."""
_NO_LETTERS: Final = re.compile(r"[^A-Za-z]+")
_FEW: Final = 20
"""Fewer symbols than this tell no species."""
_CLEAR: Final = 0.75
"""Share of symbols in one spelling that makes a list human or mouse."""
_BOTH: Final = 0.25
"""Share of each spelling above which a list holds both species."""
_SPECIES: Final = {"": "human", "MUS": "mouse", "RNO": "rat", "DAR": "zebrafish", "SSC": "pig"}


@dataclass(frozen=True, kw_only=True)
class GeneFacts:
    """What a list of gene ids looks like."""

    kind: Kind
    species: tuple[str, ...]
    """Species that the ids point to, sorted; empty where they do not tell."""
    n_ensembl: int
    n_symbols: int
    n_versioned: int
    """Ensembl ids that carry a version."""
    excel: tuple[str, ...]
    """Names that a spreadsheet has turned into dates."""
    controls: tuple[str, ...]
    """Control probes and spike-ins."""


def describe_genes(ids: Sequence[str]) -> GeneFacts:
    """Say what a list of gene ids looks like.

    A list is of one kind if nine tenths of it are: a few clone ids among symbols, or a few
    reporter genes among Ensembl ids, are normal.

    Parameters
    ----------
    ids
        (K,) ids, control probes included.
    """
    looks = [(name, _look(name)) for name in ids]
    genes = [(name, look) for name, look in looks if not look.control]
    found = [look.ensembl for _, look in genes if look.ensembl is not None]
    share = len(found) / max(1, len(genes))
    kind: Kind = "ensembl" if share >= 0.9 else "symbol" if share <= 0.1 else "mixed"
    prefixes = Counter(prefix for prefix, _ in found)
    species = {_SPECIES.get(p, f"ENS{p}") for p, n in prefixes.items() if n > len(found) / 100}
    genomes = {look.genome for _, look in genes if look.genome is not None}
    # 10x's genome prefixes: GRCh38_GAPDH, mm10___Gapdh.
    species |= {"human" if p.startswith(("GRCh", "hg")) else "mouse" for p in genomes}
    if kind != "ensembl" and not species:
        species |= _symbol_species([look.case for _, look in genes if look.ensembl is None])
    return GeneFacts(
        kind=kind,
        species=tuple(sorted(species)),
        n_ensembl=len(found),
        n_symbols=len(genes) - len(found),
        n_versioned=sum(versioned for _, versioned in found),
        excel=tuple(name for name, look in genes if look.excel),
        controls=tuple(name for name, look in looks if look.control),
    )


def is_control(name: str) -> bool:
    """Tell whether an id is that of a control or of reads of no gene, not of a gene."""
    return _look(name).control


class _Look(NamedTuple):
    """What one id looks like."""

    control: bool
    genome: str | None
    """Name of a reference genome in front."""
    ensembl: tuple[str, bool] | None
    """Species letters, and whether there is a version."""
    excel: bool
    case: Case | None
    """Of its letters; None where they are too few to tell, or a clone's."""


_UPPER: Final = _Look(control=False, genome=None, ensembl=None, excel=False, case="upper")
_SHORT: Final = _UPPER._replace(case=None)


@lru_cache(maxsize=2**17)
def _look(name: str) -> _Look:
    """Look at one id; the slices of a corpus share most of theirs."""
    if _PLAIN.fullmatch(name):
        return _UPPER if len(_NO_LETTERS.sub("", name)) > 2 else _SHORT
    return _look_closely(name)


def _look_closely(name: str) -> _Look:
    genome = _GENOME.fullmatch(name)
    match = ENSEMBL.fullmatch(genome.group(2) if genome else name)
    return _Look(
        control=CONTROLS.match(name) is not None,
        genome=genome.group(1) if genome else None,
        ensembl=(match.group(1), match.group(2) is not None) if match else None,
        excel=_EXCEL.fullmatch(name) is not None,
        case=None if match else _case(name),
    )


def _case(name: str) -> Case | None:
    text = "" if _RIKEN.fullmatch(name) else _NO_LETTERS.sub("", name)
    if len(text) < 3:
        return None
    if text.isupper():
        return "upper"
    return "title" if text[0].isupper() and text[1:].islower() else "other"


def _symbol_species(cases: Sequence[Case | None]) -> set[str]:
    """Tell human from mouse symbols by their spelling: GAPDH against Gapdh."""
    times = Counter(case for case in cases if case is not None)
    n = times.total()
    if n < _FEW:
        return set()
    upper, title = times["upper"] / n, times["title"] / n
    if upper >= _CLEAR:
        return {"human"}
    if title >= _CLEAR:
        return {"mouse"}
    return {"human", "mouse"} if min(upper, title) >= _BOTH else set()


def find_other_types(kinds: Sequence[str]) -> list[bool]:
    """Tell which features are no genes by what a source calls their types.

    Where any feature is of type ``Gene Expression``, all of other types are no genes. Elsewhere
    the types may be anything, such as the biotypes of genes; then only those are none that 10x and
    others call antibodies, guides, peaks or controls. A feature without a type is a gene.

    Parameters
    ----------
    kinds
        (K,) types, empty where there is none.
    """
    folded = [kind.strip().replace("_", " ").lower() for kind in kinds]
    if _GENE_TYPE in folded:
        return [kind not in ("", _GENE_TYPE) for kind in folded]
    return [kind in _OTHER_TYPES for kind in folded]


def strip_version(name: str) -> str:
    """Cut the version off an Ensembl id; every other id stays (clone ids have dots too)."""
    match = ENSEMBL.fullmatch(name)
    return name[: match.start(2)] if match and match.group(2) else name


def unmangled(name: str) -> tuple[str, ...]:
    """Return what R's ``make.names`` may have made `name` from, `name` itself not included.

    A leading X before a digit was added; a dot may have been a hyphen, slash or space.
    """
    bare = name[1:] if _MANGLED.match(name) else name
    candidates = [bare]
    if "." in bare:
        candidates += [bare.replace(".", "-"), bare.replace(".", "-", 1)]
        head, _, tail = bare.rpartition(".")
        candidates.append(f"{head.replace('.', '-')}.{tail}")
    return tuple(dict.fromkeys(text for text in candidates if text != name))
