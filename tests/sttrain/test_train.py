"""The fit command as people use it: start, stop, kill, go on, refuse."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from filelock import FileLock

from stbuild.corpus.reader import open_corpus
from sttrain.cli import cli
from sttrain.errors import (
    BadInputError,
    BadUsageError,
    ConflictError,
    DivergedError,
    IntegrityError,
)
from sttrain.release.encoder import load_encoder
from sttrain.train import checkpoint as store
from sttrain.train.checkpoint import list_checkpoints
from sttrain.train.config import FitOptions, RunConfig
from sttrain.train.objectives import MaskConfig
from sttrain.train.run import fit
from sttrain.train.trace import read_trace
from sttrain.train.trainer import choose_device, choose_precision
from tests.corpora import write_corpus
from tests.sttrain.processes import Starter, wait_for_lines

SIZES = {
    "width": 16, "layers": 1, "heads": 2, "ffn": 16,
    "decoder_width": 8, "decoder_layers": 1, "decoder_heads": 2, "decoder_ffn": 8,
}  # fmt: skip
CONFIG = RunConfig.model_validate(
    {"epochs": 3, "batch": 8, "precision": "fp32", "statistics_patches": 16, "model": SIZES}
)
OPTIONS = FitOptions(threads=1, workers=0, checkpoint_every=3, log_every=1, logger=())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """30 patches: four steps an epoch, the last of six patches."""
    path = tmp_path_factory.mktemp("fit") / "corpus"
    write_corpus(path, n_patches=15)
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory, root):
    """An uninterrupted run."""
    run = tmp_path_factory.mktemp("whole") / "run"
    fit(root, run, CONFIG, OPTIONS.model_copy(update={"logger": ("tensorboard",)}))
    return run


def losses(run: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(line["steps"], line["loss"]) for line in lines]


def weights(run: Path) -> bytes:
    return (run / "checkpoints" / f"{list_checkpoints(run)[0]}.safetensors").read_bytes()


class KilledError(Exception):
    """Stands for a kill at some step."""


def kill_after(at):
    """Return a listener that kills after step `at`."""

    def progress(state):
        if state.done == at:
            raise KilledError

    return progress


def fit_until(root, run, at, options=OPTIONS):
    """Train and be killed after step `at`, with no chance to save."""
    with pytest.raises(KilledError):
        fit(root, run, CONFIG, options, progress=kill_after(at))


def test_a_run_folder_tells_what_it_is(whole):
    document = json.loads((whole / "run.json").read_text())
    assert document["steps"] == 12
    assert document["config"]["model"]["width"] == 16
    assert {"torch", "python", "cpu"} <= set(document["environment"])
    assert list_checkpoints(whole) == ["step-00000012", "step-00000009", "initial"]
    assert [step for step, _ in losses(whole)] == list(range(1, 13))
    assert any((whole / "tensorboard").iterdir())
    assert str(whole.parent) not in (whole / "run.json").read_text()


def test_training_helps(root, tmp_path):
    faster = CONFIG.optimizer.model_copy(update={"lr": 1e-2})
    mask = CONFIG.mask.model_copy(update={"kind": "element"})
    config = CONFIG.model_copy(update={"epochs": 30, "optimizer": faster, "mask": mask})
    summary = fit(root, tmp_path / "run", config, OPTIONS)
    first = [loss for _, loss in losses(tmp_path / "run")[:4]]
    assert (summary.loss or 0) < 0.8 * sum(first) / 4
    assert 0 <= (summary.data_wait or 0) <= 1
    assert (summary.patches_per_s or 0) > 0


@pytest.mark.parametrize("at", range(1, 12))
def test_resumes_bit_for_bit_from_any_step(root, whole, tmp_path, at):
    """KilledError after every step of the run, also where the last checkpoint is some steps old."""
    run = tmp_path / "run"
    fit_until(root, run, at)
    fit(root, run, CONFIG, OPTIONS)
    assert losses(run) == losses(whole)
    assert weights(run) == weights(whole)


@pytest.mark.parametrize(("steps", "epochs"), [(3, 1), (6, 2), (12, 3)])
def test_a_run_of_so_many_steps(root, whole, tmp_path, steps, epochs):
    """It ends within a pass or after several, the rate falls over all of it, and it goes on."""
    config = CONFIG.model_copy(update={"steps": steps, "epochs": 1})
    run, killed = tmp_path / "run", tmp_path / "killed"
    summary = fit(root, run, config, OPTIONS)
    assert (summary.steps, summary.epochs) == (steps, epochs)
    with pytest.raises(KilledError):
        fit(root, killed, config, OPTIONS, progress=kill_after(steps // 2))
    more = config.model_copy(update={"epochs": 7})
    fit(root, killed, more, OPTIONS)
    assert losses(killed) == losses(run)
    assert weights(killed) == weights(run)
    assert (weights(run) == weights(whole)) == (steps == 12), "the same rates only if as long"


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_change_no_bit(root, whole, tmp_path, workers):
    fit(root, tmp_path / "run", CONFIG, OPTIONS.model_copy(update={"workers": workers}))
    assert losses(tmp_path / "run") == losses(whole)
    assert weights(tmp_path / "run") == weights(whole)


def test_bf16_resumes_bit_for_bit_too(root, tmp_path):
    config = CONFIG.model_copy(update={"precision": "bf16"})
    for name in ("one", "two"):
        fit(root, tmp_path / name, config, OPTIONS)
    assert weights(tmp_path / "one") == weights(tmp_path / "two")


def test_a_damaged_newest_checkpoint_costs_some_steps_only(root, whole, tmp_path):
    run = tmp_path / "run"
    fit_until(root, run, 8)
    newest = run / "checkpoints" / f"{list_checkpoints(run)[0]}.safetensors"
    newest.write_bytes(newest.read_bytes()[:-3])
    said: list[str] = []
    fit(root, run, CONFIG, OPTIONS, say=said.append)
    assert "step-00000006 is damaged" in said[0]
    assert weights(run) == weights(whole)


def test_a_finished_run_is_left_alone(root, whole):
    before = weights(whole)
    summary = fit(root, whole, CONFIG, OPTIONS)
    assert (summary.steps_now, summary.loss) == (0, None)
    assert "nothing was left to do" in str(summary)
    assert weights(whole) == before


def test_the_untrained_encoder_is_the_runs_own(root, whole):
    untrained, info = load_encoder(whole, initial=True)
    trained, _ = load_encoder(whole)
    assert info.steps == 0
    assert torch.equal(untrained.gene_mean, trained.gene_mean)
    assert untrained.gene_mean.any()
    assert not torch.equal(untrained.table, trained.table)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"batch": 4}, "batch was 8, is now 4", id="batch"),
        pytest.param({"seed": 1}, "seed was 0, is now 1", id="seed"),
        pytest.param({"epochs": 4}, "epochs was 3, is now 4", id="epochs"),
    ],
)
def test_another_configuration_is_refused(root, whole, change, words):
    with pytest.raises(ConflictError, match=words) as caught:
        fit(root, whole, CONFIG.model_copy(update=change), OPTIONS)
    assert caught.value.exit_code == 5


def test_patches_of_which_nothing_can_be_hidden_are_refused(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", window=1).root
    with pytest.raises(BadInputError, match="more than 1 observed sites"):
        fit(
            corpus,
            tmp_path / "run",
            CONFIG.model_copy(update={"mask": MaskConfig(kind="site")}),
            OPTIONS,
        )
    assert not (tmp_path / "run").exists()
    values = CONFIG.model_copy(update={"mask": MaskConfig(kind="element"), "epochs": 1})
    assert fit(corpus, tmp_path / "run", values, OPTIONS).steps


def test_another_corpus_is_refused(whole, tmp_path):
    write_corpus(tmp_path / "other", n_patches=15, seed=1)
    with pytest.raises(ConflictError, match="corpus_id was"):
        fit(tmp_path / "other", whole, CONFIG, OPTIONS)


def test_a_checkpoint_of_another_run(root, whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    other = CONFIG.model_copy(update={"seed": 5})
    (run / "run.json").unlink()
    shutil.rmtree(run / "tensorboard")
    fit(root, tmp_path / "other", other, OPTIONS)
    shutil.copy(tmp_path / "other" / "run.json", run)
    with pytest.raises(ConflictError, match="belongs to another run"):
        fit(root, run, other, OPTIONS)


def test_two_runs_in_one_folder(root, whole):
    with FileLock(whole / ".lock"), pytest.raises(ConflictError, match="another process"):
        fit(root, whole, CONFIG, OPTIONS)


def test_a_folder_that_is_no_run(root, tmp_path):
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(ConflictError, match=r"no run .first: thesis.docx."):
        fit(root, tmp_path, CONFIG, OPTIONS)
    with pytest.raises(ConflictError, match="not a folder"):
        fit(root, tmp_path / "thesis.docx", CONFIG, OPTIONS)


def test_a_split_without_patches(root, tmp_path):
    with pytest.raises(BadInputError, match="holds 0 patches"):
        fit(root, tmp_path / "run", CONFIG.model_copy(update={"split": "test"}), OPTIONS)


def test_damage_found_while_training(root, whole, tmp_path):
    """The run ends before the damaged batch; mended, it goes on to the same end."""
    copy, run = tmp_path / "copy", tmp_path / "run"
    shutil.copytree(root, copy)
    shard = next(iter(sorted((copy / "data" / "train").glob("toy-train-0*.tar"))))
    raw = shard.read_bytes()

    def spoil(state):
        if state.done == 5:
            shard.write_bytes(bytes(len(raw)))

    with pytest.raises(IntegrityError, match="SHA-256"):
        fit(copy, run, CONFIG, OPTIONS, progress=spoil)
    shard.write_bytes(raw)
    fit(copy, run, CONFIG, OPTIONS)
    assert weights(run) == weights(whole)


def test_a_loss_that_is_not_finite_names_the_patches(root, tmp_path):
    run = tmp_path / "run"
    fit_until(root, run, 4)
    folder = run / "checkpoints"
    # Weights that overflow, under digests that hold.
    model, _ = load_encoder(run)
    with torch.no_grad():
        model.widen.weight.mul_(1e38)
    document = store.read_checkpoint(folder, "step-00000003")
    facts = document.model_dump(
        exclude={"format", "version", "model", "pretext", "weights", "optimizer"}
    )
    tensors = store.load_optimizer(folder, "step-00000003", document)
    store.save_checkpoint(run, "step-00000003", model, tensors, **facts)
    with pytest.raises(DivergedError, match=r"step 4.*toy\d_w") as caught:
        fit(root, run, CONFIG, OPTIONS)
    assert caught.value.exit_code == 10
    assert list_checkpoints(run)[0] == "step-00000003"


def test_devices():
    assert choose_device("cpu").type == "cpu"
    for name in ("abacus", "cuda:99"):
        with pytest.raises(BadUsageError, match="no such device"):
            choose_device(name)
    assert choose_precision("fp32", torch.device("cpu")) == "fp32"
    assert choose_precision("auto", torch.device("cpu")) in {"bf16", "fp32"}


SETTINGS = [f"--set=model.{name}={value}" for name, value in SIZES.items()]


def command(root: Path, run: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "sttrain", "fit", str(root), "-o", str(run), *SETTINGS,
        "--set=statistics_patches=16", "--set=precision=fp32", "--batch=8", "--threads=1",
        "--checkpoint-every=7", "--log-every=1", "--logger=none", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def starter():
    found = Starter()
    yield found
    found.close()


@pytest.mark.dist
def test_kill_9_and_the_same_command_again(root, tmp_path, starter):
    """Killed in earnest, anywhere: samples and losses go on as if the run had never stopped."""
    run, plain = tmp_path / "run", tmp_path / "plain"
    job = starter.start(command(root, run, "--epochs=10")[3:], tmp_path / "out")
    wait_for_lines(run / "log.jsonl", 20, job)
    job.send(signal.SIGKILL)
    job.wait()
    subprocess.run(command(root, run, "--epochs=10"), check=True, capture_output=True)
    fit(root, plain, CONFIG.model_copy(update={"epochs": 10}), OPTIONS)
    assert losses(run) == losses(plain)
    assert weights(run) == weights(plain)


@pytest.mark.slow
@pytest.mark.dist
def test_killed_ten_times_at_random_the_weights_are_those_of_an_unkilled_run(
    root, tmp_path, starter
):
    """Killed anywhere, also inside of saving: a checkpoint is written after every step."""
    run, plain = tmp_path / "run", tmp_path / "plain"
    more = ("--epochs=60", "--checkpoint-every=1", "--keep=2", "--set=ema=0.99")
    draw, steps = np.random.default_rng(0), 4 * 60
    begun = []
    for _ in range(10):
        job = starter.start(command(root, run, *more)[3:], tmp_path / "out")
        log = run / "log.jsonl"
        have = log.read_bytes().count(b"\n") if log.is_file() else 0
        wait_for_lines(log, have + int(draw.integers(1, steps // 12)), job)
        time.sleep(float(draw.uniform(0, 0.05)))
        job.send(signal.SIGKILL)
        assert job.wait() == [-signal.SIGKILL], job.text()
        begun.append(json.loads(log.read_text().splitlines()[-1])["steps"])
    assert begun[-1] < steps
    assert sorted(begun) == begun
    for folder in (run, plain):
        job = starter.start(command(root, folder, *more)[3:], tmp_path / "out")
        assert job.wait() == [0], job.text()
    assert losses(run) == losses(plain)
    for suffix in ("safetensors", "optimizer.safetensors", "ema.safetensors"):
        name = f"checkpoints/{list_checkpoints(plain)[0]}.{suffix}"
        assert (run / name).read_bytes() == (plain / name).read_bytes()


@pytest.mark.dist
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 143)]
)
def test_a_signal_saves_and_exits_with_its_code(root, tmp_path, starter, number, code):
    run = tmp_path / "run"
    more = "--epochs=2000", "--checkpoint-every=100000"
    job = starter.start(command(root, run, *more)[3:], tmp_path / "out")
    wait_for_lines(run / "log.jsonl", 3, job)
    job.send(number)
    if number == signal.SIGUSR1:
        job.send(number)  # as torchrun does, when SLURM has sent it to all processes of a step
    assert job.wait(60) == [code]
    assert "run the same command again to resume" in job.text()
    newest = list_checkpoints(run)[0]
    assert newest == f"step-{losses(run)[-1][0]:08d}"


def test_the_command(root, tmp_path):
    arguments = command(root, tmp_path / "run", "--epochs=1")[3:]
    result = CliRunner().invoke(cli, [*arguments, "--json"], catch_exceptions=False)
    summary = json.loads(result.stdout)
    assert (summary["steps"], summary["checkpoint"]) == (4, "step-00000004")
    again = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert "4 steps" in again.stdout
    assert "going on from step-00000004" in again.stderr
    quiet = CliRunner().invoke(cli, [*arguments, "-q"], catch_exceptions=False)
    assert quiet.stderr == ""


def test_every_default_stands_in_one_place():
    """A flag that is not given leaves the field's default in force."""
    command_ = cli.commands["fit"]
    fields = {**RunConfig.model_fields, **FitOptions.model_fields}
    flags = {option.name: option for option in command_.params}
    for name in fields.keys() & flags.keys():
        assert flags[name].default is None
        assert str(fields[name].default) in (flags[name].help or "") or fields[name].default is None


@pytest.mark.parametrize("group", [1, 2, 5])
def test_a_run_by_blocks_goes_on_where_it_was_killed(root, tmp_path, group):
    """The same weights at the end, and each patch once an epoch, whatever the groups."""
    config = CONFIG.model_copy(update={"order": "block", "group": group})
    options = OPTIONS.model_copy(update={"trace": True})
    fit(root, tmp_path / "whole", config, options)

    def kill(state):
        if state.done == 7:
            raise KilledError

    with pytest.raises(KilledError):
        fit(root, tmp_path / "cut", config, options, progress=kill)
    fit(root, tmp_path / "cut", config, options)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    trace = read_trace(tmp_path / "cut")
    assert trace == read_trace(tmp_path / "whole")
    keys = open_corpus(root).index("train").keys
    for epoch in range(3):
        steps = [trace[step] for step in range(4 * epoch + 1, 4 * epoch + 5)]
        assert sorted(key for step in steps for key in step) == sorted(keys)


def test_another_order_is_another_run(root, tmp_path):
    fit(root, tmp_path / "run", CONFIG.model_copy(update={"epochs": 1}), OPTIONS)
    config = CONFIG.model_copy(update={"epochs": 1, "order": "block"})
    with pytest.raises(ConflictError, match="order was random, is now block"):
        fit(root, tmp_path / "run", config, OPTIONS)
