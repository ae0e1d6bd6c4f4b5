"""``croissant.json``: the release for machines (MLCommons Croissant 1.1).

Made and checked by the mlcroissant library; every file is named with its SHA-256, and records are
read from the Parquet tables, so the first one comes without opening a shard.
"""

import json
from collections.abc import Sequence
from datetime import date, datetime
from types import ModuleType
from typing import Any, Final

from stbuild.corpus import names
from stbuild.corpus.errors import PlatformError, Problem
from stbuild.publish.options import PublishOptions
from stbuild.publish.subset import Subset

CROISSANT_JSON: Final = "croissant.json"
_INDEX: Final = {
    "key": ("TEXT", "Key of the sample"), "slice": ("TEXT", "Slice that it was cut from"),
    "donor": ("TEXT", "Donor of the slice"), "shard": ("INT32", "Number of its shard"),
    "offset": ("INT64", "First byte in the shard"), "size": ("INT64", "Bytes in the shard"),
    "row": ("INT32", "Grid row of its first site"), "col": ("INT32", "Grid column"),
    "draw": ("INT32", "Gene draw"), "observed": ("INT32", "Observed sites"),
}  # fmt: skip
_SLICES: Final = {
    "slug": ("TEXT", "Id of the slice in keys"), "name": ("TEXT", "Id as its lab gave it"),
    "split": ("TEXT", "Split"), "donor": ("TEXT", "Donor"), "tissue": ("TEXT", "Tissue"),
    "platform": ("TEXT", "Platform"), "species": ("TEXT", "Species"),
    "licence": ("TEXT", "Licence, SPDX"), "n_spots": ("INT64", "Observed spots"),
    "n_genes": ("INT64", "Genes that it measures"), "n_patches": ("INT64", "Patches"),
}  # fmt: skip
_GENES: Final = {
    "gene": ("TEXT", "Gene id; its position is the gene index"),
    "n_slices": ("INT64", "Slices that measure it"),
}


def require_mlcroissant() -> ModuleType:
    """Return the library.

    Raises
    ------
    PlatformError
        It is not installed.
    """
    try:
        import mlcroissant
    except ImportError as error:
        raise PlatformError(
            Problem(
                code="E009",
                subject="mlcroissant",
                what=f"a release describes itself with it, but {error}",
                fix="pip install 'stcorpus[publish]'",
            )
        ) from error
    found: ModuleType = mlcroissant
    return found


def make_croissant(subset: Subset, options: PublishOptions, licence: str) -> bytes:
    """Return the document.

    Parameters
    ----------
    subset
        What is published.
    options
        Title, authors, date and the like.
    licence
        URL or name of the licence of the whole.
    """
    mlc = require_mlcroissant()
    document = subset.document
    files = {file.path: file for file in document.files}
    index = [
        names.index_path(split, kind)
        for split, kind in sorted({(s.split, s.kind) for s in document.shards})
    ]
    tables = [*index, names.SLICES_PARQUET, names.GENES_PARQUET]
    distribution = [
        _file(mlc, path, files[path].sha256, files[path].bytes, "application/x-parquet")
        for path in tables
    ]
    distribution += [
        _file(mlc, shard.path, shard.sha256, shard.bytes, "application/x-tar")
        for shard in document.shards
    ]
    sets = [_records(mlc, _set_name(path), path, _INDEX) for path in index]
    sets.append(_records(mlc, "slices", names.SLICES_PARQUET, _SLICES))
    sets.append(_records(mlc, "genes", names.GENES_PARQUET, _GENES))
    published = None if options.date is None else datetime.fromisoformat(options.date)
    metadata = mlc.Metadata(
        ctx=mlc.Context(conforms_to="http://mlcommons.org/croissant/1.1"),
        name=document.name,
        description=options.description or f"Spatial-transcriptomics patches: {document.name}",
        cite_as=options.cite_as(document),
        creators=[mlc.Person(name=author) for author in options.authors],
        date_published=published,
        license=[licence],
        url=options.url or f"urn:stcorpus:{document.corpus_id}",
        version=options.release_version,
        distribution=distribution,
        record_sets=sets,
    )
    value = metadata.to_json()
    return json.dumps(value, indent=2, sort_keys=True, default=_plain).encode() + b"\n"


def _plain(value: object) -> str:
    if isinstance(value, date):
        return value.isoformat()
    msg = f"{type(value).__name__} has no JSON form"
    raise TypeError(msg)


def _set_name(path: str) -> str:
    """Return the name of the record set of an index: ``patches-train``, ``whole-slices-test``."""
    stem = path.removeprefix("index/").removesuffix(".parquet")
    split, _, kind = stem.partition("-")
    return f"{'whole-slices' if kind else 'patches'}-{split}"


def _file(mlc: ModuleType, path: str, digest: str, size: int, kind: str) -> Any:  # noqa: ANN401
    return mlc.FileObject(
        id=path,
        name=path,
        content_url=path,
        content_size=f"{size} B",
        encoding_formats=[kind],
        sha256=digest,
    )


def _records(mlc: ModuleType, name: str, path: str, columns: dict[str, tuple[str, str]]) -> Any:  # noqa: ANN401 - mlcroissant is not typed
    fields: Sequence[Any] = [
        mlc.Field(
            id=f"{name}/{column}",
            name=column,
            description=text,
            data_types=getattr(mlc.DataType, kind),
            source=mlc.Source(file_object=path, extract=mlc.Extract(column=column)),
        )
        for column, (kind, text) in columns.items()
    ]
    return mlc.RecordSet(id=name, name=name, fields=fields)
