"""Pictures of the report."""

import pandas as pd

from sttrain.plots import drawing, new_figure, to_png
from tests.benchmarks.recipe.plan import ALONE, Plan
from tests.benchmarks.recipe.summary import difference, of_arm

SHOWN = [
    (split, head)
    for split in ("paper20", "block20", "donor-out")
    for head in ("knn", "logistic")
]  # fmt: skip
RATES = {"rate1": 1, "rate10": 10, "base": 100}


def draw_levers(rows: pd.DataFrame, plan: Plan) -> bytes:
    """Return the difference of every arm from the base, one panel for each split and head."""
    names = [a.name for a in plan.arms if a.name in set(rows.arm) and a.name != "base"]
    base = of_arm(rows, "base", ALONE)
    with drawing():
        figure = new_figure(14, 0.28 * len(names) + 1.6)
        panels = figure.subplots(1, len(SHOWN), sharey=True)
        for panel, column in zip(panels, SHOWN, strict=True):
            for at, name in enumerate(names):
                found = difference(of_arm(rows, name, ALONE), base, column)
                if found is not None:
                    colour = "tab:blue" if found.is_clear else "tab:gray"
                    panel.errorbar(found.mean, at, xerr=2 * found.error, fmt="o", color=colour)
            panel.axvline(0, color="black", linewidth=0.8)
            panel.set_title(", ".join(column), fontsize=9)
            panel.tick_params(labelsize=8)
        panels[0].set_yticks(range(len(names)), names)
        panels[0].invert_yaxis()
        figure.supxlabel("ARI less the base's, two standard errors", fontsize=9)
        figure.tight_layout()
        return to_png(figure)


def draw_rates(rows: pd.DataFrame) -> bytes:
    """Return what the learning rate of the gene table does: to the pretext task, and to probes."""
    with drawing():
        figure = new_figure(9, 3.6)
        left, right = figure.subplots(1, 2)
        there = {name: rate for name, rate in RATES.items() if name in set(rows.arm)}
        known = [rows[rows.arm == name].groupby("seed").explained.first().mean() for name in there]
        left.plot(list(there.values()), known, "o-")
        left.axhline(0, color="black", linewidth=0.8)
        left.set(xscale="log", title="explained of hidden sites, unseen donors")
        for split, head in SHOWN:
            arms = [of_arm(rows, name, ALONE) for name in there]
            values = [a[(a.split == split) & (a["head"] == head)].ari.mean() for a in arms]
            right.plot(list(there.values()), values, "o-", label=f"{split}, {head}")
        right.set(xscale="log", title="ARI of probes")
        right.legend(fontsize=7)
        for panel in (left, right):
            panel.set_xlabel("rate of the gene table over that of the other weights", fontsize=9)
        figure.tight_layout()
        return to_png(figure)
