"""Vectors of other tools: ``.npy`` with barcodes, sidecars, and what is recorded of them."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from sttrain.cli import cli
from sttrain.embed.embeddings import Embeddings, align_embeddings, read_embeddings, write_embeddings
from sttrain.embed.external import Sidecar, barcodes_path, sidecar_path
from sttrain.errors import BadInputError
from tests.corpora import write_corpus
from tests.sttrain.test_embeddings import make_embeddings

SIDECAR = {
    "model": "Nicheformer",
    "version": "485cadb",
    "weights_sha256": "7" * 64,
    "command": "python embed.py A1.h5ad",
    "date": "2026-01-31",
}


def write_npy(path, matrix, barcodes):
    np.save(path, matrix)
    barcodes_path(path).write_text("".join(f"{line}\n" for line in barcodes))
    return path


def test_vectors_and_barcodes_are_read(tmp_path):
    matrix = np.random.default_rng(0).normal(size=(3, 4))
    path = write_npy(tmp_path / "emb.npy", matrix, ["c", "a", "b"])
    assert barcodes_path(path).name == "emb.barcodes.txt"
    found = align_embeddings(read_embeddings(path), {"one": ["a", "b", "c"]}, "x")
    np.testing.assert_array_equal(found.slices["one"].matrix, matrix[[1, 2, 0]].astype(np.float32))
    assert found.provenance == {}


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["unix", "windows"])
def test_slices_may_stand_before_the_barcodes(tmp_path, end):
    path = write_npy(tmp_path / "emb.npy", np.eye(3, dtype=np.float16), [])
    listed = barcodes_path(path)
    listed.write_text(end.join(["S 1\ta", "S 2\ta", "S 1\tb"]) + end, newline="")
    found = read_embeddings(path)
    assert found.slices["s-1"].barcodes == ("a", "b")
    np.testing.assert_array_equal(found.slices["s-2"].matrix, [[0, 1, 0]])


@pytest.mark.parametrize(
    ("matrix", "said"),
    [
        (np.ones((4, 2)), "4 vectors, 3 barcodes in emb.barcodes.txt"),
        (np.ones((2, 2)), "2 vectors, 3 barcodes"),
        (np.ones(3), r"shape \(3,\), expected 2 dimensions"),
        (np.ones((3, 2), np.int64), "dtype <i8"),
        (np.ones((3, 2), complex), "dtype <c16"),
        (np.asfortranarray(np.ones((3, 2))), "Fortran order"),
        (np.array([[{}]] * 3, object), "not as NumPy writes it, or not plain numbers"),
    ],
    ids=["more", "fewer", "flat", "integers", "complex", "fortran", "pickled"],
)
def test_arrays_that_are_no_vectors_are_refused(tmp_path, matrix, said):
    path = write_npy(tmp_path / "emb.npy", matrix, ["a", "b", "c"])
    with pytest.raises(BadInputError, match=said) as caught:
        read_embeddings(path)
    assert {problem.code for problem in caught.value.problems} == {"V04"}
    assert "stbuild verify" not in str(caught.value)


def test_vectors_that_are_not_finite_are_counted(tmp_path):
    matrix = np.ones((3, 2))
    matrix[1, 1], matrix[2] = np.nan, np.inf
    path = write_npy(tmp_path / "emb.npy", matrix, ["a", "b", "c"])
    with pytest.raises(BadInputError, match=r"2 vectors are not finite in float32 \(first: b\)"):
        align_embeddings(read_embeddings(path), {"one": ["a", "b", "c"]}, "x")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "there is no emb.barcodes.txt beside it"),
        (b"", "1 of 1 lines are empty or unlike the first"),
        (b"a\n\nb\n", r"1 of 3 lines are empty or unlike the first \(first: line 2\)"),
        (b"a\nx\tb\nc\n", r"1 of 3 lines .* \(first: line 2\)"),
        (b"a\tb\tc\n" * 3, "empty or unlike the first"),
        (b"\xff\n", "no UTF-8"),
    ],
    ids=["absent", "empty", "gap", "ragged", "three-columns", "binary"],
)
def test_lists_of_barcodes_that_are_none(tmp_path, text, said):
    path = tmp_path / "emb.npy"
    np.save(path, np.ones((3, 2)))
    if text is not None:
        barcodes_path(path).write_bytes(text)
    with pytest.raises(BadInputError, match=said):
        read_embeddings(path)


@pytest.mark.parametrize("suffix", [".h5ad", ".parquet", ".npy"])
def test_a_sidecar_tells_the_model_of_any_file(tmp_path, suffix):
    path = tmp_path / f"emb{suffix}"
    if suffix == ".npy":
        write_npy(path, np.ones((2, 2)), ["a", "b"])
    else:
        slices = make_embeddings().slices
        write_embeddings(path, Embeddings(slices=slices, provenance={"own": 1}))
    sidecar_path(path).write_text(json.dumps(SIDECAR))
    told = read_embeddings(path).provenance
    assert told["external"] == SIDECAR
    assert told["checkpoint"] == "7" * 64
    assert told.get("own") == (None if suffix == ".npy" else 1)


def test_a_method_without_weights_says_null(tmp_path):
    path = write_npy(tmp_path / "emb.npy", np.ones((1, 2)), ["a"])
    sidecar_path(path).write_text(json.dumps({**SIDECAR, "weights_sha256": None}))
    told = read_embeddings(path).provenance
    assert "checkpoint" not in told
    assert told["external"]["model"] == "Nicheformer"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": ""}, "key 'model'"),
        ({"date": "31.1.2026"}, "key 'date'"),
        ({"weights_sha256": "abc"}, "key 'weights_sha256'"),
        ({"licence": "MIT"}, "key 'licence'"),
    ],
    ids=["model", "date", "digest", "unknown"],
)
def test_sidecars_that_are_none(tmp_path, change, said):
    path = write_npy(tmp_path / "emb.npy", np.ones((1, 2)), ["a"])
    sidecar_path(path).write_text(json.dumps(SIDECAR | change))
    with pytest.raises(BadInputError, match=said) as caught:
        read_embeddings(path)
    assert "model, version, weights_sha256, command, date" in str(caught.value)


def test_every_missing_key_of_a_sidecar_is_named(tmp_path):
    path = write_npy(tmp_path / "emb.npy", np.ones((1, 2)), ["a"])
    sidecar_path(path).write_text("{}")
    with pytest.raises(BadInputError) as caught:
        read_embeddings(path)
    required = [f for f in Sidecar.model_fields.values() if f.is_required()]
    assert len(caught.value.problems) == len(required) == len(SIDECAR)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """A corpus and its vectors as another tool would write them, well cut off, in another order."""
    root = tmp_path_factory.mktemp("external")
    corpus = write_corpus(root / "eval", kind="cover", n_slices=2, rows=8, cols=8, window=4)
    lines, rows = [], []
    for split in corpus.document.splits("slice"):
        for whole in corpus.whole_slices(split):
            for barcode, place in zip(whole.barcodes.tolist(), whole.xy, strict=True):
                lines.append(f"{whole.meta.slice}\t{barcode.decode().removesuffix('-1')}")
                rows.append(place)
    order = np.random.default_rng(0).permutation(len(rows))
    matrix = np.array(rows)[order].astype(np.float32)
    path = write_npy(root / "other.npy", matrix, [lines[i] for i in order])
    return corpus, path


HOW = {
    "probe": ["--split", "paper20@1", "--head", "knn", "--k", 3, "--method", "majority"],
    "cluster": ["--method", "coords", "--algorithm", "kmeans", "--seeds", 1],
}


def judge(corpus, path, out, *flags, command="probe"):
    arguments = [command, corpus.root, "-o", out, *HOW[command]]
    arguments += ["--embedding", f"other={path}", *flags]
    done = CliRunner().invoke(cli, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


@pytest.mark.parametrize(("command", "beside"), [("probe", "majority"), ("cluster", "coords")])
def test_they_are_judged_and_a_sidecar_is_missed_in_words(judged, tmp_path, command, beside):
    corpus, path = judged
    done = judge(corpus, path, tmp_path / "r", "--json", command=command)
    assert "nothing says which model made it; write other.npy.json" in done.stderr
    assert {row["method"] for row in json.loads(done.stdout)["table"]} == {beside, "other"}
    assert json.loads((tmp_path / "r" / "provenance" / "other.json").read_text()) == {}
    assert judge(corpus, path, tmp_path / "q", "--json", "-q", command=command).stderr == ""


def test_probe_records_what_a_sidecar_tells(judged, tmp_path):
    corpus, path = judged
    copy = tmp_path / "copy.npy"
    copy.write_bytes(path.read_bytes())
    barcodes_path(copy).write_bytes(barcodes_path(path).read_bytes())
    sidecar_path(copy).write_text(json.dumps(SIDECAR))
    done = judge(corpus, copy, tmp_path / "r")
    assert done.stderr == ""
    told = json.loads((tmp_path / "r" / "provenance" / "other.json").read_text())
    assert told["external"] == SIDECAR
    table = (tmp_path / "r" / "results.csv").read_text()
    assert "7" * 64 in table
