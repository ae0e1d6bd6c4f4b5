"""The files of a release: their bytes, and a folder that holds all of them or is no release.

Nothing that stands in the folder is overwritten, neither another release nor a card that somebody
edited nor anything else.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from stbuild.corpus.digests import sha256_bytes, sha256_file
from stbuild.corpus.durable import PARTIAL, guard_disk, remove_dead, write_durable
from stbuild.corpus.outputs import refuse_foreign
from sttrain.errors import BadInputError, ConflictError, Problem
from sttrain.release.card import render_card
from sttrain.release.document import CARD, CONFIG, FILES, GENES, SUMS, WEIGHTS, ReleaseDocument


def encode_genes(genes: Iterable[str]) -> bytes:
    """Return ``genes.txt``.

    Raises
    ------
    BadInputError
        Ids that stand twice, or that are no lines of text.
    """
    listed = list(genes)
    bad = [gene for gene in listed if not gene or "\n" in gene]
    if bad or len(set(listed)) != len(listed):
        what = (
            f"{len(bad)} gene ids are no lines of text, {len(listed) - len(set(listed))} repeated"
        )
        fix = "build the training corpus again; its vocabulary is damaged"
        raise BadInputError(Problem(code="V22", subject="gene vocabulary", what=what, fix=fix))
    return "".join(f"{gene}\n" for gene in listed).encode()


def encode_release(document: ReleaseDocument, weights: bytes, genes: bytes) -> dict[str, bytes]:
    """Return the files of a release by name, in the order in which they are to be written."""
    files = {
        WEIGHTS: weights,
        GENES: genes,
        CARD: render_card(document).encode(),
        CONFIG: document.to_bytes(),
    }
    sums = "".join(f"{sha256_bytes(files[name])}  {name}\n" for name in sorted(files))
    files[SUMS] = sums.encode()
    return {name: files[name] for name in FILES}


def write_files(output: Path, files: Mapping[str, bytes]) -> bool:
    """Write the files of a release unless they stand there; return whether anything was written.

    Raises
    ------
    ConflictError
        The folder holds something else.
    """
    refuse_foreign(
        output, "release", mark=_is_release, leftover=_is_ours, code="T03", thing="release"
    )
    different = [name for name, raw in files.items() if not _holds(output / name, raw)]
    if not different:
        return False
    if (output / CONFIG).exists():
        what = f"it holds a release whose {', '.join(different)} would become another"
        fix = "give another folder with -o; a release that was given away should stay as it is"
        raise _conflict(output, what, fix)
    for name in files:
        remove_dead(output, name)
    for name in different:
        write_durable(output / name, files[name])
    return True


def _holds(path: Path, raw: bytes) -> bool:
    if path.is_symlink() or not path.is_file() or path.stat().st_size != len(raw):
        return False
    return guard_disk(path, lambda: sha256_file(path)) == sha256_bytes(raw)


def _is_release(path: Path) -> bool:
    return path.name == CONFIG and path.is_file()


def _is_ours(path: Path) -> bool:
    """Return whether a file is part of a release; a clone's ``.git`` is let be."""
    return path.name in {*FILES, ".git", ".gitattributes"} or PARTIAL in path.name


def _conflict(path: Path, what: str, fix: str) -> ConflictError:
    return ConflictError(
        Problem(code="T03", subject=f"release '{path.name}'", where=str(path), what=what, fix=fix)
    )
