"""Grids to a corpus: vocabulary, parts, shards, tables, and the document that says it is done.

Every file appears by rename; ``corpus.json`` is the last, after ``SHA256SUMS``.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stbuild.build.assemble import publish_corpus, require_whole
from stbuild.build.certify import certify_build
from stbuild.build.earlier import Earlier
from stbuild.build.inputs import BuildInputs
from stbuild.build.parts import PartRecord, PartTask, cut_part, read_part, write_vocabulary
from stbuild.build.shards import Member, plan_shards, shard_task, write_shard
from stbuild.corpus import names
from stbuild.corpus.documents import (
    CorpusDocument,
    as_error,
)
from stbuild.corpus.durable import remove_leftovers, write_durable
from stbuild.corpus.errors import (
    BadInputError,
    ConflictError,
    Problem,
    merge_errors,
)
from stbuild.corpus.jsonio import dump_document, load_strict
from stbuild.corpus.outputs import refuse_foreign
from stbuild.corpus.reader import open_corpus
from stbuild.corpus.storage import read_file
from stbuild.leakage import require_no_leak, undecided_notices
from stbuild.slices import Notice
from stbuild.tasks.pipeline import Runner
from stbuild.workspace import (
    clear_scratch,
    describe_difference,
    hold_folder,
    is_scratch,
    refuse_difference,
)


@dataclass(frozen=True, kw_only=True)
class BuildSummary:
    """What a run of ``shard`` did."""

    document: CorpusDocument
    already_done: bool
    n_windows: int = 0
    n_tries: int = 0
    n_padded_patches: int = 0
    """Patches with fewer than m genes."""
    n_bytes: int = 0
    notices: tuple[Notice, ...] = ()


def build_corpus(
    inputs: BuildInputs,
    out: Path,
    runner: Runner,
    *,
    earlier: Earlier | None = None,
    started: Callable[[str, int], Callable[[], None]] = lambda _stage, _n: lambda: None,
) -> BuildSummary:
    """Build a corpus, or finish one that was interrupted.

    Parameters
    ----------
    inputs
        From :func:`gather_inputs`.
    out
        Corpus folder.
    runner
        How tasks are run.
    earlier
        Shards of earlier generations, which are taken over as they are; without them the shards
        of all generations are written.
    started
        Called with each stage and its number of tasks; returns what to call after each task.

    Raises
    ------
    ConflictError
        The folder holds another corpus, something that is not ours, or another run.
    GateError
        Data of one split stands in another.
    IntegrityError
        The corpus is finished, but files of it are missing.
    StError
        Any problem of a slice or shard, all at once.
    """
    if (done := _finished(inputs, out)) is not None:
        return done
    notices = _padding(inputs)
    report = certify_build(inputs)
    if report is not None:
        require_no_leak(report)
        notices += tuple(undecided_notices(report))
    refuse_foreign(out, "corpus", mark=is_scratch)
    with hold_folder(out) as work:
        if (done := _finished(inputs, out)) is not None:
            return done  # by the run that held the folder until now
        _claim(inputs, out, work)
        known = earlier.n_generations if earlier is not None else 0
        parts = cut_parts(inputs, work, runner, started, known)
        plans = plan_shards(
            list_members(inputs, parts), inputs.config, earlier.plans if earlier else ()
        )
        entries = {} if earlier is None else earlier.take_over(out)
        tasks = [
            shard_task(plan, out, work, inputs.fingerprint)
            for plan in plans
            if plan.path not in entries
        ]
        outcomes = runner(write_shard, tasks, started("shards", len(tasks)))
        if errors := [outcome.error for outcome in outcomes if outcome.error is not None]:
            raise merge_errors(errors)
        entries |= {o.result.path: o.result for o in outcomes if o.result is not None}
        shards = [entries[plan.path] for plan in plans]
        remove_leftovers(out)
        document = publish_corpus(inputs, out, plans, shards, report)
        clear_scratch(out)
    samples = [s for part in parts for s in part.samples if s.kind == "patch"]
    return BuildSummary(
        document=document,
        already_done=False,
        n_windows=len(samples),
        n_tries=sum(s.tries for s in samples),
        n_padded_patches=sum(s.n_genes < inputs.config.genes for s in samples),
        n_bytes=sum(shard.bytes for shard in document.shards),
        notices=(*notices, *_exhausted(inputs, parts)),
    )


def _finished(inputs: BuildInputs, out: Path) -> BuildSummary | None:
    if not (out / names.CORPUS_JSON).is_file():
        return None
    document = open_corpus(out).document
    if document.fingerprint != inputs.fingerprint:
        old, new = document.config.model_dump(), inputs.config.model_dump()
        changes = [describe_difference(old, new)] if old != new else []
        before = {entry.slug: entry.grid_content for entry in document.slices}
        after = {meta.slug: meta.content for meta in inputs.metas}
        changed = sorted(s for s in before.keys() | after.keys() if before.get(s) != after.get(s))
        changes += [f"other slices: {', '.join(changed[:5])}"] if changed else []
        if document.vocabulary.digest != inputs.vocabulary.digest:
            changes.append("another vocabulary")
        raise refuse_difference(
            out, f"corpus '{document.name}'", changes or ["metadata of the slices"]
        )
    if (out / names.WORK_DIR).is_dir():
        clear_scratch(out)
    fix = f"write them again with `stbuild repair {out} --grids GRIDS`"
    require_whole(out, document.shards, document.files, fix=fix)
    return BuildSummary(document=document, already_done=True)


def _claim(inputs: BuildInputs, out: Path, work: Path) -> None:
    """Mark the folder as this build's; refuse one that holds anything else."""
    state = work / "state.json"
    mine: dict[str, Any] = {
        "fingerprint": inputs.fingerprint,
        "config": inputs.config.model_dump(mode="json"),
    }
    if state.is_file():
        old = load_strict(read_file(state), str(state))
        if old["fingerprint"] != inputs.fingerprint:
            changes = describe_difference(old["config"], mine["config"]) or "other slices"
            raise refuse_difference(out, f"unfinished corpus '{out.name}'", [changes])
        return
    try:
        refuse_foreign(out, "corpus", mark=lambda _: False, leftover=is_scratch)
    except ConflictError:
        clear_scratch(out)
        raise
    write_durable(state, dump_document(mine))


def _padding(inputs: BuildInputs) -> tuple[Notice, ...]:
    """Say which slices need padding; refuse them under ``strict_size``."""
    config, found, problems = inputs.config, [], []
    for meta in inputs.metas:
        shared = inputs.panels[meta.slug].size
        subject = f"slice '{meta.name}'"
        if shared < config.genes:
            what = f"{shared} of {config.genes} genes: the other channels are padding (gene -1)"
            found.append(Notice(code="B066", subject=subject, what=what))
            fix = f"--genes {shared}, or drop the slice" if shared else "drop the slice"
            what = f"it has {shared} of {config.genes} genes"
            if config.strict_size or not shared:
                problems.append(_problem("B066", subject, what, fix))
        if min(meta.shape) < config.window:
            what = (
                f"a {meta.shape[0]} x {meta.shape[1]} grid in a window of {config.window}: padded "
                "with unobserved sites"
            )
            found.append(Notice(code="B057", subject=subject, what=what))
            if config.strict_size:
                fix = f"--window {min(meta.shape)}, or drop the slice"
                problems.append(_problem("B057", subject, what.split(":")[0], fix))
    if error := as_error(problems, BadInputError):
        raise error
    return tuple(found)


def _exhausted(inputs: BuildInputs, parts: Sequence[PartRecord]) -> Iterator[Notice]:
    """Say in which slices windows used their tries up: most of the grid holds too few spots."""
    names_of, tries = {meta.slug: meta.name for meta in inputs.metas}, inputs.config.tries
    for part in parts:
        if n := sum(sample.tries > tries for sample in part.samples):
            what = (
                f"{n:,} windows found too few spots at {tries:,} origins each: their origins were "
                "drawn among those that hold enough"
            )
            yield Notice(code="B065", subject=f"slice '{names_of[part.slug]}'", what=what)


def cut_parts(
    inputs: BuildInputs,
    work: Path,
    runner: Runner,
    started: Callable[[str, int], Callable[[], None]],
    known: int = 0,
) -> list[PartRecord]:
    """Cut every slice into its scratch part, or find it done, and return their records.

    Slices of the first `known` generations are left out: their shards stand already.

    Raises
    ------
    StError
        Any problem of a slice, all at once.
    """
    metas = [meta for meta in inputs.metas if inputs.growth.generation(meta.slug) >= known]
    generations = {inputs.growth.generation(meta.slug) for meta in metas}
    genes = {g: write_vocabulary(work, inputs.vocabulary.first(g)) for g in sorted(generations)}
    tasks = [
        PartTask(
            slug=meta.slug,
            grid=inputs.grid_path(meta.slug),
            folder=(work / "parts").absolute(),
            split=inputs.split_of[meta.slug],
            vocabulary=genes[inputs.growth.generation(meta.slug)],
            labels=inputs.labels,
            config=inputs.config,
            fingerprint=inputs.fingerprint,
        )
        for meta in metas
    ]
    outcomes = runner(cut_part, tasks, started("slices", len(tasks)))
    if errors := [outcome.error for outcome in outcomes if outcome.error is not None]:
        raise merge_errors(errors)
    return [read_part(task.record) for task in tasks]


def list_members(inputs: BuildInputs, parts: Sequence[PartRecord]) -> list[Member]:
    """Return what planning needs to know of each part."""
    licences = {meta.slug: meta.licence for meta in inputs.metas}
    return [
        Member(
            part=part,
            generation=inputs.growth.generation(part.slug),
            licence=names.licence_class(licences[part.slug]),
        )
        for part in parts
    ]


def _problem(code: str, subject: str, what: str, fix: str) -> Problem:
    return Problem(code=code, subject=subject, what=what, fix=fix)
