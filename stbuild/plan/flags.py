"""What a person should look at in a planned slice: thresholds with reasons, in words."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from stbuild.plan.preview import SlicePlan

FEW_COUNTS: Final = 200
"""Median molecules of a spot below which log-normalised values are mostly noise."""
FEW_GENES: Final = 512
"""A patch of the default size has so many channels; fewer are padded."""
SPARSE_WINDOW: Final = 128
"""Half of the sites of a 16 x 16 window."""
MANY_DROPPED: Final = 0.05
"""Share of spots or molecules that may be left out without a second look."""
DOUBTFUL: Final = 0.9
"""Confidence in the lattice below which the evidence should be read."""
SMALL: Final = 16
"""Side of a window: smaller grids are padded."""


@dataclass(frozen=True, kw_only=True)
class Flag:
    """One remark."""

    severity: Literal["info", "warn"]
    text: str


def flag_slice(plan: SlicePlan) -> list[Flag]:
    """Return the remarks about a slice, warnings first."""
    return sorted(_find(plan), key=lambda flag: flag.severity == "info")


def _find(plan: SlicePlan) -> Iterator[Flag]:
    ledger, measures = plan.ledger, plan.measures
    if plan.median_total < FEW_COUNTS:
        yield Flag(severity="warn", text=f"{plan.median_total:,} molecules in the median spot")
    if plan.n_genes < FEW_GENES:
        yield Flag(severity="info", text=f"{plan.n_genes:,} genes: a panel; patches are padded")
    if plan.median_fill < SPARSE_WINDOW:
        what = f"the median window holds {plan.median_fill} of 256 sites"
        yield Flag(severity="warn", text=what)
    if measures.get("confidence", 1.0) < DOUBTFUL:
        what = f"the lattice is {measures['confidence']:.0%} sure: read the evidence"
        yield Flag(severity="warn", text=what)
    if min(plan.shape) < SMALL:
        what = f"a {plan.shape[0]} x {plan.shape[1]} grid is smaller than a window: padded"
        yield Flag(severity="info", text=what)
    lost = ledger.get("molecules_read", 0) - ledger.get("molecules_on_grid", 0)
    lost -= ledger.get("molecules_off_tissue", 0)
    if lost > MANY_DROPPED * max(1, ledger.get("molecules_read", 0)):
        share = lost / max(1, ledger["molecules_read"])
        yield Flag(severity="warn", text=f"{share:.0%} of the molecules are left out")
    empty = ledger.get("spots_without_counts", 0)
    if empty > MANY_DROPPED * max(1, ledger.get("spots_read", 0)):
        yield Flag(severity="warn", text=f"{empty:,} spots hold no counts")
    if n := int(measures.get("n_collisions", 0)):
        kind = "info" if plan.layout == "bin" else "warn"
        yield Flag(severity=kind, text=f"{n:,} spots share a cell with another")  # type: ignore[arg-type]
    for notice in plan.notices:
        yield Flag(severity="info", text=f"{notice.code}: {notice.what}")
