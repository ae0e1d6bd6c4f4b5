"""The samples that an objective trains on: patches of a split, or views of its whole slices."""

from pathlib import Path
from typing import TypeAlias

from stbuild.corpus.reader import Corpus
from sttrain.errors import BadUsageError, Problem
from sttrain.stream.batches import PatchSource, PatchStream
from sttrain.stream.order import Order, World
from sttrain.stream.remote import RemoteCorpus
from sttrain.stream.source import OnBad
from sttrain.train.config import RunConfig
from sttrain.train.slice_source import SliceSource, SliceStream

Source: TypeAlias = PatchSource | SliceSource


def open_source(
    corpus: Corpus,
    split: str,
    config: RunConfig,
    *,
    on_bad: OnBad = "refuse",
    cache: Path | None = None,
) -> Source:
    """Open what a run trains on.

    Parameters
    ----------
    corpus, split
        Where it is.
    config
        Objective, order and seed.
    on_bad, cache
        As those of :class:`PatchSource`.

    Raises
    ------
    BadInputError
        The split holds no patch, or no whole slice where the objective needs them.
    BadUsageError
        Whole slices are asked for from a URL, or with damaged ones left out.
    IntegrityError
        A shard is missing or has not its size.
    """
    if config.objective != "slice":
        return PatchSource(corpus, split, on_bad=on_bad, group=config.grouping, cache=cache)
    if on_bad == "skip" or isinstance(corpus, RemoteCorpus):
        raise _whole_slices_are_local(on_bad)
    return SliceSource(corpus, split, config.context, config.seed, group=config.grouping)


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


def _whole_slices_are_local(on_bad: OnBad) -> BadUsageError:
    what = "a URL" if on_bad == "refuse" else "--on-bad skip"
    return BadUsageError(
        Problem(
            code="B111",
            subject="objective 'slice'",
            what=f"it reads whole slices, every one of them, and cannot be given {what}",
            fix="train on a whole local copy of the corpus, or with another --objective",
        )
    )
