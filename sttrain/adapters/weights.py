"""A folder of scGPT or scGPT-spatial weights as its authors publish it, believed in nothing.

``best_model.pt`` (a plain state dict), ``args.json``, ``vocab.json`` and, for scGPT-spatial,
``all_dict_mean_std.csv`` (method.md 2.1 and 2.2 of the design notes; upstream
``scgpt/tasks/cell_emb.py``). Letters: V vocabulary, D width.
"""

import csv
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from stbuild.corpus.digests import sha256_bytes
from stbuild.corpus.documents import document_problems
from stbuild.corpus.errors import merge_errors
from stbuild.corpus.jsonio import load_strict
from stbuild.corpus.storage import read_file
from sttrain.adapters.network import CellDecoder, CellEncoder
from sttrain.adapters.state_dicts import refuse, unpack_tensors
from sttrain.errors import BadInputError, IntegrityError, StError
from sttrain.release.loading import find_misfits

WEIGHTS: Final = "best_model.pt"
ARGUMENTS: Final = "args.json"
VOCABULARY: Final = "vocab.json"
MEANS: Final = "all_dict_mean_std.csv"
CLS: Final = "<cls>"
SPECIAL: Final = (CLS, "<pad>", "<eoc>")
"""Tokens that are no genes."""
IGNORED: Final = (
    "flag_encoder.",
    "decoder.",
    "mvc_decoder.",
    "impute_mvc_decoder.",
    "batch_encoder.",
    "cls_decoder.",
    "grad_reverse_discriminator.",
)
"""Beginnings of the names of tensors that an embedding does not need."""
_MAX_WEIGHTS: Final = 4 * 2**30
_MAX_TEXT: Final = 64 * 2**20
_NAMED: Final = 3
"""Offenders that a message names."""


class ScgptArguments(BaseModel):
    """What ``args.json`` has to say of the network; its other keys speak of training."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    embsize: int = Field(ge=1, le=65_536)
    nheads: int = Field(ge=1, le=1024)
    d_hid: int = Field(ge=1, le=1_000_000)
    nlayers: int = Field(ge=1, le=1000)
    pad_token: str
    pad_value: float
    n_bins: Literal[51] = 51
    input_style: Literal["binned"] = "binned"
    input_emb_style: Literal["continuous"] = "continuous"
    cell_emb_style: Literal["cls"] = "cls"
    pre_norm: Literal[False] = False


@dataclass(frozen=True, kw_only=True)
class ScgptWeights:
    """A folder that was read and fits together."""

    arguments: ScgptArguments
    vocabulary: Mapping[str, int]
    """Row of every token, the genes among them."""
    encoder: CellEncoder
    """In evaluation mode on the CPU, float32."""
    means: NDArray[np.float64] | None
    """(V,) mean of a gene over the pretraining corpus, NaN where the table has none; only of
    scGPT-spatial."""
    digest: str
    """SHA-256 of the weights file."""
    extra: Mapping[str, Tensor]
    """The tensors that an embedding does not need."""
    where: str

    @property
    def genes(self) -> Mapping[str, int]:
        """Rows of the genes by symbol."""
        special = {*SPECIAL, self.arguments.pad_token}
        return {name: row for name, row in self.vocabulary.items() if name not in special}


def read_weights_folder(folder: Path, *, spatial: bool) -> ScgptWeights:
    """Read a folder.

    Parameters
    ----------
    folder
        As published.
    spatial
        Whether it is of scGPT-spatial, which has a table of gene means.

    Raises
    ------
    BadInputError
        Every problem of the small files at once, then every problem of the weights: files that
        are missing or unreadable, tensors that are missing, unknown, of another shape or not
        finite, a vocabulary of another size, a pickle with code.
    """
    needed = (WEIGHTS, ARGUMENTS, VOCABULARY, *((MEANS,) if spatial else ()))
    missing = [name for name in needed if not (folder / name).is_file()]
    if missing:
        what = f"{', '.join(missing)} missing; expected {', '.join(needed)}"
        raise refuse(folder, what, fix="give the folder as its authors publish it")
    arguments, vocabulary = _all_of(
        lambda: _read_arguments(folder / ARGUMENTS), lambda: _read_vocabulary(folder / VOCABULARY)
    )
    V = len(vocabulary)
    _require_tokens(folder / VOCABULARY, vocabulary, arguments.pad_token)
    means = _read_means(folder / MEANS, V) if spatial else None
    raw = _read(folder / WEIGHTS, _MAX_WEIGHTS)
    tensors = unpack_tensors(folder / WEIGHTS, raw)
    extra = {name: value for name, value in tensors.items() if name.startswith(IGNORED)}
    own = {name: value for name, value in tensors.items() if name not in extra}
    return ScgptWeights(
        arguments=arguments,
        vocabulary=vocabulary,
        encoder=_fill(folder / WEIGHTS, arguments, V, own),
        means=means,
        digest=sha256_bytes(raw),
        extra=extra,
        where=str(folder),
    )


def read_cell_decoder(weights: ScgptWeights) -> CellDecoder:
    """Return the decoder from a cell's vector to its genes.

    Raises
    ------
    BadInputError
        The folder has none that fits an encoder without platform labels. The published
        scGPT-spatial is of this kind: its decoders take the vector and a code of the platform,
        twice the width, and upstream's loader leaves them at random without a word.
    """
    given = {
        name.removeprefix("mvc_decoder."): value
        for name, value in weights.extra.items()
        if name.startswith("mvc_decoder.")
    }
    decoder = CellDecoder(weights.arguments.embsize)
    if problems := find_misfits(decoder.state_dict(), given):
        fix = "use it for embeddings only; reconstruction needs decoders of the encoder's width"
        path = Path(weights.where) / WEIGHTS
        raise refuse(path, *(f"mvc_decoder: {text}" for text in problems), fix=fix)
    decoder.load_state_dict(given, assign=True)
    return decoder.eval().requires_grad_(requires_grad=False)


def _all_of(*readers: Callable[[], Any]) -> list[Any]:
    """Read several things and report the problems of all of them together."""
    found, errors = [], []
    for read in readers:
        try:
            found.append(read())
        except StError as error:
            errors.append(error)
    if errors:
        raise merge_errors(errors)
    return found


def _read(path: Path, limit: int) -> bytes:
    if path.stat().st_size > limit:
        raise refuse(path, f"{path.stat().st_size:,} bytes, at most {limit:,} are read")
    return read_file(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = load_strict(_read(path, _MAX_TEXT), str(path), _MAX_TEXT)
    except IntegrityError as error:
        raise refuse(path, *(problem.what for problem in error.problems)) from error
    if not isinstance(value, dict):
        raise refuse(path, f"a JSON {type(value).__name__}, an object was expected")
    return value


def _read_arguments(path: Path) -> ScgptArguments:
    value = _read_json(path)
    try:
        found = ScgptArguments.model_validate(value)
    except ValidationError as error:
        fix = "only binned input with <cls> vectors is read"
        told = document_problems(error, ScgptArguments, value, str(path), "V30", fix)
        raise BadInputError(*told) from None
    if found.embsize % found.nheads:
        raise refuse(path, f"embsize {found.embsize} is no multiple of nheads {found.nheads}")
    return found


def _read_vocabulary(path: Path) -> dict[str, int]:
    value = _read_json(path)
    rows = [row for row in value.values() if type(row) is int]
    if sorted(rows) != list(range(len(value))):
        what = f"the {len(value):,} tokens do not have the rows 0 to {len(value) - 1:,} once each"
        raise refuse(path, what)
    return value


def _require_tokens(path: Path, vocabulary: Mapping[str, int], pad_token: str) -> None:
    lost = [token for token in (CLS, pad_token) if token not in vocabulary]
    if lost:
        raise refuse(path, f"it has no token {' and no '.join(lost)}")


def _read_means(path: Path, V: int) -> NDArray[np.float64]:
    """Return the means by row of the vocabulary; the published table lacks many genes."""
    try:
        lines = list(csv.reader(io.StringIO(_read(path, _MAX_TEXT).decode())))
    except (UnicodeDecodeError, csv.Error) as error:
        raise refuse(path, f"no table: {str(error)[:200]}") from error
    header = lines[0] if lines else []
    if "mean" not in header[1:]:
        raise refuse(path, f"columns {', '.join(header)!r}; a column 'mean' was expected")
    column = header.index("mean")
    means = np.full(V, np.nan)
    for number, cells in enumerate(lines[1:], 2):
        try:
            row, mean = int(cells[0]), float(cells[column])
        except (ValueError, IndexError):
            raise refuse(path, f"line {number} holds no row and mean: {cells[:4]!r}") from None
        if not 0 <= row < V or not np.isnan(means[row]) or not 0 < mean < np.inf:
            what = f"line {number}: row {row}, mean {mean}"
            raise refuse(path, f"{what}; rows 0 to {V - 1:,} once each, means above 0 expected")
        means[row] = mean
    return means


def _fill(
    path: Path, arguments: ScgptArguments, V: int, tensors: Mapping[str, Tensor]
) -> CellEncoder:
    table = tensors.get("encoder.embedding.weight")
    if table is not None and table.shape[0] != V:
        what = f"a gene table of {table.shape[0]:,} rows, {VOCABULARY} has {V:,} tokens"
        raise refuse(path, what)
    given = {name: value.float().contiguous() for name, value in tensors.items()}
    encoder = CellEncoder(
        V=V,
        D=arguments.embsize,
        heads=arguments.nheads,
        ffn=arguments.d_hid,
        layers=arguments.nlayers,
    )
    if problems := find_misfits(encoder.state_dict(), given):
        raise refuse(path, *problems, fix=f"check that {ARGUMENTS} and {WEIGHTS} belong together")
    encoder.load_state_dict(given, assign=True)
    return encoder.eval().requires_grad_(requires_grad=False)
