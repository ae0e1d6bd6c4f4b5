"""What can be judged, and the suites there are, as people read it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sttrain.adapters.published import METHODS as PUBLISHED
from sttrain.bench.suite import known_suites
from sttrain.judge.methods import families


def listing(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Return every kind of methods and every suite of a folder as JSON values.

    Raises
    ------
    StError
        The problems of bad suites.
    """
    controls = [
        {"method": f.grammar, "what": f.what, "examples": list(f.examples)} for f in families()
    ]
    published = [
        {
            "method": method.name,
            "what": method.summary,
            "needs": list(method.needs),
            "licence": method.licence,
        }
        for method in PUBLISHED.values()
    ]
    suites = [
        {
            "suite": suite.name,
            "what": suite.title,
            "data": [entry.name for entry in suite.data],
            "checkpoints": [checkpoint.name for checkpoint in suite.checkpoints],
        }
        for suite in known_suites(folder)
    ]
    return {"controls": controls, "published": published, "suites": suites}


def listing_lines(found: dict[str, list[dict[str, Any]]], folder: Path) -> Iterator[str]:
    """Yield the same, a line each."""
    yield "controls (suite: methods)"
    for entry in found["controls"]:
        yield f"  {entry['method']}: {entry['what']}; such as {', '.join(entry['examples'])}"
    yield "published models (suite: published)"
    for entry in found["published"]:
        needs = f"; needs {', '.join(entry['needs'])}" if entry["needs"] else ""
        yield f"  {entry['method']}: {entry['what']}{needs}; {entry['licence']}"
    yield "vectors of any other model (suite: embeddings): --embedding NAME=FILE"
    yield "checkpoints (suite: checkpoints): --checkpoint NAME=RUN"
    yield f"suites in {folder}" if found["suites"] else f"no suite in {folder}: give --suites DIR"
    for entry in found["suites"]:
        yield f"  {entry['suite']}: {entry['what']}"
        asked = [f"--data {name}=" for name in entry["data"]]
        asked += [f"--checkpoint {name}=" for name in entry["checkpoints"]]
        yield f"    {' '.join(asked)}"
