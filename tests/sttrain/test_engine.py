"""The engine of a step: parts, clipping, running means, scaling, validation, a full disk."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from stbuild.corpus.reader import open_corpus
from sttrain.errors import BadUsageError, ConflictError, ResourceError
from sttrain.model.autoencoder import MaskedAutoencoder
from sttrain.release.encoder import load_encoder
from sttrain.stream.batches import PatchSource, PatchStream, StreamState
from sttrain.stream.order import Order
from sttrain.train import checkpoint as store
from sttrain.train.config import FitOptions, RunConfig
from sttrain.train.distributed import Ranks
from sttrain.train.learner import Learner
from sttrain.train.run import fit
from sttrain.train.sharding import clip_gradients
from sttrain.train.trainer import Trainer
from sttrain.train.validation import Validator
from tests.corpora import write_corpus
from tests.sttrain.judged import TINY

CONFIG = RunConfig.model_validate(
    {"epochs": 3, "batch": 8, "precision": "fp32", "statistics_patches": 16,
     "model": TINY.model_dump()}
)  # fmt: skip
OPTIONS = FitOptions(threads=1, workers=0, checkpoint_every=3, log_every=1, logger=(), device="cpu")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """30 patches: four steps an epoch, the last of six patches."""
    path = tmp_path_factory.mktemp("engine") / "corpus"
    write_corpus(path, n_patches=15)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory, root):
    run = tmp_path_factory.mktemp("whole") / "run"
    fit(root, run, CONFIG, OPTIONS)
    return run


def log(run: Path, event: str = "step") -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == event]


def weights(run: Path, name: str | None = None) -> dict[str, torch.Tensor]:
    name = name or store.list_checkpoints(run)[0]
    document = store.read_checkpoint(run / "checkpoints", name)
    return store.read_weights(run / "checkpoints", name, document)


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def make_trainer(root, **changes) -> tuple[Trainer, PatchStream]:
    config = CONFIG.model_copy(update=changes)
    source = PatchSource(open_corpus(root), "train")
    model = MaskedAutoencoder(config.model, source.n_genes, torch.Generator().manual_seed(1))
    trainer = Trainer(config=config, model=model, device=torch.device("cpu"), total=12)
    return trainer, PatchStream(source, Order(n_samples=len(source), batch=config.batch))


# --- parts of a batch -----------------------------------------------------------------------


@pytest.mark.parametrize("part", [1, 3, 8, 100])
def test_parts_add_up_to_the_global_batch(root, whole, tmp_path, part):
    """Whatever memory holds at once: the same samples, the same loss, the same step."""
    fit(root, tmp_path / "run", CONFIG, OPTIONS.model_copy(update={"part": part}))
    ours, theirs = log(tmp_path / "run"), log(whole)
    assert [x["loss"] for x in ours] == pytest.approx([x["loss"] for x in theirs], rel=1e-4)
    assert ours[0]["gradient_norm"] == pytest.approx(theirs[0]["gradient_norm"], rel=1e-5)
    if part >= 8:
        assert same(weights(tmp_path / "run"), weights(whole))


def test_parts_are_never_larger_than_asked(root):
    trainer, stream = make_trainer(root)
    sizes = []
    trainer.learner.register_forward_pre_hook(
        lambda _, given: sizes.append(len(given[0].batch.keys))
    )
    trainer.part = 3
    trainer.step(stream.read(StreamState()))
    assert sizes == [3, 3, 2]


@pytest.mark.parametrize(
    "fill",
    [
        pytest.param(lambda *_: torch.empty(1 << 60, dtype=torch.uint8), id="cpu"),
        pytest.param(lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("CUDA")), id="gpu"),
    ],
)
def test_out_of_memory_says_what_to_give(root, monkeypatch, fill):
    trainer, stream = make_trainer(root)
    monkeypatch.setattr(Learner, "forward", fill)
    with pytest.raises(ResourceError, match=r"over 8 patches.*--part 4") as caught:
        trainer.step(stream.read(StreamState()))
    assert caught.value.exit_code == 7


# --- clipping, rates ------------------------------------------------------------------------


def test_gradients_are_shortened_as_pytorch_does():
    g = torch.Generator().manual_seed(0)
    for limit in (0.5, 100.0, math.inf):
        ours = [nn.Parameter(torch.zeros(n, 3)) for n in (2, 5, 7)]
        theirs = [nn.Parameter(torch.zeros(n, 3)) for n in (2, 5, 7)]
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn(a.shape, generator=g)
            b.grad = a.grad.clone()
        norm = clip_gradients([*ours, nn.Parameter(torch.zeros(4))], limit)
        assert norm == pytest.approx(float(nn.utils.clip_grad_norm_(theirs, limit)))
        for a, b in zip(ours, theirs, strict=True):
            assert a.grad is not None
            assert b.grad is not None
            assert torch.allclose(a.grad, b.grad)


def test_a_step_clips_the_gene_rows_with_all_else(root):
    """The norm is that of all gradients, those of the rows that were lent among them."""
    trainer, stream = make_trainer(root)
    batch = stream.read(StreamState())
    task, model = trainer.asker.prepare(batch), trainer.model
    model.table.requires_grad_(True)
    (trainer.asker(task).sum() / task.n_targets).backward()
    total = math.sqrt(
        sum(float(w.grad.square().sum()) for w in model.parameters() if w.grad is not None)
    )
    model.zero_grad()
    model.table.requires_grad_(False)
    assert trainer.step(batch).norm == pytest.approx(total, rel=1e-5)


def test_sgd_like_steps_shrink_with_the_clip(root):
    """Under Adam a scaled gradient gives the same direction, so its running mean is looked at."""
    means = {}
    for clip in (1e-3, "none"):
        optimizer = CONFIG.optimizer.model_copy(update={"clip": clip})
        trainer, stream = make_trainer(root, optimizer=optimizer)
        trainer.step(stream.read(StreamState()))
        states = trainer.optimizer.state.values()
        means[clip] = math.sqrt(sum(float(s["exp_avg"].square().sum()) for s in states)) / 0.1
    assert means[1e-3] == pytest.approx(1e-3, rel=1e-3)
    assert means["none"] > 1e-2


# --- running means, scaling -----------------------------------------------------------------


def test_the_running_mean_is_what_its_formula_says(root):
    trainer, stream = make_trainer(root, ema=0.75)
    expected = {n: w.detach().clone() for n, w in trainer.model.named_parameters()}
    for step in range(3):
        trainer.step(stream.read(StreamState(step=step)))
        for name, weight in trainer.model.named_parameters():
            expected[name] = 0.75 * expected[name] + 0.25 * weight.detach()
    assert trainer.average is not None
    for name, mean in trainer.average.means.items():
        assert torch.allclose(mean, expected[name], atol=1e-6)
    assert not torch.equal(trainer.average.means["table"], trainer.model.table)


def test_fp16_passes_a_step_over_whose_gradient_overflows(root):
    trainer, stream = make_trainer(root, precision="fp16")
    trainer.step(stream.read(StreamState()))
    before = {n: w.detach().clone() for n, w in trainer.model.named_parameters()}
    counts = [float(s["step"]) for s in trainer.optimizer.state.values() if s]
    trainer.scaler.update(2.0**60)
    trainer.step(stream.read(StreamState(step=1)))
    assert trainer.scaler.get_scale() == 2.0**59
    assert all(torch.equal(before[n], w) for n, w in trainer.model.named_parameters())
    assert [float(s["step"]) for s in trainer.optimizer.state.values() if s] == counts


def test_fp16_resumes_bit_for_bit(root, tmp_path):
    config = CONFIG.model_copy(update={"precision": "fp16"})
    fit(root, tmp_path / "whole", config, OPTIONS)

    class KilledError(Exception):
        pass

    def kill(state):
        if state.done == 8:
            raise KilledError

    with pytest.raises(KilledError):
        fit(root, tmp_path / "run", config, OPTIONS, progress=kill)
    fit(root, tmp_path / "run", config, OPTIONS)
    assert same(weights(tmp_path / "run"), weights(tmp_path / "whole"))


# --- validation -----------------------------------------------------------------------------


def test_validation_masks_never_change_and_parts_do_not_matter(root):
    trainer, _ = make_trainer(root)
    source = PatchSource(open_corpus(root), "train")
    validator = Validator(source=source, batch=8, patches=20)
    first = validator.loss(trainer, Ranks())
    assert validator.loss(trainer, Ranks()) == first
    trainer.part = 3
    assert validator.loss(trainer, Ranks()) == pytest.approx(first, rel=1e-6)
    with torch.no_grad():
        trainer.model.widen.bias.add_(0.5)
    assert validator.loss(trainer, Ranks()) != pytest.approx(first, rel=1e-3)


@pytest.fixture(scope="module")
def parted(tmp_path_factory):
    """The same 30 patches to train on, and 15 each of two other splits."""
    path = tmp_path_factory.mktemp("parted") / "corpus"
    splits = ("train", "train", "val", "test")
    write_corpus(path, n_slices=4, n_patches=15, splits=splits)
    return path


def test_what_is_trained_on_is_not_held_out(root, tmp_path):
    with pytest.raises(BadUsageError, match="'train' is what is trained on"):
        fit(root, tmp_path / "run", CONFIG, OPTIONS.model_copy(update={"val_split": "train"}))
    assert not (tmp_path / "run").exists()


def test_losses_of_two_splits_are_not_compared(parted, tmp_path):
    run, heard = tmp_path / "run", list[str]()
    options = OPTIONS.model_copy(update={"val_split": "val", "val_every": 1})

    def stop(state):
        if state.done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(parted, run, CONFIG, options, progress=stop)
    other = options.model_copy(update={"val_split": "test"})
    fit(parted, run, CONFIG, other, say=heard.append)
    assert [text for text in heard if "is not compared with those of" in text]
    found = [line["val_loss"] for line in log(run, "validation") if line["steps"] > 6]
    last = store.read_checkpoint(run / "checkpoints", store.list_checkpoints(run)[0])
    assert (last.best, last.best_of) == (min(found), "1024 patches of split 'test'")


def test_the_best_weights_are_kept_beside_the_last_ones(parted, tmp_path):
    """A rate that is far too high at the end: the best weights are not the last ones."""
    root = parted
    optimizer = CONFIG.optimizer.model_copy(update={"lr": 0.3, "warmup": 1.0})
    config = CONFIG.model_copy(update={"optimizer": optimizer})
    options = OPTIONS.model_copy(update={"val_split": "val", "val_every": 1, "keep": 2})
    fit(root, tmp_path / "run", config, options)
    found = [x["val_loss"] for x in log(tmp_path / "run", "validation")]
    assert len(found) == 12
    best = store.read_checkpoint(tmp_path / "run" / "checkpoints", store.BEST)
    assert best.best == min(found) < found[-1]
    assert best.steps_done == 1 + int(np.argmin(found))
    model, _ = load_encoder(tmp_path / "run" / "checkpoints" / "best.json")
    trainer, _ = make_trainer(root)
    trainer.model.load_state_dict(model.state_dict())
    source = PatchSource(open_corpus(root), "val")
    validator = Validator(source=source, batch=8, patches=options.val_patches)
    assert validator.loss(trainer, Ranks()) == pytest.approx(min(found), rel=1e-5)
    assert store.list_checkpoints(tmp_path / "run") == ["step-00000012", "step-00000009", "initial"]


# --- another batch, a full disk -------------------------------------------------------------


def test_another_batch_goes_on_if_asked(root, tmp_path):
    """After four steps of 8 patches an epoch of 30 is done; then come steps of 10."""
    run = tmp_path / "run"

    def stop(state):
        if state.done == 4:
            raise KeyboardInterrupt

    options = OPTIONS.model_copy(update={"checkpoint_every": 1})
    with pytest.raises(KeyboardInterrupt):
        fit(root, run, CONFIG, options, progress=stop)
    other = CONFIG.model_copy(update={"batch": 10})
    with pytest.raises(ConflictError, match="batch was 8, is now 10"):
        fit(root, run, other, options)
    again = options.model_copy(update={"rebatch": True})
    with pytest.raises(ConflictError, match="no whole number of such batches"):
        fit(root, run, other, again)  # the last checkpoint is from within the epoch
    summary = fit(root, run, CONFIG.model_copy(update={"batch": 4}), again)
    assert summary.steps == 3 * 8
    assert summary.steps_now == 24 - 6


def refuse_flushes_of(monkeypatch, name: str, after: int) -> None:
    """Let the disk be full from some flush on, for files of that name."""
    real, calls = os.fsync, 0

    def fsync(handle: int) -> None:
        nonlocal calls
        ours = name in Path(f"/proc/self/fd/{handle}").readlink().name
        calls += ours
        if ours and calls > after:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("after", range(3), ids=["weights", "optimizer", "document"])
def test_a_disk_that_is_full_while_saving_costs_nothing_older(
    root, whole, tmp_path, monkeypatch, after
):
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        refuse_flushes_of(patch, "step-00000006", after)
        with pytest.raises(ResourceError, match="No space left") as caught:
            fit(root, run, CONFIG, OPTIONS)
    assert caught.value.exit_code == 7
    assert store.list_checkpoints(run) == ["step-00000003", "initial"]
    assert not list((run / "checkpoints").glob(".*partial*"))
    fit(root, run, CONFIG, OPTIONS)
    assert same(weights(run), weights(whole))
