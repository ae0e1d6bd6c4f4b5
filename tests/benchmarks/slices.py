"""The slices that speed is measured on: real sections where they are at hand, else the sample."""

import sys
from pathlib import Path

from tests.benchmarks.measure import ROOT

HER2ST = ROOT.parent / "shared" / "data" / "her2st"


def real_slices(most: int | None = None) -> tuple[str, list[Path]]:
    """Return what they are and the files: HER2+ sections, else the bundled Visium section."""
    paths = sorted(HER2ST.glob("*.h5ad"))[:most]
    if paths:
        spots = "176-691 spots, about 15,000 genes"
        return f"{len(paths)} HER2+ sections (legacy ST, {spots})", paths
    return (
        "1 bundled Visium section (3,529 spots, 5,000 genes; ../shared/data is not at hand)",
        [ROOT / "sample" / "Br8325_ant.h5ad"],
    )


def synthetic_slice(
    path: Path, seed: int = 0, height: int = 67, width: int = 64, n_genes: int = 20_000
) -> str:
    """Write a slice of Visium's size with overdispersed counts; return what it is."""
    import anndata  # here, so that whoever only lists the slices stays small
    import numpy as np
    import pandas as pd
    from scipy import sparse

    rng = np.random.default_rng(seed)
    mean = rng.lognormal(-2.4, 1.6, n_genes)
    row, col = np.divmod(np.arange(height * width), width)
    blocks = []
    for start in range(0, n_genes, 2000):
        part = mean[start : start + 2000]
        wave = np.exp(np.sin(row[:, None] / 9 + np.arange(part.size)[None, :]))
        rate = part * wave * rng.gamma(2, 0.5, (row.size, part.size))
        blocks.append(sparse.csr_matrix(rng.poisson(rate).astype(np.int32)))
    counts = sparse.csr_matrix(sparse.hstack(blocks))
    names = [f"spot{i:05d}-1" for i in range(row.size)]
    obs = pd.DataFrame({"array_row": row, "array_col": col}, index=names)
    var = pd.DataFrame(index=[f"GENE{i:05d}" for i in range(n_genes)])
    data = anndata.AnnData(counts, obs=obs, var=var)
    data.obsm["spatial"] = np.stack([col, row], 1) * 100.0
    data.write_h5ad(path, compression="gzip")
    filled = counts.nnz / (row.size * n_genes)
    return f"1 synthetic slice ({height} x {width} spots, {n_genes:,} genes, {filled:.0%} not 0)"


if __name__ == "__main__":
    print(synthetic_slice(Path(sys.argv[1]), int(sys.argv[2])))  # noqa: T201 - the answer to whoever started it
