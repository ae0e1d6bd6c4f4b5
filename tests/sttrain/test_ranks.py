"""Several real processes: same samples, same numbers, and an end when one of them is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
from safetensors.numpy import load_file

from stbuild.corpus.reader import open_corpus
from sttrain.order import Order
from sttrain.stream import PatchSource
from sttrain.trace import read_trace
from tests.corpora import write_corpus

RECIPE = """
epochs = {epochs}
batch = 8
precision = "fp32"
statistics_patches = 16
[model]
width = 16
layers = 1
heads = 2
ffn = 16
decoder_width = 8
decoder_layers = 1
decoder_heads = 2
decoder_ffn = 8
"""
EPOCHS = 20
STEPS = 4 * EPOCHS


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A corpus of 30 patches (batches of 8, the last of 6) and an uninterrupted run of one rank."""
    root = tmp_path_factory.mktemp("ranks")
    write_corpus(root / "corpus", n_patches=15)
    (root / "recipe.toml").write_text(RECIPE.format(epochs=EPOCHS))
    assert fit(root, "alone").returncode == 0
    return root


def command(root, name, n_ranks, *more):
    launcher = ["torch.distributed.run", "--nproc-per-node", str(n_ranks), "--monitor-interval=0.2"]
    start = [sys.executable, "-m", *(launcher if n_ranks > 1 else [])]
    start += ["-m", "sttrain"] if n_ranks > 1 else ["sttrain"]
    options = ["--workers", "0", "--threads", "1", "--device", "cpu", "--trace", "--keep", "3"]
    options += ["--checkpoint-every", "7", "--log-every", "1", "--timeout", "30"]
    return [*start, "fit", str(root / "corpus"), "-c", str(root / "recipe.toml"), "-o",
            str(root / name), *options, *map(str, more)]  # fmt: skip


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}


def fit(root, name, n_ranks=1, *more):
    return subprocess.run(
        command(root, name, n_ranks, *more), capture_output=True, text=True, check=False,
        env=environment(), timeout=240,
    )  # fmt: skip


def start(root, name, n_ranks, *more):
    return subprocess.Popen(
        command(root, name, n_ranks, *more), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env=environment(),
    )  # fmt: skip


def ranks_of(process):
    """Return the processes of the ranks, by number."""
    found = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            rank = child.environ().get("RANK")
        except psutil.Error:
            continue
        if rank is not None:
            found[int(rank)] = child
    return found


def wait_for_step(root, name, step, process):
    log, until = root / name / "log.jsonl", time.monotonic() + 90
    while time.monotonic() < until and process.poll() is None:
        if log.is_file() and len(log.read_text().splitlines()) >= step:
            return
        time.sleep(0.02)
    pytest.fail(f"no step {step}: {process.communicate(timeout=10)[0]}")


def losses(root, name):
    lines = [json.loads(line) for line in (root / name / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["event"] == "step"]


def weights(root, name):
    return load_file(root / name / "checkpoints" / f"step-{STEPS:08d}.safetensors")


def expected_trace(root):
    source = PatchSource(open_corpus(root / "corpus"), "train")
    order = Order(n_samples=len(source), batch=8, seed=0)
    batches = [order.global_batch(e, s) for e in range(EPOCHS) for s in range(order.steps)]
    return {i: [source.index.keys[n] for n in batch] for i, batch in enumerate(batches, 1)}


def check_against_alone(root, name, *, exactly=None):
    assert read_trace(root / name) == expected_trace(root)
    assert losses(root, name) == pytest.approx(losses(root, "alone"), rel=1e-4)
    if exactly is not None:
        ours, theirs = weights(root, name), weights(root, exactly)
        assert all((ours[key] == theirs[key]).all() for key in theirs)
        assert losses(root, name) == losses(root, exactly)


@pytest.mark.parametrize("n_ranks", [2, *(pytest.param(i, marks=pytest.mark.slow) for i in (3, 4))])
def test_the_samples_are_the_same_at_any_number_of_ranks(lab, n_ranks):
    done = fit(lab, f"by{n_ranks}", n_ranks)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(f"{STEPS} steps") == 2  # one rank speaks for all
    check_against_alone(lab, f"by{n_ranks}")


@pytest.mark.parametrize("n_ranks", [pytest.param(2, marks=pytest.mark.slow), 3,
                                     pytest.param(4, marks=pytest.mark.slow)])  # fmt: skip
def test_a_stopped_run_goes_on_bit_for_bit_at_the_same_number_of_ranks(lab, n_ranks):
    whole, name = f"whole{n_ranks}", f"parted{n_ranks}"
    assert fit(lab, whole, n_ranks).returncode == 0
    for step in (11, 30):
        process = start(lab, name, n_ranks)
        wait_for_step(lab, name, step, process)
        for rank in ranks_of(process).values():
            rank.send_signal(signal.SIGTERM)
        text, _ = process.communicate(timeout=60)
        assert "interrupted; finished work is kept" in text
    done = fit(lab, name, n_ranks)
    assert done.returncode == 0, done.stderr
    check_against_alone(lab, name, exactly=whole)


@pytest.mark.parametrize("seed", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in (1, 2, 3))])
def test_a_killed_rank_ends_the_job_and_fewer_ranks_go_on(lab, seed):
    draw, name = np.random.default_rng(seed), f"killed{seed}"
    for n_ranks in (4, 2):
        process = start(lab, name, n_ranks)
        have = len(losses(lab, name)) if (lab / name / "log.jsonl").is_file() else 0
        wait_for_step(lab, name, min(have + int(draw.integers(5, 26)), STEPS - 8), process)
        victim = int(draw.integers(n_ranks))
        ranks_of(process)[victim].kill()
        began = time.monotonic()
        text, _ = process.communicate(timeout=60)
        assert time.monotonic() - began < 60
        assert process.returncode != 0
        assert f"rank      : {victim}" in text, text  # the launcher's table
    done = fit(lab, name, 3)
    assert done.returncode == 0, done.stderr
    assert "ranks was 2, is now 3" in done.stderr or "ranks was 4, is now 3" in done.stderr
    check_against_alone(lab, name)


def test_preemption_writes_a_checkpoint_and_exits_143(lab):
    process = start(lab, "preempted", 1)
    wait_for_step(lab, "preempted", 9, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    done = len(losses(lab, "preempted"))
    assert (lab / "preempted" / "checkpoints" / f"step-{done:08d}.json").is_file()
    assert fit(lab, "preempted").returncode == 0
    check_against_alone(lab, "preempted", exactly="alone")


def test_what_one_rank_cannot_read_stops_all_with_its_cause(lab, tmp_path):
    root = tmp_path
    write_corpus(root / "corpus", n_patches=15)
    (root / "recipe.toml").write_text(RECIPE.format(epochs=2))
    shard = next((root / "corpus" / "data" / "train").glob("*.tar"))
    raw = bytearray(shard.read_bytes())
    raw[700] ^= 1
    shard.write_bytes(raw)
    done = fit(root, "run", 2)
    assert done.returncode != 0
    assert "L03" in done.stderr
    assert "exitcode  : 6" in done.stderr


@pytest.mark.slow
def test_a_rank_that_hangs_is_named(lab):
    process = start(lab, "hanging", 2, "--timeout", "5")
    wait_for_step(lab, "hanging", 5, process)
    ranks_of(process)[1].suspend()
    began = time.monotonic()
    text, _ = process.communicate(timeout=60)
    assert time.monotonic() - began < 60
    assert "rank 1 is gone" in text, text


def test_more_ranks_than_patches_of_a_batch_are_refused(lab, tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE.format(epochs=1).replace("batch = 8", "batch = 1"))
    (tmp_path / "corpus").symlink_to(lab / "corpus")
    done = fit(tmp_path, "run", 2)
    assert done.returncode != 0
    assert "T07" in done.stderr
    assert "exitcode  : 2" in done.stderr


@pytest.mark.dist
@pytest.mark.slow
def test_ranks_share_the_batches_of_blocks(lab):
    """The same trace on one, two and three ranks, where shards come in groups."""
    blocks = ("--order", "block", "--group", "2", "--epochs", "3")
    assert fit(lab, "blocks-1", 1, *blocks).returncode == 0
    for n_ranks in (2, 3):
        done = fit(lab, f"blocks-{n_ranks}", n_ranks, *blocks)
        assert done.returncode == 0, done.stderr
        assert read_trace(lab / f"blocks-{n_ranks}") == read_trace(lab / "blocks-1")
