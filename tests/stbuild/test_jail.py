"""Reading in a child process: the same slice as here; a reader that dies or hangs is named."""

import errno
import faulthandler
import os
import signal
import time
from pathlib import Path

import anndata
import numpy as np
import pytest

from stbuild.config import GridConfig
from stbuild.corpus.errors import BadInputError, IntegrityError, ResourceError
from stbuild.reading import jail, jail_child
from stbuild.reading.handover import load_slice, save_slice
from stbuild.reading.jail import Jail, Limits, list_jailed, read_jailed
from stbuild.reading.opening import read_here
from tests.slices import Spec, make_anndata, record_of, write_slice

CONFIG = GridConfig(label="label", pitch_um=100.0)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_slice(tmp_path_factory.mktemp("j") / "one.h5ad", Spec(seed=6))


def test_a_slice_read_by_a_child_is_the_slice_read_here(path, tmp_path):
    record = record_of(path)
    here = read_here(record, CONFIG)
    with read_jailed(record, CONFIG, None, Limits(), tmp_path) as read:
        assert (read.counts.toarray() == here.counts.toarray()).all()
        for name in ("totals", "array_row", "array_col", "xy"):
            assert np.array_equal(getattr(read, name), getattr(here, name)), name
        for name in ("genes", "barcodes", "labels"):
            assert list(getattr(read, name)) == list(getattr(here, name)), name
        for name in ("sources", "ledger", "notices", "unit", "um_per_unit", "pitch_um"):
            assert getattr(read, name) == getattr(here, name), name
        # A grid's bytes hold it as it is.
        assert list(read.ledger) == list(here.ledger)
    assert not list(tmp_path.iterdir())


def test_spots_without_labels_and_odd_names_come_through(tmp_path):
    spec = Spec(seed=7, rows=6, cols=6, labels=("a b", "ü", "c,d"))
    file = write_slice(tmp_path / "odd.h5ad", spec)
    record = record_of(file)
    with read_jailed(record, CONFIG, None, Limits(), tmp_path / "work") as read:
        assert set(read.labels or ()) == {"a b", "ü", "c,d"}


def test_a_refusal_comes_back_with_all_its_problems(path, tmp_path):
    config = CONFIG.model_copy(update={"label": "nope", "layer": "none"})
    with (
        pytest.raises(BadInputError) as caught,
        read_jailed(record_of(path), config, None, Limits(), tmp_path),
    ):
        pass
    assert [problem.code for problem in caught.value.problems] == ["B023"]
    assert not list(tmp_path.iterdir())


def test_sections_are_listed(tmp_path):
    spec = Spec(seed=8, rows=6, cols=6, drop=0, extra_obs={"who": ["b", "a"] * 18})
    file = write_slice(tmp_path / "two.h5ad", spec)
    assert list_jailed(record_of(file, split_by="who"), CONFIG, Limits()) == ["a", "b"]


def die(number):
    def answer(_request, _folder):
        os.kill(os.getpid(), number)
        time.sleep(60)
        return 0

    return answer


def forked(answer, seconds=5, wall=50, size=0):
    """Run one request as the server does, in this process, and return how its child ended."""
    child = os.fork()
    if child == 0:
        faulthandler.disable()  # it would write a page about every signal
        jail_child._answer = answer
        request = {"seconds": seconds, "wall": wall, "bytes": size, "folder": "/nonexistent"}
        jail_child._run_child(request)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
def test_a_child_that_is_killed_says_by_what(number):
    assert forked(die(number)) == -number


def test_a_child_that_hangs_is_ended():
    start = time.monotonic()
    assert forked(lambda _request, _folder: time.sleep(60), wall=1) == -signal.SIGALRM
    assert time.monotonic() - start < 30


def test_a_child_that_computes_for_ever_is_ended_by_the_time_that_it_computes():
    def spin(_request, _folder):
        while True:
            pass

    assert forked(spin, seconds=1, wall=600) == -signal.SIGXCPU


@pytest.mark.parametrize(
    ("ended", "code", "match"),
    [
        (-signal.SIGSEGV, "B017", "killed by SIGSEGV"),
        (-signal.SIGALRM, "B018", "did not end within 600 s by the clock"),
        (-signal.SIGXCPU, "B018", "did not end within 60 s of CPU time"),
    ],
)
def test_the_slice_of_a_dead_reader_is_named(path, tmp_path, monkeypatch, ended, code, match):
    monkeypatch.setattr(Jail, "run", lambda _self, _request: ended)
    with (
        pytest.raises(BadInputError, match=match) as caught,
        read_jailed(record_of(path), CONFIG, None, Limits(), tmp_path),
    ):
        pass
    problem = caught.value.problems[0]
    assert problem.code == code
    assert problem.subject == "slice 'one'"


def test_a_reader_that_raises_anything_names_its_slice_and_keeps_the_trace(path, tmp_path):
    def run(_self, request):
        (Path(request["folder"]) / jail_child.BUG).write_text("Traceback ...\nKeyError: 'odd'\n")
        return 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Jail, "run", run)
        with (
            pytest.raises(BadInputError, match=r"B017.*failed with KeyError: 'odd'") as caught,
            read_jailed(record_of(path), CONFIG, None, Limits(), tmp_path),
        ):
            pass
    kept = Path(caught.value.problems[0].fix.rsplit(" ", 1)[-1])
    assert kept.read_text().startswith("Traceback")
    kept.unlink()


def test_a_server_that_dies_is_started_again(path, tmp_path):
    record = record_of(path)
    with read_jailed(record, CONFIG, None, Limits(), tmp_path):
        pass
    server = jail._JAIL._server
    assert server is not None
    server.kill()
    server.wait()
    with read_jailed(record, CONFIG, None, Limits(), tmp_path) as read:
        assert len(read.barcodes) > 100


def test_too_little_memory_is_said(tmp_path):
    data = make_anndata(Spec(seed=6, rows=10, cols=10))
    wide = anndata.AnnData(np.ones((data.n_obs, 500_000), np.float32), obs=data.obs)
    file = tmp_path / "wide.h5ad"
    wide.write_h5ad(file, compression="gzip")
    with (
        pytest.raises(ResourceError, match=r"more than 0\.1 GiB.*--probe-memory"),
        read_jailed(record_of(file), CONFIG, None, Limits(gib=0.1), tmp_path),
    ):
        pass


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS])
def test_a_disk_that_takes_no_answer_is_no_fault_of_the_slice(path, tmp_path, number):
    """Else a slice would be left out of a corpus because a disk stumbled."""

    def refuse(*_arguments):
        raise OSError(number, os.strerror(number))

    def run(_self, request):
        child = os.fork()
        if child == 0:
            patch.setattr(jail_child, "save_slice", refuse)
            jail_child._run_child(request)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    said = rf"P05\].*cannot be written: {os.strerror(number)}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Jail, "run", run)
        with (
            pytest.raises(ResourceError, match=said),
            read_jailed(record_of(path), CONFIG, None, Limits(), tmp_path),
        ):
            pass


@pytest.mark.parametrize("name", ["data.npy", "xy.npy", "genes.txt", "labels.txt"])
def test_what_the_disk_did_not_keep_of_a_slice_is_noticed(path, tmp_path, name):
    save_slice(read_here(record_of(path), CONFIG), tmp_path)
    load_slice(tmp_path)
    raw = bytearray((tmp_path / name).read_bytes())
    raw[-2] ^= 1
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(IntegrityError, match="read back differs"):
        load_slice(tmp_path)
