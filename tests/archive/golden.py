"""What a builder of any supported versions of its libraries makes of the files in ``inputs``.

``python -m tests.archive.golden`` prints the digests; it needs nothing but what ``stbuild`` needs,
so it runs in environments that hold no test tools. ``make_inputs`` wrote the files once.
"""

import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stbuild.build.building import build_corpus
from stbuild.build.inputs import gather_inputs
from stbuild.config import GridConfig
from stbuild.corpus.documents import ShardConfig
from stbuild.corpus.reader import open_corpus
from stbuild.grid.catalogue import read_catalogue
from stbuild.grid.compact import compact
from stbuild.manifests.manifest import read_inputs
from stbuild.tasks.pipeline import run_loop
from stbuild.verify import verify_corpus

INPUTS = Path(__file__).with_name("inputs")
GRID = GridConfig(label="label", pitch_um=100.0)
SIZES: dict[str, Any] = {"window": 6, "genes": 10, "samples_per_shard": 7}
CONFIGS = {
    "train": ShardConfig(name="golden", n_per_slice=8, whole_slices=True, codec="none", **SIZES),
    "hvg": ShardConfig(name="golden", n_per_slice=8, select="hvg", codec="none", **SIZES),
    "eval": ShardConfig(name="golden", n_per_slice=None, cover=3, draws=2, codec="none", **SIZES),
    "compressed": ShardConfig(name="golden", n_per_slice=8, whole_slices=True, **SIZES),
}


def make_inputs() -> None:
    """Write the slices; what stands in the repository is kept for good."""
    from tests.slices import Spec, write_slice

    write_slice(INPUTS / "hexes.h5ad", Spec(seed=51, rows=14, cols=10, n_genes=24))
    write_slice(INPUTS / "squares.h5ad", Spec("square", 13, 11, n_genes=28, seed=52, mean=0.7))


def digests(root: Path, names: Iterable[str] = CONFIGS) -> dict[str, Any]:
    """Build some of it below `root`; return what must not depend on the versions of libraries.

    Content digests of all, and bytes of what no compressor and no writer of tables has touched.
    """
    files = [str(path) for path in sorted(INPUTS.glob("*.h5ad"))]
    compact(read_inputs(files), GRID, root / "grids", run_loop)
    found: dict[str, Any] = {
        "grids": {entry.slug: entry.content for entry in read_catalogue(root / "grids").grids}
    }
    for name in names:
        config = CONFIGS[name]
        build_corpus(gather_inputs(root / "grids", config, None), root / name, run_loop)
        if problems := verify_corpus(root / name).problems:
            raise SystemExit(f"{name}: {problems[0]}")
        found[name] = _digests_of(root / name, bytewise=config.codec == "none")
    return found


def _digests_of(root: Path, *, bytewise: bool) -> dict[str, Any]:
    document = open_corpus(root).document
    found: dict[str, Any] = {"corpus_id": document.corpus_id}
    found["content"] = {shard.path: shard.content for shard in document.shards}
    if bytewise:
        found["bytes"] = {shard.path: shard.sha256 for shard in document.shards}
        json_files = (file for file in document.files if file.path.startswith("splits/"))
        found["bytes"] |= {file.path: file.sha256 for file in json_files}
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        sys.stdout.write(json.dumps(digests(Path(folder)), indent=1, sort_keys=True) + "\n")
