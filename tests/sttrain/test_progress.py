"""What people see of a run while it goes on, and the picture at its end."""

import contextlib
import io
import json
import os
import pty
import re
import sys
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

from stbuild.corpus.errors import PlatformError
from sttrain.progress import TrainingState, show_progress, show_training, used_memory
from sttrain.train.curves import (
    draw_losses,
    plot_if_possible,
    plot_losses,
    read_losses,
    running_mean,
)

STATE = TrainingState(done=1, total=100, loss=0.5, patches_per_s=1234.4, data_wait=0.031)


class Clock:
    """Seconds that a test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def run(*, every=30.0, seconds=1.0, steps=range(1, 101), **options) -> list[str]:
    """The lines of a run whose steps take so many seconds."""
    clock, out = Clock(), io.StringIO()
    with show_training("run", stream=out, clock=clock, every=every, **options) as report:
        assert report is not None
        for step in steps:
            clock.now += seconds
            report(replace(STATE, done=step))
    return out.getvalue().splitlines()


def test_a_line_has_all_that_was_asked_for():
    line = run()[1]
    assert re.fullmatch(
        r"run: step 31 of 100 \(31%\), epoch 1, loss 0\.5000, 1,234 patches/s, waiting for data "
        r"3%, \d+\.\d GiB RSS, 0:01:09 left",
        line,
    )


@pytest.mark.parametrize(
    ("every", "told"),
    [
        pytest.param(30.0, [1, 31, 61, 91, 100], id="now_and_then"),
        pytest.param(0.0, list(range(1, 101)), id="always"),
        pytest.param(1e9, [1, 100], id="first_and_last"),
    ],
)
def test_lines_come_every_so_many_seconds(every, told):
    found = [int(re.findall(r"step (\d+) ", line)[0]) for line in run(every=every)]
    assert found == told


def test_a_resumed_run_is_as_fast_as_its_own_steps():
    lines = run(steps=range(91, 101), every=0.0, seconds=2.0)
    assert lines[0].endswith("time left unknown")
    assert lines[1].endswith("0:00:16 left")
    assert lines[-1].endswith("0:00:00 left")


def test_hours_are_shown():
    assert run(seconds=100.0, every=0.0)[1].endswith("2:43:20 left")


def test_quiet_is_quiet():
    with show_training("run", quiet=True) as report:
        assert report is None


def test_a_title_moves_no_cursor():
    out = io.StringIO()
    with show_training("\x1b[2Jrun\n", stream=out) as report:
        assert report is not None
        report(STATE)
    assert "\x1b" not in out.getvalue()
    assert out.getvalue().count("\n") == 1


def test_lines_go_to_stderr(capsys):
    with show_training("run") as report:
        assert report is not None
        report(STATE)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "step 1 of 100" in captured.err


def on_terminal(action) -> str:
    """What an action shows on a terminal of its own."""
    ours, theirs = pty.openpty()
    shown: list[bytes] = []

    def listen() -> None:
        with contextlib.suppress(OSError):  # the other end is closed
            while part := os.read(ours, 65536):
                shown.append(part)

    listener = Thread(target=listen)
    listener.start()
    with os.fdopen(theirs, "w", encoding="utf-8") as out:
        action(out)
    listener.join()
    os.close(ours)
    return b"".join(shown).decode()


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")


def test_a_terminal_has_a_bar_with_the_numbers(terminal):
    clock = Clock()

    def action(out):
        with show_training("my [run]", stream=out, clock=clock) as report:
            assert report is not None
            report(STATE)
            clock.now += 5
            report(replace(STATE, done=51))

    shown = on_terminal(action)
    assert "my [run]" in shown
    assert "51/100" in shown
    assert "loss 0.5000, 1,234 patches/s, waiting for data 3%" in shown
    assert "0:00:05 left" in shown


def test_the_old_bar_still_moves(terminal, monkeypatch):
    def action(out):
        monkeypatch.setattr(sys, "stderr", out)
        with show_progress("embed", quiet=False) as report:
            assert report is not None
            report(2, 3, "slice [a]")

    assert "embed: slice [a]" in on_terminal(action)
    monkeypatch.undo()
    with show_progress("embed", quiet=True) as report:
        assert report is None


def test_memory_is_that_of_this_process():
    before = used_memory()["RSS"]
    held = bytearray(64 << 20)
    held[::4096] = b"x" * len(held[::4096])
    assert used_memory()["RSS"] >= before + (48 << 20)
    assert used_memory("cuda:0").keys() <= {"RSS", "cuda:0 peak"}


def test_memory_without_proc(monkeypatch):
    def missing(*_arguments):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert used_memory()["RSS"] > 1 << 20


# --- the picture ----------------------------------------------------------------------------


def write_log(run, losses, **more):
    lines = [{"event": "step", "steps": i + 1, "loss": loss} for i, loss in enumerate(losses)]
    text = "".join(json.dumps(line | more) + "\n" for line in lines)
    run.mkdir(exist_ok=True)
    (run / "log.jsonl").write_text(text + '{"event": "probe", "steps": 9, "loss": 7.0}\n{"ev')


@pytest.fixture
def drawn():
    return pytest.importorskip("matplotlib")


@pytest.mark.parametrize(
    "losses",
    [
        pytest.param([0.5], id="one"),
        pytest.param([1 / (i + 1) for i in range(200)], id="many"),
        pytest.param([3.0] * 50, id="flat"),
        pytest.param([0.0, -1.0, 2.0], id="not_positive"),
    ],
)
def test_a_curve_is_the_same_bytes_each_time(drawn, tmp_path, losses):
    pictures = []
    for name in ("one", "two"):
        write_log(tmp_path / name, losses)
        path = plot_losses(tmp_path / name)
        assert path == tmp_path / name / "loss.png"
        pictures.append((tmp_path / name / "loss.png").read_bytes())
    assert pictures[0] == pictures[1]
    assert pictures[0].startswith(b"\x89PNG")
    assert b"matplotlib" not in pictures[0]


def test_settings_of_the_user_change_nothing(drawn):
    plain = draw_losses([1, 2, 3], [3.0, 2.0, 1.0])
    with drawn.rc_context({"lines.linewidth": 9, "axes.facecolor": "red"}):
        assert draw_losses([1, 2, 3], [3.0, 2.0, 1.0]) == plain


def test_losses_are_read_in_order_and_none_twice(tmp_path):
    write_log(tmp_path, [0.5, 0.25])
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('"}\n{"event": "step", "steps": 2, "loss": 0.125}\n')
        file.write('{"event": "step", "steps": 3, "loss": null}\n')
        file.write('{"event": "step", "steps": 4, "loss": NaN}\n')
    assert read_losses(tmp_path) == ([1, 2], [0.5, 0.125])


def test_no_losses_no_picture(tmp_path):
    assert plot_losses(tmp_path) is None
    write_log(tmp_path, [])
    assert plot_losses(tmp_path) is None


def test_no_matplotlib_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PlatformError, match=r"stcorpus\[plots\]"):
        draw_losses([1], [1.0])


def test_a_run_ends_well_without_matplotlib(tmp_path, monkeypatch):
    write_log(tmp_path, [0.5])
    said: list[str] = []
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert plot_if_possible(tmp_path, said.append) is None
    assert said[0].startswith("no loss.png: it is not installed")
    monkeypatch.undo()
    pytest.importorskip("matplotlib")
    assert plot_if_possible(tmp_path, said.append) == tmp_path / "loss.png"
    assert len(said) == 1


def test_a_running_mean_is_the_plain_one():
    values = [float(v) for v in (5, 1, 4, 2, 3)]
    for span in (1, 2, 3, 9):
        plain = [sum(p) / len(p) for p in (values[max(0, i + 1 - span) : i + 1] for i in range(5))]
        assert running_mean(values, span) == pytest.approx(plain)
