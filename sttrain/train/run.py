"""Pretraining: from a corpus and a recipe to a run folder, on any number of ranks.

All that decides the weights is in the run's configuration; a run that was killed goes on from its
newest whole checkpoint with the same samples, masks and, on a CPU with as many ranks, the same
bits.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from stbuild.corpus.reader import Corpus
from sttrain.errors import BadInputError, BadUsageError, ConflictError, Problem, StError
from sttrain.model.autoencoder import MaskedAutoencoder
from sttrain.progress import TrainingReport
from sttrain.stream.batches import StreamState
from sttrain.stream.order import Order
from sttrain.stream.remote import RemoteCorpus, open_location
from sttrain.train.centring import measure_slices
from sttrain.train.checkpoint import (
    FOLDER,
    INITIAL,
    CheckpointDocument,
    Say,
    find_checkpoint,
    list_checkpoints,
    load_weights,
    read_checkpoint,
    resume_point,
    save_checkpoint,
)
from sttrain.train.config import FitOptions, RunConfig, differences
from sttrain.train.distributed import Ranks, join_ranks
from sttrain.train.learner import SliceFacts
from sttrain.train.loop import FitSummary, Loop, Stop, checkpoint_facts
from sttrain.train.objectives import count_hidden, keyed_generator, kind_shares
from sttrain.train.run_folder import RunDocument, describe_environment, open_run
from sttrain.train.statistics import measure_corpus
from sttrain.train.trainer import Trainer, choose_device, choose_precision
from sttrain.train.units import batch_of, open_source, patches_of, stream_of
from sttrain.train.validation import Validator

__all__ = ["FitSummary", "describe_run", "fit"]

_LISTED: Final = 12
"""Numbers of ranks that a message names."""


def fit(
    root: Path | str,
    output: Path,
    config: RunConfig,
    options: FitOptions,
    *,
    progress: TrainingReport | None = None,
    say: Say = lambda _: None,
) -> FitSummary:
    """Pretrain on a corpus, from the start or from where an earlier call stopped.

    Called by every rank of ``torchrun`` alike, or by one process alone.

    Parameters
    ----------
    root
        Folder of a finished corpus, or the URL of one.
    output
        Run folder; made if there is none.
    config
        What is trained.
    options
        What changes no result.
    progress
        Called after every step with how training stands.
    say
        Hears of resumption, damaged checkpoints and other environments.

    Raises
    ------
    BadInputError
        No corpus, or a split without patches.
    BadUsageError
        More ranks than patches in a global batch.
    ConflictError
        The run folder is held, or holds another configuration, corpus or run's checkpoint.
    IntegrityError
        A shard, or every checkpoint, is damaged.
    DivergedError
        The loss is not finite.
    ResourceError
        Memory or disk ran out, or another rank is gone.
    KeyboardInterrupt
        SIGINT, SIGTERM or SIGUSR1 came to any rank; a checkpoint was written.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    stop = Stop()
    with ExitStack() as stack:
        stack.enter_context(stop.listening())
        ranks = stack.enter_context(join_ranks(options.device, options.timeout))
        # Whatever one rank cannot do (read the corpus, hold the folder) stops all of them.
        heard = say if ranks.is_first else (lambda _: None)
        task = _Setting(root, output, config, options, ranks)
        stack.callback(task.leave)  # a server that stalls must not keep the process from its end
        with task.entered(heard) as document:
            trainer, state, (best, best_of) = task.prepare(document, heard)
            loop = Loop(
                trainer=trainer, document=document, corpus=task.corpus, output=output,
                options=options, progress=progress if ranks.is_first else None, stop=stop,
                order=task.order, ranks=ranks, validator=task.validator, best=best, best_of=best_of,
                say=heard,
            )  # fmt: skip
            stream = stream_of(task.source, task.order, ranks.world, options.workers)
            return loop.run(stream, state)


def describe_run(
    corpus: Corpus, config: RunConfig, order: Order, n_ranks: int = 1, *, engine: str = "plain"
) -> RunDocument:
    """Return the document of a run on a corpus.

    Parameters
    ----------
    corpus
        What is trained on.
    config
        What is trained.
    order
        Of its patches.
    n_ranks
        Processes that train together.
    engine
        How: sums come out otherwise in the last bits under another one.
    """
    return RunDocument(
        config=config,
        corpus=corpus.document.name,
        corpus_id=corpus.document.corpus_id,
        n_patches=order.n_samples,
        steps=config.total_steps(order.steps),
        fingerprint=config.fingerprint(corpus.document.corpus_id),
        environment=describe_environment() | {"ranks": str(n_ranks), "engine": engine},
    )


class _Setting:
    """What stands before the first step, on one rank."""

    def __init__(
        self, root: Path | str, output: Path, config: RunConfig, options: FitOptions, ranks: Ranks
    ) -> None:
        self.output, self.options, self.ranks = output, options, ranks
        error: StError | None = None
        try:
            self._open(root, config)
        except StError as caught:
            error = caught
        ranks.agree((), error)

    def _open(self, root: Path | str, config: RunConfig) -> None:
        ranks, options = self.ranks, self.options
        self.device = choose_device(options.device, ranks.local)
        precision = choose_precision(config.precision, self.device)
        self.config = config.model_copy(update={"precision": precision})
        self.corpus = open_location(root, cache=options.cache, cache_gb=options.cache_gb)
        self.source = open_source(
            self.corpus, config.split, config, on_bad=options.on_bad, cache=options.cache
        )
        if config.objective == "patch":
            _require_targets(config, patches_of(self.source).index.observed)
        self.batch = batch_of(self.source, config.batch)
        if ranks.world.n_ranks > self.batch:
            raise _too_many(ranks.world.n_ranks, self.batch)
        self.order = self.source.order(self.batch, config.seed)
        self.validator = None
        if options.val_split is not None:
            if options.val_split == config.split:
                raise _not_held_out(config.split)
            self.validator = Validator(
                # Never thinned: its losses are compared.
                source=open_source(self.corpus, options.val_split, config, cache=options.cache),
                batch=self.batch,
                patches=options.val_patches,
            )

    @contextmanager
    def entered(self, say: Say) -> Iterator[RunDocument]:
        """Hold the run folder on the first rank, as long as this lasts, and say what is other."""
        document = describe_run(
            self.corpus, self.config, self.order, self.ranks.world.n_ranks,
            engine=_engine(self.options, self.ranks),
        )  # fmt: skip
        with ExitStack() as stack:
            before = self.ranks.run_first(
                lambda: stack.enter_context(
                    open_run(self.output, document, rebatch=self.options.rebatch)
                )
            )
            if before is not None and before.environment != document.environment:
                found = "; ".join(differences(before.environment, document.environment))
                say(f"not bit-identical to a run without interruption: {found}")
            for remark in self._remarks():
                say(remark)
            yield document

    def leave(self) -> None:
        """End what still waits for a server."""
        if isinstance(self.corpus, RemoteCorpus):
            self.corpus.folder.hang_up()

    def _remarks(self) -> Iterator[str]:
        """Say what is other than it was asked for, or slower than it need be."""
        if self.batch > self.order.n_samples:
            yield (
                f"a batch of {self.batch:,} is more than the {self.order.n_samples:,} samples of "
                f"split '{self.config.split}': each step takes all of them"
            )
        if (slow := self._slow()) is not None:
            yield slow

    def _slow(self) -> str | None:
        """Say what makes a run over a network slower than it need be; None where nothing does."""
        if not isinstance(self.corpus, RemoteCorpus):
            return None
        held = sorted((entry.bytes for entry in patches_of(self.source).entries), reverse=True)
        group = self.config.grouping
        needed = sum(held) if group is None else sum(held[: 2 * group])
        if needed <= self.corpus.pieces.most:
            return None
        fix = "give --order block, or" if group is None else "lower --group, or"
        return (
            f"patches come in any order out of {needed / 1e9:,.1f} GB of shards, and the cache "
            f"holds {self.options.cache_gb:,.1f}: much is read again and again; {fix} raise "
            "--cache-gb"
        )

    def prepare(
        self, document: RunDocument, say: Say
    ) -> tuple[Trainer, StreamState, tuple[float | None, str | None]]:
        """Return a trainer at the newest whole checkpoint, its place, the best loss and of what.

        The first rank makes the first checkpoint if there is none, and chooses for all.
        """
        config, ranks = self.config, self.ranks
        n_genes = self.corpus.document.vocabulary.n_genes
        generator = keyed_generator("weights", config.seed)
        model = MaskedAutoencoder(config.model, n_genes, generator, config.pretext)
        chosen = ranks.run_first(lambda: self._choose(model, document, say))
        name = ranks.tell(chosen or "")
        checkpoint = read_checkpoint(self.output / FOLDER, name)
        load_weights(model, self.output / FOLDER, name, checkpoint)
        state, done = self._place(checkpoint)
        trainer = Trainer(
            config=config, model=model, device=self.device, total=document.steps, done=done,
            ranks=ranks, part=self.options.part, sharded=self.options.fsdp,
            compiled=self.options.compile, facts=self._slice_facts(),
            n_targets=checkpoint.targets_done,
        )  # fmt: skip
        if checkpoint.optimizer is not None:
            trainer.restore(self.output / FOLDER, name, checkpoint)
            say(f"going on from {name} of {document.steps} steps")
        return trainer, state, self._best(checkpoint, say)

    def _best(self, checkpoint: CheckpointDocument, say: Say) -> tuple[float | None, str | None]:
        """Return the least validation loss so far and what it is of; one of others is forgotten."""
        if self.validator is None:
            return checkpoint.best, checkpoint.best_of
        of = f"{self.options.val_patches} patches of split '{self.options.val_split}'"
        if checkpoint.best is None or checkpoint.best_of == of:
            return checkpoint.best, of
        before = checkpoint.best_of or "other patches"
        say(f"the best loss so far is of {before}: it is not compared with those of {of}")
        return None, of

    def _choose(self, model: MaskedAutoencoder, document: RunDocument, say: Say) -> str:
        config = self.config
        if not list_checkpoints(self.output):
            self._measure(model)
            facts = checkpoint_facts(document, self.corpus, StreamState(), done=0)
            save_checkpoint(self.output, INITIAL, model, None, **facts)
        name, checkpoint = find_checkpoint(self.output, say=say)
        known = {document.fingerprint}
        if self.options.rebatch:
            earlier = config.model_copy(update={"batch": checkpoint.batch})
            known.add(earlier.fingerprint(document.corpus_id))
        if checkpoint.fingerprint not in known:
            raise _foreign(self.output, name)
        return name

    def _measure(self, model: MaskedAutoencoder) -> None:
        """Set what is measured on the training patches before the first step."""
        config, patches = self.config, patches_of(self.source)
        read = patches, config.seed, config.statistics_patches
        found = measure_corpus(*read)
        model.set_statistics(found.gene_mean, found.depth_mean, found.log_rate)
        if config.gene_init == "coexpression":
            from sttrain.train.gene_init import coexpression_table

            with torch.no_grad():
                model.table.copy_(coexpression_table(*read, found.gene_mean, model.table))

    def _slice_facts(self) -> SliceFacts:
        layouts = {entry.slug: entry.layout for entry in self.corpus.document.slices}
        if self.config.model.centre_by == "corpus":
            return SliceFacts(layouts=layouts)
        train = patches_of(self.source)
        held = [] if self.validator is None else [patches_of(self.validator.source)]
        return SliceFacts(layouts=layouts, means=measure_slices(train, *held))

    def _place(self, checkpoint: CheckpointDocument) -> tuple[StreamState, int]:
        """Return where the run goes on, and how many steps that is; the batch may be another."""
        state, old = resume_point(checkpoint), checkpoint.batch
        if old == self.config.batch:
            return state, checkpoint.steps_done
        seen = state.step * batch_of(self.source, old)
        done, rest = divmod(seen, self.batch)
        if rest:
            raise _between(seen, self.batch)
        place = StreamState(epoch=state.epoch, step=done)
        return place, state.epoch * self.order.steps + done


def _engine(options: FitOptions, ranks: Ranks) -> str:
    """Return what decides the last bits of a sum besides the number of ranks."""
    parted = options.fsdp and not ranks.alone
    names = ["fsdp"] * parted + ["compiled"] * options.compile
    names += [f"parts of {options.part}"] * (options.part is not None)
    return ", ".join(names) or "plain"


def _require_targets(config: RunConfig, observed: NDArray[np.integer]) -> None:
    """Refuse patches of which no mask hides anything: the loss would be 0 from the first step."""
    most = observed.max(keepdims=True, initial=0).astype(np.int64)
    shares = kind_shares(config.mask)
    if any(share and count_hidden(config.mask, kind, most, 1) for kind, share in shares.items()):
        return
    what = f"no patch has more than {int(most[0])} observed sites: nothing of them can be hidden"
    fix = "build the corpus with a larger --window; or hide values, with mask.kind = element"
    raise BadInputError(Problem(code="L24", subject=f"split '{config.split}'", what=what, fix=fix))


def _not_held_out(split: str) -> BadUsageError:
    what = f"split '{split}' is what is trained on: its loss is not that of held-out patches"
    fix = "name another split, or leave --val-split out: the log has the training loss"
    return BadUsageError(Problem(code="B111", subject="--val-split", what=what, fix=fix))


def _too_many(n_ranks: int, batch: int) -> BadUsageError:
    fits = [n for n in range(1, batch + 1) if batch % n == 0]
    listed = ", ".join(map(str, fits[-_LISTED:]))
    return BadUsageError(
        Problem(
            code="T07",
            subject=f"{n_ranks} ranks",
            what=f"a global batch of {batch} patches is less than one for each of them",
            fix=f"start at most {batch} ranks (evenly used: {listed}), or raise the batch in a new "
            "run",
        )
    )


def _foreign(output: Path, name: str) -> ConflictError:
    return ConflictError(
        Problem(
            code="T03",
            subject=f"checkpoint '{name}'",
            where=str(output / FOLDER),
            what="it belongs to another run than the folder's run.json",
            fix="remove it, or give another folder with -o",
        )
    )


def _between(n_samples: int, batch: int) -> ConflictError:
    return ConflictError(
        Problem(
            code="T07",
            subject=f"batch of {batch}",
            what=f"the run stands after {n_samples:,} patches of its epoch, which is no whole "
            "number of such batches",
            fix="go on with the old batch to the end of the epoch, or give a divisor",
        )
    )
