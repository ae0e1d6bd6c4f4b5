"""Hypothesis strategies: good slices of every kind and container, and valid files hurt anywhere."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import sparse

from stbuild.config import GridConfig
from tests.lattice_points import KINDS, sites, turn
from tests.zoo.make_zoo import put_array, put_frame, put_matrix

DTYPES = ("?", "<u1", "<i2", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8", ">i4", ">f4")
CONTAINERS = ("csr", "csc", "dense", "reversed")
PLACES = ("array", "positions", "both", "columns")


@dataclass(frozen=True)
class Drawn:
    """A good slice and how it is stored. Letters: N spots, K genes."""

    kind: str
    counts: NDArray[np.int64] = field(repr=False)
    """(N, K)."""
    row: NDArray[np.int64] = field(repr=False)
    col: NDArray[np.int64] = field(repr=False)
    xy: NDArray[np.float64] = field(repr=False)
    barcodes: tuple[str, ...] = field(repr=False)
    genes: tuple[str, ...]
    dtype: str
    container: str
    places: str
    compressed: bool

    @property
    def config(self) -> GridConfig:
        """How it is placed: what lies on no lattice is binned."""
        binned = self.kind == "irregular"
        return GridConfig(label="label", layout="bin" if binned else "auto", pitch_um=100.0)

    def write(self, path: Path) -> Path:
        """Write it as an ``.h5ad``."""
        columns: dict[str, Any] = {"label": [f"layer{i % 3}" for i in self.row.tolist()]}
        if self.places in ("array", "both"):
            columns |= {"array_row": self.row, "array_col": self.col}
        if self.places == "columns":
            columns |= {"x": self.xy[:, 0], "y": self.xy[:, 1]}
        with h5py.File(path, "w") as file:
            put_frame(file, "obs", list(self.barcodes), columns)
            put_frame(file, "var", list(self.genes), {})
            _put_counts(file, self.counts.astype(self.dtype), self.container, self.compressed)
            if self.places in ("positions", "both"):
                put_array(file.create_group("obsm"), "spatial", self.xy)
        return path

    def stored_otherwise(self, order: np.random.Generator, dtype: str, container: str) -> "Drawn":
        """Return the same slice with its spots and genes in another order, stored otherwise."""
        spots, genes = order.permutation(len(self.barcodes)), order.permutation(len(self.genes))
        return replace(
            self,
            counts=self.counts[spots][:, genes],
            row=self.row[spots],
            col=self.col[spots],
            xy=self.xy[spots],
            barcodes=tuple(self.barcodes[i] for i in spots),
            genes=tuple(self.genes[i] for i in genes),
            dtype=dtype,
            container=container,
            compressed=not self.compressed,
        )


def _put_counts(file: h5py.File, counts: NDArray[Any], container: str, compressed: bool) -> None:
    if container == "dense":
        put_matrix(file, "X", counts, sparse=False)
    elif container == "csc":
        _put_compressed(file, sparse.csc_array(counts.astype(np.int64)), "csc_matrix", counts.dtype)
    else:
        rows = sparse.csr_array(counts.astype(np.int64))
        if container == "reversed":  # rows whose entries are not sorted
            for start, stop in zip(rows.indptr[:-1], rows.indptr[1:], strict=True):
                for values in (rows.data, rows.indices):
                    values[start:stop] = values[start:stop][::-1].copy()
        _put_compressed(file, rows, "csr_matrix", counts.dtype)
    if compressed and container == "dense":
        values, told = file["X"][:], dict(file["X"].attrs)
        del file["X"]
        file.create_dataset("X", data=values, compression="gzip", chunks=True)
        file["X"].attrs.update(told)


def _put_compressed(file: h5py.File, matrix: Any, encoding: str, dtype: Any) -> None:
    group = file.create_group("X")
    group.attrs.update({"encoding-type": encoding, "encoding-version": "0.1.0"})
    group.attrs["shape"] = np.array(matrix.shape, "<i8")
    group["data"] = matrix.data.astype(dtype)
    group["indices"], group["indptr"] = matrix.indices, matrix.indptr


@st.composite
def slices(draw: st.DrawFn) -> Drawn:
    """A slice of 8 to 14 rows and columns that every reader must take."""
    kind = draw(st.sampled_from((*KINDS, "irregular")))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n_rows, n_cols = draw(st.integers(10, 14)), draw(st.integers(10, 14))
    row, col, xy = sites("square" if kind == "irregular" else kind, n_rows, n_cols)
    kept = rng.random(row.size) > draw(st.sampled_from((0.0, 0.1)))
    row, col, xy = row[kept], col[kept], xy[kept]
    if kind == "irregular":
        xy = rng.random(xy.shape) * [n_cols, n_rows]
    xy = turn(xy, draw(st.sampled_from((0.0, 3.0, 45.0, 171.0))), mirrored=draw(st.booleans()))
    dtype = draw(st.sampled_from(DTYPES))
    counts = rng.poisson(draw(st.sampled_from((0.3, 2.0))), (len(row), draw(st.integers(1, 12))))
    counts[:, 0] += 1  # no spot is empty
    places = ("positions", "columns") if kind == "irregular" else PLACES
    return Drawn(
        kind=kind,
        counts=np.minimum(counts, 1) if dtype == "?" else counts,
        row=row,
        col=col,
        xy=xy,
        barcodes=tuple(f"spot{i:03d}-1" for i in rng.permutation(len(row))),
        genes=tuple(f"GENE{i}" for i in rng.permutation(counts.shape[1])),
        dtype=dtype,
        container=draw(st.sampled_from(CONTAINERS)),
        places=draw(st.sampled_from(places)),
        compressed=draw(st.booleans()),
    )


ODD_VALUES: tuple[Any, ...] = (
    0, -1, 1.5, np.nan, np.inf, 2**63 - 1, 2**64 - 1, 1e300, 5e-324, True, 1 + 2j, b"", b"\xff",
    "text", "\x1b[31m\n", "\u202e", "x" * 300,
)  # fmt: skip
ODD_SHAPES: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (5,), (0, 0), (3, 2), (2, 2, 2))
ODD_ATTRIBUTES: tuple[Any, ...] = (
    "", "later", "dataframe", "csr_matrix", "categorical", "string-array", b"array", 3, -1, 1.5,
    np.zeros(0), np.array([64, 12, 1]), np.array([-1, 3]), np.array([10**12, 10**12]),
    "../obs", "/", "a\nb", "\x1b", h5py.Empty("f4"),
)  # fmt: skip


def names_in(file: h5py.File) -> list[str]:
    """Return the path of everything in a file."""
    found: list[str] = []
    file.visit(found.append)
    return sorted(found)


def _odd_array(draw: st.DrawFn, like: Any) -> Any:
    """Return an array of another type, shape or content than the one that stands there."""
    value = draw(st.sampled_from(ODD_VALUES))
    shape = like.shape if draw(st.booleans()) else draw(st.sampled_from(ODD_SHAPES))
    if isinstance(value, str):
        return np.full(shape, value, object)
    return np.full(shape, value)


def _change_values(draw: st.DrawFn, file: h5py.File, name: str) -> None:
    """Put an odd value in one place of an array, where its type can hold it."""
    node = file[name]
    if node.dtype.kind not in "iufb" or not node.size:
        return
    values = node[()]
    odd = [v for v in ODD_VALUES if isinstance(v, int | float)]
    value, place = draw(st.sampled_from(odd)), draw(st.integers(0, node.size - 1))
    with np.errstate(all="ignore"):
        try:
            values.reshape(-1)[place] = value
        except (OverflowError, ValueError):
            values.reshape(-1)[place] = np.asarray(value, np.float64).astype(np.int64)
    node[...] = values


def hurt(draw: st.DrawFn, path: Path) -> str:
    """Change one thing of a valid file, and return what was done."""
    with h5py.File(path, "r+") as file:
        name = draw(st.sampled_from(names_in(file)))
        node = file[name]
        kept = node[()] if isinstance(node, h5py.Dataset) else None
        told = dict(node.attrs)
        ways: dict[str, Callable[[], Any]] = {
            "removed": lambda: None,
            "a group": lambda: file.create_group(name),
            "null": lambda: file.__setitem__(name, h5py.Empty("f4")),
            "a named type": lambda: file.__setitem__(name, np.dtype("<f4")),
            "a link": lambda: file.__setitem__(name, h5py.SoftLink("/obs")),
            "a number": lambda: file.__setitem__(name, draw(st.sampled_from((0, 1.5, True)))),
        }
        if isinstance(node, h5py.Dataset):
            ways |= {
                "another array": lambda: _put_like(draw, file, name, told),
                "another length": lambda: file.__setitem__(name, _resized(draw, kept)),
            }
        way = draw(st.sampled_from((*ways, "attribute", "no attribute", "value")))
        if way == "attribute":
            node.attrs[draw(st.sampled_from(sorted(told) or ["shape"]))] = draw(
                st.sampled_from(ODD_ATTRIBUTES)
            )
        elif way == "no attribute":
            for key in sorted(told)[:1]:
                del node.attrs[key]
        elif way == "value":
            if isinstance(node, h5py.Dataset):
                _change_values(draw, file, name)
        else:
            odd = node
            del file[name], odd
            ways[way]()
            if way in ("another length", "null"):
                file[name].attrs.update(told)
    return f"{name}: {way}"


def _put_like(draw: st.DrawFn, file: h5py.File, name: str, told: dict[str, Any]) -> None:
    like = np.zeros(draw(st.sampled_from(((5,), (100,), (100, 2)))))
    values = _odd_array(draw, like)
    if values.dtype == object:
        file.create_dataset(name, data=values, dtype=h5py.string_dtype())
    else:
        file[name] = values
    file[name].attrs.update(told)


def _resized(draw: st.DrawFn, values: Any) -> Any:
    flat = np.ravel(values)
    longer = np.concatenate([flat, flat[:1]])
    return draw(st.sampled_from((flat[:-1], longer, flat[:0], flat.reshape(1, -1))))
