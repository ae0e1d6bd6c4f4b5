"""The plain way in: the same shards through ``webdataset``, for people without our loader.

It reads whole shards from first to last, so it knows no index, no order of ours and no place to
resume from, and it checks no digest: run ``stbuild verify`` first. Members are decoded by the
contract's allow-list; webdataset's own ``.decode()`` would execute pickled members of a stranger's
shard and is never called.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stbuild.corpus.reader import open_corpus
from stbuild.corpus.samples import Patch, decode_patch
from sttrain.errors import BadInputError, Problem

if TYPE_CHECKING:
    import webdataset


def decode_sample(sample: Mapping[str, Any]) -> Patch:
    """Decode what webdataset hands over: member bytes by suffix, and its own ``__key__``.

    Raises
    ------
    IntegrityError
        A missing, extra or damaged member, or members that contradict each other.
    """
    return decode_patch(sample, f"{sample['__url__']}:{sample['__key__']}")


def open_webdataset(
    root: Path, split: str = "train", decode: Callable[[Mapping[str, Any]], Any] = decode_sample
) -> "webdataset.WebDataset":
    """Return the patches of a split in stored order, as an iterable dataset of PyTorch.

    Equal to ``webdataset.WebDataset(shards, shardshuffle=False).map(decode)``. A shard mixes all
    slices, so that even this order trains; add ``.shuffle(1000)`` for more.

    Parameters
    ----------
    root
        Folder of a finished corpus.
    split
        Split whose patches are read.
    decode
        What becomes of the members of a sample.

    Raises
    ------
    BadInputError
        No corpus, a split without patches, or a path in which webdataset sees a pattern or a
        command.
    IntegrityError
        A shard is missing or has not its size.
    """
    import webdataset

    corpus = open_corpus(root.resolve())
    paths = [str(corpus.shard_file(shard)) for shard in corpus.document.shards_of(split)]
    if not paths:
        listed = ", ".join(corpus.document.splits()) or "none"
        raise _refused(root, f"split '{split}' holds 0 patches; it has {listed}")
    if bad := next((c for c in "{}:" if c in str(root.resolve())), None):
        raise _refused(root, f"its path holds '{bad}', which webdataset expands or executes")
    return webdataset.WebDataset(paths, shardshuffle=False, empty_check=False).map(decode)


def _refused(root: Path, what: str) -> BadInputError:
    fix = "name another split, or move the corpus to a plain path"
    return BadInputError(
        Problem(code="L24", subject=f"corpus '{root.name}'", where=str(root), what=what, fix=fix)
    )
