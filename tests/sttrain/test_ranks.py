"""Several real processes: same samples, same numbers, and an end when one of them is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

from stbuild.corpus.reader import open_corpus
from sttrain.stream.batches import PatchSource
from sttrain.stream.order import Order
from sttrain.train.checkpoint import list_checkpoints
from sttrain.train.trace import read_trace
from tests.corpora import write_corpus
from tests.sttrain.processes import RECIPE, Job, Starter, wait_for_lines

pytestmark = pytest.mark.dist

EPOCHS = 10
STEPS = 4 * EPOCHS
OPTIONS = [
    "--workers=0", "--threads=1", "--device=cpu", "--trace", "--keep=3", "--checkpoint-every=7",
    "--log-every=1", "--timeout=30", "--logger=none",
]  # fmt: skip


@pytest.fixture(scope="module")
def starter():
    found = Starter()
    yield found
    found.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory, starter):
    """30 patches (batches of 8, the last of 6), 15 held out, and a whole run of one rank."""
    root = tmp_path_factory.mktemp("ranks")
    write_corpus(root / "corpus", n_slices=3, n_patches=15, splits=("train", "train", "val"))
    (root / "recipe.toml").write_text(RECIPE.format(epochs=EPOCHS))
    finish(start(starter, root, "alone"))
    return root


def arguments(root: Path, name: str, *more: object) -> list[str]:
    where = [str(root / "corpus"), "-c", str(root / "recipe.toml"), "-o", str(root / name)]
    return ["fit", *where, *OPTIONS, *map(str, more)]


def start(
    starter: Starter,
    root: Path,
    name: str,
    n_ranks: int = 1,
    *more: object,
    broken: str | None = None,
) -> Job:
    return starter.start(arguments(root, name, *more), root / name, n_ranks, broken)


def finish(job: Job) -> None:
    assert set(job.wait()) == {0}, job.text()


def log_of(root: Path, name: str) -> Path:
    return root / name / "log.jsonl"


def losses(root, name):
    lines = [json.loads(line) for line in log_of(root, name).read_text().splitlines()]
    return [line["loss"] for line in lines if line["event"] == "step"]


def tensors(root, name, suffix=".safetensors"):
    return load_file(root / name / "checkpoints" / f"step-{STEPS:08d}{suffix}")


def expected_trace(root):
    source = PatchSource(open_corpus(root / "corpus"), "train")
    order = Order(n_samples=len(source), batch=8, seed=0)
    batches = [order.global_batch(e, s) for e in range(EPOCHS) for s in range(order.steps)]
    return {i: [source.index.keys[n] for n in batch] for i, batch in enumerate(batches, 1)}


def check_against_alone(root, name, *, exactly=None):
    assert read_trace(root / name) == expected_trace(root)
    assert losses(root, name) == pytest.approx(losses(root, "alone"), rel=1e-4)
    if exactly is not None:
        for suffix in (".safetensors", ".optimizer.safetensors", ".ema.safetensors"):
            ours, theirs = tensors(root, name, suffix), tensors(root, exactly, suffix)
            assert ours.keys() == theirs.keys()
            assert all((ours[key] == theirs[key]).all() for key in theirs)
        assert losses(root, name) == losses(root, exactly)


@pytest.mark.parametrize("n_ranks", [2, 4, pytest.param(3, marks=pytest.mark.slow)])
def test_the_samples_are_the_same_at_any_number_of_ranks(lab, starter, n_ranks):
    job = start(starter, lab, f"by{n_ranks}", n_ranks)
    finish(job)
    assert job.text().count(f"{STEPS} steps,") == 1  # one rank speaks for all
    check_against_alone(lab, f"by{n_ranks}")


@pytest.mark.parametrize("n_ranks", [3, *(pytest.param(i, marks=pytest.mark.slow)
                                          for i in (1, 2, 4))])  # fmt: skip
def test_a_stopped_run_goes_on_bit_for_bit_at_the_same_number_of_ranks(lab, starter, n_ranks):
    """Stopped between two checkpoints, and killed there."""
    whole, name = f"whole{n_ranks}", f"parted{n_ranks}"
    finish(start(starter, lab, whole, n_ranks))
    for lines, what in ((10, signal.SIGTERM), (24, signal.SIGKILL)):
        job = start(starter, lab, name, n_ranks)
        wait_for_lines(log_of(lab, name), lines, job)
        job.send(what)
        codes = job.wait(60)
        if what == signal.SIGTERM:
            assert set(codes) == {143}, job.text()
            assert "interrupted; finished work is kept" in job.text()
            newest = list_checkpoints(lab / name)[0]
            assert newest == f"step-{len(losses(lab, name)):08d}"
    finish(start(starter, lab, name, n_ranks))
    check_against_alone(lab, name, exactly=whole)


def test_an_order_for_each_rank_is_noticed(lab, starter):
    finish(start(starter, lab, "apart", 2, broken="an_order_for_each_rank"))
    with pytest.raises(AssertionError):
        check_against_alone(lab, "apart")


@pytest.mark.slow
def test_a_trainer_that_does_not_warm_up_is_noticed(lab, starter):
    finish(start(starter, lab, "cold", 3, broken="no_warm_up"))
    job = start(starter, lab, "cold-parted", 3, broken="no_warm_up")
    wait_for_lines(log_of(lab, "cold-parted"), 10, job)
    job.send(signal.SIGTERM)
    assert set(job.wait(60)) == {143}
    finish(start(starter, lab, "cold-parted", 3, broken="no_warm_up"))
    with pytest.raises(AssertionError):
        check_against_alone(lab, "cold-parted", exactly="cold")


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(i, marks=pytest.mark.slow) for i in range(1, 5))]
)
def test_a_killed_rank_is_named_and_fewer_ranks_go_on(lab, starter, seed):
    """Four, of which one is killed at a random step, then two, then three."""
    draw, name = np.random.default_rng(seed), f"killed{seed}"
    for n_ranks in (4, 2):
        log = log_of(lab, name)
        have = len(losses(lab, name)) if log.is_file() else 0
        job = start(starter, lab, name, n_ranks)
        wait_for_lines(log, min(have + int(draw.integers(3, 14)), STEPS - 6), job)
        victim = int(draw.integers(n_ranks))
        job.send(signal.SIGKILL, victim)
        began = time.monotonic()
        codes = job.wait(60)
        assert time.monotonic() - began < 60
        assert codes.pop(victim) == -signal.SIGKILL
        assert set(codes) == {7}, job.text()
        # A rank that notices late may find that the first one, whose the store is, has ended too.
        named = {r for r in range(n_ranks) if f"rank {victim} is gone" in job.text(r)}
        assert min(set(range(n_ranks)) - {victim}) in named, job.text()
        for rank in set(range(n_ranks)) - {victim} - named:
            assert "rank 0 is gone" in job.text(rank)
    job = start(starter, lab, name, 3)
    finish(job)
    assert "ranks was 4, is now 3" in job.text()
    check_against_alone(lab, name)


def test_parted_weights_train_alike_and_leave_the_same_files(lab, starter, tmp_path):
    """FSDP2 on two ranks, killed; then DDP on three; then parted again on two, in parts."""
    name = "fsdp"
    job = start(starter, lab, name, 2, "--fsdp")
    wait_for_lines(log_of(lab, name), 12, job)
    job.send(signal.SIGKILL)
    job.wait(60)
    for suffix in (".safetensors", ".optimizer.safetensors", ".ema.safetensors"):
        ours = load_file(lab / name / "checkpoints" / f"step-00000007{suffix}")
        theirs = tensors(lab, "alone", suffix)
        assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    job = start(starter, lab, name, 3)
    wait_for_lines(log_of(lab, name), 20, job)
    job.send(signal.SIGTERM)
    assert set(job.wait(60)) == {143}
    job = start(starter, lab, name, 2, "--fsdp", "--part=3", "--val-split=val")
    finish(job)
    assert read_trace(lab / name) == expected_trace(lab)
    assert losses(lab, name) == pytest.approx(losses(lab, "alone"), rel=1e-4)
    ours, theirs = tensors(lab, name), tensors(lab, "alone")
    assert all(np.allclose(ours[key], theirs[key], atol=2e-3) for key in theirs)


def test_what_one_rank_cannot_read_stops_all_with_its_cause(tmp_path, starter):
    write_corpus(tmp_path / "corpus", n_patches=15)
    (tmp_path / "recipe.toml").write_text(RECIPE.format(epochs=2))
    shard = next((tmp_path / "corpus" / "data" / "train").glob("*.tar"))
    raw = bytearray(shard.read_bytes())
    raw[700] ^= 1
    shard.write_bytes(raw)
    job = start(starter, tmp_path, "run", 2)
    assert job.wait(60) == [6, 6], job.text()
    assert "L03" in job.text(0)


@pytest.mark.slow
def test_a_rank_that_hangs_is_named(lab, starter):
    job = start(starter, lab, "hanging", 2, "--timeout=5")
    wait_for_lines(log_of(lab, "hanging"), 5, job)
    job.send(signal.SIGSTOP, 1)
    began = time.monotonic()
    assert starter.ask(wait=job.numbers[0], seconds=60) == 7
    assert time.monotonic() - began < 60
    assert "rank 1 is gone" in job.text(0)
    job.send(signal.SIGKILL, 1)
    starter.ask(wait=job.numbers[1], seconds=60)


def test_more_ranks_than_patches_of_a_batch_are_refused(lab, tmp_path, starter):
    (tmp_path / "recipe.toml").write_text(RECIPE.format(epochs=1).replace("batch = 8", "batch = 1"))
    (tmp_path / "corpus").symlink_to(lab / "corpus")
    job = start(starter, tmp_path, "run", 2)
    assert job.wait(60) == [2, 2]
    assert "T07" in job.text(0)


def test_two_jobs_in_one_folder(lab, starter):
    """The second one is refused on all its ranks; the first one ends as if alone."""
    first = start(starter, lab, "shared", 1)
    wait_for_lines(log_of(lab, "shared"), 1, first)
    first.send(signal.SIGSTOP)
    second = start(starter, lab, "shared", 2)
    codes = second.wait(60)
    first.send(signal.SIGCONT)
    finish(first)
    assert codes == [5, 5], second.text()
    assert "another process is training in it" in second.text(0)
    check_against_alone(lab, "shared", exactly="alone")


# --- under torchrun -------------------------------------------------------------------------


def torchrun(root: Path, name: str, n_ranks: int, *more: str) -> "subprocess.Popen[str]":
    launcher = [sys.executable, "-m", "torch.distributed.run", "--monitor-interval=0.2"]
    command = [*launcher, *more, "--nproc-per-node", str(n_ranks), "-m", "sttrain"]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    return subprocess.Popen(
        [*command, *arguments(root, name)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, env=environment, start_new_session=True,
    )  # fmt: skip


def wait_for_steps(log, least):
    until = time.monotonic() + 120
    while not (log.is_file() and log.read_bytes().count(b"\n") > least):
        assert time.monotonic() < until
        time.sleep(0.02)


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


def test_the_command_of_the_readme_when_a_rank_is_killed(lab, starter):
    """Torchrun ends the job and names the rank; the run goes on without torchrun, too."""
    process, log = torchrun(lab, "launched", 2), log_of(lab, "launched")
    wait_for_steps(log, 8)
    ranks_of(process)[1].kill()
    began = time.monotonic()
    text, _ = process.communicate(timeout=60)
    assert time.monotonic() - began < 60
    assert process.returncode != 0
    assert "rank      : 1" in text, text  # the launcher's table
    job = start(starter, lab, "launched", 2)
    finish(job)
    assert "going on from step-" in job.text()
    check_against_alone(lab, "launched")


@pytest.mark.slow
def test_a_notice_to_all_processes_saves_where_the_ranks_stand(lab, starter):
    """As SLURM gives it; torchrun passes it on, so that every rank hears it twice."""
    flag = "--signals-to-handle=SIGTERM,SIGINT,SIGUSR1"
    process, log = torchrun(lab, "noticed", 2, flag), log_of(lab, "noticed")
    wait_for_steps(log, 8)
    os.killpg(process.pid, signal.SIGUSR1)
    text, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "run the same command again to resume" in text
    done = len(losses(lab, "noticed"))
    assert done < STEPS
    assert list_checkpoints(lab / "noticed")[0] == f"step-{done:08d}"
    finish(start(starter, lab, "noticed", 2))
    check_against_alone(lab, "noticed")


@pytest.mark.slow
def test_ranks_share_the_batches_of_blocks(lab, starter):
    """The same trace on one, two and three ranks, where shards come in groups."""
    blocks = ("--order", "block", "--group", "2", "--epochs", "3")
    finish(start(starter, lab, "blocks-1", 1, *blocks))
    for n_ranks in (2, 3):
        finish(start(starter, lab, f"blocks-{n_ranks}", n_ranks, *blocks))
        assert read_trace(lab / f"blocks-{n_ranks}") == read_trace(lab / "blocks-1")
