"""``python -m tests.benchmarks [PART|GROUP ...]``: measure, and write ``benchmarks/speed.md``.

Without a name all parts but the peers are measured, one after the other; ``--peers ENV`` adds
these, in an environment of their own. Each part writes ``benchmarks/speed/PART.md``; the document
is put together from them and ``benchmarks/speed/template.md`` after every part.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.measure import ROOT
from tests.benchmarks.parts import PARTS, add_options, choose
from tests.benchmarks.report import DOCUMENT, assemble


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201 - progress of a script


def measure(names: list[str], options: list[str], work: Path) -> list[str]:
    """Measure parts, each in a process of its own, and return those that failed."""
    failed = []
    for name in names:
        say(f"{name}: {PARTS[name].what}")
        command = [sys.executable, "-m", "tests.benchmarks.parts", name, str(work), *options]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            failed.append(name)
        DOCUMENT.write_text(assemble(), encoding="utf-8")
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS) + ", stbuild, sttrain, peers")
    parser.add_argument("--text", action="store_true", help="measure nothing; write the document")
    parser.add_argument("--work", type=Path, help="scratch folder to keep, with its corpora")
    add_options(parser)
    options = parser.parse_args()
    if options.text:
        DOCUMENT.write_text(assemble(), encoding="utf-8")
        return
    everything = ["stbuild", "sttrain", "peers"] if options.peers is not None else []
    try:
        names = choose(options.parts or everything)
    except ValueError as error:
        parser.error(str(error))
    if "peers" in names and options.peers is None:
        options.peers = ROOT / ".venv-peers"
    given = [f"--repeats={options.repeats}", f"--most={options.most}"]
    for name in ("corpus", "peers"):
        if (path := getattr(options, name)) is not None:
            given += [f"--{name}={path}"]
    with tempfile.TemporaryDirectory(prefix="stcorpus-bench-") as folder:
        work = (options.work or Path(folder)).resolve()  # parts run in the folder of the project
        work.mkdir(parents=True, exist_ok=True)
        failed = measure(names, given, work)
    if failed:
        sys.exit(f"these parts failed, and keep their earlier tables: {', '.join(failed)}")


if __name__ == "__main__":
    main()
