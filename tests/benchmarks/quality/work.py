"""One data set from sections to rows, by this project's own commands; a rerun goes on."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from tests.benchmarks.corpora import command, make_grids, make_shards
from tests.benchmarks.measure import ROOT
from tests.benchmarks.quality.plan import (
    ALONE,
    OBJECTIVES,
    DataSet,
    Judged,
    probe_options,
    suite_options,
)

RECIPE = ROOT / "manifests" / "runs" / "small.toml"
SUITE = ROOT / "manifests" / "suites" / "honest.toml"
ALONE_SUITE = Path(__file__).with_name("alone.toml")
COVER = ("--cover", 8, "--draws", 4)
TENTHS = 10


def train(data: Path, work: Path, plan: DataSet) -> None:
    """Build the training corpus of a data set and train one encoder for each objective."""
    corpus = training_corpus(data, work, plan)
    for objective in OBJECTIVES:
        command(
            "sttrain", "fit", corpus, "-c", RECIPE, "--epochs", 1, "--objective", objective,
            "--threads", 1, "--workers", 1, "--logger", "none", "-o", run_of(work, plan, objective),
        )  # fmt: skip


def training_corpus(data: Path, work: Path, plan: DataSet) -> Path:
    """Return the training corpus, built if it is not there."""
    files = sorted(data.glob(plan.train))
    grids = make_grids(work, f"{plan.name}-train", files, plan.origin, label=False)
    out = work / "corpora" / f"{plan.name}-train"
    return make_shards(grids, out, "--n-per-slice", plan.n_per_slice, "--whole-slices")


def run_of(work: Path, plan: DataSet, objective: str) -> Path:
    """Return the folder of a run."""
    return work / "runs" / f"{plan.name}-{objective}"


def judge(data: Path, work: Path, plan: DataSet, judged: Judged) -> pd.DataFrame:
    """Run the suite on labelled sections and return its rows."""
    files = sorted(file for pattern in judged.files for file in data.glob(pattern))
    grids = make_grids(work, f"{judged.name}-eval", files, plan.origin, label=True)
    known = ("--vocabulary", training_corpus(data, work, plan))
    corpus = make_shards(grids, work / "corpora" / f"{judged.name}-eval", *COVER, *known)
    results = work / "results" / judged.name
    for suite, end, options in (
        (SUITE, "", suite_options(judged.seeds)), (ALONE_SUITE, ALONE, probe_options(judged.seeds)),
    ):  # fmt: skip
        runs = [f"{name}{end}={run_of(work, plan, name)}" for name in OBJECTIVES]
        command(
            "sttrain", "bench", "run", suite, "-o", results, "--skip-missing",
            "--data", f"{judged.data}={corpus}",
            *(part for run in runs for part in ("--checkpoint", run)), *options,
        )  # fmt: skip
    found = [pd.read_parquet(results / f"{suite.stem}.parquet") for suite in (SUITE, ALONE_SUITE)]
    return pd.concat(found, ignore_index=True)


def curve(run: Path) -> list[float]:
    """Return the mean loss of each tenth of a run."""
    lines = (run / "log.jsonl").read_text("utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    losses = [each["loss"] for each in found if each.get("event") == "step"]
    return [float(np.mean(part)) for part in np.array_split(losses, TENTHS)]
