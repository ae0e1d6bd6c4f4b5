"""``show``: facts and pictures of one grid or one sample, for people."""

from pathlib import Path
from typing import Any, Final

from stbuild.corpus.documents import Kind, ShardConfig
from stbuild.corpus.errors import BadInputError, Problem
from stbuild.corpus.reader import Corpus, open_corpus
from stbuild.corpus.samples import decode_patch, decode_whole
from stbuild.corpus.tar import unpack_sample
from stbuild.grid.store import read_grid, read_meta
from stbuild.show.figures import draw_patch, draw_slice, save_figure


def describe_grid(path: Path) -> dict[str, Any]:
    """Return the attributes of a grid."""
    return read_meta(path).model_dump(mode="json")


def show_grid(path: Path, picture: Path, config: ShardConfig) -> dict[str, Any]:
    """Draw a grid as the paper's Figure 2 and return where the picture is."""
    grid = read_grid(path)
    save_figure(draw_slice(grid, config), picture)
    return {"picture": str(picture), "slice": grid.meta.name, "layout": grid.meta.layout}


def show_sample(root: Path, key: str, picture: Path | None) -> dict[str, Any]:
    """Return the facts of one sample of a corpus, and draw it where a picture is asked for.

    Raises
    ------
    BadInputError
        The corpus has no such sample, or a whole slice is to be drawn.
    IntegrityError
        The sample is damaged.
    """
    corpus = open_corpus(root)
    kind, raw, where = _find(corpus, key)
    _, members = unpack_sample(raw, where)
    if kind == "slice":
        if picture is not None:
            fix = "draw its grid: stbuild show grids/SLICE.zarr -o PICTURE"
            raise BadInputError(_problem(str(root), key, "a whole slice, and no patch", fix))
        whole = decode_whole(members, where)
        return whole.meta.model_dump(mode="json") | {"counts": int(whole.data.sum())}
    patch = decode_patch(members, where)
    facts = patch.meta.model_dump(mode="json") | {
        "counts": int(patch.counts.sum()),
        "zeros": round(float((patch.counts[:, patch.totals > 0] == 0).mean()), 3),
        "genes": [corpus.genes[i] for i in patch.genes[: patch.meta.n_genes][:8]],
        "bytes": len(raw),
    }
    if picture is not None:
        save_figure(draw_patch(patch, corpus.genes), picture)
        facts["picture"] = str(picture)
    return facts


def _find(corpus: Corpus, key: str) -> tuple[Kind, bytes, str]:
    for split, kind in sorted({(shard.split, shard.kind) for shard in corpus.document.shards}):
        index = corpus.index(split, kind)
        if key not in index.keys:
            continue
        i = list(index.keys).index(key)
        shard = corpus.document.shards_of(split, kind)[int(index.shard[i])]
        raw = corpus.read_sample(shard, index, i)
        return kind, raw, f"{shard.path}:{key}"
    raise BadInputError(_problem(str(corpus.root), key, "the corpus has no sample of this key"))


_KEYS: Final = "keys stand in the column `key` of index/*.parquet; `stbuild verify` finds damage"


def _problem(where: str, key: str, what: str, fix: str = _KEYS) -> Problem:
    return Problem(code="L24", subject=f"sample '{key}'", where=where, what=what, fix=fix)
