"""Release the weights of a run: a folder that stands alone, the same bytes for the same run.

``config.json`` is written last and makes the folder a release; a folder that holds another release,
or anything else, is left as it is. Reading releases is the work of :mod:`sttrain.release.loading`.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from stbuild.corpus.digests import sha256_bytes
from stbuild.corpus.documents import Document, read_config, read_document
from stbuild.corpus.names import BLOCKS
from stbuild.corpus.reader import open_corpus
from stbuild.corpus.storage import read_file
from sttrain.errors import (
    BadInputError,
    BadUsageError,
    DivergedError,
    IntegrityError,
    Problem,
)
from sttrain.model.autoencoder import MaskedAutoencoder
from sttrain.model.parameters import count_parameters
from sttrain.release.document import (
    Kind,
    Licence,
    ReleaseDocument,
    SliceTallies,
    Title,
    seal_document,
)
from sttrain.release.files import encode_genes, encode_release, write_files
from sttrain.release.loading import find_misfits
from sttrain.train.checkpoint import (
    FOLDER,
    INITIAL,
    CheckpointDocument,
    Say,
    find_checkpoint,
    read_checkpoint,
    read_weights,
)
from sttrain.train.run_folder import LOG, RUN_JSON, RunDocument, read_log


@dataclass(frozen=True, kw_only=True)
class ReleaseOutcome:
    """A release as it stands in its folder."""

    folder: str
    document: ReleaseDocument
    written: bool
    """Whether anything was written; the same release stood there otherwise."""

    def __str__(self) -> str:
        """Return the outcome for people."""
        document = self.document
        done = "written" if self.written else "stands there already, nothing was written"
        return (
            f"{self.folder}: {document.weights.n_parameters:,} parameters after "
            f"{document.training.steps:,} steps, {document.genes.n_genes:,} genes; {done}\n"
            f"release_id {document.release_id}"
        )


class _Names(Document):
    """What a person may say of a release."""

    title: Title | None
    licence: Licence | None


def write_release(
    run: Path,
    output: Path,
    *,
    checkpoint: str | None = None,
    kind: Kind = "trained",
    licence: str | None = None,
    title: str | None = None,
    corpus: Path | None = None,
    say: Say = lambda _: None,
) -> ReleaseOutcome:
    """Release the weights of a run.

    Parameters
    ----------
    run
        Run folder.
    output
        Folder of the release; made if there is none.
    checkpoint
        Name of the checkpoint, such as ``step-00000400``; the newest whole one without it.
    kind
        The weights, their running means (``ema``), or those before the first step (``initial``).
    licence
        SPDX expression of the licence of the weights; the card says that none is stated without it.
    title
        Heading of the card.
    corpus
        The training corpus; the card then tells species, tissues and platforms.
    say
        Hears of damaged checkpoints that were passed over.

    Raises
    ------
    BadUsageError
        A licence or title that cannot be written, or a checkpoint beside ``initial``.
    BadInputError
        No run, no such checkpoint, no running means, or another corpus than the run's.
    ConflictError
        The folder holds another release or something else; nothing was changed.
    DivergedError
        A weight is not finite.
    IntegrityError
        A damaged checkpoint, or one of another run than ``run.json``.
    ResourceError
        The disk refuses.
    """
    names = read_config(_Names, {"title": title, "licence": licence}, "command line")
    described = _read_run(run)
    name, stored = _choose(run, checkpoint, kind, described, say)
    if name == INITIAL and kind == "trained":  # asked for by name, or all later ones are damaged
        kind = "initial"
    tensors = _load(run, name, stored, kind)
    weights = save_tensors(tensors, metadata={"format": "pt"})
    genes = encode_genes(stored.genes)
    parts = count_parameters(stored.model, len(stored.genes), stored.pretext)
    untrained = "Untrained masked" if stored.steps_done == 0 else "Masked"
    document = seal_document(
        title=names.title or f"{untrained} autoencoder over {described.corpus}",
        licence=names.licence,
        model=stored.model,
        pretext=stored.pretext,
        genes={
            "n_genes": len(stored.genes),
            "digest": sha256_bytes(genes),
            "n_silent": int((tensors["gene_mean"] == 0).sum()) if stored.model.centre else None,
        },
        weights={
            "bytes": len(weights),
            "sha256": sha256_bytes(weights),
            "n_parameters": sum(parts.values()),
            "kind": kind,
            "checkpoint": name,
        },
        corpus={
            "name": described.corpus,
            "corpus_id": described.corpus_id,
            "split": described.config.split,
            "n_patches": described.n_patches,
            "slices": None if corpus is None else _tally(corpus, described),
        },
        training=_training(run, described, stored),
        recipe=described.config.model_dump(mode="json"),
    )
    written = write_files(output, encode_release(document, weights, genes))
    return ReleaseOutcome(folder=str(output), document=document, written=written)


def _read_run(run: Path) -> RunDocument:
    path = run / RUN_JSON
    if not path.is_file():
        raise BadInputError(
            Problem(
                code="T02",
                subject=f"run '{run.name}'",
                where=str(path),
                what=f"there is no {RUN_JSON}",
                fix="give the folder that `sttrain fit -o` wrote",
            )
        )
    return read_document(RunDocument, read_file(path), str(path))


def _choose(
    run: Path, checkpoint: str | None, kind: Kind, described: RunDocument, say: Say
) -> tuple[str, CheckpointDocument]:
    """Return the checkpoint to release."""
    initial = kind == INITIAL
    if checkpoint is not None and initial and checkpoint != INITIAL:
        what = f"checkpoint '{checkpoint}' and the weights before the first step"
        fix = "give --checkpoint or --initial, not both"
        raise BadUsageError(Problem(code="B111", subject="--initial", what=what, fix=fix))
    if checkpoint is None:
        name, stored = find_checkpoint(run, initial=initial, say=say)
    else:
        name, stored = checkpoint, read_checkpoint(run / FOLDER, checkpoint)
    if stored.fingerprint != described.fingerprint or stored.corpus_id != described.corpus_id:
        what = f"it belongs to another run than the folder's {RUN_JSON}"
        raise IntegrityError(
            _problem(run, name, what, "give a run folder as `sttrain fit` left it")
        )
    return name, stored


def _load(run: Path, name: str, stored: CheckpointDocument, kind: Kind) -> dict[str, Tensor]:
    """Return tensors that fit the model and are finite."""
    tensors = read_weights(run / FOLDER, name, stored)
    if kind == "ema":
        # Means may be kept of the parameters alone; what is measured is the same in both.
        tensors |= read_weights(run / FOLDER, name, stored, ema=True)
    model = MaskedAutoencoder(stored.model, len(stored.genes), torch.Generator(), stored.pretext)
    misfits = find_misfits(model.state_dict(), tensors)
    if misfits:
        endless = [what for what in misfits if what.endswith("not finite")]
        fix = "release an earlier checkpoint with --checkpoint"
        error = DivergedError if endless == misfits else IntegrityError
        raise error(*(_problem(run, name, what, fix) for what in misfits))
    return tensors


def _tally(root: Path, described: RunDocument) -> SliceTallies:
    corpus = open_corpus(root).document
    if corpus.corpus_id != described.corpus_id:
        raise BadInputError(
            Problem(
                code="L24",
                subject=f"corpus '{corpus.name}'",
                where=str(root),
                what=f"its id is {corpus.corpus_id}; the run was trained on {described.corpus_id}",
                fix="give the corpus that the run was trained on, or leave --corpus out",
            )
        )
    split = described.config.split
    slices = [entry for entry in corpus.slices if entry.split in {split, BLOCKS}]

    def tally(field: str) -> dict[str, int]:
        return dict(sorted(Counter(getattr(entry, field) or "" for entry in slices).items()))

    return SliceTallies(
        n_slices=len(slices),
        n_spots=sum(entry.n_spots for entry in slices),
        window=corpus.config.window,
        genes_per_patch=corpus.config.genes,
        species=tally("species"),
        tissue=tally("tissue"),
        platform=tally("platform"),
        layout=tally("layout"),
        licence=tally("licence"),
        sources=sum(len(entry.sources) for entry in slices),
    )


def _passes(described: RunDocument) -> int:
    """Return the passes over all patches of a run, whichever way its length was given."""
    config = described.config
    if config.steps is None:
        return config.epochs
    return max(1, config.steps * config.batch // described.n_patches)


def _training(run: Path, described: RunDocument, stored: CheckpointDocument) -> dict[str, Any]:
    span = max(1, described.steps // _passes(described))
    losses = list(_logged_losses(run / LOG, stored.steps_done - span, stored.steps_done))
    return {
        "fingerprint": described.fingerprint,
        "seed": stored.seed,
        "epoch": stored.epoch,
        "steps": stored.steps_done,
        "steps_planned": described.steps,
        "loss": sum(losses) / len(losses) if losses else None,
        "n_losses": len(losses),
        # The commit is of whatever repository the run was started in; who reads a release
        # cannot tell which.
        "environment": {
            name: value
            for name, value in described.environment.items()
            if not name.startswith("git_")
        },
    }


def _logged_losses(path: Path, after: int, until: int) -> Iterator[float]:
    """Yield the losses that a log holds of the steps `after` + 1 to `until`."""
    for line in read_log(path):
        loss = line.get("loss")
        if line["event"] == "step" and after < line["steps"] <= until and isinstance(loss, float):
            yield loss


def _problem(run: Path, name: str, what: str, fix: str) -> Problem:
    where = str(run / FOLDER / f"{name}.json")
    return Problem(code="T03", subject=f"checkpoint '{name}'", where=where, what=what, fix=fix)
