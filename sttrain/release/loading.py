"""Load released weights from a folder or from the Hugging Face Hub, and believe nothing of them.

Digests first, then names, types, shapes and values: a model is handed out only if every number of
it is the one that was released. Nothing is ever unpickled and no code comes with a model. Writing
releases is the work of :mod:`sttrain.release.writing`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from stbuild.corpus.digests import sha256_bytes
from stbuild.corpus.names import MAX_DOCUMENT_BYTES
from stbuild.corpus.storage import read_file
from sttrain.errors import BadInputError, BadUsageError, Problem
from sttrain.model.autoencoder import MaskedAutoencoder
from sttrain.model.encoder_info import EncoderInfo
from sttrain.model.parameters import count_numbers
from sttrain.release.document import (
    CONFIG,
    FILES,
    GENES,
    MAX_CONFIG_BYTES,
    WEIGHTS,
    ReleaseDocument,
    altered,
    parse_document,
)

HUB: Final = "hf:"
"""Before a name on the Hub, wherever a path may stand too."""
_HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_NAMED: Final = 3
"""Offenders that a message names."""


@dataclass(frozen=True, kw_only=True)
class Release:
    """A release whose bytes have their digests and whose numbers fit and are finite."""

    document: ReleaseDocument
    genes: tuple[str, ...]
    model: MaskedAutoencoder
    """In evaluation mode on the CPU, float32."""

    @property
    def info(self) -> EncoderInfo:
        """Return where the encoder comes from, as ``load_encoder`` does."""
        training, weights = self.document.training, self.document.weights
        return EncoderInfo(
            model=self.document.model,
            pretext=self.document.pretext,
            genes=self.genes,
            corpus_id=self.document.corpus.corpus_id,
            seed=training.seed,
            epoch=training.epoch,
            steps=training.steps,
            digest=weights.sha256,
            name=weights.checkpoint,
        )


def is_release(path: str | Path) -> bool:
    """Tell whether a path is a folder of released weights, a file of one, or a name on the Hub."""
    return str(path).startswith(HUB) or (_folder(Path(path)) / CONFIG).is_file()


def _folder(path: Path) -> Path:
    """Return the folder that a path means: a file of a release stands for all of it."""
    return path.parent if path.name in FILES and path.is_file() else path


def load_released(
    source: str | Path, *, initial: bool = False, release_id: str | None = None
) -> tuple[MaskedAutoencoder, EncoderInfo]:
    """Load released weights for evaluation.

    Parameters
    ----------
    source
        A folder that ``sttrain release`` wrote; or ``OWNER/NAME`` or ``hf:OWNER/NAME[@REVISION]``
        on the Hugging Face Hub, which needs the extra ``publish``. A folder of that name is
        preferred.
    initial
        Refuse anything but the weights before the first step.
    release_id
        The identity that the release has to have: branches move, it does not.

    Returns
    -------
    tuple
        The model in evaluation mode on the CPU, float32, and where it comes from.

    Raises
    ------
    BadInputError
        No release, or of a format or version that is not known here, or another than asked for.
    BadUsageError
        The untrained weights of a release of trained ones.
    IntegrityError
        It is truncated, altered, or not what its own document says.
    PlatformError
        huggingface_hub is needed and not installed.
    RemoteError
        The Hub cannot be reached, or has no such model.
    """
    release = read_release(locate(source))
    found = release.document.release_id
    if release_id is not None and found != release_id:
        what = f"its release_id is {found}, expected {release_id}"
        raise _refused(source, what, "get the release that was meant; pin it with @COMMIT")
    if initial and release.document.weights.kind != "initial":
        what = f"the release holds the weights after {release.info.steps:,} steps and no others"
        fix = "release the untrained ones of the same run with `sttrain release RUN --initial`"
        raise BadUsageError(
            Problem(code="T02", subject="--untrained", where=str(source), what=what, fix=fix)
        )
    return release.model, release.info


def locate(source: str | Path) -> Path:
    """Return the folder of a release, after downloading it where it is on the Hub."""
    text = str(source)
    if isinstance(source, str) and not Path(source).exists() and _HUB_ID.fullmatch(source):
        text = HUB + source
    if not text.startswith(HUB):
        return _folder(Path(source))
    from sttrain.release.hub import download

    name, _, revision = text.removeprefix(HUB).partition("@")
    if not _HUB_ID.fullmatch(name):
        raise _refused(source, f"'{name}' is no OWNER/NAME", "write hf:OWNER/NAME[@REVISION]")
    return download(name, revision=revision or None)


def read_release(folder: Path) -> Release:
    """Read a release folder.

    Raises
    ------
    BadInputError
        No release, or of a format or version that is not known here.
    IntegrityError
        It is truncated, altered, or not what its own document says; every problem is named.
    """
    config = folder / CONFIG
    if not config.is_file():
        what = f"there is no {CONFIG}: no release, or one that was not written to its end"
        raise _refused(folder, what, "give a folder that `sttrain release` wrote")
    document = parse_document(_read(config, MAX_CONFIG_BYTES), str(config))
    genes = _read_genes(folder / GENES, document)
    tensors = _read_weights(folder / WEIGHTS, document)
    return Release(document=document, genes=genes, model=_fill(folder, document, genes, tensors))


def require_genes(genes: Sequence[str], known: Sequence[str], subject: str) -> None:
    """Refuse gene indices that point into another list than the model's.

    For those who hand indices to :meth:`MaskedAutoencoder.encode` themselves; ``sttrain embed``
    goes by names and takes any order and any part of the model's genes.

    Raises
    ------
    BadInputError
        Genes that the model does not know, that it misses, or another order.
    """
    if list(genes) == list(known):
        return
    unknown = sorted(set(genes) - set(known))
    missing = sorted(set(known) - set(genes))
    parts = []
    if unknown:
        parts.append(f"{len(unknown):,} of {len(genes):,} genes are unknown to the model")
    if missing:
        parts.append(f"{len(missing):,} of the model's {len(known):,} genes are missing")
    if not parts:
        at = next((i for i, one, two in zip(count(), genes, known, strict=False) if one != two), 0)
        parts.append(f"the same genes in another order (gene {at} is {genes[at]}, not {known[at]})")
    first = ", ".join((unknown or missing)[:_NAMED])
    what = "; ".join(parts) + (f" (first: {first})" if first else "")
    fix = f"build the corpus over the model's genes: `stbuild shard --vocabulary {GENES}`"
    raise BadInputError(Problem(code="V22", subject=subject, what=what, fix=fix))


def _read(path: Path, limit: int) -> bytes:
    # The Hub's cache is made of links; what they lead to is believed for its digest alone.
    if not path.is_file():
        raise altered(str(path), "missing, or not a file")
    size = path.stat().st_size
    if size > limit:
        raise altered(str(path), f"{size:,} bytes, at most {limit:,} are read")
    return read_file(path)


def _read_genes(path: Path, document: ReleaseDocument) -> tuple[str, ...]:
    raw = _read(path, MAX_DOCUMENT_BYTES)
    told = document.genes
    if sha256_bytes(raw) != told.digest:
        raise altered(str(path), "its SHA-256 is not the one of config.json")
    try:
        genes = tuple(raw.decode().removesuffix("\n").split("\n"))
    except UnicodeDecodeError as error:
        raise altered(str(path), f"no UTF-8: {error}") from error
    if len(genes) != told.n_genes or len(set(genes)) != len(genes) or "" in genes:
        what = f"{len(set(genes)):,} distinct genes on {len(genes):,} lines, expected"
        raise altered(str(path), f"{what} {told.n_genes:,}")
    return genes


def _read_weights(path: Path, document: ReleaseDocument) -> dict[str, Tensor]:
    told = document.weights
    if path.is_file() and path.stat().st_size != told.bytes:
        what = f"{path.stat().st_size:,} bytes, {told.bytes:,} were released"
        raise altered(str(path), what)
    raw = _read(path, told.bytes)
    if sha256_bytes(raw) != told.sha256:
        raise altered(str(path), "its SHA-256 is not the one of config.json")
    try:
        return load_tensors(raw)
    except SafetensorError as error:
        raise altered(str(path), f"no safetensors: {str(error)[:200]}") from error


def _fill(
    folder: Path, document: ReleaseDocument, genes: tuple[str, ...], tensors: dict[str, Tensor]
) -> MaskedAutoencoder:
    """Build the model and put the tensors in."""
    where = str(folder / WEIGHTS)
    given = sum(value.numel() for value in tensors.values())
    needed = count_numbers(document.model, len(genes), document.pretext)
    if given < needed:  # before so much memory is asked for as a lying config.json says
        raise altered(where, f"{given:,} numbers; a model of config.json has {needed:,}")
    model = MaskedAutoencoder(document.model, len(genes), torch.Generator(), document.pretext)
    problems = find_misfits(model.state_dict(), tensors)
    if problems:
        raise altered(where, *problems)
    model.load_state_dict(tensors)
    return model.eval()


def find_misfits(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Say in what tensors are not those of a model."""
    problems = []
    for words, names in (
        ("tensors are missing", sorted(wanted.keys() - given.keys())),
        ("tensors belong to no such model", sorted(given.keys() - wanted.keys())),
    ):
        if names:
            problems.append(f"{len(names)} {words} (first: {', '.join(names[:_NAMED])})")
    for name in sorted(wanted.keys() & given.keys()):
        one, two = wanted[name], given[name]
        if one.shape != two.shape or one.dtype != two.dtype:
            come = f"{tuple(two.shape)} {two.dtype}"
            problems.append(f"'{name}' is {come}, expected {tuple(one.shape)} {one.dtype}")
        elif not bool(torch.isfinite(two).all()):
            bad = int((~torch.isfinite(two)).sum())
            problems.append(f"'{name}': {bad:,} of {two.numel():,} numbers are not finite")
    return problems


def _refused(source: str | Path, what: str, fix: str) -> BadInputError:
    subject = "released weights"
    return BadInputError(
        Problem(code="T02", subject=subject, where=str(source), what=what, fix=fix)
    )
