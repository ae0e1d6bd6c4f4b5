"""Everything that decides a corpus, gathered and checked before any work."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stbuild.catalogue import Catalogue, read_catalogue
from stbuild.corpus import names
from stbuild.corpus.digests import sha256_json
from stbuild.corpus.documents import ShardConfig, as_error
from stbuild.corpus.errors import BadInputError, IntegrityError, Problem
from stbuild.genes import Vocabulary, check_kinds, choose_vocabulary
from stbuild.grids import GridMeta
from stbuild.splits import assign_splits
from stbuild.store import read_genes, read_inventory, read_meta

EVALUATION_SPLIT: Final = "test"
"""Split of every slice of an evaluation corpus."""


@dataclass(frozen=True, kw_only=True)
class BuildInputs:
    """Everything that decides a corpus, gathered before any work."""

    catalogue: Catalogue
    grids: Path
    metas: tuple[GridMeta, ...]
    genes: tuple[tuple[str, ...], ...]
    """Genes of each slice."""
    vocabulary: Vocabulary
    split_of: Mapping[str, str]
    """Split of each slug."""
    vocabulary_rule: str
    """How it came about: ``union``, ``intersection``, ``share:X`` or ``given``."""
    labels: tuple[str, ...]
    config: ShardConfig
    fingerprint: str

    def splits(self) -> dict[str, str]:
        """Return the split of each slug."""
        return dict(self.split_of)

    def grid_path(self, slug: str) -> Path:
        """Return where the grid of a slice stands."""
        return self.grids / f"{slug}.zarr"


def gather_inputs(
    grids: Path,
    config: ShardConfig,
    vocabulary: Vocabulary | str | None,
    *,
    mixed_ids: bool = False,
    mixed_species: bool = False,
) -> BuildInputs:
    """Read the catalogue and the attributes and genes of every grid.

    Parameters
    ----------
    grids
        Folder that ``stbuild compact`` wrote.
    config
        Shard configuration.
    vocabulary
        Given genes; or a rule (``union``, ``intersection``, ``share:X``) over the training slices
        (over all slices of an evaluation corpus); None is ``union``.
    mixed_ids, mixed_species
        Allow slices with Ensembl ids beside slices with symbols, human beside mouse.

    Raises
    ------
    BadInputError
        No grids, no training slice, or slices that would need padding under ``strict_size``.
    IntegrityError
        A grid is missing, or is not the one in the catalogue.
    """
    catalogue = read_catalogue(grids)
    problems = []
    for entry in catalogue.grids:
        inventory = read_inventory(grids / entry.file_name)
        if inventory is None or inventory.content != entry.content:
            what = "missing" if inventory is None else "not the grid of the catalogue"
            problems.append(_problem("G01", f"grid '{entry.slug}'", what, "run compact again"))
    if error := as_error(problems, IntegrityError):
        raise error
    paths = [grids / entry.file_name for entry in catalogue.grids]
    metas = tuple(read_meta(path) for path in paths)
    genes = tuple(tuple(read_genes(path)) for path in paths)
    split_of = choose_splits(metas, config)
    per_slice = {meta.name: found for meta, found in zip(metas, genes, strict=True)}
    kinds = check_kinds(per_slice, mixed_ids=mixed_ids, mixed_species=mixed_species)
    if error := as_error(kinds, BadInputError):
        raise error
    rule = "given" if isinstance(vocabulary, Vocabulary) else vocabulary or "union"
    if not isinstance(vocabulary, Vocabulary):
        chosen = [
            slice_genes
            for meta, slice_genes in zip(metas, genes, strict=True)
            if config.cover is not None or split_of[meta.slug] == "train"
        ]
        if not chosen:
            what = "no slice has split 'train', so there is no vocabulary"
            fix = "set the split of some slices to train, or give --vocabulary"
            raise BadInputError(_problem("L24", f"grids '{grids.name}'", what, fix))
        vocabulary = choose_vocabulary(chosen, rule)
    labels = tuple(sorted({name for meta in metas for name in meta.label_names}))
    identity = {
        "config": config.model_dump(mode="json"),
        "grids": [[m.slug, m.content, m.model_dump(mode="json")] for m in metas],
        "vocabulary": vocabulary.digest,
        "version": names.VERSION,
    }
    return BuildInputs(
        catalogue=catalogue,
        grids=grids.absolute(),
        metas=metas,
        genes=genes,
        vocabulary=vocabulary,
        split_of=split_of,
        vocabulary_rule=rule,
        labels=labels,
        config=config,
        fingerprint=sha256_json(identity),
    )


def choose_splits(metas: Sequence[GridMeta], config: ShardConfig) -> dict[str, str]:
    """Return the split of each slug: the sample sheet's, or drawn by whole groups.

    Raises
    ------
    BadInputError
        Splits are to be drawn, but some slices do not say what group they are of, or there are
        fewer groups than splits.
    """
    if config.cover is not None:
        return {meta.slug: EVALUATION_SPLIT for meta in metas}
    if config.assign == "sheet":
        return {meta.slug: meta.split for meta in metas}
    shares = {"val": config.val_share, "test": config.test_share}
    fractions = {name: share for name, share in shares.items() if share > 0}
    fractions["train"] = 1 - sum(fractions.values())
    return assign_splits(metas, config.assign, config.seed, fractions)


def _problem(code: str, subject: str, what: str, fix: str) -> Problem:
    return Problem(code=code, subject=subject, what=what, fix=fix)
