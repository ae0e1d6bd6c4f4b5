"""A second implementation in plain Python draws the same windows, genes and splits (P16)."""

import ast
import inspect
import sys
from itertools import islice
from types import SimpleNamespace

import numpy as np
import pytest

from stbuild.corpus.documents import ShardConfig
from stbuild.genes.vocabulary import Vocabulary
from stbuild.patches.cutting import cut_slice, plan_windows
from stbuild.splits.corpus import assign_splits
from tests import oracle
from tests.slices import Spec, grid_of, write_slice

LABELS = ("inner", "outer", "rim")
PANELS = {"all": slice(None), "every other": slice(None, None, 2), "few": slice(3, 9)}


@pytest.fixture(scope="module", params=["hex", "square"])
def grid(request, tmp_path_factory):
    spec = Spec(kind=request.param, seed=14, rows=16, cols=14, n_genes=20, mean=0.4)
    return grid_of(write_slice(tmp_path_factory.mktemp("o") / "one.h5ad", spec))


def test_it_is_short_and_needs_nothing_but_python():
    source = inspect.getsource(oracle)
    names = {
        alias.name.split(".")[0] if isinstance(node, ast.Import) else str(node.module).split(".")[0]
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert names <= sys.stdlib_module_names
    assert len(source.splitlines()) < 125


def test_its_words_are_those_of_philox():
    golden = [0x4F2F4313B5536B09, 0x5B617BE3219FF32A, 0x097293476F9275CB, 0xF63F3BF4962C3942]
    assert list(islice(oracle.philox((1, 2)), 4)) == golden
    words = np.random.Philox(key=np.array([7, 2**64 - 1], np.uint64)).random_raw(50)
    assert list(islice(oracle.philox((7, 2**64 - 1)), 50)) == words.tolist()


@pytest.mark.parametrize("panel", PANELS)
@pytest.mark.parametrize("seed", range(5))
def test_windows_and_genes_are_the_same(grid, seed, panel):
    vocabulary = Vocabulary(tuple(grid.genes)[PANELS[panel]])
    config = ShardConfig(
        window=6, genes=5, n_per_slice=6, seed=seed, select=("weighted", "hvg", "random")[seed % 3]
    )
    content, shape = grid.meta.counts_digest, grid.meta.shape
    cells = {(int(r), int(c)): i for i, (r, c) in enumerate(zip(grid.rows, grid.cols, strict=True))}
    columns = [list(grid.genes).index(gene) for gene in vocabulary.genes]
    wanted = oracle.windows(set(cells), shape, content, seed, 6, 6, config.min_fill, config.tries)
    cut = {
        window.number: (window, patch)
        for window, patch in cut_slice(grid, vocabulary, LABELS, config)
    }
    assert [(w.row, w.col, w.observed) for w, _ in (cut[n] for n in sorted(cut))] == wanted
    for number, (row, col, _) in enumerate(wanted):
        inside = [i for (r, c), i in cells.items() if 0 <= r - row < 6 and 0 <= c - col < 6]
        rows = [grid.counts[[i]].toarray()[0].tolist() for i in inside]
        counts = [{g: spot[g] for g in columns if spot[g]} for spot in rows]
        totals = [int(grid.totals[i]) for i in inside]
        genes = oracle.choose(
            counts, totals, len(grid.genes), content, seed, number, 5, config.select, config.epsilon
        )
        chosen = cut[number][1].genes
        assert [columns[g] for g in chosen[chosen >= 0].tolist()] == genes


@pytest.mark.parametrize("seed", range(5))
def test_windows_that_used_their_tries_up_are_the_same(grid, seed):
    config = ShardConfig(window=6, genes=5, n_per_slice=40, seed=seed, min_fill=0.95, tries=2)
    windows = plan_windows(grid, config)
    cells = set(zip(grid.rows.tolist(), grid.cols.tolist(), strict=True))
    content, shape = grid.meta.counts_digest, grid.meta.shape
    wanted = oracle.windows(cells, shape, content, seed, 6, 40, config.min_fill, config.tries)
    assert [(w.row, w.col, w.observed) for w in windows] == wanted
    assert {1, 3} <= {w.tries for w in windows} <= {1, 2, 3}


@pytest.mark.parametrize("seed", range(5))
def test_splits_are_the_same(seed):
    sizes = {f"donor{i}": 100 + 37 * i * (i % 3) for i in range(11)}
    metas = [
        SimpleNamespace(slug=f"s{i}{part}", donor=f"donor{i}", section=None, pair=None,
                        n_spots=sizes[f"donor{i}"] // 2 + part * (sizes[f"donor{i}"] % 2))
        for i in range(11) for part in (0, 1)
    ]  # fmt: skip
    shares = {"train": 0.7, "test": 0.2, "val": 0.1}
    found = assign_splits(metas, "donor", seed, shares)
    keyed = {f"donor\0{donor}": size for donor, size in sizes.items()}
    groups = oracle.split_groups(keyed, shares, "donor", seed)
    assert found == {
        meta.slug: groups[f"donor\0{meta.donor}"] for meta in sorted(metas, key=lambda m: m.slug)
    }
