"""Every objective and option as it is used: trained, stopped, resumed, released, embedded."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from pydantic import ValidationError

from stbuild.corpus.reader import open_corpus
from sttrain.cli import cli
from sttrain.embed.evaluation import read_patch
from sttrain.embed.spots import embed_checkpoint
from sttrain.errors import BadInputError, BadUsageError
from sttrain.model.autoencoder import MaskedAutoencoder, normalise
from sttrain.model.contexts import encode_sites
from sttrain.release.encoder import load_encoder
from sttrain.release.loading import load_released
from sttrain.release.writing import write_release
from sttrain.stream.batches import StreamState
from sttrain.stream.order import Order, World
from sttrain.train.centring import whole_means
from sttrain.train.checkpoint import list_checkpoints, read_checkpoint
from sttrain.train.config import FitOptions, RunConfig
from sttrain.train.domains import find_domains
from sttrain.train.learner import Learner
from sttrain.train.objectives import keyed_generator
from sttrain.train.plan import plan_run
from sttrain.train.run import fit
from sttrain.train.slice_source import dense_counts
from sttrain.train.units import batch_of, open_source, stream_of
from tests.corpora import write_corpus

OBJECTIVES = ("patch", "spot", "multispot", "slice")
SIZES = {
    "width": 16, "layers": 1, "heads": 2, "ffn": 16,
    "decoder_width": 8, "decoder_layers": 1, "decoder_heads": 2, "decoder_ffn": 8,
}  # fmt: skip
OPTIONS = FitOptions(threads=1, workers=0, checkpoint_every=3, log_every=1, logger=())
EVERYTHING = {
    "loss": "nb", "augment": True, "gene_init": "coexpression", "ema": 0.9,
    "model": SIZES | {"centre_by": "slice"},
}  # fmt: skip
"""All options that go together, so that what one forgets shows."""


def make_config(objective="patch", **changes):
    fields = {"epochs": 2, "batch": 8, "precision": "fp32", "statistics_patches": 16}
    fields |= {"model": SIZES, "objective": objective, "context": {"domains": 3, "neighbours": 4}}
    return RunConfig.model_validate(fields | changes)


def all_options(objective):
    changes = EVERYTHING | ({"augment": False} if objective == "slice" else {})
    return make_config(objective, **changes)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two slices of the training split, one of another; 45 patches."""
    path = tmp_path_factory.mktemp("units") / "corpus"
    write_corpus(path, n_slices=3, n_patches=15, splits=("train", "train", "val"))
    return path


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    path = tmp_path_factory.mktemp("units") / "eval"
    return write_corpus(path, kind="cover", n_slices=2, splits=("test", "test"), seed=1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, root):
    """A run of every objective, with all options."""
    folder = tmp_path_factory.mktemp("runs")
    options = OPTIONS.model_copy(update={"val_split": "val"})
    for objective in OBJECTIVES:
        fit(root, folder / objective, all_options(objective), options)
    return folder


def log_of(run: Path, event="step"):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == event]


def losses(run):
    return [line["loss"] for line in log_of(run)]


def weights(run):
    return (run / "checkpoints" / f"{list_checkpoints(run)[0]}.safetensors").read_bytes()


class KilledError(Exception):
    """Stands for a kill at some step."""


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_resumes_bit_for_bit(root, runs, tmp_path, objective):
    config, run = all_options(objective), tmp_path / "run"
    options = OPTIONS.model_copy(update={"val_split": "val"})

    def progress(state):
        if state.done == 5:
            raise KilledError

    with pytest.raises(KilledError):
        fit(root, run, config, options, progress=progress)
    summary = fit(root, run, config, options.model_copy(update={"workers": 2}))
    assert losses(run) == losses(runs / objective)
    assert weights(run) == weights(runs / objective)
    assert log_of(run, "validation") == log_of(runs / objective, "validation")
    assert summary.targets == sum(line["targets"] for line in log_of(run))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_training_helps(root, tmp_path, objective):
    config = make_config(
        objective, epochs=15, optimizer={"lr": 2e-2}, mask={"kind": "element"}
    )  # fmt: skip
    fit(root, tmp_path / "run", config, OPTIONS.model_copy(update={"checkpoint_every": 100}))
    found = losses(tmp_path / "run")
    assert np.mean(found[-4:]) < 0.85 * np.mean(found[:4])


def test_every_objective_is_asked_for_as_much(root, tmp_path):
    """By the step for windows, over the epoch for whole slices; plan, log and checkpoint agree."""
    asked = {}
    for objective in OBJECTIVES:
        config = make_config(objective)
        fit(root, tmp_path / objective, config, OPTIONS)
        asked[objective] = [line["targets"] for line in log_of(tmp_path / objective)]
        plan = plan_run(open_corpus(root), config, FitOptions(device="cpu"))
        assert plan.steps == len(asked[objective])
        name = list_checkpoints(tmp_path / objective)[0]
        stored = read_checkpoint(tmp_path / objective / "checkpoints", name)
        assert stored.targets_done == sum(asked[objective])
        assert stored.pretext.objective == objective
    assert asked["patch"] == asked["spot"] == asked["multispot"]
    # 30 patches of 57 sites are 5.6 views of 324 spots: 6 of them.
    assert sum(asked["slice"]) == pytest.approx(sum(asked["patch"]), rel=0.2)


@pytest.mark.parametrize("kind", ["site", "block", "element"])
def test_plans_foretell_targets(root, kind):
    for objective in OBJECTIVES:
        config = make_config(objective, mask={"kind": kind})
        plan = plan_run(open_corpus(root), config, FitOptions(device="cpu"))
        source = open_source(open_corpus(root), "train", config)
        learner = Learner(make_model(config), config)
        order = Order(n_samples=len(source), batch=batch_of(source, config.batch), seed=0)
        stream = stream_of(source, order)
        counted = [learner.prepare(b).n_targets for b in stream.batches(StreamState(), 1)]
        assert plan.targets == pytest.approx(np.mean(counted), rel=0.01)


def make_model(config):
    return MaskedAutoencoder(config.model, 24, keyed_generator("weights", 0), config.pretext)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_ranks_and_parts_add_up_to_the_whole(root, objective):
    """Whatever number of ranks a batch is dealt to: the same samples, masks and errors."""
    config = make_config(objective, augment=objective != "slice", mask={"kind": "block"})
    source = open_source(open_corpus(root), "train", config)
    layouts = {entry.slug: entry.layout for entry in open_corpus(root).document.slices}
    learner = Learner(make_model(config), config)
    learner.facts = replace(learner.facts, layouts=layouts)
    order = Order(n_samples=len(source), batch=batch_of(source, config.batch), seed=0)
    state = StreamState(epoch=1, step=1)
    whole = learner.prepare(stream_of(source, order).read(state))
    errors = learner(whole)
    n_targets = 0
    for rank in range(3):
        stream = stream_of(source, order, World(rank=rank, n_ranks=3))
        task = learner.prepare(stream.read(state))
        parts = [learner(part) for part in task.parts(2)]
        if parts:  # fewer samples than ranks
            assert torch.allclose(torch.cat(parts), errors[rank::3], rtol=1e-4)
        n_targets += task.n_targets
    assert n_targets == whole.n_targets


@pytest.mark.parametrize(
    "objective",
    [o if o == "slice" else pytest.param(o, marks=pytest.mark.slow) for o in OBJECTIVES],
)  # fmt: skip
def test_two_processes_train_what_one_does(root, runs, tmp_path, objective):
    """Real ranks: DDP waits for every weight, and some are of no use to single sites."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(_toml(all_options(objective)))
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
        "--monitor-interval=0.2", "-m", "sttrain", "fit", str(root), "-c", str(recipe),
        "-o", str(tmp_path / "run"), "--threads", "1", "--device", "cpu", "--log-every", "1",
        "--val-split", "val", "--timeout", "60", "--logger", "none",
    ]  # fmt: skip
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | environment,
        timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert losses(tmp_path / "run") == pytest.approx(losses(runs / objective), rel=1e-4)
    counts = [[line["targets"] for line in log_of(f)] for f in (tmp_path / "run", runs / objective)]
    assert counts[0] == counts[1]


def _toml(config):
    def lines(fields):
        plain = {k: v for k, v in fields.items() if not isinstance(v, dict)}
        return [f"{key} = {json.dumps(value)}" for key, value in plain.items()]

    value = config.model_dump(mode="json", exclude_none=True)
    tables = {key: part for key, part in value.items() if isinstance(part, dict)}
    text = lines(value) + [x for k, t in tables.items() for x in [f"[{k}]", *lines(t)]]
    return "\n".join(text)


# --- use ------------------------------------------------------------------------------------


def slow_features(model, info, corpus, whole, slug):
    """(N, D) means over windows and draws, or over draws for whole slices, spot by spot."""
    split = next(s for s in corpus.document.splits("slice"))
    index = corpus.index(split)
    positions = [i for i in range(len(index)) if index.slices[i] == slug]
    patches = [read_patch(corpus, split, index, i) for i in positions]
    means = torch.from_numpy(whole_means(whole, len(corpus.genes)))
    found: list[list[torch.Tensor]] = [[] for _ in range(whole.meta.n_spots)]
    if model.pretext.objective == "slice":
        domains = torch.from_numpy(find_domains(whole, model.pretext.context, info.seed))[None]
        draws = {patch.meta.draw: patch.genes for patch in patches}
        for genes in draws.values():
            counts = torch.from_numpy(dense_counts(whole, genes).astype(np.int64))[None]
            numbers = torch.from_numpy(genes.astype(np.int64))[None]
            totals = torch.from_numpy(whole.totals.astype(np.int64))[None]
            sites = normalise(counts, numbers, totals)
            own = torch.where(numbers >= 0, means[numbers.clamp(min=0)], 0)
            features = encode_sites(model, replace(sites, means=own), domains=domains)[0]
            for spot in range(whole.meta.n_spots):
                found[spot].append(features[spot])
    else:
        for patch in patches:
            numbers = torch.from_numpy(patch.genes.astype(np.int64))[None]
            own = torch.where(numbers >= 0, means[numbers.clamp(min=0)], 0)
            features = model.encode(
                torch.from_numpy(patch.counts.astype(np.int64))[None], numbers,
                torch.from_numpy(patch.totals.astype(np.int64))[None], means=own,
            )[0]  # fmt: skip
            assert patch.spots is not None
            for site, spot in enumerate(patch.spots.ravel().tolist()):
                if spot >= 0:
                    found[spot].append(features[site])
    return torch.stack([torch.stack(vectors).double().mean(0) for vectors in found])


@torch.no_grad()
@pytest.mark.parametrize("untrained", [False, True])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_embeds_as_each_objective_was_trained(runs, evaluation, tmp_path, objective, untrained):
    out = tmp_path / "vectors.parquet"
    found = embed_checkpoint(
        runs / objective, evaluation.root, out, untrained=untrained, device="cpu", batch=5
    ).embeddings
    assert found.provenance["objective"] == objective
    model, info = load_encoder(runs / objective, initial=untrained)
    wholes = {whole.meta.slice: whole for whole in evaluation.whole_slices("test")}
    assert set(found.slices) == set(wholes)
    for slug, part in found.slices.items():
        expected = slow_features(model, info, evaluation, wholes[slug], slug)
        assert np.allclose(part.matrix, expected.numpy(), atol=1e-4)
        assert np.ptp(part.matrix, axis=0).max() > 0.1


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_layers_inside_can_be_embedded(runs, evaluation, tmp_path, objective):
    shallow = embed_checkpoint(
        runs / objective,
        evaluation.root,
        tmp_path / "a.parquet",
        inference={"layer": 0},
        device="cpu",
    )
    deep = embed_checkpoint(runs / objective, evaluation.root, tmp_path / "b.parquet", device="cpu")
    assert shallow.embeddings.digest() != deep.embeddings.digest()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_releases_carry_the_objective(runs, root, evaluation, tmp_path, objective):
    released = tmp_path / "released"
    write_release(runs / objective, released, corpus=root)
    model, info = load_released(released)
    assert model.pretext == info.pretext == all_options(objective).pretext
    card = (released / "README.md").read_text()
    assert f"objective `{objective}`" in card
    assert "negative binomial" in card
    vectors = [
        embed_checkpoint(path, evaluation.root, tmp_path / f"{i}.parquet", device="cpu").embeddings
        for i, path in enumerate((released, runs / objective))
    ]
    assert vectors[0].digest() == vectors[1].digest()


def test_slices_are_centred_by_their_own_means(runs, evaluation):
    """Without means a model that centres by slice refuses, in words."""
    model, _ = load_encoder(runs / "patch")
    patch = read_patch(evaluation, "test", evaluation.index("test"), 0)
    counts, genes, totals = (
        torch.from_numpy(part.astype(np.int64))[None]
        for part in (patch.counts, patch.genes, patch.totals)
    )
    with pytest.raises(BadUsageError, match="no means of the slices"):
        model.encode(counts, genes, totals)


@torch.no_grad()
def test_centring_takes_out_what_a_slice_is_as_a_whole():
    """A gene that is higher all over a slice, by any amount, changes no token and no error."""
    config = make_config(model=SIZES | {"centre_by": "slice", "local": False})
    model = make_model(config)
    wire = torch.randint(0, 9, (1, 6, 4, 4)), torch.arange(6)[None], torch.full((1, 4, 4), 90)
    sites = normalise(*wire)
    means, lift = sites.values.mean(2), torch.linspace(0, 3, 6)[None]
    sites = replace(sites, means=means)
    lifted = replace(sites, values=sites.values + lift[..., None], means=means + lift)
    index = torch.arange(16)[None]
    assert torch.allclose(model.tokens(sites, index, None), model.tokens(lifted, index, None),
                          atol=1e-5)  # fmt: skip
    plain = make_model(make_config(model=SIZES | {"local": False}))
    assert not torch.allclose(plain.tokens(sites, index, None), plain.tokens(lifted, index, None),
                              atol=1e-2)  # fmt: skip


# --- options and refusals -------------------------------------------------------------------


@pytest.mark.parametrize("change", [
    {"augment": True}, {"smooth": 0.5}, {"gene_init": "coexpression"}, {"loss": "poisson"},
    {"loss": "nb"}, {"model": SIZES | {"centre_by": "slice"}}, {"objective": "spot"},
], ids=str)  # fmt: skip
def test_every_option_is_off_and_changes_training(root, tmp_path, change):
    fit(root, tmp_path / "plain", make_config(epochs=1), OPTIONS)
    fit(root, tmp_path / "other", make_config(**{"epochs": 1} | change), OPTIONS)
    assert losses(tmp_path / "plain") != losses(tmp_path / "other")


def test_validation_turns_nothing(root):
    config = make_config(augment=True)
    layouts = {entry.slug: entry.layout for entry in open_corpus(root).document.slices}
    learner = Learner(make_model(config), config)
    learner.facts = replace(learner.facts, layouts=layouts)
    source = open_source(open_corpus(root), "train", config)
    batch = stream_of(source, Order(n_samples=len(source), batch=8, seed=0)).read(StreamState())
    assert np.array_equal(learner.prepare(batch, held_out=True).batch.counts, batch.counts)
    assert not np.array_equal(learner.prepare(batch).batch.counts, batch.counts)


@pytest.mark.parametrize(("wrong", "words"), [
    ({"smooth": 0.1, "loss": "nb"}, "smooth is for loss mse"),
    ({"smooth": 0.1, "objective": "slice"}, "smooth needs windows"),
    ({"augment": True, "objective": "slice"}, "augment turns windows"),
    ({"objective": "cell"}, "objective"),
    ({"model": {"centre": False, "centre_by": "slice"}}, "centre_by"),
])  # fmt: skip
def test_what_does_not_go_together_is_refused(wrong, words):
    with pytest.raises(ValidationError, match=words):
        RunConfig.model_validate(wrong)


def test_slices_need_whole_slices(grids, tmp_path):
    from stbuild.build.building import build_corpus
    from stbuild.build.inputs import gather_inputs
    from stbuild.corpus.documents import ShardConfig
    from stbuild.tasks.pipeline import run_loop

    config = ShardConfig(name="none", window=8, genes=16, n_per_slice=4)
    build_corpus(gather_inputs(grids, config, None), tmp_path / "c", run_loop)
    with pytest.raises(BadInputError, match="--whole-slices"):
        fit(tmp_path / "c", tmp_path / "run", make_config("slice"), OPTIONS)
    with pytest.raises(BadInputError, match="--whole-slices"):
        plan_run(open_corpus(tmp_path / "c"), make_config("slice"), FitOptions(device="cpu"))


def test_another_batch_of_slices_goes_on_where_it_divides(root, tmp_path):
    """The steps of views count views, not patches."""
    first = make_config("slice", batch=6, epochs=4)  # one view a step: six steps an epoch
    run = tmp_path / "run"

    def progress(state):
        if state.done == 8:
            raise KilledError

    with pytest.raises(KilledError):
        fit(root, run, first, OPTIONS.model_copy(update={"checkpoint_every": 2}), progress=progress)
    second = make_config("slice", batch=11, epochs=4)  # two views a step
    summary = fit(root, run, second, OPTIONS.model_copy(update={"rebatch": True}))
    assert summary.steps == 12
    assert summary.steps_now == 12 - 3


def test_one_flag_chooses_the_objective(root, tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_text(_toml(make_config()))
    for objective in OBJECTIVES:
        found = CliRunner().invoke(
            cli, ["fit", str(root), "-c", str(recipe), "--objective", objective, "--dry-run"]
        )
        assert found.exit_code == 0, found.output
        assert f"under objective {objective}" in found.output
