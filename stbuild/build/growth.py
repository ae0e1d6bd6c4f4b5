"""How a corpus came about: a first build, then extensions, each of which only appends.

Vocabulary, labels and splits are folded over the generations, so that a corpus that grew in steps
and the same one built at once from its lock are the same bytes. Nothing here opens a file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from stbuild.corpus import names
from stbuild.corpus.documents import ShardConfig
from stbuild.corpus.errors import BadInputError, Problem
from stbuild.corpus.lock import LockDocument
from stbuild.genes.vocabulary import Vocabulary, choose_vocabulary
from stbuild.grid.grids import GridMeta
from stbuild.splits import assign_splits

EVALUATION_SPLIT = "test"
"""Split of every slice of an evaluation corpus."""
GIVEN = "given"
"""Rule of a vocabulary that was given as a list of genes."""


@dataclass(frozen=True, kw_only=True)
class Growth:
    """The generations of a corpus."""

    rules: tuple[Vocabulary | str, ...]
    """For each generation given genes, or a rule over its training slices."""
    generation_of: Mapping[str, int] = field(default_factory=dict)
    """Generation of each slug; slices that are not in it are of the last one."""
    labels: tuple[str, ...] = ()
    """Label names that have a code already; others are appended."""

    def generation(self, slug: str) -> int:
        """Return the generation of a slice; 0 is the first build."""
        return self.generation_of.get(slug, len(self.rules) - 1)

    @property
    def rule_names(self) -> tuple[str, ...]:
        """The rules as the lock keeps them."""
        return tuple(GIVEN if isinstance(rule, Vocabulary) else rule for rule in self.rules)


def part_given(genes: Sequence[str], sizes: Sequence[int]) -> tuple[Vocabulary, ...]:
    """Return the genes that each generation brought, as given lists."""
    return tuple(Vocabulary(tuple(genes[a:b])) for a, b in pairwise((0, *sizes)))


def locked_growth(lock: LockDocument, genes: Sequence[str]) -> Growth:
    """Return the growth that a lock tells.

    Parameters
    ----------
    lock
        The lock.
    genes
        The vocabulary; needed where a rule is ``given``, else it may be empty.
    """
    given = part_given(genes, lock.vocabulary.sizes)
    rules = zip(given, lock.vocabulary_rules, strict=True)
    return Growth(
        rules=tuple(part if rule == GIVEN else rule for part, rule in rules),
        generation_of={grid.slug: grid.generation for grid in lock.grids},
        labels=lock.labels,
    )


def grow_vocabulary(
    growth: Growth,
    metas: Sequence[GridMeta],
    genes: Sequence[Sequence[str]],
    split_of: Mapping[str, str],
    config: ShardConfig,
) -> Vocabulary:
    """Fold the vocabulary over the generations.

    Parameters
    ----------
    growth
        The generations.
    metas, genes
        The slices and the genes of each.
    split_of
        Split of each slug: rules look at training slices alone (at all of an evaluation corpus).
    config
        Shard configuration.

    Raises
    ------
    BadInputError
        No training slice in the first build, or a rule leaves no gene.
    """
    vocabulary: Vocabulary | None = None
    for number, rule in enumerate(growth.rules):
        if isinstance(rule, Vocabulary):
            vocabulary = rule if vocabulary is None else vocabulary.grow(rule.genes)
            continue
        chosen = [
            own
            for meta, own in zip(metas, genes, strict=True)
            if growth.generation(meta.slug) == number
            and (config.cover is not None or split_of[meta.slug] in ("train", names.BLOCKS))
        ]
        if vocabulary is None:
            if not chosen:
                what = "no slice has split 'train', so there is no vocabulary"
                fix = "set the split of some slices to train, or give --vocabulary"
                raise BadInputError(_problem("L24", f"corpus '{config.name}'", what, fix))
            vocabulary = choose_vocabulary(chosen, rule)
        else:
            found = choose_vocabulary(chosen, rule).genes if chosen else ()
            vocabulary = vocabulary.grow(found)
    return vocabulary or Vocabulary(())


def grow_labels(growth: Growth, metas: Sequence[GridMeta]) -> tuple[str, ...]:
    """Return the label names: sorted within each generation, new ones appended.

    Raises
    ------
    BadInputError
        There are more names than codes.
    """
    labels = list(growth.labels)
    for number in range(len(growth.rules)):
        own = [meta for meta in metas if growth.generation(meta.slug) == number]
        labels += sorted({name for meta in own for name in meta.label_names} - set(labels))
    if len(labels) > names.MAX_LABELS:
        most = max(metas, key=lambda meta: len(meta.label_names))
        column = f"column '{most.config.label}' of " if most.config.label else ""
        what = (
            f"its slices have {len(labels):,} different labels, at most {names.MAX_LABELS:,} fit "
            f"(most, {len(most.label_names):,}, in {column}slice '{most.name}')"
        )
        fix = "compact the slices with a column of classes that they share (--label)"
        raise BadInputError(_problem("B079", "labels of the corpus", what, fix))
    return tuple(labels)


def grow_splits(growth: Growth, metas: Sequence[GridMeta], config: ShardConfig) -> dict[str, str]:
    """Return the split of each slug: the sample sheet's, or drawn by whole groups.

    A slice keeps the split that it had when it came; new slices of a known group join it.

    Raises
    ------
    BadInputError
        Splits are to be drawn, but some slices do not say what group they are of, or there are
        fewer groups than splits; or the sample sheet uses a reserved word.
    """
    if config.cover is not None:
        return {meta.slug: EVALUATION_SPLIT for meta in metas}
    if config.assign == "block":
        return {meta.slug: names.BLOCKS for meta in metas}
    if config.assign == "sheet":
        if taken := sorted(meta.slug for meta in metas if meta.split == names.BLOCKS):
            what = f"split {names.BLOCKS!r} in the sample sheet is a reserved word"
            fix = "name it otherwise, or split by blocks with --assign block"
            raise BadInputError(_problem("B122", f"slice '{taken[0]}'", what, fix))
        return {meta.slug: meta.split for meta in metas}
    found: dict[str, str] = {}
    for number in range(len(growth.rules)):
        known = [meta for meta in metas if growth.generation(meta.slug) <= number]
        found = assign_splits(known, config.assign, config.seed, config.fractions(), found)
    return found


def _problem(code: str, subject: str, what: str, fix: str) -> Problem:
    return Problem(code=code, subject=subject, what=what, fix=fix)
