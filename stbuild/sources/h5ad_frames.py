"""Data frames of ``.h5ad`` files of every generation, column by column.

Since anndata 0.7 a frame is a group of columns; before, a compound data set. Categories stand
beside their codes, in ``__categories`` (0.7) or in ``uns`` (0.6); read as plain arrays, such
codes would pass for values. What the columns mean is not known here. Plain numbers, text and
categories of text are read here; anndata, which takes a second to import, reads whatever else.
"""

import warnings
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from stbuild.sources.faults import SourceFaultError
from stbuild.sources.hdf5 import attribute, child, decode, has, read_strings
from stbuild.sources.values import to_id

_FIX: Final = "mend the column and write the file again with anndata"


class H5Frame:
    """A data frame that is a group of columns."""

    def __init__(self, group: h5py.Group) -> None:
        self.group = group
        self.where = str(group.name)

    def columns(self) -> list[str]:
        """Return the names of the columns, sorted, without the index."""
        return sorted(set(self.group) - {self._index_name(), "__categories"})

    def index(self) -> list[str]:
        """Return the index as text."""
        name = self._index_name()
        if not has(self.group, name):
            what = f"no index '{name}' in {self.where}"
            raise SourceFaultError("B006", self.where, what, "write the file with anndata")
        node = child(self.group, name)
        if not isinstance(node, h5py.Dataset):
            return [to_id(value) for value in read_element(self.group, name)]
        return read_strings(node)

    def read(self, column: str) -> Any:  # noqa: ANN401 - an array or a pandas column
        """Return one column as anndata reads it."""
        node = child(self.group, column)
        if isinstance(node, h5py.Dataset) and "categories" in node.attrs:
            return self._read_old_categories(node, column)
        return read_element(self.group, column)

    def _read_old_categories(self, node: h5py.Dataset, column: str) -> list[Any]:
        """Return a categorical column of anndata 0.7, whose categories stand apart."""
        path = f"__categories/{column}"
        if not has(self.group, path):
            what = f"codes without categories: no {self.where}/{path}"
            raise SourceFaultError("B079", node.name, what, _FIX)
        return decode_categories(node[:], read_element(self.group, path), node.name)

    def _index_name(self) -> str:
        return attribute(self.group, "_index") or "_index"


class CompoundFrame:
    """A data frame that is one compound data set, as before anndata 0.7."""

    def __init__(self, dataset: h5py.Dataset, file: h5py.File) -> None:
        self.where = str(dataset.name)
        self._file = file
        self._rows: NDArray[Any] = dataset[:]
        names = list(dataset.dtype.names or ())
        self._index = "index" if "index" in names else names[0]
        self._columns = sorted(set(names) - {self._index})

    def columns(self) -> list[str]:
        """Return the names of the columns, sorted, without the index."""
        return self._columns

    def index(self) -> list[str]:
        """Return the index as text."""
        return [str(value) for value in self.read(self._index)]

    def read(self, column: str) -> Any:  # noqa: ANN401 - an array or a list
        """Return one column, text decoded and categories put in place of their codes."""
        values, path = self._rows[column], f"uns/{column}_categories"
        where = f"{self.where}/{column}"
        if values.dtype.kind in "iu" and has(self._file, path):
            categories = child(self._file, path)
            if isinstance(categories, h5py.Dataset) and categories.ndim == 1:
                return decode_categories(values, _as_text(categories[:], where), where)
        return _as_text(values, where)


def open_frame(file: h5py.File, path: str) -> H5Frame | CompoundFrame:
    """Open the data frame at a path (``obs`` or ``var``), whatever generation wrote it.

    Raises
    ------
    SourceFaultError
        B006: no data frame.
    """
    node = child(file, path)
    if isinstance(node, h5py.Group):
        return H5Frame(node)
    if node.dtype.names and node.ndim == 1:
        return CompoundFrame(node, file)
    what = "not a group of columns"
    raise SourceFaultError("B006", node.name, what, "give an .h5ad written by anndata")


def read_element(parent: h5py.Group, path: str) -> Any:  # noqa: ANN401 - any kind of element
    """Read one element: a plain one here, any other with anndata, which knows its encodings.

    Raises
    ------
    SourceFaultError
        It cannot be read: bad codes, repeated categories, an unknown encoding.
    """
    node = child(parent, path)
    if isinstance(node, h5py.Group):
        for part in sorted(node, key=str):  # a damaged name may be bytes
            child(node, str(part))
    try:
        plain = _read_plain(node)
        return _read_any(node) if plain is None else plain
    except Exception as error:  # noqa: BLE001 - a foreign file can make a library raise anything
        said = (str(error) or type(error).__name__).splitlines()[0][:120]
        what = f"cannot read it: {said}"
        raise SourceFaultError("B079", node.name, what, _FIX) from None


def _encoding(node: Any) -> str:  # noqa: ANN401 - h5py is untyped
    """Return the encoding of an element with its version, as anndata writes it today."""
    return f"{attribute(node, 'encoding-type')} {attribute(node, 'encoding-version')}"


def _read_plain(node: Any) -> Any:  # noqa: ANN401 - h5py is untyped
    """Return numbers, text or categories of text just as anndata does; None for anything else."""
    encoding, is_array = _encoding(node), isinstance(node, h5py.Dataset)
    if is_array and encoding == "array 0.2.0" and node.dtype.kind in "biuf":
        return node[()]
    if is_array and encoding == "string-array 0.2.0" and node.dtype.kind == "O":
        return node.asstr()[()]
    if is_array or encoding != "categorical 0.2.0":
        return None
    names, codes = child(node, "categories"), child(node, "codes")
    if _encoding(names) != "string-array 0.2.0" or _encoding(codes) != "array 0.2.0":
        return None
    texts, numbers = _read_plain(names), _read_plain(codes)
    if numbers is None or numbers.dtype.kind not in "iu" or numbers.ndim != 1:
        return None
    if texts is None or texts.ndim != 1 or len(set(texts.tolist())) < texts.size:
        return None
    if bool(np.any((numbers < -1) | (numbers >= texts.size))):
        return None  # anndata says what is wrong
    # What code -1 selects is the last entry: no value, which pandas calls NaN.
    return np.append(texts, np.nan)[numbers]


def _read_any(node: Any) -> Any:  # noqa: ANN401 - any kind of element
    from anndata import OldFormatWarning
    from anndata.io import read_elem

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OldFormatWarning)
        return read_elem(node)


def decode_categories(codes: NDArray[Any], categories: Any, where: str) -> list[Any]:  # noqa: ANN401
    """Return a value per code; None where the code is -1.

    Parameters
    ----------
    codes
        (N,) integers.
    categories
        (C,) values.
    where
        Where the codes stand, for messages.

    Raises
    ------
    SourceFaultError
        B079: codes that are no integers, or beyond the categories.
    """
    values = list(categories)
    if codes.dtype.kind not in "iu" or codes.ndim != 1:
        raise SourceFaultError("B079", where, "categories by codes that are no integers", _FIX)
    numbers = codes.astype(np.int64)
    outside = np.flatnonzero((numbers < -1) | (numbers >= len(values)))
    if outside.size:
        first = int(outside[0])
        what = f"code {numbers[first]} in row {first}, but {len(values)} categories"
        raise SourceFaultError("B079", where, what, _FIX)
    return [None if code < 0 else values[code] for code in numbers.tolist()]


def _as_text(values: NDArray[Any], where: str) -> Any:  # noqa: ANN401 - an array or a list
    """Decode bytes; leave every other type as it is."""
    if values.dtype.kind not in "SO":
        return values
    return [decode(value, where, i) for i, value in enumerate(values)]
