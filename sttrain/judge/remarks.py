"""What a reader of a report has to know: what is averaged, what is missing, what was seen."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from sttrain.judge.exposure import COMPONENTS, TRAINING, UNKNOWN, SeenRow, told_exposure
from sttrain.judge.results import ResultRow

_HELD_OUT: Final = {"donor-out": "donors", "pair-out": "pairs"}
"""What is held out, by task."""
SEEDS: Final = "seeds"
_NAMES: Final = "; "
"""Between the names of classes."""


_SEEN: Final = {
    COMPONENTS: "components or scales fitted on all spots",
    TRAINING: "trained on these slices",
}


class SplitRow(SeenRow, Protocol):
    """A row that says under which split it was judged."""

    @property
    def split(self) -> str:
        """Split of the corpus."""
        ...

    @property
    def held_out(self) -> str | None:
        """Group that is held out, if any."""
        ...

    @property
    def transductive(self) -> bool | None:
        """Whether features of test spots may have been seen; none where the row does not tell."""
        ...


class FitRow(Protocol):
    """A row that says what its fit could not do; all of it is none where the row does not tell."""

    @property
    def split(self) -> str:
        """Split of the corpus."""
        ...

    @property
    def rare(self) -> str | None:
        """Classes too small to train on, separated by semicolons."""
        ...

    @property
    def absent(self) -> str | None:
        """Classes that are scored and that no training spot has, separated by semicolons."""
        ...

    @property
    def converged(self) -> bool | None:
        """Whether the solver ended before its limit."""
        ...


@dataclass(frozen=True, kw_only=True)
class Fits:
    """Fits of a method under a split and head, a seed and repeat each."""

    n_fits: int
    n_expected: int
    """Those that any method has there."""

    @property
    def is_complete(self) -> bool:
        """Whether none is missing."""
        return self.n_fits == self.n_expected


def find_units(rows: Iterable[ResultRow]) -> dict[str, str]:
    """Return, by split, what means are over: ``seeds``, or the ``donors`` that are held out."""
    units: dict[str, str] = {}
    for row in rows:
        held_out = _HELD_OUT.get(row.split.partition("@")[0], "groups")
        units[row.split] = SEEDS if row.held_out is None else held_out
    return units


def count_fits(rows: Iterable[ResultRow]) -> dict[tuple[str, str, str], Fits]:
    """Return the fits of every method, split and head that has one."""
    mine: dict[tuple[str, str, str], set[tuple[int, int]]] = {}
    everyone: dict[tuple[str, str], set[tuple[int, int]]] = {}
    for row in rows:
        draw = (row.seed, row.repeat)
        mine.setdefault((row.method, row.split, row.head), set()).add(draw)
        everyone.setdefault((row.split, row.head), set()).add(draw)
    return {
        key: Fits(n_fits=len(draws), n_expected=len(everyone[key[1:]]))
        for key, draws in mine.items()
    }


def report_remarks(rows: Sequence[ResultRow], *, any_cell: bool) -> Iterable[str]:
    """Yield the remarks of a report.

    Parameters
    ----------
    rows
        All rows of the report.
    any_cell
        Whether any of the metrics that are shown is defined.
    """
    if any_cell:
        yield from _averages(rows)
    else:
        yield "None of the metrics that are shown is defined here."
    yield from seen_remarks(rows)
    if epochs := sorted({row.epochs for row in rows if row.epochs is not None}):
        yield f"The MLP was trained for {', '.join(map(str, epochs))} epochs (800 in the paper)."
    if any(row.method == "majority" for row in rows):
        yield "majority ignores the head; it stands under each for comparison."
    yield from class_remarks(rows)
    if undefined := sum(row.ari_pred is None for row in rows):
        yield f"ari_pred is undefined where the scored spots have one class: {undefined:,} rows."
    yield from solver_remarks(rows)


def class_remarks(rows: Iterable[FitRow]) -> Iterable[str]:
    """Name the classes that are scored though little or nothing of them was trained on."""
    rare: set[str] = set()
    absent: dict[str, set[str]] = {}
    for row in rows:
        rare |= _names(row.rare)
        absent.setdefault(row.split, set()).update(_names(row.absent))
    if rare:
        yield f"Too small to train on, but scored: {_NAMES.join(sorted(rare))}."
    for split, names in sorted(absent.items()):
        if names:
            yield (
                f"{split}: scored where no training spot has the class, so that no answer can be "
                f"right: {_NAMES.join(sorted(names))}."
            )


def solver_remarks(rows: Iterable[FitRow]) -> Iterable[str]:
    """Say in how many rows the solver of a head stopped at its limit."""
    if stopped := sum(row.converged is False for row in rows):
        yield f"The solver of the logistic head stopped at its limit in {stopped:,} rows."


def _names(listed: str | None) -> set[str]:
    return set(listed.split(_NAMES)) if listed else set()


def _averages(rows: Sequence[ResultRow]) -> Iterable[str]:
    """Say what the means of every split are over, and which methods lack a part of it."""
    seeds: dict[str, dict[str, set[int]]] = {}
    for row in rows:
        seeds.setdefault(row.split, {}).setdefault(row.head, set()).add(row.seed)
    units = find_units(rows)
    listed = [
        f"{split} over {_counted({head: len(of) for head, of in sorted(heads.items())}, unit)}"
        for split, heads in sorted(seeds.items())
        for unit in [units[split]]
    ]
    yield f"Mean and standard deviation, pooled over slices: {'; '.join(listed)}."
    missing = [
        f"{method}, {split}, {head}: {fits.n_fits} of {fits.n_expected}"
        for (method, split, head), fits in sorted(count_fits(rows).items())
        if not fits.is_complete
    ]
    if missing:
        yield (
            f"Incomplete, fits that are there of those that others have: {'; '.join(missing)}; "
            "such cells say so in brackets and are not comparable with the others."
        )


def _counted(by_head: Mapping[str, int], unit: str) -> str:
    """Return ``10 seeds``, or that number for each head where these differ."""
    heads: dict[int, list[str]] = {}
    for head, count in by_head.items():
        heads.setdefault(count, []).append(head)
    named = "" if unit == SEEDS else "held-out "
    shown = {n: f"{n} {named}{unit[:-1] if n == 1 else unit}" for n in heads}
    if len(heads) == 1:
        return next(iter(shown.values()))
    return ", ".join(f"{shown[n]} ({', '.join(of)})" for n, of in heads.items())


def seen_remarks(rows: Iterable[SplitRow]) -> Iterable[str]:
    """Say under which splits, or for which methods, test spots may have been seen in training."""
    splits: dict[str, list[SplitRow]] = {}
    for row in rows:
        splits.setdefault(row.split, []).append(row)
    whole = [
        split
        for split, mine in sorted(splits.items())
        if all(row.transductive and row.held_out is None for row in mine)
    ]
    if whole:
        yield (
            f"{', '.join(whole)}: transductive - features of test spots may have been seen "
            "in training (principal components always see them; an encoder does where it was "
            "trained on these slices); labels never are."
        )
    for split in sorted(set(splits) - set(whole)):
        yield from _seen_in(split, splits[split])


def _seen_in(split: str, rows: Iterable[SplitRow]) -> Iterable[str]:
    """Name the methods that have seen test spots of a split, and those of which it is not known."""
    seen: dict[str, list[str]] = {}
    unknown: list[str] = []
    for row in {row.method: row for row in rows}.values():
        told = told_exposure(row)
        reasons = [words for key, words in _SEEN.items() if key in (told or ())]
        if reasons or row.transductive:
            seen[row.method] = reasons or ["as the split says"]
        if told is None or UNKNOWN in told:
            unknown.append(row.method)
    if seen:
        listed = ", ".join(f"{name} ({', '.join(why)})" for name, why in sorted(seen.items()))
        yield (
            f"{split}: transductive for {listed} - features of test spots were seen in training; "
            "labels never are."
        )
    if unknown:
        yield (
            f"{split}: not known of {', '.join(sorted(unknown))} whether features of test spots "
            "were seen in training: nothing says here which slices it was trained on."
        )
