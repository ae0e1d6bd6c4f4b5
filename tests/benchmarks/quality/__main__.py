"""``python -m tests.benchmarks.quality``: what pretraining is worth, by the suite `honest`.

``run DATA WORK`` builds corpora, trains an encoder for each objective and judges them (a rerun
goes on); it keeps the rows in ``benchmarks/quality.parquet`` and the losses in
``benchmarks/quality-losses.csv``. ``report`` writes ``benchmarks/quality.md`` from these alone.
"""

import argparse
import os
import sys
from pathlib import Path

from tests.benchmarks.measure import ROOT
from tests.benchmarks.quality.plan import read_plan
from tests.benchmarks.quality.rows import keep_losses, keep_rows
from tests.benchmarks.quality.windows import TABLES, judge_table, train_variants
from tests.benchmarks.quality.work import judge, train


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - progress of a script


def run(options: argparse.Namespace) -> None:
    """Do what is missing."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for plan in read_plan():
        if options.only and plan.name not in options.only:
            continue
        if "train" in options.steps:
            say(f"{plan.name}: training")
            train(options.data, options.work, plan)
            keep_losses(options.results, options.work, plan)
        for judged in plan.judged if "judge" in options.steps else ():
            say(f"{judged.name}: judging")
            keep_rows(options.results, judged.name, judge(options.data, options.work, plan, judged))
        if plan.variants and "variants" in options.steps:
            say(f"{plan.name}: windows and genes")
            train_variants(options.data, options.work, plan)
            for table in TABLES:
                keep_rows(options.results, table, judge_table(options.work, table))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    doing = commands.add_parser("run")
    doing.add_argument("data", type=Path)
    doing.add_argument("work", type=Path)
    doing.add_argument("--only", nargs="*", default=[], metavar="SET")
    doing.add_argument("--steps", nargs="*", default=["train", "judge", "variants"])
    telling = commands.add_parser("report")
    for each in (doing, telling):
        each.add_argument("--results", type=Path, default=ROOT / "benchmarks")
    options = parser.parse_args()
    if options.command == "run":
        run(options)
    else:
        from tests.benchmarks.quality.report import write_report

        write_report(options.results)


if __name__ == "__main__":
    main()
