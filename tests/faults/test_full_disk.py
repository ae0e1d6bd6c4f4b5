"""Disks that are full, at every size and in every command: exit 7 in words, and a rerun after."""

import re
import shutil
import subprocess
import time
from contextlib import contextmanager

import pytest

from tests.faults.lab import COMMANDS, MADE

pytestmark = pytest.mark.dist
PAGE = 4096
SHARES = (5, 15, 25, 35, 50, 60, 70, 80, 90, 95)
"""Percents of what a command leaves."""
FULL = re.compile(
    r"error\[P05\] .* \(.+\): cannot be written: (No space left on device|Disk quota exceeded); "
    r"(it needs [\d,]+ bytes, )?the disk has [\d,]+ bytes and [\d,]+ of [\d,]+ file entries "
    r"\(inodes\) left\. fix: "
)


@contextmanager
def small_disk(place, options):
    """Mount a small file system; skip where that is not permitted."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    if shutil.which("mount") is None:
        pytest.skip("no `mount` here: a small disk cannot be made")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a small disk may not be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def remount(place, options):
    """Change it; it may be busy until a reader of the last run has noticed its end."""
    command = ["mount", "-o", f"remount,{options}", str(place)]
    for _ in range(50):
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return
        time.sleep(0.2)
    pytest.fail(f"{place} is still busy")


def needed(lab, name):
    """Return the bytes and the file entries of what a command leaves."""
    made = lab.root / MADE[name]
    paths = [made] if made.is_file() else [made, *made.rglob("*")]
    sizes = [path.stat().st_size for path in paths if path.is_file()]
    return sum(-(-size // PAGE) * PAGE for size in sizes), len(paths)


def check_full(lab, name, place, *, grown):
    """Run out of room, be told, get room, and end as if nothing had happened."""
    job = lab.start(name, place)
    codes = job.wait()
    text = job.text()
    if name == "fit" and codes == [0]:  # event files of TensorBoard, which are left out
        assert "failed and is left out" in text
        return
    assert codes == [7], text
    (line,) = [line for line in text.splitlines() if "error[" in line][:1]
    assert FULL.search(line), text
    assert str(place) in line
    assert "Traceback" not in text
    lab.check_part(name, place)
    remount(place, grown)
    lab.run(name, place)
    lab.check_whole(name, place)


@pytest.mark.parametrize("name", ["compact", "publish", "embed"])
def test_a_half_sized_disk_is_told_and_a_rerun_finishes(lab, tmp_path, name):
    test_a_full_disk_is_told_and_a_rerun_finishes(lab, tmp_path, name, 50)


@pytest.mark.slow
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_told_and_a_rerun_finishes(lab, tmp_path, name, share):
    size = max(PAGE, needed(lab, name)[0] * share // 100 // PAGE * PAGE)
    with small_disk(tmp_path / "small", f"size={size}") as place:
        check_full(lab, name, place, grown="size=64m")


@pytest.mark.slow
@pytest.mark.parametrize("share", [10, 40, 70, 90])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_without_file_entries_is_told_and_a_rerun_finishes(lab, tmp_path, name, share):
    entries = max(2, 1 + needed(lab, name)[1] * share // 100)
    if name == "embed":
        entries = 1  # the folder itself
    with small_disk(tmp_path / "small", f"size=64m,nr_inodes={entries}") as place:
        check_full(lab, name, place, grown="nr_inodes=9000")
