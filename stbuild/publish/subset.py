"""What is published of a corpus: all of it, or without some licence classes."""

from collections.abc import Iterable
from dataclasses import dataclass

from stbuild.corpus.documents import CorpusDocument
from stbuild.corpus.reader import Corpus
from stbuild.publish.cut import cut_corpus
from stbuild.publish.licences import UNKNOWN


@dataclass(frozen=True, kw_only=True)
class Subset:
    """What is published of a corpus."""

    document: CorpusDocument
    tables: dict[str, bytes]
    """Every file of the corpus but its shards, by path."""


def choose_subset(corpus: Corpus, left_out: Iterable[str]) -> Subset:
    """Return a corpus without the slices and shards of some licence classes.

    Parameters
    ----------
    corpus
        The corpus.
    left_out
        Classes as flags name them; none leaves the corpus as it is.

    Raises
    ------
    IntegrityError
        A table of the corpus is damaged.
    """
    classes = [None if name == UNKNOWN else name for name in left_out]
    if not classes:
        tables = {file.path: corpus.file(file.path) for file in corpus.document.files}
        return Subset(document=corpus.document, tables=tables)
    cut = cut_corpus(corpus, classes)
    return Subset(document=cut.document, tables=cut.written)
