"""Releases to be pushed, made by hand: what `stbuild publish` writes, as small as it gets."""

import hashlib
import json
from pathlib import Path

from stbuild.corpus.digests import sha256_bytes
from stbuild.corpus.documents import FileEntry
from stbuild.corpus.release import LicenceEntry, ReleaseDocument


def write_release(root: Path, seed: int = 0, *, shards: int = 2, authors: bool = True) -> Path:
    """Write a finished release; two seeds differ in some of their files."""
    extra = {
        "README.md": f"---\nlicense: mit\n---\n# Toy {seed}\n".encode(),
        "LICENSES/MIT.txt": b"MIT\n",
        "croissant.json": json.dumps(
            {"name": f"Toy {seed}", "description": "a <b> & c", "version": "1.0.0",
             "creator": [{"@type": "sc:Person", "name": "A. Lab"}] if authors else []}
        ).encode(),
        "genes.parquet": b"PAR1 the same in every seed PAR1",
        "splits/paper20@1.json": b'{"task": "paper20"}\n',
    }  # fmt: skip
    for number in range(shards):
        # The first shard is one of all seeds; the second is large enough to come in parts.
        start = b"same" if number == 0 else b"%d/%d" % (seed, number)
        block = hashlib.sha256(start).digest()
        extra[f"data/train/toy-train-{number:05d}.tar"] = block * (32 if number != 1 else 3200)
    contents = dict(extra)
    contents["corpus.json"] = json.dumps({"toy": seed}).encode()
    release = ReleaseDocument(
        corpus_id=sha256_bytes(b"%d" % seed),
        of_corpus=sha256_bytes(b"%d" % seed),
        left_out=(),
        licences=(LicenceEntry(name="mit", spdx="MIT", slices=("a",), stated=False),),
        options=sha256_bytes(b""),
        files=tuple(
            FileEntry(path=path, bytes=len(raw), sha256=sha256_bytes(raw))
            for path, raw in sorted(extra.items())
        ),
    )
    contents["release.json"] = release.to_bytes()
    for path, raw in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(raw)
    write_sums(root)
    return root


def write_sums(root: Path) -> None:
    """Write ``SHA256SUMS`` of all that stands in a folder."""
    found = sorted(p for p in root.rglob("*") if p.is_file() and p.name != "SHA256SUMS")
    lines = [f"{sha256_bytes(p.read_bytes())}  {p.relative_to(root).as_posix()}\n" for p in found]
    (root / "SHA256SUMS").write_text("".join(lines))


def contents_of(root: Path) -> dict[str, bytes]:
    """Return every file of a release."""
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}
