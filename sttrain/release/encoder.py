"""The encoder of a run, of one of its checkpoints, or of a release: one way in."""

from pathlib import Path

import torch

from sttrain.model.autoencoder import MaskedAutoencoder
from sttrain.model.encoder_info import EncoderInfo
from sttrain.release.loading import is_release, load_released
from sttrain.train.checkpoint import (
    FOLDER,
    INITIAL,
    Say,
    find_checkpoint,
    load_weights,
    read_checkpoint,
)


def load_encoder(
    path: Path, *, initial: bool = False, say: Say = lambda _: None
) -> tuple[MaskedAutoencoder, EncoderInfo]:
    """Load the model of a run for evaluation.

    Parameters
    ----------
    path
        A run folder, or one ``<name>.json`` or ``<name>.safetensors`` of a checkpoint, or a folder
        of released weights, or ``hf:OWNER/NAME[@REVISION]`` of the Hugging Face Hub.
    initial
        The weights before the first step instead of the newest: the same architecture, the same
        gene means, nothing learnt. Released weights hold one model and no other.
    say
        Hears of damaged checkpoints that were passed over.

    Returns
    -------
    tuple
        The model in evaluation mode on the CPU, float32, and where it comes from.

    Raises
    ------
    BadInputError
        There is no checkpoint.
    BadUsageError
        The untrained weights are asked of a release.
    IntegrityError
        It is damaged, or its weights are not those of its configuration.
    """
    if is_release(path):
        return load_released(path, initial=initial)
    if path.is_dir():
        name, document = find_checkpoint(path, initial=initial, say=say)
        folder = path / FOLDER
    else:
        folder, name = path.parent, INITIAL if initial else path.stem
        document = read_checkpoint(folder, name)
    generator = torch.Generator()
    model = MaskedAutoencoder(document.model, len(document.genes), generator, document.pretext)
    load_weights(model, folder, name, document)
    info = EncoderInfo(
        model=document.model,
        pretext=document.pretext,
        genes=document.genes,
        corpus_id=document.corpus_id,
        seed=document.seed,
        epoch=document.epoch,
        steps=document.steps_done,
        digest=document.weights.sha256,
        name=name,
    )
    return model.eval(), info
