"""Storage that fails under a read is told as that, and the file is named."""

import errno
import io

import pytest

from stbuild.corpus.console import run_guarded
from stbuild.corpus.digests import sha256_file
from stbuild.corpus.errors import ResourceError
from stbuild.corpus.storage import FAILING, failing_storage, read_file, reading


class Rotten(io.BytesIO):
    def __init__(self, number):
        super().__init__()
        self.number = number

    def read(self, *_):
        raise OSError(self.number, "the disk says no")


@pytest.mark.parametrize("number", sorted(FAILING))
def test_the_file_is_named_and_may_be_read_another_time(tmp_path, monkeypatch, number):
    path = tmp_path / "x.json"
    path.write_bytes(b"{}")
    assert read_file(path) == b"{}"
    monkeypatch.setattr("pathlib.Path.open", lambda *_, **__: Rotten(number))
    for read in (read_file, sha256_file):
        with pytest.raises(
            ResourceError, match=r"error\[P06\] file 'x.json'.*x.json\): cannot"
        ) as e:
            read(path)
        assert e.value.exit_code == 7


def test_other_errors_stay_what_they_are(tmp_path):
    assert failing_storage(FileNotFoundError(errno.ENOENT, "no")) is None
    with pytest.raises(FileNotFoundError):
        read_file(tmp_path / "none")
    with pytest.raises(IsADirectoryError), reading(tmp_path):
        tmp_path.read_bytes()


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (OSError(errno.EIO, "Input/output error"), 7, "P06] file system: cannot be read now"),
        (OSError(errno.ESTALE, "Stale file handle", "/d/f"), 7, "P06] file 'f' (/d/f): cannot"),
        (OSError(errno.EBADF, "Bad file descriptor"), 1, "E001] internal error"),
    ],
)
def test_what_nobody_named_is_no_bug_of_ours(capsys, error, code, told):
    def action():
        raise error

    assert run_guarded(action, as_json=False, debug=False) == code
    assert told in capsys.readouterr().err
    with pytest.raises(OSError, match=error.strerror):
        run_guarded(action, as_json=False, debug=True)
