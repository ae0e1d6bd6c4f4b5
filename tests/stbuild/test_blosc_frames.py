"""Blosc frames that were cut short are found before Blosc reads past their end."""

import numpy as np
import pytest
import zarr
from numcodecs import Blosc
from zarr.codecs import BloscCodec, ZstdCodec

from stbuild.sources.blosc_frames import check_frames

VALUES = np.arange(12 * 10, dtype=np.int32).reshape(12, 10)
KINDS = ["v2", "v3", "sharded", "sharded-start"]


def make(path, kind):
    """Write the values in chunks; the last chunks stick out of the array."""
    common = {"store": path, "shape": VALUES.shape, "dtype": "i4", "chunks": (4, 5)}
    if kind == "v2":
        array = zarr.create_array(**common, zarr_format=2, compressors=Blosc())
    elif kind == "sharded":
        array = zarr.create_array(**common, shards=(8, 10), compressors=BloscCodec())
    elif kind == "sharded-start":
        shards = {"shape": (8, 10), "index_location": "start"}
        array = zarr.create_array(**common, shards=shards, compressors=BloscCodec())
    else:
        codec = ZstdCodec() if kind == "zstd" else BloscCodec()
        array = zarr.create_array(**common, compressors=codec)
    array[:] = VALUES
    return path


def chunks_of(path):
    return sorted(p for p in path.rglob("*") if p.is_file() and p.suffix != ".json"
                  and not p.name.startswith(".z"))  # fmt: skip


@pytest.mark.parametrize("kind", [*KINDS, "zstd"])
def test_whole_frames_are_no_fault(kind, tmp_path):
    assert check_frames(make(tmp_path / "a", kind)) is None


@pytest.mark.parametrize("n_bytes", [1, 9, 60])
@pytest.mark.parametrize("which", [0, -1])
@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_that_was_cut_is_named(kind, which, n_bytes, tmp_path):
    path = make(tmp_path / "a", kind)
    chunk = chunks_of(path)[which]
    chunk.write_bytes(chunk.read_bytes()[:-n_bytes])
    said = check_frames(path)
    assert said is not None
    assert chunk.name in said


def test_a_frame_that_claims_more_than_its_place_in_a_shard(tmp_path):
    path = make(tmp_path / "a", "sharded")
    chunk = chunks_of(path)[0]
    raw = bytearray(chunk.read_bytes())
    raw[12:16] = (int.from_bytes(raw[12:16], "little") + 7).to_bytes(4, "little")
    chunk.write_bytes(raw)
    assert "frame says" in (check_frames(path) or "")


def test_a_shard_whose_index_leads_past_its_end(tmp_path):
    path = make(tmp_path / "a", "sharded")
    chunk = chunks_of(path)[0]
    raw = bytearray(chunk.read_bytes())
    index = np.frombuffer(raw[-68:-4], "<u8").reshape(4, 2).copy()
    index[3, 0] += 2**40
    raw[-68:-4] = index.tobytes()
    chunk.write_bytes(raw)
    assert "frame says 0" in (check_frames(path) or "")


def test_other_codecs_are_not_looked_into(tmp_path):
    path = make(tmp_path / "a", "zstd")
    chunk = chunks_of(path)[0]
    chunk.write_bytes(chunk.read_bytes()[:-5])
    assert check_frames(path) is None
