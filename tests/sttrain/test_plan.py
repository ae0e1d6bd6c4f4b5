"""Plans: compared with what a step really does, counted by PyTorch."""

import shutil
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from stbuild.corpus.reader import open_corpus
from sttrain.errors import BadInputError
from sttrain.model.autoencoder import MaskedAutoencoder, ModelConfig, locate_hidden, normalise
from sttrain.stream.batches import PatchSource
from sttrain.stream.order import Order
from sttrain.train.config import FitOptions, RunConfig
from sttrain.train.costs import StepShape, count_flops, estimate_memory
from sttrain.train.objectives import (
    KINDS,
    MaskConfig,
    draw_hidden,
    draw_kind,
    kind_shares,
    squared_errors,
)
from sttrain.train.plan import describe_plan, plan_run, step_shape
from sttrain.train.statistics import as_tensors
from tests.corpora import write_corpus
from tests.sttrain.judged import TINY

SMALL = ModelConfig(
    width=64, layers=3, heads=4, ffn=128, decoder_width=32, decoder_layers=2, decoder_heads=4,
    decoder_ffn=64,
)  # fmt: skip
PLAIN = SMALL.model_copy(update={"local": False, "library_size": False, "position": True})
OPTIONS = FitOptions(device="cpu")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Patches of very different fill, one split."""
    return write_corpus(tmp_path_factory.mktemp("plan") / "corpus", n_patches=15, rows=12, cols=9)


def forward(model, kind, n_genes=200, B=4, M=96, P=12, fill=0.8, bf16=False, ratio=0.0):
    """One step forward: its loss and its shape."""
    generator = torch.Generator().manual_seed(3)
    counts = torch.randint(0, 5, (B, M, P, P), generator=generator)
    genes = torch.stack([torch.randperm(n_genes, generator=generator)[:M] for _ in range(B)])
    totals = torch.randint(100, 900, (B, P, P), generator=generator)
    totals = totals * (torch.rand(B, P, P, generator=generator) < fill)
    mask = MaskConfig(kind=kind, visible_ratio=ratio)
    hidden = draw_hidden(
        mask, seed=0, epoch=0, step=0, rows=torch.arange(B), totals=totals, genes=M
    )
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        sites = normalise(counts, genes, totals)
        found = model(sites, hidden)
    errors, n = squared_errors(sites, hidden, found)
    observed = (totals > 0).flatten(1).sum(1).numpy()
    shape = step_shape(mask, kind, observed, M, P * P)
    places = locate_hidden(sites.observed, hidden)
    real = places.visible.shape[1], places.observed.shape[1], found.index.shape[1]
    assert (shape.visible, shape.observed, shape.targets) == real
    return errors.sum() / n.sum(), shape


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("config", [SMALL, PLAIN], ids=["local", "plain"])
def test_products_are_those_that_pytorch_counts(kind, config):
    model = MaskedAutoencoder(config, 200, torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        loss, shape = forward(model, kind)
        loss.backward()
    assert count_flops(config, shape).total == pytest.approx(counter.get_total_flops(), rel=0.01)


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("config", [SMALL, PLAIN], ids=["local", "plain"])
def test_activations_are_about_what_autograd_keeps(kind, config, bf16):
    model = MaskedAutoencoder(config, 200, torch.Generator().manual_seed(0))
    seen = {weight.untyped_storage().data_ptr(): 0 for weight in model.parameters()}
    kept = []

    def pack(tensor):
        storage = tensor.untyped_storage()
        seen.setdefault(storage.data_ptr(), storage.nbytes())
        kept.append(tensor)  # a storage that is freed would give its place to another
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        _, shape = forward(model, kind, bf16=bf16)
    found = estimate_memory(config, 200, shape, "bf16" if bf16 else "fp32")
    assert found.activations == pytest.approx(sum(seen.values()), rel=0.1)


def test_weights_gradients_and_optimizer_are_counted():
    """Where all genes are drawn, the rows that are lent are as many as the table's."""
    model = MaskedAutoencoder(TINY, 24, torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    loss, shape = forward(model, "site", n_genes=24, M=16)
    loss.backward()
    optimizer.step()
    found = estimate_memory(TINY, 24, shape, "fp32")
    assert found.weights == sum(v.nbytes for v in model.state_dict().values())
    gradients = sum(w.grad.nbytes for w in model.parameters() if w.grad is not None)
    assert found.gradients == gradients + model.table.nbytes
    wide = estimate_memory(TINY, 10**6, shape, "fp32").gradients
    assert wide < 1e6 < model.table[0].nbytes * 10**6
    states = [v for s in optimizer.state.values() for v in s.values() if v.ndim]
    scalars = sum(1 for w in model.parameters() if w.ndim == 0)
    assert scalars == 0
    assert found.optimizer == sum(v.nbytes for v in states)
    parts = found.weights + found.gradients + found.optimizer + found.activations + found.batch
    assert found.total == parts


def make_config(**changes):
    return RunConfig(epochs=3, batch=8, precision="fp32", model=TINY, **changes)


def test_a_plan_is_what_happens(corpus):
    """Tokens of every step of the first epoch, under the masks that the run would draw."""
    config = make_config()
    plan = plan_run(corpus, config, OPTIONS)
    source = PatchSource(corpus, "train")
    order = Order(n_samples=len(source), batch=8, seed=0)
    assert (plan.steps, plan.steps_per_epoch, plan.samples) == (12, 4, 90)
    for number, kind in enumerate(KINDS):
        visible, decoded = [], []
        for step in range(order.steps):
            counts, genes, totals = source.read(order.global_batch(0, step).tolist())
            hidden = draw_hidden(
                MaskConfig(kind=kind), seed=0, epoch=0, step=step,
                rows=torch.arange(len(counts)), totals=torch.from_numpy(totals.astype("int64")),
                genes=genes.shape[1],
            )  # fmt: skip
            sites = normalise(*as_tensors(counts, genes, totals, torch.device("cpu")))
            places = locate_hidden(sites.observed, hidden)
            visible.append(places.visible.numel())
            decoded.append(places.observed.numel())
        assert plan.kinds[number].visible == sum(visible) / 4
        assert plan.kinds[number].decoded == sum(decoded) / 4
    assert plan.visible == pytest.approx(sum(k.share * k.visible for k in plan.kinds))


def test_shares_are_those_of_the_mask():
    mask = MaskConfig()
    shares = kind_shares(mask)
    drawn = [draw_kind(mask, 0, 0, step) for step in range(3000)]
    for kind in KINDS:
        assert drawn.count(kind) / 3000 == pytest.approx(shares[kind], abs=0.03)
    assert kind_shares(MaskConfig(kind="block")) == {"site": 0, "block": 1, "element": 0}


@pytest.mark.parametrize("kind", KINDS)
def test_one_kind_alone(corpus, kind):
    plan = plan_run(corpus, make_config(mask=MaskConfig(kind=kind)), OPTIONS)
    assert [found.kind for found in plan.kinds] == [kind]
    assert plan.flops == plan.kinds[0].flops.total


def test_patches_with_one_site_or_none():
    shape = step_shape(MaskConfig(), "site", [1, 0], 16, 64)
    assert (shape.visible, shape.targets) == (1, 1)


def test_more_ranks_less_memory_same_products(corpus):
    one = plan_run(corpus, make_config(), OPTIONS)
    two = plan_run(corpus, make_config(), OPTIONS, n_ranks=2)
    assert two.memory.activations == one.memory.activations // 2
    assert two.memory.weights == one.memory.weights
    assert two.flops == one.flops
    assert "on 2 ranks" in describe_plan(two)


def test_bf16_takes_less(corpus):
    config = make_config()
    full = plan_run(corpus, config, OPTIONS).memory
    half = plan_run(corpus, config.model_copy(update={"precision": "bf16"}), OPTIONS).memory
    assert half.activations < full.activations
    assert half.weights == full.weights


def test_the_text_names_what_was_asked_for(corpus):
    plan = plan_run(corpus, make_config(), OPTIONS)
    text = describe_plan(plan)
    total = sum(plan.parameters.values())
    for words in (
        "12 = 3 epochs x 4", f"{total:,}: gene table 384, encoder", "mean of 4 of 4 steps",
        "element   30% of steps", "optimizer", "activations", "90 patches", "in fp32",
    ):  # fmt: skip
        assert words in text
    assert str(corpus.root) not in text
    assert len(text.splitlines()) == 11


def test_planning_reads_no_shard(corpus, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(corpus.root, copy)
    for shard in copy.rglob("*.tar"):
        shard.unlink()
    plan = plan_run(open_corpus(copy), make_config(), OPTIONS)
    assert plan == plan_run(corpus, make_config(), OPTIONS)


def test_a_split_without_patches(corpus):
    with pytest.raises(BadInputError, match="holds 0 patches"):
        plan_run(corpus, make_config(split="test"), OPTIONS)


def test_longer_steps_cost_more():
    shape = StepShape(patches=4, genes=32, sites=64, visible=16, observed=60, targets=48)
    for name in ("patches", "genes", "visible", "observed", "targets"):
        more = replace(shape, **{name: getattr(shape, name) * 2})
        assert count_flops(SMALL, more).total > count_flops(SMALL, shape).total
        before = estimate_memory(SMALL, 200, shape, "fp32").total
        assert estimate_memory(SMALL, 200, more, "fp32").total > before
