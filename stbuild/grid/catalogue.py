"""``grids.json``: which grids stand in a folder, written last; no folder is ever globbed."""

from pathlib import Path
from typing import Final, Literal

from stbuild.corpus import names
from stbuild.corpus.documents import Document, Sha256, Slug, read_document
from stbuild.corpus.durable import write_durable
from stbuild.corpus.errors import BadInputError, Problem
from stbuild.corpus.storage import read_file

GRIDS_JSON: Final = "grids.json"
FORMAT: Final = "stcorpus/grids"


class CatalogueEntry(Document):
    """One grid of the folder."""

    slug: Slug
    fingerprint: Sha256
    """Digest of source and configuration."""
    content: Sha256

    @property
    def file_name(self) -> str:
        """Name of the store inside the folder."""
        return f"{self.slug}.zarr"


class Catalogue(Document):
    """The grids of a folder, sorted by slug."""

    format: Literal["stcorpus/grids"] = FORMAT
    version: Literal[1] = names.VERSION
    name: str
    """Name of the manifest that they were made from."""
    shard: dict[str, bool | int | float | str | tuple[str, ...] | None]
    """Shard configuration that came with the manifest."""
    grids: tuple[CatalogueEntry, ...]


def read_catalogue(root: Path) -> Catalogue:
    """Read the catalogue of a folder of grids.

    Raises
    ------
    BadInputError
        There is none: no grids, or an unfinished run.
    """
    path = root / GRIDS_JSON
    if not path.is_file():
        problem = Problem(
            code="G02",
            subject=f"grids '{root.name}'",
            where=str(path),
            what="no finished grids stand here",
            fix="run `stbuild compact ... -o` with this folder first; a rerun resumes",
        )
        raise BadInputError(problem)
    return read_document(Catalogue, read_file(path), str(path))


def write_catalogue(root: Path, catalogue: Catalogue) -> None:
    """Write the catalogue unless the same one stands there already."""
    path = root / GRIDS_JSON
    raw = catalogue.to_bytes()
    if not path.is_file() or read_file(path) != raw:
        write_durable(path, raw)
