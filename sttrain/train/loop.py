"""The steps of one call of ``fit``, with what is said, validated and stored along the way."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from stbuild.corpus.console import NOTICE, TerminatedError
from stbuild.corpus.reader import Corpus
from sttrain.errors import StError
from sttrain.progress import TrainingReport, TrainingState
from sttrain.stream.batches import Batch, PatchStream, StreamState
from sttrain.stream.order import Order
from sttrain.train.checkpoint import (
    BEST,
    Say,
    drop_old,
    list_checkpoints,
    save_checkpoint,
    step_name,
)
from sttrain.train.config import FitOptions
from sttrain.train.distributed import Ranks
from sttrain.train.optimizer import learning_rate
from sttrain.train.run_folder import Journal, RunDocument, require_run
from sttrain.train.skipping import Skipped
from sttrain.train.slice_source import SliceStream
from sttrain.train.trace import Trace, open_trace
from sttrain.train.trainer import StepReport, Trainer
from sttrain.train.validation import Validator


@dataclass(frozen=True, kw_only=True)
class FitSummary:
    """What a call of :func:`sttrain.train.run.fit` did."""

    run: str
    corpus_id: str
    checkpoint: str
    """Name of the newest checkpoint."""
    epochs: int
    steps: int
    """Steps of the whole run, all done."""
    steps_now: int
    """Steps that this call took."""
    targets: int
    """Values that all steps of the run asked for; the same for every objective, or nearly so."""
    rank: int
    """Rank that says this; the first one speaks for all."""
    ranks: int
    loss: float | None
    """Mean loss over the last `loss_steps` steps."""
    loss_steps: int
    """An epoch's worth of steps; fewer where this call took fewer."""
    val_loss: float | None
    """Last loss on the held-out split."""
    patches_per_s: float | None
    """Of all ranks together."""
    data_wait: float | None
    """Share of the time that training waited for data."""
    skipped: int
    """Damaged or missing patches that were left out, counted in every epoch anew."""
    first_skipped: str | None
    """What was wrong with the first of them."""
    seconds: float

    def __str__(self) -> str:
        """Return the summary for people."""
        text = (
            f"{self.run}: {self.steps:,} steps, {self.epochs} epochs, checkpoint {self.checkpoint}"
        )
        if self.loss is None or self.patches_per_s is None or self.data_wait is None:
            return f"{text}; it was finished, nothing was left to do"
        held = "" if self.val_loss is None else f", on the held-out split {self.val_loss:.4f}"
        left_out = ""
        if self.skipped:
            left_out = (
                f"\nleft out a damaged or missing patch {self.skipped:,} times (first: "
                f"{self.first_skipped}; all are in log.jsonl)"
            )
        return (
            f"{text}; mean loss of the last {self.loss_steps:,} steps "
            f"{self.loss:.4f}{held}\n{self.steps_now:,} steps "
            f"in {self.seconds:.0f} s, {self.patches_per_s:.1f} patches/s, waiting for data "
            f"{self.data_wait:.1%} of the time{left_out}"
        )


class Stop:
    """Whether a signal asked the run to end; it ends after the step that it is in."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        """Note a signal; a second one, if it is no repeated notice, ends the process at once."""
        if self.signal is None:
            self.signal = number
        elif number != NOTICE:
            raise interruption(number)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGINT, SIGTERM and NOTICE as long as this lasts; only a main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {n: signal.signal(n, self) for n in (signal.SIGINT, signal.SIGTERM, NOTICE)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def interruption(number: int | None) -> KeyboardInterrupt:
    """Return what ends a run on a signal; another rank's signal counts as SIGTERM."""
    return KeyboardInterrupt() if number == signal.SIGINT else TerminatedError()


def checkpoint_facts(
    document: RunDocument, corpus: Corpus, state: StreamState, *, done: int, targets: int = 0
) -> dict[str, Any]:
    """Return what a checkpoint says of its run and of the place in it."""
    return {
        "genes": tuple(corpus.genes),
        "corpus_id": document.corpus_id,
        "fingerprint": document.fingerprint,
        "seed": document.config.seed,
        "batch": document.config.batch,
        "epoch": state.epoch,
        "step": state.step,
        "steps_done": done,
        "targets_done": targets,
    }


@dataclass(kw_only=True)
class Loop:
    """The loop of one rank; the first rank also writes the run folder."""

    trainer: Trainer
    document: RunDocument
    corpus: Corpus
    output: Path
    options: FitOptions
    progress: TrainingReport | None
    say: Say
    stop: Stop
    order: Order
    ranks: Ranks
    validator: Validator | None
    best: float | None
    best_of: str | None
    waited: float = 0.0
    worked: float = 0.0
    patches: int = 0
    val_loss: float | None = None
    losses: list[float] = field(default_factory=list)
    skipped: Skipped = field(init=False)

    def __post_init__(self) -> None:
        self.skipped = Skipped(order=self.order, share=self.options.max_skipped)

    def run(self, stream: PatchStream, state: StreamState) -> FitSummary:
        """Take all steps from `state` on."""
        began, start = time.monotonic(), self.trainer.done
        with self._journal(start) as journal, self._trace(start) as trace:
            batches = stream.batches(state, self._epochs)
            if self.trainer.done < self.trainer.total:
                self.trainer.warm_up(_read_nothing(stream, state))
            while self.trainer.done < self.trainer.total:
                self.ranks.step = self.trainer.done + 1
                self._step(batches, journal, trace)
        self.ranks.run_first(lambda: require_run(self.output))
        return self._summary(self.trainer.done - start, time.monotonic() - began)

    @property
    def _epochs(self) -> int:
        """Passes over the patches, the last of which the run may end within."""
        return -(-self.document.steps // self.order.steps)

    def _journal(self, start: int) -> AbstractContextManager[Journal | None]:
        if not self.ranks.is_first:
            return nullcontext()
        options = self.options
        return Journal(
            self.output, start, document=self.document, loggers=options.logger,
            project=options.project, offline=options.offline, say=self.say,
        )  # fmt: skip

    def _trace(self, start: int) -> AbstractContextManager[Trace | None]:
        world = self.ranks.world
        return open_trace(self.output, start, world) if self.options.trace else nullcontext()

    def _step(self, batches: Iterator[Batch], journal: Journal | None, trace: Trace | None) -> None:
        clock = time.monotonic()
        batch, error = None, None
        try:
            batch = next(batches)
        except StError as caught:
            error = caught
        arrived = time.monotonic()
        self._note_skipped(journal, batch, error)
        if trace is not None and batch is not None:
            trace.write(self.trainer.done + 1, batch)
        report = self.trainer.step(batch, error, stopping=self.stop.signal is not None)
        ended = time.monotonic()
        if batch is None:  # never: the step raised the error
            return
        self.waited += arrived - clock
        self.worked += ended - arrived
        self.patches += report.n_patches
        self.losses = [*self.losses[1 - self.order.steps :], report.loss]
        if journal is not None:
            self._tell(journal, batch, report)
        self._validate(journal, batch)
        self._save(batch, stopping=report.stopping)
        if report.stopping:
            raise interruption(self.stop.signal)

    def _note_skipped(
        self, journal: Journal | None, batch: Batch | None, error: StError | None
    ) -> None:
        """Tell the log what the batch lacks, on all ranks; nothing is exchanged unless asked."""
        if self.options.on_bad == "refuse":
            return
        told = self.skipped.note(batch, error, self.ranks, self.trainer.device)
        if told is not None and journal is not None:
            journal.write("skipped", self.trainer.done + 1, told)
            self.say(f"step {self.trainer.done + 1}: left out {'; '.join(told['damaged'])}")

    def _tell(self, journal: Journal, batch: Batch, report: StepReport) -> None:
        done, total = self.trainer.done, self.trainer.total
        seconds = self.waited + self.worked
        wait, speed = self.waited / seconds, self.patches / seconds
        if self.progress is not None:
            mean = sum(self.losses) / len(self.losses)
            self.progress(
                TrainingState(
                    done=done, total=total, loss=mean, patches_per_s=speed, data_wait=wait,
                    epoch=batch.epoch,
                )
            )  # fmt: skip
        if done % self.options.log_every == 0 or done == total:
            rate = learning_rate(self.document.config.optimizer, done - 1, total)
            values = {"loss": report.loss, "gradient_norm": report.norm, "learning_rate": rate}
            values |= {"patches_per_s": speed, "data_wait": wait}
            values |= {"targets": report.n_targets, "targets_done": self.trainer.n_targets}
            journal.write("step", done, {"epoch": batch.epoch, **values})

    def _validate(self, journal: Journal | None, batch: Batch) -> None:
        done = self.trainer.done
        due = done % self.options.val_every == 0 or done == self.trainer.total
        if self.validator is None or not due:
            return
        self.val_loss = self.validator.loss(self.trainer, self.ranks)
        better = self.best is None or self.val_loss < self.best
        self.best = self.val_loss if better else self.best
        if journal is not None:
            journal.write("validation", done, {"epoch": batch.epoch, "val_loss": self.val_loss})
        if better:
            self._write(BEST, batch, whole=False)

    def _save(self, batch: Batch, *, stopping: bool) -> None:
        """Write a checkpoint where one is due, at the end, and before the run is stopped."""
        done, every = self.trainer.done, self.options.checkpoint_every
        if done % every and done != self.trainer.total and not stopping:
            return

        self._write(step_name(done), batch, whole=True)

    def _write(self, name: str, batch: Batch, *, whole: bool) -> None:
        """Write a checkpoint on the first rank; all of them hand in their part."""
        step = (batch.step + 1) % self.order.steps
        state = StreamState(epoch=batch.epoch + (step == 0), step=step)
        facts = checkpoint_facts(
            self.document, self.corpus, state, done=self.trainer.done,
            targets=self.trainer.n_targets,
        )  # fmt: skip
        device, taken = self.trainer.device, self.trainer.snapshot(whole=whole)

        def write() -> None:
            require_run(self.output)
            save_checkpoint(
                self.output, name, self.trainer.model, taken.optimizer, weights=taken.weights,
                ema=taken.ema, best=self.best, best_of=self.best_of, **facts,
            )  # fmt: skip
            drop_old(self.output, self.options.keep)

        self.ranks.run_first(write, device)

    def _summary(self, steps: int, seconds: float) -> FitSummary:
        measured = self.waited + self.worked
        return FitSummary(
            run=str(self.output),
            corpus_id=self.document.corpus_id,
            checkpoint=list_checkpoints(self.output)[0],
            epochs=self._epochs,
            steps=self.document.steps,
            steps_now=steps,
            targets=self.trainer.n_targets,
            rank=self.ranks.world.rank,
            ranks=self.ranks.world.n_ranks,
            loss=sum(self.losses) / len(self.losses) if self.losses else None,
            loss_steps=len(self.losses),
            val_loss=self.val_loss,
            patches_per_s=self.patches / measured if measured else None,
            data_wait=self.waited / measured if measured else None,
            skipped=self.skipped.total,
            first_skipped=self.skipped.first or None,
            seconds=seconds,
        )


def _read_nothing(stream: PatchStream, state: StreamState) -> Batch:
    """Return a batch without a sample, of the shapes of those that come."""
    none = np.zeros(0, np.int64)
    if isinstance(stream, SliceStream):
        return stream.gather([], state, none, 0)
    counts, genes, totals = stream.source.read([])
    return Batch(
        epoch=state.epoch, step=state.step, counts=counts, genes=genes, totals=totals, keys=(),
        rows=none, total=0, slices=(),
    )  # fmt: skip
