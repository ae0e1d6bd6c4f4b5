"""scGPT and scGPT-spatial against the slow computation of tests/sttrain/published.py."""

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from sttrain.adapters.gene_names import map_genes, read_symbols
from sttrain.adapters.network import CellEncoder, PostNormLayer
from sttrain.adapters.published import PublishedConfig, Request, embed_published, find_method
from sttrain.adapters.scgpt import embed_scgpt, embed_scgpt_spatial
from sttrain.adapters.tokens import bin_values, draw_uniforms, tokenize_spot
from sttrain.adapters.weights import read_cell_decoder, read_weights_folder
from sttrain.cli import cli
from sttrain.embed.embeddings import read_embeddings
from sttrain.errors import BadInputError, BadUsageError
from tests.corpora import write_corpus
from tests.sttrain.published import (
    D,
    make_vocabulary,
    read_folder,
    reference_bins,
    reference_spatial,
    reference_values,
    reference_vector,
    write_folder,
)

KNOWN = [f"GENE{i:04d}" for i in range(60)][5:55]
"""50 genes of the model; the corpus has 60, so that ten are unknown."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpora") / "eval"
    return write_corpus(root, kind="cover", n_slices=2, rows=6, cols=5, window=4, n_genes=60)


@pytest.fixture(scope="module", params=["Wqkv.", "_impl.Wqkv.", "in_proj_"])
def folder(request, tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("w") / "w", KNOWN, attention=request.param)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("plain") / "scgpt", KNOWN)


@pytest.fixture(scope="module")
def spatial(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("spatial") / "spatial", KNOWN, spatial=True)


def ask(folder, batch=32, **config):
    return Request(config=PublishedConfig(**config), weights=folder, batch=batch)


def wholes(corpus):
    return [w for split in corpus.document.splits("slice") for w in corpus.whole_slices(split)]


def split(pairs):
    genes, values = zip(*pairs, strict=True)
    return genes, np.array(values, np.float32)


def test_vectors_are_those_of_the_slow_computation(corpus, folder):
    found = embed_scgpt(corpus, ask(folder))
    for whole in wholes(corpus):
        part = found.slices[whole.meta.slice]
        for spot in range(0, whole.meta.n_spots, 5):
            pairs = reference_values(whole, spot, corpus.genes, make_vocabulary(KNOWN))
            genes, counts = split(pairs)
            expected = reference_vector(folder, genes, counts, part.barcodes[spot])
            np.testing.assert_allclose(part.matrix[spot], expected, atol=2e-5)
            assert part.matrix.dtype == np.float32


def test_spatial_vectors_are_those_of_the_slow_computation(corpus, spatial):
    found = embed_scgpt_spatial(corpus, ask(spatial, seed=3))
    vocabulary = make_vocabulary(KNOWN)
    for whole in wholes(corpus):
        part = found.slices[whole.meta.slice]
        spots = [
            reference_values(whole, spot, corpus.genes, vocabulary)
            for spot in range(whole.meta.n_spots)
        ]
        normed = reference_spatial(spots, vocabulary)
        for spot in range(0, whole.meta.n_spots, 5):
            genes, values = split(normed[spot])
            expected = reference_vector(spatial, genes, values, part.barcodes[spot], seed=3)
            np.testing.assert_allclose(part.matrix[spot], expected, atol=2e-5)
    facts = found.provenance["slices"]["toy0"]
    assert facts["genes_without_mean"] > 5


def test_a_part_of_too_many_genes_keeps_cls(corpus, plain):
    found = embed_scgpt(corpus, ask(plain, max_length=9))
    whole = wholes(corpus)[0]
    part = found.slices[whole.meta.slice]
    pairs = reference_values(whole, 4, corpus.genes, make_vocabulary(KNOWN))
    genes, counts = split(pairs)
    assert len(genes) > 8
    expected = reference_vector(plain, genes, counts, part.barcodes[4], max_length=9)
    np.testing.assert_allclose(part.matrix[4], expected, atol=2e-5)
    facts = found.provenance["slices"][whole.meta.slice]
    assert facts["spots_subsampled"] == whole.meta.n_spots
    assert found.digest() != embed_scgpt(corpus, ask(plain)).digest()


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_vectors_do_not_depend_on_the_batch(corpus, plain, batch):
    first = embed_scgpt(corpus, ask(plain, max_length=30))
    again = embed_scgpt(corpus, ask(plain, max_length=30, batch=batch))
    for slug, part in first.slices.items():
        np.testing.assert_allclose(again.slices[slug].matrix, part.matrix, atol=1e-5)


def test_a_spot_has_the_same_tokens_in_any_order_and_company():
    rng = np.random.default_rng(1)
    genes, counts = np.arange(40), rng.integers(1, 4, 40).astype(np.float32)
    first = tokenize_spot(genes, counts, "AAAC-1", seed=2, max_length=12)
    again = tokenize_spot(genes, counts, "AAAC-1", seed=2, max_length=12)
    np.testing.assert_array_equal(first, again)
    assert first[0].size == 11
    for barcode, seed in (("AAAG-1", 2), ("AAAC-1", 3)):
        other = tokenize_spot(genes, counts, barcode, seed=seed, max_length=12)
        assert not np.array_equal(first, other)


@pytest.mark.parametrize(("n", "kept"), [(10, 10), (11, 11), (12, 11), (13, 11)])
def test_a_spot_never_has_more_tokens_than_allowed(n, kept):
    genes, _ = tokenize_spot(np.arange(n), np.ones(n, np.float32), "AAAC-1", seed=0, max_length=12)
    assert genes.size == kept  # and <cls>
    assert len(set(genes.tolist())) == kept


def test_the_seed_decides(corpus, plain):
    digests = {embed_scgpt(corpus, ask(plain, seed=seed)).digest() for seed in (0, 0, 1)}
    assert len(digests) == 2


@pytest.mark.parametrize("high", [2, 5, 1000])
def test_bins_are_those_of_counting_edges(high):
    rng = np.random.default_rng(high)
    values = rng.integers(1, high, 90).astype(np.float32)
    ties = draw_uniforms("t", 0, "b", 90)
    bins = bin_values(values, ties)
    assert bins.tolist() == reference_bins(values, ties)
    assert bins.min() >= 1
    assert bins.max() <= 50


def test_ties_spread_over_the_bins_they_fill():
    bins = bin_values(np.ones(5000, np.float32), draw_uniforms("t", 0, "b", 5000))
    counted = np.bincount(bins, minlength=51)[1:]
    assert counted.min() > 60
    assert counted.sum() == 5000


def test_uniforms_are_keyed_by_every_argument():
    base = draw_uniforms("t", 0, "b", 4)
    np.testing.assert_array_equal(draw_uniforms("t", 0, "b", 9)[:4], base)
    for other in (("u", 0, "b"), ("t", 1, "b"), ("t", 0, "c")):
        assert not np.array_equal(draw_uniforms(*other, 4), base)
    assert ((base >= 0) & (base < 1)).all()


def test_a_layer_is_torchs_own():
    torch_layer = torch.nn.TransformerEncoderLayer(16, 2, 24, 0.0, batch_first=True).eval()
    layer = PostNormLayer(16, 2, 24).eval()
    layer.load_state_dict(torch_layer.state_dict())
    x = torch.randn(3, 7, 16, generator=torch.Generator().manual_seed(0))
    real = torch.arange(7) < torch.tensor([[7], [4], [1]])
    with torch.no_grad():
        expected = torch_layer(x, src_key_padding_mask=~real)
        found = layer(x, x, real)
        first = layer(x[:, :1], x, real)
    torch.testing.assert_close(found[real], expected[real], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(first[:, 0], expected[:, 0], atol=1e-5, rtol=1e-5)


def test_building_a_network_draws_nothing():
    before = torch.random.get_rng_state()
    CellEncoder(V=9, D=8, heads=2, ffn=8, layers=2)
    torch.testing.assert_close(torch.random.get_rng_state(), before)


def test_a_spot_without_a_known_gene_is_the_vector_of_cls_and_counted(corpus, tmp_path):
    # A model that knows one gene, which one spot of the slice does not have.
    lone = write_folder(tmp_path / "lone", ["GENE0011"])
    found = embed_scgpt(corpus, ask(lone, min_mapped=0.0))
    whole = wholes(corpus)[0]
    slug = whole.meta.slice
    empty = [
        spot
        for spot in range(whole.meta.n_spots)
        if not reference_values(whole, spot, corpus.genes, {"GENE0011"})
    ]
    assert empty, "the toy slice has no such spot; choose another gene"
    assert found.provenance["slices"][slug]["spots_without_gene"] == len(empty)
    expected = reference_vector(lone, [], [], "any")
    np.testing.assert_allclose(found.slices[slug].matrix[empty[0]], expected, atol=2e-5)


def test_the_file_is_that_of_embed_and_says_where_it_comes_from(corpus, plain, tmp_path):
    out = tmp_path / "scgpt.h5ad"
    written = embed_published("scgpt", corpus.root, out, ask(plain, seed=5))
    found = read_embeddings(out)
    assert found.digest() == written.digest()
    assert found.width == D
    told = found.provenance
    assert told["corpus_id"] == corpus.document.corpus_id
    assert (told["method"], told["seed"]) == ("scgpt", 5)
    assert (told["genes_mapped"], told["genes"]) == (50, 60)
    digest = read_weights_folder(plain, spatial=False).digest
    assert told["checkpoint"] == digest
    whole = wholes(corpus)[0]
    share = told["slices"][whole.meta.slice]["counts_mapped"]
    inside = [corpus.genes[i] in KNOWN for i in whole.indices]
    assert share == pytest.approx(whole.data[inside].sum() / whole.data.sum(), abs=1e-6)
    again = tmp_path / "again.h5ad"
    embed_published("scgpt", corpus.root, again, ask(plain, seed=5))
    assert again.read_bytes() == out.read_bytes()


def test_the_command_shows_the_mapped_share_and_probe_reads_the_file(corpus, plain, tmp_path):
    out = tmp_path / "scgpt.h5ad"
    shown = CliRunner().invoke(
        cli,
        ["embed-published", "scgpt", str(corpus.root), "-o", str(out), "--weights", str(plain)],
        catch_exceptions=False,
    )
    assert shown.exit_code == 0, shown.output
    assert "50 of 60 known to scgpt (83.3%)" in shown.stdout
    assert "toy1: counts mapped" in shown.stdout
    judged = CliRunner().invoke(
        cli,
        ["probe", str(corpus.root), "-o", str(tmp_path / "r"), "--split", "paper20@1", "--head",
         "knn", "--k", "1", "--embedding", f"scgpt={out}", "--json"],
        catch_exceptions=False,
    )  # fmt: skip
    assert judged.exit_code == 0, judged.output
    told = json.loads((tmp_path / "r" / "provenance" / "scgpt.json").read_text())
    assert told["method"] == "scgpt"


def test_help_shows_an_example_and_the_defaults():
    text = CliRunner().invoke(cli, ["embed-published", "--help"]).stdout
    flat = " ".join(text.replace("│", " ").split())
    assert "Example: sttrain embed-published" in flat
    for name, field in PublishedConfig.model_fields.items():
        assert f"--{name.replace('_', '-')}" in flat
        shown = "none" if field.default is None else field.default
        assert f"[default: {shown}]" in flat


def test_memory_is_that_of_a_batch_and_not_of_the_slice(tmp_path, plain):
    """Only what is handed over grows with the slice; numpy's memory is counted, not torch's."""

    def peak(rows):
        corpus = write_corpus(tmp_path / f"c{rows}", kind="cover", n_slices=1, rows=rows, cols=20,
                              window=4, n_genes=60)  # fmt: skip
        request = ask(plain, batch=4)
        embed_scgpt(corpus, request)  # what is loaded once is not counted
        whole = wholes(corpus)[0]
        own = 4 * D * whole.meta.n_spots + 60 * whole.data.size
        tracemalloc.start()
        embed_scgpt(corpus, request)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most - own

    small, large = peak(6), peak(30)
    assert large < small + 250_000


# --- genes ----------------------------------------------------------------------------------


def test_a_corpus_with_few_known_genes_is_refused(corpus, tmp_path):
    few = write_folder(tmp_path / "few", [*KNOWN[:20], *(f"OTHER{i}" for i in range(30))])
    with pytest.raises(BadInputError, match=r"scgpt knows 20 of 60 genes \(33.3%\), at least 50%"):
        embed_scgpt(corpus, ask(few))
    found = embed_scgpt(corpus, ask(few, min_mapped=0.3))
    assert found.provenance["genes_mapped"] == 20
    none = write_folder(tmp_path / "none", [f"OTHER{i}" for i in range(50)])
    with pytest.raises(BadInputError, match="knows 0 of 60 genes"):
        embed_scgpt(corpus, ask(none, min_mapped=0.0))


def test_ensembl_ids_are_looked_up_in_a_table(tmp_path):
    table = tmp_path / "genes.tsv"
    table.write_text(
        "# Ensembl 113\nensembl\tsymbol\tspecies\n"
        "ENSG1\tTP53\thuman\nENSG2\tEGFR\thuman\nENSG3\tDUP\thuman\nENSG4\tDUP\thuman\n"
        "ENSG5\tMYC\thuman\nENSG5\tKRAS\thuman\nENSG6\tOLD\thuman\nENSG6\tNEW\thuman\n"
    )
    known = {"TP53": 3, "EGFR": 4, "DUP": 5, "MYC": 6, "KRAS": 7, "NEW": 8, "PLAIN": 9}
    genes = ["ENSG1", "ENSG2.7", "ENSG3", "ENSG4", "ENSG5", "ENSG6", "ENSG9", "PLAIN"]
    found = map_genes(genes, known, read_symbols(table))
    assert found.rows.tolist() == [3, 4, -1, -1, -1, 8, -1, 9]
    assert found.n_ambiguous == 3
    assert found.n_mapped == 4
    assert map_genes(genes, known).n_mapped == 1


def test_a_symbol_of_the_corpus_itself_is_not_taken_by_the_table(tmp_path):
    found = map_genes(["TP53", "ENSG1"], {"TP53": 0}, {"ENSG1": ("TP53",)})
    assert found.rows.tolist() == [0, -1]
    assert found.n_ambiguous == 1


def test_special_tokens_are_no_genes(plain):
    weights = read_weights_folder(plain, spatial=False)
    assert set(weights.genes) == set(KNOWN)


@pytest.mark.parametrize(
    "text", ["", "a\tb\n1\t2\n", "ensembl\tname\n1\t2\n"], ids=["empty", "columns", "one"]
)
def test_a_table_without_the_columns_is_refused(tmp_path, text):
    (tmp_path / "t.tsv").write_text(text)
    with pytest.raises(BadInputError, match="columns ensembl and symbol"):
        read_symbols(tmp_path / "t.tsv")


# --- what the model offers besides ----------------------------------------------------------


def test_the_decoder_is_an_inner_product_with_each_genes_query(plain):
    weights = read_weights_folder(plain, spatial=False)
    decoder = read_cell_decoder(weights)
    tensors, _ = read_folder(plain)
    rng = np.random.default_rng(0)
    cells, genes = rng.normal(size=(3, D)), rng.normal(size=(4, D))
    hidden = genes @ tensors["mvc_decoder.gene2query.weight"].T
    queries = 1 / (1 + np.exp(-(hidden + tensors["mvc_decoder.gene2query.bias"])))
    expected = cells @ (queries @ tensors["mvc_decoder.W.weight"].T).T
    found = decoder(torch.from_numpy(cells).float(), torch.from_numpy(genes).float())
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)


def test_reconstruction_is_refused_where_decoders_take_the_platform_too(spatial):
    weights = read_weights_folder(spatial, spatial=True)
    with pytest.raises(BadInputError, match=r"mvc_decoder: 'W.weight' is \(64, 32\)"):
        read_cell_decoder(weights)


@pytest.mark.parametrize("name", ["scgpt", "scgpt-spatial"])
def test_weights_are_needed(corpus, name):
    with pytest.raises(BadUsageError, match="it needs a folder of published weights"):
        find_method(name).embed(corpus, ask(None))


def test_an_unknown_method_is_told_the_nearest(corpus, tmp_path):
    with pytest.raises(BadUsageError, match="did you mean 'scgpt'"):
        embed_published("scGTP", corpus.root, tmp_path / "x.h5ad", ask(None))


def test_a_training_corpus_is_refused(tmp_path, plain):
    corpus = write_corpus(tmp_path / "train", n_slices=1, rows=6, cols=5, window=4)
    with pytest.raises(BadInputError, match="a training corpus"):
        embed_published("scgpt", corpus.root, tmp_path / "x.h5ad", ask(plain))
    assert replace(ask(plain), batch=1).folder == plain
    assert isinstance(plain, Path)
