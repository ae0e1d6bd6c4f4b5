"""The files of a corpus: all there, no other, every byte as it was written. Nothing is decoded."""

from collections.abc import Iterator
from pathlib import Path

from stbuild.corpus import names
from stbuild.corpus.digests import sha256_bytes, sha256_file
from stbuild.corpus.documents import CorpusDocument, read_document
from stbuild.corpus.errors import Problem
from stbuild.corpus.reader import Corpus, read_bounded
from stbuild.corpus.release import RELEASE_JSON, ReleaseDocument
from stbuild.verify.problems import bad

UNLINK = "put the files themselves in place of the link: a corpus is what stands in its folder"
"""What to do about links."""
_MOST_NAMED = 50
"""Extra files that are named one by one."""
_DEEPEST = 6
"""Folders within folders that are looked into; the paths of a corpus have at most five."""


def listed_files(
    document: CorpusDocument, release: ReleaseDocument | None
) -> dict[str, tuple[int, str]]:
    """Return (bytes, SHA-256) of every file that ``corpus.json`` and ``release.json`` list."""
    files = {shard.path: (shard.bytes, shard.sha256) for shard in document.shards}
    files |= {file.path: (file.bytes, file.sha256) for file in document.files}
    if release is not None:
        raw = release.to_bytes()
        files |= {file.path: (file.bytes, file.sha256) for file in release.files}
        files[RELEASE_JSON] = (len(raw), sha256_bytes(raw))
    return files


def read_release(corpus: Corpus) -> ReleaseDocument | None:
    """Return what a release holds besides its corpus; None where the corpus is none.

    Raises
    ------
    IntegrityError
        ``release.json`` is damaged.
    """
    path = corpus.root / RELEASE_JSON
    if not is_plain(corpus.root, RELEASE_JSON):
        return None
    raw = read_bounded(path, names.MAX_DOCUMENT_BYTES)
    return read_document(ReleaseDocument, raw, str(path))


def check_files(corpus: Corpus, release: ReleaseDocument | None) -> Iterator[Problem]:
    """Yield every listed file that is missing, of another size or of other bytes."""
    for path, (size, digest) in sorted(listed_files(corpus.document, release).items()):
        if (problem := _check_size(corpus, path, size)) is not None:
            yield problem
        elif sha256_file(corpus.root / path) != digest:
            what = f"its SHA-256 is not the one in {_lister(corpus, path)}"
            yield bad(corpus.root / path, what)


def check_sizes(corpus: Corpus) -> Iterator[Problem]:
    """Yield every file that ``corpus.json`` lists and that is missing or of another size."""
    for path, (size, _) in sorted(listed_files(corpus.document, None).items()):
        if (problem := _check_size(corpus, path, size)) is not None:
            yield problem


def _check_size(corpus: Corpus, path: str, size: int) -> Problem | None:
    file = corpus.root / path
    if (link := find_link(corpus.root, path)) is not None:
        what = "a link, not a regular file" if link == path else f"'{link}' on its way is a link"
        return bad(file, what, UNLINK)
    if not is_plain(corpus.root, path):
        return bad(file, "missing, or not a regular file")
    if (found := file.stat().st_size) != size:
        return bad(file, f"{found:,} bytes, {_lister(corpus, path)} says {size:,}")
    return None


def check_checksums(corpus: Corpus, release: ReleaseDocument | None) -> Iterator[Problem]:
    """Yield what ``SHA256SUMS`` and ``corpus.json`` say differently of each other."""
    path = corpus.root / names.CHECKSUMS
    if not is_plain(corpus.root, names.CHECKSUMS):
        yield bad(path, "missing, or not a regular file")
        return
    document = corpus.root / names.CORPUS_JSON
    raw = read_bounded(document, names.MAX_DOCUMENT_BYTES)
    sums = {name: digest for name, (_, digest) in listed_files(corpus.document, release).items()}
    sums[names.CORPUS_JSON] = sha256_bytes(raw)
    expected = [f"{digest}  {name}\n" for name, digest in sorted(sums.items())]
    # Whatever is longer is wrong already, and is not read to its end.
    with path.open("rb") as file:
        found = file.read(2 * sum(map(len, expected)) + 1)
    if found != "".join(expected).encode():
        lines = found.decode(errors="replace").splitlines(keepends=True)
        other = sorted(set(expected) ^ set(lines), key=lambda line: line[66:])
        first = other[0].strip()[66:] if other else "the order of lines"
        yield bad(path, f"{len(other)} lines are not those of corpus.json (first: {first!r})")
        if release is None and any(line[66:].strip() == RELEASE_JSON for line in other):
            yield bad(corpus.root / RELEASE_JSON, "missing, though SHA256SUMS lists it")
    if raw != corpus.document.to_bytes():
        yield bad(document, "its bytes are not the form that a corpus.json is written in")
    for name in (names.CORPUS_JSON, RELEASE_JSON):
        if name in sums and f"{sums[name]}  {name}".encode() not in found.splitlines():
            yield bad(corpus.root / name, "its SHA-256 is not the one in SHA256SUMS")


def check_extra(corpus: Corpus, release: ReleaseDocument | None) -> Iterator[Problem]:
    """Yield what stands in the folder and is not listed; links are never followed."""
    known = {*listed_files(corpus.document, release), names.CORPUS_JSON, names.CHECKSUMS}
    folders = {parent.as_posix() for path in known for parent in Path(path).parents}
    fix = "remove it, or keep it outside the corpus"
    extra = [path for path in _walk(corpus.root) if path not in known | folders]
    for path in extra[:_MOST_NAMED]:
        yield bad(corpus.root / path, "it is not listed by the corpus", fix)
    if len(extra) > _MOST_NAMED:
        yield bad(corpus.root, f"{len(extra) - _MOST_NAMED:,} more that are not listed", fix)


def _lister(corpus: Corpus, path: str) -> str:
    document = corpus.document
    own = {entry.path for entry in document.files} | {shard.path for shard in document.shards}
    return names.CORPUS_JSON if path in own else RELEASE_JSON


def is_plain(root: Path, path: str) -> bool:
    """Tell whether a path of the corpus is a regular file that no link leads to."""
    return (root / path).is_file() and find_link(root, path) is None


def find_link(root: Path, path: str) -> str | None:
    """Return the first folder on the way to a path of the corpus, or the path, that is a link."""
    parts = [*(parent.as_posix() for parent in Path(path).parents if parent != Path()), path]
    return next((part for part in sorted(parts, key=len) if (root / part).is_symlink()), None)


def _walk(root: Path) -> Iterator[str]:
    """Yield every path below a folder; a link to a folder is one entry, and not entered.

    Folders deeper than anything that a corpus lists are not entered either: they may go down
    further than the system can name.
    """
    waiting = [""]
    while waiting:
        inside = waiting.pop()
        for path in sorted((root / inside).iterdir()):
            name = f"{inside}{path.name}"
            yield name
            if path.is_dir() and not path.is_symlink() and name.count("/") < _DEEPEST:
                waiting.append(f"{name}/")
