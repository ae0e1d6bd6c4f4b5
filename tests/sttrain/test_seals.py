"""Files of vectors and results that were damaged: named before anything parses them, or unhurt."""

import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import anndata
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sttrain.embed.files
import sttrain.judge.rows
import sttrain.seals
from stbuild.corpus.digests import sha256_bytes, sha256_file
from sttrain.bench.rows import RowMaker
from sttrain.bench.run import BenchDocument, DataRecord
from sttrain.bench.suite import Suite
from sttrain.bench.summary import read_bench
from sttrain.embed.embeddings import read_embeddings, write_embeddings
from sttrain.embed.external import barcodes_path, sidecar_path
from sttrain.embed.files import told_by_file
from sttrain.errors import IntegrityError, StError
from sttrain.judge.fit_costs import CostRow, cost_table
from sttrain.judge.results import Predictions, ResultRow, create_store, open_store, write_spots
from sttrain.judge.rows import RowTable
from sttrain.seals import LENGTH, MARK, SealedDocument, find_fault, seal
from tests.sttrain.judged import make_set
from tests.sttrain.test_embeddings import make_embeddings
from tests.sttrain.test_external import SIDECAR, write_npy

PAGE = 4096


@dataclass(frozen=True)
class Kind:
    """A kind of files: where one stands, and what a reader gets of it."""

    path: Path
    read: Callable[[], Any]


def make_rows(job: str, accuracy: float = 0.5, n: int = 3) -> list[ResultRow]:
    return [
        ResultRow(
            job=job, corpus="tiny", corpus_id="a" * 64, method="raw", source="baseline",
            source_digest="b" * 64, checkpoint=None, head="knn", epochs=None, converged=None,
            split="paper20@1", split_digest="c" * 64, transductive=True, held_out=None, seed=0,
            repeat=0, slice=None if i == 0 else f"s{i}", n_train=9, n_test=4, n_classes=3, rare="",
            absent="", accuracy=accuracy + i / 100, ari_pred=None, macro_f1=0.4,
            balanced_accuracy=0.3, settings='{"k": 10}', versions='{"sttrain": "0.1.0"}',
        )
        for i in range(n)
    ]  # fmt: skip


def make_predictions(codes: str) -> list[Predictions]:
    return [Predictions(slice="one", codes=codes, predicted=("core",) * len(codes))]


def vectors(path: Path) -> Kind:
    write_embeddings(path, make_embeddings("one", "two"))

    def read() -> Any:
        found = read_embeddings(path)
        assert told_by_file(path) == found.provenance
        return found.digest(), found.provenance

    return Kind(path, read)


def results(root: Path, what: str) -> Kind:
    data = make_set()
    store = create_store(root, data)
    if what == "results.json":
        return Kind(root / what, lambda: open_store(root).document.model_dump(exclude={"seal"}))
    if what == "spots":
        write_spots(store, data, ["one"])
        return Kind(root / "spots" / "one.parquet", lambda: str(store.spots("one")))
    if what == "costs":
        costs = cost_table(root, "a" * 64)
        row = CostRow(job="e" * 16, corpus_id="a" * 64, wall_seconds=1.5, peak_mib=9.0, code="{}")
        costs.add(f"cost_{row.job}", [row])
        return Kind(costs.root / f"cost_{row.job}.parquet", costs.rows)
    rows = make_rows("d" * 16)
    store.add(rows, make_predictions("TTE."))
    (path,) = (root / what).glob("*.parquet")
    return Kind(path, store.rows if what == "jobs" else lambda: store.predictions(rows[0]))


def suite(root: Path, what: str) -> Kind:
    record = DataRecord(corpus="tiny", corpus_id="a" * 64, groups={"one": "d1", "two": "d2"})
    text = {"name": "toy", "title": "a toy", "data": [{"name": "one"}], "methods": ["raw"],
            "probe": {"splits": ["paper20@1"]}}  # fmt: skip
    document = BenchDocument(suite=Suite.model_validate(text), data={"one": record}, skipped=())
    root.mkdir()
    (root / "toy.json").write_bytes(document.to_bytes())
    maker = RowMaker(suite="toy", data="one", groups={"s1": "d1", "s2": "d2"}, costs={})
    rows = [maker.detection(row) for row in make_rows("d" * 16)]
    RowTable(root, type(rows[0]), "").summarise(root / "toy", rows)

    def read() -> Any:
        found, listed = read_bench(root, "toy")
        return found.model_dump(exclude={"seal"}), listed

    return Kind(root / what, read)


KINDS: dict[str, Callable[[Path], Kind]] = {
    "emb.h5ad": lambda root: vectors(root / "emb.h5ad"),
    "emb.parquet": lambda root: vectors(root / "emb.parquet"),
    "jobs": lambda root: results(root / "r", "jobs"),
    "predictions": lambda root: results(root / "r", "predictions"),
    "spots": lambda root: results(root / "r", "spots"),
    "costs": lambda root: results(root / "r", "costs"),
    "results.json": lambda root: results(root / "r", "results.json"),
    "toy.json": lambda root: suite(root / "r", "toy.json"),
    "toy.parquet": lambda root: suite(root / "r", "toy.parquet"),
}


@pytest.fixture(params=KINDS)
def kind(request, tmp_path):
    return KINDS[request.param](tmp_path)


def flips(raw: bytes, places: Iterable[int]) -> Iterator[tuple[str, bytes]]:
    """A flipped bit in each of some bytes."""
    rng = np.random.default_rng(5)
    for place in places:
        hurt = bytearray(raw)
        hurt[place] ^= 1 << int(rng.integers(8))
        yield f"flip at {place}", bytes(hurt)


def cuts(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """Short files, some of which lack a part of the seal or a little more."""
    rng = np.random.default_rng(6)
    for size in [*rng.integers(0, len(raw), 20), *range(len(raw) - LENGTH - 9, len(raw), 9)]:
        yield f"cut to {size}", raw[:size]


def pages(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """Pages of zeros, as a disk leaves them, wherever the file begins on it."""
    for start in range(-PAGE + 512, len(raw), 1024):
        first, end = max(start, 0), min(start + PAGE, len(raw))
        yield f"zeros {first} to {end}", raw[:first] + bytes(end - first) + raw[end:]


def unnoticed(kind: Kind, damaged: Iterator[tuple[str, bytes]]) -> list[str]:
    """Return the damage after which a reader gets something else, or a traceback."""
    wanted, found = kind.read(), []
    raw = kind.path.read_bytes()
    for what, hurt in damaged:
        kind.path.write_bytes(hurt)
        try:
            if kind.read() != wanted:
                found.append(f"{what}: other content")
        except StError as error:
            if not any(str(kind.path) in str(p.where) for p in error.problems):
                found.append(f"{what}: {error}")
        except Exception as error:  # noqa: BLE001 - what a user would see as a traceback
            found.append(f"{what}: {type(error).__name__}")
    kind.path.write_bytes(raw)
    return found


def test_flipped_bits_are_named_or_change_nothing(kind):
    raw = kind.path.read_bytes()
    rng, start = np.random.default_rng(4), raw.rindex(MARK)
    places = [*rng.integers(0, len(raw), 150).tolist(), *range(start, start + LENGTH, 8)]
    assert unnoticed(kind, flips(raw, places)) == []


@pytest.mark.slow
def test_bits_flipped_everywhere_are_named_or_change_nothing(kind):
    raw = kind.path.read_bytes()
    assert unnoticed(kind, flips(raw, range(0, len(raw), 1 + len(raw) // 4000))) == []


def test_cut_files_are_named(kind):
    assert unnoticed(kind, cuts(kind.path.read_bytes())) == []


def test_pages_of_zeros_are_named(kind):
    assert unnoticed(kind, pages(kind.path.read_bytes())) == []


def no_seals() -> list[Any]:
    """Readers that believe every file."""

    def read_all(raw: bytes) -> pa.Table:
        return pq.ParquetFile(io.BytesIO(raw)).read(use_threads=False)

    places: tuple[tuple[Any, str], ...] = (
        (sttrain.embed.files, "find_fault"), (sttrain.embed.files, "find_fault_at_end"),
        (sttrain.judge.rows, "find_fault"), (sttrain.seals, "find_fault"),
    )  # fmt: skip
    silent = [patch.object(module, name, lambda *_, **__: None) for module, name in places]
    readers = (sttrain.embed.files, sttrain.judge.rows)
    return [*silent, *(patch.object(module, "read_all", read_all) for module in readers)]


def in_content(raw: bytes) -> list[int]:
    """Return places of what is read, first those of which nothing but a seal can tell damage."""
    texts = (make_embeddings().slices["one"].matrix.tobytes(), b"tiny")
    places = [raw.find(text) for text in texts if text in raw]
    # Never in a Parquet footer: without a guard the parser may take the interpreter with it.
    return [*places, *range(4, raw.index(MARK), 7)]


def test_without_seals_damage_goes_unnoticed(kind):
    """The broken variant: what the tests above find is what the seals keep out."""
    raw = kind.path.read_bytes()
    patches = no_seals()
    for one in patches:
        one.start()
    try:
        assert any(unnoticed(kind, iter([one])) for one in flips(raw, in_content(raw)))
    finally:
        for one in patches:
            one.stop()


def test_a_damaged_embedding_says_what_to_do(tmp_path):
    kind = vectors(tmp_path / "emb.h5ad")
    raw = bytearray(kind.path.read_bytes())
    raw[len(raw) // 2] ^= 4
    kind.path.write_bytes(raw)
    with pytest.raises(
        IntegrityError, match="was expected: damaged since it was written"
    ) as caught:
        kind.read()
    (problem,) = caught.value.problems
    assert caught.value.exit_code == 6
    assert problem.code == "V20"
    assert "sttrain embed" in problem.fix


@pytest.mark.parametrize("folder", ["jobs", "predictions"])
def test_files_that_changed_places_are_named(tmp_path, folder):
    store = create_store(tmp_path, make_set())
    both = [make_rows("d" * 16), make_rows("e" * 16, 0.7)]
    for rows, codes in zip(both, ("TTE.", "EETT"), strict=True):
        store.add(rows, make_predictions(codes))
    first, second = sorted((tmp_path / folder).iterdir())
    texts = first.read_bytes(), second.read_bytes()
    first.write_bytes(texts[1])
    second.write_bytes(texts[0])
    with pytest.raises(IntegrityError, match="another file under this name") as caught:
        store.rows() if folder == "jobs" else store.predictions(both[0][0])
    assert "remove the file and run the same command again" in str(caught.value)
    first.write_bytes(texts[0])
    second.write_bytes(texts[1])
    (tmp_path / "jobs" / "copy_of_it.parquet").write_bytes(
        next((tmp_path / "jobs").iterdir()).read_bytes()
    )
    with pytest.raises(IntegrityError, match=r"copy_of_it.*another file under this name"):
        store.rows()


def test_files_without_a_seal_are_read_as_before(tmp_path):
    kind = results(tmp_path / "r", "jobs")
    wanted = kind.read()
    pq.write_table(pq.read_table(kind.path), kind.path)
    assert find_fault(kind.path.read_bytes(), kind.path.name) is None
    assert MARK not in kind.path.read_bytes()
    assert kind.read() == wanted
    mark = tmp_path / "r" / "results.json"
    said = json.loads(mark.read_text())
    del said["seal"]
    mark.write_text(json.dumps(said))
    assert open_store(tmp_path / "r").rows() == wanted


def test_vectors_that_other_tools_wrote_anew_are_theirs(tmp_path):
    path = tmp_path / "emb.h5ad"
    write_embeddings(path, make_embeddings())
    table = anndata.read_h5ad(path)
    table.obsm["X_sttrain"] = table.obsm["X_sttrain"] * 2
    table.obsm["X_umap"] = np.zeros((7, 2), np.float32)
    table.write_h5ad(path)
    found = read_embeddings(path).slices["one"].matrix
    np.testing.assert_array_equal(found, make_embeddings().slices["one"].matrix * 2)
    other = tmp_path / "emb.parquet"
    write_embeddings(other, make_embeddings())
    pq.write_table(pq.read_table(other).slice(0, 3), other)
    assert len(read_embeddings(other).slices["one"].barcodes) == 3
    assert pd.read_parquet(other).shape == (3, 7)


def test_an_h5ad_that_was_changed_in_place_is_told(tmp_path):
    path = tmp_path / "emb.h5ad"
    write_embeddings(path, make_embeddings())
    with h5py.File(path, "r+") as file:
        file["obsm/X_sttrain"][0, 0] = 9
    with pytest.raises(IntegrityError):
        read_embeddings(path)
    with h5py.File(path, "r+") as file:
        file["obsm/other"] = np.zeros((7, 2000), np.float32)
    with pytest.raises(IntegrityError, match="the seal that it says it has is gone"):
        read_embeddings(path)


def test_a_seal_is_a_plain_digest_of_the_rest(tmp_path):
    path = tmp_path / "emb.h5ad"
    write_embeddings(path, make_embeddings())
    raw = path.read_bytes()
    assert raw[-LENGTH:] == MARK + sha256_bytes(raw[:-LENGTH]).encode()


def test_a_mark_in_what_a_file_says_is_no_seal():
    inner = b"it says " + MARK + b"0" * 64 + b" of another"
    assert find_fault(inner) is not None
    assert find_fault(seal(inner, 3)) is None
    assert find_fault(seal(inner, len(inner)) + b"!") is not None


def test_documents_keep_their_content_and_their_bytes():
    class Text(SealedDocument):
        text: str

    one = Text(text='a\n  "seal": "" of "seal"')
    raw = one.to_bytes()
    assert raw == one.to_bytes() == Text.model_validate_json(raw).to_bytes()
    assert find_fault(raw) is None
    assert json.loads(raw)["text"] == one.text


@pytest.mark.parametrize("hurt", ["emb.npy", "emb.barcodes.txt"])
def test_a_sidecar_may_tell_the_digests_of_a_file(tmp_path, hurt):
    path = write_npy(tmp_path / "emb.npy", np.ones((2, 2)), ["a", "b"])
    digests = {
        "file_sha256": sha256_file(path),
        "barcodes_sha256": sha256_file(barcodes_path(path)),
    }
    sidecar_path(path).write_text(json.dumps(SIDECAR | digests))
    assert read_embeddings(path).provenance["external"] == SIDECAR | digests
    raw = bytearray((tmp_path / hurt).read_bytes())
    raw[-2] ^= 1
    (tmp_path / hurt).write_bytes(raw)
    with pytest.raises(IntegrityError, match="its sidecar says") as caught:
        read_embeddings(path)
    assert caught.value.problems[0].where == str(tmp_path / hurt)
