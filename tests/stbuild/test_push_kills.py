"""A push that is killed anywhere leaves the old release or the new one, and a rerun finishes it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("huggingface_hub")

from tests.pushing import contents_of, write_release, write_sums
from tests.remotes import TOKEN, Remote, serve_hub, serve_zenodo

ROOT = Path(__file__).resolve().parents[2]
HARNESS = Path(__file__).with_name("push_harness.py")
KILLS = [
    pytest.param(10, id="10-kills"),
    pytest.param(40, id="40-kills", marks=pytest.mark.slow),
]
REPO = "our-lab/toy"


class Pusher:
    """Runs pushes in children that can be killed."""

    def __init__(self, remote: Remote, target: str) -> None:
        self.remote, self.target = remote, target
        self.child = 0
        told = {**os.environ, "HF_TOKEN": TOKEN, "ZENODO_TOKEN": TOKEN, "NO_PROXY": "*"}
        told |= {"PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_TELEMETRY": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(HARNESS)], env=told, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def push(self, release: Path) -> int:
        """Return the exit code of a push, -9 where it was killed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        told = {"release": str(release), "target": self.target, "endpoint": self.remote.url}
        self.process.stdin.write(json.dumps(told) + "\n")
        self.process.stdin.flush()
        self.child = int(self.process.stdout.readline())
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def kill_at(self, n: int, when: str) -> Callable[[int, str], None]:
        """Kill the push at its n-th request: before, during or after it takes effect."""
        first = len(self.remote.asked)

        def hook(number: int, now: str) -> None:
            if (number - first, now) == (n, when):
                os.kill(self.child, signal.SIGKILL)

        return hook

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@contextlib.contextmanager
def pushing(remote: Remote, target: str):
    pusher = Pusher(remote, target)
    try:
        yield pusher
    finally:
        pusher.close()


def draw_kills(n: int, n_requests: int) -> list[tuple[int, str]]:
    """Return moments, spread over the whole push."""
    rng = np.random.default_rng(5)
    at = np.linspace(0, n_requests, n, endpoint=False)
    at = np.minimum(at + rng.random(n) * n_requests / n, n_requests - 1).astype(int)
    whens = rng.choice(["before", "during", "after"], n)
    return [(int(a), str(w)) for a, w in zip(at, whens, strict=True)]


@pytest.mark.parametrize("n_kills", KILLS)
def test_a_hub_shows_the_old_or_the_new_release(tmp_path, n_kills):
    old, new = (write_release(tmp_path / name, seed) for seed, name in enumerate(("old", "new")))
    (old / "LICENSES/CC0-1.0.txt").write_text("only in the old one\n")
    write_sums(old)
    wanted: dict[str, Any] = {"old": contents_of(old), "new": contents_of(new)}
    # What the old one holds beyond the new one is deleted in the same commit.
    with serve_hub() as hub, pushing(hub, f"hf:{REPO}") as pusher:
        assert pusher.push(old) == 0
        start = hub.repos[REPO][:], hub.blobs.copy(), hub.large.copy()
        before = len(hub.asked)
        assert pusher.push(new) == 0
        n_requests = len(hub.asked) - before
        seen, killed = set(), 0
        for at, when in draw_kills(n_kills, n_requests):
            hub.repos[REPO] = start[0].copy()
            hub.blobs, hub.large = start[1].copy(), start[2].copy()
            hub.parts.clear()
            hub.at_request = pusher.kill_at(at, when)
            killed += pusher.push(new) == -signal.SIGKILL
            with hub.lock:
                held = {n: r for n, r in hub.seen(REPO).items() if n != ".gitattributes"}
            (found,) = [name for name, files in wanted.items() if files == held]
            seen.add(found)
            hub.at_request = lambda _n, _when: None
            assert pusher.push(new) == 0
            held = {n: r for n, r in hub.seen(REPO).items() if n != ".gitattributes"}
            assert held == wanted["new"]
            assert len(hub.repos[REPO]) == len(start[0]) + 1
        assert killed > n_kills * 0.9
        assert seen == {"old", "new"} or n_kills < 40


@pytest.mark.parametrize("n_kills", KILLS)
def test_zenodo_shows_nothing_or_the_whole_release(tmp_path, n_kills):
    release = write_release(tmp_path / "release")
    wanted = contents_of(release)
    with serve_zenodo() as zenodo, pushing(zenodo, "zenodo") as pusher:
        assert pusher.push(release) == 0
        n_requests, killed = len(zenodo.asked), 0
        for at, when in draw_kills(n_kills, n_requests):
            zenodo.depositions.clear()
            zenodo.buckets.clear()
            zenodo.at_request = pusher.kill_at(at, when)
            killed += pusher.push(release) == -signal.SIGKILL
            with zenodo.lock:
                assert [zenodo.buckets[number] for number in zenodo.records()] in ([], [wanted])
            zenodo.at_request = lambda _n, _when: None
            assert pusher.push(release) == 0
            assert list(zenodo.depositions) == [100]
            assert zenodo.buckets[100] == wanted
            assert zenodo.records() == [100]
        assert killed > n_kills * 0.9


def test_the_token_is_on_no_command_line(tmp_path):
    release, found = write_release(tmp_path / "release"), []

    def look(_n: int, _when: str) -> None:
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if TOKEN.encode() in path.read_bytes():
                    found.append(path)

    if not Path("/proc/self/cmdline").exists():
        pytest.skip("no /proc here")
    with serve_hub() as hub, pushing(hub, f"hf:{REPO}") as pusher:
        hub.at_request = look
        assert pusher.push(release) == 0
    assert found == []
