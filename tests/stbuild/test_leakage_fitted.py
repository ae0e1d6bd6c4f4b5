"""What training shards hold depends on training slices alone: genes, gene weights, samples."""

import pytest

from stbuild.build.building import build_corpus
from stbuild.build.inputs import gather_inputs
from stbuild.config import GridConfig
from stbuild.corpus.documents import ShardConfig
from stbuild.corpus.reader import open_corpus
from stbuild.grid.compact import compact
from stbuild.manifests.manifest import read_inputs
from stbuild.tasks.pipeline import run_loop
from tests.slices import Spec, write_slice

CONFIG = ShardConfig(name="t", window=8, genes=16, n_per_slice=6, samples_per_shard=100)
SHEET = "slice,path,split\na,a.h5ad,train\nb,b.h5ad,train\nc,c.h5ad,test\n"


def build(root, held_out):
    """A corpus of two training slices and one test slice."""
    for name, spec in {"a": Spec(seed=1), "b": Spec(seed=2), "c": held_out}.items():
        write_slice(root / f"{name}.h5ad", spec)
    (root / "sheet.csv").write_text(SHEET)
    (root / "m.toml").write_text('name = "t"\nsamples = "sheet.csv"\n')
    manifest = read_inputs([str(root / "m.toml")])
    compact(manifest, GridConfig(pitch_um=100.0), root / "grids", run_loop)
    inputs = gather_inputs(root / "grids", CONFIG, None)
    build_corpus(inputs, root / "corpus", run_loop)
    return inputs, open_corpus(root / "corpus").document


@pytest.mark.parametrize(
    "held_out",
    [
        Spec(seed=8, n_genes=70, mean=9.0),
        Spec(seed=9, n_genes=17, rows=30),
    ],
    ids=["more_genes_and_counts", "fewer_genes"],
)
def test_a_test_slice_changes_no_byte_of_train(tmp_path, held_out):
    one, first = build(tmp_path / "one", Spec(seed=3))
    two, second = build(tmp_path / "two", held_out)
    assert one.vocabulary.genes == two.vocabulary.genes
    assert len(one.vocabulary.genes) == 40

    def shards(document):
        return [(s.path, s.sha256) for s in document.shards if s.split == "train"]

    assert shards(first) == shards(second) != []
