"""Vectors that another tool made: ``.npy`` with barcodes, and what a sidecar tells of any file.

``emb.npy`` holds the vectors, ``emb.barcodes.txt`` beside it the barcode of every row, in several
slices the slice before it. ``FILE.json`` beside any file of vectors says which model made it; it
is recorded with the results, and missed in words where there is none.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Final, Protocol

from pydantic import ConfigDict, Field

from stbuild.corpus.digests import sha256_file
from stbuild.corpus.documents import Document, Sha256, read_document
from stbuild.corpus.durable import write_durable
from stbuild.corpus.jsonio import dump_document
from stbuild.corpus.npy import read_npy
from stbuild.corpus.storage import read_file
from sttrain.embed.embeddings import (
    Embeddings,
    group_rows,
    refuse_damage,
    refuse_file,
    to_float32,
)
from sttrain.embed.files import told_by_file
from sttrain.errors import BadInputError, IntegrityError, Problem

FOLDER: Final = "provenance"
"""Folder of results that tells where the judged vectors come from."""
_MAX_BYTES: Final = 64 * 2**30
_MAX_TEXT: Final = 2**30
_MAX_SIDECAR: Final = 2**20
_FLOATS: Final = ("<f4", "<f8", "<f2")
Text = Annotated[str, Field(min_length=1, max_length=10_000)]


class Sidecar(Document):
    """``FILE.json`` beside a file of vectors: what made it."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    model: Text
    """Name of the model, such as ``Nicheformer``."""
    version: Text
    """Version or commit of the code that made the file."""
    weights_sha256: Sha256 | None
    """SHA-256 of the weights; null for a method that was trained on the slices themselves."""
    command: Text
    """The command line or script that makes the file again."""
    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    """Day on which it was made."""
    file_sha256: Sha256 | None = None
    """SHA-256 of the file of vectors, which is then checked whenever it is read."""
    barcodes_sha256: Sha256 | None = None
    """SHA-256 of ``FILE.barcodes.txt`` beside an ``.npy``, checked likewise."""


class VectorFile(Protocol):
    """A named file of vectors, such as :class:`sttrain.judge.probes.EmbeddingFile`."""

    @property
    def name(self) -> str:
        """Name in tables."""
        ...

    @property
    def path(self) -> Path:
        """The file."""
        ...


def barcodes_path(path: Path) -> Path:
    """Return where the barcodes of an ``.npy`` stand."""
    return path.with_name(f"{path.stem}.barcodes.txt")


def sidecar_path(path: Path) -> Path:
    """Return where the sidecar of a file of vectors stands."""
    return path.with_name(f"{path.name}.json")


def decode_npy(path: Path) -> Embeddings:
    """Read an ``.npy`` of vectors and its barcodes.

    Raises
    ------
    BadInputError
        No barcodes beside it, no plain numbers, or another number of rows than of barcodes.
    """
    owner, barcodes = _read_barcodes(path)
    if path.stat().st_size > _MAX_BYTES:
        raise refuse_file(path, f"more than {_MAX_BYTES:,} bytes", "give the slices one by one")
    try:
        matrix = read_npy(read_file(path), str(path), _FLOATS, 2)
    except IntegrityError as error:
        fix = "store it with np.save(path, np.ascontiguousarray(vectors, 'float32'))"
        raise refuse_file(path, error.problems[0].what, fix) from error
    if matrix.shape[0] != len(barcodes):
        what = f"{matrix.shape[0]:,} vectors, {len(barcodes):,} barcodes in "
        fix = "write one barcode a line, in the order of the rows"
        raise refuse_file(path, what + barcodes_path(path).name, fix)
    return group_rows(owner, barcodes, to_float32(matrix, path), {})


def _read_barcodes(path: Path) -> tuple[list[str], list[str]]:
    """Return the slice, empty where none is named, and the barcode of every row."""
    listed = barcodes_path(path)
    fix = "write one barcode a line, or slice, tab, barcode"
    if not listed.is_file() or listed.stat().st_size > _MAX_TEXT:
        raise refuse_file(path, f"there is no {listed.name} beside it, of at most 1 GiB", fix)
    try:
        lines = listed.read_text("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise refuse_file(listed, f"no UTF-8: {error}", fix) from error
    cells = [line.removesuffix("\r").split("\t") for line in lines]
    width = len(cells[0])
    odd = [i for i, row in enumerate(cells, 1) if len(row) != width or "" in row]
    if odd or width > 2:
        what = f"{len(odd):,} of {len(lines):,} lines are empty or unlike the first"
        raise refuse_file(listed, f"{what} (first: line {odd[0] if odd else 1})", fix)
    return [row[0] if width == 2 else "" for row in cells], [row[-1] for row in cells]


def read_sidecar(path: Path) -> Sidecar | None:
    """Read the sidecar of a file of vectors; none where there is none.

    Raises
    ------
    BadInputError
        It is not as :class:`Sidecar` says; every problem is named.
    """
    beside = sidecar_path(path)
    if not beside.is_file():
        return None
    if beside.stat().st_size > _MAX_SIDECAR:
        raise refuse_file(beside, f"more than {_MAX_SIDECAR:,} bytes", "tell the model in brief")
    try:
        return read_document(Sidecar, read_file(beside), str(beside))
    except IntegrityError as error:
        keys = ", ".join(n for n, field in Sidecar.model_fields.items() if field.is_required())
        fix = f"write the keys {keys}; manifests/methods/README.md has an example"
        raise BadInputError(
            *(Problem(code="V04", subject=p.subject, where=p.where, what=p.what, fix=fix)
              for p in error.problems)
        ) from error  # fmt: skip


def with_sidecar(embeddings: Embeddings, path: Path) -> Embeddings:
    """Add what the sidecar of a file tells to what the file says of itself.

    Raises
    ------
    BadInputError
        A sidecar that is none.
    IntegrityError
        A file that is not the one of which the sidecar tells the SHA-256.
    """
    told = {**embeddings.provenance, **_told_by_sidecar(path)}
    return Embeddings(slices=embeddings.slices, provenance=told)


def _told_by_sidecar(path: Path) -> dict[str, Any]:
    """Return a sidecar for the provenance; the weights' digest is the results' ``checkpoint``."""
    sidecar = read_sidecar(path)
    if sidecar is None:
        return {}
    _require_same(path, sidecar.file_sha256)
    _require_same(barcodes_path(path), sidecar.barcodes_sha256)
    told: dict[str, Any] = {"external": sidecar.model_dump(mode="json", exclude_unset=True)}
    if sidecar.weights_sha256 is not None:
        told["checkpoint"] = sidecar.weights_sha256
    return told


def _require_same(path: Path, expected: str | None) -> None:
    if expected is None:
        return
    if not path.is_file():
        raise refuse_file(path, "no such file, and a sidecar tells its SHA-256", "get it again")
    if (came := sha256_file(path)) != expected:
        what = f"its SHA-256 is {came[:16]}..., its sidecar says {expected[:16]}..."
        raise refuse_damage(path, what)


def record_provenance(results: Path, files: Iterable[VectorFile]) -> list[str]:
    """Write where judged vectors come from to ``provenance/NAME.json`` of a folder of results.

    Parameters
    ----------
    results
        Folder of results.
    files
        The files that were judged.

    Returns
    -------
    list of str
        A remark for each file that says nothing of its model.

    Raises
    ------
    BadInputError
        A file or sidecar that cannot be read.
    IntegrityError
        A damaged file.
    ResourceError
        The disk refuses.
    """
    remarks: list[str] = []
    for file in files:
        told = {**told_by_file(file.path), **_told_by_sidecar(file.path)}
        write_durable(results / FOLDER / f"{file.name}.json", dump_document(told))
        if not told:
            remarks.append(
                f"embedding '{file.name}': nothing says which model made it; write "
                f"{sidecar_path(file.path).name} beside it (manifests/methods/README.md)"
            )
    return remarks
