import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from stbuild.corpus.errors import PlatformError
from sttrain.cli import cli
from sttrain.embed.evaluation import read_evaluation_set
from sttrain.errors import BadInputError, BadUsageError, ConflictError
from sttrain.judge.cluster import cluster_corpus, cluster_table
from sttrain.judge.fillers import INTERPOLATIONS
from sttrain.judge.probe_config import ClusterConfig, ReconstructConfig
from sttrain.judge.reconstruct import ModelFile, reconstruct_corpus
from sttrain.judge.results import open_store
from tests.corpora import write_corpus
from tests.sttrain.judged import make_set, make_whole, probe, write_run, write_vectors

CONFIG = ClusterConfig(algorithms=("kmeans", "gmm"), numbers=("true",), seeds=2, dims=4)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpora") / "eval"
    return write_corpus(root, kind="cover", n_slices=2, rows=10, cols=10)


def run(corpus, out, *methods, config=CONFIG, **options):
    return cluster_corpus(corpus.root, out, methods=methods, config=config, **options)


def test_one_row_per_method_algorithm_seed_and_slice(corpus, tmp_path):
    outcome = run(corpus, tmp_path / "r", "pca3", "raw")
    found = {(r.method, r.algorithm, r.number, r.seed, r.slice) for r in outcome.rows}
    assert len(found) == len(outcome.rows) == 2 * 2 * 2 * 2
    assert {r.n_domains for r in outcome.rows} == {3}
    assert pq.read_table(tmp_path / "r" / "clusters.parquet").num_rows == 16
    assert (tmp_path / "r" / "clusters.csv").is_file()


def test_scores_are_those_of_the_stored_domains(corpus, tmp_path):
    rows = run(corpus, tmp_path / "r", "pca3").rows
    data = read_evaluation_set(corpus)
    row = next(r for r in rows if r.slice == "toy1")
    (path,) = (tmp_path / "r" / "domains").glob(f"*_{row.job}.parquet")
    table = pq.read_table(path)
    here = np.asarray([slug == "toy1" for slug in table.column("slice").to_pylist()])
    domains = table.column("domain").to_numpy()[here]
    labels = data.slices["toy1"].labels
    judged = labels >= 0
    assert row.n_labelled == judged.sum()
    assert row.ari == pytest.approx(adjusted_rand_score(labels[judged], domains[judged]))
    assert row.nmi == pytest.approx(normalized_mutual_info_score(labels[judged], domains[judged]))


def test_a_rerun_computes_only_what_is_missing_and_workers_change_nothing(corpus, tmp_path):
    whole = run(corpus, tmp_path / "whole", "pca3", workers=3).rows
    first = run(corpus, tmp_path / "r", "pca3", config=CONFIG.model_copy(update={"seeds": 1}))
    second = run(corpus, tmp_path / "r", "pca3")
    assert (first.n_computed, second.n_computed, second.n_reused) == (2, 2, 2)
    assert second.rows == whole


def test_scores_whose_domains_are_gone_are_computed_again(corpus, tmp_path):
    rows = run(corpus, tmp_path / "r", "pca3").rows
    lost = min((tmp_path / "r" / "domains").glob("*.parquet"))
    content = lost.read_bytes()
    lost.unlink()
    again = run(corpus, tmp_path / "r", "pca3")
    assert (again.n_computed, again.rows) == (1, rows)
    assert lost.read_bytes() == content


def test_results_of_another_corpus_or_of_other_vectors_are_refused(corpus, tmp_path):
    run(corpus, tmp_path / "r", "pca3")
    other = write_corpus(tmp_path / "o", kind="cover", n_slices=1, rows=10, cols=10, seed=4)
    with pytest.raises(ConflictError, match="it holds results of corpus"):
        run(other, tmp_path / "r", "pca3")
    store = open_store(tmp_path / "r")
    row = next(iter(cluster_table(store).rows()))
    cluster_table(store).add("x_y", [replace(row, source_digest="other")])
    with pytest.raises(ConflictError, match="the stored results of this name are of other"):
        run(corpus, tmp_path / "r", "pca3")


@pytest.fixture
def mixed(corpus, tmp_path):
    """A folder of all kinds of results of `ours`, and vectors of another model."""
    weights = write_run(tmp_path / "run", corpus)
    model = ModelFile(name="ours", path=weights)
    regions = ReconstructConfig(windows=(8,), sizes=(3,), genes=6, repeats=1)
    filled = reconstruct_corpus(corpus.root, tmp_path / "r", models=[model], config=regions).rows
    (checkpoint,) = {row.checkpoint for row in filled if row.method == "ours"}
    mine = write_vectors(corpus, tmp_path / "a.h5ad", checkpoint=checkpoint)
    other = write_vectors(corpus, tmp_path / "b.h5ad", seed=1, checkpoint="e" * 64)

    def fill(**options):
        model = ModelFile(name="ours", path=weights, **options)
        return reconstruct_corpus(corpus.root, tmp_path / "r", models=[model], config=regions)

    return tmp_path / "r", mine, other, fill


def test_one_name_is_one_source_in_all_kinds_of_rows(corpus, mixed):
    root, mine, other, fill = mixed
    with pytest.raises(ConflictError, match=r"'ours'.*of other vectors.*regions/ours_\*"):
        run(corpus, root, embeddings=[other])
    with pytest.raises(ConflictError, match=r"'ours'.*of other vectors.*regions/ours_\*"):
        probe(corpus, root, embeddings=[other])
    probe(corpus, root, embeddings=[mine])
    with pytest.raises(ConflictError, match=r"jobs/ours_\*\.parquet, .*regions/ours_\*"):
        run(corpus, root, embeddings=[other])
    run(corpus, root, embeddings=[mine])
    with pytest.raises(ConflictError, match=r"jobs/ours_.*, .*clusters/ours_.*, .*regions/ours_"):
        fill(initial=True)
    assert fill().n_computed == 0
    assert {row.checkpoint for row in cluster_table(open_store(root)).rows()} == {
        row.checkpoint for row in open_store(root).rows()
    }


def test_vectors_that_tell_no_checkpoint_are_known_by_their_digest_alone(corpus, mixed, tmp_path):
    root = mixed[0]
    unknown, another = (write_vectors(corpus, tmp_path / f"{i}.h5ad", seed=i) for i in (5, 6))
    probe(corpus, root, embeddings=[unknown])
    with pytest.raises(ConflictError, match=r"'ours'.*jobs/ours_"):
        run(corpus, root, embeddings=[another])


def test_replace_drops_the_old_source_from_all_kinds_of_rows(corpus, mixed):
    root, mine, other, _ = mixed
    probe(corpus, root, "raw", embeddings=[mine])
    run(corpus, root, "pca3", embeddings=[mine])
    replaced = probe(corpus, root, "raw", embeddings=[other], replace=True)
    assert {row.checkpoint for row in replaced.rows} == {None, "e" * 64}
    for folder in ("clusters", "domains", "regions"):
        assert not list((root / folder).glob("ours_*"))
        assert list((root / folder).glob("*.parquet"))
    for name, others in (("clusters", {"pca3"}), ("regions", {*INTERPOLATIONS})):
        table = pq.read_table(root / f"{name}.parquet").to_pylist()
        assert {row["method"] for row in table} == others
        assert "ours" not in (root / f"{name}.csv").read_text()
    stored = (root / "clusters.parquet").read_bytes()
    run(corpus, root, "pca3")
    assert (root / "clusters.parquet").read_bytes() == stored
    assert run(corpus, root, embeddings=[other]).n_reused == 0


def test_a_table_without_a_row_goes_with_its_last_source(corpus, tmp_path):
    mine, other = (write_vectors(corpus, tmp_path / f"{i}.h5ad", seed=i) for i in (1, 2))
    run(corpus, tmp_path / "r", embeddings=[mine])
    probe(corpus, tmp_path / "r", embeddings=[other], replace=True)
    assert not list((tmp_path / "r").glob("clusters.*"))


def test_a_method_without_features_is_refused(corpus, tmp_path):
    with pytest.raises(BadUsageError, match="no features that could be clustered"):
        run(corpus, tmp_path / "r", "majority")


@pytest.mark.parametrize(
    ("whole", "words"),
    [
        (make_whole(labels=("core",)), "no slice has labels of two classes"),
        (make_whole(side=2), "4 spots for 3 domains"),
    ],
    ids=["one_class", "fewer_spots_than_domains"],
)
def test_slices_on_which_no_score_means_anything_are_refused(
    whole, words, corpus, tmp_path, monkeypatch
):
    if whole.meta.n_spots == 4:
        whole = replace(whole, labels=np.asarray([0, 1, 2, 2], np.int16))
    monkeypatch.setattr("sttrain.judge.cluster.read_evaluation_set", lambda _: make_set(whole))
    with pytest.raises(BadInputError, match=words):
        run(corpus, tmp_path / "r", "raw")


def test_leiden_without_its_packages_is_refused_before_any_work(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("sttrain.judge.cluster.find_spec", lambda _: None)
    config = CONFIG.model_copy(update={"algorithms": ("leiden",)})
    with pytest.raises(PlatformError, match=r"leidenalg and igraph not installed.*cluster"):
        run(corpus, tmp_path / "r", "raw", config=config)
    assert not (tmp_path / "r").exists()


def test_command_prints_means_and_reuses_what_is_there(corpus, tmp_path):
    arguments = [
        "cluster", str(corpus.root), "--method", "pca3", "--algorithm", "kmeans", "--seeds", "2",
        "-o", str(tmp_path / "r"),
    ]  # fmt: skip
    shown = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert "kmeans" in shown.stdout
    assert "computed: 4" in shown.stdout
    again = CliRunner().invoke(cli, [*arguments, "--json"], catch_exceptions=False)
    facts = json.loads(again.stdout)
    assert (facts["computed"], facts["reused"]) == (0, 4)
    assert {entry["number"] for entry in facts["table"]} == {"true", "estimated"}
    assert all(0 <= entry["pas"] <= 1 for entry in facts["table"])


def test_means_are_of_what_was_asked_for_whatever_stands_in_the_folder(corpus, tmp_path):
    def means(out, dims):
        result = CliRunner().invoke(
            cli,
            ["cluster", str(corpus.root), "--method", "pca6", "--algorithm", "kmeans",
             "--number", "true", "--seeds", "1", "--dims", str(dims), "-o", str(out), "--json"],
            catch_exceptions=False,
        )  # fmt: skip
        return json.loads(result.stdout)["table"]

    alone = means(tmp_path / "alone", 6)
    assert means(tmp_path / "r", 2) != alone
    assert means(tmp_path / "r", 6) == alone
