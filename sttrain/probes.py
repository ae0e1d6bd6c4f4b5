"""Probes: fit heads on features under frozen splits and keep every score.

One classifier is fitted over all labelled slices together and scored pooled and per slice. Work
is cut into jobs, one per (method, head, split, seed); a job that is stored is not done again.
"""

import platform
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.digests import sha256_json
from stbuild.corpus.errors import merge_errors
from stbuild.corpus.jsonio import dump_canonical
from stbuild.corpus.reader import open_corpus
from sttrain.baselines import BASELINE_VERSION, Method, compute_baseline, parse_method
from sttrain.embeddings import Embeddings, align_embeddings, read_embeddings, require_suffix
from sttrain.errors import BadUsageError, ConflictError, Problem, StError
from sttrain.evaluation import EvaluationSet, read_evaluation_set, stack_slices
from sttrain.heads import Head, MajorityHead
from sttrain.metrics import score_predictions
from sttrain.probe_config import ProbeConfig
from sttrain.results import Predictions, ResultRow, ResultStore, create_store, write_spots
from sttrain.splits import EvaluationSplit, Fold, read_split, require_usable

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_PACKAGES: Final = ("numpy", "scipy", "scikit-learn", "torch")


@dataclass(frozen=True, kw_only=True)
class EmbeddingFile:
    """An embedding to judge: its name in tables and its file."""

    name: str
    path: Path
    key: str | None = None
    """Name in ``obsm`` of an ``.h5ad``."""


@dataclass(frozen=True, kw_only=True)
class ProbeOutcome:
    """What a run did."""

    rows: list[ResultRow]
    """All rows of the folder."""
    n_computed: int
    """Fits of this run."""
    n_reused: int
    """Fits that were stored already."""


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A method to judge; its features are made when they are needed."""

    name: str
    source: str
    digest: str
    checkpoint: str | None
    is_majority: bool
    features: Callable[[], Embeddings]


@dataclass(frozen=True, kw_only=True)
class _Job:
    candidate: _Candidate
    head: Head
    split: EvaluationSplit
    fold: Fold
    corpus_id: str

    @property
    def digest(self) -> str:
        """Return the identity of the predictions: what a rerun compares."""
        return sha256_json(
            {
                "corpus": self.corpus_id,
                "source": self.candidate.digest,
                "method": self.candidate.name,
                "head": self.head.settings(),
                "split": [self.split.name, self.split.digest],
                "seed": self.fold.seed,
            }
        )[:16]


def parse_embedding(text: str) -> EmbeddingFile:
    """Read ``NAME=FILE`` or ``NAME=FILE.h5ad:KEY``.

    Raises
    ------
    BadUsageError
        Another form, a name outside ``[a-z0-9-]``, the name of a baseline, a foreign suffix.
    """
    name, separator, place = text.partition("=")
    stem, colon, key = place.rpartition(":")
    file, wanted = (Path(stem), key) if colon and stem.endswith(".h5ad") else (Path(place), None)
    if not separator or not place or not _NAME.fullmatch(name):
        what = "NAME=FILE was expected, the name of lower-case letters, digits and hyphens"
        raise BadUsageError(_problem("V15", text, what, "such as ours=emb.h5ad"))
    try:
        parse_method(name)
    except BadUsageError:
        require_suffix(file)
        return EmbeddingFile(name=name, path=file, key=wanted)
    what = f"'{name}' is the name of a baseline"
    raise BadUsageError(_problem("V15", text, what, "give the embedding another name"))


def probe_corpus(
    root: Path,
    out: Path,
    *,
    methods: Sequence[str],
    embeddings: Sequence[EmbeddingFile],
    config: ProbeConfig,
    workers: int = 1,
    replace: bool = False,
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
        Names of baselines.
    embeddings
        Files of vectors.
    config
        Splits, heads and their settings.
    workers
        Fits that run at the same time; it does not change any score.
    replace
        Drop stored results of an embedding whose file has changed since.
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
    parsed = _parse_all(methods, embeddings)
    data = read_evaluation_set(corpus := open_corpus(root))
    splits = [read_split(corpus, data, name, config.seeds) for name in dict.fromkeys(config.splits)]
    heads = config.make_heads()
    require_usable(splits, max(head.least for head in heads))
    slugs = sorted({slug for split in splits for slug in split.slugs})
    candidates = [_baseline(data, method) for method in parsed]
    candidates += _read_all(embeddings, data, slugs)
    store = create_store(out, data)
    _settle_conflicts(store, candidates, replace=replace)
    write_spots(store, data, slugs)
    jobs = [
        _Job(candidate=candidate, head=head, split=split, fold=fold, corpus_id=data.corpus_id)
        for candidate in candidates
        for split in splits
        for head in heads
        for fold in split.folds
    ]
    finished = store.finished()
    missing = [job for job in jobs if job.digest not in finished]
    _run_jobs(missing, data, store, workers, progress)
    rows = store.summarise()
    return ProbeOutcome(rows=rows, n_computed=len(missing), n_reused=len(jobs) - len(missing))


def _parse_all(methods: Sequence[str], embeddings: Sequence[EmbeddingFile]) -> list[Method]:
    parsed, errors = [], []
    for name in dict.fromkeys(methods):
        try:
            parsed.append(parse_method(name))
        except BadUsageError as error:
            errors.append(error)
    if errors:
        raise merge_errors(errors)
    names = [embedding.name for embedding in embeddings]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        what = f"{', '.join(twice)} given more than once"
        raise BadUsageError(_problem("V15", "--embedding", what, "give every file its own name"))
    if not parsed and not names:
        fix = "such as --method raw, or --embedding ours=emb.h5ad"
        raise BadUsageError(_problem("V03", "probe", "nothing to judge", fix))
    return parsed


def _baseline(data: EvaluationSet, method: Method) -> _Candidate:
    definition = {"corpus": data.corpus_id, "baseline": method.name, "version": BASELINE_VERSION}
    return _Candidate(
        name=method.name,
        source="baseline",
        digest=sha256_json(definition),
        checkpoint=None,
        is_majority=method.kind == "majority",
        features=partial(compute_baseline, data, method),
    )


def _read_all(
    files: Iterable[EmbeddingFile], data: EvaluationSet, slugs: Sequence[str]
) -> list[_Candidate]:
    """Read and check every file; the problems of all of them are reported together."""
    barcodes = {slug: data.barcodes(slug) for slug in slugs}
    found: list[_Candidate] = []
    errors: list[StError] = []
    for file in files:
        try:
            vectors = read_embeddings(file.path, file.key)
            aligned = align_embeddings(vectors, barcodes, f"'{file.name}' ({file.path.name})")
            _require_same_corpus(file, aligned, data)
        except StError as error:
            errors.append(error)
            continue
        checkpoint = aligned.provenance.get("checkpoint")
        found.append(
            _Candidate(
                name=file.name,
                source="embedding",
                digest=aligned.digest(),
                checkpoint=str(checkpoint) if checkpoint else None,
                is_majority=False,
                features=partial(_same, aligned),
            )
        )
    if errors:
        raise merge_errors(errors)
    return found


def _same(embeddings: Embeddings) -> Embeddings:
    return embeddings


def _require_same_corpus(file: EmbeddingFile, vectors: Embeddings, data: EvaluationSet) -> None:
    """Refuse vectors that say they were made from another corpus; foreign files say nothing."""
    made_from = vectors.provenance.get("corpus_id")
    if made_from is not None and made_from != data.corpus_id:
        what = f"made from corpus {str(made_from)[:12]}, this one is {data.corpus_id[:12]}"
        fix = "run `sttrain embed` on this corpus"
        raise ConflictError(_problem("V10", f"embedding '{file.name}'", what, fix))


def _settle_conflicts(
    store: ResultStore, candidates: Sequence[_Candidate], *, replace: bool
) -> None:
    """Refuse, or with `replace` remove, stored rows of a name that stood for other vectors."""
    digests = {candidate.name: candidate.digest for candidate in candidates}
    stale = [r for r in store.rows() if digests.get(r.method, r.source_digest) != r.source_digest]
    if not stale:
        return
    if replace:
        store.remove(stale)
        return
    fix = "choose another name, another -o folder, or --replace to drop the stored results"
    what = "the stored results of this name are of other vectors"
    raise ConflictError(
        *(
            _problem("V16", f"method '{name}'", what, fix)
            for name in sorted({r.method for r in stale})
        )
    )


def _run_jobs(
    jobs: Sequence[_Job],
    data: EvaluationSet,
    store: ResultStore,
    workers: int,
    progress: Callable[[int, int, str], None] | None,
) -> None:
    """Run jobs method by method, so that the features of one method are in memory at a time."""
    done = 0
    versions = _versions()
    for name in dict.fromkeys(job.candidate.name for job in jobs):
        mine = [job for job in jobs if job.candidate.name == name]
        if progress:
            progress(done, len(jobs), name)
        vectors = mine[0].candidate.features()
        matrices = {slug: part.matrix for slug, part in vectors.slices.items()}
        stacks = {job.split.slugs: stack_slices(matrices, job.split.slugs) for job in mine}
        tasks = [partial(_fit, job, stacks[job.split.slugs]) for job in mine]
        for number, predicted in _in_threads(tasks, workers):
            store.add(*_judge(mine[number], predicted, data, versions))
            done += 1
            if progress:
                progress(done, len(jobs), name)


def _in_threads(
    tasks: Sequence[Callable[[], NDArray[np.int16]]], workers: int
) -> Iterable[tuple[int, NDArray[np.int16]]]:
    """Yield (number, result) as tasks finish, each on one thread: scores do not depend on it."""
    import torch
    from threadpoolctl import threadpool_limits

    def prepare() -> None:
        # torch's own threads and those of BLAS and OpenMP libraries are counted per thread.
        torch.set_num_threads(1)
        threadpool_limits(1)

    before = torch.get_num_threads()
    with threadpool_limits(1):
        try:
            with ThreadPoolExecutor(max(1, workers), "probe", prepare) as pool:
                numbers = {pool.submit(task): i for i, task in enumerate(tasks)}
                try:
                    for future in as_completed(numbers):
                        yield numbers[future], future.result()
                finally:
                    pool.shutdown(wait=True, cancel_futures=True)
        finally:
            torch.set_num_threads(before)


def _fit(job: _Job, features: NDArray[np.float32]) -> NDArray[np.int16]:
    head = MajorityHead() if job.candidate.is_majority else job.head
    train = job.split.training_spots(job.fold)
    return head.fit_predict(features, job.split.labels, train, job.fold.seed)


def _judge(
    job: _Job, predicted: NDArray[np.int16], data: EvaluationSet, versions: str
) -> tuple[list[ResultRow], list[Predictions]]:
    """Score a fit pooled and per slice; a slice without a judged spot has no row."""
    split, test = job.split, job.fold.test
    train = split.training_spots(job.fold)
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
            scores = score_predictions(split.labels[chosen], predicted[chosen])
            rows.append(
                ResultRow(
                    job=job.digest,
                    corpus=data.corpus,
                    corpus_id=data.corpus_id,
                    method=job.candidate.name,
                    source=job.candidate.source,
                    source_digest=job.candidate.digest,
                    checkpoint=job.candidate.checkpoint,
                    head=job.head.name,
                    epochs=job.head.epochs,
                    split=split.name,
                    split_digest=split.digest,
                    transductive=split.transductive,
                    seed=job.fold.seed,
                    slice=slug,
                    n_train=int(inside[train].sum()),
                    n_test=int(chosen.sum()),
                    n_classes=int(np.unique(split.labels[train]).size),
                    rare="; ".join(data.labels[code] for code in split.rare),
                    settings=dump_canonical(job.head.settings()).decode(),
                    versions=versions,
                    **asdict(scores),
                )
            )
    return rows, predictions


def _versions() -> str:
    from sttrain import __version__

    found = {"sttrain": __version__, "python": platform.python_version()}
    return dump_canonical(found | {name: version(name) for name in _PACKAGES}).decode()


def _problem(code: str, subject: str, what: str, fix: str) -> Problem:
    return Problem(code=code, subject=subject, what=what, fix=fix)
