"""Runs as archives rename them, aggregated runs, and tables of positions that the user names."""

import gzip
import json
import tarfile

import numpy as np
import pandas as pd
import pytest

from stbuild.config import GridConfig
from stbuild.corpus.errors import BadInputError
from stbuild.manifests.manifest import Manifest
from stbuild.reading.opening import read_here
from stbuild.reading.sections import expand_sections
from stbuild.sources.file_names import choose_named, find_named
from stbuild.sources.formats import detect_format
from tests.slices import Spec, make_anndata, record_of
from tests.vendor_files import (
    counts_of,
    hex_spots,
    write_h5,
    write_mtx,
    write_positions,
    write_run,
    write_xenium,
)

PLAIN = GridConfig()
BARCODES, ARRAY, PIXELS = hex_spots()
DENSE = counts_of(len(BARCODES))
LIST = "tissue_positions_list.csv"


def pack(path):
    """Pack a file; its name gets ``.gz``."""
    packed = path.with_name(f"{path.name}.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return packed


def write_flat(root, sample, *, matrix="h5", shift=0, packed=True):
    """Write all files of a sample into one folder, as GEO holds them."""
    root.mkdir(exist_ok=True)
    if matrix == "h5":
        write_h5(root / f"{sample}filtered_feature_bc_matrix.h5", BARCODES, DENSE)
    else:
        write_mtx(root / "tmp", BARCODES, DENSE, old=matrix == "old_mtx")
        for file in sorted((root / "tmp").iterdir()):
            file.rename(root / f"{sample}{file.name}")
        (root / "tmp").rmdir()
    path = root / f"{sample}{LIST}"
    write_positions(path, BARCODES, ARRAY, PIXELS + shift)
    scale = root / f"{sample}scalefactors_json.json"
    scale.write_text(json.dumps({"spot_diameter_fullres": 65.0, "microns_per_pixel": 0.5}))
    if packed:
        pack(path)
        pack(scale)


def assert_run(read, shift=0.0):
    assert (read.counts.toarray() == DENSE).all()
    assert read.xy is not None
    assert np.allclose(read.xy, PIXELS[:, ::-1] + shift)


@pytest.mark.parametrize("packed", [True, False], ids=["gzip", "plain"])
@pytest.mark.parametrize("matrix", ["h5", "mtx", "old_mtx"])
def test_files_with_a_sample_in_front_are_one_run(matrix, packed, tmp_path):
    write_flat(tmp_path / "G", "GSM1_A-1_", matrix=matrix, packed=packed)
    assert detect_format(tmp_path / "G") == "spaceranger"
    read = read_here(record_of(tmp_path / "G"), PLAIN)
    assert_run(read)
    assert (read.um_per_unit, len(read.sources)) == (0.5, 5 if "mtx" in matrix else 3)


def test_positions_of_another_sample_are_never_taken(tmp_path):
    """All slides share their barcodes: those of another one would seem to fit."""
    for sample, matrix, shift in (("GSM1_A_", "h5", 0), ("GSM2_B_", "mtx", 500)):
        write_flat(tmp_path / "G", sample, matrix=matrix, shift=shift)
    with pytest.raises(BadInputError, match=r"B056.*2 matrices of different samples"):
        read_here(record_of(tmp_path / "G"), PLAIN)
    assert_run(read_here(record_of(tmp_path / "G/GSM1_A_filtered_feature_bc_matrix.h5"), PLAIN))
    second = tmp_path / "G/GSM2_B_matrix.mtx.gz"
    assert detect_format(second) == "spaceranger"
    assert_run(read_here(record_of(second), PLAIN), 500)
    (tmp_path / f"G/GSM2_B_{LIST}.gz").unlink()
    with pytest.raises(BadInputError, match=r"B046.*with or without 'GSM2_B_' in front"):
        read_here(record_of(second), PLAIN)


def test_the_exact_name_comes_first_and_a_mere_ending_does_not_count(tmp_path):
    for name in ("cells.csv", "A_cells.csv", "allcells.csv", "B.cells.csv.gz"):
        (tmp_path / name).write_text("x")
    assert find_named(tmp_path, ["cells.csv"]) == [(tmp_path / "cells.csv", "cells.csv")]
    (tmp_path / "cells.csv").unlink()
    found = [path.name for path, _ in find_named(tmp_path, ["cells.csv"])]
    assert found == ["A_cells.csv", "B.cells.csv.gz"]
    assert choose_named(tmp_path, ["cells.csv"], "A_") == tmp_path / "A_cells.csv"
    assert choose_named(tmp_path, ["cells.csv"], "C_") is None
    assert find_named(tmp_path / "nowhere", ["cells.csv"]) == []


def test_a_run_may_have_packed_positions_and_true_for_one(tmp_path):
    write_run(tmp_path / "R", positions="tissue_positions.csv")
    path = tmp_path / "R/spatial/tissue_positions.csv"
    table = pd.read_csv(path)
    table["in_tissue"] = np.arange(len(table)) > 4
    table.to_csv(path, index=False)
    pack(path)
    read = read_here(record_of(tmp_path / "R"), PLAIN)
    assert len(read.barcodes) == len(table) - 5
    assert read.ledger["spots_off_tissue"] == 5


def test_what_has_to_be_unpacked_or_is_no_grid_is_said(tmp_path):
    write_run(tmp_path / "R", matrix="mtx_gz")
    folder = tmp_path / "R/filtered_feature_bc_matrix"
    with tarfile.open(f"{folder}.tar.gz", "w:gz") as archive:
        archive.add(folder, folder.name)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    with pytest.raises(BadInputError, match=r"B023.*fix: unpack filtered_feature_bc_matrix.tar.gz"):
        read_here(record_of(tmp_path / "R"), PLAIN)
    write_h5(tmp_path / "S/filtered_feature_cell_matrix.h5", ["c-1", "c-2"], counts_of(2))
    with pytest.raises(BadInputError, match=r"B007.*segmented_outputs.*binned_outputs"):
        read_here(record_of(tmp_path / "S"), PLAIN)


def write_aggregate(root):
    """Write two samples in one matrix, with one table of positions."""
    names = [f"{name[:-1]}{i}" for i in (1, 2) for name in BARCODES]
    write_h5(root / "filtered_feature_bc_matrix.h5", names, np.concatenate([DENSE, DENSE[::-1]]))
    places = np.concatenate([PIXELS, PIXELS + 7])
    path = root / "aggr_tissue_positions.csv"
    write_positions(path, names, np.concatenate([ARRAY, ARRAY]), places, header=True)


def test_samples_of_an_aggregated_run_are_built_one_by_one(tmp_path):
    write_aggregate(tmp_path / "A" / "outs")
    with pytest.raises(BadInputError, match=r"B056.*2 sections \(1, 2\).*--split-by sample"):
        read_here(record_of(tmp_path / "A"), PLAIN)
    record = record_of(tmp_path / "A", split_by="sample")
    manifest = expand_sections(Manifest(name="m", records=(record,)), PLAIN, None)
    assert [r.part for r in manifest.records] == ["1", "2"]
    assert_run(read_here(manifest.records[0], PLAIN))
    second = read_here(manifest.records[1], PLAIN)
    assert (second.counts.toarray() == DENSE[::-1]).all()
    for wrong in ({"split_by": "library"}, {"part": "3"}):
        with pytest.raises(BadInputError, match=r"B056.*(--split-by sample|there are: 1, 2)"):
            read_here(record_of(tmp_path / "A", **wrong), PLAIN)


def test_a_part_of_one_section_alone_is_refused(tmp_path):
    write_run(tmp_path / "R")
    make_anndata(Spec(rows=8, cols=8)).write_h5ad(tmp_path / "s.h5ad")
    for path in (tmp_path / "R", tmp_path / "s.h5ad"):
        with pytest.raises(BadInputError, match=r"B056.*no part 'x'"):
            read_here(record_of(path, part="x"), PLAIN)


def test_bin_sizes_may_be_given_as_numbers(tmp_path):
    for size in (2, 16):
        folder = tmp_path / f"hd/outs/binned_outputs/square_{size:03d}um"
        write_h5(folder / "filtered_feature_bc_matrix.h5", BARCODES, DENSE)
        write_positions(folder / "spatial/tissue_positions.parquet", BARCODES, ARRAY, PIXELS)
        scale = {"bin_size_um": float(size), "microns_per_pixel": 0.3}
        (folder / "spatial/scalefactors_json.json").write_text(json.dumps(scale))
    for part in ("16", "16um", "016", "square_016um"):
        assert read_here(record_of(tmp_path / "hd", part=part), PLAIN).pitch_um == 16
    with pytest.raises(BadInputError, match=r"B056.*2 bin sizes.*no '8'"):
        read_here(record_of(tmp_path / "hd", part="8"), PLAIN)


@pytest.mark.parametrize("where", ["run", "outs", "matrix", "renamed"])
def test_xenium_is_found_wherever_the_user_points(where, tmp_path):
    (tmp_path / "X").mkdir()
    root = tmp_path / "X" / "outs"
    dense, frame = write_xenium(root, table="csv")
    path = {"run": root.parent, "matrix": root / "cell_feature_matrix.h5"}.get(where, root)
    if where == "renamed":
        for file in sorted(root.iterdir()):
            file.rename(root / f"GSM9_{file.name}")
    assert detect_format(path) == "imaging"
    read = read_here(record_of(path), PLAIN)
    assert (read.counts.toarray() == dense).all()
    assert read.xy is not None
    assert np.allclose(read.xy, frame[["x_centroid", "y_centroid"]])


HEADS = {
    "spaceranger": ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres",
                    "pxl_col_in_fullres"],
    "short": ["barcode", "pxl_row", "pxl_col"],
    "x_y": ["barcode", "y", "x"],
}  # fmt: skip


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("source", ["h5ad", "spaceranger", "xenium"])
def test_a_named_table_places_any_source(source, head, tmp_path):
    path = tmp_path / "s.h5ad"
    names = BARCODES
    if source == "h5ad":
        data = make_anndata(Spec(rows=8, cols=8, n_genes=12, drop=0))
        del data.obsm["spatial"], data.obs["array_row"], data.obs["array_col"]
        data.obs_names, data.X = BARCODES, DENSE
        data.write_h5ad(path)
    elif source == "xenium":
        path = tmp_path / "X"
        _, frame = write_xenium(path)
        names = list(frame["cell_id"])
    else:
        path = tmp_path / "R"
        write_h5(path / "filtered_feature_bc_matrix.h5", BARCODES, DENSE)
    n = len(names)
    table = pd.DataFrame(dict(zip(HEADS["spaceranger"], [names, 1, *ARRAY[:n].T, *PIXELS[:n].T],
                                  strict=True)))  # fmt: skip
    columns = table.columns if head == "spaceranger" else table.columns[[0, 4, 5]]
    table = table[list(columns)].set_axis(HEADS[head], axis=1).sample(frac=1, random_state=1)
    table.to_csv(tmp_path / "places.csv", index=False)
    read = read_here(record_of(path, positions=str(tmp_path / "places.csv")), PLAIN)
    assert read.xy is not None
    assert np.allclose(read.xy, PIXELS[:n, ::-1])
    assert (read.array_row is None) == (head != "spaceranger")
    assert "places.csv" in {file.name for file in read.sources}
    with pytest.raises(BadInputError, match=r"B001.*--positions"):
        read_here(record_of(path, positions=str(tmp_path / "nothing.csv")), PLAIN)
