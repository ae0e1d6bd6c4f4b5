"""Binned cells: every cell of the source gets the vector of its bin, by its own id."""

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from stbuild.build.building import build_corpus
from stbuild.build.inputs import gather_inputs
from stbuild.config import GridConfig
from stbuild.corpus.documents import ShardConfig
from stbuild.corpus.reader import open_corpus
from stbuild.grid.compact import compact
from stbuild.manifests.manifest import read_inputs
from stbuild.tasks.pipeline import run_loop
from stbuild.verify import verify_corpus
from sttrain.embed.embeddings import Embeddings, SliceEmbedding
from sttrain.embed.members import spread_to_members

N_CELLS = 700


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """Cells at random places, as an imaging platform gives them."""
    rng = np.random.default_rng(3)
    data = anndata.AnnData(
        sparse.csr_matrix(rng.poisson(1.0, (N_CELLS, 20)).astype(np.int32) + 1),
        obs=pd.DataFrame(
            {"label": pd.Categorical(rng.choice(["in", "out"], N_CELLS))},
            index=[f"cell{i}" for i in range(N_CELLS)],
        ),
        var=pd.DataFrame(index=[f"GENE{i:02d}" for i in range(20)]),
    )
    data.obsm["spatial"] = rng.random((N_CELLS, 2)) * 240
    path = tmp_path_factory.mktemp("cells") / "cells.h5ad"
    data.write_h5ad(path)
    return path, data


@pytest.fixture(scope="module")
def corpus(cells, tmp_path_factory):
    root = tmp_path_factory.mktemp("binned")
    config = GridConfig(layout="bin", bin_size=12, label="label", pitch_um=12)
    compact(read_inputs([str(cells[0])]), config, root / "grids", run_loop)
    cover = ShardConfig(name="cells", window=8, genes=16, n_per_slice=None, cover=4, draws=1)
    build_corpus(gather_inputs(root / "grids", cover, None), root / "corpus", run_loop)
    return open_corpus(root / "corpus")


def test_a_binned_corpus_is_whole_and_remembers_its_cells(corpus, cells):
    assert not verify_corpus(corpus.root, quick=False).problems
    (whole,) = corpus.whole_slices("test")
    assert whole.members is not None
    assert whole.seats is not None
    assert sorted(m.decode() for m in whole.members) == sorted(cells[1].obs_names)
    assert int(whole.data.sum()) == int(cells[1].X.sum())
    assert whole.barcodes[0].startswith(b"bin_")


def test_every_cell_gets_the_vector_and_label_of_its_bin(corpus, cells):
    (whole,) = corpus.whole_slices("test")
    n = whole.meta.n_spots
    part = SliceEmbedding(
        barcodes=tuple(b.decode() for b in whole.barcodes),
        matrix=np.arange(n, dtype=np.float32)[:, None],
        labels=tuple(f"label{i}" for i in range(n)),
    )
    spread = spread_to_members(corpus, Embeddings(slices={"cells": part}, provenance={}))
    found = spread.slices["cells"]
    assert spread.provenance["per_member"] is True
    assert sorted(found.barcodes) == sorted(cells[1].obs_names)
    xy = cells[1].obsm["spatial"]
    low = xy.min(axis=0)
    cell_of = {name: tuple(np.floor((p - low) / 12).astype(int)[::-1])
               for name, p in zip(cells[1].obs_names, xy, strict=True)}  # fmt: skip
    for name, vector, label in zip(found.barcodes, found.matrix, found.labels or (), strict=True):
        site = int(vector[0])
        assert cell_of[name] == (whole.rows[site], whole.cols[site])
        assert label == f"label{site}"


def test_slices_without_shared_sites_stay_as_they_are(eval_corpus):
    slices = {
        whole.meta.slice: SliceEmbedding(
            barcodes=tuple(b.decode() for b in whole.barcodes),
            matrix=np.zeros((whole.meta.n_spots, 2), np.float32),
        )
        for whole in eval_corpus.whole_slices("test")
    }
    spread = spread_to_members(eval_corpus, Embeddings(slices=slices, provenance={}))
    assert spread.slices == slices
