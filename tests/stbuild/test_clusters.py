"""Builds on a real scheduler with real workers that come, go, die and hang: the same bytes."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

from stbuild.build.building import build_corpus
from stbuild.build.inputs import gather_inputs
from stbuild.config import GridConfig
from stbuild.corpus.documents import ShardConfig
from stbuild.corpus.errors import BadUsageError, PlatformError, RemoteError
from stbuild.grid.compact import compact
from stbuild.manifests.manifest import read_inputs
from stbuild.tasks.pipeline import Patience, open_runner, run_loop
from stbuild.tasks.workers import attempt_there
from stbuild.tools import running_code
from tests.clusters import kill, runner_on, running_cluster
from tests.slices import Spec, write_slice
from tests.trees import tree_digests

pytestmark = pytest.mark.dist

N_SLICES = 5
GRID = GridConfig(label="label", pitch_um=100.0)
SHARD = ShardConfig(name="tiny", window=8, genes=16, n_per_slice=12, samples_per_shard=18)
SECONDS = 0.2
"""That every task takes at least, so that a fault meets some of them."""


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    root = tmp_path_factory.mktemp("sources")
    return [write_slice(root / f"s{i}.h5ad", Spec(seed=i, rows=14, cols=12)) for i in
            range(N_SLICES)]  # fmt: skip


def build(sources, root, runner):
    """Both steps of a build, as the commands run them."""
    compact(read_inputs([str(path) for path in sources]), GRID, root / "grids", runner)
    build_corpus(gather_inputs(root / "grids", SHARD, None), root / "corpus", runner)
    return tree_digests(root)


@pytest.fixture(scope="module")
def wanted(sources, tmp_path_factory):
    return build(sources, tmp_path_factory.mktemp("loop"), run_loop)


@contextmanager
def at_task(cluster, n, action):
    """Do something when the n-th task has begun, while the build runs."""
    failed = []

    def wait() -> None:
        try:
            cluster.wait_for_tasks(n)
            action()
        except BaseException as error:  # noqa: BLE001 - told to the test below
            failed.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    assert not failed, failed


def test_workers_may_come_late_and_leave(sources, wanted, tmp_path):
    said: list[str] = []
    with running_cluster(tmp_path, 0, SECONDS) as cluster, runner_on(cluster, said=said) as runner:
        late = threading.Timer(2.0, cluster.start_worker)
        late.start()

        def change_shift() -> None:
            cluster.start_worker()
            cluster.workers[0].send_signal(signal.SIGTERM)
            cluster.workers[0].wait(30)

        with at_task(cluster, 2, change_shift):
            assert build(sources, tmp_path / "out", runner) == wanted
        late.join()
        assert len({process for process, *_ in cluster.log()}) == 2
        assert cluster.workers[0].returncode is not None
    assert set(said) == {"no workers yet: waiting for one, 60 s at most"}


@pytest.mark.parametrize(
    "signals",
    [
        pytest.param([signal.SIGKILL], id="killed"),
        # It wakes up when its task was done elsewhere, and does it once more.
        pytest.param([signal.SIGSTOP, signal.SIGCONT], id="hung"),
    ],
)
def test_a_worker_that_dies_or_hangs_changes_nothing(sources, wanted, tmp_path, signals):
    with running_cluster(tmp_path, 2, SECONDS) as cluster, runner_on(cluster) as runner:

        def hurt() -> None:
            kill(cluster.workers[0], signals[0])

        with at_task(cluster, 4, hurt):
            assert build(sources, tmp_path / "out", runner) == wanted
        for further in signals[1:]:
            kill(cluster.workers[0], further)
            time.sleep(1.0)
        assert tree_digests(tmp_path / "out") == wanted


@pytest.mark.parametrize(
    "returns",
    [pytest.param(True, id="anew"), pytest.param(False, id="gone", marks=pytest.mark.slow)],
)
def test_a_scheduler_that_dies_is_told_and_a_rerun_goes_on(sources, wanted, tmp_path, returns):
    with running_cluster(tmp_path, 1, SECONDS) as cluster:

        def strike() -> None:
            assert cluster.scheduler is not None
            kill(cluster.scheduler)
            if returns:
                cluster.start_scheduler()

        began = time.monotonic()
        # Three grids are done at least.
        with (
            at_task(cluster, 4, strike),
            pytest.raises(RemoteError, match=r"P03.*lost.*run the same command again"),
            runner_on(cluster) as runner,
        ):
            build(sources, tmp_path / "out", runner)
        assert time.monotonic() - began < 60
        assert not (tmp_path / "out" / "grids" / "grids.json").exists()
        kept = {p: p.stat().st_ino for p in (tmp_path / "out" / "grids").glob("[!.]*/zarr.json")}
        assert len(kept) >= 3
        if not returns:
            cluster.start_scheduler()
        cluster.start_worker()
        with runner_on(cluster) as runner:
            assert build(sources, tmp_path / "out", runner) == wanted
        assert all(path.stat().st_ino == inode for path, inode in kept.items())


def test_a_client_that_dies_is_followed_by_a_rerun_on_the_same_cluster(sources, wanted, tmp_path):
    with running_cluster(tmp_path, 1, SECONDS) as cluster:
        command = [sys.executable, "-m", "stbuild", "compact", *map(str, sources),
                   "-o", str(tmp_path / "out" / "grids"), "--label", "label",
                   "--pitch-um", "100", "--scheduler", cluster.address]  # fmt: skip
        client = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
        cluster.wait_for_tasks(3)
        kill(client)
        with runner_on(cluster) as runner:
            assert build(sources, tmp_path / "out", runner) == wanted
        compacted = [task for _, function, task in cluster.log() if function == "compact_slice"]
        assert len(compacted) > N_SLICES, "the client died before any task was begun"


def test_no_worker_at_all_ends_in_words(tmp_path):
    patience = Patience(worker=1.0, scheduler=5.0, look=0.2)
    with (
        running_cluster(tmp_path, 0) as cluster,
        runner_on(cluster, patience) as runner,
        pytest.raises(RemoteError, match=r"P03\] workers: there was none for 1 s.*--worker-wait"),
    ):
        runner(len, ["a"], lambda: None)


def test_a_scheduler_that_hangs_ends_in_words(tmp_path):
    patience = Patience(worker=60.0, scheduler=1.0, look=0.2)
    with running_cluster(tmp_path, 0) as cluster:
        assert cluster.scheduler is not None
        stopped = cluster.scheduler
        with runner_on(cluster, patience) as runner:
            kill(stopped, signal.SIGSTOP)
            with pytest.raises(RemoteError, match=r"P03.*no answer within 1 s"):
                runner(len, ["a"], lambda: None)
            kill(stopped, signal.SIGCONT)


@pytest.mark.parametrize("address", ["nonsense://x", "tcp://127.0.0.1:notaport"])
def test_what_is_no_address_is_a_wrong_flag(address):
    with pytest.raises(BadUsageError, match=r"P02.*give tcp://HOST:PORT"), open_runner(1, address):
        pass


class Marked:
    """A task that needs the client's folder."""

    name = "m"

    def __init__(self, mark):
        self.mark = mark


def test_a_worker_with_other_code_or_another_disk_refuses(tmp_path):
    code = running_code()
    (tmp_path / "mark").touch()
    seen = attempt_there(lambda _task: 7, code, None, Marked(tmp_path / "mark"))
    assert seen.result == 7
    unseen = attempt_there(lambda _task: 7, code, 9, Marked(tmp_path / "other"), seen_within=0.1)
    assert isinstance(unseen.error, PlatformError)
    assert "does not see" in str(unseen.error)
    for i in range(len(code)):
        other = (*code[:i], (code[i][0], "0.0.1"), *code[i + 1 :])
        refused = attempt_there(lambda _task: 7, other, 9, Marked(tmp_path / "mark"))
        assert isinstance(refused.error, PlatformError)
        assert f"{code[i][0]} {code[i][1]} not 0.0.1" in str(refused.error)


def test_every_task_has_a_mark_of_the_run(sources, tmp_path):
    seen: list[tuple[str, bool]] = []

    def spy(function, tasks, done):
        seen.extend((function.__name__, task.mark.is_file()) for task in tasks)
        return run_loop(function, tasks, done)

    build(sources, tmp_path, spy)
    assert {name for name, _ in seen} == {"compact_slice", "cut_part", "write_shard"}
    assert all(is_file for _, is_file in seen)


@pytest.mark.slow
def test_one_of_three_workers_is_killed_every_second(sources, wanted, tmp_path):
    rng = np.random.default_rng(11)
    with running_cluster(tmp_path, 3, SECONDS) as cluster, runner_on(cluster) as runner:
        over, killed = threading.Event(), []

        def reap() -> None:
            while not over.wait(1.5):
                victim = int(rng.integers(3))
                kill(cluster.workers[victim])
                killed.append(victim)
                cluster.workers[victim] = cluster.start_worker()
                cluster.workers.pop()

        reaper = threading.Thread(target=reap)
        reaper.start()
        try:
            round_ = 0
            while round_ < 6 or len(killed) < 10:  # a quick machine builds more often
                assert reaper.is_alive()
                round_ += 1
                out = tmp_path / f"out{round_}"
                for _ in range(4):
                    try:
                        assert build(sources, out, runner) == wanted
                        break
                    except RemoteError as error:
                        # Four deaths on one task are told; finished work is kept.
                        assert "P04" in str(error)  # noqa: PT017
                else:
                    pytest.fail("four reruns were not enough")
        finally:
            over.set()
            reaper.join()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_scheduler_killed_at_random_moments(sources, wanted, tmp_path, seed):
    rng = np.random.default_rng(seed)
    with running_cluster(tmp_path, 2, 0.1) as cluster:
        strike = threading.Timer(
            float(rng.uniform(2, 6)), lambda: kill(cluster.scheduler)  # type: ignore[arg-type]
        )  # fmt: skip
        strike.start()
        try:
            with runner_on(cluster) as runner:
                build(sources, tmp_path / "out", runner)
        except RemoteError as error:
            assert "P03" in str(error) or "P02" in str(error)  # noqa: PT017
        strike.join()
        cluster.start_scheduler()
        cluster.start_worker()
        with runner_on(cluster) as runner:
            assert build(sources, tmp_path / "out", runner) == wanted


@pytest.mark.slow
def test_workers_with_two_threads_write_the_same_bytes(sources, wanted, tmp_path):
    with running_cluster(tmp_path, 0) as cluster, runner_on(cluster) as runner:
        cluster.start_worker("--nthreads", "3", nanny=True)
        assert build(sources, tmp_path / "out", runner) == wanted


def test_nothing_listens_beyond_loopback(tmp_path):
    import psutil

    with running_cluster(tmp_path, 1) as cluster, runner_on(cluster) as runner:
        assert runner(os.path.basename, ["a/b"], lambda: None)[0].result == "b"
        started = [psutil.Process(p.pid) for p in (*cluster.workers, cluster.scheduler) if p]
        every = [psutil.Process(), *started]
        every += [child for process in started for child in process.children(recursive=True)]
        addresses = {
            connection.laddr.ip
            for process in every
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        assert addresses == {"127.0.0.1"}
