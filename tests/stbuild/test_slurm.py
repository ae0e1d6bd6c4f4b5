"""`--cluster slurm`: the real dask-jobqueue, with a SLURM whose jobs are local processes."""

import os
import signal
import subprocess
import sys
import time

import dask
import pytest

from stbuild.commands.options import open_workers, resolve_config
from stbuild.corpus.errors import BadUsageError
from stbuild.tasks.slurm import job_arguments
from stbuild.tasks.slurm_config import SlurmConfig
from tests import fake_slurm
from tests.trees import tree_digests

HASTY = {"distributed.deploy.lost-worker-timeout": "1s"}
"""A job that is gone is replaced after a second instead of 15."""
TABLE = """
[slurm]
jobs = {jobs}
memory = "2GiB"
walltime = "00:10:00"
queue = "short"
interface = "lo"
shared = "{folder}"
local = "{folder}"
logs = "{folder}"
directives = ["--constraint=avx2"]
prologue = ["export PYTHONWARNINGS=ignore"]
"""
FLAGS = {"jobs": 1, "scheduler": None, "worker_wait": 60.0, "task_timeout": 0.0}


def write_config(folder, jobs=1, more=""):
    path = folder / "cluster.toml"
    path.write_text(more + TABLE.format(jobs=jobs, folder=folder / "shared"))
    (folder / "shared").mkdir(exist_ok=True)
    return path


def run(environment, *command):
    return subprocess.run(
        [sys.executable, "-m", "stbuild", *map(str, command)], capture_output=True, text=True,
        env={**os.environ, **environment}, check=False, timeout=180,
    )  # fmt: skip


@pytest.mark.dist
def test_a_build_by_jobs_has_the_bytes_of_a_loop(slice_files, tmp_path):
    environment = fake_slurm.install(tmp_path / "bin")
    compact = ["compact", *slice_files, "--label", "label", "--pitch-um", "100"]
    config = write_config(tmp_path, more="max_gap = 6\n")
    wanted = run(environment, *compact, "--max-gap", "6", "-o", tmp_path / "loop")
    assert wanted.returncode == 0, wanted.stderr
    try:
        done = run(environment, *compact, "-o", tmp_path / "grids",
                   "--cluster", "slurm", "--config", config)  # fmt: skip
        assert done.returncode == 0, done.stderr + (tmp_path / "bin/jobs.log").read_text()[-2000:]
        assert tree_digests(tmp_path / "grids") == tree_digests(tmp_path / "loop")
        (job,) = fake_slurm.jobs(tmp_path / "bin")
        assert fake_slurm.running(tmp_path / "bin") == [], "the jobs outlive the run"
        script = (tmp_path / "bin").glob("script.*").__next__().read_text()
    finally:
        fake_slurm.kill_all(tmp_path / "bin")
    for line in ("#SBATCH -p short", "#SBATCH --mem=2G", "#SBATCH -t 00:10:00",
                 "#SBATCH --constraint=avx2", "export PYTHONWARNINGS=ignore"):  # fmt: skip
        assert line in script.splitlines(), script
    assert "--tls-key" in script, "whoever reaches a bare scheduler can run code"
    assert job > 0


@pytest.mark.dist
def test_a_job_that_dies_is_replaced_and_the_jobs_end_with_the_run(tmp_path, monkeypatch):
    for name, value in fake_slurm.install(tmp_path / "bin").items():
        monkeypatch.setenv(name, value)
    config = write_config(tmp_path)
    # Files of certificates stay open in dask-jobqueue until its cluster is collected.
    config.write_text(config.read_text() + "encrypt = false\n")
    flags = FLAGS | {"cluster": "slurm", "config": str(config)}
    try:
        with dask.config.set(HASTY), open_workers(flags, lambda _line: None) as runner:
            assert runner(os.path.basename, ["a/b"], lambda: None)[0].result == "b"
            (first,) = fake_slurm.jobs(tmp_path / "bin")
            os.killpg(first, signal.SIGKILL)
            outcomes = runner(os.path.basename, ["c/d", "e/f"], lambda: None)
            assert [outcome.result for outcome in outcomes] == ["d", "f"]
            assert len(fake_slurm.jobs(tmp_path / "bin")) == 2
        assert fake_slurm.running(tmp_path / "bin") == []
    finally:
        fake_slurm.kill_all(tmp_path / "bin")


def test_a_slurm_that_takes_no_job_is_told(slice_files, tmp_path):
    environment = fake_slurm.install(tmp_path / "bin", refusing=True)
    began = time.monotonic()
    done = run(environment, "compact", slice_files[0], "-o", tmp_path / "grids", "--cluster",
               "slurm", "--config", write_config(tmp_path))  # fmt: skip
    assert done.returncode == 8, done.stderr
    assert "error[P03] SLURM" in done.stderr
    assert "invalid partition specified: nowhere" in done.stderr
    assert time.monotonic() - began < 60


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", r"B111.*needs a table \[slurm\]"),
        ("[slurm]\njobs = 2\n", r"memory"),
        ("[slurm]\nmemory = 'much'\n", r"memory"),
        ("[slurm]\nmemory = '2GiB'\ncores = 3\n", r"cores"),
        ("[slurm]\nmemory = '2GiB'\nprologue = ['a\\nb']\n", r"prologue"),
    ],
    ids=["no_table", "no_memory", "no_size", "unknown_key", "two_lines_in_one"],
)
def test_a_bad_table_is_refused_with_its_key(tmp_path, text, said):
    path = tmp_path / "cluster.toml"
    path.write_text(text.replace("'", '"'))
    flags = FLAGS | {"cluster": "slurm", "config": str(path)}
    with pytest.raises(BadUsageError, match=said), open_workers(flags, lambda _line: None):
        pass


def test_cluster_and_scheduler_exclude_each_other(tmp_path):
    flags = FLAGS | {"cluster": "slurm", "scheduler": "tcp://127.0.0.1:1", "config": None}
    said = pytest.raises(BadUsageError, match="--cluster and --scheduler")
    with said, open_workers(flags, lambda _line: None):
        pass


def test_the_table_is_no_part_of_what_decides_bytes(tmp_path):
    from stbuild.config import GridConfig

    path = write_config(tmp_path, more="max_gap = 6\n")
    config = resolve_config(GridConfig, {}, {}, str(path), {})
    assert config == GridConfig(max_gap=6)


def test_a_worker_gets_its_share_of_a_job():
    told = job_arguments(SlurmConfig(memory="8GiB", workers=4, directives=("--exclusive",)))
    assert (told["cores"], told["processes"], told["memory"]) == (4, 4, "8GiB")
    assert told["job_extra_directives"] == ["--exclusive"]
