"""The same data for every loader: patches as plain arrays, and their slices as ``.h5ad``."""

from pathlib import Path

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from stbuild.corpus.reader import Corpus
from stbuild.grid.store import read_grid
from sttrain.stream.source import PatchSource


def write_exchange(corpus: Corpus, grids: Path, out: Path) -> None:
    """Write what :func:`tests.benchmarks.peers.protocol.read_data` maps.

    Parameters
    ----------
    corpus
        A training corpus.
    grids
        The grids that it was cropped from.
    out
        Folder for ``counts``, ``genes``, ``totals``, ``places`` and the slices.

    Raises
    ------
    ValueError
        A window that reaches past its slice, or genes that a slice does not measure: peers would
        have to be taught what ours does there.
    """
    out.mkdir(parents=True, exist_ok=True)
    source = PatchSource(corpus, "train")
    counts, genes, totals = source.read(range(len(source)))
    slugs = sorted(set(source.index.slices))
    number = {slug: i for i, slug in enumerate(slugs)}
    of = np.asarray([number[slug] for slug in source.index.slices])
    if int(genes.min()) < 0 or counts.dtype != np.uint16:
        msg = "a patch is padded in genes or wider than 16 bits; choose other slices"
        raise ValueError(msg)
    arrays = {"counts": counts, "genes": genes, "totals": totals}
    arrays["places"] = np.stack([of, source.index.row, source.index.col], axis=1).astype(np.int32)
    for name, array in arrays.items():
        np.save(out / f"{name}.npy", array, allow_pickle=False)
    for slug in slugs:
        _write_slice(grids / f"{slug}.zarr", corpus, out / f"slice-{number[slug]:04d}.h5ad")


def _write_slice(grid_path: Path, corpus: Corpus, out: Path) -> None:
    grid = read_grid(grid_path)
    column = {gene: i for i, gene in enumerate(corpus.genes)}
    known = [i for i, gene in enumerate(grid.genes) if gene in column]
    kept = grid.counts.tocsc()[:, known]
    at = np.asarray([column[grid.genes[i]] for i in known])
    entries = kept.tocoo()
    values = sparse.csr_matrix(
        (entries.data.astype(np.uint16), (entries.coords[0], at[entries.coords[1]])),
        shape=(len(grid.barcodes), len(corpus.genes)),
    )
    obs = pd.DataFrame(
        {"row": grid.rows, "col": grid.cols, "total": grid.totals.astype(np.int64)},
        index=list(grid.barcodes),
    )
    anndata.AnnData(values, obs=obs, var=pd.DataFrame(index=list(corpus.genes))).write_h5ad(out)
