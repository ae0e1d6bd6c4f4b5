"""A release on a hub: one commit for all of it, nothing sent twice, nothing else touched."""

import hashlib
from typing import Any

import pytest

pytest.importorskip("huggingface_hub")

from stbuild.corpus.errors import (
    BadUsageError,
    ConflictError,
    IntegrityError,
    RemoteError,
)
from stbuild.publish.push.options import PushOptions
from stbuild.publish.push.run import push_release
from tests.pushing import contents_of, write_release
from tests.remotes import TOKEN, serve_hub

# Of the hub's own client, which hands a file to its HTTP library by an old name.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
REPO = "our-lab/toy"
QUICK: dict[str, Any] = {"attempts": 3, "wait": 0.01, "longest_wait": 0.02, "timeout": 20.0}


@pytest.fixture
def hub(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    # The waits of the hub's own client, which has no option for them.
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _seconds: None)
    with serve_hub() as remote:
        monkeypatch.setenv("HF_ENDPOINT", remote.url)
        yield remote


@pytest.fixture
def release(tmp_path):
    return write_release(tmp_path / "release")


def push(release, **changes):
    flags = {name: changes.pop(name) for name in ("dry_run", "say") if name in changes}
    return push_release(release, f"hf:{REPO}", options=PushOptions(**QUICK, **changes), **flags)


def held(hub):
    return {n: raw for n, raw in hub.seen(REPO).items() if n != ".gitattributes"}


def test_a_release_becomes_one_commit(hub, release):
    report = push(release)
    assert held(hub) == contents_of(release)
    assert len(hub.repos[REPO]) == 2, "the hub's own first commit, and ours"
    assert report.is_public
    assert report.revision == hub.repos[REPO][-1][0]
    assert {file.how for file in report.files} == {"sent"}
    assert "data/train/toy-train-00001.tar" in hub.large
    assert any("/store/" in a.path and a.path.split("?")[0].endswith("/3") for a in hub.uploads())


def test_files_that_vouch_for_others_stand_last(release):
    report = push_release(release, "zenodo", dry_run=True)
    last = [file.path for file in report.files][-3:]
    assert last == ["SHA256SUMS", "corpus.json", "release.json"]


def test_a_second_push_sends_nothing(hub, release):
    first = push(release)
    asked = len(hub.asked)
    report = push(release)
    assert {file.how for file in report.files} == {"there"}
    assert report.revision == first.revision
    assert [a.method for a in hub.asked[asked:]] == ["GET"] * len(hub.asked[asked:])


def test_a_dry_run_writes_nothing(hub, release):
    report = push(release, dry_run=True)
    assert hub.wrote() == []
    assert hub.repos == {}
    assert report.dry_run
    assert not report.is_public
    assert {f.path: (f.bytes, f.sha256) for f in report.files} == {
        path: (len(raw), hashlib.sha256(raw).hexdigest())
        for path, raw in contents_of(release).items()
    }
    assert {f.how for f in report.files} == {"to send"}
    assert "a public repository" in report.notices[0]


def test_a_new_release_sends_what_changed(hub, release, tmp_path):
    push(release)
    asked = len(hub.asked)
    new = write_release(tmp_path / "new", seed=1)
    report = push(new)
    assert held(hub) == contents_of(new)
    how = {file.path: file.how for file in report.files}
    assert how["data/train/toy-train-00000.tar"] == how["genes.parquet"] == "there"
    assert how["data/train/toy-train-00001.tar"] == how["README.md"] == "sent"
    assert not [a for a in hub.asked[asked:] if "genes" in a.path]


def test_blobs_of_a_run_that_was_cut_off_are_not_sent_again(hub, release):
    hub.ways = dict.fromkeys(range(500), "403")
    shard = (release / "data/train/toy-train-00001.tar").read_bytes()
    hub.blobs[hashlib.sha256(shard).hexdigest()] = shard
    hub.ways = {}
    push(release)
    oid = hashlib.sha256(shard).hexdigest()
    assert not [a for a in hub.uploads() if oid in a.path]
    assert held(hub) == contents_of(release)


def test_files_of_others_are_deleted_only_when_told_to(hub, release):
    push(release)
    hub.repos[REPO].append(("b" * 40, hub.seen(REPO) | {"notes.txt": b"mine"}))
    with pytest.raises(ConflictError, match=r"'notes.txt'.*--replace"):
        push(release)
    assert "notes.txt" in held(hub)
    report = push(release, replace=True)
    assert held(hub) == contents_of(release)
    assert [(f.path, f.how) for f in report.files if f.how == "deleted"] == [
        ("notes.txt", "deleted")
    ]


def test_two_pushes_at_a_time_do_not_mix(hub, release, tmp_path):
    push(release)

    def other(_n, when):
        if when == "before" and hub.asked[-1].path.endswith("/validate-yaml"):
            files = hub.seen(REPO) | {"README.md": b"by somebody else"}
            hub.repos[REPO].append(("c" * 40, files))

    hub.at_request = other
    with pytest.raises(ConflictError, match="somebody else"):
        push(write_release(tmp_path / "new", seed=1))
    assert hub.seen(REPO)["README.md"] == b"by somebody else"
    assert hub.seen(REPO)["corpus.json"] == (release / "corpus.json").read_bytes()


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "way", [pytest.param("503", marks=SLOW), pytest.param("429", marks=SLOW), "reset", "deaf"]
)
def test_every_request_may_fail_once(hub, release, way):
    push(release)
    count = len(hub.asked)
    whole = contents_of(release)
    for n in range(count):
        hub.repos.clear(), hub.blobs.clear(), hub.parts.clear(), hub.asked.clear()
        hub.ways = {n: way}
        push(release)
        assert held(hub) == whole, f"request {n}"
        assert len(hub.repos[REPO]) == 2, f"request {n}: {way} made a second commit"


@pytest.mark.parametrize(
    ("way", "said"),
    [("500", "answered 500"), ("403", "right to write"), ("401", "does not know it")],
)
def test_a_hub_that_only_fails(hub, release, way, said):
    hub.always = way
    with pytest.raises(RemoteError, match=said) as caught:
        push(release)
    assert "127.0.0.1" in str(caught.value)
    assert REPO in str(caught.value)


def test_a_hub_that_is_not_there(release, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _seconds: None)
    with pytest.raises(RemoteError, match=r"P54.*Connect") as caught:
        push(release, endpoint="http://127.0.0.1:9")
    assert caught.value.exit_code == 8


def test_a_page_instead_of_an_answer(hub, release):
    hub.always = "page"
    with pytest.raises(RemoteError, match="P56"):
        push(release)


def test_files_that_the_hub_ignores_are_named(hub, release):
    hub.ignored.add("genes.parquet")
    with pytest.raises(IntegrityError, match=r"genes.parquet.*gitignore"):
        push(release)


def test_the_token_goes_to_one_host_only(hub, release):
    with serve_hub() as elsewhere:
        hub.verify_at = f"{elsewhere.url}/verify"
        with pytest.raises(RemoteError, match=r"P56.*to which the token does not go"):
            push(release)
        assert elsewhere.asked == []
    stored = [a for a in hub.asked if a.path.startswith("/store/") and a.method == "PUT"]
    assert stored
    assert {a.authorization for a in stored} == {None}
    assert held(hub) == {}


def test_the_token_is_in_no_url_and_in_no_message(hub, release, capfd, caplog):
    caplog.set_level(0)
    lines: list[str] = []
    hub.ways = {3: "503"}
    report = push(release, say=lines.append)
    hub.always = "403"
    with pytest.raises(RemoteError) as caught:
        push(release)
    shown = capfd.readouterr()
    everything = [report, lines, caught.value, caplog.text, shown.out, shown.err]
    assert TOKEN not in repr(everything) + str(caught.value)
    assert not [a for a in hub.asked if TOKEN in a.path]


def test_without_a_token_nothing_is_asked(hub, release, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(BadUsageError, match=r"P52.*HF_TOKEN is not set"):
        push(release)
    assert hub.asked == []


def test_a_file_that_changes_under_way(hub, release):
    shard = release / "data/train/toy-train-00001.tar"

    def change(_n, _when):
        if "/preupload/" in hub.asked[-1].path:
            shard.write_bytes(bytes(shard.stat().st_size))

    hub.at_request = change
    with pytest.raises(IntegrityError, match="changed while it was sent"):
        push(release)
    assert held(hub) == {}
