"""Tables of one set: classifiers, differences, domains without labels, hidden squares."""

import re
from collections.abc import Sequence

import pandas as pd

from sttrain.bench.printed import Printed
from tests.benchmarks.markdown import table

NONE = "-"
ORDER = (
    "majority", "libsize", "coords", "coords-shuffled", "raw", "pca10", "pca10-centred", "pca50",
    "pca50-centred", "nbmean6-pca10", "nbmean6-pca50", "nbmean18-pca10", "nbmean18-pca50",
    "nbmean18-pca50-centred", "nbmean36-pca10", "nbmean36-pca50", "banksy18-pca10",
    "banksy18-pca50", "gene-mean", "nearest16", "inverse-distance", "patch-alone-untrained",
    "spot-alone", "multispot-alone", "slice-alone", "patch-alone", "patch-untrained", "spot",
    "multispot", "slice", "patch",
)  # fmt: skip
HEADS = {
    "kNN (k=10)": "kNN",
    "logistic": "logistic",
    "logistic (per dimension)": "logistic, per dim.",
    "MLP (800 epochs, at most 2,000 steps)": "MLP",
}
SPLITS = ("paper20@1", "block20@1", "donor-out@1")
PATCH = ("patch", "patch-alone")
"""The patch encoder with expression beside it, as the recipe says, and without."""
RIVALS = {
    PATCH[0]: (
        "patch-untrained", "multispot", "spot", "slice", "patch-alone", "nbmean18-pca10",
        "nbmean18-pca50",
    ),
    PATCH[1]: (
        "patch-alone-untrained", "multispot-alone", "spot-alone", "slice-alone", "nbmean18-pca10",
        "nbmean18-pca50",
    ),
}  # fmt: skip
"""What each of the two is held against."""
Column = tuple[str, str]


def columns(rows: pd.DataFrame) -> list[Column]:
    """Return the splits and heads that there are rows of."""
    there = set(zip(rows.split, rows["head"], strict=True))
    return [(split, head) for split in SPLITS for head in HEADS if (split, head) in there]


def names(found: Sequence[Column]) -> list[str]:
    """Return the titles of columns."""
    return [f"{split.partition('@')[0]}, {HEADS[head]}" for split, head in found]


def methods(rows: pd.DataFrame) -> list[str]:
    """Return the methods that there are rows of, in the order of tables."""
    return [name for name in ORDER if (rows.method == name).any()]


def scores(rows: pd.DataFrame, metric: str) -> list[str]:
    """Return a table of one metric: mean ± standard deviation over seeds or held-out donors."""
    found = columns(rows)
    body = [
        [name, *(_cell(_of(rows, name, column)[metric]) for column in found)]
        for name in methods(rows)
    ]
    return table(["method", *names(found)], body)


def differences(rows: pd.DataFrame) -> list[str]:
    """Return what the patch encoder gains in ARI over others, by seeds or donors in pairs."""
    found, there = columns(rows), set(rows.method)
    body = [
        [f"`{own}` less `{rival}`", *(_gain(rows, own, rival, column) for column in found)]
        for own in PATCH
        for rival in RIVALS[own]
        if {own, rival} <= there
    ]
    return table(["difference", *names(found)], body)


def _gain(rows: pd.DataFrame, own: str, rival: str, column: Column) -> str:
    mine, other = (_of(rows, name, column).ari_pred for name in (own, rival))
    return _signed((mine - other).dropna())


def by_head(rows: pd.DataFrame, printed: Sequence[Printed]) -> list[str]:
    """Return accuracy and ARI of every method, in the order of the rows' names, and the paper's."""
    pairs = [(h, m) for h in HEADS if (rows["head"] == h).any() for m in ("accuracy", "ari_pred")]
    named = ["accuracy" if metric == "accuracy" else "ARI" for _, metric in pairs]
    titles = [f"{HEADS[head]}, {name}" for (head, _), name in zip(pairs, named, strict=True)]
    told = {(each.method, each.metric): f"{each.value:.3f}" for each in printed}
    body = [
        [
            name,
            *(_cell(rows[(rows.method == name) & (rows["head"] == h)][m]) for h, m in pairs),
            *(told.get((name, metric), NONE) for _, metric in pairs),
        ]
        for name in sorted(set(rows.method), key=_natural)
    ]
    return table(["method", *titles, *(f"printed, {name}" for name in named)], body)


def by_window(rows: pd.DataFrame) -> list[str]:
    """Return the squared error of filled squares by their side, every window's rows together."""
    found = rows.split.str.extract(r"window (?P<window>\d+), size (?P<size>\d+)").astype(int)
    cells = rows.assign(**found).pivot_table("mse", ["window", "method"], "size")
    order = sorted(cells.index, key=lambda row: (row[0], _natural(row[1])))
    body = [
        [str(window), method, *(f"{value:.3f}" for value in cells.loc[(window, method)])]
        for window, method in order
    ]
    return table(["window", "filled by", *map(str, cells.columns)], body)


def _natural(text: str) -> list[tuple[str, int]]:
    """Return a key that sorts numbers within names by their size."""
    return [(word, int(digits or 0)) for word, digits in re.findall(r"(\D+|^)(\d*)", text)]


def domains(rows: pd.DataFrame) -> list[str]:
    """Return the table of clusterings at the true number of domains."""
    mine = rows[rows.split == "true number"]
    pairs = [(head, metric) for head in ("kmeans", "gmm") for metric in ("ari", "nmi", "pas")]
    body = [
        [name, *(_mean(mine[(mine.method == name) & (mine["head"] == h)][m]) for h, m in pairs)]
        for name in methods(mine)
    ]
    return table(["method", *(f"{h} {m.upper()}" for h, m in pairs)], body)


def squares(rows: pd.DataFrame) -> list[str]:
    """Return the table of hidden squares, by their side."""
    sizes = sorted(set(rows.split), key=lambda split: int(split.rpartition(" ")[2]))
    pairs = [(size, metric) for size in sizes for metric in ("mse", "pearson_gene")]
    heads = [f"{s.rpartition(' ')[2]}: {'MSE' if m == 'mse' else 'r per gene'}" for s, m in pairs]
    body = [
        [name, *(_mean(rows[(rows.method == name) & (rows.split == s)][m]) for s, m in pairs)]
        for name in methods(rows)
    ]
    return table(["filled by", *heads], body)


def _of(rows: pd.DataFrame, method: str, column: Column) -> pd.DataFrame:
    split, head = column
    mine = rows[(rows.method == method) & (rows.split == split) & (rows["head"] == head)]
    return mine.set_index("seed")


def _cell(values: pd.Series) -> str:
    values = values.dropna()
    spread = f" ± {values.std():.3f}" if len(values) > 1 and values.std() > 0 else ""
    return f"{values.mean():.3f}{spread}" if len(values) else NONE


def _mean(values: pd.Series) -> str:
    values = values.dropna()
    return f"{values.mean():.3f}" if len(values) else NONE


def _signed(gain: pd.Series) -> str:
    """Return mean ± standard error, bold beyond two of them."""
    if len(gain) < 2:
        return NONE
    error = gain.std() / len(gain) ** 0.5
    text = f"{gain.mean():+.3f} ± {error:.3f}"
    return f"**{text}**" if abs(gain.mean()) > 2 * error else text
