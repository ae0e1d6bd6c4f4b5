"""The sections of an experiment: who is trained on, who is judged, as corpora of this project."""

import csv
import io
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.recipe.plan import DataPlan

COLUMNS = (
    "slice",
    "path",
    "donor",
    "section",
    "species",
    "tissue",
    "platform",
    "pitch_um",
    "label",
)


PITCH_UM = 200
"""Distance of spots of these arrays: `block20` keeps 400 um between the sides."""


@dataclass(frozen=True)
class Side:
    """Corpora of one side: encoders are trained on some donors and judged on the others."""

    tested: tuple[str, ...]
    """Donors that no encoder has seen."""
    train: Path
    """Training corpus: all sections of the other donors."""
    seen: Path
    """Evaluation corpus of the labelled sections of all donors, for splits by donor."""
    own: Path
    """The same of the tested donors alone, for splits within them."""


def make_side(data: Path, work: Path, plan: DataPlan, tested: Sequence[str]) -> Side:
    """Build the corpora of one side; what stands already is left as it is."""
    work.mkdir(parents=True, exist_ok=True)
    name = "".join(tested)
    files = sorted((data / plan.folder).glob("*.h5ad"))
    labelled = [file for file in files if file.stem[1:] == "1"]
    rest = [file for file in files if file.stem[0] not in tested]
    train = _shards(
        _grids(work, f"not-{name}", rest, label=False), work / "corpora" / f"not-{name}",
        "--genes", plan.genes, "--n-per-slice", plan.n_per_slice, "--whole-slices",
    )  # fmt: skip
    cover = ("--cover", plan.cover, "--draws", plan.draws, "--genes", plan.eval_genes)
    known = ("--vocabulary", train)
    mine = [file for file in labelled if file.stem[0] in tested]
    seen = _grids(work, "labelled", labelled, label=True)
    own = _grids(work, name, mine, label=True)
    return Side(
        tested=tuple(tested),
        train=train,
        seen=_shards(seen, work / "corpora" / f"seen-{name}", *cover, *known),
        own=_shards(own, work / "corpora" / f"own-{name}", *cover, *known),
    )


def _grids(work: Path, name: str, files: Sequence[Path], *, label: bool) -> Path:
    out = work / "grids" / name
    if not (out / "grids.json").exists():
        sheet = work / f"{name}.csv"
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for file in files:
            row = (
                file.stem,
                file,
                file.stem[0],
                file.stem,
                "Homo sapiens",
                "breast",
                "ST",
                PITCH_UM,
            )
            writer.writerow((*row, "label" if label else ""))
        sheet.write_text(text.getvalue(), "utf-8")
        manifest = work / f"{name}.toml"
        manifest.write_text(f'name = "{name}"\nsamples = "{sheet.name}"\n', "utf-8")
        _run("stbuild", "compact", manifest, "-o", out, "-q")
    return out


def _shards(grids: Path, out: Path, *options: object) -> Path:
    _run("stbuild", "shard", grids, "-o", out, "-q", *options)
    return out


def _run(module: str, *arguments: object) -> None:
    """Run a command of this project to its end."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
