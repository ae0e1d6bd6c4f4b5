"""Arrays of grids: byte for byte what zarr-python writes, and nothing else is read."""

import json

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from stbuild.corpus.errors import IntegrityError
from stbuild.grid.chunks import (
    CHUNK,
    Counts,
    Layout,
    encode_shard,
    read_small,
    write_group,
    write_json,
    write_small,
)
from stbuild.grid.written import WrittenFiles

DIMENSIONS = ("row", "col", "gene")


def make_counts(shape, dtype):
    rng = np.random.default_rng(len(shape))
    counts = rng.poisson(0.4, shape).astype(dtype)
    counts[: CHUNK // 2, CHUNK:] = 0
    return counts


def write_ours(folder, counts, shard, block=2**19):
    layout = Layout(
        shape=counts.shape, dtype=counts.dtype, dimensions=DIMENSIONS, block=block, shard=shard
    )
    write_json(WrittenFiles(folder).write, folder, layout.document())

    def make(row, col):
        chunk = np.zeros(layout.chunk, counts.dtype)
        part = counts[row : row + CHUNK, col : col + CHUNK]
        chunk[: part.shape[0], : part.shape[1]] = part
        return chunk if chunk.any() else None

    for top in range(0, counts.shape[0], shard[0]):
        for left in range(0, counts.shape[1], shard[1]):
            path = folder / "c" / str(top // shard[0]) / str(left // shard[1]) / "0"
            WrittenFiles(folder).write(path, encode_shard(layout, (top, left), make))


def write_theirs(folder, counts, shard, block=2**19):
    group = zarr.create_group(folder, zarr_format=3, attributes={"a": 1.5})
    array = group.create_array(
        "counts",
        shape=counts.shape,
        dtype=counts.dtype,
        chunks=(CHUNK, CHUNK, counts.shape[2]),
        shards=(*shard, counts.shape[2]),
        compressors=[
            BloscCodec(
                typesize=counts.itemsize,
                cname="zstd",
                clevel=1,
                shuffle="bitshuffle",
                blocksize=block,
            ),
            Crc32cCodec(),
        ],
        fill_value=0,
        dimension_names=DIMENSIONS,
        config={"write_empty_chunks": True},
    )
    for top in range(0, counts.shape[0], shard[0]):
        for left in range(0, counts.shape[1], shard[1]):
            box = np.s_[top : top + shard[0], left : left + shard[1]]
            array[box] = counts[box]


def files_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("shape", "shard", "dtype"),
    [
        pytest.param((17, 24, 40), (24, 24), "uint16", id="one_shard_three_rows_of_chunks"),
        pytest.param((67, 64, 11), (56, 56), "uint16", id="shards_reach_beyond_the_grid"),
        pytest.param((9, 30, 7), (8, 16), "uint32", id="many_shards_of_32_bits"),
        pytest.param((40, 8, 5), (40, 8), "uint16", id="one_column_of_chunks"),
        pytest.param((3, 3, 1), (8, 8), "uint16", id="smaller_than_a_chunk"),
    ],
)
def test_every_byte_is_that_of_zarr_python(tmp_path, shape, shard, dtype):
    counts = make_counts(shape, dtype)
    write_theirs(tmp_path / "theirs", counts, shard)
    write_group(WrittenFiles(tmp_path).write, tmp_path / "ours", {"a": 1.5})
    write_ours(tmp_path / "ours" / "counts", counts, shard)
    assert files_of(tmp_path / "ours") == files_of(tmp_path / "theirs")


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "uint32", "float64"])
@pytest.mark.parametrize("shape", [(5,), (4, 7), (0,)])
def test_small_arrays_are_those_of_zarr_python(tmp_path, dtype, shape):
    values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    names = ("a", "b")[: len(shape)]
    array = zarr.create_group(tmp_path / "theirs", zarr_format=3).create_array(
        "x",
        shape=shape,
        dtype=dtype,
        chunks=tuple(max(1, n) for n in shape),
        compressors=[
            BloscCodec(typesize=values.itemsize, cname="zstd", clevel=3, shuffle="shuffle"),
            Crc32cCodec(),
        ],
        fill_value=0,
        dimension_names=names,
        config={"write_empty_chunks": True},
    )
    array[...] = values
    write_small(WrittenFiles(tmp_path).write, tmp_path / "ours" / "x", values, names)
    assert files_of(tmp_path / "ours" / "x") == files_of(tmp_path / "theirs" / "x")
    assert np.array_equal(read_small(tmp_path / "theirs" / "x"), values)


@pytest.mark.parametrize("block", [0, 2**19])
def test_grids_of_either_block_size_are_read(tmp_path, block):
    counts = make_counts((20, 19, 30), np.uint16)
    write_theirs(tmp_path / "g", counts, (16, 16), block)
    read = np.full_like(counts, 9)
    for row, col, chunk in Counts(tmp_path / "g" / "counts").chunks(0, 20, 0, 19):
        part = read[row : row + CHUNK, col : col + CHUNK]
        part[...] = chunk[: part.shape[0], : part.shape[1]]
    assert np.array_equal(read, counts)


def test_only_the_chunks_that_meet_a_box_are_read(tmp_path):
    write_ours(tmp_path / "counts", make_counts((40, 40, 3), np.uint16), (16, 16))
    places = {(y, x) for y, x, _ in Counts(tmp_path / "counts").chunks(7, 9, 16, 33)}
    assert places == {(y, x) for y in (0, 8) for x in (16, 24, 32)}


@pytest.mark.parametrize("where", ["first", "index", "end", "missing"])
def test_a_damaged_shard_is_refused(tmp_path, where):
    write_ours(tmp_path / "counts", make_counts((16, 16, 50), np.uint16), (16, 16))
    path = tmp_path / "counts" / "c" / "0" / "0" / "0"
    raw = bytearray(path.read_bytes())
    if where == "missing":
        path.unlink()
    else:
        raw[{"first": 40, "index": -30, "end": -1}[where]] ^= 1
        path.write_bytes(raw)
    with pytest.raises(IntegrityError):
        list(Counts(tmp_path / "counts").chunks(0, 16, 0, 16))


@pytest.mark.parametrize(
    ("key", "value"),
    [("fill_value", 1), ("data_type", "int64"), ("codecs", []), ("shape", [-1, 8, 3])],
)
def test_another_layout_is_refused(tmp_path, key, value):
    write_ours(tmp_path / "counts", make_counts((8, 8, 3), np.uint16), (8, 8))
    file = tmp_path / "counts" / "zarr.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    with pytest.raises(IntegrityError, match="not an array as grids have"):
        Counts(tmp_path / "counts")
