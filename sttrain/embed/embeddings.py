"""One vector per measured spot: the type, its two file formats, and the check against a corpus.

``.h5ad`` holds ``obsm["X_sttrain"]`` by barcode, ``.parquet`` a long table ``slice, barcode,
label, e0, e1, ...``. Both carry where the vectors come from, and neither is ever unpickled; an
``.npy`` of another tool is read by :mod:`sttrain.embed.external`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stbuild.corpus.digests import sha256_json
from stbuild.corpus.durable import remove_dead, write_durable
from stbuild.corpus.names import slugify
from sttrain.embed.barcodes import match_barcodes, rows_by_sample
from sttrain.errors import BadInputError, BadUsageError, IntegrityError, Problem

OBSM_KEY: Final = "X_sttrain"
"""Name of the vectors in an ``.h5ad``."""
SUFFIXES: Final = (".h5ad", ".parquet")
"""Kinds of files that are written."""
READ: Final = (*SUFFIXES, ".npy")
"""Kinds of files that are read."""
FORMAT: Final = "sttrain/embeddings"
VERSION: Final = 1
LARGEST: Final = 1e37
"""Largest absolute value that is judged: differences of larger ones may overflow in float32."""
_LOST: Final = 0.01
"""Share of the spread of a value that rounding to float32 may take; of plain vectors it is 1e-6."""
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


def require_suffix(path: Path, *, written: bool = False) -> None:
    """Refuse a file of another kind than those that are read, or `written`.

    Raises
    ------
    BadUsageError
        Another suffix; pickles and archives of pickles are never read or written.
    """
    allowed = SUFFIXES if written else READ
    if path.suffix not in allowed:
        raise BadUsageError(
            Problem(
                code="V13",
                subject=f"file '{path.name}'",
                where=str(path),
                what=f"embeddings are {' or '.join(allowed)}, not '{path.suffix}'",
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
    from sttrain.embed.files import encode_h5ad, encode_parquet  # it needs this module's types

    require_suffix(path, written=True)
    encode = encode_h5ad if path.suffix == ".h5ad" else encode_parquet
    remove_dead(path.parent, path.name)
    write_durable(path, encode(embeddings))


def read_embeddings(path: Path, key: str | None = None) -> Embeddings:
    """Read embeddings of ours or anybody's.

    Parameters
    ----------
    path
        An ``.h5ad`` (``obs`` names or column ``barcode`` are the barcodes, column ``slice`` the
        slice), a ``.parquet`` of the long table, or an ``.npy`` with its barcodes beside it. What
        a sidecar says of its origin (:class:`sttrain.embed.external.Sidecar`) is added to it.
    key
        Name in ``obsm``; without it ``X_sttrain``, or the only one there is. Slices that have
        no name, because the file has no column ``slice``, are returned under the slug ``""``.

    Raises
    ------
    BadUsageError
        Another suffix.
    BadInputError
        Missing or unreadable file or sidecar, no such key, no plain numbers.
    IntegrityError
        A file that is no more as it was written, or not the one that its sidecar tells.
    """
    # Both need this module's types.
    from sttrain.embed.external import decode_npy, with_sidecar
    from sttrain.embed.files import decode_h5ad, decode_parquet

    require_suffix(path)
    if not path.is_file():
        raise refuse_file(path, "no such file", "give a file that `sttrain embed` wrote")
    if path.suffix == ".npy":
        return with_sidecar(decode_npy(path), path)
    return with_sidecar(
        decode_h5ad(path, key) if path.suffix == ".h5ad" else decode_parquet(path), path
    )


def align_embeddings(
    embeddings: Embeddings, barcodes: Mapping[str, Sequence[str]], where: str
) -> Embeddings:
    """Check embeddings against the spots that they must cover, and put them in grid order.

    Parameters
    ----------
    embeddings
        As read; other slices than those asked for are passed over. Where no slice is named, the
        sample in each barcode tells it.
    barcodes
        Per slug, all barcodes of the slice in grid order.
    where
        Name and file, for messages.

    Raises
    ------
    BadInputError
        All problems at once: slices or barcodes that are missing, unknown or stand twice, values
        that are not finite or beyond `LARGEST`. A part of the spots is never judged.

    Notes
    -----
    Barcodes are matched as :func:`sttrain.embed.barcodes.match_barcodes` says; how many were
    spelt in another way stands in the provenance, as ``respelt``.
    """
    slices = _tell_slices(embeddings.slices, barcodes)
    respelt: dict[str, int] = {}
    problems: list[Problem] = []
    aligned: dict[str, SliceEmbedding] = {}
    for slug, wanted in barcodes.items():
        part_problems = _slice_problems(slices.get(slug), wanted, slug)
        found = [f"slice '{slug}': {text}" for text in part_problems]
        fix = "write the file again with `sttrain embed`, or give every spot a finite vector"
        problems += [
            Problem(code=text[0], subject=f"embedding {where}", what=text[1], fix=fix)
            for text in ((("V02" if "finite" in t else "V01"), t) for t in found)
        ]
        if not found:
            part = slices[slug]
            row = {barcode: i for i, barcode in enumerate(part.barcodes)}
            theirs = match_barcodes(part.barcodes, wanted, slug) or {}
            order = np.asarray([row[theirs[barcode]] for barcode in wanted], np.int64)
            if n := sum(theirs[barcode] != barcode for barcode in wanted):
                respelt[slug] = n
            aligned[slug] = SliceEmbedding(barcodes=tuple(wanted), matrix=part.matrix[order])
    if problems:
        raise BadInputError(*problems)
    told = {"respelt": respelt} if respelt else {}
    return Embeddings(slices=aligned, provenance={**embeddings.provenance, **told})


def _tell_slices(
    slices: Mapping[str, SliceEmbedding], slugs: Iterable[str]
) -> Mapping[str, SliceEmbedding]:
    """Give vectors without a slice the only one there is, or that which their barcodes name."""
    names = list(slugs)
    if set(slices) != {""} or not names:
        return slices
    part = slices[""]
    if len(names) == 1:
        return {names[0]: part}
    return {
        slug: SliceEmbedding(
            barcodes=tuple(part.barcodes[i] for i in rows), matrix=part.matrix[rows]
        )
        for slug, rows in rows_by_sample(part.barcodes, names).items()
        if rows
    }


def _slice_problems(part: SliceEmbedding | None, wanted: Sequence[str], slug: str) -> Iterable[str]:
    if part is None:
        yield f"no vector for any of its {len(wanted):,} spots"
        return
    have, need = set(part.barcodes), set(wanted)
    twice = len(part.barcodes) - len(have)
    if twice:
        yield f"{twice:,} barcodes stand more than once"
    matched = match_barcodes(part.barcodes, wanted, slug) is not None
    for what, names in (("missing", need - have), ("unknown", have - need)):
        if names and not matched:
            first = ", ".join(sorted(names)[:_NAMED])
            yield f"{len(names):,} of {len(need):,} barcodes are {what} (first: {first})"
    yield from _value_problems(part)
    if not part.matrix.shape[1]:
        yield "vectors of no value, which are not finite numbers at all"


def _value_problems(part: SliceEmbedding) -> Iterable[str]:
    finite = np.isfinite(part.matrix).all(axis=1)
    large = (np.abs(part.matrix) > LARGEST).any(axis=1) & finite
    for bad, what in (
        (~finite, "are not finite in float32"),
        (large, f"hold values beyond {LARGEST:g}, whose differences are not finite in float32"),
    ):
        if bad.any():
            first = part.barcodes[int(bad.argmax())]
            yield f"{int(bad.sum()):,} vectors {what} (first: {first})"


def group_rows(
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


def labels_of(parts: Iterable[SliceEmbedding]) -> list[str | None]:
    """Return the labels of several slices below each other, none where there are none."""
    return [label for part in parts for label in part.labels or (None,) * len(part.barcodes)]


def to_float32(values: NDArray[Any], path: Path) -> NDArray[np.float32]:
    """Cast; a number beyond float32 becomes infinite here and is refused by the alignment.

    Raises
    ------
    BadInputError
        V04: small differences of large numbers, of which float32 keeps next to nothing.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        cast = np.ascontiguousarray(values, np.float32)
        if values.dtype.itemsize <= cast.itemsize or not cast.size:
            return cast
        lost, spread = np.abs(values - cast).max(axis=0), np.ptp(values, axis=0)
        flat = np.flatnonzero(np.isfinite(lost) & (lost > _LOST * spread))
    if flat.size:
        what = (
            f"{flat.size:,} of {cast.shape[1]:,} values of a vector differ too little for their "
            f"size (first: number {int(flat[0])}, {spread[flat[0]]:.3g} about "
            f"{values[0, flat[0]]:.3g}): float32, in which vectors are judged, cannot tell them"
        )
        raise refuse_file(path, what, "take its mean off each value, then write the file again")
    return cast


def dump_provenance(embeddings: Embeddings) -> str:
    """Return where vectors come from, as their file tells it."""
    value = {"format": FORMAT, "version": VERSION, **embeddings.provenance}
    return json.dumps(value, sort_keys=True, allow_nan=False)


def load_provenance(text: object) -> Mapping[str, Any]:
    """Return what a file says of itself; a file of another tool says nothing."""
    try:
        value = json.loads(text) if isinstance(text, str) else {}
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _sha256(values: NDArray[Any]) -> str:
    from stbuild.corpus.digests import sha256_bytes

    return sha256_bytes(values.tobytes())


def refuse_file(path: Path, what: str, fix: str) -> BadInputError:
    """Make the error of a file of vectors."""
    return BadInputError(_problem("V04", path, what, fix))


def refuse_damage(path: Path, what: str) -> IntegrityError:
    """Make the error of a file of vectors that is not as it was written."""
    fix = "copy it again from where it came, or write it again (`sttrain embed`)"
    return IntegrityError(_problem("V20", path, what, fix))


def _problem(code: str, path: Path, what: str, fix: str) -> Problem:
    subject = f"embedding '{path.name}'"
    return Problem(code=code, subject=subject, where=str(path), what=what, fix=fix)
