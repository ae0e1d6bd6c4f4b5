"""Servers that truncate, stall, drip, lie, redirect and send wrong bytes."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic

import pytest

from stbuild.corpus.errors import BadInputError, IntegrityError, RemoteError
from stbuild.fetch.download import Advance
from tests.fetching import PATIENCE, digest, fetch, left, write_sheet
from tests.server import Server, serving

BODY = bytes(range(256)) * 200


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def sheet(folder: Path, url: str, **more: object) -> Path:
    return write_sheet(folder, {"url": url, "sha256": digest(BODY), **more})


@pytest.mark.parametrize(
    "ways",
    [
        ["status:500", "status:502", "good"],
        ["drop", "good"],
        ["garbage", "good"],
        ["busy:0", "good"],
        ["cut:0", "cut:1", "good"],
        ["chunked:3000", "good"],
        ["shifted", "good"],
        ["claim:100000", "good"],
    ],
    ids=lambda ways: "-".join(ways),
)
def test_what_passes_is_tried_again(tmp_path: Path, server: Server, ways: list[str]) -> None:
    lines: list[str] = []
    manifest = sheet(tmp_path, server.host("a", BODY, *ways))
    fetch(manifest, say=lines.append)
    assert (tmp_path / "data/s0.bin").read_bytes() == BODY
    assert len(lines) == len(ways) - 1
    assert all("attempt" in line and server.url in line for line in lines)


@pytest.mark.parametrize("way", ["stall:5000", "silent", "drip", "dripping_head"])
def test_a_stall_ends_in_bounded_time(tmp_path: Path, server: Server, way: str) -> None:
    options = replace(PATIENCE, stall=0.5, attempts=2)
    manifest = sheet(tmp_path, server.host("a", BODY, way))
    begin = monotonic()
    with pytest.raises(RemoteError, match=r"R05.*no progress for 0\.5 s"):
        fetch(manifest, options=options)
    assert monotonic() - begin < 5
    assert server.times("a") == 2


def test_after_a_stall_it_goes_on(tmp_path: Path, server: Server) -> None:
    manifest = sheet(tmp_path, server.host("a", BODY, "stall:5000", "good"))
    fetch(manifest, options=replace(PATIENCE, stall=0.5))
    assert server.ranges("a") == [None, "bytes=5000-"]
    assert (tmp_path / "data/s0.bin").read_bytes() == BODY


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 501])
def test_what_will_not_pass_is_not_tried_again(tmp_path: Path, server: Server, status: int) -> None:
    manifest = sheet(tmp_path, server.host("a", BODY, f"status:{status}"))
    with pytest.raises(RemoteError, match=f"R05.*answers {status}"):
        fetch(manifest)
    assert server.times("a") == 1


class TestWrongBytes:
    @pytest.mark.parametrize("way", ["wrong", "chunked"])
    def test_the_hash_tells(self, tmp_path: Path, server: Server, way: str) -> None:
        body = BODY if way == "wrong" else BODY + b"!"
        manifest = sheet(tmp_path, server.host("a", body, way))
        with pytest.raises(IntegrityError, match="R07") as caught:
            fetch(manifest)
        assert digest(BODY) in str(caught.value)
        assert left(tmp_path) == ["some.csv", "some.toml"]
        assert server.times("a") == 1

    def test_the_servers_size_is_compared_first(self, tmp_path: Path, server: Server) -> None:
        manifest = sheet(tmp_path, server.host("a", BODY), bytes=len(BODY) - 1)
        with pytest.raises(IntegrityError, match=r"R06.*the server names 51,200 bytes"):
            fetch(manifest)
        assert left(tmp_path) == ["some.csv", "some.toml"]

    def test_too_short_a_claim_is_an_error(self, tmp_path: Path, server: Server) -> None:
        manifest = sheet(tmp_path, server.host("a", BODY, "claim:1000"))
        with pytest.raises(IntegrityError, match="R07"):
            fetch(manifest)

    def test_too_long_a_claim_is_tried_and_given_up(self, tmp_path: Path, server: Server) -> None:
        manifest = sheet(tmp_path, server.host("a", BODY, "claim:60000"))
        with pytest.raises((RemoteError, IntegrityError), match=r"R0[57]"):
            fetch(manifest)

    @pytest.mark.parametrize("more", [{"bytes": len(BODY)}, {}], ids=["sized", "unsized"])
    def test_an_endless_file_ends(
        self, tmp_path: Path, server: Server, more: dict[str, int]
    ) -> None:
        manifest = sheet(tmp_path, server.host("a", BODY, "endless"), **more)
        with pytest.raises(IntegrityError, match=r"R06.*more than"):
            fetch(manifest, options=replace(PATIENCE, most_bytes=1_000_000))
        assert left(tmp_path) == ["some.csv", "some.toml"]

    def test_a_huge_claim_is_refused_at_once(self, tmp_path: Path, server: Server) -> None:
        manifest = sheet(tmp_path, server.host("a", BODY, "claim:1000000000000"))
        with pytest.raises(IntegrityError, match=r"R06.*1,000,000,000,000"):
            fetch(manifest)


class TestUnverified:
    def check(self, folder: Path, url: str, **more: object) -> None:
        manifest = write_sheet(folder, {"url": url, **more})
        fetch(manifest, allow_unverified=True)

    def test_a_login_page_is_not_taken(self, tmp_path: Path, server: Server) -> None:
        with pytest.raises(RemoteError, match=r"R05.*web page"):
            self.check(tmp_path, server.host("a", BODY, "page"))

    def test_an_unframed_file_is_not_taken(self, tmp_path: Path, server: Server) -> None:
        with pytest.raises(RemoteError, match=r"R05.*how long"):
            self.check(tmp_path, server.host("a", BODY, "unframed"))

    def test_unless_the_sheet_has_its_size(self, tmp_path: Path, server: Server) -> None:
        self.check(tmp_path, server.host("a", BODY, "unframed"), bytes=len(BODY))
        assert (tmp_path / "data/s0.bin").read_bytes() == BODY

    def test_a_coding_is_told(self, tmp_path: Path, server: Server) -> None:
        manifest = write_sheet(tmp_path, {"url": server.host("a", BODY, "coded")})
        report = fetch(manifest, allow_unverified=True)
        assert "gzip" in str(report.notices[0])
        assert (tmp_path / "data/s0.bin").read_bytes() == BODY


class TestRedirects:
    def test_to_the_same_host_is_followed(self, tmp_path: Path, server: Server) -> None:
        server.host("b", BODY)
        fetch(sheet(tmp_path, server.host("a", b"", "redirect:/b")))
        assert (tmp_path / "data/s0.bin").read_bytes() == BODY

    def test_ranges_and_validators_go_along(self, tmp_path: Path, server: Server) -> None:
        server.host("b", BODY, "cut:1000", "good")
        fetch(sheet(tmp_path, server.host("a", b"", "redirect:/b")))
        assert server.ranges("b") == [None, "bytes=1000-"]

    @pytest.mark.parametrize(
        ("target", "why"),
        [
            ("file:///etc/hostname", "from http: to file:"),
            ("ftp://127.0.0.1/x", "the scheme 'ftp:' is refused"),
            ("http://example.org/x?secret=1", "plain http:"),
            ("https://example.org/x", "from http: to https:"),
            ("http://localhost:1/x", "another host"),
            ("http://user:secret@127.0.0.1/x", "user name"),
            ("pipe:touch%20x", "the scheme 'pipe:' is refused"),
            ("simplecache::file:///etc/hostname", "chained scheme 'simplecache::'"),
            ("https://169.254.169.254/latest", "not a server's"),
        ],
    )
    def test_elsewhere_is_refused(
        self, tmp_path: Path, server: Server, target: str, why: str
    ) -> None:
        manifest = sheet(tmp_path, server.host("a", b"", f"redirect:{target}"))
        with pytest.raises(BadInputError, match="R02") as caught:
            fetch(manifest)
        assert why in str(caught.value)
        assert "secret" not in str(caught.value)
        assert server.times("a") == 1

    def test_an_allowed_host_is_followed(self, tmp_path: Path, server: Server) -> None:
        server.host("b", BODY)
        url = server.host("a", b"", f"redirect:http://localhost:{server.port}/b")
        manifest = sheet(tmp_path, url)
        with pytest.raises(BadInputError, match="--allow-host"):
            fetch(manifest)
        fetch(manifest, options=replace(PATIENCE, hosts=frozenset({"localhost"})))
        assert (tmp_path / "data/s0.bin").read_bytes() == BODY
        assert "authorization" not in server.asked[-1].headers

    def test_a_circle_ends(self, tmp_path: Path, server: Server) -> None:
        manifest = sheet(tmp_path, server.host("a", b"", "redirect:/a"))
        with pytest.raises(RemoteError, match=r"R05.*redirects"):
            fetch(manifest)
        assert server.times("a") == 9


def test_a_token_is_shown_nowhere(
    tmp_path: Path, server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    url = server.host("a", BODY, "drop", "cut:100", "status:500") + "?token=geheim"
    lines: list[str] = []

    def progress(name: str, _total: int | None) -> Advance:
        lines.append(name)
        return lambda n_bytes: None

    with pytest.raises(RemoteError) as caught:
        fetch(sheet(tmp_path, url), say=lines.append, progress=progress)
    seen = "".join([*lines, str(caught.value), *capfd.readouterr()])
    seen += "".join(p.read_text("latin-1") for p in tmp_path.rglob("*.json"))
    assert "geheim" not in seen
    assert server.asked[0].path.endswith("?token=geheim")


def test_a_refused_connection_is_given_up(tmp_path: Path) -> None:
    with serving() as gone:
        url = gone.host("a", BODY)
    with pytest.raises(RemoteError, match=r"R05.*attempts"):
        fetch(sheet(tmp_path, url))
