"""What lies at a path: files, folders, others, and names that nothing can have."""

import os

import pytest

from stbuild.corpus.paths import look_at


def test_files_folders_and_links_are_told_apart(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    assert look_at(tmp_path / "file") == (True, False, None)
    assert look_at(tmp_path / "link") == (True, False, None)
    assert look_at(tmp_path) == (False, True, None)
    assert look_at(tmp_path / "pipe") == (False, False, None)


@pytest.mark.parametrize("name", ["none", "a" * 300, "a\0b", "file/inside", "loop", "\ud800"])
def test_what_cannot_be_there_is_said_and_not_raised(tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    look = look_at(tmp_path / name)
    assert (look.is_file, look.is_folder) == (False, False)
    assert look.fault is not None
    assert look.fault.startswith("no such file or folder")
