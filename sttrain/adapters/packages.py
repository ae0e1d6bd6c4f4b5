"""Methods that run through a package of their own: finding it, and slices as it wants them.

Letters: N spots, G genes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from stbuild.corpus.errors import PlatformError
from sttrain.embed.evaluation import decode_barcodes, require_sound
from sttrain.errors import BadInputError, Problem

if TYPE_CHECKING:
    from anndata import AnnData

    from stbuild.corpus.reader import Corpus
    from stbuild.corpus.samples import WholeSlice


def import_extra(module: str, extra: str) -> Any:  # noqa: ANN401 - a module without types
    """Import a package that an extra of ours brings.

    Raises
    ------
    PlatformError
        It is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        what = f"the package of the extra '{extra}' is not installed ({error})"
        problem = Problem(
            code="E009",
            subject=f"method '{extra}'",
            what=what,
            fix=f"pip install 'stcorpus[{extra}]'; see manifests/methods/README.md",
        )
        raise PlatformError(problem) from error


@contextmanager
def foreign_seed() -> Iterator[None]:
    """Give torch's own generator back as it was: packages seed it for the whole process."""
    import torch

    with torch.random.fork_rng(devices=[]):
        yield


@contextmanager
def foreign_checks(method: str) -> Iterator[None]:
    """Turn what a package asserts of its input into an error of the input.

    Raises
    ------
    BadInputError
        The package refused the corpus.
    """
    try:
        yield
    except (AssertionError, ValueError) as error:
        what = f"the package refuses the corpus: {' '.join(str(error).split())[:300]}"
        fix = "leave the method out for this corpus, or the slice that it speaks of"
        problem = Problem(code="V31", subject=f"method '{method}'", what=what, fix=fix)
        raise BadInputError(problem) from error


def sound_slices(corpus: "Corpus") -> list["WholeSlice"]:
    """Return all slices of a corpus, slugs ascending, each checked."""
    found = [
        whole for split in corpus.document.splits("slice") for whole in corpus.whole_slices(split)
    ]
    for whole in found:
        require_sound(whole, len(corpus.document.labels))
    return sorted(found, key=lambda whole: whole.meta.slice)


def annotate(whole: "WholeSlice", values: csr_array, genes: list[str], scale: float) -> "AnnData":
    """Return a slice as packages of the field want it.

    Parameters
    ----------
    whole
        The slice.
    values
        (N, G) float32.
    genes
        Names of the G genes.
    scale
        Factor of the positions.
    """
    from anndata import AnnData
    from pandas import DataFrame, Index
    from scipy.sparse import csr_matrix

    return AnnData(
        X=csr_matrix(values),
        obs=DataFrame(index=Index(decode_barcodes(whole), dtype=object)),
        var=DataFrame(index=Index(genes, dtype=object)),
        obsm={"spatial": whole.xy * scale},
    )


def slice_pitch(whole: "WholeSlice") -> float:
    """Return the distance of neighbouring sites in the unit of the positions.

    The lattice's own where it is known, else the median distance to the nearest spot.
    """
    if whole.meta.pitch:
        return float(whole.meta.pitch)
    if whole.meta.n_spots < 2:
        return 1.0
    nearest = np.asarray(cKDTree(whole.xy).query(whole.xy, k=2)[0])[:, 1]
    return float(np.median(nearest)) or 1.0
