"""Manifests with sources, for tests of `stbuild fetch`."""

import csv
import hashlib
from pathlib import Path
from typing import Any

from stbuild.fetch.run import FetchReport, fetch_manifest
from stbuild.fetch.transport import Options

PATIENCE = Options(attempts=4, wait=0.01, longest_wait=0.05, stall=1.0)
"""As patient as a test can be."""


def digest(body: bytes) -> str:
    """Return the SHA-256 of some bytes."""
    return hashlib.sha256(body).hexdigest()


def write_sheet(folder: Path, *rows: dict[str, Any], name: str = "some") -> Path:
    """Write a manifest with these rows and return its path; `slice` and `path` have defaults."""
    folder.mkdir(parents=True, exist_ok=True)
    full = [{"slice": f"s{i}", "path": f"data/s{i}.bin", **row} for i, row in enumerate(rows)]
    columns = list(dict.fromkeys(key for row in full for key in row)) or ["slice", "path"]
    with (folder / f"{name}.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(full)
    manifest = folder / f"{name}.toml"
    manifest.write_text(f'name = "{name}"\nsamples = "{name}.csv"\n')
    return manifest


def fetch(manifest: Path, **more: Any) -> FetchReport:
    """Fetch a manifest with little patience and one download at a time."""
    return fetch_manifest(manifest, **{"options": PATIENCE, "jobs": 1, **more})


def left(folder: Path) -> list[str]:
    """Return all files below a folder, without locks."""
    paths = (path for path in sorted(folder.rglob("*")) if not path.is_dir())
    return [str(path.relative_to(folder)) for path in paths if path.suffix != ".lock"]
