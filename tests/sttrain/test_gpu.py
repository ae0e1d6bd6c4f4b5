"""What only a CUDA device can show; run with ``pytest -m gpu`` where there is one."""

import numpy as np
import pytest
import torch

from stbuild.corpus.reader import open_corpus
from sttrain.model.attention import FAR, attend
from sttrain.model.autoencoder import MaskedAutoencoder
from sttrain.model.places import send
from sttrain.stream.batches import PatchSource, PatchStream, StreamState
from sttrain.stream.order import Order
from sttrain.train.checkpoint import list_checkpoints
from sttrain.train.config import FitOptions, RunConfig
from sttrain.train.run import fit
from sttrain.train.trainer import Trainer, choose_device, choose_precision
from tests.corpora import write_corpus
from tests.sttrain.judged import TINY
from tests.sttrain.processes import Starter

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]
CONFIG = {"epochs": 2, "batch": 8, "statistics_patches": 16, "model": TINY.model_dump()}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("gpu") / "corpus"
    write_corpus(path, n_patches=15)
    return path


def train(root, device: str, **changes: object) -> list[float]:
    config = RunConfig.model_validate(CONFIG | {"precision": "fp32", "ema": 0.9} | changes)
    source = PatchSource(open_corpus(root), "train")
    model = MaskedAutoencoder(config.model, source.n_genes, torch.Generator().manual_seed(1))
    trainer = Trainer(config=config, model=model, device=choose_device(device), total=8)
    stream = PatchStream(source, Order(n_samples=len(source), batch=8))
    batches = list(stream.batches(StreamState(), 2))
    return [trainer.step(batch).loss for batch in batches]


def test_auto_is_the_gpu():
    assert choose_device("auto") == torch.device("cuda:0")
    assert choose_precision("auto", torch.device("cuda")) in {"bf16", "fp32"}


def test_what_is_sent_comes_from_pinned_memory_and_waits_for_nobody():
    tensor = torch.arange(1000)
    with torch.profiler.profile() as profile:
        found = send(tensor, torch.device("cuda"))
    assert torch.equal(found.cpu(), tensor)
    assert any("pin" in event.key.lower() for event in profile.key_averages())


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_losses_are_those_of_the_cpu(root, precision):
    expected, found = train(root, "cpu"), train(root, "cuda", precision=precision)
    assert found == pytest.approx(expected, rel=1e-3 if precision == "fp32" else 0.05)


def test_attention_is_that_of_the_cpu():
    g = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, 9, 4, 8, generator=g) for _ in range(3)] + [torch.rand(4, generator=g)]
    apart = torch.randint(0, 5, (2, 9, 9), generator=g).float()
    apart[:, :, 7:] = FAR
    results = []
    for device in ("cpu", "cuda"):
        leaves = [x.to(device).requires_grad_() for x in inputs]
        q, k, v, fall = leaves
        out = attend(q, k, v, fall, apart.to(device))
        out.square().sum().backward()
        results.append([out.detach().cpu(), *(x.grad.cpu() for x in leaves if x.grad is not None)])
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4)


def test_a_run_resumes_on_the_gpu(root, tmp_path):
    config = RunConfig.model_validate(CONFIG | {"precision": "fp32"})
    options = FitOptions(device="cuda", workers=2, logger=(), checkpoint_every=3)

    def kill(state):
        if state.done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(root, tmp_path / "run", config, options, progress=kill)
    assert fit(root, tmp_path / "run", config, options).steps_now == 8 - 3
    assert list_checkpoints(tmp_path / "run")[0] == "step-00000008"


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices")
@pytest.mark.parametrize("more", [(), ("--fsdp",)], ids=["ddp", "fsdp"])
def test_two_gpus_under_nccl(root, tmp_path, more):
    starter = Starter()
    settings = [f"--set=model.{name}={value}" for name, value in CONFIG["model"].items()]  # type: ignore[attr-defined]
    job = starter.start(
        ["fit", str(root), "-o", str(tmp_path / "run"), "--epochs=2", "--batch=8", *settings,
         "--device=cuda", "--set=precision=fp32", "--logger=none", "--log-every=1", *more],
        tmp_path / "out", 2,
    )  # fmt: skip
    assert set(job.wait()) == {0}, job.text()
    starter.close()
    assert np.isfinite(train(root, "cuda")).all()
