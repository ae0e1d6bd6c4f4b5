"""What a hostile sheet may say: URLs, paths, members, and rows that disagree."""

from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stbuild.corpus.errors import BadInputError, BadUsageError
from stbuild.corpus.urls import SCHEMES, refuse_redirect, refuse_url, show_url
from stbuild.fetch.plan import read_plan
from stbuild.manifests.rows import SourceRow
from tests.fetching import digest, write_sheet

URL = "https://example.org/x.h5ad"


@pytest.mark.parametrize(
    "url",
    [
        URL, "https://example.org:8443/a/b?x=1#f", "HTTPS://EXAMPLE.org/x", "https://[2001:db8::1]/x",
        "http://localhost:8000/x", "http://127.0.0.1/x", "http://[::1]:80/x", "file:///data/x",
        "file://localhost/x", "s3://bucket/a/b.h5", "gs://bucket/a", "https://example.org/a::b",
    ],
)  # fmt: skip
def test_allowed_urls(url: str) -> None:
    assert refuse_url(url) is None


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("pipe:cat /etc/passwd", "no blanks"),
        ("pipe:id", "the scheme 'pipe:' is refused"),
        ("PIPE:id", "the scheme 'pipe:' is refused"),
        ("ftp://example.org/x", "the scheme 'ftp:' is refused"),
        ("hf://datasets/x", "the scheme 'hf:' is refused"),
        ("reference://x", "the scheme 'reference:' is refused"),
        ("data:text/plain,x", "the scheme 'data:' is refused"),
        ("javascript:alert(1)", "the scheme 'javascript:' is refused"),
        ("simplecache::https://example.org/x", "chained scheme 'simplecache::'"),
        ("zip://a::https://example.org/x", "the scheme 'zip:' is refused"),
        ("s3://bucket/a::file:///etc/passwd", "'::'"),
        ("file::https://example.org/x", "chained scheme 'file::'"),
        ("http://example.org/x", "on this machine only"),
        ("http://localhost.example.org/x", "on this machine only"),
        ("http://10.0.0.1/x", "on this machine only"),
        ("https://169.254.169.254/latest/meta-data", "not a server's"),
        ("https://[fe80::1]/x", "not a server's"),
        ("https://0.0.0.0/x", "not a server's"),
        ("https://user:secret@example.org/x", "user name"),
        ("https://example.org", "name a host"),
        ("https:///x", "name a host"),
        ("https://example.org:99999/x", "malformed"),
        ("https://[::1/x", "malformed"),
        ("file://host/x", "ABSOLUTE"),
        ("file:x", "ABSOLUTE"),
        ("x.h5ad", "no scheme"),
        ("/etc/passwd", "no scheme"),
        ("//example.org/x", "no scheme"),
        ("https://example.org\\@evil/x", "backslashes"),
        ("https://example.org/\nx", "control"),
        ("https://example.org/" + "x" * 2048, "2048"),
        ("", "no scheme"),
    ],
)
def test_refused_urls(url: str, why: str) -> None:
    assert why in (refuse_url(url) or "")


@given(st.text(max_size=60))
def test_any_text_is_refused_or_of_a_known_scheme(text: str) -> None:
    if refuse_url(text) is None:
        assert urlsplit(text).scheme in SCHEMES
    show_url(text)


@given(
    st.sampled_from(["https", "http", "file", "s3", "ftp", "pipe"]),
    st.sampled_from(["example.org", "127.0.0.1", "other.org:8", "u:geheim@example.org", ""]),
    st.sampled_from(["/x", "/y?t=geheim", ""]),
)
def test_redirects_stay_on_their_host(scheme: str, host: str, path: str) -> None:
    target = f"{scheme}://{host}{path}"
    if refuse_redirect(URL, target, ()) is None:
        assert target.startswith("https://example.org/")
    assert "geheim" not in show_url(target)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://u:p@example.org:8/a/b?token=x#y", "https://example.org:8/a/b"),
        ("https://[2001:db8::1]/x?y", "https://[2001:db8::1]/x"),
        ("file:///a/b", "file:///a/b"),
        ("pipe:rm", "pipe:rm"),
        ("https://[::1/x?secret", "(malformed URL)"),
    ],
)
def test_shown_urls(url: str, shown: str) -> None:
    assert show_url(url) == shown


def refused(folder: Path, code: str, *rows: dict[str, object]) -> str:
    """Check that a sheet is refused with one code, and return the message."""
    with pytest.raises(BadInputError) as caught:
        read_plan(write_sheet(folder, *rows))
    assert {problem.code for problem in caught.value.problems} == {code}
    return str(caught.value)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd", "../x", "a/../../x", "~/x", "a\\b", "a\x1b[2Jb", "x.partial",
        "other.fetched.json", "some.csv", "some.toml", "./some.toml", "some.fetched.json",
        "x" * 2000,
    ],
)  # fmt: skip
def test_paths_that_are_not_written_to(tmp_path: Path, path: str) -> None:
    text = refused(tmp_path / "m", "R03", {"url": URL, "path": path})
    assert "\x1b" not in text


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/data").symlink_to(tmp_path)
    assert "a link leads out" in refused(tmp_path / "m", "R03", {"url": URL})


def test_a_path_without_url_may_lie_anywhere(tmp_path: Path) -> None:
    plan = read_plan(write_sheet(tmp_path, {"path": "../x.h5ad"}))
    assert plan.files[0].url is None


@pytest.mark.parametrize(
    "rows",
    [
        [{"url": URL, "path": "x"}, {"url": URL + "2", "path": "x"}],
        [{"url": URL, "sha256": "0" * 64}, {"url": URL, "sha256": "1" * 64}],
        [{"url": URL, "bytes": 1}, {"url": URL, "bytes": 2}],
        [{"url": URL, "path": "a"}, {"url": URL, "path": "a/b"}],
        [{"unpack": "x"}],
        [{"url": URL, "unpack": "../x"}],
        [{"positions_url": URL}],
        [{"labels_url": URL}],
        [{"labels_unpack": "x", "labels_file": "y"}],
    ],
    ids=[
        "one_place_two_urls", "one_url_two_hashes", "one_url_two_sizes", "file_and_folder",
        "member_without_url", "member_outside", "positions_without_place", "labels_without_place",
        "labels_member_without_url",
    ],
)  # fmt: skip
def test_rows_that_make_no_sense(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    refused(tmp_path, "B022", *rows)


def test_everything_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(BadInputError) as caught:
        read_plan(write_sheet(
            tmp_path, {"url": "ftp://a/b", "path": "/abs"}, {"positions_url": URL}, {"url": "x"},
        ))  # fmt: skip
    assert [problem.code for problem in caught.value.problems] == ["R01", "B022", "R01", "R03"]


@pytest.mark.parametrize(
    ("row", "where"),
    [({"sha256": "ABC"}, "sha256"), ({"bytes": "-1"}, "bytes"), ({"expected_spots": "many"}, "")],
)
def test_cells_are_checked(tmp_path: Path, row: dict[str, str], where: str) -> None:
    with pytest.raises(BadInputError, match=f"{where}.*line 2"):
        read_plan(write_sheet(tmp_path, row))


def test_an_unknown_column_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="did you mean 'sha256'"):
        read_plan(write_sheet(tmp_path, {"sha25": digest(b"")}))


def test_no_rows_are_refused(tmp_path: Path) -> None:
    refused(tmp_path, "B022")


def test_damaged_sheets(tmp_path: Path) -> None:
    manifest = write_sheet(tmp_path, {})
    sheet = tmp_path / "some.csv"
    for raw in (b'slice,path\n"a,b\n', b"slice,path\na\n", b"\xff\xfe", b"path\nx\n"):
        sheet.write_bytes(raw)
        with pytest.raises(BadInputError, match="B022"):
            read_plan(manifest)
    sheet.unlink()
    with pytest.raises(BadInputError, match="B001"):
        read_plan(manifest)
    manifest.write_text("name = ")
    with pytest.raises(BadInputError, match="B111"):
        read_plan(manifest)
    manifest.write_text('name = "x"\nsamples = "some.csv"\nnonsense = 1\n')
    with pytest.raises(BadUsageError, match="nonsense"):
        read_plan(manifest)


def test_columns_stay_columns() -> None:
    """Published sheets use these names."""
    kinds = ("url", "sha256", "bytes", "unpack")
    sources = {f"{prefix}{kind}" for prefix in ("", "positions_", "labels_") for kind in kinds}
    expected = {f"expected_{kind}" for kind in ("spots", "genes", "classes")}
    assert set(SourceRow.model_fields) == sources | expected | {"accession", "confirmed"}
