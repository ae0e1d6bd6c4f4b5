"""Corpora of strangers: they are refused in words, nothing is run and no memory is filled."""

import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stbuild.corpus.digests import sha256_bytes
from stbuild.corpus.errors import BadInputError, IntegrityError, StError
from stbuild.corpus.index import read_genes, read_index, read_panels
from stbuild.corpus.jsonio import load_strict
from stbuild.corpus.npy import write_npy
from stbuild.corpus.reader import open_corpus
from stbuild.corpus.samples import decode_patch, decode_whole
from stbuild.corpus.tar import pack_sample, unpack_sample
from stbuild.verify import verify_corpus

ARCHIVE = Path(__file__).parents[1] / "archive" / "v1"
MIB = 2**20


@pytest.fixture
def corpus(tmp_path):
    shutil.copytree(ARCHIVE / "train", tmp_path / "corpus")
    return tmp_path / "corpus"


@pytest.fixture
def sample():
    """The members of one patch, and its key."""
    opened = open_corpus(ARCHIVE / "train")
    index, shards = opened.index("train"), opened.document.shards_of("train")
    key, members = unpack_sample(opened.read_sample(shards[0], index, 0), "x")
    return key, {suffix: bytes(raw) for suffix, raw in members.items()}


@pytest.mark.parametrize(
    "suffix", ["pyd", "pickle", "pkl", "pth", "pt", "npz", "counts.gz", "json.gz", "py", "cls"]
)
def test_members_that_could_run_or_swell_are_refused_by_name(sample, suffix):
    key, members = sample
    members[suffix] = b"cos\nsystem\n(S'touch marker'\ntR."
    with pytest.raises(IntegrityError, match=suffix.split(".")[0]):
        decode_patch(unpack_sample(pack_sample(key, members), "x")[1], "x")


def test_nothing_is_run_while_evil_shards_are_read_and_verified(corpus, sample):
    """A process that would end at once if anything were unpickled, started or executed."""
    key, members = sample
    marker = corpus.parent / "marker"
    evil = f"cposix\nsystem\n(S'touch {marker}'\ntR.".encode()
    out = io.BytesIO()
    np.save(out, np.asarray([{"a": 1}], dtype=object), allow_pickle=True)
    shards = sorted((corpus / "data").rglob("*.tar"))
    for shard, (name, raw) in zip(
        shards, [("pyd", evil), ("pth", evil), ("genes.npy", out.getvalue())], strict=False
    ):
        shard.write_bytes(pack_sample(key, members | {name: raw}) + bytes(1024))
    code = (
        "import sys, pathlib\n"
        "from stbuild.verify import verify_corpus\n"
        "import pyarrow.parquet, stbuild.leakage.documents, stbuild.corpus.lock\n"
        f"root = pathlib.Path({str(corpus)!r})\n"
        "verify_corpus(pathlib.Path(sys.argv[1]))  # all that is imported late is imported\n"
        "banned = ('pickle.find_class', 'os.system', 'subprocess.Popen', 'exec', 'compile',\n"
        "          'socket.connect', 'os.posix_spawn', 'os.fork')\n"
        "sys.addaudithook(lambda e, a: sys.exit(99) if e in banned else None)\n"
        "print(len(verify_corpus(root).problems))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ARCHIVE / "train")], capture_output=True, text=True,
        check=False, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 3
    assert not marker.exists()


PATHS = [
    "pipe:touch marker", "http://169.254.169.254/x.tar", "file:///etc/passwd", "../x.tar",
    "/etc/passwd", "data/train/../../x.tar", "data/train/x.tar.gz", "data/train/a b.tar",
    "data/Train/x.tar", "data/train/{000..999}.tar", "s3://bucket/x.tar", "data/train/x::y.tar",
    "data\\train\\x.tar", "data/train/x.tar\n", "C:/x.tar", "data/train/\u202ex.tar",
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "path"),
    [(kind, path) for kind in ("shards", "files") for path in PATHS
     # What is no shard may still be a plain name of another file.
     if kind == "shards" or path not in ("data/train/x.tar.gz", "data/Train/x.tar")],
)  # fmt: skip
def test_paths_that_lead_elsewhere_are_refused(corpus, path, kind):
    file = corpus / "corpus.json"
    document = json.loads(file.read_bytes())
    document[kind][0]["path"] = path
    file.write_text(json.dumps(document))
    with pytest.raises(IntegrityError, match="path"):
        open_corpus(corpus)
    assert not (corpus / "marker").exists()


def test_what_is_no_plain_file_is_never_opened(corpus):
    shard = next((corpus / "data").rglob("*.tar"))
    shard.unlink()
    os.mkfifo(shard)
    assert any(str(shard) == problem.where for problem in verify_corpus(corpus).problems)
    index = corpus / "index" / "train.parquet"
    index.unlink()
    os.mkfifo(index)
    with pytest.raises(IntegrityError, match="not a regular file"):
        open_corpus(corpus).index("train")
    document = corpus / "corpus.json"
    document.unlink()
    os.mkfifo(document)
    with pytest.raises(BadInputError):
        open_corpus(corpus)


def parquet(table, **options):
    out = io.BytesIO()
    pq.write_table(table, out, store_schema=False, **options)
    return out.getvalue()


def test_an_index_of_a_million_rows_is_refused_unread():
    raw = parquet(pa.table({"gene": pa.array(["a"]).take(pa.array([0] * 10**6))}))
    assert len(raw) < MIB
    with pytest.raises(IntegrityError, match="1,000,000 rows, 10 are expected"):
        read_genes(raw, "x", 10)


def test_a_tiny_table_that_repeats_a_long_text_is_refused():
    word = "x" * (4 * MIB)
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 10_000, pa.int32()), pa.array([word]))
    raw = parquet(pa.table({"gene": column.cast(pa.dictionary(pa.int32(), pa.string()))}))
    assert len(raw) < MIB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(IntegrityError):
        read_genes(raw, "x")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 256 * 1024


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"gene": pa.array([1, 2])}),
        pa.table({"gene": pa.array(["a", None])}),
        pa.table({"Gene": pa.array(["a"])}),
        pa.table({"gene": pa.array([["a"]])}),
        pa.table({"gene": pa.array([b"\xff\xfe"])}),
    ],
    ids=["numbers", "null", "other_name", "list", "bytes"],
)
def test_tables_of_another_form_are_refused(table):
    with pytest.raises(IntegrityError):
        read_genes(parquet(table), "x")
    with pytest.raises(IntegrityError):
        read_index(parquet(table), "x")
    with pytest.raises(IntegrityError):
        read_panels(parquet(table), "x")


@pytest.mark.parametrize(
    "text",
    [b"[" * 200_000, b'{"a":' * 200_000, b"1" * 6000, b'{"a": 1, "a": 2}', b'{"a": NaN}',
     b'{"a": 1e999}', b'"' + b"\\ud800" + b'"', b"\xff\xfe{}", b""],
    ids=["deep_list", "deep_object", "long_number", "twice", "nan", "infinite", "surrogate",
         "utf16", "empty"],
)  # fmt: skip
def test_json_that_is_no_document_is_refused(corpus, text):
    if b"ud800" not in text:  # half a character is seen where a document is read
        with pytest.raises(IntegrityError):
            load_strict(text, "x")
    (corpus / "corpus.json").write_bytes(text)
    with pytest.raises(StError):
        open_corpus(corpus)


def test_a_header_that_claims_a_terabyte_costs_nothing(sample):
    key, members = sample
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    raw = bytearray(pack_sample(key, members))
    info = tarfile.TarInfo(f"{key}.json")
    info.size = 10**12
    header = info.tobuf(tarfile.GNU_FORMAT)
    with pytest.raises(IntegrityError):
        unpack_sample(bytes(header) + bytes(raw[512:]), "x")
    lying = bytearray(members["counts.blosc"])
    lying[4:8] = (2**31 - 1).to_bytes(4, "little")
    with pytest.raises(IntegrityError):
        decode_patch(members | {"counts.blosc": bytes(lying)}, "x")
    form = b"{'descr': '<i4', 'fortran_order': False, 'shape': (250000000000,), }"
    huge = b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + form.ljust(117) + b"\n"
    with pytest.raises(IntegrityError):
        decode_patch(members | {"genes.npy": huge}, "x")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_a_shard_of_another_release_under_the_same_name_is_named(corpus):
    shard = next((corpus / "data").rglob("*train-0*.tar"))
    raw = shard.read_bytes()
    other = next(p for p in sorted((ARCHIVE / "eval" / "data").rglob("*.tar")))
    shard.write_bytes(other.read_bytes())
    assert any(str(shard) == problem.where for problem in verify_corpus(corpus).problems)
    shard.write_bytes(raw + raw)
    assert any(str(shard) == problem.where for problem in verify_corpus(corpus).problems)


def test_a_compressed_archive_under_a_plain_name_is_refused(corpus):
    import gzip

    shard = next((corpus / "data").rglob("*train-0*.tar"))
    raw = gzip.compress(bytes(50 * MIB))
    document = json.loads((corpus / "corpus.json").read_bytes())
    path = shard.relative_to(corpus).as_posix()
    for entry in document["shards"]:
        if entry["path"] == path:
            entry.update(bytes=len(raw), sha256=sha256_bytes(raw))
    shard.write_bytes(raw)
    (corpus / "corpus.json").write_text(json.dumps(document))
    found = " ".join(problem.what for problem in verify_corpus(corpus).problems)
    assert "fail their digest" in found or "ends outside" in found


def test_row_starts_that_wrap_around_are_refused():
    """Differences of such numbers are small and positive: found by fuzzing, ended the process."""
    opened = open_corpus(ARCHIVE / "train")
    index, shards = opened.index("train", "slice"), opened.document.shards_of("train", "slice")
    members = unpack_sample(opened.read_sample(shards[0], index, 0), "x")[1]
    whole = decode_whole(members, "x")
    for place, value in ((1, -(2**63)), (2, 2**63 - 1), (1, -1), (2, whole.data.size + 1)):
        starts = whole.indptr.copy()
        starts[place] = value
        with pytest.raises(IntegrityError, match="row starts"):
            decode_whole({**members, "indptr.npy": write_npy(starts)}, "x")
    genes = whole.genes.copy()
    genes[-2:] = 2**31 - 1, -(2**31)
    with pytest.raises(IntegrityError):
        decode_whole({**members, "genes.npy": write_npy(genes)}, "x")
