"""Runs on disk that can be released, without training."""

import json
from pathlib import Path

import torch

from stbuild.corpus.reader import Corpus
from sttrain.train.checkpoint import list_checkpoints, read_checkpoint, save_checkpoint
from sttrain.train.config import RunConfig
from sttrain.train.run_folder import RunDocument
from tests.sttrain.judged import TINY, write_run


def write_released_run(root: Path, corpus: Corpus, **facts) -> Path:
    """A run of 8 steps, at step 4, over the genes and under the id of a corpus."""
    config = RunConfig(epochs=2, model=TINY, precision="fp32")
    document = RunDocument(
        config=config,
        corpus=corpus.document.name,
        corpus_id=corpus.document.corpus_id,
        n_patches=24,
        steps=8,
        fingerprint=config.fingerprint(corpus.document.corpus_id),
        environment={"torch": "2", "cpu": "AVX2", "git_commit": "0" * 40},
    )
    root.mkdir(parents=True, exist_ok=True)
    (root / "run.json").write_bytes(document.to_bytes())
    write_run(root, corpus, **facts)
    for name in list_checkpoints(root):
        path = root / "checkpoints" / f"{name}.json"
        value = json.loads(path.read_bytes())
        value |= {"fingerprint": document.fingerprint, "corpus_id": document.corpus_id}
        path.write_text(json.dumps(value))
    lines = [{"event": "step", "steps": n, "epoch": 0, "loss": 1.0 / n} for n in range(1, 6)]
    (root / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"ev')
    return root


def add_means(run: Path, value: float = 0.5) -> None:
    """Let the newest checkpoint keep running means of its parameters, all of one value."""
    from sttrain.release.encoder import load_encoder

    model, info = load_encoder(run)
    document = read_checkpoint(run / "checkpoints", info.name)
    facts = document.model_dump(
        exclude={"format", "version", "model", "pretext", "weights", "optimizer", "ema"}
    )
    means = {name: torch.full_like(weight, value) for name, weight in model.named_parameters()}
    save_checkpoint(run, info.name, model, {"t": torch.zeros(1)}, ema=means, **facts)
