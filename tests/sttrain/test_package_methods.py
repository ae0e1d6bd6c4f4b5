"""STAGATE and Novae through their packages; without these only what is said of that."""

import json
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from scipy.sparse import csr_array

from stbuild.corpus.errors import PlatformError
from sttrain.adapters.novae import prepare_slice
from sttrain.adapters.packages import foreign_checks, import_extra, slice_pitch, sound_slices
from sttrain.adapters.published import METHODS, PublishedConfig, Request, embed_published
from sttrain.adapters.stagate import variable_genes
from sttrain.errors import BadInputError, BadUsageError
from tests.corpora import write_corpus
from tests.sttrain.judged import make_whole

PACKAGES = {"stagate": "STAGATE_pyG", "novae": "novae"}
needs_stagate = pytest.mark.skipif(
    find_spec("STAGATE_pyG") is None, reason="stagate-modern is not installed (extra stagate)"
)
needs_novae = pytest.mark.skipif(
    find_spec("novae") is None, reason="novae is not installed (extra novae)"
)
pytestmark = pytest.mark.filterwarnings("default")  # the packages' own warnings are not ours


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpora") / "eval"
    return write_corpus(root, kind="cover", n_slices=2, rows=9, cols=8, window=4, n_genes=40)


def ask(weights=None, **config):
    return Request(config=PublishedConfig(**config), weights=weights)


@pytest.mark.parametrize("name", sorted(PACKAGES))
def test_a_missing_package_is_named_with_its_extra(corpus, tmp_path, name):
    if find_spec(PACKAGES[name]):
        pytest.skip(f"{name} is installed")
    with pytest.raises(PlatformError, match=rf"pip install 'stcorpus\[{name}\]'"):
        embed_published(name, corpus.root, tmp_path / "x.h5ad", ask())


def test_every_method_says_what_it_needs():
    assert {name: method.needs for name, method in METHODS.items()} == {
        "scgpt": ("weights",),
        "scgpt-spatial": ("weights",),
        "stagate": ("extra:stagate",),
        "novae": ("extra:novae",),
    }


def test_weights_for_a_method_that_takes_none_are_refused(corpus, tmp_path):
    with pytest.raises(BadUsageError, match="it takes no weights"):
        embed_published("stagate", corpus.root, tmp_path / "x.h5ad", ask(tmp_path))


def test_the_most_variable_genes_are_kept():
    rng = np.random.default_rng(0)
    dense = rng.poisson(0.5, (50, 9)) * np.array([0, 3, 1, 0, 5, 2, 1, 1, 4])
    found = variable_genes(csr_array(dense.astype(np.float32)), 3)
    assert found.tolist() == sorted(np.argsort(-dense.var(axis=0), kind="stable")[:3].tolist())
    assert 0 not in variable_genes(csr_array(dense.astype(np.float32)), 9)


def test_the_pitch_is_the_lattices_or_that_of_the_spots():
    whole = make_whole()
    assert slice_pitch(whole) == 100.0
    unknown = whole.meta.model_copy(update={"pitch": None})
    object.__setattr__(whole, "meta", unknown)
    assert slice_pitch(whole) == 100.0


def test_what_a_package_asserts_is_an_error_of_the_input():
    with (
        pytest.raises(BadInputError, match="refuses the corpus: Too few genes"),
        foreign_checks("novae"),
    ):
        raise AssertionError("Too few genes")


def run_twice(name, corpus, home, tmp_path, **config):
    """The digests of two processes with other hash seeds, which leave nothing else behind."""
    digests = []
    for seed in ("1", "2"):
        out = tmp_path / f"{seed}.h5ad"
        flags = [f"--{key}={value}" for key, value in config.items()]
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "sttrain", "embed-published", name, corpus.root,
             "-o", out, "--json", "--device", "cpu", *flags],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path), "HOME": str(home),
                 "OMP_NUM_THREADS": "1", "PATH": ""},
            capture_output=True, text=True, check=True, cwd=tmp_path,
        )  # fmt: skip
        digests.append(json.loads(done.stdout.splitlines()[-1])["digest"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.h5ad", "2.h5ad"]
    return digests


@needs_stagate
def test_stagate_gives_30_numbers_a_spot_and_says_how(corpus, tmp_path):
    found = embed_published("stagate", corpus.root, tmp_path / "x.h5ad", ask(epochs=3, seed=4))
    assert found.width == 30
    for whole in corpus.whole_slices("test"):
        part = found.slices[whole.meta.slice]
        assert part.barcodes == tuple(raw.decode() for raw in whole.barcodes)
        assert np.isfinite(part.matrix).all()
        assert part.matrix.std() > 0
        facts = found.provenance["slices"][whole.meta.slice]
        assert 3 < facts["neighbours_mean"] <= 4
    assert (found.provenance["seed"], found.provenance["epochs"]) == (4, 3)


@needs_stagate
@pytest.mark.slow
def test_stagate_is_the_same_in_every_process(corpus, tmp_path, tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    first, second = run_twice("stagate", corpus, home, tmp_path, epochs=2)
    assert first == second


@needs_novae
@pytest.mark.slow
def test_novae_trained_on_the_slices_is_the_same_in_every_process(
    corpus, tmp_path, tmp_path_factory
):
    home = tmp_path_factory.mktemp("home")
    first, second = run_twice("novae", corpus, home, tmp_path, epochs=1)
    assert first == second


@needs_novae
@pytest.mark.slow
def test_novae_with_published_weights_is_zero_shot(corpus, tmp_path):
    novae = import_extra("novae", "novae")
    tables = [prepare_slice(novae, corpus, whole) for whole in sound_slices(corpus)]
    model = novae.Novae(tables, var_names=[gene.lower() for gene in corpus.genes])
    model.mode.trained = True
    model.save_pretrained(str(tmp_path / "w"))
    request = ask(tmp_path / "w")
    found = embed_published("novae", corpus.root, tmp_path / "x.h5ad", request)
    again = embed_published("novae", corpus.root, tmp_path / "y.h5ad", request)
    assert found.digest() == again.digest()
    assert found.width == 64
    assert len(found.provenance["checkpoint"]) == 64
    (tmp_path / "w" / "model.safetensors").rename(tmp_path / "w" / "pytorch_model.bin")
    with pytest.raises(BadInputError, match=r"model\.safetensors missing"):
        embed_published("novae", corpus.root, tmp_path / "z.h5ad", request)
