"""Dying at every file-system event of saving a checkpoint: the old one or the new one (P30)."""

import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

from stbuild.corpus.digests import sha256_bytes
from stbuild.corpus.durable import write_durable
from sttrain.release.encoder import load_encoder
from sttrain.train import checkpoint as store
from tests.sttrain.test_checkpoint import equal, make_model, write

EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.truncate", "os.link"}
KILLED = 137


def save_and_die(run: Path, last: int) -> bool:
    """Save the checkpoint of step 8 in a fork that dies at its `last`-th event; say if it did."""
    state = {"step/x": torch.tensor(8.0)}
    child = os.fork()
    if child == 0:
        count = 0

        def hook(event: str, args: tuple[object, ...]) -> None:
            nonlocal count
            count += event in EVENTS and str(args[0]).startswith(str(run))
            if count == last:
                os._exit(KILLED)

        sys.addaudithook(hook)
        code = 1
        try:
            write(run, 8, state)
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, KILLED)
    return code == KILLED


def check_deaths(folder: Path) -> list[int]:
    """Die at every event; return after how many steps the newest checkpoint was, each time."""
    newest, first = [], folder / "first"
    models = {4: write(first, 4, {"step/x": torch.tensor(4.0)}), 8: make_model(8)}
    for last in range(1, 200):
        run = folder / str(last)
        said: list[str] = []
        shutil.copytree(first, run)
        died = save_and_die(run, last)
        model, info = load_encoder(run, say=said.append)
        assert said == [], "a checkpoint stands that is not whole"
        assert equal(model, models[info.steps])
        newest.append(info.steps)
        write(run, 8, {"step/x": torch.tensor(8.0)})
        assert load_encoder(run)[1].steps == 8
        if not died:
            return newest
    pytest.fail("it never ended")


# A fork of a process with threads may hang if it waits for one of them; saving does not.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_dying_at_every_event_of_a_save_leaves_a_whole_checkpoint(tmp_path):
    newest = check_deaths(tmp_path)
    assert len(newest) > 10
    assert newest == sorted(newest)
    assert set(newest) == {4, 8}


def put_document_first(monkeypatch):
    """What makes a checkpoint one stands before its weights."""
    waiting = []

    def write_later(path, raw):
        waiting.append((path, raw))
        return store.StoredFile(bytes=len(raw), sha256=sha256_bytes(raw))

    def write_first(path, raw):
        found = write_durable(path, raw)
        for other in waiting:
            write_durable(*other)
        return found

    monkeypatch.setattr(store, "write_durable", write_first)
    monkeypatch.setattr(store, "_store", write_later)


def write_in_place(monkeypatch):
    """Files grow under their final names, the older ones too."""

    def write(path, raw):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(raw[:9])
        with path.open("ab") as file:
            file.write(raw[9:])
        return len(raw), sha256_bytes(raw)

    monkeypatch.setattr(store, "write_durable", write)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("break_it", [put_document_first, write_in_place])
def test_a_save_that_is_broken_on_purpose_is_noticed(tmp_path, monkeypatch, break_it):
    break_it(monkeypatch)
    with pytest.raises(AssertionError, match="not whole"):
        check_deaths(tmp_path)
