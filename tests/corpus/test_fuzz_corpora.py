"""Mutated samples, tables and documents: refused with our errors, or read; never anything else."""

import os
import random  # noqa: TID251 - plain draws, fast; the tests never touch NumPy streams
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stbuild.corpus.documents import CorpusDocument, Kind, read_document
from stbuild.corpus.errors import StError
from stbuild.corpus.index import read_genes, read_index, read_panels
from stbuild.corpus.lock import LockDocument
from stbuild.corpus.npy import read_npy
from stbuild.corpus.reader import open_corpus
from stbuild.corpus.release import ReleaseDocument
from stbuild.corpus.samples import decode_patch, decode_whole
from stbuild.corpus.split_documents import SplitDocument
from stbuild.corpus.tar import pack_sample, unpack_sample
from stbuild.leakage.documents import LeakageReport

ROOT = Path(__file__).parents[2]
ARCHIVE = ROOT / "tests" / "archive" / "v1"
FAST, SLOW = 4_000, 120_000
WORDS = (b"null", b"-1", b"1e400", b"{}", b"[]", b'""', b"true", b"99999999999999999999", b"\xff")


def samples(name: str, kind: Kind) -> list[bytes]:
    corpus = open_corpus(ARCHIVE / name)
    found = []
    for split in corpus.document.splits("slice"):
        index, shards = corpus.index(split, kind), corpus.document.shards_of(split, kind)
        numbers = range(min(2, len(index)))
        found += [corpus.read_sample(shards[int(index.shard[i])], index, i) for i in numbers]
    return found


def read_sample(decode: Callable[..., object]) -> Callable[[bytes], object]:
    """Damage in the blocks is seen by their headers; damage within a member goes further."""

    def read(raw: bytes) -> object:
        return decode(unpack_sample(raw, "x")[1], "x")

    return read


def targets() -> dict[str, tuple[list[bytes], Callable[[bytes], object]]]:
    tables = {p.name: p.read_bytes() for p in (ARCHIVE / "train").rglob("*.parquet")}
    text = {p.name: p.read_bytes() for p in (ARCHIVE / "eval").rglob("*.json")}
    parts = [unpack_sample(blocks, "x")[1] for blocks in samples("eval", "slice")]
    arrays = [bytes(raw) for p in parts for name, raw in p.items() if name.endswith("npy")]
    types = ("<i4", "<i8", "<u2", "<u4", "<i2", "<f8", "|S")
    return {
        "patch": (samples("train", "patch") + samples("eval", "patch"), read_sample(decode_patch)),
        "whole": (samples("train", "slice") + samples("eval", "slice"), read_sample(decode_whole)),
        "npy": (arrays, lambda raw: read_npy(raw, "x", types, 1)),
        "index": ([tables["train.parquet"]], lambda raw: read_index(raw, "x", 8)),
        "genes": ([tables["genes.parquet"]], lambda raw: read_genes(raw, "x")),
        "panels": ([tables["panels.parquet"]], lambda raw: read_panels(raw, "x")),
        "corpus": ([text["corpus.json"]], lambda raw: read_document(CorpusDocument, raw, "x")),
        "lock": ([text["corpus.lock.json"]], lambda raw: read_document(LockDocument, raw, "x")),
        "split": ([text["paper20@1.json"]], lambda raw: read_document(SplitDocument, raw, "x")),
        "leakage": ([text["leakage.json"]], lambda raw: read_document(LeakageReport, raw, "x")),
        "release": ([text["corpus.json"], b"{}"],
                    lambda raw: read_document(ReleaseDocument, raw, "x")),
    }  # fmt: skip


def mutate(raw: bytes, draw: random.Random, others: list[bytes]) -> bytes:
    data = bytearray(raw)
    for _ in range(draw.choice((1, 1, 2, 5))):
        at, kind = draw.randrange(len(data) or 1), draw.randrange(8)
        if kind == 0 and data:
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1 and data:
            data[at] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, 0x20, 0x2D, 0x39))
        elif kind == 2:
            del data[at : at + draw.choice((1, 2, 4, 64, 512))]
        elif kind == 3:
            data[at:at] = draw.choice(WORDS)
        elif kind == 4:
            data[at:at] = data[at : at + draw.choice((1, 8, 512))]
        elif kind == 5:
            value = draw.choice((2**31 - 1, 2**32 - 1, 2**16, 0, 1))
            data[at : at + 4] = value.to_bytes(4, "little")
        elif kind == 6:
            other = draw.choice(others)
            start = draw.randrange(len(other) or 1)
            data[at : at + 64] = other[start : start + 64]
        else:
            data = data[:at]
    return bytes(data)


def inner(raw: bytes, draw: random.Random, others: list[bytes]) -> bytes:
    """Damage one member and wrap it again under right headers, so that decoders meet it."""
    key, members = unpack_sample(raw, "x")
    parts = {suffix: bytes(body) for suffix, body in members.items()}
    suffix = draw.choice(sorted(parts))
    parts[suffix] = mutate(parts[suffix], draw, others)
    if draw.random() < 0.05:
        parts[draw.choice(("pyd", "extra.npy", "counts.npy"))] = parts.pop(suffix)
    return pack_sample(key, parts)


def cases(n: int, seed: int) -> Iterator[tuple[str, bytes, Callable[[bytes], object]]]:
    draw, found = random.Random(seed), targets()
    others = [raw for seeds, _ in found.values() for raw in seeds]
    for i in range(n):
        name = sorted(found)[i % len(found)]
        seeds, read = found[name]
        raw = draw.choice(seeds)
        if name in ("patch", "whole") and draw.random() < 0.8:
            yield name, inner(raw, draw, others), read
        else:
            yield name, mutate(raw, draw, others), read


def run(n: int, seed: int) -> Counter[str]:
    told: Counter[str] = Counter()
    for name, raw, read in cases(n, seed):
        try:
            read(raw)
        except StError:
            told[f"{name} refused"] += 1
        else:
            told[f"{name} read"] += 1
    return told


def test_mutated_corpora_meet_no_other_error():
    told = run(FAST, seed=int(os.environ.get("FUZZ_SEED", "0")))
    assert sum(told.values()) == FAST
    assert all(told[f"{name} refused"] > 50 for name in targets())


@pytest.mark.slow
def test_many_mutated_corpora_meet_no_other_error():
    told = run(SLOW, seed=1)
    assert sum(told.values()) == SLOW >= 10**5


@pytest.mark.slow
def test_coverage_guided_fuzzing_meets_no_other_error(tmp_path):
    pytest.importorskip("atheris", reason="the extra fuzz is not installed")
    command = [sys.executable, "-m", "tests.corpus.fuzz_atheris", "-runs=100000", "-max_len=65536"]
    done = subprocess.run([*command, str(tmp_path / "seeds")], cwd=ROOT, capture_output=True,
                          text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Done 100000" in done.stderr
