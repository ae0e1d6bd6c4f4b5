"""One optimizer step over a global batch: its parts on the ranks, their parts in memory.

The loss of a global batch is the sum of all squared errors over the number of all targets. Targets
are counted before anything is computed and added up over ranks, so that every part of every rank
is weighted right, however the batch was parted.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sttrain.errors import BadUsageError, DivergedError, Problem, ResourceError, StError
from sttrain.model.autoencoder import MaskedAutoencoder
from sttrain.model.gene_rows import GeneRows, RowOptimizer, drawn_genes
from sttrain.stream.batches import Batch
from sttrain.train.average import Average
from sttrain.train.checkpoint import CheckpointDocument, load_ema, load_optimizer
from sttrain.train.compiling import compile_model
from sttrain.train.config import RunConfig
from sttrain.train.distributed import Ranks
from sttrain.train.learner import Learner, SliceFacts, Task
from sttrain.train.optimizer import (
    build_optimizer,
    learning_rate,
    pack_state,
    set_rate,
    unpack_state,
)
from sttrain.train.sharding import clip_gradients, gather, shard_model

_NAMED: Final = 5
"""Keys that a message names."""
_SCALER: Final = "scaler"
_SCALED: Final = ("scale", "_growth_tracker")
"""What a loss scaler is resumed with."""


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """What one step came to, over all ranks."""

    loss: float
    norm: float
    """Norm of the gradient before it was clipped."""
    n_patches: int
    """Samples."""
    n_targets: int
    """Values that were asked for."""
    stopping: bool
    """Whether a rank was asked to stop."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All that a checkpoint holds of a trainer, whole and on the host; empty on other ranks."""

    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor] | None
    ema: dict[str, Tensor] | None


@dataclass(kw_only=True)
class Trainer:
    """A model, its optimizer, and how many steps they have taken."""

    config: RunConfig
    model: MaskedAutoencoder
    device: torch.device
    total: int
    """Steps of the whole run."""
    done: int = 0
    ranks: Ranks = field(default_factory=Ranks)
    part: int | None = None
    """Most patches of a rank that are computed at once; the gradients of parts add up."""
    sharded: bool = False
    """Part weights and optimizer over the ranks (FSDP2) instead of copying them to each (DDP)."""
    compiled: bool = False
    """Compile the forward pass."""
    facts: SliceFacts = field(default_factory=SliceFacts)
    n_targets: int = 0
    """Values that all steps so far asked for."""
    average: Average | None = field(init=False)
    optimizer: torch.optim.Optimizer = field(init=False)
    learner: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        self.sharded = self.sharded and not self.ranks.alone
        # Its rows are lent to every batch; so no gradient is as long as the vocabulary.
        self.model.table.requires_grad_(False)  # noqa: FBT003 - it knows no name
        if self.compiled:
            compile_model(self.model, layers=self.sharded)
        if self.sharded:
            n_ranks = self.ranks.world.n_ranks
            self.ranks.guard(lambda: shard_model(self.model, n_ranks, self.device))
        else:
            self.model.to(self.device)
        learner = Learner(self.model, self.config, self.facts, compiled=self.compiled)
        self.learner = learner
        if not self.ranks.alone and not self.sharded:
            self.learner = self.ranks.guard(
                lambda: DistributedDataParallel(
                    learner, forward_sync_buffers=False, gradient_as_bucket_view=True
                )
            )
        self.average = Average(self.model, self.config.ema) if self.config.ema else None
        self.optimizer = build_optimizer(self.model, self.config.optimizer)
        self.table = RowOptimizer(self.model.table, self.optimizer)
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=self.config.precision == "fp16"
        )

    @property
    def asker(self) -> Learner:
        """What draws the masks; DDP hides it."""
        return cast(Learner, getattr(self.learner, "module", self.learner))

    def warm_up(self, batch: Batch) -> None:
        """Compute the gradients of an empty patch and discard them, where there are ranks.

        After its first backward pass DDP sorts its buckets anew, so that sums come out otherwise in
        the last bits from the second step on: of the run, and again of the resumed run. With one
        discarded pass before either, both are the same.
        """
        if not self.ranks.alone:
            self._backward([self.asker.prepare(batch).blank()], 1.0, self._lend(batch))
            self.optimizer.zero_grad()

    def step(
        self, batch: Batch | None, error: StError | None = None, *, stopping: bool = False
    ) -> StepReport:
        """Take one step with all ranks.

        Parameters
        ----------
        batch
            This rank's part of the global batch; may be empty. None where there is an error.
        error
            What kept this rank from having its part: all ranks stop.
        stopping
            Whether this rank was asked to stop after this step.

        Raises
        ------
        DivergedError
            The loss or the gradient is not finite; the patches are named and no weight changes.
        ResourceError
            Memory ran out, or a rank is gone.
        """
        if batch is None:
            self.ranks.agree([0.0] * 3, error, self.device)
            raise error or _nothing()
        task = self.asker.prepare(batch)
        n_targets, n_patches, n_stopping = self.ranks.agree(
            [task.n_targets, len(batch.keys), float(stopping)], error, self.device
        )
        lent = self._lend(batch)
        errors = self.ranks.guard(
            lambda: self._backward(self.parts(task, batch.total), max(n_targets, 1.0), lent)
        )
        (summed,) = self.ranks.add([float(errors.double().sum())], self.device)
        loss, norm = summed / max(n_targets, 1.0), self._clip()
        diverged = None
        # A scaler that found infinite gradients passes the step over and halves its scale.
        if not math.isfinite(loss) or not (math.isfinite(norm) or self.scaler.is_enabled()):
            if not bool(torch.isfinite(errors).all()) or self.ranks.alone:
                diverged = self._diverged(batch, errors, loss, norm)
            self.ranks.agree((), diverged, self.device)
            raise self._diverged(batch, errors, loss, norm)
        set_rate(self.optimizer, learning_rate(self.config.optimizer, self.done, self.total))
        if math.isfinite(norm):
            self.table.step(lent)
        lent.values.grad = None
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.done += 1
        self.n_targets += int(n_targets)
        if self.average is not None:
            self.average.update()
        return StepReport(
            loss=loss, norm=norm, n_patches=int(n_patches), n_targets=int(n_targets),
            stopping=bool(n_stopping),
        )  # fmt: skip

    def parts(self, task: Task, total: int) -> list[Task]:
        """Return the parts of a task that are computed one after the other; never none.

        Sharded ranks gather weights in each of them, so that all must have as many: as many as the
        rank with most of the `total` patches.
        """
        found = list(task.parts(self.part)) or [task.blank()]
        if self.sharded:
            most = math.ceil(total / self.ranks.world.n_ranks)
            wanted = math.ceil(most / (self.part or max(most, 1)))
            found += [task.blank()] * (wanted - len(found))
        return found

    def snapshot(self, *, whole: bool) -> Snapshot:
        """Return what a checkpoint holds; all ranks must ask, and the first one gets it.

        Parameters
        ----------
        whole
            With all that a resumed run needs besides the weights.
        """
        keep = self.ranks.is_first
        state = None
        if whole:
            state = gather(pack_state(self.model, self.optimizer), keep=keep)
            if self.scaler.is_enabled():
                kept = self.scaler.state_dict()
                state |= {f"{_SCALER}/{key}": torch.tensor(float(kept[key])) for key in _SCALED}
        average = None if self.average is None else gather(self.average.means, keep=keep)
        return Snapshot(
            weights=gather(self.model.state_dict(), keep=keep), optimizer=state, ema=average
        )

    def restore(self, folder: Path, name: str, checkpoint: CheckpointDocument) -> None:
        """Take up where a checkpoint stands.

        Raises
        ------
        IntegrityError
            Its files are damaged or belong to other weights.
        """
        tensors = load_optimizer(folder, name, checkpoint)
        kept = {key: float(tensors.pop(f"{_SCALER}/{key}", torch.tensor(0.0))) for key in _SCALED}
        if self.scaler.is_enabled() and kept["scale"]:
            state = self.scaler.state_dict()
            tracker = int(kept["_growth_tracker"])
            self.scaler.load_state_dict(
                state | {"scale": kept["scale"], "_growth_tracker": tracker}
            )
        unpack_state(self.model, self.optimizer, tensors)
        if self.average is not None:
            self.average.restore(load_ema(folder, name, checkpoint))

    def _lend(self, batch: Batch) -> GeneRows:
        """Return the rows of the gene table that the global batch uses, on every rank the same."""
        drawn = drawn_genes(batch.genes, len(self.model.table))
        rows = GeneRows(self.model.table, self.ranks.unite(drawn, self.device))
        self.table.take(rows)
        return rows

    def _backward(self, parts: list[Task], n_targets: float, lent: GeneRows) -> Tensor:
        """Add the gradients of all parts and ranks up; return the errors (B,) of this rank."""
        self.optimizer.zero_grad()
        errors = []
        for number, part in enumerate(parts, 1):
            with self._unsynchronised() if number < len(parts) else nullcontext():
                try:
                    found = self.learner(replace(part, lent=lent))
                    # DDP takes the mean over the ranks, and the sum is wanted.
                    loss = found.sum() * (self.ranks.world.n_ranks / n_targets)
                    self.scaler.scale(loss).backward()
                except RuntimeError as error:
                    if _is_full(error):
                        raise _full(len(part.batch.keys)) from error
                    raise
            errors.append(found.detach())
        if lent.values.grad is not None:
            self.ranks.average(lent.values.grad)
        return torch.cat(errors)

    def _unsynchronised(self) -> AbstractContextManager[None]:
        if isinstance(self.learner, DistributedDataParallel):
            return cast(AbstractContextManager[None], self.learner.no_sync())
        return nullcontext()  # sharded gradients are too large to keep whole between parts

    def _clip(self) -> float:
        self.scaler.unscale_(self.optimizer)
        clip = self.config.optimizer.clip
        limit = math.inf if clip == "none" else clip
        groups = self.optimizer.param_groups
        return clip_gradients([w for group in groups for w in group["params"]], limit)

    def _diverged(self, batch: Batch, errors: Tensor, loss: float, norm: float) -> DivergedError:
        bad = (~torch.isfinite(errors)).nonzero().flatten().tolist()
        keys = [batch.keys[i] for i in bad if i < len(batch.keys)] or list(batch.keys)
        more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
        return DivergedError(
            Problem(
                code="T09",
                subject=f"step {self.done + 1}",
                what=f"loss {loss}, gradient norm {norm}; patches {', '.join(keys[:_NAMED])}{more}",
                fix="look at those patches, or lower optimizer.lr in a new run folder; the last "
                "checkpoint is from before this step",
            )
        )


def _nothing() -> StError:
    what, fix = "it has neither a batch nor a reason", "report this with the run's log"
    return StError(Problem(code="E001", subject="step", what=what, fix=fix))


def _is_full(error: RuntimeError) -> bool:
    """Return whether memory ran out; the CPU's allocator has no error of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _full(n_patches: int) -> ResourceError:
    return ResourceError(
        Problem(
            code="P33",
            subject="device memory",
            what=f"it ran out over {n_patches} patches at once",
            fix=f"give --part {max(1, n_patches // 2)}: gradients of parts add up to the same "
            "global batch",
        )
    )


def choose_device(name: str, local: int = 0) -> torch.device:
    """Return the device that a flag names; ``auto`` is the GPU of this rank, or the CPU.

    Parameters
    ----------
    name
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    local
        Number of the rank on its machine.

    Raises
    ------
    BadUsageError
        There is no such device.
    """
    n_gpus = torch.cuda.device_count()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{local}"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or (device.type != "cpu" and (device.index or 0) >= n_gpus):
        raise BadUsageError(
            Problem(
                code="B111",
                subject=f"device '{name}'",
                what=f"there is no such device; this machine has a CPU and {n_gpus} GPUs",
                fix="give --device cpu, cuda or cuda:N",
            )
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def choose_precision(wanted: str, device: torch.device) -> str:
    """Resolve ``auto``: bf16 where the processor multiplies it natively, else fp32."""
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    able = torch.cpu.get_capabilities()
    return "bf16" if able.get("avx512_bf16") or able.get("amx_bf16") else "fp32"
