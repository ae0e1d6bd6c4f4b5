"""CPU time of functions, in turns, and how spreads are written."""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median


def take_turns(ways: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Return the CPU seconds of every way in every round; a round goes through all of them.

    Each runs once before: imports, caches and first touches of memory are not measured.
    """
    for way in ways.values():
        way()
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.process_time()
            way()
            found[name].append(time.process_time() - start)
    return found


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Return the median, least and most of some numbers."""
    low, middle, high = (f"{f(values):.{digits}f}" for f in (min, median, max))
    return f"**{middle}** ({low} to {high})"


def times_as_fast(own: Sequence[float], base: Sequence[float], digits: int = 2) -> str:
    """Return how many times as fast as a base, turn by turn: median, least and most."""
    return spread([b / o for o, b in zip(own, base, strict=True)], digits)
