"""How to load a release: the section of its card, from ``loading.md`` beside this file.

A test runs every block of it, in the tools that it names.
"""

from collections.abc import Iterator
from importlib.resources import files

from stbuild.corpus.documents import CorpusDocument


def render_loading(document: CorpusDocument) -> Iterator[str]:
    """Yield the section on loading, with a split of the corpus in place of ``train``.

    Parameters
    ----------
    document
        The corpus; its split ``train`` is taken if there is one, else the first that holds patches.
    """
    splits = document.splits()
    split = "train" if "train" in splits else next(iter(splits), "train")
    text = (files(__package__) / "loading.md").read_text("utf-8")
    for word in ('"train"', "/train.parquet", "patches-train"):
        text = text.replace(word, word.replace("train", split))
    yield "## Load\n"
    yield text
