"""A corpus behind a URL is the corpus itself, whatever its server does; or an error in words."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Timer

import numpy as np
import pytest
from click.testing import CliRunner

from stbuild.corpus import names
from stbuild.corpus.reader import Corpus
from sttrain.cli import cli
from sttrain.errors import BadInputError, IntegrityError, RemoteError, StError
from sttrain.stream import pieces
from sttrain.stream.batches import Batch, PatchSource, PatchStream, StreamState
from sttrain.stream.order import World
from sttrain.stream.remote import RemoteCorpus, open_location
from sttrain.train.run import fit
from tests.corpora import write_corpus
from tests.server import Server, serving

pytest.importorskip("aiohttp", reason="reading over HTTP needs fsspec[http]")

from sttrain.stream.transport import Patience
from tests.sttrain.test_train import CONFIG, OPTIONS, weights

PATIENCE = Patience(attempts=4, wait=0.01, longest_wait=0.02, stall=0.4)
SHARD = "corpus/data/train/toy-train-00001.tar"


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Corpus:
    """60 patches in six shards of about 45 kB."""
    return write_corpus(tmp_path_factory.mktemp("remote") / "corpus", n_patches=30)


@pytest.fixture
def server():
    with serving() as running:
        yield running


@pytest.fixture
def url(server: Server, local: Corpus) -> str:
    return server.host_folder(local.root)


@pytest.fixture
def small_pieces(monkeypatch) -> int:
    """Pieces of which a shard has twelve, and a sample lies in two or three."""
    monkeypatch.setattr(pieces, "PIECE", 4096)
    return 4096


def open_remote(url: str, cache: Path, gb: float = 1.0, patience=PATIENCE) -> RemoteCorpus:
    corpus = open_location(url, cache=cache, cache_gb=gb, patience=patience)
    assert isinstance(corpus, RemoteCorpus)
    return corpus


def batches(corpus: Corpus, *, workers=0, group=2, epochs=1, world=None, **more) -> list[Batch]:
    source = PatchSource(corpus, "train", group=group, **more)
    stream = PatchStream(source, source.order(8, 5), world, workers)
    return list(stream.batches(StreamState(), epochs))


def same(one: list[Batch], other: list[Batch]) -> bool:
    return all(
        a.keys == b.keys
        and all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("counts", "genes", "totals"))
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("group", [None, 1, 2, 99])
@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.usefixtures("small_pieces")
def test_equal_to_the_folder(local, url, tmp_path, group, workers):
    remote = open_remote(url, tmp_path)
    expected = batches(local, group=group, epochs=2)
    assert same(batches(remote, group=group, workers=workers, epochs=2), expected)


def test_ranks_share_what_they_get(local, server, url, tmp_path):
    for rank in range(3):
        world = World(rank=rank, n_ranks=3)
        found = batches(open_remote(url, tmp_path), world=world)
        assert same(found, batches(local, world=world))
    shards = [asked.path for asked in server.asked if asked.path.endswith(".tar")]
    assert len(shards) == len(set(shards)) == 6, "each shard once, for all ranks"


def test_only_what_is_needed_is_asked_for(server, url, tmp_path):
    """Documents first, each once; whole slices, splits and other tables never."""
    batches(open_remote(url, tmp_path))
    paths = [asked.path for asked in server.asked]
    assert paths[:2] == ["/corpus/corpus.json", "/corpus/index/train.parquet"]
    assert all(path.startswith("/corpus/data/train/toy-train-0") for path in paths[2:])


def test_whole_slices(local, url, tmp_path):
    expected, found = local.whole_slices("train"), open_remote(url, tmp_path).whole_slices("train")
    assert [w.content() for w in expected] == [w.content() for w in found]


def test_what_needs_files_is_refused_in_words(url, tmp_path):
    remote = open_remote(url, tmp_path)
    with pytest.raises(BadInputError, match="shards as files, and they are behind a URL"):
        remote.shard_file(remote.document.shards[0])


@pytest.mark.parametrize(
    "way",
    ["status:500", "status:503", "busy:0", "drop", "garbage", "cut:0", "cut:3000", "stall:100",
     "silent", "drip", "dripping_head", "shifted", "coded", "claim:999999"],
)  # fmt: skip
def test_a_passing_fault_changes_nothing(local, server, url, tmp_path, way):
    """Two bad answers, then good ones: the samples are the same, and nobody hears of it."""
    server.files[f"/{SHARD}"].ways = [way, way, "good"]
    assert same(batches(open_remote(url, tmp_path)), batches(local))
    assert server.times(SHARD) >= 3


@pytest.mark.parametrize("way", ["status:503", "cut:1000", "shifted", "spoiled:700"])
@pytest.mark.usefixtures("small_pieces")
def test_a_passing_fault_of_a_piece(local, server, url, tmp_path, way):
    server.files[f"/{SHARD}"].ways = ["good", way, way, "good"]
    assert same(batches(open_remote(url, tmp_path)), batches(local))


def test_bytes_that_fail_their_digest_are_asked_for_again(local, server, url, tmp_path):
    server.files[f"/{SHARD}"].ways = ["spoiled:700", "good"]
    assert same(batches(open_remote(url, tmp_path)), batches(local))
    assert server.times(SHARD) == 2


@pytest.mark.parametrize(
    ("way", "kind", "words"),
    [
        ("status:404", IntegrityError, "there is no such file"),
        ("status:410", IntegrityError, "there is no such file"),
        ("status:403", RemoteError, "answers 403"),
        ("status:500", RemoteError, "answers 500.*given up after 2 attempts"),
        ("cut:3000", RemoteError, "cut short; given up after 2 attempts"),
        ("stall:100", RemoteError, "it stalled; given up"),
        ("silent", RemoteError, "it stalled; given up"),
        ("drop", RemoteError, "given up after 2 attempts"),
        ("spoiled:700", IntegrityError, "its bytes fail their SHA-256"),
        ("page", IntegrityError, "it has 26 bytes, corpus.json says"),
        ("shifted", RemoteError, "sends the range 'bytes 1-"),
        ("coded", RemoteError, "coded what it sends"),
        ("endless", RemoteError, "whole files where a range"),
        ("redirect:https://example.org/x", RemoteError, "points elsewhere.*http: to https:"),
        ("redirect:http://127.0.0.1:1/x", RemoteError, "points elsewhere.*another host"),
        ("redirect:file:///etc/passwd", RemoteError, "points elsewhere"),
        (f"redirect:/{SHARD}", RemoteError, "without end"),
    ],
)
def test_a_lasting_fault_ends_in_words(server, url, tmp_path, way, kind, words):
    """Everything before the batch comes out; the message names the URL of the shard."""
    server.files[f"/{SHARD}"].ways = [way]
    remote = open_remote(url, tmp_path, patience=replace(PATIENCE, attempts=2))
    with pytest.raises(kind, match=words) as caught:
        batches(remote, workers=2)
    assert f"{server.url}/{SHARD}" in str(caught.value)
    assert " fix: " in str(caught.value)


def test_a_redirect_on_the_same_host_is_followed(local, server, url, tmp_path):
    server.host("moved/shard.tar", server.files[f"/{SHARD}"].body)
    server.files[f"/{SHARD}"].ways = ["redirect:/moved/shard.tar"]
    assert same(batches(open_remote(url, tmp_path)), batches(local))


@pytest.mark.usefixtures("small_pieces")
def test_a_server_without_ranges_is_refused(server, local, tmp_path):
    url = server.host_folder(local.root, ranges=False)
    with pytest.raises(RemoteError, match="whole files where a range of one is asked for"):
        batches(open_remote(url, tmp_path))


def test_a_server_without_ranges_serves_small_shards(server, local, tmp_path):
    """A whole file is the range that was asked for, where that is all of it."""
    url = server.host_folder(local.root, ranges=False)
    assert same(batches(open_remote(url, tmp_path)), batches(local))


def test_an_endless_answer_is_hung_up_on(server, tmp_path):
    """What is kept of it is what was asked for, and no more."""
    server.host("corpus/corpus.json", b"", "endless")
    small = replace(PATIENCE, slowest=1e9)
    before = names.MAX_DOCUMENT_BYTES
    try:
        names.MAX_DOCUMENT_BYTES = 2**20  # type: ignore[misc]
        with pytest.raises(StError, match=r"whole files where a range|more than the"):
            open_location(f"{server.url}/corpus", cache=tmp_path, patience=small)
    finally:
        names.MAX_DOCUMENT_BYTES = before  # type: ignore[misc]


@pytest.mark.parametrize(
    ("way", "kind", "words"),
    [
        ("status:404", BadInputError, "no finished corpus stands there: there is no such file"),
        ("status:403", RemoteError, "answers 403"),
        ("page", IntegrityError, "JSON"),
        ("cut:100", RemoteError, "given up"),
    ],
)
def test_no_document(server, url, tmp_path, way, kind, words):
    server.files["/corpus/corpus.json"].ways = [way]
    with pytest.raises(kind, match=words):
        open_remote(url, tmp_path)


@pytest.mark.parametrize("path", ["../../x.tar", "/etc/passwd", "data/train/%2e%2e.tar", "pipe:id"])
def test_a_path_that_leads_out_is_refused(server, local, tmp_path, path):
    """Nothing is asked for, or written, under a name that the format does not allow."""
    url = server.host_folder(local.root)
    document = local.document.to_bytes()
    changed = document.replace(b"data/train/toy-train-00001.tar", path.encode())
    assert changed != document
    server.host("corpus/corpus.json", changed)
    with pytest.raises(IntegrityError, match="shards"):
        open_remote(url, tmp_path)
    assert [asked.path for asked in server.asked] == ["/corpus/corpus.json"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("way", ["wrong", "page", "cut:50"])
def test_a_changed_index_is_refused(server, url, tmp_path, way):
    server.files["/corpus/index/train.parquet"].ways = [way]
    with pytest.raises((IntegrityError, RemoteError)):
        batches(open_remote(url, tmp_path))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()], "nothing of it is kept"
    assert not any(asked.path.endswith(".tar") for asked in server.asked)


def test_an_index_that_rots_in_the_cache_is_got_again(local, server, url, tmp_path):
    batches(open_remote(url, tmp_path))
    (index,) = tmp_path.rglob("train.parquet")
    raw = bytearray(index.read_bytes())
    raw[300] ^= 1
    index.write_bytes(raw)
    assert same(batches(open_remote(url, tmp_path)), batches(local))
    assert server.times("corpus/index/train.parquet") == 2
    index.write_bytes(raw)
    server.files["/corpus/index/train.parquet"].ways = ["wrong"]
    with pytest.raises(IntegrityError, match="SHA-256"):
        batches(open_remote(url, tmp_path))


# --- the cache ------------------------------------------------------------------------------


def shards_asked(server: Server) -> int:
    return sum(asked.path.endswith(".tar") for asked in server.asked)


def test_what_is_there_is_not_asked_for_again(local, server, url, tmp_path):
    batches(open_remote(url, tmp_path), epochs=2)
    before = shards_asked(server)
    assert before == 6
    assert same(batches(open_remote(url, tmp_path), epochs=2), batches(local, epochs=2))
    assert shards_asked(server) == before


@pytest.mark.usefixtures("small_pieces")
def test_one_corpus_under_two_urls_is_got_once(server, local, url, tmp_path):
    batches(open_remote(url, tmp_path))
    before = shards_asked(server)
    mirror = server.host_folder(local.root, name="mirror")
    assert same(batches(open_remote(mirror, tmp_path)), batches(local))
    assert shards_asked(server) == before


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda raw: raw[:-1], id="cut"),
        pytest.param(lambda raw: b"", id="empty"),
        pytest.param(lambda raw: raw[:2000] + bytes([raw[2000] ^ 4]) + raw[2001:], id="one_bit"),
        pytest.param(lambda raw: bytes(len(raw)), id="zeros"),
        pytest.param(lambda raw: raw + b"x", id="longer"),
    ],
)
@pytest.mark.usefixtures("small_pieces")
def test_rot_in_the_cache_is_got_again(local, server, url, tmp_path, damage):
    """L25: a bit that turned between two epochs is seen, and mended from the source."""
    batches(open_remote(url, tmp_path))
    before = shards_asked(server)
    for path in tmp_path.glob("shards/*-000002"):
        path.write_bytes(damage(path.read_bytes()))
    assert same(batches(open_remote(url, tmp_path)), batches(local))
    assert shards_asked(server) > before


def test_the_cache_is_bounded(local, url, tmp_path, small_pieces):
    """It never holds more than it may, and what is read does not depend on that."""
    most = 30 * small_pieces
    remote = open_remote(url, tmp_path, gb=most / 1e9)
    source = PatchSource(remote, "train", group=2)
    found = []
    for batch in PatchStream(source, source.order(8, 5), workers=2).batches(StreamState(), 3):
        found.append(batch)
        assert remote.pieces.size() <= most
    assert same(found, batches(local, epochs=3))
    assert remote.pieces.size() > most // 2


@pytest.mark.usefixtures("small_pieces")
def test_a_cache_of_less_than_a_sample(local, url, tmp_path):
    remote = open_remote(url, tmp_path, gb=1e-9)
    assert same(batches(remote), batches(local))


def wait_until(true: Callable[[], bool], seconds=10.0) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    return true()


def test_the_next_shards_come_ahead(server, url, tmp_path):
    """While one batch is looked at, all shards come that fit: nobody waits for them then."""
    source = PatchSource(open_remote(url, tmp_path), "train", group=1)
    stream = PatchStream(source, source.order(8, 5)).batches(StreamState(), 1)
    next(stream)
    assert wait_until(lambda: shards_asked(server) == 6)
    list(stream)
    assert shards_asked(server) == 6


def test_reading_ahead_has_an_end(server, url, tmp_path, small_pieces):
    """However slow training is, no more waits on the disk than half of the cache."""
    most = 40 * small_pieces
    source = PatchSource(open_remote(url, tmp_path, gb=most / 1e9), "train", group=1)
    stream = PatchStream(source, source.order(2, 5)).batches(StreamState(), 1)
    next(stream)
    time.sleep(0.5)
    got = shards_asked(server)
    assert 8 < got <= 20 + 3
    next(stream)
    assert wait_until(lambda: shards_asked(server) > got), "and goes on when a batch is taken"
    del stream


def test_reading_ahead_leaves_faults_to_the_reader(server, url, tmp_path):
    """The batch before a missing shard comes out, and closing early leaves no thread behind."""
    import threading

    server.files[f"/{SHARD}"].ways = ["status:404"]
    source = PatchSource(open_remote(url, tmp_path), "train", group=1)
    order = source.order(2, 5)
    stream = PatchStream(source, order).batches(StreamState(), 1)
    taken = list[int]()
    with pytest.raises(IntegrityError, match="no such file"):
        taken.extend(batch.step for batch in stream)
    shard_of = source.index.shard[np.concatenate([order.global_batch(0, i) for i in range(30)])]
    assert taken == list(range(int(np.flatnonzero(shard_of == 1)[0]) // 2))
    assert not [t for t in threading.enumerate() if t.name.startswith("sttrain")]


@pytest.mark.parametrize("workers", [0, 2])
def test_who_leaves_does_not_wait_for_a_server(server, url, tmp_path, workers):
    """A process that is to end ends, though a server stalls and much patience is left."""
    server.files[f"/{SHARD}"].ways = ["silent"]
    remote = open_remote(url, tmp_path, patience=Patience(attempts=50, wait=0.01, stall=300))
    leaving = Timer(0.5, remote.folder.hang_up)
    leaving.start()
    began = time.monotonic()
    with pytest.raises(RemoteError, match="given up"):
        batches(remote, workers=workers)
    assert time.monotonic() - began < 10


def test_a_missing_shard_may_be_skipped(local, server, url, tmp_path):
    server.files[f"/{SHARD}"].ways = ["status:404"]
    found = batches(open_remote(url, tmp_path), on_bad="skip")
    index = local.index("train")
    missing = {index.keys[i] for i in np.flatnonzero(index.shard == 1)}
    assert sum(len(batch.damaged) for batch in found) == len(missing) == 10
    assert {key for batch in found for key in batch.keys}.isdisjoint(missing)


def test_a_server_that_is_down_is_no_damage(server, url, tmp_path):
    """What a rerun mends is not skipped: the weights would depend on the weather."""
    server.files[f"/{SHARD}"].ways = ["status:503"]
    with pytest.raises(RemoteError, match="given up"):
        batches(open_remote(url, tmp_path), on_bad="skip")


def test_a_document_of_another_version(server, local, tmp_path):
    url = server.host_folder(local.root)
    changed = local.document.model_copy(update={"version": 9})
    server.host("corpus/corpus.json", changed.to_bytes())
    with pytest.raises(IntegrityError, match="version"):
        open_remote(url, tmp_path)


# --- training -------------------------------------------------------------------------------


def test_a_run_over_a_url_is_the_run_over_the_folder(local, server, url, tmp_path):
    """Weights bit for bit; a second call finds the run finished."""
    options = OPTIONS.model_copy(update={"workers": 2, "cache": tmp_path / "cache"})
    config = CONFIG.model_copy(update={"order": "block", "group": 2, "epochs": 2})
    fit(local.root, tmp_path / "folder", config, OPTIONS)
    summary = fit(url, tmp_path / "url", config, options)
    assert summary.steps_now == 16
    assert weights(tmp_path / "url") == weights(tmp_path / "folder")
    assert fit(url, tmp_path / "url", config, options).steps_now == 0
    assert all(asked.path.startswith("/corpus/") for asked in server.asked)


@pytest.mark.parametrize(
    ("order", "gb", "words"),
    [
        ("random", 1.0, None),
        ("random", 1e-4, "give --order block, or raise --cache-gb"),
        ("block", 2e-4, None),
        ("block", 1e-4, "lower --group, or raise --cache-gb"),
    ],
)
def test_a_cache_that_is_too_small_is_told(url, tmp_path, order, gb, words):
    said: list[str] = []
    options = OPTIONS.model_copy(update={"cache": tmp_path / "cache", "cache_gb": gb})
    config = CONFIG.model_copy(update={"order": order, "group": 2, "epochs": 1})
    fit(url, tmp_path / "run", config, options, say=said.append)
    told = [text for text in said if "--cache-gb" in text]
    assert len(told) == (words is not None)
    assert words is None or words in told[0]


def test_the_command_plans_over_a_url(url, tmp_path, monkeypatch):
    """No shard is touched for a plan."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    result = CliRunner().invoke(cli, ["fit", url, "--dry-run", "--order", "block"])
    assert result.exit_code == 0, result.output
    assert "60 patches" in result.output
    assert not list(tmp_path.glob("stcorpus/train/shards"))
