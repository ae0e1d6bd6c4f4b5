"""``diff``: what two corpora have in common and where they differ, in words."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from stbuild.corpus.documents import SliceEntry
from stbuild.corpus.errors import IntegrityError
from stbuild.corpus.reader import Corpus, open_corpus
from stbuild.verify.files import check_sizes
from stbuild.workspace import describe_difference

_DIFFERENT = "different corpora"
_NAMED = 5
"""Names that are listed before the rest is only counted."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Differences of two corpora by subject; empty lists where they agree."""

    same_identity: bool
    """Whether the corpus ids are equal: the same content, whatever the compressor."""
    same_bytes: bool
    """Whether both documents are equal, and so name the same bytes for every file."""
    config: tuple[str, ...]
    slices: tuple[str, ...]
    genes: tuple[str, ...]
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    shards: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether they differ in more than how shards are encoded: in what is said, too."""
        return not self.same_identity or bool(self.slices or self.splits)

    def lines(self) -> list[str]:
        """Return the comparison for people, one line a difference."""
        if self.same_bytes:
            return [
                "the same by their documents; files were not read (`stbuild verify` reads them)"
            ]
        head = "the same content, other bytes"
        if self.differs:
            head = "the same samples, described otherwise" if self.same_identity else _DIFFERENT
        subjects = ("config", "slices", "genes", "labels", "splits", "shards")
        return [head] + [f"{name}: {line}" for name in subjects for line in getattr(self, name)]


def compare_corpora(first: Path, second: Path) -> Comparison:
    """Compare two finished corpora by their documents, without reading a shard.

    Raises
    ------
    BadInputError
        One of them is no finished corpus.
    IntegrityError
        One of them is damaged: files that are missing or have another size are all named.
    """
    a, b = open_corpus(first), open_corpus(second)
    if problems := [problem for corpus in (a, b) for problem in check_sizes(corpus)]:
        raise IntegrityError(*problems)
    one, two = a.document, b.document
    files = {file.path: file.sha256 for file in one.files}
    others = {file.path: file.sha256 for file in two.files}
    return Comparison(
        same_identity=one.corpus_id == two.corpus_id,
        same_bytes=one == two,
        config=tuple(_config(a, b)),
        slices=tuple(_slices(a, b)),
        genes=tuple(_sets(a.genes, b.genes)),
        labels=tuple(_sets(one.labels, two.labels)),
        splits=tuple(_splits(files, others)),
        shards=tuple(_shards(a, b)),
    )


def _config(a: Corpus, b: Corpus) -> Iterable[str]:
    old = a.document.config.model_dump(mode="json")
    new = b.document.config.model_dump(mode="json")
    if old != new:
        yield describe_difference(old, new)


def _slices(a: Corpus, b: Corpus) -> Iterable[str]:
    one = {entry.slug: entry for entry in a.document.slices}
    two = {entry.slug: entry for entry in b.document.slices}
    yield from _sets(sorted(one), sorted(two))
    for slug in sorted(one.keys() & two.keys()):
        if changes := _changes(one[slug], two[slug]):
            yield f"{slug}: {changes}"


def _changes(one: SliceEntry, two: SliceEntry) -> str:
    old, new = one.model_dump(mode="json"), two.model_dump(mode="json")
    left_out = {"sources", "grid_content"}
    text = describe_difference(
        {k: v for k, v in old.items() if k not in left_out},
        {k: v for k, v in new.items() if k not in left_out},
    )
    parts = [text] if text else []
    if old["sources"] != new["sources"]:
        parts.append("other source files")
    if one.grid_content != two.grid_content:
        parts.append("other counts, cells, positions or labels")
    return "; ".join(parts)


def _sets(one: Iterable[str], two: Iterable[str]) -> Iterable[str]:
    first, second = set(one), set(two)
    for which, alone in (("first", first - second), ("second", second - first)):
        if alone:
            listed, verb = sorted(alone), f"only in the {which}"
            more = f" and {len(listed) - _NAMED:,} more" if len(listed) > _NAMED else ""
            yield f"{len(listed):,} {verb}: {', '.join(listed[:_NAMED])}{more}"


def _splits(one: Mapping[str, str], two: Mapping[str, str]) -> Iterable[str]:
    for path in sorted(one.keys() | two.keys()):
        if path.startswith("splits/") and one.get(path) != two.get(path):
            where = "differs" if path in one and path in two else "only in one of them"
            yield f"{path}: {where}"


def _shards(a: Corpus, b: Corpus) -> Iterable[str]:
    one = {shard.path: shard for shard in a.document.shards}
    two = {shard.path: shard for shard in b.document.shards}
    yield from _sets(one, two)
    both = one.keys() & two.keys()
    content = sum(one[path].content != two[path].content for path in both)
    bytes_only = sum(one[p].sha256 != two[p].sha256 for p in both) - content
    if content:
        yield f"{content:,} of {len(both):,} have other content"
    if bytes_only:
        yield f"{bytes_only:,} of {len(both):,} have the same content in other bytes"
