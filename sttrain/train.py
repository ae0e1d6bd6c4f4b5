"""Pretraining: the loop, what it says, where it stops and how it goes on.

All that decides the weights is in the run's configuration; a run that was killed goes on from its
newest whole checkpoint with the same samples, masks and, on a CPU, the same bits.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from stbuild.corpus.console import TerminatedError
from stbuild.corpus.reader import Corpus, open_corpus
from sttrain.checkpoint import (
    FOLDER,
    INITIAL,
    Say,
    drop_old,
    find_checkpoint,
    list_checkpoints,
    load_optimizer,
    load_weights,
    resume_point,
    save_checkpoint,
    step_name,
)
from sttrain.config import FitOptions, RunConfig
from sttrain.errors import ConflictError, Problem
from sttrain.model import MaskedAutoencoder
from sttrain.objectives import keyed_generator
from sttrain.optimizer import learning_rate, pack_state, unpack_state
from sttrain.order import Order
from sttrain.progress import Report
from sttrain.runs import Journal, RunDocument, describe_environment, open_run
from sttrain.statistics import corpus_means
from sttrain.stream import Batch, PatchSource, PatchStream, StreamState
from sttrain.trainer import Trainer, choose_device, choose_precision


@dataclass(frozen=True, kw_only=True)
class FitSummary:
    """What a call of :func:`fit` did."""

    run: str
    corpus_id: str
    checkpoint: str
    """Name of the newest checkpoint."""
    epochs: int
    steps: int
    """Steps of the whole run, all done."""
    steps_now: int
    """Steps that this call took."""
    loss: float | None
    """Mean loss over the last epoch's worth of steps, or over those that this call took."""
    patches_per_s: float | None
    data_wait: float | None
    """Share of the time that training waited for data."""
    seconds: float

    def __str__(self) -> str:
        """Return the summary for people."""
        text = (
            f"{self.run}: {self.steps:,} steps, {self.epochs} epochs, checkpoint {self.checkpoint}"
        )
        if self.loss is None or self.patches_per_s is None or self.data_wait is None:
            return f"{text}; it was finished, nothing was left to do"
        return (
            f"{text}; mean loss of the last epoch {self.loss:.4f}\n{self.steps_now:,} steps in "
            f"{self.seconds:.0f} s, {self.patches_per_s:.1f} patches/s, waiting for data "
            f"{self.data_wait:.1%} of the time"
        )


class Stop:
    """Whether a signal asked the run to end; it ends after the step that it is in."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Note a signal; a second one ends the process at once."""
        if self.signal is not None:
            raise _interruption(number)
        self.signal = number

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGINT and SIGTERM as long as this lasts; only a main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {n: signal.signal(n, self) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _interruption(number: int) -> KeyboardInterrupt:
    return TerminatedError() if number == signal.SIGTERM else KeyboardInterrupt()


def fit(
    root: Path,
    output: Path,
    config: RunConfig,
    options: FitOptions,
    *,
    progress: Report | None = None,
    say: Say = lambda _: None,
) -> FitSummary:
    """Pretrain on a corpus, from the start or from where an earlier call stopped.

    Parameters
    ----------
    root
        Folder of a finished corpus.
    output
        Run folder; made if there is none.
    config
        What is trained.
    options
        What changes no result.
    progress
        Called with (steps done, steps in all, what to show).
    say
        Hears of resumption, damaged checkpoints and other environments.

    Raises
    ------
    BadInputError
        No corpus, or a split without patches.
    ConflictError
        The run folder is held, or holds another configuration, corpus or run's checkpoint.
    IntegrityError
        A shard, or every checkpoint, is damaged.
    DivergedError
        The loss is not finite.
    KeyboardInterrupt
        SIGINT or SIGTERM came; a checkpoint was written.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    config = config.model_copy(update={"precision": choose_precision(config.precision, device)})
    corpus = open_corpus(root)
    source = PatchSource(corpus, config.split)
    order = Order(n_samples=len(source), batch=config.batch, seed=config.seed)
    document = describe_run(corpus, config, order)
    stop = Stop()
    with stop.listening(), open_run(output, document) as before:
        if before.environment != document.environment:
            say("this environment is not the one that the run began in; not bit-identical")
        trainer, state = _prepare(output, document, corpus, source, device, say)
        stream = PatchStream(source, order, workers=options.workers)
        loop = _Loop(
            trainer=trainer, document=document, corpus=corpus, output=output, options=options,
            progress=progress, stop=stop, order=order,
        )  # fmt: skip
        return loop.run(stream, state)


def describe_run(corpus: Corpus, config: RunConfig, order: Order) -> RunDocument:
    """Return the document of a run on a corpus."""
    return RunDocument(
        config=config,
        corpus=corpus.document.name,
        corpus_id=corpus.document.corpus_id,
        n_patches=order.n_samples,
        steps=order.steps * config.epochs,
        fingerprint=config.fingerprint(corpus.document.corpus_id),
        environment=describe_environment(),
    )


def _prepare(
    output: Path,
    document: RunDocument,
    corpus: Corpus,
    source: PatchSource,
    device: torch.device,
    say: Say,
) -> tuple[Trainer, StreamState]:
    """Return a trainer at the newest whole checkpoint, after making the first if there is none."""
    config = document.config
    generator = keyed_generator("weights", config.seed)
    model = MaskedAutoencoder(config.model, source.n_genes, generator)
    if not list_checkpoints(output):
        means, depth = corpus_means(source, config.seed, config.statistics_patches)
        model.set_statistics(means, depth)
        facts = _facts(document, corpus, StreamState(), done=0)
        save_checkpoint(output, INITIAL, model, None, **facts)
    name, checkpoint = find_checkpoint(output, say=say)
    if checkpoint.fingerprint != document.fingerprint:
        raise ConflictError(
            Problem(
                code="T03",
                subject=f"checkpoint '{name}'",
                where=str(output / FOLDER),
                what="it belongs to another run than the folder's run.json",
                fix="remove it, or give another folder with -o",
            )
        )
    load_weights(model, output / FOLDER, name, checkpoint)
    trainer = Trainer(
        config=config, model=model, device=device, total=document.steps, done=checkpoint.steps_done
    )
    if checkpoint.optimizer is not None:
        tensors = load_optimizer(output / FOLDER, name, checkpoint)
        unpack_state(model, trainer.optimizer, tensors)
        say(f"going on from {name} of {document.steps} steps")
    return trainer, resume_point(checkpoint)


def _facts(
    document: RunDocument, corpus: Corpus, state: StreamState, *, done: int
) -> dict[str, Any]:
    return {
        "genes": tuple(corpus.genes),
        "corpus_id": document.corpus_id,
        "fingerprint": document.fingerprint,
        "seed": document.config.seed,
        "epoch": state.epoch,
        "step": state.step,
        "steps_done": done,
    }


@dataclass(kw_only=True)
class _Loop:
    """The steps of one call, with what is said and stored along the way."""

    trainer: Trainer
    document: RunDocument
    corpus: Corpus
    output: Path
    options: FitOptions
    progress: Report | None
    stop: Stop
    order: Order
    waited: float = 0.0
    worked: float = 0.0
    patches: int = 0
    losses: list[float] = field(default_factory=list)

    def run(self, stream: PatchStream, state: StreamState) -> FitSummary:
        """Take all steps from `state` on."""
        epochs = self.document.config.epochs
        began = time.monotonic()
        start = self.trainer.done
        with Journal(self.output, start) as journal:
            batches = stream.batches(state, epochs)
            clock = time.monotonic()
            for batch in batches:
                arrived = time.monotonic()
                loss, norm = self.trainer.step(batch)
                ended = time.monotonic()
                self._count(batch, loss, waited=arrived - clock, worked=ended - arrived)
                clock = ended
                self._tell(journal, batch, loss, norm)
                self._save(batch)
                if self.stop.signal is not None:
                    raise _interruption(self.stop.signal)
        return self._summary(self.trainer.done - start, time.monotonic() - began)

    def _count(self, batch: Batch, loss: float, *, waited: float, worked: float) -> None:
        self.waited += waited
        self.worked += worked
        self.patches += len(batch.keys)
        self.losses = [*self.losses[1 - self.order.steps :], loss]

    def _tell(self, journal: Journal, batch: Batch, loss: float, norm: float) -> None:
        done, total = self.trainer.done, self.trainer.total
        seconds = self.waited + self.worked
        wait, speed = self.waited / seconds, self.patches / seconds
        if self.progress is not None:
            mean = sum(self.losses) / len(self.losses)
            text = f"loss {mean:.4f}, {speed:.0f} patches/s, waiting for data {wait:.0%}"
            self.progress(done, total, text)
        if done % self.options.log_every == 0 or done == total:
            rate = learning_rate(self.document.config.optimizer, done - 1, total)
            values = {"loss": loss, "gradient_norm": norm, "learning_rate": rate}
            values |= {"patches_per_s": speed, "data_wait": wait}
            journal.write("step", done, {"epoch": batch.epoch, **values})

    def _save(self, batch: Batch) -> None:
        """Write a checkpoint where one is due, at the end, and before the run is stopped."""
        done, every = self.trainer.done, self.options.checkpoint_every
        if done % every and done != self.trainer.total and self.stop.signal is None:
            return
        step = (batch.step + 1) % self.order.steps
        state = StreamState(epoch=batch.epoch + (step == 0), step=step)
        model, optimizer = self.trainer.model, self.trainer.optimizer
        facts = _facts(self.document, self.corpus, state, done=done)
        save_checkpoint(self.output, step_name(done), model, pack_state(model, optimizer), **facts)
        drop_old(self.output, self.options.keep)

    def _summary(self, steps: int, seconds: float) -> FitSummary:
        measured = self.waited + self.worked
        return FitSummary(
            run=str(self.output),
            corpus_id=self.document.corpus_id,
            checkpoint=list_checkpoints(self.output)[0],
            epochs=self.document.config.epochs,
            steps=self.document.steps,
            steps_now=steps,
            loss=sum(self.losses) / len(self.losses) if self.losses else None,
            patches_per_s=self.patches / measured if measured else None,
            data_wait=self.waited / measured if measured else None,
            seconds=seconds,
        )
