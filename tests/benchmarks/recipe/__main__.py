"""``python -m tests.benchmarks.recipe``: which lever of the recipe is worth what.

``run DATA WORK`` trains and judges what is missing (DATA holds the folder of the arms' sections; a
rerun goes on) and keeps every score in ``benchmarks/recipe.parquet``. ``report`` writes
``benchmarks/recipe.md`` and its pictures from that file alone.
"""

import argparse
import os
import sys
from pathlib import Path

import torch

from tests.benchmarks.measure import ROOT
from tests.benchmarks.recipe.data import Side, make_side
from tests.benchmarks.recipe.plan import FOR_THE_BASE, INFERENCES, Arm, Plan, read_plan
from tests.benchmarks.recipe.rows import RowStore
from tests.benchmarks.recipe.trial import judge_controls, judge_run, train

RESULTS = ROOT / "benchmarks" / "recipe.parquet"
CHOOSE, CONFIRM = ("A", "B", "C"), ("D", "E", "F")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - progress of a script


def run(options: argparse.Namespace) -> None:
    """Do what is missing."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    plan, store = read_plan(), RowStore(options.results)
    tested = CONFIRM if options.confirm else CHOOSE
    side = make_side(options.data, options.work, plan.data, tested)
    if not store.has(tested, "pca10", 0):
        say("controls")
        store.add(tested, "controls", 0, list(judge_controls(side, mlp=options.mlp)))
    arms = [arm for arm in plan.arms if not options.arms or arm.name in options.arms]
    for seed in range(options.seeds):
        for arm in arms:
            _run_arm(plan, side, options.work, store, arm, seed, mlp=options.mlp)


def _run_arm(
    plan: Plan, side: Side, work: Path, store: RowStore, arm: Arm, seed: int, *, mlp: bool
) -> None:
    if store.has(side.tested, arm.name, seed):
        return
    say(f"{arm.name}, seed {seed}")
    trained = train(side, work, arm.name, plan.recipe(arm, seed))
    inferences = {**INFERENCES, **(FOR_THE_BASE if arm.name == "base" else {})}
    # The untrained ones first: rows of the arm itself say that all is done.
    for untrained in (True, False) if arm.untrained else (False,):
        name = f"{arm.name}-untrained" if untrained else arm.name
        scores, share = judge_run(side, trained.run, inferences, untrained=untrained, mlp=mlp)
        store.add(
            side.tested, name, seed, [(name, score) for score in scores],
            explained=share, targets=trained.targets, loss=trained.loss,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    doing = commands.add_parser("run")
    doing.add_argument("data", type=Path)
    doing.add_argument("work", type=Path)
    doing.add_argument("--seeds", type=int, default=3)
    doing.add_argument("--arms", nargs="*", default=[])
    doing.add_argument("--confirm", action="store_true", help="judge on the donors kept back")
    doing.add_argument("--mlp", action="store_true", help="the paper's network, too")
    doing.add_argument("--results", type=Path, default=RESULTS)
    telling = commands.add_parser("report")
    telling.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.command == "run":
        run(options)
    else:
        from tests.benchmarks.recipe.report import write_report

        write_report(options.results, ROOT / "benchmarks")


if __name__ == "__main__":
    main()
