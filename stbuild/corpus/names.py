"""Names, versions, limits and the key grammar of the on-disk format.

Nothing here reads or writes a file.
"""

import hashlib
import re
import unicodedata
from typing import Final

FORMAT_CORPUS: Final = "stcorpus/corpus"
FORMAT_LOCK: Final = "stcorpus/lock"
FORMAT_GRID: Final = "stcorpus/grid"
FORMAT_PATCH: Final = "stcorpus/patch"
FORMAT_WHOLE: Final = "stcorpus/whole-slice"
FORMAT_SPLIT: Final = "stcorpus/split"
FORMAT_PART: Final = "stcorpus/part"
VERSION: Final = 1
"""Version of every document; a reader refuses a version it does not know."""

CORPUS_JSON: Final = "corpus.json"
LOCK_JSON: Final = "corpus.lock.json"
CHECKSUMS: Final = "SHA256SUMS"
GENES_PARQUET: Final = "genes.parquet"
SLICES_PARQUET: Final = "slices.parquet"
PANELS_PARQUET: Final = "panels.parquet"
WORK_DIR: Final = ".work"
"""Scratch of an unfinished build, inside its output folder; gone when the corpus is done."""

MEMBER_COUNTS: Final = "counts"
"""Member that holds the counts: ``counts.blosc``, or ``counts.npy`` with ``codec = none``."""

MAX_JSON_BYTES: Final = 64 * 1024
"""Largest ``.json`` member of a sample."""
MAX_DOCUMENT_BYTES: Final = 256 * 1024 * 1024
"""Largest top-level document that is read."""
MAX_PATCH_BYTES: Final = 256 * 1024 * 1024
"""Largest decoded array of one patch."""
MAX_WINDOW: Final = 64
"""Largest patch side; up to it, the exact integer variance fits 64 bits."""
MAX_LABELS: Final = 2**15 - 1
"""Most label names of a grid or corpus: codes are of 16 bits."""

KEY_PATTERN: Final = r"^[a-z0-9_-]{1,84}$"
SLUG_PATTERN: Final = r"^[a-z0-9][a-z0-9-]{0,63}$"
SPLIT_PATTERN: Final = r"^[a-z][a-z0-9]{0,15}$"
SHARD_PATTERN: Final = r"^data/[a-z][a-z0-9]{0,15}/[a-z0-9_-]{1,200}\.tar$"
FILE_PATTERN: Final = (
    r"^([A-Za-z0-9_-][A-Za-z0-9_.@-]{0,120}/){0,5}[A-Za-z0-9_-][A-Za-z0-9_.@-]{0,120}$"
)
SHA256_PATTERN: Final = r"^[0-9a-f]{64}$"

BLOCKS: Final = "blocks"
"""In place of a split: the slice is parted between splits by spatial blocks."""

_RESERVED: Final = frozenset({"con", "nul", "aux", "prn", "c"})


def slugify(name: str) -> str:
    """Turn any slice id into the form that keys and file names use.

    Lower-case ASCII letters, digits and hyphens, at most 64 of them, starting with a letter or
    digit. An id that loses everything (no ASCII at all), or that is too long, keeps a short
    digest of itself, so that two such ids stay apart.

    Parameters
    ----------
    name
        The id as the user gave it; it is kept as it is in the documents.
    """
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", ascii_name).strip("-")
    suffix = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    if not slug:
        return f"s-{suffix}"
    if slug in _RESERVED:
        slug = f"s-{slug}"
    return slug if len(slug) <= 64 else f"{slug[:55]}-{suffix}"


def window_key(slug: str, window: int) -> str:
    """Return the key of the `window`-th training patch of a slice."""
    return f"{slug}_w{window:06d}"


def cover_key(slug: str, row: int, col: int, draw: int) -> str:
    """Return the key of the evaluation patch at grid (`row`, `col`) under gene draw `draw`."""
    return f"{slug}_r{row:05d}c{col:05d}_d{draw:02d}"


def whole_key(slug: str) -> str:
    """Return the key of a whole-slice sample."""
    return f"{slug}_slice"


def shard_path(name: str, split: str, kind: str, number: int, licence: str | None = None) -> str:
    """Return the path of a shard inside its corpus; the split stands in the file name too.

    Parameters
    ----------
    name
        Name of the corpus.
    split
        Split, such as ``train``.
    kind
        ``patch`` or ``slice``.
    number
        Running number within (split, kind, licence).
    licence
        Licence class of its slices, from :func:`licence_class`; None is unknown.
    """
    middle = "-slices" if kind == "slice" else ""
    middle += f"-{licence}" if licence is not None else ""
    return f"data/{split}/{name}-{split}{middle}-{number:05d}.tar"


def licence_class(licence: str | None) -> str | None:
    """Return the class of a licence, as shards are grouped by and named after: its slug.

    None is unknown. Slices of two classes never share a shard, so that one can be left out.
    """
    return None if licence is None else slugify(licence)


def index_path(split: str, kind: str) -> str:
    """Return the path of the index of one split's patches or whole slices."""
    return f"index/{split}{'-slices' if kind == 'slice' else ''}.parquet"


def split_path(task: str, version: int) -> str:
    """Return the path of an evaluation split, ``splits/<task>@<version>.json``."""
    return f"splits/{task}@{version}.json"
