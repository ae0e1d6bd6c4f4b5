"""Writers of small folders in the true formats of 10x: matrices, positions, whole runs."""

import gzip
import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from scipy.io import mmwrite
from scipy.sparse import coo_matrix, csc_matrix

IDS = [f"ENSG{i:011d}" for i in range(12)]
NAMES = [f"GENE{i}" for i in range(12)]


def counts_of(n: int, seed: int = 0) -> np.ndarray:
    """Return (n, 12) counts, every spot with at least one."""
    dense = np.random.default_rng(seed).poisson(0.8, (n, 12)).astype(np.int64)
    dense[:, 0] += 1
    return dense


def hex_spots(rows: int = 8, cols: int = 8) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return barcodes, (n, 2) array coordinates (row, col) and (n, 2) pixels (row, col)."""
    row, k = np.divmod(np.arange(rows * cols), cols)
    col = 2 * k + row % 2
    array = np.stack([row, col], axis=1)
    pixels = np.stack([row * 86.6, col * 50.0], axis=1) + 1000
    letters = np.asarray(list("ACGT"))
    names = ["".join(letters[[(i >> s) & 3 for s in range(0, 12, 2)]]) for i in range(row.size)]
    return [f"{name}-1" for name in names], array, pixels


def write_h5(path: Path, barcodes, dense, *, types=None, ids=IDS, names=NAMES, probes=False):
    """Write a 10x matrix of version 3."""
    path.parent.mkdir(parents=True, exist_ok=True)
    matrix = csc_matrix(dense.T)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.asarray(barcodes, "S")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(matrix, name)
        group["shape"] = np.asarray(matrix.shape, np.int32)
        features = group.create_group("features")
        features["id"], features["name"] = np.asarray(ids, "S"), np.asarray(names, "S")
        kinds = types or ["Gene Expression"] * len(ids)
        features["feature_type"] = np.asarray(kinds, "S")
        features["genome"] = np.asarray(["GRCh38"] * len(ids), "S")
        if probes:
            features["probe_region"] = np.asarray(["spliced"] * len(ids), "S")


def write_old_h5(path: Path, barcodes, dense):
    """Write a 10x matrix of version 2, a group per genome."""
    path.parent.mkdir(parents=True, exist_ok=True)
    matrix = csc_matrix(dense.T)
    with h5py.File(path, "w") as file:
        group = file.create_group("GRCh38")
        group["barcodes"] = np.asarray(barcodes, "S")
        group["genes"], group["gene_names"] = np.asarray(IDS, "S"), np.asarray(NAMES, "S")
        for name in ("data", "indices", "indptr"):
            group[name] = getattr(matrix, name)
        group["shape"] = np.asarray(matrix.shape, np.int32)


def write_mtx(folder: Path, barcodes, dense, *, packed=True, old=False, types=None):
    """Write the three files of a 10x matrix folder."""
    folder.mkdir(parents=True, exist_ok=True)
    mmwrite(folder / "matrix.mtx", coo_matrix(dense.T))
    kinds = types or ["Gene Expression"] * len(IDS)
    rows = [
        f"{i}\t{n}" + ("" if old else f"\t{k}") for i, n, k in zip(IDS, NAMES, kinds, strict=True)
    ]
    (folder / ("genes.tsv" if old else "features.tsv")).write_text("\n".join(rows) + "\n")
    (folder / "barcodes.tsv").write_text("\n".join(barcodes) + "\n")
    if packed:
        for path in list(folder.iterdir()):
            (path.with_name(path.name + ".gz")).write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()


def write_positions(path: Path, barcodes, array, pixels, *, header=False, inside=None):
    """Write a table of positions: text with or without a header, or Parquet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    inside = np.ones(len(barcodes), int) if inside is None else inside
    heads = ["barcode", "in_tissue", "array_row", "array_col"]
    heads += ["pxl_row_in_fullres", "pxl_col_in_fullres"]
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = [barcodes, inside, array[:, 0], array[:, 1], pixels[:, 0], pixels[:, 1]]
        pq.write_table(pa.table(dict(zip(heads, columns, strict=True))), path)
        return
    lines = [
        f"{b},{i},{a[0]},{a[1]},{p[0]:g},{p[1]:g}"
        for b, i, a, p in zip(barcodes, inside, array, pixels, strict=True)
    ]
    path.write_text("\n".join([",".join(heads)] * header + lines) + "\n")


def write_run(root: Path, *, matrix="h5", positions="tissue_positions_list.csv", raw=False):
    """Write a whole Space Ranger folder; return barcodes, counts, array and pixels."""
    barcodes, array, pixels = hex_spots()
    dense = counts_of(len(barcodes))
    stem = "raw_feature_bc_matrix" if raw else "filtered_feature_bc_matrix"
    if matrix == "h5":
        write_h5(root / f"{stem}.h5", barcodes, dense)
    elif matrix == "old_h5":
        write_old_h5(root / f"{stem}.h5", barcodes, dense)
    elif matrix == "old_mtx":
        folder = root / "filtered_gene_bc_matrices" / "GRCh38"
        write_mtx(folder, barcodes, dense, packed=False, old=True)
    else:
        write_mtx(root / stem, barcodes, dense, packed=matrix == "mtx_gz")
    header = positions == "tissue_positions.csv"
    write_positions(root / "spatial" / positions, barcodes, array, pixels, header=header)
    (root / "spatial" / "scalefactors_json.json").write_text(
        json.dumps({"spot_diameter_fullres": 65.0})
    )
    return barcodes, dense, array, pixels


def write_xenium(root: Path, *, matrix="h5", table="parquet", kinds=None, ids="text"):
    """Write a Xenium folder of 50 cells; return counts and the table of cells as text ids."""
    rng = np.random.default_rng(1)
    cells = [f"cell-{i}" if ids == "text" else str(i + 1) for i in range(50)]
    dense = counts_of(50)
    root.mkdir()
    if matrix == "h5":
        write_h5(root / "cell_feature_matrix.h5", cells, dense, types=kinds)
    else:
        write_mtx(root / "cell_feature_matrix", cells, dense, types=kinds)
    frame = pd.DataFrame(
        {"cell_id": cells, "x_centroid": rng.random(50) * 90, "y_centroid": rng.random(50) * 90}
    )
    kind = {"text": str, "integer": np.int64, "bytes": np.bytes_}[ids]
    written = frame.assign(cell_id=[kind(cell) for cell in cells])
    if table == "parquet":
        written.to_parquet(root / "cells.parquet")
    else:
        written.to_csv(root / "cells.csv.gz", index=False)
    return dense, frame
