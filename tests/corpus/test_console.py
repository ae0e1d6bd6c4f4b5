"""What a command line does with a signal that Python would have swallowed."""

import subprocess
import sys

import pytest

SCRIPT = """
import os, signal, sys, time, weakref
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
from stbuild.corpus import console
{without}
class Thing: pass

def invoke(arguments):
    thing = Thing()
    # The handler runs inside this callback, whose exceptions Python prints and drops.
    watch = weakref.ref(thing, lambda _: (os.kill(os.getpid(), signal.SIG{name}), time.sleep(0.01)))
    del thing
    time.sleep(5)
    print("went on")

sys.argv = ["tool"]
console.run_program(invoke, ZeroDivisionError, OverflowError)
"""
WITHOUT = "console._repeat_swallowed = lambda heard: None"


def run(name, without=""):
    script = SCRIPT.format(name=name, without=without).replace("sleep(5)", "sleep({})")
    script = script.format(0.5 if without else 30)
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.parametrize(("name", "code"), [("TERM", 143), ("INT", 130), ("USR1", 143)])
def test_a_signal_in_a_callback_of_a_weak_reference_ends_the_run(name, code):
    done = run(name)
    assert done.returncode == code
    assert "interrupted" in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_without_the_hook_it_would_go_on():
    assert run("TERM", WITHOUT).stdout == "went on\n"
