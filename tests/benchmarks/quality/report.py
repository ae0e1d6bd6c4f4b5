"""``benchmarks/quality.md`` from the rows that the repository keeps.

Prose stands in ``findings.md`` beside this module: what was concluded by whoever looked.
"""

from pathlib import Path

import pandas as pd

from sttrain.bench.printed import read_printed
from tests.benchmarks.markdown import table
from tests.benchmarks.measure import ROOT
from tests.benchmarks.quality.plan import read_plan
from tests.benchmarks.quality.rows import LOSSES, ROWS
from tests.benchmarks.quality.tables import (
    by_head,
    by_window,
    differences,
    domains,
    scores,
    squares,
)
from tests.benchmarks.quality.windows import DATA, TITLES

PRINTED = ROOT / "manifests" / "suites" / "paper_values.csv"
FINDINGS = Path(__file__).with_name("findings.md")


def write_report(folder: Path) -> None:
    """Write the report into the folder that holds the rows."""
    rows = pd.read_parquet(folder / ROWS)
    lines = [*FINDINGS.read_text("utf-8").splitlines(), ""]
    for plan in read_plan():
        for judged in plan.judged:
            mine = rows[rows.set == judged.name]
            if not mine.empty:
                lines += ["", f"## {judged.name}", "", *_set(mine)]
    if set(TITLES) & set(rows.set):
        lines += ["", "## The paper's tables over windows and genes, on DLPFC 151510", ""]
    for name, title in TITLES.items():
        if not (mine := rows[rows.set == name]).empty:
            filled = mine[mine.task.str.startswith("reconstruction")]
            told = [each for each in read_printed(PRINTED, name) if each.data == DATA]
            made = by_head(mine, told) if filled.empty else by_window(filled)
            lines += [f"{title}.", "", *made, ""]
    if (folder / LOSSES).exists():
        lines += ["", "## Losses of pretraining", "", *_losses(pd.read_csv(folder / LOSSES))]
    (folder / "quality.md").write_text("\n".join(lines).rstrip() + "\n", "utf-8")


def _set(rows: pd.DataFrame) -> list[str]:
    def task(name: str) -> pd.DataFrame:
        return rows[rows.task.str.startswith(name)]

    found = task("domain-detection")
    over = "mean ± standard deviation over seeds (`donor-out`: over donors)"
    parts = [
        (f"Accuracy, {over}", scores(found, "accuracy")),
        (f"ARI of the predictions, {over}", scores(found, "ari_pred")),
        (
            "What the patch encoder gains in ARI: mean ± standard error of the differences over "
            "seeds of the split (`donor-out`: over donors), bold beyond two of them",
            differences(found),
        ),
    ]
    if not (clusters := task("clustering")).empty:
        parts.append(("Domains without labels, as many as there are classes", domains(clusters)))
    if not (filled := task("reconstruction")).empty:
        parts.append(("Hidden squares in windows of 24 (Table 7), by their side", squares(filled)))
    return [line for title, body in parts for line in (f"{title}.", "", *body, "")]


def _losses(losses: pd.DataFrame) -> list[str]:
    tenths = [name for name in losses.columns if name.startswith("t")]
    body = [
        [row.set, row.objective, *(f"{row[name]:.3f}" for name in tenths)]
        for _, row in losses.iterrows()
    ]
    head = ["set", "objective", *(f"{10 * i + 10} %" for i in range(len(tenths)))]
    return [
        "Mean of each tenth of a run: squared error of log1p(CP10K) at hidden values, the same "
        "masks for `patch`, `multispot` and `spot`.",
        "",
        *table(head, body),
    ]
