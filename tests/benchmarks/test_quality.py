"""The report on quality: its plan fits the suites, its differences are paired, its text is made."""

import numpy as np
import pandas as pd
import pytest

from sttrain.bench.suite import read_suite
from sttrain.settings import parse_settings
from tests.benchmarks.measure import ROOT
from tests.benchmarks.quality.plan import ALONE, OBJECTIVES, probe_options, read_plan, suite_options
from tests.benchmarks.quality.report import write_report
from tests.benchmarks.quality.rows import LOSSES, METRICS, ROWS, keep_rows
from tests.benchmarks.quality.tables import HEADS, SPLITS, by_window, differences
from tests.benchmarks.quality.windows import DATA, STANDARD, TABLES, TITLES, VARIANTS
from tests.benchmarks.quality.work import ALONE_SUITE

SUITES = ROOT / "manifests" / "suites"


def test_the_plan_is_what_the_suite_asks_for():
    values = [part for part in suite_options(3) if part != "--set"]
    suite = read_suite(SUITES / "honest.toml", parse_settings(values))
    assert {each.name for each in suite.checkpoints} == set(OBJECTIVES)
    assert {judged.data for plan in read_plan() for judged in plan.judged} <= {
        each.name for each in suite.data
    }
    alone = read_suite(ALONE_SUITE, parse_settings([v for v in probe_options(3) if v != "--set"]))
    assert [f"{each.name}{ALONE}" for each in suite.checkpoints] == [
        each.name for each in alone.checkpoints
    ]
    assert alone.probe == suite.probe
    assert [each.name for each in alone.data] == [each.name for each in suite.data]
    assert suite.heads_of("pca10") == ("knn", "logistic", "logistic-each")
    assert suite.heads_of("nbmean18-pca50") == ("knn", "logistic", "logistic-each", "mlp")


@pytest.mark.parametrize("table", TABLES)
def test_variants_are_the_checkpoints_of_the_papers_tables(table):
    suite = read_suite(SUITES / f"{table}.toml")
    asked = {each.name: each.view for each in suite.checkpoints}
    assert set(asked) == set(TABLES[table])
    assert DATA in {each.name for each in suite.data}
    for name, variant in TABLES[table].items():
        assert variant in VARIANTS
        if table != "table7":
            assert (asked[name] or STANDARD) == variant
    assert set(TITLES) == set(TABLES)


def test_all_variants_meet_as_many_sites():
    sites = [v.share(1600) * v.window**2 for v in VARIANTS.values()]
    assert max(sites) < 1.01 * min(sites)


def make_rows(gains):
    """Pooled rows of a set: ARI of a method is its gain over the seed's own."""
    rows = [
        ("domain-detection@1", method, head, split, seed, 0.2 + 0.1 * seed + gain * (1 + seed / 10))
        for method, gain in gains.items()
        for head in HEADS
        for split in SPLITS
        for seed in range(3)
    ]
    found = pd.DataFrame(rows, columns=["task", "method", "head", "split", "seed", "ari_pred"])
    found[[m for m in METRICS if m != "ari_pred"]] = 0.5
    return found.assign(slice=None)


def test_differences_are_paired_over_seeds():
    found = differences(make_rows({"patch": 0.1, "patch-alone": 0.0, "spot": 0.0}))
    # Seeds differ by 0.1 and gains by 0.01 alone: unpaired, no difference would be clear.
    assert found[2].startswith("| `patch` less `spot` | **+0.110 ± 0.006** |")
    assert found[3].startswith("| `patch` less `patch-alone` | **+0.110 ± 0.006** |")
    assert len(found) == 4


def test_hidden_squares_stand_by_window_and_side_and_nothing_else_does():
    rows = [
        (f"window {window}, size {size}", method, seed, window / 100 + size + seed)
        for window in (8, 20)
        for size in (10, 4)
        for method in ("ours-20", "ours-8", "gene-mean")
        for seed in (0, 1)
    ]
    lines = by_window(pd.DataFrame(rows, columns=["split", "method", "seed", "mse"]))
    assert lines[0] == "| window | filled by | 4 | 10 |"
    assert lines[2:5] == [
        f"| 8 | {name} | 4.580 | 10.580 |" for name in ("gene-mean", "ours-8", "ours-20")
    ]
    assert lines[5] == "| 20 | gene-mean | 4.700 | 10.700 |"
    assert len(lines) == 8


def test_the_report_is_made_from_rows_alone_and_again_the_same(tmp_path):
    name = read_plan()[0].judged[0].name
    keep_rows(tmp_path, name, make_rows({"patch": 0.1, "spot": 0.0, "pca10": 0.05}))
    first = (tmp_path / ROWS).read_bytes()
    keep_rows(tmp_path, "table4", make_rows({"ours-8": 0.1, "ours-16": 0.05}))
    keep_rows(tmp_path, name, make_rows({"patch": 0.1, "spot": 0.0, "pca10": 0.05}))
    kept = pd.read_parquet(tmp_path / ROWS)
    assert first != (tmp_path / ROWS).read_bytes()
    assert len(kept) == 5 * len(HEADS) * len(SPLITS) * 3
    losses = pd.DataFrame([[name, "patch", *np.linspace(1, 0.5, 10)]])
    losses.columns = ["set", "objective", *(f"t{i}" for i in range(10))]
    losses.to_csv(tmp_path / LOSSES, index=False)
    found = []
    for _ in range(2):
        write_report(tmp_path)
        found.append((tmp_path / "quality.md").read_text("utf-8"))
    assert found[0] == found[1]
    assert f"## {name}" in found[0]
    assert found[0].index("| ours-8 |") < found[0].index("| ours-16 |")
    assert "| 0.652 | 0.370 |" in found[0]  # the paper's own, of windows of 8 on DLPFC
    assert "| patch | 1.000 |" in found[0].replace(f"| {name} ", "")
