"""The draws of the builder once more, from their description alone: plain Python, no NumPy.

Windows, genes and splits as ``manifests/schema/README.md`` states them, slow and obvious.
"""

import hashlib
import math
import struct
from collections.abc import Iterator, Sequence
from itertools import count, product

MASK = 2**64 - 1
M0, M1 = 0xD2E7470EE14C6C93, 0xCA5A826395121157
W0, W1 = 0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B

Counts = Sequence[dict[int, int]]
"""Of each spot: molecules by gene."""


def philox(key: tuple[int, int]) -> Iterator[int]:
    """Yield the words of Philox4x64-10 (Salmon et al. 2011), counters from 1."""
    for number in count(1):
        a, b, c, d = number & MASK, number >> 64, 0, 0
        k0, k1 = key
        for _ in range(10):
            first, second = M0 * a, M1 * c
            a, b, c, d = (
                (second >> 64) ^ b ^ k0,
                second & MASK,
                (first >> 64) ^ d ^ k1,
                first & MASK,
            )
            k0, k1 = k0 + W0 & MASK, k1 + W1 & MASK
        yield from (a, b, c, d)


def stream(purpose: str, seed: int, content: str, number: int) -> Iterator[int]:
    """Return the words of one draw."""
    text = f"stbuild/{purpose}/v1\0{seed}\0{content}\0{number}".encode()
    return philox(struct.unpack("<2Q", hashlib.sha256(text).digest()[:16]))


def uniforms(words: Iterator[int]) -> Iterator[float]:
    """Yield numbers between 0 and 1, two a word."""
    for word in words:
        for half in (word & 0xFFFFFFFF, word >> 32):
            yield (half + 0.5) / 2**32


def hashed(purpose: str, seed: int, ids: Sequence[str]) -> list[int]:
    """Return the order of ids by their hash."""
    keys = [hashlib.sha256(f"stbuild/{purpose}/v1\0{seed}\0{i}".encode()).digest() for i in ids]
    return [i for _, _, i in sorted((key, ids[i], i) for i, key in enumerate(keys))]


def windows(cells: set[tuple[int, int]], shape: tuple[int, int], content: str, seed: int, P: int,
            n: int, min_fill: float, tries: int) -> list[tuple[int, int, int]]:  # fmt: skip
    """Return (row, column, observed sites) of every training window."""
    sides = [max(0, side - P) + 1 for side in shape]
    fill = {
        (row, col): sum((row + i, col + j) in cells for i, j in product(range(P), range(P)))
        for row, col in product(*map(range, sides))
    }
    least = max(1, math.ceil(min_fill * max(fill.values())))
    found = []
    for number in range(n):
        words = stream("window", seed, content, number)
        drawn: list[tuple[int, int]] = []
        while len(drawn) < tries and not (drawn and fill[drawn[-1]] >= least):
            drawn.append((next(words) * sides[0] >> 64, next(words) * sides[1] >> 64))
        if fill[drawn[-1]] < least:
            enough = [place for place in fill if fill[place] >= least]
            drawn.append(enough[next(words) * len(enough) >> 64])
        found.append((*drawn[-1], fill[drawn[-1]]))
    return found


def choose(counts: Counts, totals: Sequence[int], n_genes: int, content: str, seed: int,
           number: int, m: int, select: str, epsilon: float) -> list[int]:  # fmt: skip
    """Return the genes of one window, of which `counts` and `totals` are the observed sites."""
    first, second = [0] * n_genes, [0] * n_genes
    for spot, total in zip(counts, totals, strict=True):
        for gene, molecules in spot.items():
            q = round(2**16 * math.log1p(1e4 * molecules / total))
            first[gene] += q
            second[gene] += q * q
    draws, n, keys = uniforms(stream("genes", seed, content, number)), len(totals), []
    for gene in range(n_genes):
        key = 1.0 if select == "hvg" else -math.log(next(draws))
        spread = (n * second[gene] - first[gene] ** 2) / (float(n) ** 2 * 2.0**32)
        weight = 1.0 if select == "random" else spread + (epsilon + 2.0**-64)
        if first[gene]:
            # Compared in fixed point: the mantissa cut to 32 bits.
            keys.append((struct.unpack("<q", struct.pack("<d", key / weight))[0] >> 20, gene))
    return sorted(gene for _, gene in sorted(keys)[:m])


def split_groups(
    sizes: dict[str, int], shares: dict[str, float], rule: str, seed: int
) -> dict[str, str]:
    """Return the split of each group: of 64 hashed orders the one nearest to the shares."""
    ids, total = sorted(sizes), sum(sizes.values())
    wanted = {name: shares[name] * total for name in sorted(shares)}
    best: tuple[float, dict[str, str]] | None = None
    for draw in range(64):
        order = hashed(f"split-{rule}", seed, [f"{key}\0{draw}" for key in ids])
        filled = dict.fromkeys(wanted, 0)
        found: dict[str, str] = {}
        for left, key in zip(range(len(ids), 0, -1), (ids[i] for i in order), strict=True):
            empty = [name for name in filled if name not in found.values()]
            options = empty if left <= len(empty) else list(filled)
            found[key] = min(options, key=lambda s: sizes[key] + 2 * (filled[s] - wanted[s]))
            filled[found[key]] += sizes[key]
        far = sum((filled[name] - wanted[name]) ** 2 for name in wanted)
        if best is None or far < best[0]:
            best = (far, found)
    assert best is not None
    return best[1]
