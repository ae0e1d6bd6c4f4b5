"""Xenium folders: ids of any type, missing places, and what is wrong by its name."""

import numpy as np
import pandas as pd
import pytest

from stbuild.config import GridConfig
from stbuild.corpus.errors import BadInputError
from stbuild.reading.opening import read_here
from stbuild.sources.faults import SourceFaultError
from stbuild.sources.xenium import looks_like_xenium, read_xenium
from tests.slices import record_of
from tests.vendor_files import counts_of, write_xenium

PLAIN = GridConfig()
OTHERS = ["Negative Control Probe", "Negative Control Codeword", "Unassigned Codeword",
          "Blank Codeword", "Deprecated Codeword", "Genomic Control"]  # fmt: skip


@pytest.mark.parametrize(
    ("ids", "table"),
    [("text", "parquet"), ("integer", "parquet"), ("bytes", "parquet"), ("integer", "csv")],
)
def test_ids_of_cells_may_be_of_any_type(ids, table, tmp_path):
    _, frame = write_xenium(tmp_path / "X", table=table, ids=ids)
    raw = read_xenium(record_of(tmp_path / "X"), PLAIN)
    assert raw.xy is not None
    assert np.allclose(raw.xy, frame[["x_centroid", "y_centroid"]])
    assert raw.ledger["spots_without_position"] == raw.ledger["positions_without_counts"] == 0
    assert {file.name.split(".")[0] for file in raw.files} == {"cells", "cell_feature_matrix"}


def test_every_type_of_control_is_counted_and_left_out(tmp_path):
    dense, _ = write_xenium(tmp_path / "X", kinds=["Gene Expression"] * 6 + OTHERS)
    raw = read_xenium(record_of(tmp_path / "X"), PLAIN)
    assert (raw.counts.toarray() == dense[:, :6]).all()
    assert raw.ledger["features_of_other_types"] == 6
    assert raw.ledger["molecules_of_other_types"] == dense[:, 6:].sum()


@pytest.mark.parametrize("suffix", ["parquet", "csv.gz"])
def test_cells_without_a_place_or_counts_are_counted(suffix, tmp_path):
    _, frame = write_xenium(tmp_path / "X", table=suffix.split(".")[0])
    frame = pd.concat([frame.iloc[5:], frame.iloc[:3].assign(cell_id=["p", "q", "r"])])
    frame.iloc[0, 1] = np.nan
    path = tmp_path / "X" / f"cells.{suffix}"
    if suffix == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False)
    raw = read_xenium(record_of(tmp_path / "X"), PLAIN)
    assert raw.ledger["spots_without_position"] == 5
    assert raw.ledger["positions_without_counts"] == 3
    assert raw.xy is not None
    assert np.isnan(raw.xy[:6, 0]).all()
    assert np.isfinite(raw.xy[6:]).all()


def change_cells(**columns):
    def step(root):
        frame = pd.read_parquet(root / "cells.parquet").assign(**columns)
        frame.to_parquet(root / "cells.parquet")

    return step


def cut(root):
    path = root / "cells.parquet"
    path.write_bytes(path.read_bytes()[:-30])


def as_csv(text):
    def step(root):
        (root / "cells.parquet").unlink()
        (root / "cells.csv").write_text(text)

    return step


FAULTS = {
    "text_places": (change_cells(x_centroid="far"), "B047.*must be numbers"),
    "twice": (change_cells(cell_id="same"), "B082.*stand twice"),
    "no_id": (change_cells(cell_id=None), "B047.*row 1 has no id"),
    "cut": (cut, "B004.*damaged"),
    "csv_text": (as_csv("cell_id,x_centroid,y_centroid\ncell-0,1,far\n"), "B047.*far"),
    "csv_columns": (as_csv("cell_id,x_centroid\ncell-0,1\n"), "B047.*y_centroid"),
    "csv_empty": (as_csv(""), "B047"),
    "csv_header_alone": (as_csv("cell_id,x_centroid,y_centroid\n"), "B047.*is empty"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_of_the_table_of_cells_are_named(name, tmp_path):
    write_xenium(tmp_path / "X")
    change, match = FAULTS[name]
    change(tmp_path / "X")
    with pytest.raises(BadInputError, match=match):
        read_here(record_of(tmp_path / "X"), PLAIN)


def test_folders_that_lack_a_part_are_refused(tmp_path):
    write_xenium(tmp_path / "X")
    (tmp_path / "X" / "cell_feature_matrix.h5").unlink()
    assert not looks_like_xenium(tmp_path / "X")
    with pytest.raises(SourceFaultError, match="no counts"):
        read_xenium(record_of(tmp_path / "X"), PLAIN)
    (tmp_path / "X" / "cells.parquet").unlink()
    with pytest.raises(SourceFaultError, match="no table of cells"):
        read_xenium(record_of(tmp_path / "X"), PLAIN)


def test_an_unknown_column_of_gene_ids_is_refused(tmp_path):
    write_xenium(tmp_path / "X")
    with pytest.raises(BadInputError, match=r"B074.*no column 'gene'"):
        read_here(record_of(tmp_path / "X"), GridConfig(gene_id_column="gene"))
    assert counts_of(50).sum() == read_xenium(record_of(tmp_path / "X"), PLAIN).counts.sum()
