import io
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from stbuild.corpus import names
from stbuild.corpus.digests import sha256_bytes
from stbuild.corpus.documents import CorpusDocument
from stbuild.corpus.errors import BadInputError, IntegrityError
from stbuild.corpus.index import read_index, write_index
from stbuild.corpus.reader import open_corpus
from stbuild.corpus.samples import decode_patch
from stbuild.corpus.tar import unpack_sample

DAMAGED = r"error\[(L01|L16)\] .* fix: "


@pytest.fixture(scope="module")
def template(make_corpus, tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus") / "tiny"
    make_corpus(root)
    return root


@pytest.fixture
def root(template, tmp_path):
    shutil.copytree(template, tmp_path / "tiny")
    return tmp_path / "tiny"


def test_everything_is_read(template, make_eval_patch, make_whole):
    corpus = open_corpus(template)
    assert corpus.document.splits() == corpus.document.splits("slice") == ("train",)
    assert corpus.genes[:2] == ["ENSG000", "ENSG001"]
    assert corpus.evaluation_splits() == ("paper20@1",)
    assert corpus.evaluation_split("paper20@1").task == "paper20"
    (shard,) = corpus.document.shards_of("train")
    raw = corpus.shard_file(shard).read_bytes()
    index = corpus.index("train")
    for i, key in enumerate(index.keys):
        sample = raw[index.offset[i] :][: index.size[i]]
        found_key, members = unpack_sample(sample, "x")
        assert found_key == key
        assert sha256_bytes(sample) == index.sha256[i].tobytes().hex()
        content = decode_patch(members, "x").content()
        assert content == make_eval_patch(seed=i, window=i).content() == index.content[i].tobytes()
    (whole,) = corpus.whole_slices("train")
    assert whole.content() == make_whole().content()


def test_no_corpus_here(tmp_path):
    with pytest.raises(BadInputError, match=r"error\[L23\].*no finished corpus"):
        open_corpus(tmp_path)
    (tmp_path / names.WORK_DIR).mkdir()
    with pytest.raises(BadInputError, match=r"unfinished.*it resumes"):
        open_corpus(tmp_path)


@pytest.mark.parametrize(
    "path",
    ["genes.parquet", "index/train.parquet", "splits/paper20@1.json"],
)
@pytest.mark.parametrize("damage", ["missing", "truncated", "bit", "link", "folder"])
def test_damaged_tables_are_named(root, path, damage):
    file = root / path
    raw = file.read_bytes()
    file.unlink()
    if damage == "truncated":
        file.write_bytes(raw[:-1])
    elif damage == "bit":
        file.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    elif damage == "link":
        (root / "copy").write_bytes(raw)
        file.symlink_to(root / "copy")
    elif damage == "folder":
        file.mkdir()
    corpus = open_corpus(root)
    with pytest.raises(IntegrityError, match=rf"error\[L01\] .*{file.name}"):
        _ = corpus.genes, corpus.index("train"), corpus.evaluation_split("paper20@1")


@pytest.mark.parametrize("damage", ["missing", "truncated", "longer", "link"])
def test_damaged_shards_are_named(root, damage):
    corpus = open_corpus(root)
    (shard,) = corpus.document.shards_of("train")
    file = root / shard.path
    raw = file.read_bytes()
    file.unlink()
    if damage == "link":
        (root / "copy").write_bytes(raw)
        file.symlink_to(root / "copy")
    elif damage != "missing":
        file.write_bytes(raw[:-512] if damage == "truncated" else raw + b"\0")
    with pytest.raises(IntegrityError, match=r"error\[L01\]"):
        corpus.shard_file(shard)


def test_a_flipped_bit_in_a_whole_slice_is_seen(root):
    corpus = open_corpus(root)
    (shard,) = corpus.document.shards_of("train", "slice")
    raw = bytearray((root / shard.path).read_bytes())
    raw[700] ^= 1
    (root / shard.path).write_bytes(raw)
    with pytest.raises(IntegrityError, match="fails its digest"):
        list(corpus.whole_slices("train"))


@pytest.mark.parametrize(
    ("column", "value"),
    [
        pytest.param("shard", 1, id="no_such_shard"),
        pytest.param("offset", 2**62, id="offset_outside"),
        pytest.param("size", 2**62, id="size_outside"),
        pytest.param("offset", 2**63 - 1, id="end_that_overflows"),
    ],
)
def test_an_index_that_points_outside_is_refused(make_corpus, template, tmp_path, column, value):
    path = names.index_path("train", "patch")
    index = read_index((template / path).read_bytes(), "x")
    changed = getattr(index, column).copy()
    changed[0] = value
    make_corpus(tmp_path, {path: write_index(replace(index, **{column: changed}))})
    with pytest.raises(IntegrityError, match=DAMAGED):
        open_corpus(tmp_path).index("train")


def test_an_index_of_another_length_is_refused(make_corpus, template, tmp_path):
    path = names.index_path("train", "patch")
    out = io.BytesIO()
    pq.write_table(pq.read_table(template / path).slice(1), out, store_schema=False)
    make_corpus(tmp_path, {path: out.getvalue()})
    with pytest.raises(IntegrityError, match="2 rows, 3 are expected"):
        open_corpus(tmp_path).index("train")


def test_another_vocabulary_is_refused(make_corpus, template, tmp_path):
    table = pq.read_table(template / "genes.parquet")
    out = io.BytesIO()
    pq.write_table(table.slice(1), out)
    make_corpus(tmp_path, {"genes.parquet": out.getvalue()})
    with pytest.raises(IntegrityError, match="39 rows, 40 are expected"):
        _ = open_corpus(tmp_path).genes


def test_unknown_names_list_the_known_ones(template):
    corpus = open_corpus(template)
    with pytest.raises(BadInputError, match=r"no splits/x@1\.json; it has .*paper20@1"):
        corpus.evaluation_split("x@1")
    with pytest.raises(BadInputError, match=r"no index/test\.parquet"):
        corpus.index("test")


def test_corpus_json_is_checked(root):
    path = root / names.CORPUS_JSON
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(IntegrityError, match=r"error\[L14\]"):
        open_corpus(root)


def test_the_template_holds_together(template):
    """The corpus that these tests damage is itself right."""
    corpus = open_corpus(template)
    assert isinstance(corpus.document, CorpusDocument)
    for shard in corpus.document.shards:
        raw = corpus.shard_file(shard).read_bytes()
        assert sha256_bytes(raw) == shard.sha256
        assert np.frombuffer(raw[-1024:], np.uint8).sum() == 0
