"""Shared fixtures: synthetic slices and the grids and corpora made from them, once a session."""

from pathlib import Path

import pytest
from hypothesis import settings

from stbuild.build.building import build_corpus
from stbuild.build.inputs import gather_inputs
from stbuild.config import GridConfig
from stbuild.corpus.documents import ShardConfig
from stbuild.corpus.reader import Corpus, open_corpus
from stbuild.grid.compact import compact
from stbuild.manifests.manifest import read_inputs
from stbuild.tasks.pipeline import run_loop
from tests.slices import Spec, write_slice

# The same examples every run, and no deadline: the machine may be busy with other things.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")

SHARED = Path(__file__).parents[2] / "shared" / "data"
"""Real slices for development; a stranger's clone has none."""
SAMPLE = Path(__file__).parents[1] / "sample"
"""The bundled real slices; always there."""
TRAIN = ShardConfig(
    name="tiny", window=8, genes=16, n_per_slice=12, samples_per_shard=10, whole_slices=True
)
COVER = ShardConfig(name="tiny-eval", window=8, genes=16, n_per_slice=None, cover=4, draws=2)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real slices, or a skip that says why."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared/data beside this clone: real slices are not at hand")
    return SHARED


@pytest.fixture(scope="session")
def slice_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three synthetic slices: two hex, one square."""
    root = tmp_path_factory.mktemp("slices")
    specs = {
        "alpha": Spec(seed=1),
        "beta": Spec(kind="square", seed=2, rows=15, cols=13, n_genes=36),
        "gamma": Spec(seed=3, rows=24, cols=12),
    }
    return [write_slice(root / f"{name}.h5ad", spec) for name, spec in specs.items()]


@pytest.fixture(scope="session")
def grids(tmp_path_factory: pytest.TempPathFactory, slice_files: list[Path]) -> Path:
    """A folder of finished grids."""
    root = tmp_path_factory.mktemp("grids")
    manifest = read_inputs([str(path) for path in slice_files])
    compact(manifest, GridConfig(label="label", pitch_um=100.0), root, run_loop)
    return root


@pytest.fixture(scope="session")
def train_corpus(tmp_path_factory: pytest.TempPathFactory, grids: Path) -> Corpus:
    """A finished training corpus; copy it before damaging it."""
    root = tmp_path_factory.mktemp("train") / "corpus"
    build_corpus(gather_inputs(grids, TRAIN, None), root, run_loop)
    return open_corpus(root)


@pytest.fixture(scope="session")
def eval_corpus(tmp_path_factory: pytest.TempPathFactory, grids: Path) -> Corpus:
    """A finished evaluation corpus with labels and splits; copy it before damaging it."""
    root = tmp_path_factory.mktemp("eval") / "corpus"
    build_corpus(gather_inputs(grids, COVER, None), root, run_loop)
    return open_corpus(root)
