"""The report on recipes: its arms are recipes, its differences are paired, its text is made."""

import numpy as np
import pandas as pd
import pytest
import torch

from stbuild.corpus.reader import open_corpus
from sttrain.model.autoencoder import MaskedAutoencoder
from tests.benchmarks.recipe.explained import explained_share
from tests.benchmarks.recipe.plan import ALONE, CHOSEN, INFERENCES, read_plan
from tests.benchmarks.recipe.report import write_report
from tests.benchmarks.recipe.summary import COLUMNS, difference, of_arm
from tests.corpora import write_corpus
from tests.sttrain.judged import TINY

PLAN = read_plan()


def test_arms_are_recipes_that_differ():
    recipes = [PLAN.recipe(arm, 3) for arm in PLAN.arms]
    assert {recipe.seed for recipe in recipes} == {3}
    prints = {recipe.fingerprint("c") for recipe in recipes}
    assert len(prints) == len(PLAN.arms) == len({arm.name for arm in PLAN.arms})
    assert PLAN.arms[0].name == "base"
    assert {ALONE, CHOSEN} <= set(INFERENCES)


def make_rows(arms, seeds=3):
    """ARI of an arm: its gain over fold and seed; everything else is the same for all arms."""
    rows = []
    for arm, gain in arms.items():
        for seed in range(1 if arm == "pca10" else seeds):
            for split, head in COLUMNS:
                folds = "ABC" if split == "donor-out" else "01234"
                for i, fold in enumerate(folds):
                    ari = 0.3 + 0.05 * i + gain * (1 + 0.1 * seed)
                    rows.append((arm, seed, split, fold, head, ari))
    names = ["arm", "seed", "split", "fold", "head", "ari"]
    found = pd.DataFrame(rows, columns=names)
    found["accuracy"], found["tested"], found["explained"] = 0.5, "ABC", 0.01
    by_hand = found.arm == "pca10"
    ways = [found[by_hand].assign(inference="output")]
    ways += [found[~by_hand].assign(inference=way) for way in (ALONE, CHOSEN)]
    return pd.concat(ways, ignore_index=True)


@pytest.mark.parametrize("column", [("block20", "knn"), ("donor-out", "logistic")])
def test_differences_are_paired_by_seed_and_fold(column):
    rows = make_rows({"base": 0.0, "cslice": 0.1, "pca10": -0.2})
    base = of_arm(rows, "base", CHOSEN)
    found = difference(of_arm(rows, "cslice", CHOSEN), base, column)
    assert found is not None
    assert found.mean == pytest.approx(0.11)
    # Seeds differ by 0.01 within donors; across donors nothing does.
    expected = 0.01 / np.sqrt(3) if column[0] == "block20" else 0.0
    assert found.error == pytest.approx(expected, abs=1e-12)
    control = difference(base, of_arm(rows, "pca10", "output"), column)
    assert control is not None
    assert control.mean == pytest.approx(0.2)
    assert difference(base, rows[:0], column) is None


def test_the_report_is_made_from_rows_alone_and_again_the_same(tmp_path):
    rows = make_rows({"base": 0.0, "base-untrained": -0.05, "rate1": -0.1, "pca10": -0.2})
    rows.to_parquet(tmp_path / "rows.parquet")
    found = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_report(tmp_path / "rows.parquet", tmp_path / name)
        found.append([p.read_bytes() for p in sorted((tmp_path / name).iterdir())])
    assert found[0] == found[1]
    text = (tmp_path / "one" / "recipe.md").read_text()
    assert "| base | masks of 75 %" in text
    assert "**-0.110 ± 0.006**" in text
    assert "| rate1, alike | **+0.110 ± 0.006** |" in text
    assert (tmp_path / "one" / "recipe-levers.png").read_bytes()[1:4] == b"PNG"


def test_what_is_explained_of_hidden_sites(tmp_path):
    """A model that predicts each slice's means explains nothing; one that is off, less."""
    corpus = write_corpus(tmp_path / "eval", kind="cover", n_slices=2, draws=2, splits=("test",))
    corpus = open_corpus(corpus.root)
    donors = [slug[0].upper() for slug in corpus.index("test").slices]
    rows = np.arange(len(corpus.genes), dtype=np.int32)
    config = TINY.model_copy(update={"centre_by": "slice"})
    model = MaskedAutoencoder(config, len(rows), torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.widen.weight.zero_()
        model.widen.bias.zero_()
    assert explained_share(corpus, model, rows, donors) == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        model.widen.bias.fill_(1)
    assert (explained_share(corpus, model, rows, donors) or 0) < -1e-3
