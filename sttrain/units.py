"""The samples that an objective trains on: patches of a split, or views of its whole slices."""

from typing import TypeAlias

from stbuild.corpus.reader import Corpus
from sttrain.config import RunConfig
from sttrain.order import Order, World
from sttrain.slice_source import SliceSource, SliceStream
from sttrain.stream import PatchSource, PatchStream

Source: TypeAlias = PatchSource | SliceSource


def open_source(corpus: Corpus, split: str, config: RunConfig) -> Source:
    """Open what a run trains on.

    Raises
    ------
    BadInputError
        The split holds no patch, or no whole slice where the objective needs them.
    IntegrityError
        A shard is missing or has not its size.
    """
    if config.objective != "slice":
        return PatchSource(corpus, split)
    return SliceSource(corpus, split, config.context, config.seed)


def patches_of(source: Source) -> PatchSource:
    """Return the patches of the same split, which statistics are taken of whatever is trained."""
    return source if isinstance(source, PatchSource) else source.patches


def batch_of(source: Source, batch: int) -> int:
    """Return the samples of a global batch of `batch` patches, or of as many sites."""
    return batch if isinstance(source, PatchSource) else source.batch_of(batch)


def stream_of(
    source: Source, order: Order, world: World | None = None, workers: int = 0
) -> PatchStream:
    """Return the batches of a source in some order; parameters as of :class:`PatchStream`."""
    if isinstance(source, PatchSource):
        return PatchStream(source, order, world, workers)
    return SliceStream(source, order, world, workers)
