"""Writes the corpora of ``tests/archive/v1``: run once, when format version 1 was settled.

``python -m tests.archive.make_v1 FOLDER`` writes such corpora anew. What stands in the repository
is kept for good: later versions must read it, whatever they write themselves.
"""

import sys
import tempfile
from pathlib import Path

from stbuild.build.building import build_corpus
from stbuild.build.extension import extend_config, gather_extension
from stbuild.build.inputs import gather_inputs
from stbuild.config import GridConfig
from stbuild.corpus.documents import ShardConfig
from stbuild.corpus.reader import open_corpus
from stbuild.grid.compact import compact
from stbuild.manifests.manifest import read_inputs
from stbuild.tasks.pipeline import run_loop
from tests.slices import Spec, make_anndata

TRAIN = ShardConfig(
    name="old-train", window=6, genes=10, n_per_slice=4, samples_per_shard=5, whole_slices=True
)
COVER = ShardConfig(
    name="old-eval", window=6, genes=10, n_per_slice=None, cover=6, draws=1, codec="none"
)


def write_slices(root: Path, n_slices: int) -> Path:
    """Write some slices with a sample sheet, and compact them."""
    rows = ["slice,path,donor,split,licence,label,layout,bin_size"]
    for i in range(n_slices):
        data = make_anndata(Spec(seed=i, rows=12, cols=9, n_genes=16 + 2 * i, drop=0.2))
        data.var_names = [f"GENE{1 + (7 * (g + 5 * i)) % 97:04d}" for g in range(data.n_vars)]
        data.write_h5ad(root / f"s{i}.h5ad")
        binned = "bin,220" if i == 1 else ","
        split = "test" if i == 1 else "train"
        rows.append(f"Slice {i},s{i}.h5ad,d{i},{split},{'MIT' if i else ''},label,{binned}")
    (root / "m.csv").write_text("\n".join(rows) + "\n")
    (root / "m.toml").write_text('name = "old"\nsamples = "m.csv"\n')
    config = GridConfig(pitch_um=100, max_gap=20)
    compact(read_inputs([str(root / "m.toml")]), config, root / "grids", run_loop)
    return root / "grids"


def make(out: Path) -> None:
    """Write a training corpus, extended once, and an evaluation corpus over its genes."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        first = gather_inputs(write_slices(root, 2), TRAIN, None)
        build_corpus(first, root / "first", run_loop)
        base = open_corpus(root / "first")
        config = extend_config(base, {})
        inputs, earlier = gather_extension(write_slices(root, 3), base, config, None)
        build_corpus(inputs, out / "train", run_loop, earlier=earlier)
        build_corpus(gather_inputs(root / "grids", COVER, None), out / "eval", run_loop)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
