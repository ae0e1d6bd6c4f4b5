"""The ranks that train together: who they are, and the few numbers and words that they exchange.

Ranks are started by ``torchrun`` (or anything that sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR
and MASTER_PORT); without those there is one rank and nothing here touches a network. What travels
is tensors and JSON, never a pickle.

A rank that fails says so at the next exchange, and all stop with its cause. A rank that is gone or
hangs shows as a broken or late exchange; who it was is told from the beats that each rank leaves in
the rendezvous store. The first rank can always tell; one that notices only when the first has
ended, and the store with it, names the first.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, NoReturn, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from sttrain.errors import (
    BadInputError,
    BadUsageError,
    ConflictError,
    DivergedError,
    IntegrityError,
    Problem,
    RemoteError,
    ResourceError,
    StError,
)
from sttrain.stream.order import World

Result = TypeVar("Result")

_BEAT_SECONDS: Final = 1.0
_SILENT_SECONDS: Final = 4.0
"""A rank without a beat for so long is gone."""
_groups: Final[list[Any]] = []
"""Process groups that were joined. Whoever drops one last ends its threads and waits for them;
where that is DDP's own reducer, it holds Python's lock, which such a thread may still need to let
go of a tensor: both then wait for ever (one exit in thirty on a busy machine). Held here, a group
goes last and without the lock."""
_CUT: Final = {
    "code": "P31", "subject": "it failed", "where": None, "what": "its message was too long",
    "fix": "look at that rank's own lines",
}  # fmt: skip
_KINDS: Final[dict[str, type[StError]]] = {
    kind.__name__: kind
    for kind in (
        BadInputError, BadUsageError, ConflictError, DivergedError, IntegrityError, RemoteError,
        ResourceError, StError,
    )
}  # fmt: skip


@dataclass(kw_only=True)
class Ranks:
    """The process group as one rank sees it; alone, every exchange is trivial."""

    world: World = field(default_factory=World)
    local: int = 0
    """Number of the rank on its machine: which GPU is its own."""
    store: Any = None
    step: int = 0
    """Step that this rank is in, for the beats."""

    @property
    def is_first(self) -> bool:
        """Whether this rank writes the run folder."""
        return self.world.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other rank."""
        return self.world.n_ranks == 1

    def add(self, values: Sequence[float], device: torch.device | None = None) -> list[float]:
        """Return the sum of each value over all ranks, in float64.

        Raises
        ------
        ResourceError
            Another rank is gone or late.
        """
        if self.alone:
            return list(values)
        found = torch.tensor(values, dtype=torch.float64, device=device)
        self.guard(lambda: dist.all_reduce(found))
        return [float(value) for value in found.tolist()]

    def unite(
        self, mine: NDArray[np.bool_], device: torch.device | None = None
    ) -> NDArray[np.bool_]:
        """Return where any rank has True.

        Raises
        ------
        ResourceError
            Another rank is gone or late.
        """
        if self.alone:
            return mine
        found = torch.from_numpy(mine.astype(np.uint8)).to(device or "cpu")
        self.guard(lambda: dist.all_reduce(found, dist.ReduceOp.MAX))
        return found.cpu().numpy() > 0

    def average(self, values: Tensor) -> None:
        """Take the mean of a tensor over all ranks, in place."""
        if not self.alone:
            values.div_(self.world.n_ranks)
            self.guard(lambda: dist.all_reduce(values))

    def agree(
        self,
        values: Sequence[float],
        error: StError | None,
        device: torch.device | None = None,
    ) -> list[float]:
        """Add up values, or stop on every rank where any of them has an error.

        Raises
        ------
        StError
            The error of this rank; on the first rank also that of another one, which is named.
        SystemExit
            Another rank failed, and this one has nothing to say: same exit code.
        """
        total = self.add([float(error is not None), *values], device)
        if total[0]:
            self._stop(error, device)
        return total[1:]

    def run_first(
        self, action: Callable[[], Result], device: torch.device | None = None
    ) -> Result | None:
        """Run something on the first rank while the others wait; its errors stop all of them.

        Returns
        -------
        object
            What `action` returned, on the first rank; None elsewhere.
        """
        found, error = None, None
        if self.is_first:
            try:
                found = action()
            except StError as caught:
                error = caught
        self.agree((), error, device)
        return found

    def tell(self, text: str, device: torch.device | None = None) -> str:
        """Return the text that the first rank gave."""
        return text if self.alone else self._gather_text(text, device)[0]

    def gather(self, text: str, device: torch.device | None = None) -> list[str]:
        """Return the text that each rank gave, cut to 4,096 bytes."""
        return [text] if self.alone else self._gather_text(text, device)

    def guard(self, exchange: Callable[[], Result]) -> Result:
        """Run something that exchanges tensors; name who is gone where it breaks.

        Raises
        ------
        ResourceError
            Another rank is gone or late.
        """
        if self.alone:
            return exchange()
        try:
            return exchange()
        except RuntimeError as error:
            if not _is_lost(error):
                raise
            raise self._lost(error) from error

    def _stop(self, error: StError | None, device: torch.device | None) -> NoReturn:
        """Tell all ranks what went wrong, and raise it."""
        if error is not None and self.alone:
            raise error
        texts = self._gather_text("" if error is None else _pack(error), device)
        if error is not None:
            raise error
        rank, text = next((i, text) for i, text in enumerate(texts) if text)
        other = _unpack(rank, text)
        if self.is_first:
            raise other
        raise SystemExit(other.exit_code)

    def _gather_text(self, text: str, device: torch.device | None) -> list[str]:
        raw = text.encode()[:4096].ljust(4096, b"\0")
        mine = torch.frombuffer(bytearray(raw), dtype=torch.uint8).to(device or "cpu")
        rows = [torch.empty_like(mine) for _ in range(self.world.n_ranks)]
        self.guard(lambda: dist.all_gather(rows, mine))
        return [bytes(row.tolist()).rstrip(b"\0").decode(errors="ignore") for row in rows]

    def _lost(self, error: RuntimeError) -> ResourceError:
        before, first = self._beats(), str(error).strip().splitlines()[0][:160]
        time.sleep(_SILENT_SECONDS)
        after = self._beats()
        gone = [rank for rank, beat in before.items() if after.get(rank, beat)[0] == beat[0]]
        late = [rank for rank, (_, step) in after.items() if step < self.step and rank not in gone]
        named = [f"rank {rank} is gone (it was in step {before[rank][1]:,})" for rank in gone]
        named += [f"rank {rank} hangs in step {after[rank][1]:,}" for rank in late]
        if not after and not self.is_first:
            # Without a launcher of its own the first rank holds the store that beats are left in.
            named = ["rank 0 is gone, or the launcher, and the rendezvous store with it"]
        return ResourceError(
            Problem(
                code="P31",
                subject=f"step {self.step:,}",
                what=f"rank {self.world.rank} lost the others: {'; '.join(named) or first}",
                fix="look at that rank's own last lines (memory, machine); then run the same "
                "command again, at any number of ranks: it resumes from the last checkpoint",
            )
        )

    def _beats(self) -> dict[int, tuple[int, int]]:
        """Return (beat, step) of every other rank whose beat can be read."""
        found: dict[int, tuple[int, int]] = {}
        for rank in range(self.world.n_ranks):
            if rank == self.world.rank or self.store is None:
                continue
            try:
                beat, _, step = self.store.get(f"beat/{rank}").decode().partition(":")
            except (RuntimeError, ValueError):  # the store went with its rank
                continue
            found[rank] = (int(beat), int(step))
        return found


@contextmanager
def join_ranks(device: str, timeout: float) -> Iterator[Ranks]:
    """Join the ranks that the environment names, as long as this lasts; alone without them.

    Parameters
    ----------
    device
        ``cpu``, ``cuda``, or ``auto``: decides whether gradients travel over gloo or nccl.
    timeout
        Seconds after which a rank that does not answer is given up.

    Raises
    ------
    BadUsageError
        Environment variables of the launcher that make no sense.
    ResourceError
        The ranks did not find each other.
    """
    rank, n_ranks = _integer("RANK", 0), _integer("WORLD_SIZE", 1)
    if n_ranks == 1:
        yield Ranks()
        return
    world = World(rank=rank, n_ranks=n_ranks)
    nccl = device != "cpu" and torch.cuda.is_available() and dist.is_nccl_available()
    wait = timedelta(seconds=timeout)
    try:
        store, _, _ = next(rendezvous("env://", timeout=wait))
        store.set_timeout(wait)
        dist.init_process_group(
            # The few numbers and words that ranks exchange stay on the host.
            "cpu:gloo,cuda:nccl" if nccl else "gloo",
            store=PrefixStore("sttrain", store),
            rank=rank,
            world_size=n_ranks,
            timeout=wait,
        )
    except (RuntimeError, ValueError) as error:
        raise _no_meeting(rank, n_ranks, error) from error
    _groups.append(dist.group.WORLD)
    ranks = Ranks(world=world, local=_integer("LOCAL_RANK", 0), store=_own_store(wait))
    done = threading.Event()
    beater = threading.Thread(target=_beat, args=(ranks, _own_store(wait), done), daemon=True)
    beater.start()
    try:
        yield ranks
    finally:
        done.set()
        beater.join(2 * _BEAT_SECONDS)
        dist.destroy_process_group()


def _own_store(wait: timedelta) -> TCPStore:
    """Return a connection of its own: a store answers one question at a time."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return TCPStore(host, port, is_master=False, timeout=wait, wait_for_workers=False)


def _beat(ranks: Ranks, store: TCPStore, done: threading.Event) -> None:
    number = 0
    while not done.wait(_BEAT_SECONDS if number else 0):
        number += 1
        try:
            store.set(f"beat/{ranks.world.rank}", f"{number}:{ranks.step}")
        except RuntimeError:  # the store went with its rank, which the next exchange will show
            return


def _integer(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdigit():
        fix = "start ranks with torchrun, or unset RANK, WORLD_SIZE and LOCAL_RANK"
        problem = Problem(
            code="T23", subject=f"variable {name}", what=f"{text!r} is no number", fix=fix
        )
        raise BadUsageError(problem)
    return int(text)


def _no_meeting(rank: int, n_ranks: int, error: Exception) -> ResourceError:
    return ResourceError(
        Problem(
            code="T23",
            subject=f"rank {rank}",
            what=f"{n_ranks} ranks did not find each other: {str(error).strip()[:200]}",
            fix="check MASTER_ADDR and MASTER_PORT (another program may hold the port), and that "
            "every rank was started",
        )
    )


def _is_lost(error: RuntimeError) -> bool:
    text = str(error).lower()
    words = ("connection", "timed out", "timeout", "gloo", "nccl", "peer", "socket", "store")
    return isinstance(error, dist.DistError) or any(word in text for word in words)


def _pack(error: StError) -> str:
    """Return the first problem of an error as JSON that fits the exchange."""
    first = error.problems[0].as_dict()
    short = {key: value and value[:700] for key, value in first.items()}
    return json.dumps({"kind": type(error).__name__, "problem": short})


def _unpack(rank: int, text: str) -> StError:
    try:
        value = json.loads(text)
    except ValueError:  # cut off
        value = {"kind": "StError", "problem": _CUT}
    told = value["problem"]
    problem = Problem(
        code=told["code"], subject=f"rank {rank}, {told['subject']}", where=told["where"],
        what=told["what"], fix=told["fix"],
    )  # fmt: skip
    return _KINDS.get(value["kind"], StError)(problem)
