"""Values that say that there is none: the same rule for every kind of source, nothing silent."""

import numpy as np
import pandas as pd
import pytest

from stbuild.config import GridConfig
from stbuild.corpus.errors import BadInputError
from stbuild.reading.opening import read_here
from stbuild.sources.values import is_missing, to_id, to_labels, to_text
from tests.slices import Spec, make_anndata, record_of

WORDS = ["NA", "None", "N/A", "null", " ", "<NA>", "nan"]
HOW = ["h5ad", "zarr"]


def write(data, path):
    if path.suffix == ".zarr":
        data.write_zarr(path)
    else:
        data.write_h5ad(path)
    return path


@pytest.mark.parametrize("value", [None, np.nan, pd.NA, "", *WORDS], ids=repr)
def test_what_says_that_there_is_no_value(value):
    assert is_missing(value)


@pytest.mark.parametrize("value", [0, False, "0", "NAT", "Nanog", "N"], ids=repr)
def test_what_is_a_value(value):
    assert not is_missing(value)


def test_whole_numbers_are_ids_without_a_fraction_and_text_stays_as_it_is():
    assert [to_text(v) for v in (1000.0, 1.5, "1000.0")] == ["1000", "1.5", "1000.0"]
    # A fly has a gene called nan: in an index text is always an id.
    assert [to_id(v) for v in (np.nan, None, "nan", 7.0)] == ["", "", "nan", "7"]


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (["0.0", "1.0", "", "2.0"], ["0", "1", None, "2"]),
        (["0", "1.00", "NA", "-3.0"], ["0", "1", None, "-3"]),
        ([0.0, np.nan, 2.0], ["0", None, "2"]),
        (["01", "02.0"], ["01", "02"]),
        (["1.0", "1.5"], ["1.0", "1.5"]),
        (["1.0", "L2"], ["1.0", "L2"]),
        (["1e3", "1."], ["1e3", "1."]),
        (["", None], [None, None]),
    ],
)
def test_whole_numbers_of_a_whole_column_are_labels_without_a_fraction(values, labels):
    assert to_labels(values) == labels


@pytest.mark.parametrize("how", ["obs", "text", "joined", "own"])
def test_clusters_are_the_same_classes_with_and_without_a_gap(how, tmp_path):
    """pandas makes floats of whole numbers as soon as one is missing."""
    data = make_anndata(Spec(kind="square", rows=6, cols=6, n_genes=5, drop=0))
    reads = []
    for name, gap in (("all", 36), ("gap", 5)):
        clusters = [np.nan if i == gap else i % 3 for i in range(36)]
        texts = ["" if i == gap else f"{i % 3}{'.0' * (gap < 36)}" for i in range(36)]
        data.obs["label"] = pd.Series(clusters if how == "obs" else texts, index=data.obs_names)
        path, options = tmp_path / f"{name}.h5ad", {}
        if how == "joined":
            table = tmp_path / f"{name}-labels.csv"
            data.obs[["label"]].to_csv(table, index_label="barcode")
            options["labels_file"] = str(table)
        if how == "own":
            path = tmp_path / f"{name}.csv"
            rows = [f"s{i},{i % 6},{i // 6},{text},1,2" for i, text in enumerate(texts)]
            path.write_text("\n".join(["barcode,x,y,label,G1,G2", *rows]) + "\n")
        else:
            write(data, path)
        reads.append(read_here(record_of(path, **options), GridConfig(label="label")).labels)
    assert reads[0] == [str(i % 3) for i in range(36)]
    assert reads[1] == [None if i == 5 else str(i % 3) for i in range(36)]


@pytest.mark.parametrize("word", WORDS)
def test_labels_of_obs_and_of_a_table_give_the_same_classes(word, tmp_path):
    data = make_anndata(Spec(kind="square", rows=6, cols=6, n_genes=5, drop=0))
    data.obs["l"] = ["A", "B", word] * 12
    pd.DataFrame({"barcode": data.obs_names, "l": data.obs["l"].to_numpy()}).to_csv(
        tmp_path / "l.csv", index=False
    )
    config, path = GridConfig(label="l"), write(data, tmp_path / "s.h5ad")
    own = read_here(record_of(path), config)
    joined = read_here(record_of(path, labels_file=str(tmp_path / "l.csv")), config)
    assert own.labels == joined.labels == ["A", "B", None] * 12


@pytest.mark.parametrize("how", HOW)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_words_that_are_no_labels_are_told_and_gaps_are_not(how, tmp_path):
    data = make_anndata(Spec(kind="square", rows=6, cols=6, n_genes=5, drop=0))
    data.obs["l"] = pd.Categorical(["A", "NA", None] * 12)
    read = read_here(record_of(write(data, tmp_path / f"s.{how}")), GridConfig(label="l"))
    assert read.labels == ["A", None, None] * 12
    (notice,) = [n for n in read.notices if n.code == "B077"]
    assert "12 labels say that there is none ('NA')" in str(notice)
    assert "labels 'l' of slice 's'" in str(notice)


def test_words_in_a_table_of_counts_are_told_too(tmp_path):
    rows = [f"s{i},{i % 6},{i // 6},{'ABN'[i % 3]}{'/A' * (i % 3 == 2)},1,2" for i in range(36)]
    path = tmp_path / "s.csv"
    path.write_text("\n".join(["barcode,x,y,l,G1,G2", *rows]) + "\n")
    read = read_here(record_of(path), GridConfig(label="l"))
    assert read.labels == ["A", "B", None] * 12
    assert "12 labels say that there is none ('N/A')" in "".join(map(str, read.notices))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_gene_without_an_id_is_refused_with_its_row(how, tmp_path):
    data = make_anndata(Spec(kind="square", rows=6, cols=6, n_genes=5, drop=0))
    data.var["ids"] = pd.Categorical(["A", "B", None, "C", None])
    path = write(data, tmp_path / f"s.{how}")
    with pytest.raises(BadInputError, match=r"B074.*var/ids.*2 of 5 genes have no id.*row 2"):
        read_here(record_of(path), GridConfig(gene_id_column="ids", duplicate_genes="sum"))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_whole_floats_are_ids_without_a_fraction(how, tmp_path):
    data = make_anndata(Spec(kind="square", rows=6, cols=6, n_genes=3, drop=0))
    data.var["entrez"] = [1000.0, 2000.0, 3000.0]
    path = write(data, tmp_path / f"s.{how}")
    read = read_here(record_of(path), GridConfig(gene_id_column="entrez"))
    assert list(read.genes) == ["1000", "2000", "3000"]
