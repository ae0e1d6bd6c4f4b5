"""Compiled code: the same numbers, one graph a kind of mask, no graph a length."""

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from sttrain.model.autoencoder import MaskedAutoencoder
from sttrain.stream.batches import Batch
from sttrain.train.compiling import compile_model
from sttrain.train.config import RunConfig
from sttrain.train.learner import Learner
from tests.sttrain.judged import TINY

K = 60


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def draw(seed: int, n: int = 3) -> Batch:
    rng = np.random.default_rng(seed)
    totals = np.where(rng.random((n, 6, 6)) < rng.uniform(0.5, 1), 90, 0).astype(np.uint32)
    counts = rng.poisson(2, (n, 8, 6, 6)).astype(np.uint16) * (totals > 0)[:, None]
    genes = np.stack([np.sort(rng.choice(K, 8, replace=False)) for _ in range(n)])
    return Batch(
        epoch=0, step=seed, counts=counts.astype(np.uint16), genes=genes.astype(np.int32),
        totals=totals, keys=tuple(map(str, range(n))), rows=np.arange(n), total=n,
    )  # fmt: skip


def make_learner(kind: str, precision: str, backend=None) -> Learner:
    config = RunConfig.model_validate(
        {"model": TINY.model_dump(), "precision": precision, "mask": {"kind": kind}}
    )
    model = MaskedAutoencoder(config.model, K, torch.Generator().manual_seed(0))
    if backend is not None:
        compile_model(model, layers=False, backend=backend)
    return Learner(model, config, compiled=backend is not None)


def run(learner: Learner, batch: Batch) -> list[torch.Tensor]:
    learner.zero_grad()
    errors = learner(learner.prepare(batch))
    errors.sum().backward()
    return [errors.detach(), *(w.grad for w in learner.parameters() if w.grad is not None)]


@pytest.mark.parametrize("kind", ["site", "element"])
def test_one_graph_without_breaks_for_batches_of_any_length(kind):
    counter = CompileCounterWithBackend("aot_eager")
    compiled, plain = make_learner(kind, "fp32", counter), make_learner(kind, "fp32")
    for seed, n in enumerate((3, 3, 2, 5, 4)):
        batch = draw(seed, n)
        for ours, theirs in zip(run(compiled, batch), run(plain, batch), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    # A break would be an error; a recompilation would be another frame.
    assert counter.frame_count == 1


# The compiler's own modules warn of each other.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_code_for_this_processor_gives_the_same_numbers(precision):
    compiled, plain = (make_learner("site", precision, b) for b in ("inductor", None))
    tolerance = 1e-3 if precision == "fp32" else 0.1
    for seed, n in enumerate((3, 4)):
        batch = draw(seed, n)
        for ours, theirs in zip(run(compiled, batch), run(plain, batch), strict=True):
            assert torch.allclose(
                ours, theirs, rtol=tolerance, atol=tolerance * float(theirs.abs().max())
            )
