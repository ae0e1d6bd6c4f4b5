"""Everything that decides a corpus, gathered and checked before any work."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stbuild.build.growth import Growth, grow_labels, grow_splits, grow_vocabulary
from stbuild.corpus import names
from stbuild.corpus.digests import sha256_json
from stbuild.corpus.documents import ShardConfig, as_error
from stbuild.corpus.errors import BadInputError, IntegrityError, Problem
from stbuild.genes.vocabulary import Vocabulary, check_kinds
from stbuild.grid.catalogue import Catalogue, read_catalogue
from stbuild.grid.grids import GridMeta
from stbuild.grid.store import read_genes, read_inventory, read_meta


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
    """Split of each slug; ``blocks`` where slices are parted."""
    growth: Growth
    """Which slices came with which generation, and how the vocabulary came about."""
    labels: tuple[str, ...]
    config: ShardConfig
    fingerprint: str

    def splits(self) -> dict[str, str]:
        """Return the split of each slug."""
        return dict(self.split_of)

    def vocabulary_of(self, slug: str) -> Vocabulary:
        """Return the vocabulary as it was when a slice came: what its patches know."""
        return self.vocabulary.first(self.growth.generation(slug))

    @cached_property
    def panels(self) -> dict[str, NDArray[np.int32]]:
        """By slug, the (G,) vocabulary indices of the genes that a slice's patches know."""
        return {
            meta.slug: self.vocabulary_of(meta.slug).locate(genes)[1]
            for meta, genes in zip(self.metas, self.genes, strict=True)
        }

    def grid_path(self, slug: str) -> Path:
        """Return where the grid of a slice stands."""
        return self.grids / f"{slug}.zarr"


def gather_inputs(
    grids: Path,
    config: ShardConfig,
    vocabulary: Vocabulary | Growth | str | None,
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
        (over all slices of an evaluation corpus); None is ``union``. Or how the corpus grew.
    mixed_ids, mixed_species
        Allow slices with Ensembl ids beside slices with symbols, or with versions beside without;
        human beside mouse.

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
    growth = vocabulary
    if not isinstance(growth, Growth):
        growth = Growth(rules=(growth or "union",))
    split_of = grow_splits(growth, metas, config)
    per_slice = {meta.name: found for meta, found in zip(metas, genes, strict=True)}
    kinds = check_kinds(per_slice, mixed_ids=mixed_ids, mixed_species=mixed_species)
    if error := as_error(kinds, BadInputError):
        raise error
    grown = grow_vocabulary(growth, metas, genes, split_of, config)
    identity = {
        "config": config.model_dump(mode="json"),
        "grids": [[m.slug, m.content, m.model_dump(mode="json")] for m in metas],
        "generations": [growth.generation(meta.slug) for meta in metas],
        "vocabulary": grown.digest,
        "version": names.VERSION,
    }
    return BuildInputs(
        catalogue=catalogue,
        grids=grids.absolute(),
        metas=metas,
        genes=genes,
        vocabulary=grown,
        split_of=split_of,
        growth=growth,
        labels=grow_labels(growth, metas),
        config=config,
        fingerprint=sha256_json(identity),
    )


def _problem(code: str, subject: str, what: str, fix: str) -> Problem:
    return Problem(code=code, subject=subject, what=what, fix=fix)
