"""Masked-region reconstruction (the paper's Table 7): hide squares, fill them, keep every score.

All methods meet the same regions; a job is one (method, slice, window, size) with a row a
repetition, and a job that is stored is not done again.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from stbuild.corpus.digests import sha256_json
from stbuild.corpus.jsonio import dump_canonical
from stbuild.corpus.reader import Corpus, open_corpus
from sttrain.embed.evaluation import require_sound
from sttrain.errors import BadInputError, BadUsageError
from sttrain.judge.candidates import problem
from sttrain.judge.fillers import INTERPOLATIONS, Filler, load_filler
from sttrain.judge.fit_costs import CostKeeper, measured
from sttrain.judge.methods import NAME
from sttrain.judge.probe_config import ReconstructConfig
from sttrain.judge.reconstruction import find_overflow, score_region
from sttrain.judge.regions import RegionSource, TooSmallError
from sttrain.judge.results import ResultStore, open_or_create
from sttrain.judge.rows import RowTable, of_jobs
from sttrain.judge.sources import Source, require_same_sources, stored_sources
from sttrain.threads import one_core_threads
from sttrain.train.environment import describe_versions

_VERSION: Final = 1
"""Raised when regions or scores are defined anew, so that stored rows are not taken for these."""


@dataclass(frozen=True, kw_only=True)
class RegionRow:
    """Scores of one filled region."""

    job: str
    corpus: str
    corpus_id: str
    method: str
    source_digest: str
    checkpoint: str | None
    slice: str
    window: int
    size: int
    repeat: int
    n_hidden: int
    """Spots that were hidden."""
    n_shown: int
    """Spots of the window that were shown."""
    n_genes: int
    mse: float
    mae: float
    pearson_gene: float | None
    pearson_spot: float | None
    poisson_deviance: float
    genes_left_out: int
    spots_left_out: int
    rates_raised: int
    settings: str
    versions: str


@dataclass(frozen=True, kw_only=True)
class ReconstructOutcome:
    """What a run did."""

    rows: list[RegionRow]
    """All rows of the folder."""
    asked: list[RegionRow]
    """Those of the jobs of this run."""
    n_computed: int
    """Regions that were filled in this run."""
    n_reused: int
    left_out: tuple[str, ...] = ()
    """Slices and sizes without room, a line each, where they may be left out."""


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """A checkpoint to judge: its name in tables, and where it lies."""

    name: str
    path: Path
    initial: bool = False
    """The weights before the first step."""


@dataclass(frozen=True, kw_only=True)
class _Job:
    filler: Filler
    slug: str
    window: int
    size: int
    config: ReconstructConfig
    corpus_id: str

    def settings(self) -> dict[str, object]:
        """Return all that decides the regions, as JSON values."""
        kept = self.config.model_dump(include={"genes", "repeats", "seed"})
        return {"version": _VERSION, **kept}

    @property
    def digest(self) -> str:
        """Return the identity of the rows: what a rerun compares."""
        made_by = [self.corpus_id, self.filler.name, self.filler.identity]
        region = [self.slug, self.window, self.size]
        return sha256_json({"fill": made_by, "region": region, "with": self.settings()})[:16]

    @property
    def file(self) -> str:
        """Return the name of its file, without suffix."""
        return f"{self.filler.name}_{self.slug}_w{self.window}-s{self.size}_{self.digest}"


def region_table(store: ResultStore) -> RowTable[RegionRow]:
    """Return the rows of filled regions of a folder of results."""
    return RowTable(store.root / "regions", RegionRow, store.document.corpus_id)


def reconstruct_corpus(
    root: Path,
    out: Path,
    *,
    models: Sequence[ModelFile] = (),
    controls: Sequence[str] = tuple(INTERPOLATIONS),
    slices: Sequence[str] = (),
    config: ReconstructConfig,
    skip_small: bool = False,
    keep_costs: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> ReconstructOutcome:
    """Hide squares of the slices of a corpus, let methods fill them, and store what is missing.

    Parameters
    ----------
    root
        Any corpus with whole slices; labels are not needed.
    out
        Folder of results; made, or continued.
    models
        Checkpoints.
    controls
        Names among ``gene-mean, nearest16, inverse-distance``.
    slices
        Slugs; all without it.
    config
        Windows, sizes, genes and repetitions.
    skip_small
        Leave out, and tell, the sizes for which a slice has no room, instead of refusing them.
    keep_costs
        As of `sttrain.judge.probes.probe_corpus`.
    progress
        Called with (jobs done, jobs in all, slice).
    say
        Hears of damaged checkpoints that were passed over.

    Raises
    ------
    BadUsageError
        A window that is not larger than a size, unknown controls or slices, nothing to do.
    BadInputError
        No whole slices, a slice that is too small for the regions, genes unknown to a model.
    ConflictError
        `out` belongs to another corpus, or a name stands for another model there.
    """
    _require_sides(config)
    corpus = open_corpus(root)
    slugs = _chosen_slices(corpus, slices)
    fillers = _fillers(corpus, models, controls, say)
    store = open_or_create(out, corpus.document.name, corpus.document.corpus_id)
    table = region_table(store)
    sources = {f.name: Source(digest=f.identity, checkpoint=f.checkpoint) for f in fillers}
    require_same_sources(store, stored_sources(store), sources, of_models=True)
    jobs = [
        _Job(filler=filler, slug=slug, window=window, size=size, config=config,
             corpus_id=corpus.document.corpus_id)
        for slug in slugs
        for window in dict.fromkeys(config.windows)
        for size in dict.fromkeys(config.sizes)
        for filler in fillers
    ]  # fmt: skip
    finished = table.finished()
    missing = [job for job in jobs if job.digest not in finished]
    costs = CostKeeper.of(out, store.document.corpus_id, keep=keep_costs)
    left_out: list[str] = []
    stored = {job.digest for job in jobs} & finished
    n_computed = 0
    with one_core_threads(1) as pool:
        for done, (job, source) in enumerate(_with_sources(missing, corpus)):
            if progress:
                progress(done, len(missing), job.slug)
            try:
                filled, cost = pool.submit(measured, partial(_rows, job, source, corpus)).result()
            except TooSmallError as error:
                if not skip_small:
                    raise
                left_out.append(f"{error.problems[0].subject}: {error.problems[0].what}")
                continue
            costs.add(cost, job.digest)
            table.add(job.file, filled)
            stored.add(job.digest)
            n_computed += len(filled)
    rows = table.summarise_all(
        store.root / "regions",
        stored,
        lambda: sorted(table.rows(), key=lambda r: (r.method, r.slice, r.window, r.size, r.repeat)),
    )
    return ReconstructOutcome(
        rows=rows,
        asked=of_jobs(rows, (job.digest for job in jobs)),
        n_computed=n_computed,
        n_reused=(len(jobs) - len(missing)) * config.repeats,
        left_out=tuple(dict.fromkeys(left_out)),
    )


def _with_sources(jobs: Sequence[_Job], corpus: Corpus) -> Iterator[tuple[_Job, RegionSource]]:
    """Yield every job with the regions of its slice, slice by slice."""
    for split in corpus.document.splits("slice"):
        for whole in corpus.whole_slices(split):
            require_sound(whole, len(corpus.document.labels))
            mine = [job for job in jobs if job.slug == whole.meta.slice]
            source = RegionSource(whole, whole.genes) if mine else None
            yield from ((job, source) for job in mine if source)


def parse_models(
    checkpoint: Path, name: str, more: Sequence[str], *, untrained: bool
) -> list[ModelFile]:
    """Read the checkpoint of a command line, and further ones as ``NAME=CHECKPOINT``.

    Raises
    ------
    BadUsageError
        Another form.
    """
    found = [ModelFile(name=name, path=checkpoint)]
    if untrained:
        found.append(ModelFile(name="untrained", path=checkpoint, initial=True))
    for text in more:
        label, separator, place = text.partition("=")
        if not label or not separator or not place:
            fix = "such as --model spot=runs/spot"
            raise BadUsageError(problem("V15", text, "NAME=CHECKPOINT was expected", fix))
        found.append(ModelFile(name=label, path=Path(place)))
    return found


def _rows(job: _Job, source: RegionSource, corpus: Corpus) -> list[RegionRow]:
    """Fill all repetitions of a job."""
    rows: list[RegionRow] = []
    for repeat in range(job.config.repeats):
        region = source.draw(window=job.window, size=job.size, n_genes=job.config.genes,
                             seed=job.config.seed, number=repeat)  # fmt: skip
        hidden = region.hidden
        predicted = job.filler.fill(region)
        if fault := find_overflow(predicted):
            subject = f"method '{job.filler.name}'"
            fix = "the model has diverged; use an earlier checkpoint"
            raise BadInputError(problem("V02", subject, fault, fix))
        scores = score_region(
            region.values_of(hidden),
            predicted,
            region.counts_of(hidden),
            region.whole.totals[hidden].astype(np.float64),
        )
        rows.append(
            RegionRow(
                job=job.digest,
                corpus=corpus.document.name,
                corpus_id=job.corpus_id,
                method=job.filler.name,
                source_digest=job.filler.identity,
                checkpoint=job.filler.checkpoint,
                slice=job.slug,
                window=job.window,
                size=job.size,
                repeat=repeat,
                n_hidden=int(hidden.sum()),
                n_shown=int(region.shown.sum()),
                n_genes=int(region.genes.size),
                settings=dump_canonical(job.settings()).decode(),
                versions=describe_versions(),
                **asdict(scores),
            )
        )
    return rows


def _require_sides(config: ReconstructConfig) -> None:
    bad = [(w, s) for w in config.windows for s in config.sizes if w <= s]
    if bad:
        listed = ", ".join(f"window {w} with size {s}" for w, s in bad[:5])
        what = f"a window has to be larger than the hidden square; given {listed}"
        fix = "choose larger --window or smaller --size"
        raise BadUsageError(problem("V24", "--window, --size", what, fix))


def _chosen_slices(corpus: Corpus, wanted: Sequence[str]) -> list[str]:
    known = [entry.slug for entry in corpus.document.slices]
    if not corpus.document.splits("slice"):
        what, fix = "it holds no whole slices", "build it with --cover or --whole-slices"
        raise BadInputError(problem("V17", f"corpus '{corpus.document.name}'", what, fix))
    if unknown := [slug for slug in wanted if slug not in known]:
        fix = f"slices of the corpus: {', '.join(known[:20])}"
        raise BadUsageError(
            *(problem("V03", f"slice '{slug}'", "no such slice", fix) for slug in unknown)
        )
    return list(dict.fromkeys(wanted)) or known


def _fillers(
    corpus: Corpus, models: Sequence[ModelFile], controls: Sequence[str], say: Callable[[str], None]
) -> list[Filler]:
    unknown = [name for name in controls if name not in INTERPOLATIONS]
    if unknown:
        fix = f"choose among {', '.join(INTERPOLATIONS)}"
        raise BadUsageError(
            *(problem("V03", f"control '{name}'", "no such control", fix) for name in unknown)
        )
    names = [*dict.fromkeys(controls), *(model.name for model in models)]
    bad = [n for n in names if not NAME.fullmatch(n)]
    bad += sorted({n for n in names if names.count(n) > 1})
    if bad or not names:
        what = f"names that stand twice or hold other letters than a-z, 0-9, -: {', '.join(bad)}"
        fix = "give every model its own name, such as ours=run/"
        raise BadUsageError(problem("V15", "models", what if bad else "nothing to judge", fix))
    found: list[Filler] = [INTERPOLATIONS[name] for name in dict.fromkeys(controls)]
    return found + [
        load_filler(model.path, corpus, model.name, initial=model.initial, say=say)
        for model in models
    ]
