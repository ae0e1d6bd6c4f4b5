"""State dicts that other people's programs stored, and the names of their attention.

Tensors only: a pickle that names anything else is refused before it is run.
"""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sttrain.errors import BadInputError, Problem
from sttrain.train.checkpoint import load_foreign


def refuse(
    path: Path, *problems: str, fix: str = "get the folder again from its authors"
) -> BadInputError:
    """Make the error of a folder or of one of its files."""
    subject = f"published weights '{path.name}'"
    return BadInputError(
        *(Problem(code="V30", subject=subject, where=str(path), what=what, fix=fix)
          for what in problems)
    )  # fmt: skip


def unpack_tensors(path: Path, raw: bytes) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name; what would run code is refused unseen.

    Parameters
    ----------
    path
        Where it stands, for messages.
    raw
        Its bytes.

    Raises
    ------
    BadInputError
        No archive of ``torch.save``, a compressed one, more than tensors, no plain state dict of
        dense floating-point tensors, or a tensor under two names.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            packed = any(item.compress_type != zipfile.ZIP_STORED for item in archive.infolist())
    except (zipfile.BadZipFile, ValueError) as error:
        fix = "get it again; a file of torch before 1.6 has to be saved anew"
        raise refuse(path, f"no archive of torch.save: {error}", fix=fix) from error
    if packed:
        raise refuse(path, "its members are compressed, which torch.save never does")
    try:
        found = load_foreign(raw)
    except Exception as error:  # a hostile file can make torch raise anything
        what = "it holds more than tensors, or is damaged; nothing of it was run: "
        raise refuse(path, what + " ".join(str(error).split())[:300]) from error
    if not isinstance(found, Mapping) or not _are_tensors(found):
        what = "no plain state dict of dense floating-point tensors by name"
        raise refuse(path, what, fix="give the state dict itself, as torch.save stored it")
    return _rename(path, found)


def _are_tensors(found: Mapping[Any, Any]) -> bool:
    """Tell whether all values are tensors that hold as many numbers as they claim to."""
    return all(
        isinstance(name, str)
        and isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.is_floating_point()
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
        for name, value in found.items()
    )


def _rename(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the tensors the names of torch's attention, whichever attention they were trained with.

    ``self_attn.Wqkv.weight`` (flash attention), ``self_attn._impl.Wqkv.weight`` (later versions)
    and ``self_attn.in_proj_weight`` are the same: the rows of q, k and v below each other.
    """
    renamed: dict[str, Tensor] = {}
    for name, value in tensors.items():
        new = name
        if name.startswith("transformer_encoder."):
            new = name.replace(".self_attn._impl.", ".self_attn.").replace(".Wqkv.", ".in_proj_")
        if new in renamed:
            raise refuse(path, f"'{name}' stands there under two names")
        renamed[new] = value
    return renamed
