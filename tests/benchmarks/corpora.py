"""Corpora of this project out of slices on disk, made by its own commands; a rerun goes on."""

import csv
import io
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

COLUMNS = (
    "slice", "path", "donor", "section", "species", "tissue", "platform", "pitch_um", "label",
)  # fmt: skip


@dataclass(frozen=True)
class Origin:
    """Where sections come from."""

    species: str
    tissue: str
    platform: str
    pitch_um: float | None
    """Distance of spots, in micrometres: `block20` keeps 400 um between its sides."""
    donors: tuple[tuple[str, str], ...] = ()
    """Beginning of a file's name, and its donor."""
    options: tuple[str, ...] = ()
    """Of `stbuild compact`."""

    def donor(self, file: Path) -> str:
        """Return the donor of a section, or its own name where none is told."""
        return next((d for start, d in self.donors if file.stem.startswith(start)), file.stem)


def make_grids(
    work: Path, name: str, files: Sequence[Path], origin: Origin, *, label: bool
) -> Path:
    """Compact sections; grids that stand already are left as they are."""
    out = work / "grids" / name
    if not (out / "grids.json").exists():
        work.mkdir(parents=True, exist_ok=True)
        manifest = work / f"{name}.toml"
        (work / f"{name}.csv").write_text(_sheet(files, origin, label=label), "utf-8")
        manifest.write_text(f'name = "{name}"\nsamples = "{name}.csv"\n', "utf-8")
        command("stbuild", "compact", manifest, "-o", out, "-q", *origin.options)
    return out


def _sheet(files: Sequence[Path], origin: Origin, *, label: bool) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for file in files:
        writer.writerow((
            file.stem, file.resolve(), origin.donor(file), file.stem, origin.species,
            origin.tissue, origin.platform, origin.pitch_um or "", "label" if label else "",
        ))  # fmt: skip
    return text.getvalue()


def make_shards(grids: Path, out: Path, *options: object) -> Path:
    """Write shards; those that stand already are left as they are."""
    command("stbuild", "shard", grids, "-o", out, "-q", *options)
    return out


def command(module: str, *arguments: object) -> None:
    """Run a command of this project to its end."""
    line = [sys.executable, "-m", module, *map(str, arguments)]
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL)
