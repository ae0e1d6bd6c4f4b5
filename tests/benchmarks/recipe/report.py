"""``benchmarks/recipe.md`` and its pictures, from the rows alone.

Prose stands in ``findings.md`` beside this module: what was concluded by whoever looked.
"""

from pathlib import Path

import pandas as pd

from tests.benchmarks.markdown import table
from tests.benchmarks.recipe.figures import draw_levers, draw_rates
from tests.benchmarks.recipe.plan import ALONE, CHOSEN, Plan, read_plan
from tests.benchmarks.recipe.summary import COLUMNS, NONE, Difference, cells, difference, of_arm

FINDINGS = Path(__file__).with_name("findings.md")
SIDES = {"ABC": "Choosing: judged on donors A, B, C", "DEF": "Confirming: judged on donors D, E, F"}


def write_report(results: Path, folder: Path) -> None:
    """Write the report and its pictures into a folder."""
    rows, plan = pd.read_parquet(results), read_plan()
    lines = [*FINDINGS.read_text("utf-8").splitlines(), ""]
    for tested, title in SIDES.items():
        mine = rows[rows.tested == tested]
        if not mine.empty:
            lines += ["", f"## {title}", "", *_side(mine, plan)]
    chosen = rows[rows.tested == "ABC"]
    pictures = {
        "recipe-levers.png": draw_levers(chosen, plan),
        "recipe-rates.png": draw_rates(chosen),
    }
    for name, picture in pictures.items():
        (folder / name).write_bytes(picture)
    (folder / "recipe.md").write_text("\n".join(lines).rstrip() + "\n", "utf-8")


def _side(rows: pd.DataFrame, plan: Plan) -> list[str]:
    names = [arm.name for arm in plan.arms if arm.name in set(rows.arm)]
    what = {arm.name: arm.what for arm in plan.arms}
    untrained = [f"{n}-untrained" for n in names if f"{n}-untrained" in set(rows.arm)]
    labels = {n: what[n] for n in names} | dict.fromkeys(untrained, "before its first step")
    order = sorted([*names, *untrained], key=lambda n: names.index(n.removesuffix("-untrained")))
    controls = sorted(set(rows.arm) - set(order))
    beside = rows[rows.inference == CHOSEN]
    shown = [n for n in order if n in set(beside.arm)]
    others = [(f"{n}, alike", (n, CHOSEN)) for n in shown if n != "base"]
    others += [("base, alone", ("base", ALONE)), *((n, (n, "output")) for n in controls)]
    return [
        f"### Levers, by what the encoder gives alone (`{ALONE}`)",
        "",
        "Accuracy / ARI, means over seeds of the weights and over folds. `explained`: share of the "
        "squared error at hidden sites of unseen donors that is taken off each slice's gene means.",
        "",
        *table(["arm", "what is changed", "seeds", "explained", *_heads(rows)],
                [[n, labels[n], str(rows[rows.arm == n].seed.nunique()), _explained(rows, n),
                  *_cells(rows, n, ALONE)] for n in order]),
        "",
        "### The same against the base, ARI",
        "",
        "Mean difference ± standard error: over seeds within donors, over donors across them. "
        "Bold: beyond two of them.",
        "",
        *table(["arm", *_heads(rows)],
                [[n, *_against(rows, (n, ALONE), ("base", ALONE))] for n in order if n != "base"]),
        "",
        f"### With expression beside it (`{CHOSEN}`), as `small.toml` says",
        "",
        "The units of training, and what else was judged so: accuracy / ARI.",
        "",
        *table(["arm", "seeds", *_heads(rows)],
                [[n, str(beside[beside.arm == n].seed.nunique()), *_cells(rows, n, CHOSEN)]
                 for n in shown]),
        "",
        "The base, so made, against each of them, and against each control (below), ARI. Controls "
        "are alone: what the encoder adds to `nbmean18-pca50` is the difference from that row.",
        "",
        *table(["against", *_heads(rows)],
                [[n, *_against(rows, ("base", CHOSEN), other)] for n, other in others]),
        "",
        "### How features become vectors: the base, trained and not",
        "",
        *table(["weights", "vectors", *_heads(rows)],
                [[w, inference, *_cells(rows, w, inference)]
                 for w in ("base", "base-untrained") for inference in _inferences(rows, w)]),
        "",
        "### Controls, from the same slices and genes",
        "",
        *table(["control", *_heads(rows)],
                [[n, *_cells(rows, n, "output")] for n in controls]),
        "",
        f"### The base alone (`{ALONE}`) against each control, ARI",
        "",
        *table(["control", *_heads(rows)],
                [[n, *_against(rows, ("base", ALONE), (n, "output"))] for n in controls]),
    ]  # fmt: skip


def _cells(rows: pd.DataFrame, arm: str, inference: str) -> list[str]:
    return cells(of_arm(rows, arm, inference), _columns(rows))


def _columns(rows: pd.DataFrame) -> list[tuple[str, str]]:
    there = set(zip(rows.split, rows["head"], strict=True))
    return [column for column in COLUMNS if column in there]


def _heads(rows: pd.DataFrame) -> list[str]:
    return [f"{split}, {head}" for split, head in _columns(rows)]


def _inferences(rows: pd.DataFrame, arm: str) -> list[str]:
    return list(dict.fromkeys(rows[rows.arm == arm].inference))


def _explained(rows: pd.DataFrame, arm: str) -> str:
    found = rows[rows.arm == arm].groupby("seed").explained.first().dropna()
    return f"{found.mean():.4f}" if len(found) else NONE


def _against(rows: pd.DataFrame, arm: tuple[str, str], other: tuple[str, str]) -> list[str]:
    mine, reference = of_arm(rows, *arm), of_arm(rows, *other)
    return [_said(difference(mine, reference, column)) for column in _columns(rows)]


def _said(found: Difference | None) -> str:
    if found is None:
        return NONE
    text = f"{found.mean:+.3f} ± {found.error:.3f}"
    return f"**{text}**" if found.is_clear else text
