"""Features that are no genes: left out by one rule whatever the source, and in no library size.

Ids that name no gene are refused.
"""

import numpy as np
import pandas as pd
import pytest

from stbuild.config import GridConfig
from stbuild.corpus.errors import BadInputError
from stbuild.reading.opening import read_here
from stbuild.sources.ids import require_genes
from tests.slices import Spec, make_anndata, record_of
from tests.vendor_files import counts_of, hex_spots, write_h5, write_mtx, write_positions

PLAIN = GridConfig()
HOW = ["h5ad", "zarr"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # anndata of Zarr v3


def data_of(types=None, names=None):
    data = make_anndata(Spec(kind="square", rows=6, cols=6, n_genes=12, drop=0))
    if types is not None:
        data.var["feature_types"] = types
    if names is not None:
        data.var_names = [*data.var_names[: 12 - len(names)], *names]
    return data


def write(data, path):
    if path.suffix == ".zarr":
        data.write_zarr(path)
    else:
        data.write_h5ad(path)
    return path


def require_ten_genes(read, data):
    """Ten of its twelve features are genes; no count of the others is anywhere but counted."""
    counts = data.X.toarray()
    assert list(read.genes) == list(data.var_names[:10])
    assert read.totals.tolist() == counts[:, :10].sum(axis=1).tolist()
    assert (read.counts.toarray() == counts[:, :10]).all()
    ledger = read.ledger
    assert ledger["features_of_other_types"] == 2
    assert ledger["molecules_of_other_types"] == counts[:, 10:].sum()
    assert ledger["molecules_read"] == ledger["molecules_kept"] == counts[:, :10].sum()
    (said,) = [notice.what for notice in read.notices if notice.code == "B073"]
    assert "2 features are" in said
    assert f"{counts[:, 10:].sum():,} molecules: left out; they are in no library size" in said


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("categorical", [True, False])
def test_types_of_an_anndata_say_which_features_are_genes(how, categorical, tmp_path):
    types = ["Gene Expression"] * 10 + ["Antibody Capture"] * 2
    data = data_of(pd.Categorical(types) if categorical else types)
    require_ten_genes(read_here(record_of(write(data, tmp_path / f"s.{how}")), PLAIN), data)


@pytest.mark.parametrize(
    "names",
    [
        ["NegControlProbe_00042", "Blank-1"],
        ["__no_feature", "__ambiguous[Actb+Gapdh]"],
        ["N_unmapped", "ERCC-00002"],
    ],
)
@pytest.mark.parametrize("how", HOW)
def test_controls_and_reads_of_no_gene_are_in_no_library_size(how, names, tmp_path):
    data = data_of(names=names)
    require_ten_genes(read_here(record_of(write(data, tmp_path / f"s.{how}")), PLAIN), data)


@pytest.mark.parametrize("kind", ["Gene Expression", "RNA", "protein_coding", "", np.nan])
@pytest.mark.parametrize("column", ["feature_types", "feature_type"])
def test_types_that_tell_nothing_apart_leave_all_genes(kind, column, tmp_path):
    data = data_of()
    data.var[column] = [kind] * 12
    read = read_here(record_of(write(data, tmp_path / "s.h5ad")), PLAIN)
    assert len(read.genes) == 12
    assert read.totals.tolist() == data.X.toarray().sum(axis=1).tolist()
    assert "features_of_other_types" not in read.ledger
    assert not [notice for notice in read.notices if notice.code == "B073"]


def test_a_spot_of_nothing_but_antibodies_is_unobserved(tmp_path):
    data = data_of(["Gene Expression"] * 10 + ["Antibody Capture"] * 2)
    counts = data.X.toarray()
    counts[3, :10], counts[3, 10:] = 0, 7
    data.X = counts
    read = read_here(record_of(write(data, tmp_path / "s.h5ad")), PLAIN)
    assert len(read.barcodes) == 35
    ledger = read.ledger
    assert ledger["spots_without_counts"] == 1
    assert ledger["molecules_of_other_types"] == counts[:, 10:].sum()
    assert ledger["molecules_read"] + ledger["molecules_of_other_types"] == counts.sum()


def test_a_file_without_genes_is_refused_with_what_it_holds(tmp_path):
    path = write(data_of(["Antibody Capture"] * 12), tmp_path / "s.h5ad")
    with pytest.raises(BadInputError, match=r"B070.*no gene is left \(12 dropped other types\)"):
        read_here(record_of(path), PLAIN)


def test_the_types_of_raw_are_those_of_its_own_features(tmp_path):
    data = data_of(["Gene Expression"] * 10 + ["Antibody Capture"] * 2)
    data.raw = data.copy()
    data = data[:, :4].copy()
    data.var = data.var.drop(columns="feature_types")
    path = write(data, tmp_path / "s.h5ad")
    assert len(read_here(record_of(path), GridConfig(layer="raw")).genes) == 10


def test_an_anndata_and_the_run_that_it_was_made_from_are_the_same_slice(tmp_path):
    barcodes, array, pixels = hex_spots()
    dense, types = counts_of(64), ["Gene Expression"] * 10 + ["Antibody Capture"] * 2
    write_h5(tmp_path / "H" / "filtered_feature_bc_matrix.h5", barcodes, dense, types=types)
    write_mtx(tmp_path / "M" / "filtered_feature_bc_matrix", barcodes, dense, types=types)
    reads = []
    for name in "HM":
        write_positions(
            tmp_path / name / "spatial/tissue_positions_list.csv", barcodes, array, pixels
        )
        reads.append(read_here(record_of(tmp_path / name), PLAIN))
    for read in reads:
        assert read.totals.tolist() == dense[:, :10].sum(axis=1).tolist()
        (said,) = [notice.what for notice in read.notices if notice.code == "B073"]
        assert "2 features" in said
        assert f"{dense[:, 10:].sum():,} molecules" in said


def test_a_table_with_reads_of_no_gene_counts_them_apart(tmp_path):
    rows = [f"{i % 6}x{i // 6}\t3\t2\t500\t40" for i in range(36)]
    path = tmp_path / "s.tsv"
    path.write_text("\n".join(["\tGapdh\tActb\t__no_feature\tBlank-1", *rows]) + "\n")
    read = read_here(record_of(path), PLAIN)
    assert list(read.genes) == ["Actb", "Gapdh"]
    assert set(read.totals.tolist()) == {5}
    assert read.ledger["features_of_other_types"] == 2
    assert read.ledger["molecules_of_other_types"] == 36 * 540


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("how", HOW)
def test_ids_that_merely_count_the_genes_are_refused_in_any_order(how, first, tmp_path):
    data = data_of()
    data.var["symbol"] = list(data.var_names)
    data.var_names = [str(i + first) for i in np.random.default_rng(0).permutation(12)]
    path = write(data, tmp_path / f"s.{how}")
    told = rf"B074.*12 genes are the numbers {first} to {first + 11}.*--gene-id-column"
    with pytest.raises(BadInputError, match=told):
        read_here(record_of(path), PLAIN)
    named = read_here(record_of(path), GridConfig(gene_id_column="symbol"))
    assert sorted(named.genes) == sorted(data.var["symbol"])


def test_columns_of_a_table_that_are_numbers_are_no_genes_either(tmp_path):
    rows = [f"{i % 6}x{i // 6}\t3\t2\t{i % 4}" for i in range(36)]
    path = tmp_path / "s.tsv"
    path.write_text("\n".join(["\t0\t1\t2", *rows]) + "\n")
    with pytest.raises(BadInputError, match=r"B074.*3 genes are the numbers 0 to 2"):
        read_here(record_of(path), PLAIN)


@pytest.mark.parametrize("ids", [["1", "2", "9"], ["0", "1", "1"], ["100", "101", "102"], ["7"]])
def test_numbers_that_name_genes_stay(ids):
    require_genes(ids)
