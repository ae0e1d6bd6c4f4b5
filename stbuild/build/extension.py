"""A finished corpus and more slices: what a build needs to go on from it.

Old shards, their names and digests stay; vocabulary and labels only grow; every slice keeps its
split. What is built so is the same, byte for byte, as all of it rebuilt from the new lock.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stbuild.build.assemble import LOCKED
from stbuild.build.earlier import Earlier, read_earlier
from stbuild.build.growth import GIVEN, locked_growth
from stbuild.build.inputs import BuildInputs, gather_inputs
from stbuild.corpus import names
from stbuild.corpus.documents import ShardConfig, as_error, read_config, read_document
from stbuild.corpus.errors import BadInputError, BadUsageError, ConflictError, Problem
from stbuild.corpus.lock import LockDocument
from stbuild.corpus.reader import Corpus
from stbuild.genes.vocabulary import Vocabulary
from stbuild.grid.catalogue import Catalogue, read_catalogue
from stbuild.workspace import describe_difference


def extend_config(base: Corpus, given: Mapping[str, Any]) -> ShardConfig:
    """Return the configuration of the extension: that of the corpus, with more leaks allowed.

    Parameters
    ----------
    base
        The corpus.
    given
        What was asked for now; anything but `allow` must agree with the corpus, whose name stays.

    Raises
    ------
    BadUsageError
        Something else was asked for.
    """
    old = base.document.config
    value = old.model_dump() | {key: item for key, item in given.items() if key != "name"}
    value["allow"] = tuple(sorted({*old.allow, *value["allow"]}))
    config: ShardConfig = read_config(ShardConfig, value, "command line")
    before = old.model_dump(exclude={"allow"})
    after = config.model_dump(exclude={"allow"})
    if before != after:
        what = f"another configuration: {describe_difference(before, after)}"
        fix = "leave these options out: an extension is built like the corpus"
        raise BadUsageError(_problem("B097", f"corpus '{base.document.name}'", what, fix))
    return config


def gather_extension(
    grids: Path,
    base: Corpus,
    config: ShardConfig,
    vocabulary: Vocabulary | str | None,
    *,
    mixed_ids: bool = False,
    mixed_species: bool = False,
) -> tuple[BuildInputs, Earlier]:
    """Gather what decides the extended corpus.

    Parameters
    ----------
    grids
        Folder with the grids of the corpus and of the new slices.
    base
        The corpus.
    config
        From :func:`extend_config`.
    vocabulary
        Which genes of the new slices are appended: a rule over the new training slices, or given
        genes; None is the rule of the corpus, and nothing where its genes were given.
    mixed_ids, mixed_species
        As in :func:`stbuild.build.inputs.gather_inputs`.

    Raises
    ------
    BadInputError
        No new slices.
    ConflictError
        A grid of the corpus is missing or is another one.
    IntegrityError
        The corpus or a grid is damaged.
    """
    raw = base.file(names.LOCK_JSON)
    lock = read_document(LockDocument, raw, str(base.root / names.LOCK_JSON))
    old = locked_growth(lock, base.genes)
    if vocabulary is None:
        last = lock.vocabulary_rules[-1]
        vocabulary = Vocabulary(()) if last == GIVEN else last
    growth = replace(old, rules=(*old.rules, vocabulary))
    if error := as_error(_missing(read_catalogue(grids), lock), ConflictError):
        raise error
    inputs = gather_inputs(grids, config, growth, mixed_ids=mixed_ids, mixed_species=mixed_species)
    if error := as_error(_changes(inputs, lock), ConflictError):
        raise error
    if len(inputs.metas) == len(lock.grids):
        what = "the folder holds the slices of the corpus and no others"
        fix = "compact the new slices into it first: a manifest that names old and new ones"
        raise BadInputError(_problem("L24", f"grids '{grids.name}'", what, fix))
    _require_prefix(inputs, base)
    return inputs, read_earlier(base)


def _missing(catalogue: Catalogue, lock: LockDocument) -> list[Problem]:
    here = {entry.slug for entry in catalogue.grids}
    what, fix = "it is not among the grids", "give a folder that holds its grid too"
    return [
        _problem("B097", f"slice '{grid.name}'", what, fix)
        for grid in lock.grids
        if grid.slug not in here
    ]


def _changes(inputs: BuildInputs, lock: LockDocument) -> list[Problem]:
    metas = {meta.slug: meta for meta in inputs.metas}
    problems = []
    for grid in lock.grids:
        meta = metas[grid.slug]
        if differ := [name for name in LOCKED if getattr(meta, name) != getattr(grid, name)]:
            what = f"its grid is another one than the corpus was built from: {', '.join(differ)}"
            fix = "compact it from the same source, with the same sample sheet and options"
            problems.append(_problem("B097", f"slice '{grid.name}'", what, fix))
    return problems


def _require_prefix(inputs: BuildInputs, base: Corpus) -> None:
    """Refuse what would change an old shard: other genes, labels or splits than it has."""
    document, old = base.document, inputs.vocabulary.first(len(inputs.growth.rules) - 2)
    splits = inputs.splits()
    moved = [e.slug for e in document.slices if splits[e.slug] != e.split]
    changed = [("vocabulary", old.digest != document.vocabulary.digest)]
    changed.append(("labels", inputs.labels[: len(document.labels)] != document.labels))
    changed.append((f"split of {', '.join(moved[:3])}", bool(moved)))
    problems = [
        _problem(
            "B097",
            f"corpus '{document.name}'",
            f"its {name} would come out otherwise with these grids and this version",
            "build a new corpus without --extend",
        )
        for name, differs in changed
        if differs
    ]
    if problems:
        raise ConflictError(*problems)


def _problem(code: str, subject: str, what: str, fix: str) -> Problem:
    return Problem(code=code, subject=subject, what=what, fix=fix)
