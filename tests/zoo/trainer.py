"""Bad files that the trainer's commands must refuse by name: vectors, predictions, recipes, suites.

Everything is made from the archived evaluation corpus and plain arithmetic: the same bytes in
every run, up to versions of the libraries that write them.
"""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from stbuild.corpus.reader import Corpus, open_corpus
from stbuild.corpus.samples import decode_whole
from stbuild.corpus.split_documents import SplitDocument
from stbuild.corpus.tar import unpack_sample
from tests.zoo.make_zoo import put_array, put_frame

ARCHIVE = Path(__file__).parents[1] / "archive" / "v1"
EVALUATION, TRAINING = ARCHIVE / "eval", ARCHIVE / "train"
RECIPE = (Path(__file__).parents[2] / "manifests" / "runs" / "tiny.toml").read_text()
SPLIT = "paper20@1"
JUDGE = ("--split", SPLIT, "--head", "knn", "--seeds", "1", "-o", "{out}")


@dataclass(frozen=True)
class Spots:
    """All spots of the evaluation corpus, and which a split judges."""

    slices: tuple[str, ...]
    barcodes: tuple[str, ...]
    judged: tuple[tuple[str, str, int], ...]
    """(slice, barcode, seed)."""

    @property
    def vectors(self) -> NDArray[np.float32]:
        """(N, 6) good vectors."""
        n = len(self.slices)
        return (np.arange(n * 6).reshape(n, 6) * 7 % 11).astype("<f4")


def read_spots() -> Spots:
    """Read whose spots there are."""
    corpus = open_corpus(EVALUATION)
    splits = corpus.document.splits("slice")
    of = dict(pair for split in splits for pair in _wholes(corpus, split))
    said = SplitDocument.model_validate_json((EVALUATION / f"splits/{SPLIT}.json").read_bytes())
    judged = [
        (slug, barcode, fold.seed)
        for fold in said.assignments
        for slug, codes in sorted(fold.slices.items())
        for barcode, code in zip(of[slug], codes, strict=True)
        if code == "E"
    ]
    pairs = [(slug, barcode) for slug in sorted(of) for barcode in of[slug]]
    return Spots(
        slices=tuple(slug for slug, _ in pairs),
        barcodes=tuple(barcode for _, barcode in pairs),
        judged=tuple(judged),
    )


def _wholes(corpus: Corpus, split: str) -> list[tuple[str, list[str]]]:
    index, shards = corpus.index(split, "slice"), corpus.document.shards_of(split, "slice")
    found = []
    for i in range(len(index)):
        raw = corpus.read_sample(shards[int(index.shard[i])], index, i)
        whole = decode_whole(unpack_sample(raw, "x")[1], "x")
        names = [b.decode() if isinstance(b, bytes) else str(b) for b in whole.barcodes]
        found.append((whole.meta.slice, names))
    return found


@dataclass(frozen=True)
class Case:
    """One file, and what one command must say about it."""

    name: str
    code: str
    """Of the message."""
    match: str
    make: Callable[[Path, Spots], object]
    command: tuple[str, ...]
    """Words of the command; ``{file}`` and ``{out}`` are put in."""
    suffix: str = ""
    exit_code: int = 3


def table(**changes: Any) -> Callable[[Path, Spots], object]:
    """Write vectors as Parquet, some columns changed (by a function of them all) or left out."""

    def make(path: Path, spots: Spots) -> None:
        columns: dict[str, Any] = {"slice": spots.slices, "barcode": spots.barcodes}
        columns |= {f"e{d}": spots.vectors[:, d] for d in range(6)}
        for name, change in changes.items():
            value = change(columns) if callable(change) else change
            columns = {k: v for k, v in columns.items() if k != name}
            if value is not None:
                columns[name] = value
        pq.write_table(pa.table(columns), path)

    return make


def twin_columns(path: Path, spots: Spots) -> None:
    values = [pa.array(spots.slices), pa.array(spots.barcodes), pa.array(spots.vectors[:, 0])]
    pq.write_table(pa.table([*values, values[2]], names=["slice", "barcode", "e0", "e0"]), path)


def array(
    change: Callable[[NDArray[Any]], NDArray[Any]],
    listed: Callable[[list[str]], list[str]] = lambda lines: lines,
) -> Callable[[Path, Spots], object]:
    """Write vectors as ``.npy`` with barcodes beside them, either of them changed."""

    def make(path: Path, spots: Spots) -> None:
        np.save(path, change(spots.vectors), allow_pickle=True)
        lines = [f"{s}\t{b}" for s, b in zip(spots.slices, spots.barcodes, strict=True)]
        beside = path.with_name(f"{path.stem}.barcodes.txt")
        beside.write_text("\n".join(listed(lines)) + "\n", "utf-8")

    return make


def hdf5(change: Callable[[h5py.File], object]) -> Callable[[Path, Spots], object]:
    """Write vectors as ``.h5ad``, then change the file."""

    def make(path: Path, spots: Spots) -> None:
        with h5py.File(path, "w") as file:
            file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
            names = [f"{s}:{b}" for s, b in zip(spots.slices, spots.barcodes, strict=True)]
            columns = {"slice": np.array(spots.slices), "barcode": np.array(spots.barcodes)}
            put_frame(file, "obs", names, columns)
            put_array(file.create_group("obsm"), "X_sttrain", spots.vectors)
            change(file)

    return make


def instead(name: str, value: Any) -> Callable[[h5py.File], object]:
    """Put something else at a place; nothing where the value is None."""

    def change(file: h5py.File) -> None:
        del file[name]
        if value is not None:
            file[name] = value

    return change


def bomb(file: h5py.File) -> None:
    del file["obsm/X_sttrain"]
    file.create_dataset("obsm/X_sttrain", (10**6, 10**6), "<f4", chunks=(1000, 1000))


def text(content: str | bytes) -> Callable[[Path, Spots], object]:
    raw = content if isinstance(content, bytes) else content.encode()
    return lambda path, _spots: path.write_bytes(raw)


def folder(path: Path, _spots: Spots) -> None:
    path.mkdir()


Rows = list[list[Any]]


def predictions(change: Callable[[Rows], Rows]) -> Callable[[Path, Spots], object]:
    """Write a CSV of predictions, its rows changed; the first is the header."""

    def make(path: Path, spots: Spots) -> None:
        rows: Rows = [["slice", "barcode", "split", "seed", "predicted"]]
        rows += [[s, b, SPLIT, seed, "inner"] for s, b, seed in spots.judged]
        out = io.StringIO(newline="")
        csv.writer(out).writerows(change(rows))
        path.write_text(out.getvalue(), "utf-8")

    return make


def column(number: int, value: object) -> Callable[[Rows], Rows]:
    """Fill one column with one value."""
    return lambda rows: [
        rows[0],
        *([*row[:number], value, *row[number + 1 :]] for row in rows[1:]),
    ]


def recipe(old: str, new: str) -> Callable[[Path, Spots], object]:
    """Write the small recipe with one line changed."""
    assert RECIPE.count(old) >= 1, old
    return text(RECIPE.replace(old, new, 1))


PROBE = ("probe", str(EVALUATION), "--embedding", "x={file}", *JUDGE)
SCORE = ("bench", "score", "{file}", str(EVALUATION), "-o", "{out}")
FIT = ("fit", str(TRAINING), "-c", "{file}", "-o", "{out}", "--dry-run")
SUITE = ("bench", "run", "{file}", "-o", "{out}")


def _cases(
    command: Sequence[str], suffix: str, *rows: tuple[Any, ...], exit_code: int = 3
) -> list[Case]:
    return [
        Case(name, code, match, make, tuple(command), suffix, *(more or (exit_code,)))
        for name, code, match, make, *more in rows
    ]


CASES = [
    *_cases(
        PROBE, ".npy",
        ("vectors_of_integers", "V04", "dtype <i4", array(lambda v: v.astype("<i4"))),
        ("vectors_pickled", "V04", "header", array(lambda v: v.astype(object))),
        ("vectors_by_column", "V04", "Fortran", array(np.asfortranarray)),
        ("vectors_big_endian", "V04", "dtype >f4", array(lambda v: v.astype(">f4"))),
        ("vectors_complex", "V04", "dtype <c8", array(lambda v: v.astype("<c8"))),
        ("vectors_of_one_side", "V04", "2 dimensions", array(lambda v: v[:, 0].copy())),
        ("vectors_of_no_value", "V02", "no value", array(lambda v: v[:, :0].copy())),
        ("vectors_sideways", "V04", "6 vectors", array(lambda v: v.T.copy())),
        ("vectors_nan", "V02", "1 vectors are not finite", array(
            lambda v: np.where((np.arange(len(v)) == 3)[:, None], np.nan, v).astype("<f4"))),
        ("vectors_beyond_float32", "V02", "not finite in float32", array(
            lambda v: v.astype("<f8") * 1e300)),
        ("barcode_twice", "V01", "more than once", array(
            lambda v: v, lambda lines: [lines[0], *lines[:-1]])),
        ("barcodes_missing", "V01", "3 of 84 barcodes are missing", array(
            lambda v: v[:-3].copy(), lambda lines: lines[:-3])),
        ("barcode_unknown", "V01", "unknown", array(
            lambda v: np.concatenate([v, v[:1]]), lambda lines: [*lines, "slice-0\tghost"])),
        ("barcodes_with_an_empty_line", "V04", "empty or unlike", array(
            lambda v: v, lambda lines: ["", *lines[1:]])),
        ("vectors_without_barcodes", "V04", "there is no", text(b"\x93NUMPY")),
    ),
    *_cases(
        PROBE, ".parquet",
        ("table_of_text", "V04", "unreadable", text("PAR1 and nothing else")),
        ("table_is_a_folder", "V04", "no such file", folder),
        ("table_without_slices", "V01", "no vector", table(slice=None)),
        ("table_without_barcodes", "V04", "expected slice, barcode", table(barcode=None)),
        ("table_with_a_gap", "V04", "without a gap", table(e3=None)),
        ("table_from_one_on", "V04", "without a gap", table(e0=None)),
        ("table_of_words", "V04", "floating-point", table(e0=lambda c: ["x"] * len(c["slice"]))),
        ("table_of_nothing", "V02", "not finite", table(
            e0=lambda c: pa.nulls(len(c["slice"]), pa.float32()))),
        ("table_with_twin_columns", "V04", "column 'e0' stands 2 times", twin_columns),
    ),
    *_cases(
        PROBE, ".h5ad",
        ("file_truncated", "V04", "unreadable", text(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)),
        ("file_without_obs", "V04", "unreadable", hdf5(instead("obs", None))),
        ("file_obs_is_an_array", "V04", "", hdf5(instead("obs", np.zeros(3)))),
        ("file_without_obsm", "V04", "unreadable", hdf5(instead("obsm", None))),
        ("file_obsm_is_an_array", "V04", "", hdf5(instead("obsm", np.zeros(3)))),
        ("file_vectors_of_integers", "V04", "floating-point", hdf5(
            instead("obsm/X_sttrain", np.zeros((3, 2), "<i4")))),
        ("file_vectors_null", "V04", "", hdf5(instead("obsm/X_sttrain", h5py.Empty("<f4")))),
        ("file_vectors_elsewhere", "V04", "is a link", hdf5(
            instead("obsm/X_sttrain", h5py.ExternalLink("other.h5", "x")))),
        ("file_bomb", "V04", "4,000,000,000,000 bytes", hdf5(bomb)),
        ("file_encoding_unknown", "V04", "unreadable", hdf5(
            lambda f: f["obs/barcode"].attrs.__setitem__("encoding-type", "later"))),
        ("file_frame_unknown", "V04", "unreadable", hdf5(
            lambda f: f["obs"].attrs.__setitem__("encoding-type", "later"))),
    ),
    *_cases(PROBE, ".pt", ("vectors_as_a_program", "V13", "not '.pt'", text("x")), exit_code=2),
    *_cases(
        SCORE, ".csv",
        ("rows_missing", "V01", "", predictions(lambda rows: rows[:-3])),
        ("row_twice", "V01", "", predictions(lambda rows: [*rows, rows[1]])),
        ("no_rows", "V04", "no rows", predictions(lambda rows: rows[:1])),
        ("empty_file", "V04", "columns missing", text("")),
        ("not_utf8", "V20", "unreadable", text(bytes(range(128, 256)))),
        ("column_missing", "V04", "columns missing: predicted", predictions(
            lambda rows: [row[:-1] for row in rows])),
        ("column_twice", "V04", "stand twice: predicted", predictions(
            lambda rows: [[*row, row[-1]] for row in rows])),
        ("cells_too_many", "V04", "more or fewer cells", predictions(
            lambda rows: [*rows[:4], [*rows[4], "more"], *rows[5:]])),
        ("cells_too_few", "V04", "more or fewer cells.*line 5", predictions(
            lambda rows: [*rows[:4], rows[4][:3], *rows[5:]])),
        ("seed_of_a_half", "V04", "no number", predictions(column(3, 0.5))),
        ("seed_negative", "V04", "no number", predictions(column(3, -1))),
        ("seed_with_an_underscore", "V04", "no number", predictions(column(3, "1_0"))),
        ("class_unknown", "V0", "zzz", predictions(column(4, "zzz"))),
        ("class_empty", "V0", "", predictions(column(4, ""))),
    ),
    *_cases(SCORE, ".csv", ("split_unknown", "V14", "zzz", predictions(column(2, "zzz"))),
            exit_code=2),
    *_cases(SCORE, ".pkl", ("predictions_pickled", "V13", "not '.pkl'", text(b"\x80\x04N.")),
            exit_code=2),
    *_cases(
        FIT, ".toml",
        ("recipe_not_toml", "B111", "", text("a = [")),
        ("recipe_not_utf8", "B111", "", text(b"\xff\xfe")),
        ("recipe_key_unknown", "B1", "sead", recipe("seed = 0", "sead = 0")),
        ("recipe_key_twice", "B111", "", text("seed = 0\nseed = 1\n")),
        ("recipe_lr_nan", "B1", "lr", recipe("1e-3", "nan")),
        ("recipe_lr_infinite", "B1", "lr", recipe("1e-3", "inf")),
        ("recipe_lr_negative", "B1", "lr", recipe("1e-3", "-1e-3")),
        ("recipe_batch_of_none", "B1", "batch", recipe("batch = 32", "batch = 0")),
        ("recipe_batch_of_a_half", "B1", "batch", recipe("batch = 32", "batch = 3.5")),
        ("recipe_epochs_negative", "B1", "epochs", recipe("epochs = 6", "epochs = -6")),
        ("recipe_seed_of_text", "B1", "seed", recipe("seed = 0", 'seed = "x"')),
        ("recipe_seed_negative", "B1", "seed", recipe("seed = 0", "seed = -1")),
        ("recipe_seed_beyond_64_bits", "B1", "seed", recipe("seed = 0", f"seed = {2**64}")),
        ("recipe_hides_more_than_all", "B1", "site_ratio", recipe("0.75", "1.75")),
        ("recipe_width_of_none", "B1", "width", recipe("width = 128", "width = 0")),
        exit_code=2,
    ),
    *_cases(
        SUITE, ".toml",
        ("suite_empty", "B1", "", text("")),
        ("suite_not_toml", "B111", "Invalid value", text("a = ["), 3),
        ("suite_key_unknown", "B1", "nope", text('name = "x"\ntitle = "y"\nnope = 1\n')),
        exit_code=2,
    ),
]  # fmt: skip
