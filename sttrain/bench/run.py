"""Run a suite: embed what has to be, judge it all, and write one table of what came of it.

Each data set has a folder of results of its own below the output, in which any suite continues;
``NAME.parquet`` and ``NAME.csv`` hold the rows of the suite NAME and nothing else.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

from stbuild.corpus.documents import Document, Sha256
from stbuild.corpus.durable import PARTIAL, remove_dead_below, write_durable
from stbuild.corpus.errors import PlatformError
from stbuild.corpus.outputs import refuse_foreign
from stbuild.corpus.reader import Corpus, open_corpus
from sttrain.bench.inputs import DataPlan, Given, make_plan
from sttrain.bench.printed import Printed, read_printed
from sttrain.bench.rows import BenchRow, RowMaker
from sttrain.bench.suite import VECTORS, Suite, untrained_name
from sttrain.bench.vectors import Progress, VectorCache
from sttrain.embed.evaluation import EvaluationSet, read_evaluation_set
from sttrain.embed.splits import EvaluationSplit, read_split, split_faults
from sttrain.errors import BadInputError, BadUsageError, Problem, StError
from sttrain.judge.baselines import refusals
from sttrain.judge.candidates import EmbeddingFile, GivenVectors
from sttrain.judge.cluster import ClusterRow, require_installed
from sttrain.judge.fillers import FILLING
from sttrain.judge.fit_costs import read_costs
from sttrain.judge.methods import Method, find_methods
from sttrain.judge.probe_config import HeadName, ProbeConfig
from sttrain.judge.reconstruct import RegionRow
from sttrain.judge.results import MARK, ResultRow
from sttrain.judge.rows import RowTable
from sttrain.seals import SealedDocument

FEATURELESS: Final = "majority"
"""The control without features; it has no clusters."""


class DataRecord(Document):
    """A data set as it was judged."""

    corpus: str
    corpus_id: Sha256
    groups: dict[str, str]
    """Donor by slice, or the slice where no donor is known."""


class BenchDocument(SealedDocument):
    """``NAME.json``: what was run, on which corpora, and what was not."""

    format: Literal["sttrain/bench"] = "sttrain/bench"
    version: Literal[1] = 1
    suite: Suite
    data: dict[str, DataRecord]
    skipped: tuple[str, ...]
    """What the suite asks for and was not given, a line each."""
    printed: tuple[Printed, ...] = ()
    """Numbers of the paper's table that the suite repeats."""


@dataclass(frozen=True, kw_only=True)
class BenchOutcome:
    """What a run did."""

    rows: list[BenchRow]
    """All rows of the suite."""
    n_computed: int
    n_reused: int
    skipped: tuple[str, ...]


@dataclass
class _Run:
    """A suite that is running."""

    suite: Suite
    out: Path
    workers: int
    device: str
    skip_missing: bool
    progress: Progress | None
    say: Callable[[str], None]
    skipped: list[str] = field(default_factory=list)
    n_computed: int = 0
    n_reused: int = 0

    def skip(self, problems: Iterable[Problem], refuse: type[StError] = BadUsageError) -> None:
        """Count what is not there, or refuse it.

        Raises
        ------
        StError
            It may not be skipped; as `refuse`.
        """
        listed = list(problems)
        if listed and not self.skip_missing:
            raise refuse(*listed)
        self._tell(f"{problem.subject}: {problem.what}" for problem in listed)

    def _tell(self, lines: Iterable[str]) -> None:
        """Count what is left out, each once."""
        self.skipped += [line for line in dict.fromkeys(lines) if line not in self.skipped]

    def judge(self, plan: DataPlan) -> tuple[DataRecord, list[BenchRow]]:
        """Judge everything on one data set."""
        corpus = open_corpus(plan.folder)
        groups = {entry.slug: entry.donor or entry.slug for entry in corpus.document.slices}
        methods: list[str | Method] = []
        data: EvaluationSet | None = None
        if self.suite.probe or self.suite.cluster:
            data = read_evaluation_set(corpus)
            methods = [*self._controls(plan, data), *self._vectors(plan, corpus, data)]
        folder = self.out / plan.name
        detected = self._probe(plan, corpus, data, methods)
        clustered = self._cluster(plan, folder, methods)
        filled = self._reconstruct(plan, folder)
        costs = read_costs(folder, corpus.document.corpus_id)
        maker = RowMaker(suite=self.suite.name, data=plan.name, groups=groups, costs=costs)
        record = DataRecord(
            corpus=corpus.document.name, corpus_id=corpus.document.corpus_id, groups=groups
        )
        return record, [
            *(maker.detection(row) for row in detected),
            *(maker.clustering(row) for row in clustered),
            *(maker.reconstruction(row) for row in filled),
        ]

    def _controls(self, plan: DataPlan, data: EvaluationSet) -> list[str]:
        """Return the controls that a data set can give; of others it is told that it cannot."""
        refused = refusals(find_methods(self.suite.methods), data)
        self._tell(
            f"data set '{plan.name}', {problem.subject}: {problem.what}"
            for problem in refused.values()
        )
        return [name for name in self.suite.methods if name not in refused]

    def _vectors(self, plan: DataPlan, corpus: Corpus, data: EvaluationSet) -> list[GivenVectors]:
        cache = VectorCache(
            root=self.out,
            data=data,
            device=self.device,
            progress=self.progress,
            say=self.say,
        )
        found: list[GivenVectors] = []
        for model in plan.models:
            names = {model.checkpoint.name: False}
            if model.checkpoint.untrained:
                names[untrained_name(model.checkpoint)] = True
            for name, initial in names.items():
                found.append(
                    cache.of_checkpoint(
                        name, model.run, model.corpus,
                        initial=initial, inference=model.checkpoint.inference,
                    )
                )  # fmt: skip
        for method, weights in plan.published.items():
            try:
                found.append(cache.of_published(method, weights, corpus))
            except PlatformError as error:
                self.skip(error.problems)
        return found

    def _probe(
        self,
        plan: DataPlan,
        corpus: Corpus,
        data: EvaluationSet | None,
        methods: Sequence[str | Method],
    ) -> list[ResultRow]:
        from sttrain.judge.probes import probe_corpus

        config = self.suite.probe
        if config is None or data is None or not (methods or plan.embeddings):
            return []
        known = corpus.evaluation_splits()
        splits = [
            read_split(corpus, data, name, config.seeds) for name in config.splits if name in known
        ]
        rows: list[ResultRow] = []
        for heads, some, files in self._by_heads(methods, plan.embeddings):
            chosen = config.model_copy(update={"heads": heads})
            usable = self._usable(plan, splits, chosen)
            if not usable:
                continue
            chosen = chosen.model_copy(update={"splits": usable})
            outcome = probe_corpus(
                plan.folder,
                self.out / plan.name,
                methods=some,
                embeddings=files,
                config=chosen,
                workers=self.workers,
                keep_costs=True,
                progress=self.progress,
            )
            self._count(outcome.n_computed, outcome.n_reused)
            rows += outcome.asked
            needless = (f"reduction '{n}': the vectors are no wider" for n in outcome.needless)
            self._tell(f"data set '{plan.name}', {line}" for line in (*outcome.unknown, *needless))
        return rows

    def _usable(
        self, plan: DataPlan, splits: Sequence[EvaluationSplit], config: ProbeConfig
    ) -> tuple[str, ...]:
        """Return the splits that heads can be judged on, and skip the others."""
        least = max(head.least for head in config.make_heads())
        faults = {split.name: split_faults(split, least) for split in splits}
        self.skip(
            (
                replace(
                    problem,
                    subject=f"data set '{plan.name}', {problem.subject}",
                    fix=f"{problem.fix}; or leave it out here: --skip-missing",
                )
                for problems in faults.values()
                for problem in problems
            ),
            BadInputError,
        )
        return tuple(name for name, problems in faults.items() if not problems)

    def _by_heads(
        self, methods: Sequence[str | Method], files: Sequence[EmbeddingFile]
    ) -> list[tuple[tuple[HeadName, ...], list[str | Method], list[EmbeddingFile]]]:
        """Return methods and files in groups that are judged with the same heads."""
        groups: dict[tuple[HeadName, ...], tuple[list[str | Method], list[EmbeddingFile]]] = {}
        for method in methods:
            name = method if isinstance(method, str) else method.name
            groups.setdefault(self.suite.heads_of(name), ([], []))[0].append(method)
        for file in files:
            groups.setdefault(self.suite.heads_of(file.name), ([], []))[1].append(file)
        return [(heads, some, listed) for heads, (some, listed) in groups.items() if heads]

    def _cluster(
        self, plan: DataPlan, folder: Path, methods: Sequence[str | Method]
    ) -> list[ClusterRow]:
        from sttrain.judge.cluster import cluster_corpus

        config = self.suite.cluster
        chosen = [method for method in methods if method != FEATURELESS]
        if config is None or not (chosen or plan.embeddings):
            return []
        outcome = cluster_corpus(
            plan.folder,
            folder,
            methods=chosen,
            embeddings=plan.embeddings,
            config=config,
            workers=self.workers,
            keep_costs=True,
            progress=self.progress,
        )
        self._count(outcome.n_computed, outcome.n_reused)
        return outcome.asked

    def _reconstruct(self, plan: DataPlan, folder: Path) -> list[RegionRow]:
        from sttrain.judge.reconstruct import ModelFile, reconstruct_corpus

        config = self.suite.reconstruct
        if config is None:
            return []
        models: list[ModelFile] = []
        for model in plan.models:
            name, run = model.checkpoint.name, model.run
            if not self._fills(name, run):
                continue
            models.append(ModelFile(name=name, path=run))
            if model.checkpoint.untrained:
                untrained = untrained_name(model.checkpoint)
                models.append(ModelFile(name=untrained, path=run, initial=True))
        outcome = reconstruct_corpus(
            plan.folder,
            folder,
            models=models,
            config=config,
            skip_small=True,
            keep_costs=True,
            progress=self.progress,
            say=self.say,
        )
        self._tell(f"data set '{plan.name}', {line}" for line in outcome.left_out)
        self._count(outcome.n_computed, outcome.n_reused)
        return outcome.asked

    def _fills(self, name: str, run: Path) -> bool:
        """Return whether a checkpoint can fill squares; of others it is told that they cannot."""
        from sttrain.release.encoder import load_encoder

        objective = load_encoder(run, say=self.say)[1].pretext.objective
        if objective not in FILLING:
            self._tell([f"checkpoint '{name}': '{objective}' cannot fill a site that is hidden"])
        return objective in FILLING

    def _count(self, computed: int, reused: int) -> None:
        self.n_computed += computed
        self.n_reused += reused


def run_suite(
    suite: Suite,
    out: Path,
    *,
    given: Given,
    beside: Path,
    workers: int = 1,
    device: str = "cpu",
    skip_missing: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> BenchOutcome:
    """Run a suite, or what is missing of it.

    Parameters
    ----------
    suite
        What is judged, on what and how.
    out
        Folder of results; one folder below it for each data set.
    given
        Corpora, checkpoints, weights and vectors.
    beside
        Folder that paths of the suite are relative to.
    workers
        Fits at the same time; no score depends on it.
    device
        Torch device of checkpoints and published models, or ``auto``.
    skip_missing
        Leave out what the suite asks for and is not given; counted and told.
    progress
        Called with (steps done, steps in all, what is being done).
    say
        Hears of damaged checkpoints that were passed over.

    Raises
    ------
    BadUsageError
        Something is missing and may not be skipped (all of it at once), or nothing is left to do.
    BadInputError
        A corpus, checkpoint or file that cannot be judged.
    ConflictError
        `out` holds results of another corpus under the name of a data set, or something else.
    IntegrityError
        Damaged files.
    PlatformError
        The suite clusters by Leiden, whose packages are not installed.
    """
    printed: tuple[Printed, ...] = ()
    if suite.table is not None and suite.printed is not None:
        printed = read_printed(beside / suite.printed, suite.table)
    plan = make_plan(suite, given, beside)
    if suite.cluster is not None:
        require_installed(suite.cluster.algorithms)  # now, not after all else
    run = _Run(suite, out, workers, device, skip_missing, progress, say)
    ours = {VECTORS, *(part.name for part in plan.data)}
    refuse_foreign(out, "results of a suite", mark=lambda path: _is_ours(path, ours), code="V10")
    run.skip([*plan.missing, *_missing_splits(suite, plan.data)])
    if not plan.data:
        fix = f"give --data {suite.data[0].name}=FOLDER"
        what = "none of its data sets is given"
        raise BadUsageError(
            Problem(code="V25", subject=f"suite '{suite.name}'", what=what, fix=fix)
        )
    data: dict[str, DataRecord] = {}
    rows: list[BenchRow] = []
    for part in plan.data:
        data[part.name], found = run.judge(part)
        rows += found
    remove_dead_below(out)
    document = BenchDocument(suite=suite, data=data, skipped=tuple(run.skipped), printed=printed)
    RowTable(out, BenchRow, "").summarise(out / suite.name, rows)
    write_durable(out / f"{suite.name}.json", document.to_bytes())
    return BenchOutcome(
        rows=rows,
        n_computed=run.n_computed,
        n_reused=run.n_reused,
        skipped=tuple(run.skipped),
    )


def _is_ours(path: Path, names: set[str]) -> bool:
    return path.name in names or PARTIAL in path.name or (path / MARK).is_file()


def _missing_splits(suite: Suite, plans: Iterable[DataPlan]) -> Iterable[Problem]:
    """Yield the splits that corpora do not have, before anything is computed."""
    wanted = suite.probe.splits if suite.probe is not None else ()
    for plan in plans if wanted else ():
        known = open_corpus(plan.folder).evaluation_splits()
        for split in wanted:
            if split not in known:
                yield Problem(
                    code="V14",
                    subject=f"split '{split}' of data set '{plan.name}'",
                    what="the corpus has no such split",
                    fix=f"it has {', '.join(known) or 'none'}; or leave it out: --skip-missing",
                )
