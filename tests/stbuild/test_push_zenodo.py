"""A release on Zenodo: a draft until it is whole and confirmed; published once."""

from typing import Any

import pytest

from stbuild.corpus.errors import (
    BadInputError,
    BadUsageError,
    ConflictError,
    IntegrityError,
    RemoteError,
)
from stbuild.publish.push import plan
from stbuild.publish.push.options import PushOptions
from stbuild.publish.push.run import push_release
from tests.pushing import contents_of, write_release, write_sums
from tests.remotes import TOKEN, serve_zenodo

QUICK: dict[str, Any] = {"attempts": 3, "wait": 0.01, "longest_wait": 0.02, "timeout": 10.0}


@pytest.fixture
def zenodo(monkeypatch):
    monkeypatch.setenv("ZENODO_TOKEN", TOKEN)
    with serve_zenodo() as remote:
        yield remote


@pytest.fixture
def release(tmp_path):
    return write_release(tmp_path / "release")


def push(zenodo, release, **changes):
    flags = {n: changes.pop(n) for n in ("dry_run", "confirm", "say") if n in changes}
    endpoint = changes.pop("endpoint", zenodo.url if zenodo else None)
    options = PushOptions(endpoint=endpoint, **QUICK, **changes)
    return push_release(release, "zenodo-sandbox", options=options, **flags)


def test_a_release_becomes_a_draft_and_with_confirm_a_record(zenodo, release):
    report = push(zenodo, release)
    assert zenodo.records() == []
    assert not report.is_public
    assert "cannot be undone" in report.notices[0]
    assert zenodo.buckets[100] == contents_of(release)
    metadata = zenodo.depositions[100]["metadata"]
    assert metadata["creators"] == [{"name": "A. Lab"}]
    assert (metadata["license"], metadata["title"]) == ("mit", "Toy 0")
    assert metadata["description"] == "<p>a &lt;b&gt; &amp; c</p>"
    sent = len(zenodo.uploads())
    report = push(zenodo, release, confirm=True)
    assert zenodo.records() == [100]
    assert report.is_public
    assert report.url == f"{zenodo.url}/record/100"
    assert len(zenodo.uploads()) == sent, "nothing is sent twice"
    asked = len(zenodo.asked)
    assert push(zenodo, release, confirm=True).is_public
    assert {a.method for a in zenodo.asked[asked:]} == {"GET"}


def test_a_dry_run_writes_nothing(zenodo, release, monkeypatch):
    report = push(zenodo, release, dry_run=True)
    assert zenodo.wrote() == []
    assert report.compared
    assert {f.how for f in report.files} == {"to send"}
    push(zenodo, release)
    assert {f.how for f in push(zenodo, release, dry_run=True).files} == {"there"}
    monkeypatch.delenv("ZENODO_TOKEN")
    asked = len(zenodo.asked)
    report = push(zenodo, release, dry_run=True)
    assert len(zenodo.asked) == asked
    assert not report.compared
    assert "ZENODO_TOKEN is not set" in report.notices[0]


def test_only_what_is_missing_or_wrong_is_sent(zenodo, release):
    push(zenodo, release)
    bucket = zenodo.buckets[100]
    del bucket["README.md"]
    bucket["genes.parquet"] = b"?" * len(bucket["genes.parquet"])
    bucket["foreign.txt"] = b"x"
    sent = len(zenodo.uploads())
    report = push(zenodo, release)
    assert bucket == contents_of(release)
    assert len(zenodo.uploads()) == sent + 2
    how = {file.path: file.how for file in report.files}
    assert how["foreign.txt"] == "deleted"
    assert how["README.md"] == how["genes.parquet"] == "sent"


def test_another_release_gets_a_draft_of_its_own(zenodo, release, tmp_path):
    push(zenodo, release, confirm=True)
    new = write_release(tmp_path / "new", seed=1)
    push(zenodo, new)
    assert zenodo.records() == [100]
    assert zenodo.buckets[100] == contents_of(release)
    assert zenodo.buckets[101] == contents_of(new)
    with pytest.raises(ConflictError, match="not one of this release"):
        push(zenodo, new, deposition=100)


@pytest.mark.parametrize("way", ["503", "429", "reset", "deaf"])
def test_every_request_may_fail_once(zenodo, release, way):
    push(zenodo, release, confirm=True)
    count, whole = len(zenodo.asked), contents_of(release)
    for n in range(count):
        zenodo.depositions.clear(), zenodo.buckets.clear(), zenodo.asked.clear()
        zenodo.ways = {n: way}
        assert push(zenodo, release, confirm=True).is_public
        assert list(zenodo.depositions) == [100], f"request {n}: {way} made a second draft"
        assert zenodo.buckets[100] == whole, f"request {n}"


def test_bytes_that_are_lost_on_their_way_are_never_published(zenodo, release):
    zenodo.spoil = True
    with pytest.raises(IntegrityError, match=r"P58.*MD5"):
        push(zenodo, release, confirm=True)
    assert zenodo.records() == []


def test_what_zenodo_refuses_is_said(zenodo, tmp_path):
    release = write_release(tmp_path / "nameless", authors=False)
    with pytest.raises(RemoteError, match=r"P53.*metadata.creators") as caught:
        push(zenodo, release, confirm=True)
    assert caught.value.exit_code == 8
    assert "/actions/publish" in str(caught.value)
    assert zenodo.records() == []


def test_a_wrong_token(zenodo, release, monkeypatch):
    monkeypatch.setenv("ZENODO_TOKEN", "another_canary_9")
    with pytest.raises(RemoteError, match=r"401.*deposit:write") as caught:
        push(zenodo, release)
    assert "another_canary_9" not in str(caught.value)


def test_a_host_that_repeats_the_token_in_its_answer(zenodo, release, monkeypatch):
    monkeypatch.setenv("ZENODO_TOKEN", "Zenodo_12")
    lines: list[str] = []

    def echo(_n, _when):
        zenodo.ways = {}

    zenodo.at_request = echo
    monkeypatch.setattr("tests.remotes.TOKEN", "Zenodo_12")
    monkeypatch.setattr(
        "tests.remotes._ZenodoHandler._all",
        lambda _self: (400, {"message": "bad header Bearer Zenodo_12"}, {}),
    )
    with pytest.raises(RemoteError, match="bad header Bearer <token>") as caught:
        push(zenodo, release, say=lines.append)
    assert "Zenodo_12" not in repr((caught.value, caught.value.problems, lines))


@pytest.mark.parametrize("way", ["302", "page"])
def test_a_redirect_or_a_page_is_not_followed(zenodo, release, way):
    zenodo.always = way
    with pytest.raises(RemoteError):
        push(zenodo, release)
    assert len(zenodo.asked) == 1


def test_a_bucket_elsewhere_gets_no_token(zenodo, release):
    with serve_zenodo() as elsewhere:

        def lure(_n, _when):
            for deposition in zenodo.depositions.values():
                deposition["links"]["bucket"] = f"{elsewhere.url}/api/files/b100"

        zenodo.at_request = lure
        with pytest.raises(RemoteError, match=r"P56.*to which the token does not go"):
            push(zenodo, release)
        assert elsewhere.asked == []


def test_a_host_that_is_not_there(release, zenodo):
    with pytest.raises(RemoteError, match=r"P54.*3 attempts.*fix: run the same command again"):
        push(None, release, endpoint="http://127.0.0.1:9")


@pytest.mark.parametrize("limit", ["files", "bytes"])
def test_limits_are_seen_before_anything_is_sent(zenodo, release, monkeypatch, limit):
    monkeypatch.setattr(plan, f"ZENODO_{limit.upper()}", 5)
    with pytest.raises(BadUsageError, match=rf"P57.*{limit}.*takes 5.*--samples-per-shard"):
        push(zenodo, release)
    assert zenodo.asked == []


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://zenodo.org",
        "ftp://zenodo.org",
        "https://user:secret@zenodo.org",
        "https://zenodo.org?x=1",
        "file:///tmp",
        "http://169.254.169.254",
        "zenodo.org",
    ],
)
def test_endpoints_that_get_no_token(release, endpoint, zenodo):
    with pytest.raises(BadUsageError, match="P50"):
        push(None, release, endpoint=endpoint)


@pytest.mark.parametrize("target", ["hf:", "hf:a", "hf:a/b/c", "hf:../x", "figshare", "hf:a/-b"])
def test_targets_that_are_none(release, target):
    with pytest.raises(BadUsageError, match="P50"):
        push_release(release, target, dry_run=True)


def test_a_token_of_odd_characters(release, monkeypatch, zenodo):
    monkeypatch.setenv("ZENODO_TOKEN", "two words\nX-Evil: 1")
    with pytest.raises(BadUsageError, match="P52") as caught:
        push(zenodo, release)
    assert "Evil" not in str(caught.value)


def _flip(release):
    path = release / "genes.parquet"
    path.write_bytes(b"?" + path.read_bytes()[1:])


def _remove(release):
    (release / "genes.parquet").unlink()


def _add(release):
    (release / "data" / "notes.txt").write_text("mine")


def _link(release):
    (release / "genes.parquet").rename(release.parent / "genes")
    (release / "genes.parquet").symlink_to(release.parent / "genes")


@pytest.mark.parametrize("damage", [_flip, _remove, _add, _link])
def test_a_damaged_release_is_not_sent(zenodo, release, damage):
    damage(release)
    with pytest.raises(IntegrityError, match=r"P59.*(genes.parquet|data/notes.txt)"):
        push(zenodo, release)
    assert zenodo.asked == []


def _escape(release):
    with (release / "SHA256SUMS").open("a") as file:
        file.write(f"{'0' * 64}  ../../etc/passwd\n")


def _no_release(release):
    (release / "release.json").unlink()
    write_sums(release)


def _twice(release):
    sums = release / "SHA256SUMS"
    sums.write_text(sums.read_text() + sums.read_text())


def _unfinished(release):
    (release / "corpus.json").unlink()


@pytest.mark.parametrize("fault", [_escape, _no_release, _twice, _unfinished])
def test_what_is_no_release_is_not_sent(zenodo, release, fault):
    fault(release)
    with pytest.raises(BadInputError, match="P51"):
        push(zenodo, release)
    assert zenodo.asked == []
