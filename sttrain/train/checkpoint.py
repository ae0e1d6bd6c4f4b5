"""Checkpoints: written whole or not at all, believed only after their digests, never unpickled.

A checkpoint is files in ``<run>/checkpoints/``: ``<name>.safetensors`` (the weights),
``<name>.optimizer.safetensors`` (what a resumed run needs besides), ``<name>.ema.safetensors``
(running means of the weights, where a run keeps them) and ``<name>.json``, which holds everything
else with the digests of the others and is written last: its presence means done. ``initial`` holds
the weights before the first step; the untrained encoder of every comparison.

The weights and their JSON are all that an encoder needs elsewhere.
"""

import io
from collections.abc import Callable, Mapping
from os.path import lexists
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from stbuild.corpus.digests import sha256_bytes
from stbuild.corpus.documents import Count, Document, Sha256, read_document
from stbuild.corpus.durable import write_durable
from stbuild.corpus.storage import read_file
from sttrain.errors import BadInputError, IntegrityError, Problem, ResourceError
from sttrain.model.autoencoder import MaskedAutoencoder, ModelConfig
from sttrain.model.pretext import Pretext
from sttrain.stream.batches import StreamState

FOLDER: Final = "checkpoints"
INITIAL: Final = "initial"
WEIGHTS: Final = "safetensors"
OPTIMIZER: Final = "optimizer.safetensors"
EMA: Final = "ema.safetensors"
BEST: Final = "best"
FORMAT: Final = "sttrain/checkpoint"
VERSION: Final = 1

Say = Callable[[str], None]
"""Called with a line for the person who watches."""


class StoredFile(Document):
    """One file of a checkpoint."""

    bytes: Count
    sha256: Sha256


class CheckpointDocument(Document):
    """``<name>.json`` of a checkpoint."""

    format: Literal["sttrain/checkpoint"] = FORMAT
    version: Literal[1] = VERSION
    model: ModelConfig
    pretext: Pretext = Pretext()
    """What the model is asked."""
    genes: tuple[str, ...]
    """The gene vocabulary: row i of the gene table belongs to gene i."""
    corpus_id: Sha256
    """The corpus that was trained on."""
    fingerprint: Sha256
    """Digest of all of the run's configuration that decides its weights."""
    seed: Count
    batch: Annotated[int, Field(ge=1)]
    """Patches of a global batch: what `step` counts."""
    epoch: Count
    step: Count
    """Next step of the epoch."""
    steps_done: Count
    """Optimizer steps since the start of the run."""
    targets_done: Count = 0
    """Values that those steps asked for."""
    weights: StoredFile
    optimizer: StoredFile | None
    """Optimizer state; none in ``initial`` and ``best``."""
    ema: StoredFile | None = None
    """Running mean of the weights, where the run keeps one."""
    best: float | None = None
    """Least validation loss so far."""
    best_of: str | None = None
    """Which patches it is of: losses of others are not compared with it."""


def save_checkpoint(
    run: Path,
    name: str,
    model: MaskedAutoencoder,
    optimizer: Mapping[str, Tensor] | None,
    *,
    weights: Mapping[str, Tensor] | None = None,
    ema: Mapping[str, Tensor] | None = None,
    **facts: Any,  # noqa: ANN401 - the remaining fields of the document, which types them
) -> CheckpointDocument:
    """Write a checkpoint; the JSON, which makes it one, comes last.

    Parameters
    ----------
    run
        Run folder.
    name
        Name of the checkpoint; an existing one of that name is replaced.
    model
        Its weights are saved.
    weights
        Or these, where the model itself holds but a part of them.
    optimizer
        Tensors of the optimizer; none for a checkpoint that nothing is resumed from.
    ema
        Running mean of the weights, where there is one.
    facts
        The other fields of :class:`CheckpointDocument`.

    Raises
    ------
    ResourceError
        The disk refuses, or something else took a file away in the meantime.
    """
    folder = run / FOLDER
    state = model.state_dict() if weights is None else weights
    weights = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    document = CheckpointDocument(
        model=model.config,
        pretext=model.pretext,
        weights=_store(folder / f"{name}.{WEIGHTS}", save_tensors(weights)),
        optimizer=None
        if optimizer is None
        else _store(folder / f"{name}.{OPTIMIZER}", save_tensors(dict(optimizer))),
        ema=None
        if ema is None
        else _store(folder / f"{name}.{EMA}", save_tensors(weights | dict(ema))),
        **facts,
    )
    mark = folder / f"{name}.json"
    write_durable(mark, document.to_bytes())
    stored = {WEIGHTS: document.weights, OPTIMIZER: document.optimizer, EMA: document.ema}
    written = [folder / f"{name}.{end}" for end, file in stored.items() if file is not None]
    if gone := [path for path in written if not path.is_file()]:
        mark.unlink(missing_ok=True)
        raise _taken_away(gone[0])
    return document


def _taken_away(path: Path) -> ResourceError:
    return ResourceError(
        Problem(
            code="P05",
            subject=f"checkpoint '{path.name.partition('.')[0]}'",
            where=str(path),
            what="a file that was written is gone: something else works in the folder",
            fix="leave the folder to one run, and run the same command again",
        )
    )


def step_name(steps_done: int) -> str:
    """Return the name of the checkpoint after so many steps; names sort by it."""
    return f"step-{steps_done:08d}"


def find_checkpoint(
    run: Path, *, initial: bool = False, say: Say
) -> tuple[str, CheckpointDocument]:
    """Return the newest checkpoint of a run whose files all have their digests.

    Raises
    ------
    BadInputError
        The folder holds no checkpoint.
    IntegrityError
        All are damaged; every one of them is named.
    """
    names = [INITIAL] if initial else list_checkpoints(run)
    problems: list[Problem] = []
    for name in names:
        try:
            document = read_checkpoint(run / FOLDER, name)
        except IntegrityError as error:
            problems += error.problems
            say(f"checkpoint {name} is damaged ({error.problems[0].what}); trying the one before")
        else:
            return name, document
    if problems:
        raise IntegrityError(*problems)
    raise BadInputError(
        Problem(
            code="T02",
            subject=f"run '{run.name}'",
            where=str(run / FOLDER),
            what="it holds no checkpoint",
            fix="give the folder that `sttrain fit -o` wrote",
        )
    )


def list_checkpoints(run: Path) -> list[str]:
    """Return the names of the checkpoints of a run, newest first, ``initial`` last."""
    found = sorted((path.stem for path in (run / FOLDER).glob("step-*.json")), reverse=True)
    return found + ([INITIAL] if (run / FOLDER / f"{INITIAL}.json").is_file() else [])


def read_checkpoint(folder: Path, name: str) -> CheckpointDocument:
    """Read the JSON of a checkpoint and compare its files with their digests.

    Raises
    ------
    BadInputError
        There is no such checkpoint.
    IntegrityError
        A file is missing, short or altered, or something else stands in its place.
    """
    path = folder / f"{name}.json"
    if not path.is_file():
        if lexists(path):
            raise _damaged(path, "a folder, or a link to nothing")
        what, fix = "no such checkpoint", "give a run folder, or a .json that `sttrain fit` wrote"
        raise BadInputError(
            Problem(code="T02", subject=f"checkpoint '{name}'", where=str(path), what=what, fix=fix)
        )
    document = read_document(CheckpointDocument, read_file(path), str(path))
    files = (WEIGHTS, document.weights), (OPTIMIZER, document.optimizer), (EMA, document.ema)
    for suffix, stored in files:
        if stored is not None:
            _read_stored(folder / f"{name}.{suffix}", stored)
    return document


def read_weights(
    folder: Path, name: str, document: CheckpointDocument, *, ema: bool = False
) -> dict[str, Tensor]:
    """Return the weights of a checkpoint, or their running means.

    Raises
    ------
    BadInputError
        The checkpoint keeps no running means.
    IntegrityError
        They fail their digest.
    """
    stored = document.ema if ema else document.weights
    if stored is None:
        what = "it keeps no running means of the weights (EMA)"
        fix = "leave --ema out, or train with running means"
        where = str(folder / f"{name}.json")
        problem = Problem(
            code="T02", subject=f"checkpoint '{name}'", where=where, what=what, fix=fix
        )
        raise BadInputError(problem)
    return _read_tensors(folder / f"{name}.{EMA if ema else WEIGHTS}", stored)


def load_weights(
    model: MaskedAutoencoder, folder: Path, name: str, document: CheckpointDocument
) -> None:
    """Put the weights of a checkpoint into a model.

    Raises
    ------
    IntegrityError
        They fail their digest or do not fit the model.
    """
    path = folder / f"{name}.{WEIGHTS}"
    tensors = _read_tensors(path, document.weights)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise _damaged(path, f"its tensors do not fit the model: {str(error)[:200]}") from error


def load_ema(folder: Path, name: str, document: CheckpointDocument) -> dict[str, Tensor]:
    """Return the running mean of the weights, by the name of each.

    Raises
    ------
    IntegrityError
        They fail their digest, or there are none.
    """
    path = folder / f"{name}.{EMA}"
    if document.ema is None:
        raise _damaged(path, "the run keeps no running mean of its weights")
    return _read_tensors(path, document.ema)


def load_optimizer(folder: Path, name: str, document: CheckpointDocument) -> dict[str, Tensor]:
    """Return the optimizer's tensors of a checkpoint; nothing of it was ever a pickle.

    Raises
    ------
    IntegrityError
        They fail their digest, or there are none.
    """
    path = folder / f"{name}.{OPTIMIZER}"
    if document.optimizer is None:
        raise _damaged(path, "the checkpoint holds no optimizer state")
    return _read_tensors(path, document.optimizer)


def resume_point(document: CheckpointDocument) -> StreamState:
    """Return the first batch that a run resumed from a checkpoint takes."""
    return StreamState(epoch=document.epoch, step=document.step)


def drop_old(run: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints and ``initial``; the JSON goes first.

    Files without one, which a kill left in the middle of writing or removing, go too.
    """
    listed = list_checkpoints(run)
    for name in [n for n in listed if n != INITIAL][keep:]:
        (run / FOLDER / f"{name}.json").unlink(missing_ok=True)
    known = set(list_checkpoints(run))
    for path in sorted((run / FOLDER).glob(f"step-*.{WEIGHTS}")):
        if path.name.partition(".")[0] not in known:
            path.unlink(missing_ok=True)


def load_foreign(raw: bytes) -> object:
    """Return what another program stored with ``torch.save``: tensors and containers, no code.

    Nothing of it is to be believed. A hostile stream may raise any exception.
    """
    return torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)  # noqa: TID251


def _store(path: Path, raw: bytes) -> StoredFile:
    size, digest = write_durable(path, raw)
    return StoredFile(bytes=size, sha256=digest)


def _read_tensors(path: Path, stored: StoredFile) -> dict[str, Tensor]:
    try:
        return load_tensors(_read_stored(path, stored))
    except SafetensorError as error:
        raise _damaged(path, f"no safetensors: {str(error)[:200]}") from error


def _read_stored(path: Path, stored: StoredFile) -> bytes:
    if path.is_symlink() or not path.is_file():
        raise _damaged(path, "missing, or not a regular file")
    if path.stat().st_size != stored.bytes:
        raise _damaged(path, f"{path.stat().st_size:,} bytes, {stored.bytes:,} were written")
    raw = read_file(path)
    if sha256_bytes(raw) != stored.sha256:
        raise _damaged(path, "its SHA-256 is not the one of its .json")
    return raw


def _damaged(path: Path, what: str) -> IntegrityError:
    fix = "remove this checkpoint, or copy it again; the run goes on from the one before"
    return IntegrityError(
        Problem(
            code="T02", subject=f"checkpoint '{path.stem}'", where=str(path), what=what, fix=fix
        )
    )
