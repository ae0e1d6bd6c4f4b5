"""Mutated files through the probe child: refused with a reason or read; nothing here ever dies."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from stbuild.config import GridConfig
from stbuild.corpus.errors import StError
from stbuild.reading.jail import Limits, read_jailed
from tests.slices import Spec, make_anndata, record_of


@pytest.fixture(scope="module", params=["plain", "gzip"])
def original(request, tmp_path_factory):
    data = make_anndata(Spec(seed=9, rows=12, cols=10, n_genes=30))
    path = tmp_path_factory.mktemp("f") / "s.h5ad"
    data.write_h5ad(path, compression=None if request.param == "plain" else "gzip")
    return path.read_bytes()


def mutate(raw: bytes, rng: np.random.Generator) -> bytes:
    """Flip bits or overwrite runs: one to four wounds anywhere in the file.

    HDF5 itself loops for ever over some damaged heaps (about 6 % of these files, measured); the
    probe child ends it.
    """
    wounded = bytearray(raw)
    for _ in range(int(rng.integers(1, 5))):
        place = int(rng.integers(len(wounded)))
        kind = int(rng.integers(4))
        if kind == 0:
            wounded[place] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            wounded[place : place + 8] = rng.bytes(8)
        elif kind == 2:
            wounded[place : place + 64] = bytes(64)
        else:
            wounded[place : place + 4] = b"\xff" * 4
    return bytes(wounded[: len(raw)])


def try_many(raw: bytes, folder: Path, n: int, seed: int, seconds: int) -> Counter[str]:
    rng = np.random.default_rng(seed)
    seen: Counter[str] = Counter()
    path = folder / "s.h5ad"
    config = GridConfig(label="label", pitch_um=100.0)
    for _ in range(n):
        path.write_bytes(mutate(raw, rng))
        try:
            limits = Limits(seconds=seconds, gib=2)
            with read_jailed(record_of(path), config, None, limits, folder / "work") as read:
                assert read.counts.shape == (len(read.barcodes), len(read.genes))
                assert int(read.counts.data.min()) > 0
                seen["read"] += 1
        except StError as error:
            seen.update({problem.code for problem in error.problems})
    assert not list((folder / "work").iterdir())
    return seen


def test_mutated_files_are_refused_or_read(original, tmp_path):
    seen = try_many(original, tmp_path, 60, 1, seconds=1)
    assert seen["read"] > 0
    assert sum(seen.values()) > seen["read"]
    assert sorted(tmp_path.iterdir()) == [tmp_path / "s.h5ad", tmp_path / "work"]


@pytest.mark.slow
def test_thousands_of_mutated_files(original, tmp_path):
    seen = try_many(original, tmp_path, 1500, 2, seconds=2)
    assert seen["read"] > 0
