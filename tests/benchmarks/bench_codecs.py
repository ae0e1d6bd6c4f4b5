"""What a patch takes by codec: bytes, and CPU time to encode and to decode.

Counts alone, gene-major uint16, as :func:`stbuild.corpus.samples.encode_counts` packs them and in
the ways that others would.
"""

import gzip
import io
import zlib
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import h5py
import numpy as np
from numcodecs import blosc, zstd
from numpy.typing import NDArray

from sttrain.stream.source import PatchSource
from tests.benchmarks.bench import Bench
from tests.benchmarks.timing import take_turns, times_as_fast

HEAD = [
    "| codec of the counts | bytes a patch | of uint16 | encode, CPU us | decode, CPU us | "
    "decoding, times `.npy.gz` |",
    "|---|---:|---:|---:|---:|---:|",
]
BASE = "gzip level 6 of `.npy`"
N = 32
_BLOCK = 2**18
Counts = NDArray[Any]
Codec = tuple[Callable[[Counts], bytes], Callable[[bytes], object]]


def _npy(counts: Counts) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, counts, allow_pickle=False)
    return file.getvalue()


def _read_npy(raw: bytes) -> Counts:
    return np.lib.format.read_array(io.BytesIO(raw), allow_pickle=False)


def _blosc(name: str, level: int) -> Codec:
    blosc.use_threads = False
    return (
        lambda counts: blosc.compress(counts, name.encode(), level, blosc.BITSHUFFLE, _BLOCK),
        blosc.decompress,
    )


def _h5(**options: Any) -> Codec:
    def encode(counts: Counts) -> bytes:
        file = io.BytesIO()
        with h5py.File(file, "w") as h5:
            h5.create_dataset("counts", data=counts, chunks=counts.shape, **options)
        return file.getvalue()

    def decode(raw: bytes) -> Any:
        with h5py.File(io.BytesIO(raw)) as h5:
            return h5["counts"][...]

    return encode, decode


def codecs() -> dict[str, Codec]:
    """Return encoder and decoder by name; ours are marked."""
    found: dict[str, Codec] = {
        BASE: (
            lambda counts: gzip.compress(_npy(counts), 6, mtime=0),
            lambda raw: _read_npy(gzip.decompress(raw)),
        ),
        "none: `.npy` (ours, `--codec none`)": (_npy, _read_npy),
    }
    for level in (1, 3, 5, 9):
        mark = " (ours, `--codec zstd`)" if level == 1 else ""
        found[f"Blosc zstd level {level}, bit shuffle{mark}"] = _blosc("zstd", level)
    for level in (1, 5, 9):
        mark = " (ours, `--codec lz4`)" if level == 5 else ""
        found[f"Blosc lz4 level {level}, bit shuffle{mark}"] = _blosc("lz4", level)
    return found | {
        "zstd level 3 of `.npy`": (
            lambda counts: zstd.compress(_npy(counts), 3),
            lambda raw: _read_npy(zstd.decompress(raw)),
        ),
        "zlib level 1 of `.npy`": (
            lambda counts: zlib.compress(_npy(counts), 1),
            lambda raw: _read_npy(zlib.decompress(raw)),
        ),
        "HDF5, gzip 4, shuffle": _h5(compression="gzip", compression_opts=4, shuffle=True),
        "HDF5, lzf, shuffle": _h5(compression="lzf", shuffle=True),
    }


def measure_codecs(patches: Sequence[Counts], repeats: int) -> list[str]:
    """Encode and decode patches in every way, in turns, and return the rows."""
    ways = codecs()
    packed = {name: [encode(p) for p in patches] for name, (encode, _) in ways.items()}
    writing = {name: lambda f=encode: [f(p) for p in patches] for name, (encode, _) in ways.items()}
    reading = {
        name: lambda f=decode, raws=packed[name]: [f(raw) for raw in raws]
        for name, (_, decode) in ways.items()
    }
    encoding, decoding = take_turns(writing, repeats), take_turns(reading, repeats)
    n, whole, rows = len(patches), patches[0].nbytes, []
    for name in ways:
        size = sum(map(len, packed[name])) / n
        spent = [f"{1e6 * median(found[name]) / n:,.0f}" for found in (encoding, decoding)]
        ratio = times_as_fast(decoding[name], decoding[BASE], 1)
        rows.append(
            f"| {name} | {size:,.0f} | {size / whole:.0%} | {' | '.join(spent)} | {ratio} |"
        )
    return rows


def lines(bench: Bench) -> list[str]:
    """Measure patches of real sections and return the table."""
    source = PatchSource(bench.training("zstd"), "train")
    numbers = np.linspace(0, len(source) - 1, N).astype(int)
    counts = source.read(numbers.tolist())[0]
    what = f"{N} patches of 16 x 16 sites x 512 genes; the counts alone, without tar headers"
    return [f"{what}.", "", *HEAD, *measure_codecs(list(counts), bench.repeats)]
