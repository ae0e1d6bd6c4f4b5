"""A slice of up to a million sites, and what it costs to compact and shard it.

Run ``python -m tests.benchmarks.huge -o benchmarks/scale.md``: writes a synthetic slice like a
Visium HD one (square lattice, 18,000 genes, 0.3 % non-zero) for each size, runs the two commands,
and prints time and peak resident memory of every process they start.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

N_GENES = 18_000
SHARE = 0.003
PER_SITE = int(N_GENES * SHARE)
SIZES = (10_000, 100_000, 1_000_000)


def write_huge(path: Path, n_sites: int, seed: int = 0) -> int:
    """Write the slice as ``.h5ad``, a band of sites at a time; return its non-zeros."""
    rng = np.random.default_rng(seed)
    side = int(np.ceil(np.sqrt(n_sites)))
    row, col = np.divmod(np.arange(n_sites), side)
    # Genes differ in how often they are seen, as real ones do.
    share = np.sort(rng.pareto(1.0, N_GENES))[::-1].copy()
    cut = np.cumsum(share / share.sum())
    text = h5py.string_dtype()
    with h5py.File(path, "w") as file:
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        matrix = file.create_group("X")
        matrix.attrs.update(
            {"encoding-type": "csr_matrix", "encoding-version": "0.1.0",
             "shape": np.asarray([n_sites, N_GENES])}
        )  # fmt: skip
        options = {"maxshape": (None,), "chunks": (1 << 20,), "compression": 1, "shuffle": True}
        data = matrix.create_dataset("data", (0,), np.float32, **options)
        indices = matrix.create_dataset("indices", (0,), np.int32, **options)
        lengths = np.zeros(n_sites, np.int64)
        filled = 0
        for start in range(0, n_sites, 20_000):
            n = min(20_000, n_sites - start)
            genes = np.searchsorted(cut, rng.random((n, PER_SITE + 12)))
            genes.sort(axis=1)
            first = np.concatenate([np.ones((n, 1), bool), np.diff(genes, axis=1) > 0], axis=1)
            first &= np.cumsum(first, axis=1) <= PER_SITE
            lengths[start : start + n] = first.sum(axis=1)
            stored = genes[first].astype(np.int32)
            values = 1 + rng.poisson(0.3, stored.size).astype(np.float32)
            for dataset, block in ((data, values), (indices, stored)):
                dataset.resize((filled + stored.size,))
                dataset[filled:] = block
            filled += stored.size
        matrix["indptr"] = np.concatenate([[0], np.cumsum(lengths)])
        frames = {"obs": [f"s_{i:08d}-1" for i in range(n_sites)],
                  "var": [f"ENSG{i:011d}" for i in range(N_GENES)]}  # fmt: skip
        for name, index in frames.items():
            frame = file.create_group(name)
            frame.attrs.update(
                {"_index": "_index", "encoding-type": "dataframe", "encoding-version": "0.2.0",
                 "column-order": np.asarray([], dtype=text)}
            )  # fmt: skip
            frame.create_dataset("_index", data=np.asarray(index, dtype=object), dtype=text)
            frame["_index"].attrs.update(
                {"encoding-type": "string-array", "encoding-version": "0.2.0"}
            )
        for name, values in (("array_row", row), ("array_col", col)):
            file["obs"].create_dataset(name, data=values)
            file["obs"][name].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        places = file.create_group("obsm")
        places.attrs.update({"encoding-type": "dict", "encoding-version": "0.1.0"})
        places["spatial"] = np.stack([col, row], axis=1) * 2.0
        places["spatial"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return filled


@dataclass(frozen=True)
class Cost:
    """What one command took."""

    seconds: float
    cpu: float
    peak: int
    """Largest resident memory of any of its processes, in bytes."""


def measure(*arguments: str | Path) -> Cost:
    """Run one command to its end and watch every process of its group."""
    command = [sys.executable, "-m", *map(str, arguments)]
    before = os.times()
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    peaks: dict[int, int] = {}
    while process.poll() is None:
        for pid in _group(process.pid):
            peaks[pid] = max(peaks.get(pid, 0), _peak(pid))
        time.sleep(0.05)
    seconds, after = time.monotonic() - start, os.times()
    if process.returncode:
        msg = f"{command} ended with {process.returncode}"
        raise RuntimeError(msg)
    cpu = after.children_user + after.children_system - before.children_user
    return Cost(seconds, cpu - before.children_system, max(peaks.values()))


def _group(leader: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and os.getpgid(int(entry.name)) == leader:
                found.append(int(entry.name))
        except ProcessLookupError:
            continue
    return found


def _peak(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), 0)


def main() -> None:
    """Measure every size and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--n-per-slice", type=int, default=200)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for n_sites in options.sizes:
            path = root / f"hd{n_sites}.h5ad"
            stored = write_huge(path, n_sites)
            grids, shards = root / f"g{n_sites}", root / f"s{n_sites}"
            compact = measure("stbuild", "compact", path, "-o", grids, "--pitch-um", "2")
            shard = measure(
                "stbuild", "shard", grids, "-o", shards, "--n-per-slice", str(options.n_per_slice)
            )
            row = (
                f"| {n_sites:,} | {stored:,} | {path.stat().st_size / 1e6:,.0f} MB "
                f"| {compact.seconds:.1f} s ({compact.cpu:.1f}) | {compact.peak / 2**20:,.0f} MiB "
                f"| {shard.seconds:.1f} s ({shard.cpu:.1f}) | {shard.peak / 2**20:,.0f} MiB |"
            )
            sys.stdout.write(row + "\n")
            sys.stdout.flush()
            rows.append(row)
            path.unlink()
    if options.output is not None:
        head = (
            "| sites | non-zeros | .h5ad | compact: wall (CPU) | peak | "
            f"shard {options.n_per_slice}: wall (CPU) | peak |\n|---|---|---|---|---|---|---|\n"
        )
        options.output.write_text(head + "\n".join(rows) + "\n", "utf-8")


if __name__ == "__main__":
    main()
