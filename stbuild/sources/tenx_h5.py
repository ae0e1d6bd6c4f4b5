"""10x feature-barcode matrices in one ``.h5`` file, of Cell Ranger 3 and later or of version 2.

The file holds features x barcodes; a stored column is one barcode. Only genes are kept: antibodies,
guides and control probes are counted and left out. What a barcode's place is, is not known here.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from scipy.sparse import csr_array

from stbuild.counts import column_sums, gather
from stbuild.genes.ids import find_other_types
from stbuild.slices import Notice
from stbuild.sources.faults import SourceFaultError
from stbuild.sources.hdf5 import child, has, open_foreign, read_strings
from stbuild.sources.matrices import read_sparse

AGAIN: Final = "get the file again, or run Space Ranger again"
_NAMES: Final = frozenset({"name", "gene_name", "gene_names", "feature_name", "symbol"})
"""What a user may call the column of symbols; the files themselves have two columns of ids."""


@dataclass(frozen=True, kw_only=True)
class Features:
    """Rows of a 10x matrix as they are stored, F of each."""

    ids: list[str]
    """Ensembl ids, or whatever the reference used."""
    names: list[str]
    """Symbols."""
    kinds: list[str]
    """Feature types; empty where the file knows none: all are genes."""
    genomes: list[str]
    """Empty where the file knows none."""


@dataclass(frozen=True, kw_only=True)
class TenxMatrix:
    """Genes of a 10x matrix: N barcodes, K genes."""

    counts: csr_array
    """(N, K) uint32."""
    barcodes: list[str]
    ids: list[str]
    """(K,) Ensembl ids, or whatever the reference used."""
    names: list[str]
    """(K,) symbols."""
    genomes: tuple[str, ...]
    files: tuple[Path, ...]
    left_out: dict[str, int]
    """Features that are no genes and their molecules."""

    def tell(self, name: str) -> tuple[Notice, ...]:
        """Say which features of a slice are left out."""
        if not self.left_out:
            return ()
        n, lost = self.left_out.values()
        what = f"{n:,} features with {lost:,} molecules are no genes by their type: left out"
        return (Notice(code="B073", subject=f"slice '{name}'", what=what),)

    def gene_ids(self, column: str | None) -> tuple[list[str], list[str]]:
        """Return (ids, other names), the other way round where symbols are asked for.

        Raises
        ------
        SourceFaultError
            B074: neither of the two columns.
        """
        if column is None or column in ("id", "gene_id", "gene_ids"):
            return self.ids, self.names
        if column in _NAMES:
            return self.names, self.ids
        what = f"no column {column!r:.60} of genes; a 10x matrix has 'id' and 'name'"
        raise SourceFaultError("B074", self.files[0].name, what, "--gene-id-column id or name")


def read_tenx_h5(
    name: str, path: Path, scratch: Path | None = None, *, sum_duplicates: bool = False
) -> TenxMatrix:
    """Read a 10x ``.h5`` matrix.

    Parameters
    ----------
    name
        Slice id, for messages.
    path
        The file.
    scratch
        Folder for counts that do not fit into memory.
    sum_duplicates
        Sum entries that stand twice instead of refusing them.

    Raises
    ------
    BadInputError
        Not HDF5, damaged, a matrix of probes, or not a matrix of genes.
    """
    with open_foreign(name, str(path)) as file:
        group, features = _open_matrix(file, path)
        barcodes = read_strings(_dataset(group, "barcodes", path))
        shape = (len(barcodes), len(features.ids))
        _require_shape(group, shape, path)
        data, indices, indptr = (
            _dataset(group, part, path) for part in ("data", "indices", "indptr")
        )
        where = f"{path.name}:{group.name}"
        counts = read_sparse(
            data, indices, indptr, shape, where, scratch, sum_duplicates=sum_duplicates
        )
    return keep_genes(counts, barcodes, features, (path,), scratch)


def _open_matrix(file: h5py.File, path: Path) -> tuple[h5py.Group, Features]:
    if not has(file, "matrix/features"):
        return _open_old(file, path)
    group, table = child(file, "matrix"), child(file, "matrix/features")
    if has(table, "probe_region") or has(table, "filtered_probes"):
        what = "a matrix of probes, not of genes"
        fix = "give filtered_feature_bc_matrix.h5 of the same run, where probes are summed to genes"
        raise SourceFaultError("B007", path.name, what, fix)
    ids = read_strings(_dataset(table, "id", path))
    columns = {"name": ids, "feature_type": [""] * len(ids), "genome": [""] * len(ids)}
    for column in columns:
        if has(table, column):
            columns[column] = read_strings(_dataset(table, column, path))
        if len(columns[column]) != len(ids):
            what = f"{len(columns[column]):,} entries for {len(ids):,} features"
            raise SourceFaultError("B041", f"{path.name}:{table.name}/{column}", what, AGAIN)
    names, kinds, genomes = columns.values()
    return group, Features(ids=ids, names=names, kinds=kinds, genomes=genomes)


def _open_old(file: h5py.File, path: Path) -> tuple[h5py.Group, Features]:
    """Open the one genome of a version 2 file, which has a group per genome."""
    groups = sorted(name for name in file if has(file, f"{name}/gene_names"))
    if len(groups) != 1:
        listed = ", ".join(repr(name)[:40] for name in sorted(groups or file)[:5]) or "nothing"
        what = f"not a 10x matrix: expected /matrix or one genome, it holds {listed}"
        raise SourceFaultError("B007", path.name, what, "give filtered_feature_bc_matrix.h5")
    group = child(file, groups[0])
    ids = read_strings(_dataset(group, "genes", path))
    names = read_strings(_dataset(group, "gene_names", path))
    if len(names) != len(ids):
        what = f"{len(names):,} names for {len(ids):,} genes"
        raise SourceFaultError("B041", f"{path.name}:{group.name}/gene_names", what, AGAIN)
    kinds, genomes = ["Gene Expression"] * len(ids), [groups[0]] * len(ids)
    return group, Features(ids=ids, names=names, kinds=kinds, genomes=genomes)


def _dataset(group: h5py.Group, name: str, path: Path) -> Any:  # noqa: ANN401 - h5py is untyped
    node = child(group, name) if has(group, name) else None
    if not isinstance(node, h5py.Dataset):
        what = f"no data set '{name}' in {group.name}, as every 10x matrix has one"
        raise SourceFaultError("B041", f"{path.name}:{group.name}", what, AGAIN)
    return node


def _require_shape(group: h5py.Group, shape: tuple[int, int], path: Path) -> None:
    node = _dataset(group, "shape", path)
    values = node[:2] if node.ndim == 1 and node.dtype.kind in "iu" else np.zeros(0)
    stored = tuple(int(n) for n in values)
    if node.shape != (2,) or stored != shape[::-1]:
        what = f"shape {stored}, but there are {shape[1]:,} features, {shape[0]:,} barcodes"
        raise SourceFaultError("B041", f"{path.name}:{group.name}/shape", what, AGAIN)


def keep_genes(
    counts: csr_array,
    barcodes: list[str],
    features: Features,
    files: tuple[Path, ...],
    scratch: Path | None,
) -> TenxMatrix:
    """Leave out features that are no genes, counting them and their molecules.

    Parameters
    ----------
    counts
        (N, F) uint32 of all features.
    barcodes
        (N,).
    features
        The F features.
    files
        What was read.
    scratch
        Folder for counts that do not fit into memory.

    Raises
    ------
    SourceFaultError
        B023: there are features, and none is a gene.
    """
    kept = [i for i, other in enumerate(find_other_types(features.kinds)) if not other]
    n, left_out = len(features.ids), {}
    if not kept:
        common = ", ".join(f"{kind!r:.40}" for kind, _ in Counter(features.kinds).most_common(3))
        what = f"no gene among {n:,} features ({common})"
        raise SourceFaultError("B023", files[0].name, what, "give the matrix of gene expression")
    if len(kept) < n:
        column = np.full(n, -1, np.int64)
        column[kept] = np.arange(len(kept))
        left_out = {
            "features_of_other_types": n - len(kept),
            "molecules_of_other_types": int(column_sums(counts)[column < 0].sum()),
        }
        rows = np.arange(len(barcodes))
        counts = gather(counts, rows, scratch, column=column, n_columns=len(kept))
    return TenxMatrix(
        counts=counts,
        barcodes=barcodes,
        ids=[features.ids[i] for i in kept],
        names=[features.names[i] for i in kept],
        genomes=tuple(sorted({features.genomes[i] for i in kept} - {""})),
        files=files,
        left_out=left_out,
    )
