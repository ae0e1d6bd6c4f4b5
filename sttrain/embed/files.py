"""Vectors as bytes: ``.h5ad`` by anndata's layout, ``.parquet`` as a long table.

Neither is ever unpickled, and an ``.h5ad`` never makes HDF5 read another file. Both are sealed
(:mod:`sttrain.seals`), and a seal is checked before HDF5 or Arrow see a byte; what other tools
write has none.
"""

import io
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from stbuild.corpus.footers import read_footer
from stbuild.corpus.parquet import read_all
from stbuild.corpus.storage import read_file
from sttrain.embed.embeddings import (
    OBSM_KEY,
    Embeddings,
    dump_provenance,
    group_rows,
    labels_of,
    load_provenance,
    refuse_damage,
    refuse_file,
    to_float32,
)
from sttrain.errors import StError
from sttrain.seals import find_fault, find_fault_at_end, seal, seal_parquet

if TYPE_CHECKING:
    import h5py
    import pyarrow as pa

_NUMBERED: Final = re.compile(r"e[0-9]{1,6}")
_PLACES: Final = ("spatial", "x_spatial", "spatial3d", "coords", "coordinates", "xy")
"""Entries of obsm that hold positions: never vectors, unless they are asked for by name."""
_BOMB_BYTES: Final = 4 * 2**30
_BOMB_RATIO: Final = 1000
_SEALED: Final = "sttrain-sealed"
"""Attribute of an ``.h5ad`` that says that a seal stands behind its end."""


def encode_h5ad(embeddings: Embeddings) -> bytes:
    """Return the bytes of an ``.h5ad`` that holds nothing but the vectors and whose they are."""
    import anndata
    import h5py
    import pandas as pd

    slugs = sorted(embeddings.slices)
    parts = [embeddings.slices[slug] for slug in slugs]
    barcodes = [barcode for part in parts for barcode in part.barcodes]
    owner = [slug for slug, part in zip(slugs, parts, strict=True) for _ in part.barcodes]
    # One slice keeps its barcodes as they are, so that its vectors drop into the source's file.
    names = barcodes
    if len(slugs) > 1:
        names = [f"{slug}:{barcode}" for slug, barcode in zip(owner, barcodes, strict=True)]
    columns: dict[str, Any] = {"slice": pd.Categorical(owner), "barcode": barcodes}
    if any(part.labels is not None for part in parts):
        columns["label"] = pd.Categorical(labels_of(parts))
    table = anndata.AnnData(
        obs=pd.DataFrame(columns, index=pd.Index(names, dtype=object)),
        obsm={OBSM_KEY: np.concatenate([part.matrix for part in parts])},
        uns={"sttrain": dump_provenance(embeddings)},
    )
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        anndata.io.write_elem(file, "/", table)
        # Other tools write no such attribute when they write the file anew, and no seal either.
        file.attrs[_SEALED] = True
    raw = buffer.getvalue()
    return seal(raw, len(raw))


def decode_h5ad(path: Path, key: str | None) -> Embeddings:
    """Read an ``.h5ad``; see :func:`sttrain.embed.embeddings.read_embeddings`."""
    with _open_h5ad(path) as file:
        return _read_h5ad(file, path, key)


def told_by_file(path: Path) -> Mapping[str, Any]:
    """Return what a file of vectors says of its origin, without reading the vectors.

    Raises
    ------
    BadInputError
        An unreadable file.
    IntegrityError
        A file of ours that was damaged.
    """
    if path.suffix == ".h5ad":
        with _open_h5ad(path) as file:
            return _told_in(file)
    return _told_by_schema(path) if path.suffix == ".parquet" else {}


@contextmanager
def _open_h5ad(path: Path) -> Iterator["h5py.File"]:
    import h5py

    try:
        _refuse_damage(path, find_fault_at_end(path))
        with h5py.File(path, "r") as file:
            if file.attrs.get(_SEALED, False):
                _refuse_damage(path, find_fault_at_end(path, sealed=True))
            _refuse_links(file, path)
            yield file
    except StError:
        raise
    except Exception as error:
        fix = "check that the file is a complete .h5ad; write it again"
        said = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise refuse_file(path, f"unreadable: {said}", fix) from error


def _refuse_damage(path: Path, fault: str | None) -> None:
    if fault is not None:
        raise refuse_damage(path, fault)


def _read_h5ad(file: "h5py.File", path: Path, key: str | None) -> Embeddings:
    import anndata
    import h5py

    matrix = file["obsm"][_choose_key(list(file["obsm"]), path, key)]
    if not isinstance(matrix, h5py.Dataset) or matrix.dtype.kind != "f" or matrix.ndim != 2:
        what = "its vectors are not one dense table of floating-point numbers"
        raise refuse_file(path, what, "store a (spots, values) float32 array in obsm")
    stored = max(1, matrix.id.get_storage_size())
    if matrix.nbytes > max(_BOMB_BYTES, _BOMB_RATIO * stored):
        what = f"shape {matrix.shape} declares {matrix.nbytes:,} bytes, {stored:,} are stored"
        raise refuse_file(path, what, "write the file again")
    obs = anndata.io.read_elem(file["obs"])
    barcodes = [str(v) for v in obs.get("barcode", obs.index)]
    owner = [str(v) for v in obs["slice"]] if "slice" in obs else [""] * len(barcodes)
    if matrix.shape[0] != len(barcodes):
        what = f"{matrix.shape[0]:,} vectors for {len(barcodes):,} rows of obs"
        raise refuse_file(path, what, "write the file again with one vector per spot")
    return group_rows(owner, barcodes, to_float32(matrix[...], path), _told_in(file))


def _told_in(file: "h5py.File") -> Mapping[str, Any]:
    import anndata

    if "uns" not in file or "sttrain" not in file["uns"]:
        return {}
    return load_provenance(anndata.io.read_elem(file["uns/sttrain"]))


def _choose_key(keys: list[str], path: Path, key: str | None) -> str:
    wanted = key or OBSM_KEY
    if key is None and wanted not in keys and len(keys) == 1 and keys[0].lower() not in _PLACES:
        return keys[0]
    if wanted not in keys:
        listed = ", ".join(keys) or "nothing"
        what = f"obsm has no '{wanted}'; it has {listed}"
        raise refuse_file(path, what, "name one: --embedding NAME=FILE.h5ad:KEY")
    return wanted


def _refuse_links(group: "h5py.Group", path: Path) -> None:
    """Refuse everything that would make HDF5 read another file."""
    import h5py

    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise refuse_file(path, f"'{name}' is a link", "store the data in the file itself")
        item = group[name]
        if isinstance(item, h5py.Group):
            _refuse_links(item, path)
        elif isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
            raise refuse_file(path, f"'{name}' lies in another file", "store the data in the file")


def encode_parquet(embeddings: Embeddings) -> bytes:
    """Return the bytes of a Parquet table ``slice, barcode, label, e0, e1, ...``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    slugs = sorted(embeddings.slices)
    parts = [embeddings.slices[slug] for slug in slugs]
    owner = [slug for slug, part in zip(slugs, parts, strict=True) for _ in part.barcodes]
    barcodes = [barcode for part in parts for barcode in part.barcodes]
    columns: dict[str, Any] = {
        "slice": pa.array(owner, pa.string()),
        "barcode": pa.array(barcodes, pa.string()),
        "label": pa.array(labels_of(parts), pa.string()),
    }
    matrix = np.concatenate([part.matrix for part in parts])
    columns |= {f"e{d}": pa.array(matrix[:, d]) for d in range(matrix.shape[1])}
    table = pa.table(columns).replace_schema_metadata({"sttrain": dump_provenance(embeddings)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
    return seal_parquet(buffer.getvalue())


def decode_parquet(path: Path) -> Embeddings:
    """Read a Parquet table; see :func:`sttrain.embed.embeddings.read_embeddings`."""
    import pyarrow as pa

    with _parquet_errors(path):
        table = read_all(_read_parquet(path))
    values = [name for name in table.column_names if _NUMBERED.fullmatch(name)]
    values.sort(key=lambda name: int(name[1:]))
    if values != [f"e{d}" for d in range(len(values))]:
        what = f"its {len(values):,} columns of values are not e0, e1, ... without a gap"
        raise refuse_file(path, f"{what} (last: {values[-1]})", "write all columns, from e0 on")
    floats = all(pa.types.is_floating(table.schema.field(name).type) for name in values)
    if "barcode" not in table.column_names or not values or not floats:
        what = (
            f"columns {', '.join(table.column_names[:6])} ...; expected slice, barcode, e0, e1, ..."
        )
        raise refuse_file(path, what, "write floating-point columns e0, e1, ... and the barcode")
    barcodes = [str(v) for v in table.column("barcode").to_pylist()]
    owner = [""] * len(barcodes)
    if "slice" in table.column_names:
        owner = [str(v) for v in table.column("slice").to_pylist()]
    matrix = np.stack([table.column(name).to_numpy() for name in values], axis=1)
    return group_rows(owner, barcodes, to_float32(matrix, path), _told_by(table.schema))


def _told_by_schema(path: Path) -> Mapping[str, Any]:
    import pyarrow.parquet as pq

    with _parquet_errors(path):
        raw = _read_parquet(path)
        read_footer(io.BytesIO(raw))  # pyarrow aborts the interpreter where this one raises
        return _told_by(pq.read_schema(io.BytesIO(raw)))


def _read_parquet(path: Path) -> bytes:
    """Return the bytes of a table that its seal does not contradict."""
    raw = read_file(path)
    _refuse_damage(path, find_fault(raw))
    return raw


def _told_by(schema: "pa.Schema") -> Mapping[str, Any]:
    told = (schema.metadata or {}).get(b"sttrain", b"{}")
    return load_provenance(told.decode(errors="replace"))


@contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        fix = "check that the file is a complete Parquet table; write it again"
        raise refuse_file(path, f"unreadable: {str(error)[:200]}", fix) from error
