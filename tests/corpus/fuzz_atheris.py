"""Coverage-guided fuzzing of every decoder with atheris: ``pip install 'stcorpus[fuzz]'``.

``python -m tests.corpus.fuzz_atheris -runs=100000 FOLDER`` takes libFuzzer's flags; what reached
new code stays in FOLDER. The first byte of a case chooses the decoder, the rest is its input.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["stbuild.corpus", "stbuild.leakage.documents"]):
    from stbuild.corpus.errors import StError
    from tests.corpus.test_fuzz_corpora import targets

TARGETS = targets()
NAMES = sorted(TARGETS)


def one_case(data: bytes) -> None:
    """Feed one input to one decoder; anything but our errors ends the run."""
    if not data:
        return
    _, read = TARGETS[NAMES[data[0] % len(NAMES)]]
    try:
        read(data[1:])
    except StError:
        return


def write_seeds(folder: Path) -> None:
    """Write the undamaged inputs that fuzzing starts from."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(NAMES):
        for i, raw in enumerate(TARGETS[name][0]):
            (folder / f"seed-{name}-{i}").write_bytes(bytes([number]) + raw)


if __name__ == "__main__":
    write_seeds(Path(sys.argv[-1]))
    atheris.Setup(sys.argv, one_case)
    atheris.Fuzz()
