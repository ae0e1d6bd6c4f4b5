"""``benchmarks/speed.md`` put together: prose from a template, tables from the files of the parts.

People write ``benchmarks/speed/template.md``; ``<!-- part: NAME -->`` stands where the tables of a
part go. A run writes ``benchmarks/speed/NAME.md`` and puts the document together anew, so that
parts may be measured on different days and prose survives them all.
"""

import re
from pathlib import Path

from tests.benchmarks.measure import ROOT

FOLDER = ROOT / "benchmarks" / "speed"
DOCUMENT = ROOT / "benchmarks" / "speed.md"
TEMPLATE = "template.md"
_PLACE = re.compile(r"^<!-- part: ([a-z-]+) -->$", re.MULTILINE)


def places(template: str) -> list[str]:
    """Return the parts that a template has a place for, in its order."""
    return _PLACE.findall(template)


def assemble(folder: Path = FOLDER) -> str:
    """Return the document.

    Parameters
    ----------
    folder
        Where the template and the parts are.
    """

    def fill(found: re.Match[str]) -> str:
        path = folder / f"{found[1]}.md"
        if path.is_file():
            return path.read_text(encoding="utf-8").strip()
        return f"Not measured yet: `python -m tests.benchmarks {found[1]}`."

    return _PLACE.sub(fill, (folder / TEMPLATE).read_text(encoding="utf-8"))


def write_part(name: str, lines: list[str], folder: Path = FOLDER) -> None:
    """Write the tables of a part.

    Raises
    ------
    ValueError
        The template has no place for them.
    """
    if name not in places((folder / TEMPLATE).read_text(encoding="utf-8")):
        msg = f"{TEMPLATE} has no line '<!-- part: {name} -->'; add it where the tables should go"
        raise ValueError(msg)
    (folder / f"{name}.md").write_text("\n".join(lines).strip() + "\n", encoding="utf-8")
