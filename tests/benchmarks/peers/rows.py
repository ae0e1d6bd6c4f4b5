"""Patches as rows: an AnnData whose observations are patches, for loaders of single cells."""

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from tests.benchmarks.peers.protocol import Data

_PART = 100


def write_rows(data: Data, out: Path, *, floats: bool, dense: bool) -> Path:
    """Write an ``.h5ad`` of N rows; a row is a patch, gene-major.

    Parameters
    ----------
    data
        The patches.
    out
        File.
    floats
        Write log1p(CP10K) instead of counts.
    dense
        Write a dense X instead of a sparse one.
    """
    parts: list[Any] = []
    for start in range(0, len(data.counts), _PART):
        stop = min(start + _PART, len(data.counts))
        some = data.values(start, stop) if floats else data.counts[start:stop]
        flat = np.asarray(some).reshape(len(some), -1)
        parts.append(flat if dense else sparse.csr_matrix(flat))
    values = np.concatenate(parts) if dense else sparse.vstack(parts, format="csr")
    obs = pd.DataFrame(index=[f"patch{i:06d}" for i in range(values.shape[0])])
    var = pd.DataFrame(index=[f"v{i:06d}" for i in range(values.shape[1])])
    out.parent.mkdir(parents=True, exist_ok=True)
    anndata.AnnData(values, obs=obs, var=var).write_h5ad(out)
    return out
