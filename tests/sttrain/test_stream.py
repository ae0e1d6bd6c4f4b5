"""Reading by index: equal to strict decoding, checked first, the same for any workers and ranks."""

import gzip
import io
import itertools
import lzma
import os
import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from stbuild.corpus import index_cache
from stbuild.corpus.reader import Corpus, open_corpus
from stbuild.corpus.samples import decode_patch
from stbuild.corpus.tar import BLOCK, pack_sample, unpack_sample
from sttrain.errors import BadInputError, IntegrityError
from sttrain.stream.batches import PatchSource, PatchStream, StreamState, cut_members
from sttrain.stream.order import Order, World
from sttrain.stream.shards import LocalShards
from tests.corpora import write_corpus


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    return write_corpus(tmp_path_factory.mktemp("stream") / "corpus", n_patches=15)


@pytest.fixture
def copy(tmp_path, corpus) -> Corpus:
    """A corpus to damage."""
    shutil.copytree(corpus.root, tmp_path / "copy")
    return open_corpus(tmp_path / "copy")


def open_stream(corpus, *, workers=0, world=None, batch=4, seed=3):
    source = PatchSource(corpus, "train")
    order = Order(n_samples=len(source), batch=batch, seed=seed)
    return PatchStream(source, order, world=world, workers=workers)


def paths_of(source: PatchSource) -> list[str]:
    assert isinstance(source.shards, LocalShards)
    return source.shards.paths


def path_of(source: PatchSource, number: int) -> Path:
    return Path(paths_of(source)[int(source.index.shard[number])])


def same(one, other) -> bool:
    arrays = ("counts", "genes", "totals", "rows")
    return (one.epoch, one.step, one.keys) == (other.epoch, other.step, other.keys) and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays
    )


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        pytest.param({}, np.uint16, id="zstd"),
        pytest.param({"codec": "lz4"}, np.uint16, id="lz4"),
        pytest.param({"codec": "none"}, np.uint16, id="plain"),
        pytest.param({"wide": True}, np.uint32, id="some_patches_beyond_16_bits"),
        pytest.param({"wide": True, "codec": "none"}, np.uint32, id="wide_and_plain"),
        pytest.param({"genes": 40}, np.uint16, id="padded_genes"),
        pytest.param({"window": 24}, np.uint16, id="window_beyond_the_grid"),
    ],
)
def test_equals_strict_decoding(tmp_path, options, dtype):
    """The fast way and the obvious one give the same integers."""
    corpus = write_corpus(tmp_path / "c", n_patches=6, **options)
    source = PatchSource(corpus, "train")
    counts, genes, totals = source.read(range(len(source)))
    assert [a.dtype for a in (counts, genes, totals)] == [np.dtype(t) for t in (dtype, "i4", "u4")]
    for i, key in enumerate(source.index.keys):
        path = path_of(source, i)
        start, size = int(source.index.offset[i]), int(source.index.size[i])
        found, members = unpack_sample(path.read_bytes()[start : start + size], "x")
        patch = decode_patch(members, "x")
        assert found == key
        assert np.array_equal(counts[i], patch.counts)
        assert np.array_equal(genes[i], patch.genes)
        assert np.array_equal(totals[i], patch.totals)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_workers_change_nothing(corpus, workers):
    plain = open_stream(corpus).batches(StreamState(), 2)
    ahead = open_stream(corpus, workers=workers).batches(StreamState(), 2)
    assert all(same(a, b) for a, b in zip(plain, ahead, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_resumes_with_the_very_next_batch(corpus, workers):
    """Every place of two epochs is a place to resume from."""
    whole = list(open_stream(corpus).batches(StreamState(), 2))
    for at, batch in enumerate(whole):
        state = StreamState(epoch=batch.epoch, step=batch.step)
        rest = open_stream(corpus, workers=workers).batches(state, 2)
        assert all(same(a, b) for a, b in zip(whole[at:], rest, strict=True))


@pytest.mark.parametrize("n_ranks", [2, 3, 7])
def test_ranks_share_the_global_batches(corpus, n_ranks):
    alone = open_stream(corpus).batches(StreamState(), 1)
    ranks = [
        open_stream(corpus, world=World(rank=r, n_ranks=n_ranks)).batches(StreamState(), 1)
        for r in range(n_ranks)
    ]
    for whole, *parts in zip(alone, *ranks, strict=True):
        keys = dict(zip(itertools.chain(*(p.rows for p in parts)),
                        itertools.chain(*(p.keys for p in parts)), strict=True))  # fmt: skip
        assert tuple(keys[row] for row in sorted(keys)) == whole.keys
        assert {part.total for part in parts} == {len(whole.keys)}


@pytest.mark.parametrize("group", [None, 2])
def test_a_mapped_index_gives_the_same_batches(corpus, tmp_path, monkeypatch, group):
    plain = PatchSource(corpus, "train", group=group)
    monkeypatch.setattr(index_cache, "MAPPED_ROWS", 0)
    mapped = PatchSource(corpus, "train", group=group, cache=tmp_path)
    assert list(tmp_path.rglob("*.columns"))
    found = (list(PatchStream(s, s.order(4, 3)).batches(StreamState(), 2)) for s in (plain, mapped))
    assert all(same(a, b) for a, b in zip(*found, strict=True))


def test_every_patch_once_an_epoch(corpus):
    stream = open_stream(corpus)
    keys = [key for batch in stream.batches(StreamState(), 1) for key in batch.keys]
    assert sorted(keys) == sorted(stream.source.index.keys)


def flip(path: Path, at: int) -> None:
    """Flip one bit where it stands: whoever reads ahead never meets a file cut short."""
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("place", [0, 124, 156, BLOCK, BLOCK + 40])
def test_one_flipped_bit_stops_before_its_batch(copy, place):
    """In a header or in data: the sample is named and nothing of its batch comes out."""
    stream = open_stream(copy)
    number = int(stream.order.global_batch(0, 3)[1])
    shard = path_of(stream.source, number)
    flip(shard, int(stream.source.index.offset[number]) + place)
    batches = stream.batches(StreamState(), 1)
    assert len(list(itertools.islice(batches, 3))) == 3
    with pytest.raises(IntegrityError, match="SHA-256") as caught:
        next(batches)
    assert caught.value.exit_code == 6
    assert f"{shard.name}:{stream.source.index.keys[number]}" in str(caught.value)


def test_a_zeroed_page_is_seen(copy):
    """L05: 4 KiB of nothing, in the middle of a shard of the right size."""
    shard = copy.root / copy.document.shards_of("train")[1].path
    raw = bytearray(shard.read_bytes())
    raw[8192 : 8192 + 4096] = bytes(4096)
    shard.write_bytes(raw)
    with pytest.raises(IntegrityError, match="SHA-256"):
        list(open_stream(copy).batches(StreamState(), 1))


@pytest.mark.parametrize("workers", [0, 2])
def test_rot_between_two_epochs_is_seen(copy, workers):
    """L25: each sample is checked whenever it is read, not only the first time."""
    stream = open_stream(copy, workers=workers)
    batches = stream.batches(StreamState(), 2)
    first = list(itertools.islice(batches, stream.order.steps))
    flip(path_of(stream.source, 0), int(stream.source.index.offset[0]) + BLOCK + 30)
    with pytest.raises(IntegrityError, match="SHA-256") as caught:
        list(batches)
    assert len(first) == stream.order.steps
    assert stream.source.key(0) in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_cut_while_it_is_read(copy, workers):
    stream = open_stream(copy, workers=workers)
    batches = stream.batches(StreamState(), 1)
    next(batches)
    for path in map(Path, paths_of(stream.source)):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(IntegrityError, match="SHA-256"):
        list(batches)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        pytest.param(Path.unlink, "missing", id="missing_shard"),
        pytest.param(lambda p: p.write_bytes(p.read_bytes()[:-512]), "bytes", id="truncated"),
        pytest.param(lambda p: p.write_bytes(gzip.compress(p.read_bytes())), "bytes", id="gzipped"),
        pytest.param(lambda p: p.write_bytes(lzma.compress(p.read_bytes())), "bytes", id="xz"),
        pytest.param(lambda p: p.write_bytes(b""), "bytes", id="empty"),
        pytest.param(lambda p: (p.unlink(), p.mkdir()), "missing, or not", id="folder"),
        pytest.param(pipe, "missing, or not", id="pipe"),
        pytest.param(lambda p: p.write_bytes(2 * p.read_bytes()), "bytes", id="concatenated"),
        pytest.param(lambda p: (p.rename(p.with_suffix(".x")), p.symlink_to(p.with_suffix(".x"))),
                     "missing, or not", id="symbolic_link"),
    ],
)  # fmt: skip
def test_damaged_shards_are_seen_before_the_first_read(copy, damage, words):
    damage(copy.root / copy.document.shards_of("train")[-1].path)
    with pytest.raises(IntegrityError, match=words) as caught:
        PatchSource(copy, "train")
    assert "toy-train-00002.tar" in str(caught.value)


def test_a_changed_index_is_refused(copy):
    flip(copy.root / "index" / "train.parquet", 200)
    with pytest.raises(IntegrityError, match="SHA-256"):
        PatchSource(copy, "train")


def test_an_unreadable_shard_names_the_sample(copy):
    stream = open_stream(copy)
    paths_of(stream.source)[0] += ".gone"
    with pytest.raises(IntegrityError, match="unreadable: No such file"):
        list(stream.batches(StreamState(), 1))


def test_a_split_without_patches(corpus):
    with pytest.raises(BadInputError, match=r"'test' holds 0 patches; splits with patches: train"):
        PatchSource(corpus, "test")


def test_a_gene_beyond_the_vocabulary(corpus):
    source = PatchSource(corpus, "train")
    source.n_genes = 3
    with pytest.raises(IntegrityError, match="outside the vocabulary"):
        source.read([0, 1])


def saved(array) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def object_array() -> bytes:
    return saved(np.array([{"a": 1}] * 16, dtype=object))


def big_endian() -> bytes:
    return saved(np.arange(16, dtype=">i4"))


def fortran_order() -> bytes:
    return saved(np.ones((8, 8), "<u4", order="F"))


def resealed(source: PatchSource, raw: bytes) -> PatchSource:
    """Let the first sample be other bytes whose digest the index vouches for."""
    paths = paths_of(source)
    path = Path(paths[0]).with_name("other.tar")
    path.write_bytes(raw)
    paths[int(source.index.shard[0])] = str(path)
    columns = {name: getattr(source.index, name).copy() for name in ("offset", "size", "sha256")}
    columns["offset"][0], columns["size"][0] = 0, len(raw)
    columns["sha256"][0] = np.frombuffer(sha256(raw).digest(), np.uint8)
    source.index = replace(source.index, **columns)
    return source


def rebuilt(source: PatchSource, change) -> bytes:
    start, size = int(source.index.offset[0]), int(source.index.size[0])
    raw = path_of(source, 0).read_bytes()[start : start + size]
    key, members = unpack_sample(raw, "x")
    plain = {name: bytes(data) for name, data in members.items()}
    change(plain)
    return pack_sample(key, plain)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda m: m.pop("genes.npy"), id="no_genes"),
        pytest.param(lambda m: m.pop("counts.blosc"), id="no_counts"),
        pytest.param(lambda m: m.update({"genes.npy": m["totals.npy"]}), id="other_type"),
        pytest.param(lambda m: m.update({"genes.npy": m["genes.npy"] + b"\0" * 4}), id="too_long"),
        pytest.param(lambda m: m.update({"totals.npy": m["totals.npy"][:-4]}), id="too_short"),
        pytest.param(lambda m: m.update({"totals.npy": m["totals.npy"][:-3]}), id="half_a_number"),
        pytest.param(lambda m: m.update({"counts.blosc": b"\2" * 40}), id="no_frame"),
        pytest.param(lambda m: m.update({"counts.blosc": b"\2"}), id="one_byte"),
        pytest.param(lambda m: m.update({"pyd": b"cos\nsystem\n."}), id="a_pickle"),
        pytest.param(lambda m: m.update({"counts.npy.gz": b"\x1f\x8b"}), id="packed_member"),
        pytest.param(lambda m: m.update({"genes.npy": object_array()}), id="objects"),
        pytest.param(lambda m: m.update({"genes.npy": big_endian()}), id="big_endian"),
        pytest.param(lambda m: m.update({"totals.npy": fortran_order()}), id="fortran_order"),
        pytest.param(
            lambda m: m.update({"totals.npy": m["totals.npy"].replace(b"(8, 8)", b"(9, 9)")}),
            id="other_shape",
        ),
        pytest.param(
            lambda m: m.update({"genes.npy": m["genes.npy"].replace(b"\x01\0v", b"\x02\0v", 1)}),
            id="other_version",
        ),
    ],
)
def test_a_well_sealed_lie_is_refused(copy, change):
    """A stranger's corpus may vouch for anything; it is refused all the same."""
    source = PatchSource(copy, "train")
    with pytest.raises(IntegrityError):
        resealed(source, rebuilt(source, change)).read([0])


def test_resealing_alone_changes_nothing(copy):
    source = PatchSource(copy, "train")
    expected = source.read([0])
    found = resealed(source, rebuilt(source, lambda members: None)).read([0])
    assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))


GOOD = pack_sample("k", {"a": b"1", "b.npy": b"22"})


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(pack_sample("other", {"a": b"1"}), id="another_key"),
        pytest.param(2 * pack_sample("k", {"a": b"1"}), id="member_twice"),
        pytest.param(GOOD[:-BLOCK], id="cut"),
        pytest.param(GOOD[:124] + b"77777777777" + GOOD[135:], id="claims_8_gigabytes"),
        pytest.param(GOOD[:124] + b"-0000000777" + GOOD[135:], id="negative_size"),
        pytest.param(GOOD[:124] + b"zzzzzzzzzzz" + GOOD[135:], id="size_is_no_number"),
        pytest.param(GOOD[:156] + b"2" + GOOD[157:], id="symbolic_link"),
        *(
            pytest.param(GOOD[:156] + kind.encode() + GOOD[157:], id=what)
            for kind, what in [
                ("x", "pax_header"),
                ("g", "global_pax_header"),
                ("1", "hard_link"),
                ("3", "character_device"),
                ("4", "block_device"),
                ("5", "folder"),
                ("6", "pipe"),
                ("S", "sparse_file"),
                ("L", "gnu_long_name"),
                ("\0", "old_tar"),
            ]
        ),
        pytest.param(b"../k.a".ljust(100, b"\0") + GOOD[100:], id="leads_out"),
        pytest.param(b"/k.a".ljust(100, b"\0") + GOOD[100:], id="absolute"),
        pytest.param(GOOD[:100], id="no_size"),
        pytest.param(GOOD[:140], id="half_a_header"),
    ],
)
def test_members_are_cut_strictly(raw):
    with pytest.raises(ValueError, match=r"member|invalid|claims"):
        cut_members(raw, b"k")


def test_members_are_cut():
    found = {name: bytes(data) for name, data in cut_members(GOOD, b"k").items()}
    assert found == {b"a": b"1", b"b.npy": b"22"}
