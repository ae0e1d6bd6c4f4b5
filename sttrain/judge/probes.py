"""Probes: fit heads on features under frozen splits and keep every score.

One classifier is fitted over all labelled slices together and scored pooled and per slice. Work
is cut into jobs, one per (method, head, split, seed, repeat); a job that is stored is not done
again, and jobs of one head and method are fitted in groups, which changes no score.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.digests import sha256_json
from stbuild.corpus.jsonio import dump_canonical
from stbuild.corpus.reader import open_corpus
from sttrain.embed.evaluation import EvaluationSet, read_evaluation_set, stack_slices
from sttrain.embed.splits import EvaluationSplit, Fold, read_split, require_usable
from sttrain.judge.candidates import EmbeddingFile, collect_methods
from sttrain.judge.exposure import find_exposure, is_exposed
from sttrain.judge.fit_costs import Cost, CostKeeper, measured
from sttrain.judge.heads import FitTask, Fitted, Head, MajorityHead
from sttrain.judge.methods import Method, Reduced, find_reduction
from sttrain.judge.metrics import score_predictions
from sttrain.judge.probe_config import ProbeConfig
from sttrain.judge.results import Predictions, ResultRow, ResultStore, create_store, write_spots
from sttrain.judge.rows import of_jobs
from sttrain.judge.sources import (
    SourceRow,
    drop_other_sources,
    require_same_sources,
    sources_of,
    stored_sources,
)
from sttrain.threads import one_core_threads
from sttrain.train.environment import describe_versions

_REPEAT_STRIDE: Final = 1000
"""Distance of the seeds of two repeats; splits have fewer seeds."""


@dataclass(frozen=True, kw_only=True)
class ProbeOutcome:
    """What a run did."""

    rows: list[ResultRow]
    """All rows of the folder."""
    asked: list[ResultRow]
    """Those of the jobs of this run."""
    n_computed: int
    """Fits of this run."""
    n_reused: int
    """Fits that were stored already."""
    needless: tuple[str, ...] = ()
    """Reductions that were left out, as the vectors have no more dimensions than that."""
    unknown: tuple[str, ...] = ()
    """Groups that are not held out, as none of their classes is known from others, a line each."""


@dataclass(frozen=True, kw_only=True)
class _Job:
    method: Method
    source_digest: str
    seen: str
    head: Head
    split: EvaluationSplit
    fold: Fold
    repeat: int
    corpus_id: str

    @property
    def digest(self) -> str:
        """Return the identity of the predictions: what a rerun compares."""
        return sha256_json(
            {
                "corpus": self.corpus_id,
                "source": self.source_digest,
                "method": self.method.name,
                "head": self.head.settings(),
                "split": [self.split.name, self.split.digest],
                "seed": [self.fold.seed, self.repeat],
            }
        )[:16]

    def task(self, features: NDArray[np.float32]) -> FitTask:
        """Return the fit, given the features of the spots of the split."""
        return FitTask(
            features=features,
            labels=self.split.labels,
            train=self.split.training_spots(self.fold),
            seed=self.fold.seed + _REPEAT_STRIDE * self.repeat,
        )


def probe_corpus(
    root: Path,
    out: Path,
    *,
    methods: Sequence[str | Method],
    embeddings: Sequence[EmbeddingFile] = (),
    config: ProbeConfig,
    workers: int = 1,
    replace: bool | None = None,
    keep_costs: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> ProbeOutcome:
    """Judge methods on an evaluation corpus and store what is missing.

    Parameters
    ----------
    root
        Evaluation corpus.
    out
        Folder of results; made, or continued.
    methods
        Names of the table of `sttrain.judge.methods`, or objects of its protocol.
    embeddings
        Files of vectors.
    config
        Splits, heads and their settings.
    workers
        Fits that run at the same time; it does not change any score.
    replace
        Drop stored results, of any kind, of an embedding whose file has changed since. They are
        refused without it; false advises to give it, none says that the caller has no such option.
    keep_costs
        Store seconds and memory of every fit in ``costs/``, the one folder whose bytes differ
        from run to run.
    progress
        Called with (fits done, fits in all, what is being done).

    Raises
    ------
    BadUsageError
        Unknown methods, splits or heads; nothing to do.
    BadInputError
        Embeddings that do not fit the corpus (all problems at once), splits without meaning.
    ConflictError
        `out` belongs to another corpus, or a name stands for other vectors there.
    """
    data = read_evaluation_set(corpus := open_corpus(root))
    splits = [read_split(corpus, data, name, config.seeds) for name in dict.fromkeys(config.splits)]
    heads = config.make_heads()
    require_usable(splits, max(head.least for head in heads))
    slugs = sorted({slug for split in splits for slug in split.slugs})
    found, needless = collect_methods(
        data, methods=methods, embeddings=embeddings, reduce=config.reduce
    )
    store = create_store(out, data)
    stored = stored_sources(store)
    sources = sources_of([*found, *_stored_reductions(stored["jobs"], found)], data)
    seen = {method.name: find_exposure(method, data) for method in found}
    if replace:
        drop_other_sources(store, stored, sources)
    else:
        fix = None if replace is None else "drop the stored results: --replace"
        require_same_sources(store, stored, sources, fix=fix)
    write_spots(store, data, slugs)
    jobs = [
        _Job(
            method=method,
            source_digest=sources[method.name].digest,
            seen=seen[method.name],
            head=head,
            split=split,
            fold=fold,
            repeat=repeat,
            corpus_id=data.corpus_id,
        )
        for method in found
        for head in heads
        for split in splits
        for fold in split.folds
        for repeat in range(config.held_out_seeds if fold.held_out and head.is_random else 1)
    ]
    finished = store.finished()
    missing = [job for job in jobs if job.digest not in finished]
    costs = CostKeeper.of(out, data.corpus_id, keep=keep_costs)
    _run_jobs(missing, data, store, costs, workers, progress)
    rows = store.summarise([job.digest for job in jobs])
    return ProbeOutcome(
        rows=rows,
        asked=of_jobs(rows, (job.digest for job in jobs)),
        n_computed=len(missing),
        n_reused=len(jobs) - len(missing),
        needless=tuple(needless),
        unknown=tuple(
            f"split '{split.name}': '{group}', none of whose classes is known from others"
            for split in splits
            for group in split.unknown_groups
        ),
    )


def _stored_reductions(rows: Iterable[SourceRow], methods: Sequence[Method]) -> list[Reduced]:
    """Return the reductions of methods that are stored and not asked for: they go with these."""
    names = {row.method for row in rows} - {method.name for method in methods}
    found = (find_reduction(name, methods) for name in sorted(names))
    return [method for method in found if method is not None]


def _run_jobs(
    jobs: Sequence[_Job],
    data: EvaluationSet,
    store: ResultStore,
    costs: CostKeeper,
    workers: int,
    progress: Callable[[int, int, str], None] | None,
) -> None:
    """Run jobs method by method: the features of one, and of the next, are in memory at a time."""
    done = 0
    versions = describe_versions()
    by_method: dict[str, list[_Job]] = {}
    for job in jobs:
        by_method.setdefault(job.method.name, []).append(job)
    waiting = list(by_method.values())
    with one_core_threads(workers) as pool:
        ahead = [pool.submit(_stacks, mine, data) for mine in waiting[:1]]
        for number, mine in enumerate(waiting):
            if progress:
                progress(done, len(jobs), mine[0].method.name)
            stacks = ahead.pop().result()
            ahead += [pool.submit(_stacks, them, data) for them in waiting[number + 1 : number + 2]]
            for group, (fitted, cost) in _as_fitted(pool, mine, stacks):
                costs.add(cost, *(job.digest for job in group))
                for job, said in zip(group, fitted, strict=True):
                    store.add(*_judge(job, said, data, versions))
                done += len(group)
                if progress:
                    progress(done, len(jobs), mine[0].method.name)


_Stacks = Mapping[tuple[str, ...], NDArray[np.float32]]


def _stacks(jobs: Sequence[_Job], data: EvaluationSet) -> _Stacks:
    """Return the features of one method, spots of the slices of each split below each other."""
    vectors = jobs[0].method.compute(data)
    matrices = {slug: part.matrix for slug, part in vectors.slices.items()}
    wanted = dict.fromkeys(job.split.slugs for job in jobs)
    return {slugs: stack_slices(matrices, slugs) for slugs in wanted}


def _as_fitted(
    pool: ThreadPoolExecutor, jobs: Sequence[_Job], stacks: _Stacks
) -> Iterator[tuple[Sequence[_Job], tuple[list[Fitted], Cost]]]:
    """Yield groups of jobs with what they say and took, as they end."""
    running: dict[Future[tuple[list[Fitted], Cost]], Sequence[_Job]] = {}
    for head in dict.fromkeys(job.head for job in jobs):
        mine = [job for job in jobs if job.head == head]
        tasks = [job.task(stacks[job.split.slugs]) for job in mine]
        size = head.together(tasks)
        featureless = tasks[0].features.shape[1] == 0
        for start in range(0, len(mine), size):
            chosen = np.s_[start : start + size]
            fit = MajorityHead().fit if featureless else head.fit
            running[pool.submit(measured, partial(fit, tasks[chosen]))] = mine[chosen]
    for future in as_completed(running):
        yield running[future], future.result()


def _judge(
    job: _Job, fitted: Fitted, data: EvaluationSet, versions: str
) -> tuple[list[ResultRow], list[Predictions]]:
    """Score a fit pooled and per slice; a slice without a judged spot has no row."""
    split, test, predicted = job.split, job.fold.test, fitted.predicted
    train = split.training_spots(job.fold)
    known = np.unique(split.labels[train])
    inside = np.zeros(test.size, np.bool_)
    rows: list[ResultRow] = []
    predictions: list[Predictions] = []
    for slug in (None, *split.slugs):
        here = np.s_[:] if slug is None else split.spots_of(slug)
        inside[:] = False
        inside[here] = True
        chosen = test & inside
        if slug is not None:
            names = tuple(data.labels[code] for code in predicted[here].tolist())
            codes = job.fold.codes[here].tobytes().decode()
            predictions.append(Predictions(slice=slug, codes=codes, predicted=names))
        if chosen.any():
            truth = split.labels[chosen]
            rows.append(
                ResultRow(
                    job=job.digest,
                    corpus=data.corpus,
                    corpus_id=data.corpus_id,
                    method=job.method.name,
                    source=job.method.source,
                    source_digest=job.source_digest,
                    checkpoint=job.method.checkpoint,
                    head=job.head.name,
                    epochs=fitted.epochs,
                    converged=fitted.converged,
                    split=split.name,
                    split_digest=split.digest,
                    transductive=split.transductive or is_exposed(job.seen),
                    seen=job.seen,
                    held_out=job.fold.held_out,
                    seed=job.fold.seed,
                    repeat=job.repeat,
                    slice=slug,
                    n_train=int(inside[train].sum()),
                    n_test=int(chosen.sum()),
                    n_classes=int(known.size),
                    rare=_listed(data, split.rare),
                    absent=_listed(data, np.setdiff1d(truth, known).tolist()),
                    settings=dump_canonical(job.head.settings()).decode(),
                    versions=versions,
                    **asdict(score_predictions(truth, predicted[chosen])),
                )
            )
    return rows, predictions


def _listed(data: EvaluationSet, codes: Iterable[int]) -> str:
    return "; ".join(data.labels[code] for code in codes)
