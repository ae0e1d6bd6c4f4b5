"""`stbuild fetch` end to end: what comes, what stays, what is gone on with, what is refused."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from threading import Timer
from time import monotonic
from typing import ClassVar

import pytest
from click.testing import CliRunner
from fsspec.spec import AbstractFileSystem  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st

from stbuild.commands.fetch import fetch as command
from stbuild.corpus.errors import (
    BadInputError,
    ConflictError,
    IntegrityError,
    PlatformError,
    RemoteError,
    ResourceError,
    StError,
)
from stbuild.fetch import download
from stbuild.fetch.transport import Options
from tests.fetching import PATIENCE, digest, fetch, left, write_sheet
from tests.server import Server, serving

BODY = bytes(range(256)) * 200
OTHER = BODY[::-1]


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def one(tmp_path: Path, server: Server) -> Path:
    """A manifest of one file with its hash."""
    url = server.host("a", BODY)
    return write_sheet(tmp_path / "m", {"url": url, "sha256": digest(BODY), "bytes": len(BODY)})


def test_a_file_comes_to_its_place_and_nothing_else_is_left(one: Path) -> None:
    report = fetch(one)
    assert (one.parent / "data/s0.bin").read_bytes() == BODY
    assert left(one.parent) == ["data/s0.bin", "some.csv", "some.fetched.json", "some.toml"]
    assert [(got.how, got.file.sha256, got.file.verified) for got in report.files] == [
        ("downloaded", digest(BODY), True)
    ]
    assert report.notices == ()


def test_a_second_run_asks_for_nothing_and_changes_nothing(one: Path, server: Server) -> None:
    fetch(one)
    before = {p: p.stat().st_mtime_ns for p in one.parent.rglob("*") if p.suffix != ".lock"}
    report = fetch(one)
    after = {p: p.stat().st_mtime_ns for p in one.parent.rglob("*") if p.suffix != ".lock"}
    assert [got.how for got in report.files] == ["kept"]
    assert before == after
    assert server.times("a") == 1


@pytest.mark.parametrize("jobs", [1, 4])
def test_all_files_of_rows_come_whatever_the_jobs(
    tmp_path: Path, server: Server, jobs: int
) -> None:
    rows = []
    for i in range(9):
        body = BODY + bytes([i])
        rows.append({
            "url": server.host(f"x{i}", body), "sha256": digest(body), "positions": "data/p.csv",
            "positions_url": server.host("p", OTHER), "positions_sha256": digest(OTHER),
            "labels_file": f"labels/{i}.csv", "labels_url": server.host("l", b"b,l\n"),
            "labels_sha256": digest(b"b,l\n"),
        })  # fmt: skip
    manifest = write_sheet(tmp_path, *rows)
    report = fetch(manifest, jobs=jobs)
    assert [got.file.path for got in report.files][:4] == [
        "data/s0.bin", "data/p.csv", "labels/0.csv", "data/s1.bin",
    ]  # fmt: skip
    assert len(report.files) == 19
    assert server.times("p") == server.times("l") == 1
    assert {(tmp_path / f"labels/{i}.csv").read_bytes() for i in range(9)} == {b"b,l\n"}


def test_a_file_in_the_cache_is_not_downloaded_again(
    tmp_path: Path, one: Path, server: Server
) -> None:
    cache = tmp_path / "cache"
    fetch(one, cache=cache)
    (one.parent / "data/s0.bin").unlink()
    report = fetch(one, cache=cache)
    assert [got.how for got in report.files] == ["cached"]
    assert (one.parent / "data/s0.bin").read_bytes() == BODY
    assert server.times("a") == 1


def test_a_damaged_file_in_the_cache_is_downloaded_again(
    tmp_path: Path, one: Path, server: Server
) -> None:
    cache = tmp_path / "cache"
    fetch(one, cache=cache)
    (one.parent / "data/s0.bin").unlink()
    (kept,) = (path for path in cache.rglob("*") if path.is_file())
    kept.write_bytes(OTHER)
    fetch(one, cache=cache)
    assert (one.parent / "data/s0.bin").read_bytes() == BODY
    assert server.times("a") == 2
    assert kept.read_bytes() == BODY


def test_without_hard_links_files_are_copied(
    tmp_path: Path, one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_args: object, **_more: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_links)
    fetch(one, cache=tmp_path / "cache")
    assert (one.parent / "data/s0.bin").read_bytes() == BODY


class TestStandingFiles:
    def test_the_right_content_is_left_alone(self, one: Path, server: Server) -> None:
        place = one.parent / "data/s0.bin"
        place.parent.mkdir()
        place.write_bytes(BODY)
        assert [got.how for got in fetch(one).files] == ["kept"]
        assert server.times("a") == 0

    def test_another_content_is_refused(self, one: Path, server: Server) -> None:
        place = one.parent / "data/s0.bin"
        place.parent.mkdir()
        place.write_bytes(OTHER)
        with pytest.raises(ConflictError, match="R04") as caught:
            fetch(one)
        assert digest(OTHER) in str(caught.value)
        assert place.read_bytes() == OTHER
        assert server.times("a") == 0

    def test_another_content_is_replaced_if_told_so(self, one: Path) -> None:
        place = one.parent / "data/s0.bin"
        place.parent.mkdir()
        place.write_bytes(OTHER)
        fetch(one, replace=True)
        assert place.read_bytes() == BODY

    def test_a_link_is_replaced_and_not_written_through(self, one: Path, tmp_path: Path) -> None:
        precious = tmp_path / "precious"
        precious.write_bytes(OTHER)
        (one.parent / "data").mkdir()
        (one.parent / "data/s0.bin").symlink_to(precious)
        fetch(one, replace=True)
        assert precious.read_bytes() == OTHER
        assert (one.parent / "data/s0.bin").read_bytes() == BODY

    @pytest.mark.parametrize("replace_it", [False, True])
    def test_a_folder_is_never_replaced(self, one: Path, replace_it: bool) -> None:
        (one.parent / "data/s0.bin").mkdir(parents=True)
        with pytest.raises(ConflictError, match="R04"):
            fetch(one, replace=replace_it)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let Ctrl-C through; workers of a parallel test run ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class TestResuming:
    def test_a_cut_connection_is_gone_on_with(self, one: Path, server: Server) -> None:
        server.host("a", BODY, "cut:10000", "cut:5000", "good")
        fetch(one)
        assert (one.parent / "data/s0.bin").read_bytes() == BODY
        assert server.ranges("a") == [None, "bytes=10000-", "bytes=15000-"]

    def test_a_later_run_goes_on(self, one: Path, server: Server) -> None:
        server.host("a", BODY, "cut:10000", "status:503")
        with pytest.raises(RemoteError, match=r"R05.*10,000 bytes are kept"):
            fetch(one)
        assert not (one.parent / "data/s0.bin").exists()
        server.host("a", BODY)
        fetch(one)
        assert server.ranges("a")[-1] == "bytes=10000-"
        assert (one.parent / "data/s0.bin").read_bytes() == BODY
        assert not list(one.parent.rglob("*.partial*"))

    def test_a_changed_file_starts_over(self, one: Path, server: Server) -> None:
        server.host("a", OTHER, "cut:10000", "status:503", tag='"old"')
        with pytest.raises(RemoteError):
            fetch(one)
        server.host("a", BODY, tag='"new"')
        fetch(one)
        assert (one.parent / "data/s0.bin").read_bytes() == BODY

    def test_a_server_without_ranges_starts_over(self, one: Path, server: Server) -> None:
        server.host("a", BODY, "cut:10000", "good", ranges=False)
        fetch(one)
        assert (one.parent / "data/s0.bin").read_bytes() == BODY

    def test_bytes_of_another_file_are_noticed_by_the_hash(self, one: Path, server: Server) -> None:
        # The same validator for other bytes: the server lies.
        server.host("a", OTHER, "cut:10000", "status:503")
        with pytest.raises(RemoteError):
            fetch(one)
        server.host("a", BODY)
        fetch(one)
        assert (one.parent / "data/s0.bin").read_bytes() == BODY
        assert server.ranges("a")[-2:] == ["bytes=10000-", None]

    def test_without_validator_and_hash_nothing_is_gone_on_with(
        self, tmp_path: Path, server: Server
    ) -> None:
        url = server.host("a", BODY, "cut:10000", "good", tag=None)
        fetch(write_sheet(tmp_path, {"url": url}), allow_unverified=True)
        assert server.ranges("a") == [None, None]

    def test_another_url_does_not_go_on(self, tmp_path: Path, server: Server) -> None:
        row = {"url": server.host("a", OTHER, "cut:10000"), "sha256": digest(BODY)}
        with pytest.raises(RemoteError):
            fetch(write_sheet(tmp_path, row))
        row["url"] = server.host("b", BODY)
        fetch(write_sheet(tmp_path, row))
        assert server.ranges("b") == [None]

    def test_all_bytes_at_hand_need_no_more(self, tmp_path: Path, server: Server) -> None:
        url = server.host("a", BODY)
        manifest = write_sheet(tmp_path, {"url": url})
        fetch(manifest, allow_unverified=True)
        place = tmp_path / "data/s0.bin"
        (tmp_path / "some.fetched.json").unlink()
        # As if the run had been killed after the last byte and before the rename.
        server.host("a", BODY, "cut:51199", "good")
        place.unlink()
        with pytest.raises(RemoteError):
            fetch(manifest, allow_unverified=True, options=replace(PATIENCE, attempts=1))
        (part,) = tmp_path.rglob("*.partial")
        part.write_bytes(BODY)
        fetch(manifest, allow_unverified=True)
        assert place.read_bytes() == BODY
        assert server.ranges("a")[-1] == f"bytes={len(BODY)}-"

    def test_more_at_hand_than_the_file_has_starts_over(self, one: Path, server: Server) -> None:
        server.host("a", BODY, "cut:51000", "status:503")
        with pytest.raises(RemoteError):
            fetch(one)
        (part,) = one.parent.rglob("*.partial")
        part.write_bytes(BODY * 2)
        server.host("a", BODY)
        fetch(one)
        assert (one.parent / "data/s0.bin").read_bytes() == BODY

    def test_a_damaged_note_starts_over(self, one: Path, server: Server) -> None:
        server.host("a", BODY, "cut:10000", "status:503")
        with pytest.raises(RemoteError):
            fetch(one)
        (note,) = one.parent.rglob("*.partial.json")
        note.write_text("{")
        server.host("a", BODY)
        fetch(one)
        assert server.ranges("a")[-1] is None

    def test_a_planted_link_is_not_written_through(self, one: Path, tmp_path: Path) -> None:
        precious = tmp_path / "precious"
        precious.write_bytes(b"precious")
        (one.parent / "data").mkdir()
        (one.parent / "data/s0.bin.partial").symlink_to(precious)
        fetch(one)
        assert precious.read_bytes() == b"precious"
        assert (one.parent / "data/s0.bin").read_bytes() == BODY

    def test_an_interrupt_keeps_what_came(self, one: Path, server: Server) -> None:
        options = replace(PATIENCE, stop=type(PATIENCE.stop)())
        server.host("a", BODY, "stall:20000")

        def progress(_name: str, _total: int | None) -> download.Advance:
            return lambda n_bytes: options.stop.set() if n_bytes else None

        with pytest.raises(KeyboardInterrupt):
            fetch(one, options=options, progress=progress)
        (part,) = one.parent.rglob("*.partial")
        assert part.stat().st_size > 0
        server.host("a", BODY)
        fetch(one)
        assert server.ranges("a")[-1] is not None
        assert (one.parent / "data/s0.bin").read_bytes() == BODY

    def test_ctrl_c_ends_at_once_and_keeps_what_came(
        self, one: Path, server: Server, interruptible: None
    ) -> None:
        server.host("a", BODY, "stall:20000")
        timer = Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
        begin = monotonic()
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            fetch(one, options=Options(stall=30, attempts=3))
        assert monotonic() - begin < 5
        (part,) = one.parent.rglob("*.partial")
        assert part.stat().st_size == 20000

    @settings(max_examples=25)
    @given(
        st.lists(
            st.sampled_from([
                "cut:0", "cut:7", "cut:30000", "drop", "status:500", "wrong", "chunked:2000",
                "shifted", "claim:60000", "garbage", "coded", "page", "chunked", "claim:100",
            ]),
            max_size=3,
        )
    )  # fmt: skip
    def test_whatever_happens_no_wrong_file_appears(
        self, tmp_path_factory: pytest.TempPathFactory, ways: list[str]
    ) -> None:
        folder = tmp_path_factory.mktemp("any")
        with serving() as running:
            url = running.host("a", BODY, *ways, "good")
            manifest = write_sheet(folder, {"url": url, "sha256": digest(BODY)})
            for _ in range(5):
                with suppress(RemoteError, IntegrityError):
                    fetch(manifest)
                place = folder / "data/s0.bin"
                assert not place.exists() or place.read_bytes() == BODY
        assert place.exists()
        assert not list(folder.rglob("*.partial*"))


class TestUnverified:
    def test_a_null_hash_is_refused(self, tmp_path: Path, server: Server) -> None:
        manifest = write_sheet(tmp_path, {"url": server.host("a", BODY)})
        with pytest.raises(BadInputError, match=r"R09.*--allow-unverified"):
            fetch(manifest)
        assert server.times("a") == 0

    def test_the_found_hash_is_told_and_recorded(self, tmp_path: Path, server: Server) -> None:
        manifest = write_sheet(tmp_path, {"url": server.host("a", BODY) + "?token=geheim"})
        report = fetch(manifest, allow_unverified=True)
        assert digest(BODY) in str(report.notices[0])
        record = json.loads((tmp_path / "some.fetched.json").read_text())
        assert record["files"] == [{
            "path": "data/s0.bin", "url": f"{server.url}/a", "member": None, "bytes": len(BODY),
            "sha256": digest(BODY), "source_bytes": len(BODY), "source_sha256": digest(BODY),
            "verified": False,
        }]  # fmt: skip

    def test_a_file_that_changed_since_is_refused(self, tmp_path: Path, server: Server) -> None:
        manifest = write_sheet(tmp_path, {"url": server.host("a", BODY)})
        fetch(manifest, allow_unverified=True)
        (tmp_path / "data/s0.bin").unlink()
        server.host("a", OTHER)
        with pytest.raises(IntegrityError, match=r"R07.*an earlier run has"):
            fetch(manifest, allow_unverified=True)
        fetch(manifest, allow_unverified=True, replace=True)
        assert (tmp_path / "data/s0.bin").read_bytes() == OTHER

    def test_a_file_that_stands_there_is_taken(self, tmp_path: Path, server: Server) -> None:
        manifest = write_sheet(tmp_path, {"url": server.host("a", BODY)})
        (tmp_path / "data").mkdir()
        (tmp_path / "data/s0.bin").write_bytes(OTHER)
        report = fetch(manifest, allow_unverified=True)
        assert [str(notice)[:12] for notice in report.notices] == ["warning[R11]", "warning[R09]"]
        assert report.files[0].file.source_sha256 is None
        assert fetch(manifest, allow_unverified=True).files[0].file == report.files[0].file
        (tmp_path / "data/s0.bin").write_bytes(BODY)
        with pytest.raises(ConflictError, match="R04"):
            fetch(manifest, allow_unverified=True)

    def test_a_damaged_record_is_refused(self, tmp_path: Path, server: Server) -> None:
        manifest = write_sheet(tmp_path, {"url": server.host("a", BODY)})
        (tmp_path / "some.fetched.json").write_text('{"files": [], "files": []}')
        with pytest.raises(IntegrityError, match="stands twice"):
            fetch(manifest, allow_unverified=True)


class FakeStore(AbstractFileSystem):  # type: ignore[misc]
    """An object store whose connection breaks once."""

    cachable = False  # codespell:ignore cachable
    options: ClassVar[dict[str, object]] = {}
    breaks: ClassVar[list[int]] = []

    def __init__(self, **options: object) -> None:
        super().__init__()
        FakeStore.options = options

    def info(self, path: str, **_more: object) -> dict[str, object]:
        if not path.endswith("/a"):
            raise FileNotFoundError(path)
        return {"name": path, "size": len(BODY), "type": "file", "ETag": '"1"'}

    def _open(self, _path: str, *_args: object, **_more: object) -> io.BytesIO:
        class Breaking(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                if self.tell() and FakeStore.breaks:
                    FakeStore.breaks.pop()
                    raise ConnectionResetError
                return super().read(min(size or 0, 10_000))

        return Breaking(BODY)


class TestStores:
    @pytest.fixture(autouse=True)
    def fake(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(import_module("fsspec.registry")._registry, "s3", FakeStore)

    def test_objects_are_read_without_credentials(self, tmp_path: Path) -> None:
        fetch(write_sheet(tmp_path, {"url": "s3://bucket/a", "sha256": digest(BODY)}))
        assert (tmp_path / "data/s0.bin").read_bytes() == BODY
        assert FakeStore.options == {"anon": True}

    def test_a_broken_connection_is_gone_on_with(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(FakeStore, "breaks", [1])
        fetch(write_sheet(tmp_path, {"url": "s3://bucket/a", "sha256": digest(BODY)}))
        assert (tmp_path / "data/s0.bin").read_bytes() == BODY

    def test_no_such_object(self, tmp_path: Path) -> None:
        with pytest.raises(RemoteError, match=r"R05.*s3://bucket/b"):
            fetch(write_sheet(tmp_path, {"url": "s3://bucket/b", "sha256": digest(BODY)}))

    def test_a_missing_package_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "gcsfs", None)
        with pytest.raises(PlatformError, match=r"E009.*gcsfs"):
            fetch(write_sheet(tmp_path, {"url": "gs://bucket/a", "sha256": digest(BODY)}))


class TestLocalFiles:
    def test_a_row_without_url_has_to_stand_there(self, tmp_path: Path) -> None:
        manifest = write_sheet(tmp_path, {"accession": "zenodo:1"}, {"path": "there.bin"})
        (tmp_path / "there.bin").write_bytes(b"x")
        with pytest.raises(BadInputError, match=r"R10.*zenodo:1") as caught:
            fetch(manifest)
        assert len(caught.value.problems) == 1

    def test_its_hash_is_checked(self, tmp_path: Path) -> None:
        manifest = write_sheet(tmp_path, {"path": "x.bin", "sha256": digest(BODY)})
        (tmp_path / "x.bin").write_bytes(BODY)
        assert fetch(manifest).n_local == 1
        (tmp_path / "x.bin").write_bytes(OTHER)
        with pytest.raises(IntegrityError, match="R07"):
            fetch(manifest)

    def test_file_urls_are_copied(self, tmp_path: Path) -> None:
        source = tmp_path / "source file"
        source.write_bytes(BODY)
        url = source.as_uri()
        fetch(write_sheet(tmp_path / "m", {"url": url, "sha256": digest(BODY)}))
        assert (tmp_path / "m/data/s0.bin").read_bytes() == BODY

    @pytest.mark.parametrize("kind", ["missing", "folder", "pipe"])
    def test_other_things_are_not(self, tmp_path: Path, kind: str) -> None:
        source = tmp_path / "source"
        {"missing": lambda: None, "folder": source.mkdir, "pipe": lambda: os.mkfifo(source)}[kind]()
        manifest = write_sheet(tmp_path / "m", {"url": source.as_uri(), "sha256": digest(BODY)})
        with pytest.raises(RemoteError, match="R05"):
            fetch(manifest)


def test_every_problem_of_every_file_is_named(tmp_path: Path, server: Server) -> None:
    good = digest(BODY)
    manifest = write_sheet(
        tmp_path,
        {"url": server.host("gone", BODY, "status:404"), "sha256": good},
        {"url": server.host("wrong", BODY, "wrong"), "sha256": good},
        {"url": server.host("fine", BODY), "sha256": good},
        {"url": server.host("null", BODY)},
        {"path": "by-hand.h5ad"},
        {"url": server.host("cut", BODY, "cut:10"), "sha256": good},
    )
    with pytest.raises(IntegrityError) as caught:
        fetch(manifest, jobs=3)
    codes = [problem.code for problem in caught.value.problems]
    assert codes == ["R10", "R05", "R07", "R09", "R05"]
    assert all(server.url in str(p.where) for p in caught.value.problems if p.code != "R10")
    assert (tmp_path / "data/s2.bin").read_bytes() == BODY
    record = json.loads((tmp_path / "some.fetched.json").read_text())
    assert [file["path"] for file in record["files"]] == ["data/s2.bin"]


def test_a_full_disk_stops_before_the_first_byte(
    one: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(one.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1000))
    with pytest.raises(ResourceError, match="P05"):
        fetch(one)
    assert not list(one.parent.rglob("*.partial"))


def test_two_runs_at_once_are_kept_apart(one: Path) -> None:
    from stbuild.fetch import run

    with run._held(one), pytest.raises(ConflictError, match=rf"P09.*process {os.getpid()} on "):
        fetch(one)
    fetch(one)
    assert not list(one.parent.glob(".*.lock"))


HOLDER = """
import sys, time
from pathlib import Path
from stbuild.corpus.holder import sign_holder
from stbuild.workspace import take_lock
lock = Path(sys.argv[1])
handle = take_lock(lock)
sign_holder(lock)
print(handle, flush=True)
time.sleep(600)
"""


def test_a_run_that_was_killed_is_named_until_then_and_holds_nothing_after(one: Path) -> None:
    lock = one.with_name(f".{one.stem}.fetch.lock")
    with subprocess.Popen([sys.executable, "-c", HOLDER, lock], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(ConflictError, match=f"another run fetches it .process {child.pid} on "):
            fetch(one)
        child.kill()
    assert lock.exists()
    assert fetch(one).count("downloaded") == 1
    assert not lock.exists()


def test_no_credentials_are_sent(
    one: Path, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("http_proxy", "http://user:secret@127.0.0.1:1/")
    fetch(one)
    assert not {"authorization", "cookie", "proxy-authorization"} & set(server.asked[0].headers)


class TestCommand:
    def run(self, *arguments: str) -> tuple[StError | None, str]:
        result = CliRunner().invoke(command, [*arguments])
        error = result.exception
        if error is not None and not isinstance(error, StError | SystemExit):
            raise error
        return (error if isinstance(error, StError) else None), result.output

    def test_it_fetches(self, one: Path, tmp_path: Path) -> None:
        error, text = self.run(str(one), "--cache", str(tmp_path / "c"), "--json", "-q")
        assert error is None
        value = json.loads(text)
        assert [(row["path"], row["how"]) for row in value["files"]] == [
            ("data/s0.bin", "downloaded")
        ]

    def test_it_says_what_it_did(self, one: Path) -> None:
        _, text = self.run(str(one), "--no-cache", "-v")
        assert "1 files: 1 downloaded, 0 cached, 0 kept" in text

    @pytest.mark.parametrize(
        ("way", "code"),
        [("status:404", 8), ("wrong", 6), ("redirect:ftp://x/y", 3)],
        ids=["remote", "integrity", "input"],
    )
    def test_exit_codes(self, one: Path, server: Server, way: str, code: int) -> None:
        server.host("a", BODY, way)
        error, _ = self.run(str(one), "--no-cache", "--attempts", "1")
        assert error is not None
        assert error.exit_code == code
