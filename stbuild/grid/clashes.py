"""Slices that cannot stand beside each other: of the same content, or with files of one name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stbuild.corpus.documents import SourceFile
from stbuild.corpus.errors import Problem


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What decides whether a slice may stand beside others."""

    slug: str
    path: str
    """As the user gave it, for messages."""
    content: str
    """Digest of its grid's content."""
    sources: tuple[SourceFile, ...]


def find_clashes(candidates: Sequence[Candidate]) -> dict[str, Problem]:
    """Return what speaks against slices beside those before them.

    Parameters
    ----------
    candidates
        The slices, in the order in which they are taken.

    Returns
    -------
    dict
        One problem for each slug that is left out: B010 for the content of an earlier slice, which
        would leak between splits; B092 for files that no document could tell from an earlier
        slice's, so that nobody could rebuild the corpus.
    """
    paths = {candidate.slug: candidate.path for candidate in candidates}
    first: dict[str, str] = {}
    found: dict[str, Problem] = {}
    for candidate in candidates:
        other = first.setdefault(candidate.content, candidate.slug)
        if other != candidate.slug:
            found[candidate.slug] = Problem(
                code="B010",
                subject=f"slice '{candidate.slug}'",
                where=candidate.path,
                what=f"same content as slice '{other}' ({paths[other]})",
                fix="list it once; a duplicate would leak between splits",
            )
    sources = {c.slug: c.sources for c in candidates if c.slug not in found}
    for slug, (name, other) in find_namesakes(sources).items():
        found[slug] = Problem(
            code="B092",
            subject=f"slice '{slug}'",
            where=paths[slug],
            what=f"its source file would be named '{name}' like another one, of slice '{other}' "
            f"({paths[other]})",
            fix="list the slices in a manifest above their folders: names are relative to it",
        )
    return found


def find_namesakes(sources: Mapping[str, Sequence[SourceFile]]) -> dict[str, tuple[str, str]]:
    """Return slices of which a file has the name, but not the content, of an earlier slice's.

    Parameters
    ----------
    sources
        Files of each slice, by slug.

    Returns
    -------
    dict
        For each such slug the name, and the slug of the first slice with a file of that name.
    """
    first: dict[str, tuple[str, str]] = {}
    found: dict[str, tuple[str, str]] = {}
    for slug, files in sources.items():
        for file in files:
            digest, other = first.setdefault(file.name, (file.sha256, slug))
            if digest != file.sha256:
                found.setdefault(slug, (file.name, other))
    return found
