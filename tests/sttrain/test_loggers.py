"""Loggers: the lines always, the others where they can; nothing is told that should not be."""

import getpass
import json
import socket
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest
from filelock import FileLock

from stbuild.corpus.errors import PlatformError, ResourceError
from sttrain.errors import BadUsageError
from sttrain.train import environment
from sttrain.train.config import RunConfig
from sttrain.train.environment import git_state
from sttrain.train.loggers import LOGGERS, RunFacts, open_sinks
from sttrain.train.run_folder import Journal, RunDocument, describe_environment, read_log


class Recorder(types.ModuleType):
    """Stands in for wandb or trackio, and keeps what it is told."""

    class Error(Exception):
        """What the package raises."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.told: list[tuple[str, object]] = []
        self.fails_at: int | None = None

    def Settings(self, **settings):  # noqa: N802 - the package's own name
        return settings

    def init(self, **facts):
        sys.stdout.write("* hello from a package\n")
        self.told.append(("init", facts))
        return self

    def log(self, values, step):
        if step == self.fails_at:
            raise self.Error("the service is on fire\x1b[2J")
        self.told.append(("log", (step, values)))

    def finish(self):
        self.told.append(("finish", None))


@pytest.fixture
def package(monkeypatch):
    """Put a recorder in a package's place."""

    def install(name: str) -> Recorder:
        recorder = Recorder(name)
        monkeypatch.setitem(sys.modules, name, recorder)
        return recorder

    return install


def make_document() -> RunDocument:
    config = RunConfig()
    return RunDocument(
        config=config, corpus="toy", corpus_id="c" * 64, n_patches=3, steps=9,
        fingerprint="f" * 64, environment=describe_environment(),
    )  # fmt: skip


def journal(run: Path, *loggers: str, done: int = 0, **options) -> Journal:
    run.mkdir(exist_ok=True)
    return Journal(run, done, document=make_document(), loggers=loggers, **options)


def lines(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


STEP = {"epoch": 0, "loss": 0.5, "patches_per_s": 3.0}


@pytest.mark.parametrize("loggers", [(), ("tensorboard",)], ids=["bare", "tensorboard"])
def test_lines_are_always_written(tmp_path, loggers):
    with journal(tmp_path / "run", *loggers) as log:
        log.write("step", 1, STEP)
    assert lines(tmp_path / "run") == [{"event": "step", "steps": 1, **STEP}]
    assert (tmp_path / "run" / "tensorboard").is_dir() == bool(loggers)


def test_the_journal_of_the_trainer_needs_two_arguments(tmp_path):
    with Journal(tmp_path, 0) as log:
        log.write("step", 1, STEP)
    assert any((tmp_path / "tensorboard").iterdir())


def test_tensorboard_reads_what_was_written(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with journal(tmp_path / "run", "tensorboard") as log:
        log.write("step", 1, STEP)
        log.write("step", 2, STEP | {"loss": 0.25})
        log.write("probe", 2, {"ari": 0.1})
    found = events.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in found.Scalars("loss")] == [(1, 0.5), (2, 0.25)]
    assert [e.step for e in found.Scalars("probe/ari")] == [2]
    assert "epoch" not in found.Tags()["scalars"]


def test_a_resumed_run_cuts_away_what_is_done_again(tmp_path):
    with journal(tmp_path / "run") as log:
        for step in range(1, 6):
            log.write("step", step, STEP)
    with (tmp_path / "run" / "log.jsonl").open("a") as file:
        file.write('{"event": "st')
    assert [line["steps"] for line in read_log(tmp_path / "run" / "log.jsonl")] == [1, 2, 3, 4, 5]
    with journal(tmp_path / "run", done=3) as log:
        log.write("step", 4, STEP)
    assert [line["steps"] for line in lines(tmp_path / "run")] == [1, 2, 3, 4]


def test_a_number_that_is_none_is_null(tmp_path):
    with journal(tmp_path / "run") as log:
        log.write("step", 1, {"loss": float("nan"), "norm": float("inf")})
    assert lines(tmp_path / "run") == [{"event": "step", "steps": 1, "loss": None, "norm": None}]


def test_tensorboard_missing_is_said_and_not_fatal(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    said: list[str] = []
    with journal(tmp_path / "run", "tensorboard", say=said.append) as log:
        log.write("step", 1, STEP)
    assert said == ["tensorboard is not installed; numbers go to log.jsonl alone"]
    assert len(lines(tmp_path / "run")) == 1


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_logger_that_was_asked_for_has_to_be_there(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(PlatformError, match=rf"stcorpus\[{name}\]"), journal(tmp_path / "r", name):
        pytest.fail("no log is opened")


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_numbers_reach_the_package_and_its_chatter_not_our_output(tmp_path, package, capsys, name):
    recorder = package(name)
    with journal(tmp_path / "run", name, project="atlas") as log:
        log.write("step", 1, STEP)
        log.write("eval", 1, {"loss": 0.1, "note": "text"})
    kinds = [kind for kind, _ in recorder.told]
    assert kinds == ["init", "log", "log", "finish"]
    facts = dict(recorder.told)["init"]
    assert facts["project"] == "atlas"
    assert facts["name"].startswith("run")
    assert facts["resume"] == "allow"
    assert facts["config"]["corpus_id"] == "c" * 64
    assert recorder.told[1][1] == (1, {"loss": 0.5, "patches_per_s": 3.0})
    assert recorder.told[2][1] == (1, {"eval/loss": 0.1})
    if name == "trackio":
        assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_resumed_run_is_the_same_run(tmp_path, package, name):
    recorder = package(name)
    for done in (0, 4):
        with journal(tmp_path / "run", name, done=done):
            pass
    with journal(tmp_path / "other", name):
        pass
    keys = [(facts["name"], facts.get("id")) for kind, facts in recorder.told if kind == "init"]
    assert keys[0] == keys[1] != keys[2]


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_nothing_private_is_told(tmp_path, package, monkeypatch, name):
    monkeypatch.setenv("WANDB_API_KEY", "s3cret-key")
    monkeypatch.setenv("HF_TOKEN", "s3cret-token")
    monkeypatch.setattr(socket, "gethostname", lambda: "node17.cluster")
    recorder = package(name)
    with journal(tmp_path / "run", name) as log:
        log.write("step", 1, STEP)
    told = repr(recorder.told).replace(f"'dir': '{tmp_path}/run'", "")
    seen = told + (tmp_path / "run" / "log.jsonl").read_text()
    for private in ("s3cret", str(tmp_path), "node17", str(Path.home()) + "/", str(Path.cwd())):
        assert private not in seen
    user = getpass.getuser()
    assert f"'{user}'" not in seen


def test_wandb_gathers_nothing_by_itself(tmp_path, package):
    recorder = package("wandb")
    with journal(tmp_path / "run", "wandb", offline=True):
        pass
    facts = dict(recorder.told)["init"]
    assert facts["mode"] == "offline"
    assert facts["dir"] == str(tmp_path / "run")
    off = {"disable_git", "disable_code", "x_disable_meta", "x_disable_machine_info"}
    assert all(facts["settings"][name] is True for name in off)
    assert facts["settings"]["console"] == "off"
    with journal(tmp_path / "run", "wandb"):
        pass
    assert "mode" not in recorder.told[2][1]


def test_offline_and_a_space_contradict_each_other(tmp_path, package, monkeypatch):
    package("trackio")
    monkeypatch.setenv("TRACKIO_SPACE_ID", "me/space")
    with (
        pytest.raises(BadUsageError, match="TRACKIO_SPACE_ID is set"),
        journal(tmp_path / "run", "trackio", offline=True),
    ):
        pytest.fail("no log is opened")


def test_a_logger_that_fails_is_left_out_and_training_goes_on(tmp_path, package):
    recorder = package("wandb")
    recorder.fails_at = 2
    said: list[str] = []
    with journal(tmp_path / "run", "wandb", "tensorboard", say=said.append) as log:
        for step in (1, 2, 3):
            log.write("step", step, STEP)
    assert len(said) == 1
    assert said[0].startswith("wandb failed and is left out (Error: the service is on fire")
    assert "\x1b" not in said[0]
    assert [kind for kind, _ in recorder.told] == ["init", "log"]
    assert len(lines(tmp_path / "run")) == 3


def test_a_full_disk_is_ours_to_say(tmp_path, monkeypatch):
    with journal(tmp_path / "run") as log:

        def full(_file, _line):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("sttrain.train.run_folder.append_whole", full)
        with pytest.raises(ResourceError, match="No space left"):
            log.write("step", 1, STEP)


def test_the_same_logger_twice_is_one(tmp_path, package):
    recorder = package("trackio")
    sinks = open_sinks(("trackio", "trackio"), RunFacts(folder=tmp_path), lambda _: None)
    sinks.close()
    assert [kind for kind, _ in recorder.told] == ["init", "finish"]
    assert set(LOGGERS) == {"tensorboard", "wandb", "trackio"}


# --- git ------------------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", *who, *arguments]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    git(tmp_path, "init", "-q", "-b", "secret-branch")
    (tmp_path / "code.py").write_text("1\n")
    git(tmp_path, "add", "code.py")
    git(tmp_path, "commit", "-qm", "x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_commit_and_dirty_flag(repository):
    commit = git(repository, "rev-parse", "HEAD")
    assert git_state() == {"git_commit": commit, "git_dirty": "no"}
    (repository / "run.txt").write_text("an output")
    assert git_state()["git_dirty"] == "no"
    (repository / "code.py").write_text("2\n")
    assert git_state() == {"git_commit": commit, "git_dirty": "yes"}
    found = describe_environment()
    assert found["git_commit"] == commit
    assert not any("/" in value for value in found.values())
    assert "secret-branch" not in repr(found)


def test_no_repository_no_state(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert git_state() == {}
    git(tmp_path, "init", "-q")
    assert git_state() == {}


def test_no_git_or_a_slow_one(repository, monkeypatch):
    assert git_state(seconds=1e-9) == {}
    monkeypatch.setenv("PATH", "")
    assert environment.git_state() == {}
    assert "torch" in describe_environment()


def test_a_lock_of_git_is_not_waited_for(repository):
    with FileLock(repository / ".git" / "index.lock"):
        (repository / ".git" / "index.lock").touch()
        assert git_state()["git_dirty"] == "no"


def test_a_disk_that_tensorboard_finds_full_is_told_in_one_line(tmp_path, monkeypatch, capfd):
    """Its thread meets the disk first, and Python would print that as a traceback."""

    def refuse(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", refuse)
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)
    said: list[str] = []
    sinks = open_sinks(("tensorboard",), RunFacts(folder=tmp_path), said.append)
    sinks.write("step", 1, {"loss": 1.0})
    sinks.close()
    for thread in threading.enumerate():
        if type(thread).__module__.startswith("tensorboard."):
            thread.join(60)
    assert len(said) == 1
    assert "tensorboard failed and is left out (OSError: [Errno 28]" in said[0]
    assert capfd.readouterr().err == ""
