import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from sttrain.cli import cli
from sttrain.errors import BadInputError, BadUsageError, ConflictError
from sttrain.judge.probe_config import ReconstructConfig
from sttrain.judge.reconstruct import ModelFile, parse_models, reconstruct_corpus
from sttrain.judge.reconstruction import LEAST_RATE, score_region
from sttrain.judge.regions import TooSmallError
from tests.corpora import write_corpus
from tests.sttrain.judged import TINY, write_run

CONFIG = ReconstructConfig(windows=(8,), sizes=(3, 4), genes=6, repeats=3)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpora") / "eval"
    return write_corpus(root, kind="cover", n_slices=2, rows=12, cols=11)


def run(corpus, out, *models, config=CONFIG, **options):
    return reconstruct_corpus(corpus.root, out, models=models, config=config, **options)


def make_values(n=7, m=5, seed=0):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(4, size=(n, m))
    totals = counts.sum(axis=1) + 20.0
    truth = np.log1p(1e4 * counts / totals[:, None])
    return truth, truth + rng.normal(0, 0.5, size=truth.shape), counts, totals


def test_scores_equal_those_of_plain_loops():
    truth, predicted, counts, totals = make_values()
    scores = score_region(truth, predicted, counts, totals)
    assert scores.mse == pytest.approx(((truth - predicted) ** 2).mean())
    assert scores.mae == pytest.approx(np.abs(truth - predicted).mean())
    by_gene = [np.corrcoef(truth[:, g], predicted[:, g])[0, 1] for g in range(5)]
    by_spot = [np.corrcoef(truth[i], predicted[i])[0, 1] for i in range(7)]
    assert scores.pearson_gene == pytest.approx(np.mean(by_gene))
    assert scores.pearson_spot == pytest.approx(np.mean(by_spot))
    total, raised = 0.0, 0
    for i in range(7):
        for g in range(5):
            y, mu = int(counts[i, g]), math.expm1(predicted[i, g]) * totals[i] / 1e4
            raised += mu < LEAST_RATE
            mu = max(mu, LEAST_RATE)
            total += 2 * ((y * math.log(y / mu) if y else 0.0) - y + mu)
    assert scores.poisson_deviance == pytest.approx(total / 35)
    assert (scores.genes_left_out, scores.spots_left_out, scores.rates_raised) == (0, 0, raised)


def test_constant_genes_and_spots_are_left_out_and_counted():
    truth, predicted, counts, totals = make_values()
    predicted[:, 1], truth[:, 2], predicted[4] = 0.3, 0.1, 1.0
    scores = score_region(truth, predicted, counts, totals)
    # A prediction that is constant over all genes of one spot leaves its genes varying.
    assert (scores.genes_left_out, scores.spots_left_out) == (1, 1)
    kept = [0, 1, 3, 4]
    by_gene = [np.corrcoef(truth[:, g], predicted[:, g])[0, 1] for g in kept]
    assert scores.pearson_gene == pytest.approx(np.mean(by_gene))


def test_where_nothing_varies_there_is_no_correlation():
    truth, _, counts, totals = make_values()
    scores = score_region(truth, np.ones_like(truth), counts, totals)
    assert scores.pearson_gene is None
    assert scores.pearson_spot is None
    assert (scores.genes_left_out, scores.spots_left_out) == (5, 7)


def test_rates_of_nothing_are_raised_and_counted():
    truth, predicted, counts, totals = make_values()
    predicted = np.abs(predicted) + 0.5
    predicted[0, :3] = -0.5, 0.0, 1e-9
    scores = score_region(truth, predicted, counts, totals)
    assert scores.rates_raised == 3
    assert math.isfinite(scores.poisson_deviance)
    assert LEAST_RATE < 0.01


@pytest.mark.parametrize("bad", [np.nan, np.inf, 720.0, -1e200])
def test_predictions_that_are_not_finite_or_overflow_have_no_score(bad):
    truth, predicted, counts, totals = make_values()
    predicted[2, 2] = bad
    with pytest.raises(ValueError, match="1 predictions are not finite"):
        score_region(truth, predicted, counts, totals)


def test_one_prediction_that_overflows_is_refused_by_name(corpus, tmp_path, monkeypatch):
    """The expected count of 720 is infinite, and its deviance was NaN in every mean."""

    def fill(_, region):
        return np.full(region.values_of(region.hidden).shape, 720.0)

    monkeypatch.setattr("sttrain.judge.fillers.Interpolation.fill", fill)
    with pytest.raises(BadInputError, match=r"V02.*'gene-mean'.* beyond 500"):
        run(corpus, tmp_path / "r", config=CONFIG)
    truth, predicted, counts, totals = make_values()
    scores = score_region(truth, np.full_like(predicted, 500), counts, totals)
    assert math.isfinite(scores.poisson_deviance)


def test_one_row_a_repetition_and_all_methods_meet_the_same_regions(corpus, tmp_path):
    model = ModelFile(name="ours", path=write_run(tmp_path / "run", corpus))
    outcome = run(corpus, tmp_path / "r", model)
    assert {r.method for r in outcome.rows} == {
        "ours", "gene-mean", "nearest16", "inverse-distance"
    }  # fmt: skip
    assert len(outcome.rows) == outcome.n_computed == 4 * 2 * 2 * 3
    for key in {(r.slice, r.size, r.repeat) for r in outcome.rows}:
        same = [r for r in outcome.rows if (r.slice, r.size, r.repeat) == key]
        assert len({(r.n_hidden, r.n_shown, r.n_genes) for r in same}) == 1
    assert all(r.n_hidden <= r.size**2 for r in outcome.rows)


def test_a_rerun_computes_only_what_is_missing(corpus, tmp_path):
    whole = run(corpus, tmp_path / "whole").rows
    run(corpus, tmp_path / "r", controls=["gene-mean"], slices=["toy1"])
    second = run(corpus, tmp_path / "r")
    assert (second.n_computed, second.n_reused) == (30, 6)
    assert second.rows == whole


def test_another_model_under_a_stored_name_is_refused(corpus, tmp_path):
    root = write_run(tmp_path / "run", corpus)
    run(corpus, tmp_path / "r", ModelFile(name="ours", path=root))
    other = ModelFile(name="ours", path=root, initial=True)
    with pytest.raises(
        ConflictError, match="'ours': the stored results of this name are of other"
    ) as caught:
        run(corpus, tmp_path / "r", other)
    (problem,) = caught.value.problems
    assert "--replace" not in problem.fix
    for path in Path("/").glob(problem.fix.rpartition(": ")[2].lstrip("/")):
        path.unlink()
    assert run(corpus, tmp_path / "r", other).n_computed == 2 * 2 * 3


def test_models_of_the_same_weights_and_other_recipes_are_not_taken_for_each_other(
    corpus, tmp_path
):
    configs = {"corpus": TINY, "slice": TINY.model_copy(update={"centre_by": "slice"})}
    first, second = (
        ModelFile(name="ours", path=write_run(tmp_path / by, corpus, config=config), initial=True)
        for by, config in configs.items()
    )
    rows = run(corpus, tmp_path / "r", first).rows
    with pytest.raises(ConflictError, match="'ours': the stored results of this name are of other"):
        run(corpus, tmp_path / "r", second)
    others = run(corpus, tmp_path / "s", second).rows
    found = [{r.checkpoint: r.mse for r in some if r.method == "ours"} for some in (rows, others)]
    assert found[0].keys() == found[1].keys()
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("change", "options", "error", "words"),
    [
        ({"sizes": (8,)}, {}, BadUsageError, "window 8 with size 8"),
        ({"sizes": (12,), "windows": (20,)}, {}, BadInputError, "a grid of 12 x 11 sites"),
        ({}, {"slices": ["nope"]}, BadUsageError, "slices of the corpus: toy0, toy1"),
        ({}, {"controls": ["mean"]}, BadUsageError, "gene-mean, nearest16, inverse-distance"),
        ({}, {"controls": []}, BadUsageError, "nothing to judge"),
    ],
    ids=["window_not_larger", "grid_too_small", "unknown_slice", "unknown_control", "nothing"],
)
def test_wrong_input_is_refused_in_words(corpus, tmp_path, change, options, error, words):
    with pytest.raises(error, match=words):
        run(corpus, tmp_path / "r", config=CONFIG.model_copy(update=change), **options)


def test_sizes_without_room_may_be_left_out_and_are_told(corpus, tmp_path):
    config = CONFIG.model_copy(update={"sizes": (*CONFIG.sizes, 12), "windows": (20,)})
    with pytest.raises(TooSmallError):
        run(corpus, tmp_path / "a", config=config)
    outcome = run(corpus, tmp_path / "b", config=config, skip_small=True)
    assert {row.size for row in outcome.rows} == set(CONFIG.sizes)
    assert outcome.n_computed == len(outcome.rows)
    slices = sorted({row.slice for row in outcome.rows})
    assert sorted(line.split("'")[1] for line in outcome.left_out) == slices
    assert all("hidden squares of 12" in line for line in outcome.left_out)


@pytest.mark.parametrize(
    ("name", "more", "untrained"),
    [("gene-mean", [], False), ("Ours", [], False), ("ours", ["ours=x"], False)],
    ids=["of_a_control", "other_letters", "twice"],
)
def test_names_of_models_are_their_own(corpus, tmp_path, name, more, untrained):
    models = parse_models(tmp_path, name, more, untrained=untrained)
    with pytest.raises(BadUsageError, match="give every model its own name"):
        run(corpus, tmp_path / "r", *models)


@pytest.mark.parametrize("text", ["x", "=x", "x="])
def test_models_of_another_form_are_refused(text, tmp_path):
    with pytest.raises(BadUsageError):
        parse_models(tmp_path, "ours", [text], untrained=False)


def test_command_compares_a_run_its_first_weights_and_the_controls(corpus, tmp_path):
    root = write_run(tmp_path / "run", corpus)
    result = CliRunner().invoke(
        cli,
        ["reconstruct", str(root), str(corpus.root), "--untrained", "--window", "8", "--size", "4",
         "--repeats", "2", "--genes", "6", "--slice", "toy0", "-o", str(tmp_path / "r"), "--json"],
        catch_exceptions=False,
    )  # fmt: skip
    table = json.loads(result.stdout)["table"]
    assert [entry["method"] for entry in table] == [
        "gene-mean", "inverse-distance", "nearest16", "ours", "untrained"
    ]  # fmt: skip
    assert all(entry["mse"] > 0 and entry["rows"] == 2 for entry in table)


def test_means_are_of_what_was_asked_for_whatever_stands_in_the_folder(corpus, tmp_path):
    root = write_run(tmp_path / "run", corpus)

    def means(out, seed):
        result = CliRunner().invoke(
            cli,
            ["reconstruct", str(root), str(corpus.root), "--window", "8", "--size", "4",
             "--repeats", "1", "--genes", "6", "--slice", "toy0", "--seed", str(seed),
             "-o", str(out), "--json"],
            catch_exceptions=False,
        )  # fmt: skip
        return json.loads(result.stdout)["table"]

    alone = means(tmp_path / "alone", 1)
    assert means(tmp_path / "r", 0) != alone
    assert means(tmp_path / "r", 1) == alone
