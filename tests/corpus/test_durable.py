import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stbuild.corpus import durable
from stbuild.corpus.digests import sha256_bytes
from stbuild.corpus.durable import PARTIAL, partial_name, write_durable
from stbuild.corpus.errors import IntegrityError, ResourceError


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_size_and_digest_are_those_of_the_blocks(tmp_path_factory, blocks):
    path = tmp_path_factory.mktemp("durable") / "deep" / "f"
    raw = b"".join(blocks)
    assert write_durable(path, iter(blocks)) == (len(raw), sha256_bytes(raw))
    assert path.read_bytes() == raw
    assert write_durable(path, raw) == (len(raw), sha256_bytes(raw))
    assert [p.name for p in path.parent.iterdir()] == ["f"]


def test_mode_does_not_depend_on_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        write_durable(tmp_path / "f", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o644


def test_failure_while_writing_keeps_the_old_file_and_leaves_no_trace(tmp_path):
    path = tmp_path / "f"
    write_durable(path, b"old")

    def blocks():
        yield b"new"
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_durable(path, blocks())
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_short_write_is_caught_before_the_file_gets_its_name(tmp_path, monkeypatch):
    def lying_replace(self, target):
        raise AssertionError("renamed a file that was not read back")

    monkeypatch.setattr(durable, "sha256_file", lambda path: "0" * 64)
    monkeypatch.setattr("pathlib.Path.replace", lying_replace)
    with pytest.raises(IntegrityError, match=r"error\[P06\]"):
        write_durable(tmp_path / "f", b"x")
    assert not list(tmp_path.iterdir())


def test_file_is_flushed_before_its_rename_and_its_folder_after(tmp_path, monkeypatch):
    events: list[str] = []
    real_fsync, real_replace = os.fsync, type(tmp_path).replace

    def fsync(handle):
        events.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")  # noqa: PTH112
        real_fsync(handle)

    def replace(self, target):
        events.append("rename")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(type(tmp_path), "replace", replace)
    write_durable(tmp_path / "f", b"x")
    assert events == ["file", "rename", "folder"]


def test_a_planted_link_is_replaced_and_not_followed(tmp_path):
    target = tmp_path / "elsewhere"
    target.write_bytes(b"keep")
    path = tmp_path / "f"
    path.symlink_to(target)
    write_durable(path, b"x")
    assert target.read_bytes() == b"keep"
    assert not path.is_symlink()


@pytest.mark.parametrize(
    ("error", "match"),
    [
        pytest.param(OSError(28, "No space left on device"), "No space left", id="disk_full"),
        pytest.param(OSError(122, "Disk quota exceeded"), "quota", id="quota"),
        pytest.param(OSError(5, "Input/output error"), "Input/output", id="io"),
        pytest.param(OSError(30, "Read-only file system"), "Read-only", id="read_only"),
    ],
)
def test_a_refusal_of_the_disk_says_what_to_do(tmp_path, monkeypatch, error, match):
    def fsync(handle):
        raise error

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(ResourceError, match=rf"error\[P05\] .*{match}.* fix: ") as caught:
        write_durable(tmp_path / "f", b"x")
    assert caught.value.exit_code == 7
    assert not list(tmp_path.iterdir())


def test_temporary_names_are_ours_and_never_repeat(tmp_path):
    found = {partial_name(tmp_path / "a.tar").name for _ in range(100)}
    assert len(found) == 100
    assert all(re.fullmatch(rf"\.a\.tar{PARTIAL}\d+-[0-9a-f]{{8}}", name) for name in found)


def test_a_folder_that_was_taken_away_is_not_made_anew(tmp_path):
    held = tmp_path / "out" / ".work" / "holder.json"
    held.parent.mkdir(parents=True)
    held.write_text("{}")
    write_durable(tmp_path / "out" / "data" / "f", b"x", held=held)
    (tmp_path / "out").rename(tmp_path / "away")
    with pytest.raises(ResourceError, match=r"error\[P05\].*gone.*holder.json|holder.json.*gone"):
        write_durable(tmp_path / "out" / "data" / "g", b"x", held=held)
    assert not (tmp_path / "out").exists()
