"""``release.json``: what a published folder holds besides its corpus. No file is opened here."""

from typing import Literal

from stbuild.corpus.documents import Document, FileEntry, Sha256, Slug

RELEASE_JSON = "release.json"


class LicenceEntry(Document):
    """One licence class of a release."""

    name: Slug
    """The class, as shards are named after it; ``unknown`` where the slices say nothing."""
    spdx: str | None
    """SPDX expression, where the slices give a valid one."""
    slices: tuple[Slug, ...]
    stated: bool
    """Whether the publisher states the right to redistribute, beyond what the licence says."""


class ReleaseDocument(Document):
    """``release.json``: written when all else stands, before the checksums."""

    format: Literal["stcorpus/release"] = "stcorpus/release"
    version: Literal[1] = 1
    corpus_id: Sha256
    of_corpus: Sha256
    """Identity of the corpus that it was made from: another one where classes were left out."""
    of_document: Sha256 | None = None
    """SHA-256 of the `corpus.json` of that corpus, whose identity leaves metadata out; releases of
    earlier versions do not say it."""
    left_out: tuple[Slug, ...]
    """Licence classes whose shards and slices were left out."""
    licences: tuple[LicenceEntry, ...]
    options: Sha256
    """Digest of all that the publisher said: what a rerun compares."""
    files: tuple[FileEntry, ...]
    """Every file that ``corpus.json`` does not list, but for this one and ``SHA256SUMS``."""
