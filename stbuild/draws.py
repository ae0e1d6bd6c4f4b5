"""Keyed randomness: every draw is a function of (purpose, seed, content, number), of nothing else.

Streams are Philox counters keyed by SHA-256 and only their raw 64-bit words are used, which NumPy
keeps stable; no stream is shared, so no draw depends on workers, order or what else is built.
"""

import hashlib

import numpy as np
from numpy.typing import NDArray


def keyed_stream(purpose: str, seed: int, content: str, number: int) -> np.random.Philox:
    """Return a counter-based stream for one draw.

    Parameters
    ----------
    purpose
        What is drawn, such as ``window``; two purposes never share a stream.
    seed
        Seed of the corpus.
    content
        Digest of the slice that is drawn from.
    number
        Running number of the draw within the slice.
    """
    text = f"stbuild/{purpose}/v1\0{seed}\0{content}\0{number}"
    words = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], "<u8")
    return np.random.Philox(key=words)


def draw_index(stream: np.random.Philox, n: int) -> int:
    """Draw an integer from 0 to n - 1, uniform to within 2^-64 n."""
    return int(stream.random_raw()) * n >> 64


def draw_uniforms(stream: np.random.Philox, n: int) -> NDArray[np.float64]:
    """Draw (n,) numbers strictly between 0 and 1: odd multiples of 2^-33, from half a word each."""
    words = stream.random_raw((n + 1) // 2).astype("<u8", copy=False).view("<u4")[:n]
    return (words + 0.5) * 2.0**-32


def hashed_order(purpose: str, seed: int, ids: list[str]) -> list[int]:
    """Return a permutation of `ids` by the SHA-256 of each: input order leaves no trace."""
    keys = [hashlib.sha256(f"stbuild/{purpose}/v1\0{seed}\0{i}".encode()).digest() for i in ids]
    return sorted(range(len(ids)), key=lambda position: (keys[position], ids[position]))


def smallest_keys(keys: NDArray[np.float64], m: int) -> NDArray[np.int64]:
    """Return the positions of the m smallest positive keys, ascending by position.

    Keys are compared in fixed point, their mantissa cut to 32 bits, so that the last bits of a
    logarithm, which differ between processors, decide nothing; ties go to the lower position.
    """
    fixed = np.ascontiguousarray(keys, np.float64).view(np.int64) >> 20
    if m <= 0 or m >= fixed.size:
        return np.arange(fixed.size if m > 0 else 0)
    candidates = _below_guess(fixed, m)
    values = fixed[candidates]
    cut = np.partition(values, m - 1)[m - 1]
    taken: NDArray[np.int64] = candidates[values <= cut]
    if taken.size == m:
        return taken
    below, ties = candidates[values < cut], candidates[values == cut]
    ties = ties[: m - below.size]
    return np.sort(np.concatenate([below, ties]), kind="stable")


def _below_guess(fixed: NDArray[np.int64], m: int) -> NDArray[np.int64]:
    """Return ascending positions that surely hold the m smallest, ties included, and few others.

    A sample tells roughly where the cut lies; halves the time of the partition.
    """
    sample = fixed[::16]
    rank = min(m // 8 + 16, sample.size - 1)
    guess = np.partition(sample, rank)[rank]
    positions = np.flatnonzero(fixed <= guess)
    return positions if positions.size >= m else np.arange(fixed.size)
