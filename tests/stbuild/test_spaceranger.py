"""Space Ranger folders of every generation give the same slice; what is wrong is named."""

import json

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.io import mmread
from scipy.sparse import coo_matrix

from stbuild.config import GridConfig
from stbuild.corpus.errors import BadInputError
from stbuild.reading.opening import read_here
from stbuild.sources.faults import SourceFaultError
from stbuild.sources.formats import detect_format, read_source
from stbuild.sources.spaceranger import read_spaceranger
from tests.slices import record_of
from tests.vendor_files import (
    IDS,
    NAMES,
    counts_of,
    hex_spots,
    write_h5,
    write_mtx,
    write_positions,
    write_run,
)

PLAIN = GridConfig()
GENERATIONS = [
    ("h5", "tissue_positions_list.csv"),
    ("h5", "tissue_positions.csv"),
    ("h5", "tissue_positions.parquet"),
    ("old_h5", "tissue_positions_list.csv"),
    ("mtx", "tissue_positions_list.csv"),
    ("mtx_gz", "tissue_positions.csv"),
    ("old_mtx", "tissue_positions_list.csv"),
]


@pytest.mark.parametrize("inside", ["", "outs"])
@pytest.mark.parametrize(("matrix", "positions"), GENERATIONS)
def test_every_generation_gives_the_same_slice(tmp_path, matrix, positions, inside):
    barcodes, dense, array, pixels = write_run(
        tmp_path / "S" / inside, matrix=matrix, positions=positions
    )
    record = record_of(tmp_path / "S")
    assert detect_format(tmp_path / "S") == "spaceranger"
    raw = read_source(record, PLAIN)
    assert list(raw.barcodes) == barcodes
    assert (raw.counts.toarray() == dense).all()
    assert (list(raw.genes), list(raw.gene_names or ())) == (IDS, NAMES)
    assert raw.array is not None
    assert raw.xy is not None
    assert (np.stack(raw.array, axis=1) == array).all()
    assert np.allclose(raw.xy, pixels[:, ::-1])
    assert raw.in_tissue is not None
    assert raw.in_tissue.all()
    read = read_here(record, PLAIN)
    assert {source.name.split("/")[0] for source in read.sources} == {"S"}


def test_symbols_may_be_the_ids(tmp_path):
    write_run(tmp_path / "S")
    raw = read_source(record_of(tmp_path / "S"), GridConfig(gene_id_column="name"))
    assert list(raw.genes) == NAMES


def test_the_matrix_file_alone_finds_its_positions(tmp_path):
    barcodes, *_ = write_run(tmp_path / "S")
    raw = read_source(record_of(tmp_path / "S" / "filtered_feature_bc_matrix.h5"), PLAIN)
    assert list(raw.barcodes) == barcodes


def test_filtered_is_preferred_and_raw_can_be_asked_for(tmp_path):
    barcodes, dense, *_ = write_run(tmp_path / "S")
    write_h5(tmp_path / "S" / "raw_feature_bc_matrix.h5", barcodes, dense + 1)
    first = read_source(record_of(tmp_path / "S"), PLAIN)
    assert (first.counts.toarray() == dense).all()
    assert "raw_feature_bc_matrix.h5 beside it" in first.notices[0].what
    asked = read_source(record_of(tmp_path / "S"), GridConfig(layer="raw"))
    assert (asked.counts.toarray() == dense + 1).all()


def test_barcodes_match_without_their_ending(tmp_path):
    barcodes, array, pixels = hex_spots()
    bare = [barcode.removesuffix("-1") for barcode in barcodes]
    write_h5(tmp_path / "S" / "filtered_feature_bc_matrix.h5", barcodes, counts_of(64))
    write_positions(tmp_path / "S/spatial/tissue_positions_list.csv", bare, array, pixels)
    raw = read_source(record_of(tmp_path / "S"), PLAIN)
    assert raw.ledger["spots_without_position"] == 0


def test_what_does_not_match_is_counted_on_both_sides(tmp_path):
    barcodes, array, pixels = hex_spots()
    write_h5(tmp_path / "S" / "filtered_feature_bc_matrix.h5", barcodes[:40], counts_of(40))
    keep = np.arange(64) >= 5
    write_positions(
        tmp_path / "S/spatial/tissue_positions.csv",
        [b for b, k in zip(barcodes, keep, strict=True) if k],
        array[keep],
        pixels[keep],
        header=True,
        inside=(np.arange(64) % 2)[keep],
    )
    raw = read_source(record_of(tmp_path / "S"), PLAIN)
    assert raw.ledger["spots_without_position"] == 5
    assert raw.ledger["positions_without_counts"] == 12
    assert raw.in_tissue is not None
    assert not raw.in_tissue[:5].any()
    assert raw.xy is not None
    assert np.isnan(raw.xy[:5]).all()
    read = read_here(record_of(tmp_path / "S"), PLAIN)
    said = [str(notice) for notice in read.notices]
    assert any("5 of 40 spots have no position: dropped" in text for text in said)
    assert any("17 spots are off the tissue: dropped" in text for text in said)
    assert read.ledger["spots_off_tissue"] == 17
    lost = counts_of(40)[:5].sum()
    assert read.ledger["molecules_without_position"] == lost
    names = ("molecules_off_tissue", "molecules_without_position", "molecules_kept")
    assert read.ledger["molecules_read"] == sum(read.ledger[name] for name in names)


def test_features_that_are_no_genes_are_left_out_and_counted(tmp_path):
    barcodes, array, pixels = hex_spots()
    dense = counts_of(64)
    kinds = ["Gene Expression"] * 10 + ["Antibody Capture"] * 2
    write_h5(tmp_path / "S" / "filtered_feature_bc_matrix.h5", barcodes, dense, types=kinds)
    write_mtx(tmp_path / "T" / "filtered_feature_bc_matrix", barcodes, dense, types=kinds)
    for name in "ST":
        write_positions(
            tmp_path / name / "spatial/tissue_positions_list.csv", barcodes, array, pixels
        )
        raw = read_source(record_of(tmp_path / name), PLAIN)
        assert (raw.counts.toarray() == dense[:, :10]).all()
        assert raw.ledger["features_of_other_types"] == 2
        assert raw.ledger["molecules_of_other_types"] == dense[:, 10:].sum()


def write_hd(root, sizes):
    barcodes, array, pixels = hex_spots()
    for size in sizes:
        folder = root / "binned_outputs" / f"square_{size:03d}um"
        write_h5(folder / "filtered_feature_bc_matrix.h5", barcodes, counts_of(64, size))
        write_positions(folder / "spatial/tissue_positions.parquet", barcodes, array, pixels)
        scale = {"bin_size_um": float(size), "microns_per_pixel": 0.25}
        (folder / "spatial/scalefactors_json.json").write_text(json.dumps(scale))


def test_bins_of_visium_hd_are_chosen_by_name(tmp_path):
    write_hd(tmp_path / "S", [2, 8])
    with pytest.raises(SourceFaultError, match="2 bin sizes: square_002um, square_008um"):
        read_spaceranger(record_of(tmp_path / "S"), PLAIN)
    for part in ("square_008um", "008um"):
        raw = read_spaceranger(record_of(tmp_path / "S", part=part), PLAIN)
        assert (raw.pitch_um, raw.um_per_unit) == (8.0, 0.25)
        assert (raw.counts.toarray() == counts_of(64, 8)).all()
    folder = tmp_path / "S" / "binned_outputs" / "square_002um"
    assert read_source(record_of(folder), PLAIN).pitch_um == 2.0
    write_hd(tmp_path / "T", [16])
    assert read_source(record_of(tmp_path / "T"), PLAIN).pitch_um == 16.0


def edit_lines(root, change):
    path = root / "spatial" / "tissue_positions_list.csv"
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")


def edit_matrix(root, change):
    with h5py.File(root / "filtered_feature_bc_matrix.h5", "r+") as file:
        change(file["matrix"])


def another(root, **fields):
    barcodes = fields.pop("barcodes", hex_spots()[0])
    write_h5(root / "filtered_feature_bc_matrix.h5", barcodes, counts_of(64), **fields)


def cut(root):
    path = root / "filtered_feature_bc_matrix.h5"
    path.write_bytes(path.read_bytes()[:2000])


def lie(group):
    group["shape"][:] = [12, 999]


def point_outside(group):
    group["indices"][3] = 900


DAMAGES = {
    "no_matrix": lambda root: (root / "filtered_feature_bc_matrix.h5").unlink(),
    "no_positions": lambda root: (root / "spatial" / "tissue_positions_list.csv").unlink(),
    "probes": lambda root: another(root, probes=True),
    "cut_matrix": cut,
    "other_barcodes": lambda root: another(root, barcodes=[f"X{i}" for i in range(64)]),
    "barcode_twice": lambda root: edit_lines(root, lambda t: [*t, t[0]]),
    "short_line": lambda root: edit_lines(root, lambda t: [t[0], t[1].rsplit(",", 1)[0]]),
    "text_for_a_number": lambda root: edit_lines(
        root, lambda t: [t[0], t[1].replace(",0,2,", ",0,abc,")]
    ),
    "not_text": lambda root: (root / "spatial" / "tissue_positions_list.csv").write_bytes(
        b"\xff\xfe\x00" * 30
    ),
    "shape_lies": lambda root: edit_matrix(root, lie),
    "index_outside": lambda root: edit_matrix(root, point_outside),
    "no_genes": lambda root: another(root, types=["Antibody Capture"] * 12),
}
FAULTS = {
    "no_matrix": "B023.*no counts",
    "no_positions": "B046.*no positions",
    "probes": "B007.*a matrix of probes",
    "cut_matrix": "B004",
    "other_barcodes": "B047.*none of the 64 barcodes",
    "barcode_twice": "B082.*1 ids stand twice",
    "short_line": "B047.*line 2 has 5 cells",
    "text_for_a_number": "B047.*array_col of line 2 is no number: 'abc'",
    "not_text": "B074|B047",
    "shape_lies": "B041",
    "index_outside": "B034",
    "no_genes": "B023.*no gene among 12 features",
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_named(tmp_path, name):
    write_run(tmp_path / "S")
    DAMAGES[name](tmp_path / "S")
    with pytest.raises(BadInputError, match=FAULTS[name]):
        read_here(record_of(tmp_path / "S"), PLAIN)


MTX_FAULTS = {
    "truncated": (lambda t: t[:-40], "B004|B033"),
    "more_entries": (lambda t: t + "1 1 1\n", "B004.*its head says"),
    "outside": (lambda t: t.replace("\n1 1 ", "\n900 1 ", 1), "B034"),
    "fraction": (lambda t: t.rstrip().rsplit(" ", 1)[0] + " 1.5\n", "B030"),
    "text": (lambda t: t.rstrip().rsplit(" ", 1)[0] + " x\n", "B033"),
    "not_a_matrix": (lambda _: "hello\n", "B003"),
    "other_sizes": (lambda t: t.replace("12 64", "12 63", 1), "B041"),
}


@pytest.mark.parametrize("name", MTX_FAULTS)
def test_faults_of_a_text_matrix_are_named(tmp_path, name):
    write_run(tmp_path / "S", matrix="mtx")
    path = tmp_path / "S" / "filtered_feature_bc_matrix" / "matrix.mtx"
    change, match = MTX_FAULTS[name]
    path.write_text(change(path.read_text()))
    with pytest.raises(BadInputError, match=match):
        read_here(record_of(tmp_path / "S"), PLAIN)


def plain_h5(path):
    with h5py.File(path) as file:
        group = file["matrix"]
        barcodes = [b.decode() for b in group["barcodes"][:]]
        ids = [b.decode() for b in group["features/id"][:]]
        dense = np.zeros((len(barcodes), len(ids)))
        starts, data = group["indptr"][:], group["data"][:]
        for i in range(len(barcodes)):
            part = slice(starts[i], starts[i + 1])
            np.add.at(dense[i], group["indices"][:][part], data[part])
    return barcodes, ids, dense


def plain_mtx(folder):
    def lines(name):
        path = next(p for p in folder.iterdir() if p.name.startswith(name))
        return pd.read_csv(path, sep="\t", header=None, dtype=str)

    matrix = next(p for p in folder.iterdir() if p.name.startswith("matrix"))
    ids = list(lines("features")[0])
    dense = np.asarray(coo_matrix(mmread(matrix)).todense())
    return list(lines("barcodes")[0]), ids, dense.T


FOLDERS = {
    "visium_human_tiny_h5": "filtered_feature_bc_matrix.h5",
    "visium_mouse_brain_h5": "filtered_feature_bc_matrix.h5",
    "visium_mouse_brain_mtx": "filtered_feature_bc_matrix",
    "visium_cytassist_mouse_embryo": "filtered_feature_bc_matrix",
    "visium_two_sections_tiny/section1": "outs/raw_feature_bc_matrix.h5",
    "visium_two_sections_tiny/section2": "outs/raw_feature_bc_matrix.h5",
}


@pytest.mark.parametrize("name", FOLDERS)
def test_real_folders_equal_a_plain_reading(name, shared_data):
    root = shared_data / "raw" / name
    raw = read_source(record_of(root), PLAIN)
    matrix = root / FOLDERS[name]
    barcodes, ids, dense = plain_h5(matrix) if matrix.suffix == ".h5" else plain_mtx(matrix)
    assert list(raw.barcodes) == barcodes
    by_id = {gene: i for i, gene in enumerate(ids)}
    assert raw.counts.sum() == dense.sum()
    assert (raw.counts.toarray() == dense[:, [by_id[gene] for gene in raw.genes]]).all()
    table = next((matrix.parent / "spatial").glob("tissue_positions*"))
    rows = [line.split(",") for line in table.read_text().split()]
    place = {row[0]: row for row in rows}
    assert raw.array is not None
    assert raw.xy is not None
    for i, barcode in enumerate(barcodes[:200]):
        if barcode in place:
            row = place[barcode]
            assert (raw.array[0][i], raw.array[1][i]) == (float(row[2]), float(row[3]))
            assert tuple(raw.xy[i]) == (float(row[5]), float(row[4]))


@pytest.mark.filterwarnings("ignore:.*names are not unique:UserWarning")
def test_a_real_folder_equals_its_h5ad(shared_data):
    import anndata

    raw = read_source(record_of(shared_data / "raw/visium_cytassist_mouse_embryo"), PLAIN)
    data = anndata.read_h5ad(shared_data / "visium_unlabelled/mouse_embryo_cytassist.h5ad")
    assert list(raw.barcodes) == list(data.obs_names)
    order = {gene: i for i, gene in enumerate(raw.genes)}
    columns = [order[gene] for gene in data.var["gene_ids"]]
    assert (raw.counts[:, columns] != data.X).nnz == 0
    assert raw.xy is not None
    assert np.allclose(raw.xy, data.obsm["spatial"])


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("visium_probe_matrix", "B007.*probes"),
        ("visium_hd_empty", "B044.*no counts"),
        ("dlpfc_layout/151507", "B023.*no counts"),
        ("visium_two_sections_tiny", "B007.*section1, section2"),
    ],
)
def test_real_folders_without_counts_are_refused_with_the_reason(name, match, shared_data):
    with pytest.raises(BadInputError, match=match):
        read_here(record_of(shared_data / "raw" / name), PLAIN)


def read_at(path, **options):
    config = GridConfig(**{key: options.pop(key) for key in ("layer",) if key in options})
    return read_source(record_of(path, **options), config)


@pytest.mark.parametrize("name", ["section1", "section2"])
def test_a_real_folder_with_both_is_read_from_the_h5(name, shared_data):
    """The two do not agree in the source: 49 and 50 genes; section 2 has section 1's mtx."""
    outs = shared_data / "raw/visium_two_sections_tiny" / name / "outs"
    both = read_at(outs)
    assert "raw_feature_bc_matrix beside it" in both.notices[0].what
    assert {file.name for file in both.files} == {
        "raw_feature_bc_matrix.h5", "scalefactors_json.json", "tissue_positions_list.csv",
    }  # fmt: skip
    texts = read_at(outs / "raw_feature_bc_matrix")
    barcodes, ids, dense = plain_mtx(outs / "raw_feature_bc_matrix")
    assert (list(texts.barcodes), list(texts.genes)) == (barcodes, ids)
    assert (texts.counts.toarray() == dense).all()
    assert np.array_equal(texts.xy, both.xy, equal_nan=True)
    assert np.array_equal(texts.in_tissue, both.in_tissue)


def test_h5_and_mtx_of_one_run_are_the_same(tmp_path):
    barcodes, dense, *_ = write_run(tmp_path / "S")
    write_mtx(tmp_path / "S" / "filtered_feature_bc_matrix", barcodes, dense)
    folder = tmp_path / "S" / "filtered_feature_bc_matrix"
    one, two = read_at(folder.with_suffix(".h5")), read_at(folder)
    assert (one.counts.toarray() == two.counts.toarray()).all()
    for name in ("barcodes", "genes", "gene_names", "ledger", "pitch_um"):
        assert getattr(one, name) == getattr(two, name), name
    assert np.array_equal(one.xy, two.xy)


def test_every_barcode_of_real_folders_has_its_own_place(shared_data):
    for name in FOLDERS:
        raw = read_at(shared_data / "raw" / name)
        path = next(file for file in raw.files if file.name.startswith("tissue_positions"))
        header = 0 if path.name == "tissue_positions.csv" else None
        table = pd.read_csv(path, header=header, index_col=0, float_precision="round_trip")
        table = table.reindex(raw.barcodes)
        assert np.array_equal(raw.xy, table.iloc[:, [4, 3]].to_numpy(float), equal_nan=True)
        assert np.array_equal(np.stack(raw.array, 1), table.iloc[:, 1:3], equal_nan=True)
        assert np.array_equal(raw.in_tissue, table.iloc[:, 0] == 1)
        assert raw.pitch_um == 100.0
        assert raw.ledger["spots_without_position"] == int(table.iloc[:, 0].isna().sum())


def test_matrices_with_a_sample_in_front_of_their_name_are_found(tmp_path):
    barcodes, dense, *_ = write_run(tmp_path / "S")
    path = tmp_path / "S" / "filtered_feature_bc_matrix.h5"
    path.rename(path.with_name("V1_Brain_filtered_feature_bc_matrix.h5"))
    assert (read_at(tmp_path / "S").counts.toarray() == dense).all()
    write_h5(path.with_name("V2_filtered_feature_bc_matrix.h5"), barcodes, dense)
    with pytest.raises(BadInputError, match=r"B056.*2 matrices.*V1_Brain.*V2_filtered"):
        read_here(record_of(tmp_path / "S"), PLAIN)
    write_run(tmp_path / "T", matrix="mtx")
    folder = tmp_path / "T" / "filtered_feature_bc_matrix"
    folder.rename(folder.with_name("T1_filtered_feature_bc_matrix"))
    assert (read_at(tmp_path / "T").counts.toarray() == dense).all()


def test_the_folders_of_two_genomes_are_refused(tmp_path):
    barcodes, dense, *_ = write_run(tmp_path / "S", matrix="old_mtx")
    folder = tmp_path / "S" / "filtered_gene_bc_matrices"
    assert (read_at(folder / "GRCh38").counts.toarray() == dense).all()
    write_mtx(folder / "mm10", barcodes, dense, packed=False, old=True)
    with pytest.raises(BadInputError, match=r"B056.*GRCh38, .*mm10"):
        read_here(record_of(tmp_path / "S"), PLAIN)


def test_what_is_missing_is_told_at_once(tmp_path):
    (tmp_path / "S" / "spatial").mkdir(parents=True)
    with pytest.raises(BadInputError) as error:
        read_spaceranger(record_of(tmp_path / "S"), PLAIN)
    assert [problem.code for problem in error.value.problems] == ["B023", "B046"]
    write_run(tmp_path / "T")
    cut(tmp_path / "T")
    edit_lines(tmp_path / "T", lambda t: [*t, t[0]])
    with pytest.raises(BadInputError) as error:
        read_spaceranger(record_of(tmp_path / "T"), PLAIN)
    assert [problem.code for problem in error.value.problems] == ["B004", "B082"]


def test_parts_and_layers_that_are_not_there_are_refused(tmp_path):
    write_run(tmp_path / "S")
    with pytest.raises(SourceFaultError, match="no part 'left'"):
        read_at(tmp_path / "S", part="left")
    with pytest.raises(BadInputError, match=r"B023.*no layer 'counts'"):
        read_at(tmp_path / "S", layer="counts")
    with pytest.raises(BadInputError, match=r"B023.*no raw_feature_bc_matrix"):
        read_at(tmp_path / "S", layer="raw")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "B004.*not JSON"),
        ("[" * 100_000, "B004.*not JSON"),
        ('{"microns_per_pixel": Infinity}', "B047.*positive number"),
        ('{"bin_size_um": true}', "B047.*positive number"),
        ('{"bin_size_um": "8"}', "B047.*positive number"),
        (" " * (1 << 20) + "{}", "B004.*expected a few hundred"),
    ],
    ids=["cut", "deep", "infinite", "flag", "text", "large"],
)
def test_scale_factors_that_are_none_are_refused(tmp_path, text, match):
    write_run(tmp_path / "S")
    (tmp_path / "S" / "spatial" / "scalefactors_json.json").write_text(text)
    with pytest.raises(BadInputError, match=match):
        read_here(record_of(tmp_path / "S"), PLAIN)


def test_genes_of_two_genomes_are_kept_and_said(tmp_path):
    write_run(tmp_path / "S")
    path = tmp_path / "S" / "filtered_feature_bc_matrix.h5"
    with h5py.File(path, "r+") as file:
        file["matrix/features/genome"][6:] = b"mm10"
    raw = read_at(tmp_path / "S")
    assert len(raw.genes) == 12
    assert "2 genomes: GRCh38, mm10" in raw.notices[-1].what
