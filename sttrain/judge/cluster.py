"""Domains without labels: cluster the spots of every labelled slice and keep every score.

Work is cut into jobs, one per (method, algorithm, number of domains, seed); a job that is stored is
not done again.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.digests import sha256_json
from stbuild.corpus.errors import PlatformError
from stbuild.corpus.jsonio import dump_canonical
from stbuild.corpus.reader import open_corpus
from sttrain.embed.evaluation import EvaluationSet, read_evaluation_set
from sttrain.embed.projection import principal_components
from sttrain.errors import BadInputError, BadUsageError
from sttrain.judge.candidates import EmbeddingFile, collect_methods, problem
from sttrain.judge.clustering import Algorithm, Domains, abnormal_spots, chaos, find_domains
from sttrain.judge.fit_costs import CostKeeper, measured
from sttrain.judge.methods import Method
from sttrain.judge.probe_config import ClusterConfig, Number
from sttrain.judge.results import ResultStore, create_store, write_spots
from sttrain.judge.rows import RowTable, of_jobs, write_parquet
from sttrain.judge.sources import require_same_sources, sources_of, stored_sources
from sttrain.threads import one_core_threads
from sttrain.train.environment import describe_versions

_VERSION: Final = 1
"""Raised when an algorithm's definition changes, so that stored results are not taken for it."""


@dataclass(frozen=True, kw_only=True)
class ClusterRow:
    """Scores of the domains of one slice."""

    job: str
    """Digest of everything that decides the domains."""
    corpus: str
    corpus_id: str
    method: str
    source: str
    source_digest: str
    checkpoint: str | None
    algorithm: str
    number: str
    """``true`` or ``estimated``."""
    seed: int
    slice: str
    n_spots: int
    n_labelled: int
    n_classes: int
    n_domains: int
    """Domains that were found."""
    ari: float
    """Adjusted Rand index of domains and labels, over labelled spots."""
    nmi: float
    """Mutual information over the mean of both entropies, over labelled spots."""
    chaos: float
    pas: float
    """Over all spots, as `sttrain.judge.clustering` defines them."""
    settings: str
    versions: str


@dataclass(frozen=True, kw_only=True)
class ClusterOutcome:
    """What a run did."""

    rows: list[ClusterRow]
    """All rows of the folder."""
    asked: list[ClusterRow]
    """Those of the jobs of this run."""
    n_computed: int
    n_reused: int
    left_out: tuple[str, ...]
    """Slices that are not judged: no labels, or labels of one class."""


@dataclass(frozen=True, kw_only=True)
class _Job:
    method: Method
    source_digest: str
    algorithm: Algorithm
    number: Number
    seed: int
    dims: int
    corpus_id: str

    def settings(self) -> dict[str, object]:
        """Return all that decides the domains beside the vectors, as JSON values."""
        return {"version": _VERSION, "algorithm": self.algorithm, "number": self.number,
                "dims": self.dims}  # fmt: skip

    @property
    def digest(self) -> str:
        """Return the identity of the domains: what a rerun compares."""
        made_by = [self.corpus_id, self.method.name, self.source_digest, self.seed]
        return sha256_json({"cluster": made_by, "settings": self.settings()})[:16]

    @property
    def file(self) -> str:
        """Return the name of its files, without suffix."""
        return f"{self.method.name}_{self.algorithm}-{self.number}_s{self.seed:03d}_{self.digest}"


def cluster_table(store: ResultStore) -> RowTable[ClusterRow]:
    """Return the rows of domains of a folder of results; done where the domains stand, too."""
    root = store.root
    return RowTable(root / "clusters", ClusterRow, store.document.corpus_id, root / "domains")


def cluster_corpus(
    root: Path,
    out: Path,
    *,
    methods: Sequence[str | Method],
    embeddings: Sequence[EmbeddingFile] = (),
    config: ClusterConfig,
    workers: int = 1,
    keep_costs: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> ClusterOutcome:
    """Cluster the labelled slices of an evaluation corpus and store what is missing.

    Parameters are those of `sttrain.judge.probes.probe_corpus`.

    Raises
    ------
    BadUsageError
        Unknown methods, a method without features, nothing to do.
    BadInputError
        No slice with two classes, a slice with fewer spots than are needed.
    ConflictError
        `out` belongs to another corpus, or a name stands for other vectors there.
    PlatformError
        Leiden is asked for and not installed.
    """
    require_installed(config.algorithms)
    data = read_evaluation_set(open_corpus(root))
    slugs, left_out = _judged_slices(data)
    found, _ = collect_methods(data, methods=methods, embeddings=embeddings)
    store = create_store(out, data)
    sources = sources_of(found, data)
    require_same_sources(store, stored_sources(store), sources)
    table = cluster_table(store)
    write_spots(store, data, slugs)
    jobs = [
        _Job(method=method, source_digest=sources[method.name].digest, algorithm=algorithm,
             number=number, seed=seed, dims=config.dims, corpus_id=data.corpus_id)
        for method in found
        for algorithm in dict.fromkeys(config.algorithms)
        for number in dict.fromkeys(config.numbers)
        for seed in range(config.seeds)
    ]  # fmt: skip
    finished = table.finished()
    missing = [job for job in jobs if job.digest not in finished]
    costs = CostKeeper.of(out, data.corpus_id, keep=keep_costs)
    done = 0
    with one_core_threads(workers) as pool:
        for name in dict.fromkeys(job.method.name for job in missing):
            mine = [job for job in missing if job.method.name == name]
            vectors = _vectors(mine[0], data, slugs)
            running = {
                pool.submit(measured, partial(_cluster, job, data, vectors)): job for job in mine
            }
            for future in as_completed(running):
                domains, cost = future.result()
                job = running[future]
                costs.add(cost, job.digest)
                _store(store, job, domains, data)
                done += 1
                if progress:
                    progress(done, len(missing), name)
    rows = table.summarise_all(
        store.root / "clusters",
        [job.digest for job in jobs],
        lambda: sorted(
            table.rows(), key=lambda r: (r.method, r.algorithm, r.number, r.seed, r.slice)
        ),
    )
    return ClusterOutcome(
        rows=rows,
        asked=of_jobs(rows, (job.digest for job in jobs)),
        n_computed=len(missing),
        n_reused=len(jobs) - len(missing),
        left_out=left_out,
    )


def _judged_slices(data: EvaluationSet) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the slices with labels of two classes or more, and the others."""
    judged = {
        slug: np.unique(whole.labels[whole.labels >= 0]).size for slug, whole in data.slices.items()
    }
    chosen = tuple(slug for slug, n_classes in judged.items() if n_classes > 1)
    if not chosen:
        what, fix = "no slice has labels of two classes", "label it: stbuild compact --label COLUMN"
        raise BadInputError(problem("V09", f"corpus '{data.corpus}'", what, fix))
    few = [slug for slug in chosen if data.slices[slug].meta.n_spots <= judged[slug] + 1]
    if few:
        raise BadInputError(
            *(
                problem("V12", f"slice '{slug}'", f"{data.slices[slug].meta.n_spots} spots for "
                        f"{judged[slug]} domains", "leave the slice out of the corpus")
                for slug in few
            )
        )  # fmt: skip
    return chosen, tuple(slug for slug in data.slices if slug not in chosen)


def require_installed(algorithms: Sequence[str]) -> None:
    """Refuse an algorithm whose packages are missing.

    Raises
    ------
    PlatformError
        Leiden is asked for and not installed.
    """
    missing = [name for name in ("leidenalg", "igraph") if find_spec(name) is None]
    if "leiden" in algorithms and missing:
        fix = "pip install 'stcorpus[cluster]', or choose --algorithm kmeans --algorithm gmm"
        what = f"{' and '.join(missing)} not installed"
        raise PlatformError(problem("E009", "algorithm 'leiden'", what, fix))


def _vectors(
    job: _Job, data: EvaluationSet, slugs: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    """Return the vectors of every judged slice, wide ones reduced."""
    found: dict[str, NDArray[np.float64]] = {}
    for slug, part in job.method.compute(data).slices.items():
        n_spots, width = part.matrix.shape
        if not width:
            what = "it has no features that could be clustered"
            raise BadUsageError(problem("V03", f"method '{job.method.name}'", what, "leave it out"))
        if slug in slugs:
            dims = min(job.dims, n_spots - 1)
            table = {slug: part.matrix}
            if width > dims:
                table = principal_components(table, dims, f"method '{job.method.name}'")
            found[slug] = table[slug].astype(np.float64)
    return found


def _cluster(
    job: _Job, data: EvaluationSet, vectors: Mapping[str, NDArray[np.float64]]
) -> dict[str, Domains]:
    found: dict[str, Domains] = {}
    for slug, features in vectors.items():
        labels = data.slices[slug].labels
        n_classes = np.unique(labels[labels >= 0]).size if job.number == "true" else None
        found[slug] = find_domains(features, job.algorithm, n_classes, job.seed)
    return found


def _store(
    store: ResultStore, job: _Job, domains: Mapping[str, Domains], data: EvaluationSet
) -> None:
    """Store the domains of every spot, then their scores, which mean that the job is done."""
    import pyarrow as pa

    spots = pa.table(
        {
            "slice": pa.array(
                [slug for slug, found in domains.items() for _ in found], pa.string()
            ).dictionary_encode(),
            "domain": pa.array(np.concatenate(list(domains.values())), pa.int32()),
        }
    )
    write_parquet(store.root / "domains" / f"{job.file}.parquet", spots)
    rows = [_row(job, slug, found, data) for slug, found in domains.items()]
    cluster_table(store).add(job.file, rows)


def _row(job: _Job, slug: str, domains: Domains, data: EvaluationSet) -> ClusterRow:
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    whole = data.slices[slug]
    judged = whole.labels >= 0
    truth, found = whole.labels[judged], domains[judged]
    return ClusterRow(
        job=job.digest,
        corpus=data.corpus,
        corpus_id=data.corpus_id,
        method=job.method.name,
        source=job.method.source,
        source_digest=job.source_digest,
        checkpoint=job.method.checkpoint,
        algorithm=job.algorithm,
        number=job.number,
        seed=job.seed,
        slice=slug,
        n_spots=whole.meta.n_spots,
        n_labelled=int(judged.sum()),
        n_classes=int(np.unique(truth).size),
        n_domains=int(np.unique(domains).size),
        ari=float(adjusted_rand_score(truth, found)),
        nmi=float(normalized_mutual_info_score(truth, found)),
        chaos=chaos(domains, whole.xy),
        pas=abnormal_spots(domains, whole.xy),
        settings=dump_canonical(job.settings()).decode(),
        versions=describe_versions("leidenalg", "igraph"),
    )
