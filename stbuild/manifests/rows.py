"""Columns of a sample sheet that say where a slice comes from and what is known of it.

An empty cell is None and means "not confirmed"; `confirmed` says how each fact is known. Which of
them belong together is decided in :mod:`stbuild.fetch.plan`.
"""

from stbuild.corpus.documents import Count, Document, Sha256


class SourceRow(Document):
    """What one row of a sample sheet says about its sources."""

    url: str | None = None
    """Where `path` is downloaded from."""
    sha256: Sha256 | None = None
    """SHA-256 of what the URL gives (of the archive, where `unpack` is given); without a URL, of
    the file at `path`. None: nobody has confirmed it yet."""
    bytes: Count | None = None
    """Size of what the URL gives."""
    unpack: str | None = None
    """Member of the archive at the URL that is placed at `path`."""
    positions_url: str | None = None
    """Where the table of coordinates is downloaded from."""
    positions_sha256: Sha256 | None = None
    positions_bytes: Count | None = None
    positions_unpack: str | None = None
    labels_url: str | None = None
    """Where the table of labels is downloaded from."""
    labels_sha256: Sha256 | None = None
    labels_bytes: Count | None = None
    labels_unpack: str | None = None
    accession: str | None = None
    """Where the data is archived, such as ``zenodo:7760264`` or ``GSE263617``."""
    expected_spots: Count | None = None
    """Spots of the slice as its source has them."""
    expected_genes: Count | None = None
    expected_classes: Count | None = None
    confirmed: str | None = None
    """How each fact of the row is known, and which are not."""
