"""AnnData as people have it: CELLxGENE files, several sections in one, positions in odd places."""

from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest

from stbuild.config import GridConfig
from stbuild.corpus.errors import BadInputError
from stbuild.manifests.manifest import Manifest
from stbuild.reading.jail import Limits
from stbuild.reading.opening import read_here
from stbuild.reading.sections import expand_sections
from tests.slices import Spec, make_anndata, record_of

PLAIN = GridConfig()


def write(data, tmp_path, name="s"):
    path = tmp_path / f"{name}.h5ad"
    data.write_h5ad(path)
    return path


def cellxgene(*, single=True):
    """A Visium file as CELLxGENE publishes it: unfiltered, counts in raw, Ensembl index."""
    data = make_anndata(Spec(seed=2, rows=14, cols=12, n_genes=20))
    data.var_names = [f"ENSG{i:011d}" for i in range(data.n_vars)]
    data.X = data.X.astype(np.float32)
    data.raw = data.copy()
    data.X = data.X.log1p()
    symbols = pd.Categorical([f"SYM{i}" for i in range(data.n_vars)])
    data.var["feature_name"] = data.raw.var["feature_name"] = symbols
    data.obs["in_tissue"] = (np.arange(data.n_obs) % 4 > 0).astype(int)
    data.obs["is_primary_data"] = True
    data.uns["spatial"] = {"is_single": single}
    return data


def codes(read):
    return {notice.code for notice in read.notices}


def test_a_cellxgene_section_gives_its_raw_counts_in_tissue(tmp_path):
    data = cellxgene()
    read = read_here(record_of(write(data, tmp_path)), PLAIN)
    inside = data.obs["in_tissue"].to_numpy() == 1
    assert read.counts.shape == (inside.sum(), 20)
    assert int(read.counts.sum()) == int(data.raw.X[inside].sum())
    assert read.pitch_um == 100.0
    assert {"B025", "B061"} <= codes(read)
    kept = read_here(record_of(write(data, tmp_path)), GridConfig(off_tissue="keep"))
    assert kept.counts.shape[0] == data.n_obs


def test_spots_that_are_not_primary_data_are_told(tmp_path):
    data = cellxgene()
    data.obs["is_primary_data"] = np.arange(data.n_obs) > 4
    read = read_here(record_of(write(data, tmp_path)), PLAIN)
    (notice,) = [notice for notice in read.notices if notice.code == "B010"]
    assert "5 of" in notice.what


def test_a_cellxgene_file_of_many_sections_is_refused(tmp_path):
    with pytest.raises(BadInputError, match=r"B056.*is_single = false"):
        read_here(record_of(write(cellxgene(single=False), tmp_path)), PLAIN)


def two_sections(shift):
    """Two sections in one file, the second one `shift` pixels to the right."""
    first, second = (make_anndata(Spec(seed=s, rows=9, cols=8, drop=0)) for s in (1, 2))
    second.obsm["spatial"][:, 0] += shift
    data = anndata.concat({"L1": first, "L2": second}, label="section", index_unique="-")
    del data.obs["array_row"], data.obs["array_col"]
    return data


def test_sections_on_top_of_each_other_are_refused_with_the_flag(tmp_path):
    path = write(two_sections(30.0), tmp_path)
    with pytest.raises(BadInputError, match=r"B056.*2 sections \(L1, L2\).*--split-by section"):
        read_here(record_of(path), PLAIN)


def test_sections_side_by_side_are_told(tmp_path):
    read = read_here(record_of(write(two_sections(5000.0), tmp_path)), PLAIN)
    assert "B056" in codes(read)


@pytest.mark.parametrize("shift", [30.0, 5000.0])
def test_split_by_gives_each_section_by_itself(tmp_path, shift):
    data = two_sections(shift)
    record = record_of(write(data, tmp_path), split_by="section")
    manifest = expand_sections(Manifest(name="m", records=(record,)), PLAIN, None)
    assert [(r.name, r.part, r.section) for r in manifest.records] == [
        ("s-L1", "L1", "L1"),
        ("s-L2", "L2", "L2"),
    ]
    for part in manifest.records:
        read = read_here(part, PLAIN)
        mine = data[data.obs["section"] == part.part]
        assert list(read.barcodes) == list(mine.obs_names)
        assert int(read.counts.sum()) == int(mine.X.sum())
        assert (read.xy == mine.obsm["spatial"]).all()


@pytest.mark.parametrize("limits", [None, Limits()])
@pytest.mark.parametrize("how", ["h5ad", "zarr"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_sections_may_share_their_barcodes_and_a_table_of_labels(tmp_path, how, limits):
    one = make_anndata(Spec(seed=1, drop=0))
    data = anndata.concat([one, one[::-1].copy()])
    data.obs["section"] = np.repeat(["A", "B"], one.n_obs)
    data.obs_names = list(one.obs_names) + list(one.obs_names)[::-1]
    path = tmp_path / f"s.{how}"
    (data.write_zarr if how == "zarr" else data.write_h5ad)(path)
    with pytest.raises(BadInputError, match=r"B082.*--split-by"):
        read_here(record_of(path), PLAIN)
    rows = [f"{b},{s},{s}{i % 3}" for s in "AB" for i, b in enumerate(one.obs_names)]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(["barcode,section,label", *rows]) + "\n")
    record = record_of(path, split_by="section", labels_file=str(table))
    config = GridConfig(label="label")
    manifest = expand_sections(Manifest(name="x", records=(record,)), config, limits)
    reads = {r.part: read_here(r, config) for r in manifest.records}
    assert list(reads) == ["A", "B"]
    for part, read in reads.items():
        wanted = {name: f"{part}{i % 3}" for i, name in enumerate(one.obs_names)}
        assert len(read.barcodes) == one.n_obs
        assert read.labels == [wanted[name] for name in read.barcodes]


def test_barcodes_twice_in_one_section_are_refused_after_the_split(tmp_path):
    data = two_sections(0)
    names = list(data.obs_names)
    names[1] = names[0]
    data.obs_names = names
    path = write(data, tmp_path)
    part = sorted(set(data.obs["section"]))[0]
    with pytest.raises(BadInputError, match=r"B082.*1 spot ids stand more than once"):
        read_here(record_of(path, split_by="section", part=part), PLAIN)


def test_an_unknown_column_or_section_is_refused(tmp_path):
    path = write(two_sections(30.0), tmp_path)
    with pytest.raises(BadInputError, match="no column 'nope' to split by"):
        read_here(record_of(path, split_by="nope", part="x"), PLAIN)
    with pytest.raises(BadInputError, match=r"no spot has section 'L9'; there are: L1, L2"):
        read_here(record_of(path, split_by="section", part="L9"), PLAIN)


@pytest.mark.parametrize("pair", [("x", "y"), ("imagecol", "imagerow"), ("X", "Y")])
def test_positions_may_stand_in_columns_of_obs(tmp_path, pair):
    data = make_anndata(Spec(seed=3, rows=8, cols=8))
    xy = data.obsm.pop("spatial")
    del data.obs["array_row"], data.obs["array_col"]
    for name, column in zip(pair, xy.T, strict=True):
        data.obs[name] = column
    read = read_here(record_of(write(data, tmp_path)), PLAIN)
    assert read.xy is not None
    assert np.array_equal(read.xy, xy)
    assert read.array_row is None


def test_fractional_array_coordinates_are_positions_in_lattice_steps(tmp_path):
    data = make_anndata(Spec(kind="square", seed=3, rows=8, cols=8))
    del data.obsm["spatial"]
    data.obs["array_row"] = data.obs["array_row"] + 0.1
    read = read_here(record_of(write(data, tmp_path)), PLAIN)
    assert read.unit == "array"
    assert read.xy is not None
    assert np.allclose(read.xy[:, 1], data.obs["array_row"])
    assert np.allclose(read.xy[:, 0], data.obs["array_col"])


FRAMES = {
    "swapped": ["y", "x"],
    "rows_first": ["imagerow", "imagecol"],
    "plane": ["Z", "Y", "X"],
    "others_beside": ["area", "y", "x"],
    "array": ["row", "col"],
}


@pytest.mark.parametrize("how", ["h5ad", "zarr"])
@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_columns_of_a_data_frame_of_positions_are_taken_by_name(tmp_path, name, how):
    data = make_anndata(Spec(seed=3, rows=8, cols=8))
    xy = data.obsm["spatial"]
    columns = [np.full(len(xy), 4.5), *xy.T[::-1]][-len(FRAMES[name]) :]
    data.obsm["spatial"] = pd.DataFrame(
        dict(zip(FRAMES[name], columns, strict=True)), index=data.obs_names
    )
    path = tmp_path / f"s.{how}"
    data.write_h5ad(path) if how == "h5ad" else data.write_zarr(path)
    read = read_here(record_of(path), PLAIN)
    assert read.xy is not None
    assert np.array_equal(read.xy, xy)


def test_a_data_frame_without_names_has_an_order_and_one_of_other_names_is_refused(tmp_path):
    data = make_anndata(Spec(seed=3, rows=8, cols=8))
    xy = data.obsm["spatial"]
    data.obsm["spatial"] = pd.DataFrame(xy, index=data.obs_names, columns=["0", "1"])
    read = read_here(record_of(write(data, tmp_path)), PLAIN)
    assert read.xy is not None
    assert np.array_equal(read.xy, xy)
    data.obsm["spatial"] = pd.DataFrame(xy, index=data.obs_names, columns=["a", "b"])
    with pytest.raises(BadInputError, match=r"B047.*obsm/spatial.*which is x: a, b.*call them"):
        read_here(record_of(write(data, tmp_path)), PLAIN)


@pytest.mark.parametrize(("value", "used"), [(np.nan, "positions"), (2.5, "positions"), (2, "")])
def test_array_coordinates_that_are_not_whole_for_all_are_left_with_a_word(tmp_path, value, used):
    data = make_anndata(Spec(seed=3, rows=8, cols=8))
    data.obs["array_row"] = data.obs["array_row"].astype(float)
    data.obs.iloc[20, data.obs.columns.get_loc("array_row")] = value
    read = read_here(record_of(write(data, tmp_path)), PLAIN)
    assert (read.array_row is None) == bool(used)
    said = [notice.what for notice in read.notices if notice.code == "B048"]
    whole = f"1 of {data.n_obs} spots have no whole array coordinates; {used} are used"
    assert [text.startswith(whole) for text in said] == [True] * bool(used)


@pytest.mark.parametrize(
    ("pair", "unit"),
    [
        (("pixel_x", "pixel_y"), "pixel"),
        (("CenterX_global_px", "CenterY_global_px"), "pixel"),
        (("x_centroid", "y_centroid"), "um"),
    ],
)
def test_columns_say_their_unit_whatever_their_case(tmp_path, pair, unit):
    data = make_anndata(Spec(seed=3, rows=8, cols=8))
    xy = data.obsm.pop("spatial")
    data.obs = data.obs.drop(columns=["array_row", "array_col"]).assign(
        **dict(zip(pair, xy.T, strict=True))
    )
    read = read_here(record_of(write(data, tmp_path)), PLAIN)
    assert read.xy is not None
    assert np.array_equal(read.xy, xy)
    assert read.unit == unit


@pytest.mark.parametrize("key", ["Spatial", "X_spatial", "spatial_coords", "coordinates"])
def test_obsm_may_call_the_positions_otherwise(tmp_path, key):
    data = make_anndata(Spec(seed=3, rows=8, cols=8))
    xy = data.obsm.pop("spatial")
    data.obsm[key] = xy
    read = read_here(record_of(write(data, tmp_path)), PLAIN)
    assert read.xy is not None
    assert np.array_equal(read.xy, xy)


def test_without_coordinates_the_message_lists_what_is_there(tmp_path):
    data = make_anndata(Spec(seed=3, rows=8, cols=8))
    data.obsm["X_umap"] = data.obsm.pop("spatial")
    del data.obs["array_row"], data.obs["array_col"]
    with pytest.raises(BadInputError, match=r"B046.*obs has 'in_tissue'.*'X_umap'.*--positions"):
        read_here(record_of(write(data, tmp_path)), PLAIN)


def test_one_plane_of_three_dimensions_is_flat_and_several_are_refused(tmp_path):
    data = make_anndata(Spec(seed=3, rows=8, cols=8))
    xy = data.obsm["spatial"]
    data.obsm["spatial"] = np.column_stack([xy, np.full(len(xy), 4.5)])
    read = read_here(record_of(write(data, tmp_path)), PLAIN)
    assert read.xy is not None
    assert np.array_equal(read.xy, xy)
    data.obsm["spatial"][0, 2] = 9
    read = read_here(record_of(write(data, tmp_path)), PLAIN)  # the array says where spots are
    assert read.xy is not None
    assert np.array_equal(read.xy, xy)
    del data.obs["array_row"], data.obs["array_col"]
    with pytest.raises(BadInputError, match=r"B047.*third column.*2 planes.*--split-by COLUMN"):
        read_here(record_of(write(data, tmp_path)), GridConfig(layout="bin"))
    data.obsm["spatial"] = np.zeros((data.n_obs, 4))
    with pytest.raises(BadInputError, match=r"B047.*rows of \(x, y\), got shape"):
        read_here(record_of(write(data, tmp_path)), PLAIN)


@pytest.mark.parametrize("how", ["h5ad", "zarr"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_planes_of_a_third_column_are_told_apart_by_a_column_of_obs(how, tmp_path):
    data, _ = in_planes("obsm")
    depths = data.obs.pop("z").to_numpy()
    data.obsm["spatial"] = np.column_stack([data.obsm["spatial"], depths])
    data.obs["Bregma"] = [f"b{depth}" for depth in depths]
    path = tmp_path / f"s.{how}"
    (data.write_zarr if how == "zarr" else data.write_h5ad)(path)
    config = GridConfig(layout="bin", bin_size=200)
    with pytest.raises(BadInputError, match=r"B047.*third column.*4 planes"):
        read_here(record_of(path), config)
    manifest = Manifest(name="m", records=(record_of(path, split_by="Bregma"),))
    parts = [read_here(p, config) for p in expand_sections(manifest, config, None).records]
    assert [len(part.barcodes) for part in parts] == [18] * 4
    data.obs["half"] = [f"h{i % 2}" for i in range(data.n_obs)]  # each has two depths
    (data.write_zarr if how == "zarr" else data.write_h5ad)(path)
    manifest = Manifest(name="m", records=(record_of(path, split_by="half"),))
    part = expand_sections(manifest, config, None).records[0]
    with pytest.raises(BadInputError, match=r"B047.*third column.*2 planes"):
        read_here(part, config)


PLANES: dict[str, tuple[list[str], list[Any]]] = {
    "numbers": (["x", "y", "z"], [0.0, 1.0, 2.0, 3.0]),
    "text": (["x", "y", "z"], ["a", "b", "c", "d"]),
    "centroids": (["x_centroid", "y_centroid", "z_centroid"], [0.5, 1.5, 2.5, 3.5]),
    "centres": (["CENTER_X", "CENTER_Y", "CENTER_Z"], [0, 1, 2, 3]),
    "obsm": (["", "", "z"], [0, 1, 2, 3]),
}


def in_planes(name, n_planes=4):
    names, depths = PLANES[name]
    data = make_anndata(Spec(kind="square", rows=9, cols=8, drop=0))
    del data.obs["array_row"], data.obs["array_col"]
    rng = np.random.default_rng(0)
    data.obsm["spatial"] = rng.uniform(0, 1000, (data.n_obs, 2))
    if names[0]:
        xy = data.obsm.pop("spatial")
        data.obs[names[0]], data.obs[names[1]] = xy[:, 0], xy[:, 1]
    data.obs[names[2]] = [depths[i % n_planes] for i in range(data.n_obs)]
    return data, names[2]


@pytest.mark.parametrize("how", ["h5ad", "zarr"])
@pytest.mark.parametrize("name", PLANES)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_cells_of_several_planes_are_refused_and_each_plane_is_a_slice(name, how, tmp_path):
    data, column = in_planes(name)
    path = tmp_path / f"s.{how}"
    (data.write_zarr if how == "zarr" else data.write_h5ad)(path)
    config = GridConfig(layout="bin", bin_size=200)
    with pytest.raises(BadInputError, match=rf"B047.*/obs/{column}.*4 planes.*--split-by {column}"):
        read_here(record_of(path), config)
    record = record_of(path, split_by=column)
    manifest = expand_sections(Manifest(name="m", records=(record,)), config, None)
    parts = [read_here(part, config) for part in manifest.records]
    assert [len(part.barcodes) for part in parts] == [18] * 4


@pytest.mark.parametrize("name", PLANES)
def test_one_plane_and_depths_beside_an_array_say_nothing(name, tmp_path):
    data, column = in_planes(name, n_planes=1)
    data.obs.loc[data.obs_names[3], column] = np.nan
    if not isinstance(PLANES[name][1][0], str):
        data.obs[column] = data.obs[column].astype(float)
    assert len(read_here(record_of(write(data, tmp_path)), PLAIN).barcodes) == data.n_obs
    data = make_anndata(Spec(rows=9, cols=8))
    data.obs["z"] = np.arange(data.n_obs)
    path = write(data, tmp_path, "array")
    assert len(read_here(record_of(path), PLAIN).barcodes) == data.n_obs
    with pytest.raises(BadInputError, match=r"B047.*planes"):
        read_here(record_of(path), GridConfig(layout="bin"))


def test_a_table_of_positions_says_where_cells_of_any_depth_are(tmp_path):
    data, _ = in_planes("numbers")
    rows = [f"{name},{i % 9},{i // 9}" for i, name in enumerate(data.obs_names)]
    (tmp_path / "p.csv").write_text("\n".join(["cell,x,y", *rows]) + "\n")
    record = record_of(write(data, tmp_path), positions=str(tmp_path / "p.csv"))
    assert len(read_here(record, PLAIN).barcodes) == data.n_obs


@pytest.mark.parametrize(
    ("marks", "n_off"),
    [(["True", "False"], True), ([1.0, np.nan], True), (["1", "0"], True), ([1, 2], None)],
    ids=["words", "nan", "text", "two"],
)
def test_marks_of_the_tissue_are_zero_or_one_however_written(tmp_path, marks, n_off):
    data = make_anndata(Spec(seed=3, rows=8, cols=8))
    data.obs["in_tissue"] = [marks[i % 2] for i in range(data.n_obs)]
    path = write(data, tmp_path)
    if n_off is None:
        with pytest.raises(BadInputError, match=r"B047.*neither 0 nor 1 \(first: '2'"):
            read_here(record_of(path), PLAIN)
        return
    assert read_here(record_of(path), PLAIN).ledger["spots_off_tissue"] == data.n_obs // 2


@pytest.mark.parametrize("name", ["batch", "Sample", "library_id", "puck"])
def test_columns_of_many_names_tell_sections_apart(tmp_path, name):
    """Two lattices on top of each other fit a finer one, where nobody says that they are two."""
    data = two_sections(37.0)
    data.obs = data.obs.rename(columns={"section": name})
    path = write(data, tmp_path)
    with pytest.raises(BadInputError, match=rf"B056.*2 sections.*--split-by {name}"):
        read_here(record_of(path), PLAIN)


def test_parts_of_one_section_are_no_sections_on_top_of_each_other(tmp_path):
    """Their bounding boxes overlap; their spots never come closer than a step."""
    data = make_anndata(Spec(seed=3, rows=12, cols=12))
    inner = (np.abs(data.obs["array_row"] - 6) < 3) & (np.abs(data.obs["array_col"] - 12) < 6)
    data.obs["sample"] = np.where(inner, "core", "rim")
    read = read_here(record_of(write(data, tmp_path)), PLAIN)
    assert "B056" in codes(read)
    assert len(read.barcodes) == data.n_obs


def test_sections_of_a_cellxgene_file_can_be_split(tmp_path):
    data = two_sections(30.0)
    data.uns["spatial"] = {"is_single": False}
    data.raw = data.copy()
    data.X = data.X.astype(np.float32) * 0.5
    record = record_of(write(data, tmp_path), split_by="section", part="L2")
    mine = data.raw[data.obs["section"] == "L2"]
    assert int(read_here(record, PLAIN).counts.sum()) == int(mine.X.sum())
