"""One vector per measured spot: the type, its two file formats, and the check against a corpus.

``.h5ad`` holds ``obsm["X_sttrain"]`` by barcode, ``.parquet`` a long table ``slice, barcode,
label, e0, e1, ...``. Both carry where the vectors come from, and neither is ever unpickled.
"""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.digests import sha256_json
from stbuild.corpus.durable import write_durable
from stbuild.corpus.names import slugify
from sttrain.errors import BadInputError, BadUsageError, Problem

if TYPE_CHECKING:
    import h5py

OBSM_KEY: Final = "X_sttrain"
"""Name of the vectors in an ``.h5ad``."""
SUFFIXES: Final = (".h5ad", ".parquet")
FORMAT: Final = "sttrain/embeddings"
VERSION: Final = 1
_NAMED: Final = 3
"""Offenders that a message names."""


@dataclass(frozen=True, kw_only=True)
class SliceEmbedding:
    """The vectors of one slice. Letters: N spots, D values."""

    barcodes: tuple[str, ...]
    """N barcodes."""
    matrix: NDArray[np.float32]
    """(N, D), row i belongs to barcode i."""
    labels: tuple[str | None, ...] | None = None
    """Label of every spot, for people who open the file; never read by a probe."""


@dataclass(frozen=True, kw_only=True)
class Embeddings:
    """One vector per spot of one or several slices."""

    slices: Mapping[str, SliceEmbedding]
    """By slug."""
    provenance: Mapping[str, Any]
    """Where the vectors come from: JSON values without times, hosts or paths."""

    @property
    def width(self) -> int:
        """Number of values of a vector."""
        return next((part.matrix.shape[1] for part in self.slices.values()), 0)

    def digest(self) -> str:
        """Return the SHA-256 of slices, barcodes and values, whatever file holds them."""
        listed = []
        for slug in sorted(self.slices):
            part = self.slices[slug]
            order = sorted(range(len(part.barcodes)), key=part.barcodes.__getitem__)
            values = np.ascontiguousarray(part.matrix[order], "<f4")
            listed.append([slug, [part.barcodes[i] for i in order], _sha256(values)])
        return sha256_json(listed)


def require_suffix(path: Path) -> None:
    """Refuse an embedding file of another kind than ``.h5ad`` or ``.parquet``.

    Raises
    ------
    BadUsageError
        Another suffix; pickles and archives of pickles are never read or written.
    """
    if path.suffix not in SUFFIXES:
        raise BadUsageError(
            Problem(
                code="V13",
                subject=f"file '{path.name}'",
                where=str(path),
                what=f"embeddings are {' or '.join(SUFFIXES)}, not '{path.suffix}'",
                fix="choose the kind by the suffix, such as emb.h5ad",
            )
        )


def write_embeddings(path: Path, embeddings: Embeddings) -> None:
    """Write embeddings; the suffix chooses the format.

    Raises
    ------
    BadUsageError
        A suffix other than ``.h5ad`` and ``.parquet``.
    ResourceError
        The disk refuses.
    """
    require_suffix(path)
    encode = _encode_h5ad if path.suffix == ".h5ad" else _encode_parquet
    write_durable(path, encode(embeddings))


def read_embeddings(path: Path, key: str | None = None) -> Embeddings:
    """Read embeddings of ours or anybody's.

    Parameters
    ----------
    path
        An ``.h5ad`` (``obs`` names or column ``barcode`` are the barcodes, column ``slice`` the
        slice) or a ``.parquet`` of the long table.
    key
        Name in ``obsm``; without it ``X_sttrain``, or the only one there is. Slices that have
        no name, because the file has no column ``slice``, are returned under the slug ``""``.

    Raises
    ------
    BadUsageError
        A suffix other than the two.
    BadInputError
        Missing or unreadable file, no such key, no plain numbers.
    """
    require_suffix(path)
    if not path.is_file():
        raise _refused(path, "no such file", "give a file that `sttrain embed` wrote")
    if path.suffix == ".h5ad":
        return _decode_h5ad(path, key)
    return _decode_parquet(path)


def align_embeddings(
    embeddings: Embeddings, barcodes: Mapping[str, Sequence[str]], where: str
) -> Embeddings:
    """Check embeddings against the spots that they must cover, and put them in grid order.

    Parameters
    ----------
    embeddings
        As read; other slices than those asked for are passed over.
    barcodes
        Per slug, all barcodes of the slice in grid order.
    where
        Name and file, for messages.

    Raises
    ------
    BadInputError
        All problems at once: slices or barcodes that are missing, unknown or stand twice, values
        that are not finite. A part of the spots is never judged.
    """
    slices = dict(embeddings.slices)
    if set(slices) == {""} and len(barcodes) == 1:
        slices = {next(iter(barcodes)): slices[""]}
    problems: list[Problem] = []
    aligned: dict[str, SliceEmbedding] = {}
    for slug, wanted in barcodes.items():
        found = [f"slice '{slug}': {text}" for text in _slice_problems(slices.get(slug), wanted)]
        fix = "write the file again with `sttrain embed`, or give every spot a finite vector"
        problems += [
            Problem(code=text[0], subject=f"embedding {where}", what=text[1], fix=fix)
            for text in ((("V02" if "finite" in t else "V01"), t) for t in found)
        ]
        if not found:
            part = slices[slug]
            row = {barcode: i for i, barcode in enumerate(part.barcodes)}
            order = np.asarray([row[barcode] for barcode in wanted], np.int64)
            aligned[slug] = SliceEmbedding(barcodes=tuple(wanted), matrix=part.matrix[order])
    if problems:
        raise BadInputError(*problems)
    return Embeddings(slices=aligned, provenance=embeddings.provenance)


def _slice_problems(part: SliceEmbedding | None, wanted: Sequence[str]) -> Iterable[str]:
    if part is None:
        yield f"no vector for any of its {len(wanted):,} spots"
        return
    have, need = set(part.barcodes), set(wanted)
    twice = len(part.barcodes) - len(have)
    if twice:
        yield f"{twice:,} barcodes stand more than once"
    for what, names in (("missing", need - have), ("unknown", have - need)):
        if names:
            first = ", ".join(sorted(names)[:_NAMED])
            yield f"{len(names):,} of {len(need):,} barcodes are {what} (first: {first})"
    finite = np.isfinite(part.matrix).all(axis=1)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        first = part.barcodes[int(bad[0])]
        yield f"{bad.size:,} vectors are not finite in float32 (first: {first})"
    if not part.matrix.shape[1]:
        yield "vectors of no value, which are not finite numbers at all"


def _encode_h5ad(embeddings: Embeddings) -> bytes:
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
        columns["label"] = pd.Categorical(_labels(parts))
    table = anndata.AnnData(
        obs=pd.DataFrame(columns, index=pd.Index(names, dtype=object)),
        obsm={OBSM_KEY: np.concatenate([part.matrix for part in parts])},
        uns={"sttrain": _dump_provenance(embeddings)},
    )
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        anndata.io.write_elem(file, "/", table)
    return buffer.getvalue()


def _decode_h5ad(path: Path, key: str | None) -> Embeddings:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            _refuse_links(file, path)
            return _read_h5ad(file, path, key)
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        fix = "check that the file is a complete .h5ad; write it again"
        raise _refused(path, f"unreadable: {str(error)[:200]}", fix) from error


def _read_h5ad(file: "h5py.File", path: Path, key: str | None) -> Embeddings:
    import anndata
    import h5py

    matrix = file["obsm"][_choose_key(list(file["obsm"]), path, key)]
    if not isinstance(matrix, h5py.Dataset) or matrix.dtype.kind != "f" or matrix.ndim != 2:
        what = "its vectors are not one dense table of floating-point numbers"
        raise _refused(path, what, "store a (spots, values) float32 array in obsm")
    obs = anndata.io.read_elem(file["obs"])
    barcodes = [str(v) for v in obs.get("barcode", obs.index)]
    owner = [str(v) for v in obs["slice"]] if "slice" in obs else [""] * len(barcodes)
    if matrix.shape[0] != len(barcodes):
        what = f"{matrix.shape[0]:,} vectors for {len(barcodes):,} rows of obs"
        raise _refused(path, what, "write the file again with one vector per spot")
    provenance: Any = None
    if "uns" in file and "sttrain" in file["uns"]:
        provenance = anndata.io.read_elem(file["uns/sttrain"])
    return _group(owner, barcodes, _to_float32(matrix[...]), _load_provenance(provenance))


def _choose_key(keys: list[str], path: Path, key: str | None) -> str:
    wanted = key or OBSM_KEY
    if key is None and wanted not in keys and len(keys) == 1:
        return keys[0]
    if wanted not in keys:
        listed = ", ".join(keys) or "nothing"
        what = f"obsm has no '{wanted}'; it has {listed}"
        raise _refused(path, what, "name one: --embedding NAME=FILE.h5ad:KEY")
    return wanted


def _refuse_links(group: "h5py.Group", path: Path) -> None:
    """Refuse everything that would make HDF5 read another file."""
    import h5py

    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise _refused(path, f"'{name}' is a link", "store the data in the file itself")
        item = group[name]
        if isinstance(item, h5py.Group):
            _refuse_links(item, path)
        elif isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
            raise _refused(path, f"'{name}' lies in another file", "store the data in the file")


def _encode_parquet(embeddings: Embeddings) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    slugs = sorted(embeddings.slices)
    parts = [embeddings.slices[slug] for slug in slugs]
    owner = [slug for slug, part in zip(slugs, parts, strict=True) for _ in part.barcodes]
    barcodes = [barcode for part in parts for barcode in part.barcodes]
    columns: dict[str, Any] = {
        "slice": pa.array(owner, pa.string()),
        "barcode": pa.array(barcodes, pa.string()),
        "label": pa.array(_labels(parts), pa.string()),
    }
    matrix = np.concatenate([part.matrix for part in parts])
    columns |= {f"e{d}": pa.array(matrix[:, d]) for d in range(matrix.shape[1])}
    table = pa.table(columns).replace_schema_metadata({"sttrain": _dump_provenance(embeddings)})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _decode_parquet(path: Path) -> Embeddings:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(path.read_bytes()))
    except (pa.ArrowException, OSError) as error:
        fix = "check that the file is a complete Parquet table; write it again"
        raise _refused(path, f"unreadable: {str(error)[:200]}", fix) from error
    values = [name for name in table.column_names if name[:1] == "e" and name[1:].isdigit()]
    values.sort(key=lambda name: int(name[1:]))
    floats = all(pa.types.is_floating(table.schema.field(name).type) for name in values)
    if "barcode" not in table.column_names or not values or not floats:
        what = (
            f"columns {', '.join(table.column_names[:6])} ...; expected slice, barcode, e0, e1, ..."
        )
        raise _refused(path, what, "write floating-point columns e0, e1, ... and the barcode")
    barcodes = [str(v) for v in table.column("barcode").to_pylist()]
    owner = [""] * len(barcodes)
    if "slice" in table.column_names:
        owner = [str(v) for v in table.column("slice").to_pylist()]
    matrix = np.stack([table.column(name).to_numpy() for name in values], axis=1)
    metadata = table.schema.metadata or {}
    provenance = _load_provenance(metadata.get(b"sttrain", b"{}").decode())
    return _group(owner, barcodes, _to_float32(matrix), provenance)


def _group(
    owner: Sequence[str],
    barcodes: Sequence[str],
    matrix: NDArray[np.float32],
    provenance: Mapping[str, Any],
) -> Embeddings:
    """Cut a long table into slices; a slice may be named by its slug or by its own id."""
    rows: dict[str, list[int]] = {}
    slugs = {name: slugify(name) if name else "" for name in set(owner)}
    for i, name in enumerate(owner):
        rows.setdefault(slugs[name], []).append(i)
    slices = {
        slug: SliceEmbedding(barcodes=tuple(barcodes[i] for i in members), matrix=matrix[members])
        for slug, members in rows.items()
    }
    return Embeddings(slices=slices, provenance=provenance)


def _labels(parts: Iterable[SliceEmbedding]) -> list[str | None]:
    return [label for part in parts for label in part.labels or (None,) * len(part.barcodes)]


def _to_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    """Cast; a number beyond float32 becomes infinite here and is refused by the alignment."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, np.float32)


def _dump_provenance(embeddings: Embeddings) -> str:
    value = {"format": FORMAT, "version": VERSION, **embeddings.provenance}
    return json.dumps(value, sort_keys=True, allow_nan=False)


def _load_provenance(text: object) -> Mapping[str, Any]:
    """Return what a file says of itself; a file of another tool says nothing."""
    try:
        value = json.loads(text) if isinstance(text, str) else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _sha256(values: NDArray[Any]) -> str:
    from stbuild.corpus.digests import sha256_bytes

    return sha256_bytes(values.tobytes())


def _refused(path: Path, what: str, fix: str) -> BadInputError:
    return BadInputError(
        Problem(code="V04", subject=f"embedding '{path.name}'", where=str(path), what=what, fix=fix)
    )
