"""Plain columns are read without anndata, and mean what anndata says they mean."""

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from stbuild.sources.faults import SourceFaultError
from stbuild.sources.h5ad_frames import _read_any, _read_plain, read_element
from stbuild.sources.values import is_missing

N = 4


@pytest.fixture
def path(tmp_path):
    obs = pd.DataFrame(index=[f"s{i}" for i in range(N)])
    obs["whole"], obs["real"], obs["flag"] = np.arange(N), np.arange(N) / 3, [True, False] * 2
    obs["text"] = pd.Series(["a", "é", "", "d"], index=obs.index, dtype=object)
    obs["class"] = pd.Categorical(["b", None, "a", "b"], categories=["a", "b", "c"])
    obs["coded"] = pd.Categorical([3, 1, 3, 1])
    data = anndata.AnnData(csr_matrix(np.ones((N, 2), np.int32)), obs=obs)
    data.write_h5ad(tmp_path / "f.h5ad", convert_strings_to_categoricals=False)
    return tmp_path / "f.h5ad"


def plain(values):
    return [None if is_missing(value) else value for value in values]


@pytest.mark.parametrize("column", ["whole", "real", "flag", "text", "class"])
def test_plain_columns_are_those_of_anndata(path, column):
    with h5py.File(path) as file:
        ours, theirs = _read_plain(file["obs"][column]), _read_any(file["obs"][column])
        assert plain(ours) == plain(theirs)
        kinds = [{type(v) for v in plain(values)} for values in (ours, theirs)]
        assert kinds[0] == kinds[1]


def test_other_columns_are_left_to_anndata(path):
    with h5py.File(path) as file:
        assert _read_plain(file["obs/coded"]) is None
        assert list(read_element(file["obs"], "coded")) == [3, 1, 3, 1]


@pytest.mark.parametrize(
    ("name", "values"), [("codes", [0, 1, 7, 0]), ("categories", ["a", "a", "b"])]
)
def test_bad_categories_are_refused(path, name, values):
    with h5py.File(path, "r+") as file:
        file[f"obs/class/{name}"][...] = values
    with h5py.File(path) as file, pytest.raises(SourceFaultError, match="cannot read it"):
        read_element(file["obs"], "class")
