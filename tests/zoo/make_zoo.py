"""Writes the bad input files that the h5ad reader must refuse by name, each below 200 KiB.

``python -m tests.zoo.make_zoo FOLDER`` writes them all. The bytes are the same in every run (but
for the time that h5py stamps on a virtual dataset): plain h5py, no random numbers. Case ids are
those of the project's bad-input catalogue.
"""

import itertools
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

SIDE = 8
N_SPOTS, N_GENES = SIDE * SIDE, 12
CANARY = b"CANARY-of-a-file-nobody-asked-for"
MAX_BYTES = 200 * 1024
GRID_ROWS, GRID_COLS = np.divmod(np.arange(N_SPOTS), SIDE)
XY: NDArray[Any] = np.stack([GRID_COLS, GRID_ROWS], 1) * 100.0


@dataclass(frozen=True)
class Case:
    """One file and what ``stbuild compact FILE`` must say about it."""

    name: str
    code: str
    """Catalogue id in the message; of a warning where the exit code is 0."""
    match: str
    """Regular expression that the text of the message holds."""
    make: Callable[[Path], None]
    exit_code: int = 3
    arguments: tuple[str, ...] = ()
    file: str | None = None
    """File name, where the name itself is the case."""


@dataclass
class Slice:
    """A good slice on an 8 x 8 square array; cases change it before or after it is written."""

    counts: NDArray[Any] = field(
        default_factory=lambda: (
            (np.arange(N_SPOTS * N_GENES).reshape(N_SPOTS, N_GENES) * 7 % 5).astype("<i4")
            + (np.arange(N_GENES) == 0)
        )
    )
    columns: dict[str, Any] = field(default_factory=dict)
    barcodes: list[str] = field(default_factory=lambda: [f"AAAC{i:03d}-1" for i in range(N_SPOTS)])
    genes: list[str] = field(default_factory=lambda: [f"ENSG{i:011d}" for i in range(N_GENES)])
    xy: NDArray[Any] | None = field(default_factory=lambda: XY.copy())
    array: bool = True
    sparse: bool = True

    def write(self, path: Path) -> None:
        n = len(self.barcodes)
        row, col = np.divmod(np.arange(n), SIDE)
        columns: dict[str, Any] = {"label": [f"layer{i % 3}" for i in range(n)]}
        if self.array:
            columns |= {"array_row": row, "array_col": col}
        with h5py.File(path, "w") as file:
            file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
            put_frame(file, "obs", self.barcodes, columns | self.columns)
            put_frame(file, "var", self.genes, {})
            put_matrix(file, "X", self.counts, sparse=self.sparse)
            if self.xy is not None:
                put_array(file.create_group("obsm"), "spatial", self.xy)


def put_array(group: h5py.Group, name: str, values: Any) -> None:
    array = np.asarray(values)
    if array.dtype.kind == "U":
        array = array.astype(object)
        node = group.create_dataset(name, data=array, dtype=h5py.string_dtype())
        node.attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
        return
    node = group.create_dataset(name, data=array)
    node.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})


def put_frame(file: h5py.File, name: str, index: list[str], columns: Mapping[str, Any]) -> None:
    group = file.create_group(name)
    group.attrs.update(
        {"encoding-type": "dataframe", "encoding-version": "0.2.0", "_index": "_index"}
    )
    group.attrs["column-order"] = np.array(list(columns), h5py.string_dtype())
    put_array(group, "_index", np.array(index, "U") if index else np.zeros(0, "U1"))
    for key, values in columns.items():
        put_array(group, key, values)


def put_matrix(parent: h5py.Group, name: str, dense: NDArray[Any], *, sparse: bool = True) -> None:
    if not sparse:
        put_array(parent, name, dense)
        return
    rows, cols = np.nonzero(dense)
    group = parent.create_group(name)
    group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
    group.attrs["shape"] = np.array(dense.shape, "<i8")
    group["data"] = dense[rows, cols]
    group["indices"] = cols.astype("<i4")
    group["indptr"] = np.searchsorted(rows, np.arange(dense.shape[0] + 1)).astype("<i4")


def put_categorical(group: h5py.Group, name: str, codes: Any, categories: list[str]) -> None:
    if name in group:
        del group[name]
    node = group.create_group(name)
    node.attrs.update(
        {"encoding-type": "categorical", "encoding-version": "0.2.0", "ordered": False}
    )
    put_array(node, "codes", np.asarray(codes, "i1"))
    put_array(node, "categories", np.array(categories))


def good(**changes: Any) -> Callable[[Path], None]:
    """Write a slice with some of its parts changed."""
    return lambda path: Slice(**changes).write(path)


def edited(change: Callable[[h5py.File], None], **changes: Any) -> Callable[[Path], None]:
    """Write a slice, then change the file."""

    def make(path: Path) -> None:
        Slice(**changes).write(path)
        with h5py.File(path, "r+") as file:
            change(file)

    return make


def raw(data: bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.write_bytes(data)

    return make


def counts(change: Callable[[NDArray[Any]], Any], dtype: str = "<f8") -> NDArray[Any]:
    """Return the counts as another type, changed in place."""
    array = Slice().counts.astype(dtype)
    change(array)
    return array


def put(place: Any, value: Any) -> Callable[[Any], None]:
    def change(array: Any) -> None:
        array[place] = value

    return change


def truncated(share: float) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        Slice().write(path)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return make


def replaced(name: str, values: Any) -> Callable[[h5py.File], None]:
    """Put another array in place of a dataset, its attributes kept."""

    def change(file: h5py.File) -> None:
        attributes = dict(file[name].attrs)
        del file[name]
        file[name] = values
        file[name].attrs.update(attributes)

    return change


def removed(*names: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        for name in names:
            del file[name]

    return change


def canary(path: Path) -> Path:
    """Write another HDF5 file and a plain file beside `path`; no byte of them may be read."""
    other = path.with_name("other.bin")
    with h5py.File(other, "w") as file:
        file["data"] = np.full(200, 7, "<i4")
        put_array(file, "strings", np.array([CANARY.decode()] * N_SPOTS))
        file.create_group("frame")["array_row"] = np.arange(N_SPOTS)
    path.with_name("plain.bin").write_bytes(CANARY * 100)
    return other


def external_link(name: str, target: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        Slice().write(path)
        other = canary(path)
        with h5py.File(path, "r+") as file:
            del file[name]
            file[name] = h5py.ExternalLink(other.name, target)

    return make


def external_category(path: Path) -> None:
    """Link out of the file one level below a column: in the categories of a label."""
    Slice().write(path)
    other = canary(path)
    with h5py.File(path, "r+") as file:
        put_categorical(file["obs"], "label", np.zeros(N_SPOTS), ["a"])
        del file["obs/label/categories"]
        file["obs/label/categories"] = h5py.ExternalLink(other.name, "strings")


def external_storage(path: Path) -> None:
    Slice().write(path)
    canary(path)
    with h5py.File(path, "r+") as file:
        n = file["X/data"].shape[0]
        del file["X/data"]
        file["X"].create_dataset("data", (n,), "<i4", external=[("plain.bin", 0, n * 4)])


def virtual(path: Path) -> None:
    Slice().write(path)
    other = canary(path)
    with h5py.File(path, "r+") as file:
        n = file["X/data"].shape[0]
        del file["X/data"]
        layout = h5py.VirtualLayout((n,), "<i4")
        layout[: min(n, 200)] = h5py.VirtualSource(other.name, "data", (200,))[: min(n, 200)]
        file["X"].create_virtual_dataset("data", layout)


def soft_link(file: h5py.File) -> None:
    file["copy"] = file["X"]
    del file["X"]
    file["X"] = h5py.SoftLink("/copy")


def bomb(file: h5py.File) -> None:
    """Declare 10^12 values of which none is stored."""
    del file["X"]
    file.create_dataset("X", (10**6, 10**6), "<f4", chunks=(1000, 1000))


def sparse_bomb(file: h5py.File) -> None:
    del file["X/data"]
    file["X"].create_dataset("data", (10**12,), "<i4", chunks=(10**6,))


def dense_as_declared(file: h5py.File) -> None:
    """Declare a shape attribute of 10^9 rows over a small matrix."""
    file["X"].attrs["shape"] = np.array([10**9, N_GENES], "<i8")


def foreign_filter(file: h5py.File) -> None:
    """Claim a filter that nobody has."""
    del file["X/data"]
    create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    create.set_chunk((64,))
    create.set_obj_track_times(False)
    create.set_filter(32013, h5py.h5z.FLAG_OPTIONAL, (1, 2))
    space = h5py.h5s.create_simple((400,))
    h5py.h5d.create(file["X"].id, b"data", h5py.h5t.NATIVE_INT32, space, dcpl=create)


def twin_entry(file: h5py.File) -> None:
    indices = file["X/indices"][:]
    indices[1] = indices[0]
    file["X/indices"][:] = indices


def emptied(name: str) -> Callable[[h5py.File], None]:
    """Put a dataset of no values (a null data space) in place of another."""

    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = h5py.Empty("f4")

    return change


def attribute(name: str, key: str, value: Any) -> Callable[[h5py.File], None]:
    """Set an attribute, or remove it where the value is None."""

    def change(file: h5py.File) -> None:
        if value is None:
            del file[name].attrs[key]
        else:
            file[name].attrs[key] = value

    return change


def moved_to(place: str, *, var: bool = False) -> Callable[[h5py.File], None]:
    """Leave no X: the counts stand in a layer or in raw alone."""

    def change(file: h5py.File) -> None:
        file.copy("X", place)
        if var:
            file.copy("var", "raw/var")
        del file["X"]

    return change


def kept_and(*changes: Callable[[h5py.File], Any]) -> Callable[[h5py.File], None]:
    """Make several changes."""

    def change(file: h5py.File) -> None:
        for one in changes:
            one(file)

    return change


def recast(name: str, dtype: str) -> Callable[[h5py.File], None]:
    """Store a dataset as another type."""
    return lambda file: replaced(name, file[name][:].astype(dtype))(file)


def as_group(name: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file.create_group(name)

    return change


def two_codes_a_spot(file: h5py.File) -> None:
    put_categorical(file["obs"], "label", np.zeros(N_SPOTS), ["a"])
    replaced("obs/label/codes", np.zeros((N_SPOTS, 2), "i1"))(file)


def records_as_labels(file: h5py.File) -> None:
    del file["obs/label"]
    file["obs/label"] = np.zeros(N_SPOTS, [("a", "<i4"), ("b", "<i4")])


def raw_without_genes(file: h5py.File) -> None:
    file.copy("X", "raw/X")


def unsorted_rows(file: h5py.File) -> None:
    """Turn the entries of every row round, as some writers leave them."""
    starts = file["X/indptr"][:]
    for name in ("X/data", "X/indices"):
        values = file[name][:]
        rows = [values[a:b][::-1] for a, b in itertools.pairwise(starts)]
        file[name][:] = np.concatenate(rows)


def largest_triplet(file: h5py.File) -> None:
    """Store the largest count three times for one spot and gene."""
    data, indices = file["X/data"][:], file["X/indices"][:]
    data[:3], indices[:3] = 2**31 - 1, indices[0]
    file["X/data"][:], file["X/indices"][:] = data, indices


def in_layer(file: h5py.File) -> None:
    """Move the counts to a layer and leave log1p values in X."""
    dense = Slice().counts
    file.create_group("layers")
    put_matrix(file["layers"], "counts", dense)
    data = np.log1p(file["X/data"][:].astype("<f4"))
    replaced("X/data", data)(file)


def in_two_layers(file: h5py.File) -> None:
    """Leave the user two layers to choose from."""
    in_layer(file)
    put_matrix(file["layers"], "spliced", Slice().counts)


def in_raw(file: h5py.File) -> None:
    group = file.create_group("raw")
    put_matrix(group, "X", Slice().counts)
    group.copy(file["var"], "var")
    replaced("X/data", file["X/data"][:] * 0.5)(file)


def cyclic(file: h5py.File) -> None:
    file["uns/k"] = np.zeros(1)
    file["uns/loop"] = file["uns"]
    file["obs/loop"] = file["obs"]


def repeated(values: list[str], first: int, second: int) -> list[str]:
    return [values[first] if i == second else value for i, value in enumerate(values)]


def whole_slice_zero() -> NDArray[Any]:
    return np.zeros((N_SPOTS, N_GENES), "<i4")


def some_spots_zero() -> NDArray[Any]:
    array = Slice().counts
    array[[3, 5]] = 0
    return array


def bad_codes(file: h5py.File) -> None:
    put_categorical(file["obs"], "label", np.full(N_SPOTS, 9), ["a", "b"])


def nan_labels(file: h5py.File) -> None:
    del file["obs/label"]
    put_array(file["obs"], "label", np.full(N_SPOTS, np.nan))


def unknown_encoding(file: h5py.File) -> None:
    file["obs/label"].attrs["encoding-type"] = "later"


def nan_codes(file: h5py.File) -> None:
    codes = np.arange(N_SPOTS) % 2
    codes[:5] = -1
    put_categorical(file["obs"], "label", codes, ["a", "b"])


def latin1_index(file: h5py.File) -> None:
    values = np.array([b"gene\xff%02d" % i for i in range(N_GENES)])
    replaced("var/_index", values)(file)


def spots(n: int) -> dict[str, Any]:
    base = Slice()
    return {"counts": base.counts[:n], "barcodes": base.barcodes[:n], "xy": XY[:n]}


def array_rows(values: Any, **more: Any) -> dict[str, Any]:
    return {"columns": {"array_row": np.asarray(values)}, **more}


LABEL = ("--label", "label")
SECTIONS = ("--split-by", "section")
LFS = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)


def linked(path: Path) -> None:
    """A symbolic link to a good file elsewhere."""
    Slice().write(path.with_name("elsewhere.bin"))
    path.symlink_to("elsewhere.bin")


def many_scattered() -> dict[str, Any]:
    """400 spots that lie on no lattice at all."""
    n = 400
    base = (np.arange(n * N_GENES).reshape(n, N_GENES) % 5 + 1).astype("<i4")
    xy = np.stack([np.arange(n) * 1.37, np.arange(n)[::-1] * 0.71], 1)
    return {"counts": base, "barcodes": [f"b{i}" for i in range(n)], "xy": xy, "array": False}


CASES = [
    # Files and containers.
    Case("missing_file", "B001", "no such file", lambda path: None),
    Case("empty_file", "B002", r"empty \(0 bytes\)", raw(b"")),
    Case("html", "B003", "not HDF5", raw(b"<!DOCTYPE html><html>login</html>")),
    Case("gzip", "B003", "gzip", raw(b"\x1f\x8b\x08" + b"\0" * 60)),
    Case("zip", "B003", "zip", raw(b"PK\x03\x04" + b"\0" * 60)),
    Case("git_lfs_pointer", "B003", "Git LFS pointer.*git lfs pull", raw(LFS)),
    Case("truncated_half", "B004", "truncated", truncated(0.5)),
    Case("truncated_end", "B004", "truncated", truncated(0.999)),
    Case("signature_only", "B004", "HDF5 cannot read it", raw(b"\x89HDF\r\n\x1a\n")),
    Case(
        "hdf5_of_another_kind", "B006", "not an AnnData file: missing /obs, /var",
        edited(removed("obs", "var", "X")),
    ),
    Case("no_obs", "B006", "missing /obs", edited(removed("obs"))),
    Case("folder", "B007", "no slice that a reader knows", lambda path: path.mkdir()),
    Case("symlink_loop", "B001", "no such file", lambda path: path.symlink_to(path)),
    Case("symlink_dangling", "B001", "no such file", lambda path: path.symlink_to("nowhere.h5ad")),
    Case("symlink_to_a_good_file", "", "", linked, exit_code=0),
    Case("fifo", "B008", "not a regular file", lambda path: os.mkfifo(path)),
    # Links and bombs.
    Case("external_link_to_X", "B015", "ExternalLink", external_link("X", "data")),
    Case("external_link_to_obs", "B015|B006", "", external_link("obs", "frame")),
    Case("external_link_inside_X", "B015", "ExternalLink", external_link("X/data", "data")),
    Case(
        "external_link_to_a_column", "B015", "ExternalLink",
        external_link("obs/array_row", "frame/array_row"),
    ),
    Case("external_link_to_index", "B015", "ExternalLink", external_link("obs/_index", "strings")),
    Case("external_link_in_categories", "B015", "ExternalLink", external_category, arguments=LABEL),
    Case("soft_link", "B015", "SoftLink", edited(soft_link)),
    Case("external_storage", "B015", "another file", external_storage),
    Case("virtual_dataset", "B015", "another file", virtual),
    Case("foreign_filter", "B016", "filter 32013", edited(foreign_filter)),
    Case("dense_bomb", "B041|B043", "", edited(bomb)),
    Case("sparse_bomb", "B043", "declares 4,000,000,000,000 bytes", edited(sparse_bomb)),
    Case("cyclic_groups", "", "", edited(cyclic, xy=None), exit_code=0),
    # The matrix.
    Case("no_X", "B023", "no counts in X; matrices present: none", edited(removed("X"))),
    Case("no_such_layer", "B023", "present: X", good(), arguments=("--layer", "counts")),
    Case("logs_in_X_counts_in_layer", "B030", "layer counts", edited(in_layer)),
    Case("two_layers_of_counts", "B030", "'counts', 'spliced' looks", edited(in_two_layers)),
    Case("logs_in_X_counts_in_raw", "B030", "layer raw", edited(in_raw)),
    Case("nan_in_X", "B028", "NaN or infinite", good(counts=counts(put((3, 4), np.nan)))),
    Case("inf_in_X", "B028", "NaN or infinite", good(counts=counts(put((3, 4), np.inf)))),
    Case("negative_integer", "B029", r"first: -1", good(counts=counts(put((0, 0), -1), "<i4"))),
    Case("negative_float", "B029", r"first: -0\.5", good(counts=counts(put((0, 0), -0.5)))),
    Case("fraction", "B030", r"first: 1\.7", good(counts=counts(put((0, 0), 1.7)))),
    Case("fraction_in_dense", "B030", "whole", good(counts=counts(put((0, 0), 1.7)), sparse=False)),
    Case("float16_fraction", "B030", "whole", good(counts=counts(put((0, 0), 1.5), "<f2"))),
    Case("beyond_31_bits", "B031", "exceed", good(counts=counts(put((0, 0), 2**40), "<i8"))),
    Case("beyond_16_bits", "", "", good(counts=counts(put((0, 0), 70000), "<i4")), exit_code=0),
    Case("complex", "B033", "complex", good(counts=counts(lambda a: None, "<c8"))),
    Case("strings_in_X", "B033", "expected counts", edited(
        replaced("X/data", np.array([b"1"] * int(np.count_nonzero(Slice().counts)))))),
    Case("index_beyond_genes", "B034", "outside", edited(
        lambda f: put(5, N_GENES)(f["X/indices"]))),
    Case("index_negative", "B034", "outside", edited(lambda f: put(5, -1)(f["X/indices"]))),
    Case("indptr_decreasing", "B035", "row starts", edited(lambda f: put(3, 0)(f["X/indptr"]))),
    Case("indptr_too_long", "B035", "row starts", edited(
        replaced("X/indptr", np.arange(N_SPOTS + 9)))),
    Case("indptr_last", "B035", "row starts", edited(
        lambda f: put(N_SPOTS, 10**6)(f["X/indptr"]))),
    Case("indptr_of_floats", "B035", "not integers", edited(
        replaced("X/indptr", np.linspace(0, 9, N_SPOTS + 1)))),
    Case("data_shorter_than_indices", "B035", "values for", edited(
        replaced("X/data", np.ones(5, "<i4")))),
    Case("duplicate_entry", "B036", "duplicate entries", edited(twin_entry)),
    Case("shape_lies", "B041", "shape", edited(dense_as_declared)),
    Case("transposed", "B041", "shape", good(counts=Slice().counts.T.copy(), sparse=False)),
    Case("spots_called_like_genes", "B040", "transpose", good(
        barcodes=[f"ENSG{i:011d}" for i in range(N_SPOTS)])),
    Case("genes_called_like_spots", "B040", "transpose", good(
        genes=[f"ACGTACGTACGT{'ACGT'[i % 4]}{'ACGT'[i // 4 % 4]}-1" for i in range(N_GENES)])),
    Case("all_zero_slice", "B044", "no counts", good(counts=whole_slice_zero())),
    Case("all_zero_spots", "B045", "2 spots have no counts", good(counts=some_spots_zero()),
         exit_code=0),
    Case("null_X", "B004", "/X.*without values", edited(emptied("X"))),
    Case("null_indices", "B004", "/X/indices.*without values", edited(emptied("X/indices"))),
    Case("no_indices", "B035", "/X/indices.*no indices there", edited(removed("X/indices"))),
    Case("no_indptr", "B035", "/X/indptr.*no indptr there", edited(removed("X/indptr"))),
    Case("data_is_a_group", "B035", "/X/data.*a group", edited(as_group("X/data"))),
    Case("indices_of_two_columns", "B035", r"/X/indices.*\(9, 2\)", edited(
        replaced("X/indices", np.zeros((9, 2), "<i4")))),
    Case("indices_beyond_int64", "B034", "outside", edited(
        replaced("X/indices", np.full(np.count_nonzero(Slice().counts), 2**63 + 5, "<u8")))),
    Case("indices_of_floats", "B035", "not integers", edited(recast("X/indices", "<f8"))),
    Case("indptr_empty", "B035", "row starts", edited(
        replaced("X/indptr", np.zeros(0, "<i4")))),
    Case("shape_of_text", "B041", "'64,12'", edited(attribute("X", "shape", "64,12"))),
    Case("shape_missing", "B041", "shape", edited(attribute("X", "shape", None))),
    Case("shape_of_three", "B041", "shape", edited(attribute("X", "shape", [64, 12, 1]))),
    Case("coo_matrix", "B023", "got coo_matrix", edited(
        attribute("X", "encoding-type", "coo_matrix"))),
    Case("encoding_missing", "B023", "got a group", edited(attribute("X", "encoding-type", None))),
    Case("X_is_one_number", "B041", "shape", edited(kept_and(
        removed("X"), lambda f: f.create_dataset("X", data=3.0)))),
    Case("X_of_three_sides", "B041", "shape", good(
        counts=np.ones((N_SPOTS, N_GENES, 2), "<i4"), sparse=False)),
    Case("X_of_records", "B033", "expected counts", good(
        counts=np.zeros((N_SPOTS, N_GENES), [("a", "<i4"), ("b", "<f4")]), sparse=False)),
    Case("X_of_text", "B033", "expected counts", good(
        counts=np.full((N_SPOTS, N_GENES), "3"), sparse=False)),
    Case("almost_whole", "B030", "whole", good(counts=counts(lambda a: np.add(a, 1e-7, out=a)))),
    Case("beyond_uint64", "B031", "exceed", good(counts=counts(put((0, 0), 1e300)))),
    Case("largest_uint64", "B031", "18446744073709551615", good(
        counts=counts(put((0, 0), 2**64 - 1), "<u8"))),
    Case("library_sizes_beyond_32_bits", "B031", "64 cells hold more than 4,294,967,295", good(
        counts=np.full((N_SPOTS, N_GENES), 2**31 - 1, "<i4"))),
    Case("twins_that_sum_beyond_32_bits", "B031", "sum to more", edited(largest_triplet),
         arguments=("--sum-duplicates",)),
    Case("counts_of_bool", "", "", good(counts=Slice().counts > 0), exit_code=0),
    Case("counts_of_uint64", "", "", good(counts=counts(lambda a: None, "<u8")), exit_code=0),
    Case("counts_big_endian", "", "", good(counts=counts(lambda a: None, ">f4")), exit_code=0),
    Case("counts_big_endian_dense", "", "", good(
        counts=counts(lambda a: None, ">i8"), sparse=False), exit_code=0),
    Case("counts_of_minus_zero", "", "", good(
        counts=np.where(Slice().counts == 0, -0.0, Slice().counts), sparse=False), exit_code=0),
    Case("pointers_of_64_bits", "", "", edited(kept_and(
        recast("X/indptr", "<i8"), recast("X/indices", "<u8"))), exit_code=0),
    Case("rows_not_sorted", "", "", edited(unsorted_rows), exit_code=0),
    Case("layers_alone", "B023", "present: counts", edited(moved_to("layers/counts"))),
    Case("layer_chosen", "", "", edited(moved_to("layers/counts")), exit_code=0,
         arguments=("--layer", "counts")),
    Case("raw_alone", "B023", "present: raw", edited(moved_to("raw/X", var=True))),
    Case("raw_chosen", "", "", edited(moved_to("raw/X", var=True)), exit_code=0,
         arguments=("--layer", "raw")),
    Case("raw_without_genes", "B006", "/raw/var.*nothing there", edited(raw_without_genes),
         arguments=("--layer", "raw")),
    Case("layer_that_leads_out", "B023", "no counts in layers", good(),
         arguments=("--layer", "../obs")),
    Case("layers_is_no_group", "B023", "present: none", edited(kept_and(
        removed("X"), lambda f: f.create_dataset("layers", data=np.zeros(3))))),
    Case("one_gene", "", "", good(counts=np.ones((N_SPOTS, 1), "<i4"), genes=["ENSG00000000001"]),
         exit_code=0),
    Case("no_genes", "B044", "no counts", good(
        counts=np.zeros((N_SPOTS, 0), "<i4"), genes=[])),
    # Coordinates.
    Case("no_coordinates", "B046", "no coordinates", good(xy=None, array=False)),
    Case("spatial_of_three", "B047", "third column.*planes", good(
        xy=np.column_stack([XY, np.arange(N_SPOTS)]), array=False)),
    Case("spatial_too_short", "B047", "rows of", good(xy=np.zeros((5, 2)))),
    Case("array_row_of_text", "B047", "numbers", good(**array_rows(["x"] * N_SPOTS))),
    Case("nan_coordinates", "B048", "1 of 64 rows are not finite", good(
        xy=np.where(np.arange(N_SPOTS)[:, None] == 9, np.nan, XY), array=False)),
    Case("inf_coordinates", "B048", "not finite", good(
        xy=np.where(np.arange(N_SPOTS)[:, None] == 9, np.inf, XY), array=False)),
    Case("nan_array_row", "B048", "1 of 64 rows are not finite", good(
        **array_rows(np.where(np.arange(N_SPOTS) == 3, np.nan, GRID_ROWS), xy=None))),
    Case("nan_pixels_beside_an_array", "B048", "array coordinates are used", good(
        xy=np.where(np.arange(N_SPOTS)[:, None] == 9, np.nan, XY)), exit_code=0),
    Case("two_spots_in_a_cell", "B049", "share a grid cell", good(
        **array_rows(np.where(np.arange(N_SPOTS) == 8, 0, GRID_ROWS)))),
    Case("no_lattice", "B053", "on no lattice", good(**many_scattered()), exit_code=11),
    Case("huge_array_row", "B050", "occupancy", good(
        **array_rows(np.where(np.arange(N_SPOTS) == 3, 2**40, GRID_ROWS))), exit_code=11),
    Case("array_row_beyond_int64", "B048", "beyond", good(
        **array_rows(np.where(np.arange(N_SPOTS) == 3, 1e300, GRID_ROWS.astype(float)), xy=None))),
    Case("offset_and_negative_array", "", "", good(
        **array_rows(GRID_ROWS + 10**9)), exit_code=0),
    Case("minus_zero", "", "", good(
        xy=np.where(XY == 0, -0.0, XY), array=False), exit_code=0),
    Case("positions_beyond_squares", "B048", r"beyond 10\^15 \(largest: 7e\+302", good(
        xy=XY * 1e300, array=False)),
    Case("positions_at_the_end_of_float64", "B048", "beyond", good(
        xy=np.where(XY == 0, -1.7e308, 1.7e308), array=False)),
    Case("positions_of_complex", "B047", "no numbers", good(
        xy=XY.astype("<c16"), array=False)),
    Case("positions_sideways", "B047", r"\(2, 64\)", good(xy=XY.T.copy(), array=False)),
    Case("positions_without_values", "B004", "obsm/spatial.*without values", edited(
        emptied("obsm/spatial"), array=False)),
    Case("positions_of_a_group", "B047", "no numbers", edited(
        as_group("obsm/spatial"), array=False)),
    Case("positions_of_text", "", "", good(xy=XY.astype("U8"), array=False), exit_code=0),
    Case("all_in_one_place", "B053", "exactly on another", good(xy=XY * 0, array=False),
         exit_code=11),
    Case("all_in_one_line", "B053", "no lattice", good(
        xy=np.stack([np.arange(N_SPOTS) * 100.0, np.zeros(N_SPOTS)], 1), array=False),
         exit_code=11),
    Case("denormal_positions", "B053", "no lattice", good(xy=XY * 5e-324, array=False),
         exit_code=11),
    Case("one_spot_far_away", "B053", "no lattice", good(
        xy=np.where(np.arange(N_SPOTS)[:, None] == 9, 1e12, XY), array=False), exit_code=11),
    Case("marks_of_the_tissue_of_text", "B047", "neither 0 nor 1", good(
        columns={"in_tissue": ["yes"] * N_SPOTS})),
    Case("all_off_the_tissue", "B044", r"64 have in_tissue 0.*--off-tissue keep", good(
        columns={"in_tissue": np.zeros(N_SPOTS, "<i4")})),
    Case("marks_of_nan", "B044", "64 have in_tissue 0 or none", good(
        columns={"in_tissue": np.full(N_SPOTS, np.nan)})),
    Case("no_spots", "B058|B044", "", good(**spots(0))),
    Case("one_spot", "", "", good(**spots(1)), exit_code=0),
    # Genes, labels, ids.
    Case("two_species", "B068", "human and mouse", good(
        genes=[f"ENS{'MUS' * (i % 2)}G{i:011d}" for i in range(N_GENES)])),
    Case("two_sections_on_top_of_each_other", "B056", "--split-by section", good(
        columns={"section": ["A"] * 32 + ["B"] * 32}, array=False,
        xy=np.concatenate([XY[:32], XY[:32] + 10]))),
    Case("duplicate_genes", "B067", "2 genes share an id", good(
        genes=repeated(Slice().genes, 2, 7)), exit_code=0),
    Case("all_genes_called_the_same", "B070", "no gene is left", good(
        genes=["ENSG00000000001"] * N_GENES)),
    Case("split_by_an_empty_column", "B056", "no spot has a value", good(
        columns={"section": np.full(N_SPOTS, np.nan)}), arguments=SECTIONS),
    Case("split_with_spots_left_over", "B056", "32 of 64 spots of the file have no 'section'", good(
        columns={"section": ["A"] * 32 + [""] * 32}), exit_code=0, arguments=SECTIONS),
    Case("sections_that_lead_out", "", "", good(
        columns={"section": ["../../x", "\x1b[31m"] * 32}), exit_code=0, arguments=SECTIONS),
    Case("spot_ids_of_numbers", "B074", "list of strings", edited(
        replaced("obs/_index", np.arange(N_SPOTS)))),
    Case("spot_ids_too_few", "B041|B047", "60", edited(
        replaced("obs/_index", np.array([b"b%d" % i for i in range(60)])))),
    Case("spot_ids_right_to_left", "B091", r"\\u202e", good(
        barcodes=["\u202eab", *Slice().barcodes[1:]])),
    Case("spot_ids_not_ascii", "", "", good(
        barcodes=[f"\u5fc3\u00e9{i}" for i in range(N_SPOTS)]), exit_code=0),
    Case("index_named_in_bytes", "", "", edited(
        attribute("obs", "_index", np.bytes_(b"_index"))), exit_code=0),
    Case("index_that_leads_out", "B006", "no index", edited(
        attribute("obs", "_index", "../var/_index"))),
    Case("obs_is_one_number", "B006", "not a group", edited(kept_and(
        removed("obs"), lambda f: f.create_dataset("obs", data=3)))),
    Case("gene_ids_of_numbers", "B074", "list of strings", edited(
        replaced("var/_index", np.arange(N_GENES)))),
    Case("gene_ids_not_utf8", "B074", "UTF-8", edited(latin1_index)),
    Case("gene_id_empty", "B074", "empty", good(genes=repeated(["", *Slice().genes[1:]], 0, 0))),
    Case("gene_id_with_newline", "B074", r"not printable.*\\n", good(
        genes=["a\nb", *Slice().genes[1:]])),
    Case("no_label_column", "B076", "no label column 'layer'", good(),
         arguments=("--label", "layer")),
    Case("labels_all_nan", "", "", edited(nan_labels), exit_code=0, arguments=LABEL),
    Case("label_encoding_lies", "B079", "cannot read", edited(
        replaced("obs/label", np.full(N_SPOTS, np.nan))), arguments=LABEL),
    Case("label_encoding_unknown", "B079", "cannot read", edited(unknown_encoding),
         arguments=LABEL),
    Case("label_of_two_columns", "B079", "one text, number or truth value", edited(
        two_codes_a_spot), arguments=LABEL),
    Case("label_of_records", "B079", "one text, number or truth value", edited(
        records_as_labels), arguments=LABEL),
    Case("label_of_two_lines", "B091", r"not printable.*\\n", good(
        columns={"label": ["a\nb"] * N_SPOTS}), arguments=LABEL),
    Case("labels_too_few", "B079", "5 labels for 64 spots", edited(
        replaced("obs/label", np.array([b"a"] * 5, object))), arguments=LABEL),
    Case("labels_some_nan", "", "", edited(nan_codes), exit_code=0, arguments=LABEL),
    Case("label_code_beyond_categories", "B079", "cannot read", edited(bad_codes), arguments=LABEL),
    Case("duplicate_barcodes", "B082", "1 spot ids stand more than once", good(
        barcodes=repeated(Slice().barcodes, 2, 7))),
    Case("barcode_with_escape", "B091", "not printable", good(
        barcodes=["\x1b[31mred", *Slice().barcodes[1:]])),
    # File names.
    Case("name_with_dots", "", "", good(), exit_code=0, file="V1.2.3.h5ad"),
    Case("name_with_spaces", "", "", good(), exit_code=0, file="my slice (1).h5ad"),
    Case("name_not_ascii", "", "", good(), exit_code=0, file="\u00c9chantillon \u5fc3.h5ad"),
    Case("name_reserved", "", "", good(), exit_code=0, file="con.h5ad"),
    Case("name_not_utf8", "B091", "path is not UTF-8", good(), file=os.fsdecode(b"a\xff.h5ad")),
    Case("name_of_two_lines", "", "", good(), exit_code=0, file="a\nb.h5ad"),
    Case("name_too_long_for_a_key", "", "", good(), exit_code=0, file="n" * 240 + ".h5ad"),
    Case("name_like_a_flag", "", "", good(), exit_code=0, file="-x.h5ad"),
    Case("hdf5_under_another_name", "", "", good(), exit_code=0, file="s.csv"),
    Case("truncated_under_another_name", "B004", "truncated", truncated(0.5), file="s.h5"),
    Case("table_of_nul_bytes", "B003", "NUL byte", raw(bytes(range(256))), file="s.csv"),
    Case("table_of_utf16", "B003", "UTF-16", raw("g,a\nx,1\n".encode("utf-16")), file="s.csv"),
    Case("name_that_writes_to_terminals", "B002", "empty", raw(b""), file="a\x1b[31m\nb.h5ad"),
]  # fmt: skip


def path_of(case: Case, root: Path) -> Path:
    """Return the file of a case; each has a folder of its own."""
    return root / case.name / (case.file or f"{case.name}.h5ad")


def write_zoo(root: Path) -> dict[str, Path]:
    """Write every case below `root` and return the files by name.

    Raises
    ------
    ValueError
        A file is too large to be kept.
    """
    paths = {}
    for case in CASES:
        path = path_of(case, root)
        path.parent.mkdir(parents=True, exist_ok=True)
        case.make(path)
        paths[case.name] = path
        if path.is_file() and path.stat().st_size > MAX_BYTES:
            msg = f"{case.name}: {path.stat().st_size:,} bytes"
            raise ValueError(msg)
    return paths


if __name__ == "__main__":
    write_zoo(Path(sys.argv[1]))
