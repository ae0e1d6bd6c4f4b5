"""One member out of an archive: every kind, and every trick an archive can play."""

import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stbuild.corpus.errors import ConflictError, IntegrityError
from stbuild.fetch import zips
from stbuild.fetch.archives import refuse_member, take_member
from tests.fetching import digest, fetch, left, write_sheet
from tests.server import Server, serving

BODY = b"barcode,layer\n" * 5000
MOST = 1 << 30


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    """Return a ZIP archive of these members."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in members:
            archive.writestr(name, body)
    return raw.getvalue()


def tarred(*members: tuple[str | tarfile.TarInfo, bytes], mode: str = "w:gz") -> bytes:
    """Return a tar archive of these members."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode=mode) as archive:  # type: ignore[call-overload]
        for name, body in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return raw.getvalue()


def plain_tar(*members: tuple[str | tarfile.TarInfo, bytes]) -> bytes:
    """Return a tar archive that is not compressed."""
    return tarred(*members, mode="w")


KINDS = pytest.mark.parametrize("pack", [zipped, tarred, plain_tar], ids=["zip", "gz", "tar"])
Pack = Callable[..., bytes]


def take(folder: Path, raw: bytes, member: str, most: int = MOST) -> bytes:
    """Take a member and return its bytes."""
    archive, out = folder / "archive", folder / "out"
    archive.write_bytes(raw)
    size, sha256 = take_member(archive, member, out, subject="slice 's'", where="here", most=most)
    body = out.read_bytes()
    assert (size, sha256) == (len(body), digest(body))
    return body


def refused(folder: Path, raw: bytes, member: str, why: str, most: int = MOST) -> None:
    """Check that a member is refused and nothing is written."""
    with pytest.raises(IntegrityError, match="R08") as caught:
        take(folder, raw, member, most)
    assert why in str(caught.value)
    assert left(folder) == ["archive"]


@KINDS
@pytest.mark.parametrize("name", ["a.csv", "deep/in/a.csv", "./deep/a.csv"])
def test_the_named_member_is_taken(tmp_path: Path, pack: Pack, name: str) -> None:
    raw = pack(("../evil", b"x"), ("/abs", b"y"), (name, BODY), ("z", b""))
    assert take(tmp_path, raw, name.removeprefix("./")) == BODY
    assert left(tmp_path) == ["archive", "out"]


@KINDS
def test_no_such_member(tmp_path: Path, pack: Pack) -> None:
    refused(tmp_path, pack(("a", b"x")), "b", "0 members of that name, expected 1")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@KINDS
def test_two_of_a_name(tmp_path: Path, pack: Pack) -> None:
    refused(tmp_path, pack(("a", b"x"), ("./a", b"y")), "a", "2 members")


@KINDS
@pytest.mark.parametrize("name", ["../a", "/a", "a/../../b", "a/", "", ".", "a\\b", "a\n"])
def test_paths_out_of_the_archive(tmp_path: Path, pack: Pack, name: str) -> None:
    assert refuse_member(name) is not None
    refused(tmp_path, pack(("a", b"x")), name, "")


@KINDS
def test_too_large_a_member(tmp_path: Path, pack: Pack) -> None:
    refused(tmp_path, pack(("a", BODY)), "a", "at most 1,000 are unpacked", most=1000)


@KINDS
@given(cut=st.integers(0, 2000), flip=st.integers(0, 10**6))
def test_damage_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, pack: Pack, cut: int, flip: int
) -> None:
    folder = tmp_path_factory.mktemp("damage")
    raw = bytearray(pack(("a.csv", BODY), ("b", b"x")))
    raw[flip % len(raw)] ^= 1 << flip % 8
    try:
        take(folder, bytes(raw[: len(raw) - cut % len(raw)]), "a.csv")
    except IntegrityError:
        assert left(folder) == ["archive"]


@pytest.mark.parametrize(
    "raw", [b"", b"PK\x03\x04", b"x" * 5000, gzip.compress(b"no tar" * 99, mtime=0)]
)
def test_no_archive_at_all(tmp_path: Path, raw: bytes) -> None:
    refused(tmp_path, raw, "a", "")


class TestZip:
    @pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFDIR])
    def test_links_and_devices(self, tmp_path: Path, kind: int) -> None:
        info = zipfile.ZipInfo("a")
        info.create_system, info.external_attr = 3, (kind | 0o644) << 16
        refused(tmp_path, zipped((info, b"/etc/hostname")), "a", "a link or a device")

    def test_a_bomb(self, tmp_path: Path) -> None:
        raw = zipped(("a", bytes(200 << 20)))
        refused(tmp_path, raw, "a", "that is no data")

    def test_small_zeros_are_no_bomb(self, tmp_path: Path) -> None:
        assert len(take(tmp_path, zipped(("a", bytes(8 << 20))), "a")) == 8 << 20

    def test_an_encrypted_member(self, tmp_path: Path) -> None:
        raw = bytearray(zipped(("a", BODY)))
        for magic, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            raw[raw.index(magic) + at] |= 1
        refused(tmp_path, bytes(raw), "a", "encrypted")

    def test_another_compression(self, tmp_path: Path) -> None:
        raw = io.BytesIO()
        with zipfile.ZipFile(raw, "w", zipfile.ZIP_LZMA) as archive:
            archive.writestr("a", BODY)
        refused(tmp_path, raw.getvalue(), "a", "compression method 14")

    def test_a_lie_about_the_size(self, tmp_path: Path) -> None:
        raw = bytearray(zipped(("a", BODY)))
        at = raw.index(b"PK\x01\x02") + 24
        raw[at : at + 4] = (1000).to_bytes(4, "little")
        refused(tmp_path, bytes(raw), "a", "")

    def test_a_huge_directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(zips, "_LARGEST", 1000)
        raw = zipped(*((f"member{i}", b"") for i in range(100)))
        refused(tmp_path, raw, "member1", "directory claims")

    def test_a_large_archive_of_the_newer_kind(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)
        raw = zipped(*((f"member{i}", BODY) for i in range(9)))
        assert b"PK\x06\x06" in raw
        assert take(tmp_path, raw, "member3") == BODY
        monkeypatch.setattr(zips, "_LARGEST", 100)
        (tmp_path / "out").unlink()
        refused(tmp_path, raw, "member1", "directory claims")


class TestTar:
    @pytest.mark.parametrize(
        "kind",
        [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE],
    )
    def test_links_and_devices(self, tmp_path: Path, kind: bytes) -> None:
        info = tarfile.TarInfo("a")
        info.type, info.linkname = kind, "/etc/hostname"
        refused(tmp_path, tarred((info, b"")), "a", "a link, a device")

    def test_a_sparse_member(self, tmp_path: Path) -> None:
        raw = io.BytesIO()
        info = tarfile.TarInfo("a")
        info.pax_headers = {
            "GNU.sparse.map": "0,1", "GNU.sparse.size": "1000000000000", "GNU.sparse.numblocks": "1"
        }  # fmt: skip
        with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as archive:
            info.size = 1
            archive.addfile(info, io.BytesIO(b"x"))
        refused(tmp_path, raw.getvalue(), "a", "")

    def test_a_bomb(self, tmp_path: Path) -> None:
        raw = tarred(("before", bytes(200 << 20)), ("a", b"x"))
        refused(tmp_path, raw, "a", "can be in it")

    @pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
    def test_a_header_that_claims_to_be_huge(self, tmp_path: Path, kind: bytes) -> None:
        info = tarfile.TarInfo("x")
        info.type, info.size = kind, 10**12
        refused(tmp_path, info.tobuf(tarfile.GNU_FORMAT) + bytes(10240), "a", "header")

    def test_a_member_that_claims_to_be_huge(self, tmp_path: Path) -> None:
        info = tarfile.TarInfo("a")
        info.size = 10**11
        refused(tmp_path, info.tobuf(tarfile.GNU_FORMAT) + bytes(10240), "a", "")


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


class TestFetching:
    def rows(self, url: str, raw: bytes) -> list[dict[str, object]]:
        return [
            {"url": url, "sha256": digest(raw), "unpack": f"in/{i}.csv", "path": f"d/{i}.csv"}
            for i in range(3)
        ]

    def archive(self) -> bytes:
        return zipped(*((f"in/{i}.csv", BODY + bytes([i])) for i in range(5)))

    def test_members_of_one_archive_take_one_download(self, tmp_path: Path, server: Server) -> None:
        raw = self.archive()
        manifest = write_sheet(tmp_path, *self.rows(server.host("z.zip", raw), raw))
        report = fetch(manifest)
        assert server.times("z.zip") == 1
        assert left(tmp_path / "d") == ["0.csv", "1.csv", "2.csv"]
        entry = report.files[2].file
        assert (entry.source_sha256, entry.sha256) == (digest(raw), digest(BODY + b"\2"))
        assert fetch(manifest).files[0].how == "kept"
        assert server.times("z.zip") == 1

    def test_without_record_the_archive_tells_what_is_right(
        self, tmp_path: Path, server: Server
    ) -> None:
        raw = self.archive()
        manifest = write_sheet(tmp_path, *self.rows(server.host("z.zip", raw), raw))
        fetch(manifest, cache=tmp_path / "cache")
        record = (tmp_path / "some.fetched.json").read_bytes()
        (tmp_path / "some.fetched.json").unlink()
        fetch(manifest, cache=tmp_path / "cache")
        assert (tmp_path / "some.fetched.json").read_bytes() == record
        (tmp_path / "some.fetched.json").unlink()
        (tmp_path / "d/1.csv").write_bytes(b"mine")
        with pytest.raises(ConflictError, match=r"R04.*d/1\.csv"):
            fetch(manifest, cache=tmp_path / "cache")
        assert (tmp_path / "d/1.csv").read_bytes() == b"mine"
        assert server.times("z.zip") == 1

    def test_a_changed_member_is_refused(self, tmp_path: Path, server: Server) -> None:
        raw = self.archive()
        manifest = write_sheet(tmp_path, *self.rows(server.host("z.zip", raw), raw))
        fetch(manifest)
        (tmp_path / "d/1.csv").write_bytes(b"mine")
        with pytest.raises(ConflictError, match="R04"):
            fetch(manifest)
        fetch(manifest, replace=True)
        assert (tmp_path / "d/1.csv").read_bytes() == BODY + b"\1"

    def test_missing_members_are_all_named(self, tmp_path: Path, server: Server) -> None:
        raw = zipped(("in/0.csv", BODY))
        manifest = write_sheet(tmp_path, *self.rows(server.host("z.zip", raw), raw))
        with pytest.raises(IntegrityError) as caught:
            fetch(manifest)
        assert [problem.code for problem in caught.value.problems] == ["R08", "R08"]
        assert left(tmp_path / "d") == ["0.csv"]
