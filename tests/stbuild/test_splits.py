"""Evaluation splits: sides disjoint, stratified, buffered, the same whatever the order."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from stbuild.splits import BUFFER_UM, assign_block20, assign_paper20, evaluation_splits
from tests.slices import Spec, grid_of, write_slice


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    path = tmp_path_factory.mktemp("s") / "big.h5ad"
    return grid_of(write_slice(path, Spec(seed=6, rows=48, cols=40, n_genes=5)))


def test_paper20_trains_on_a_fifth_of_every_class(grid):
    codes = np.asarray(list(assign_paper20(grid, 0)))
    for label in range(len(grid.meta.label_names)):
        members = codes[grid.labels == label]
        assert set(members) == {"T", "E"}
        assert (members == "T").sum() == int(0.2 * members.size + 0.5)


def test_seeds_differ_and_repeat(grid):
    assert assign_paper20(grid, 0) == assign_paper20(grid, 0) != assign_paper20(grid, 1)
    assert assign_block20(grid, 0) == assign_block20(grid, 0) != assign_block20(grid, 1)


def test_block20_keeps_tiles_whole_and_the_buffer_wide(grid):
    codes = np.asarray(list(assign_block20(grid, 0)))
    scale = grid.meta.pitch_um / grid.meta.pitch
    train, test = grid.xy[codes == "T"] * scale, grid.xy[codes == "E"] * scale
    assert cdist(train, test).min() > BUFFER_UM
    tile = grid.rows // 8 * 1000 + grid.cols // 8
    assert not set(tile[codes == "T"]) & set(tile[codes != "T"])
    assert set(grid.labels[codes == "T"]) == set(grid.labels[codes == "E"]) == {0, 1, 2}


def test_without_a_pitch_the_buffer_is_in_cells(grid):
    bare = grid.__class__(**{**vars(grid), "meta": grid.meta.model_copy(update={"pitch_um": None})})
    codes = np.asarray(list(assign_block20(bare, 0)))
    cells = np.stack([grid.rows, grid.cols], axis=1)
    assert cdist(cells[codes == "T"], cells[codes == "E"]).min() > 4


def test_unlabelled_spots_take_no_side_and_unlabelled_slices_no_split(grid):
    labels = grid.labels.copy()
    labels[::7] = -1
    partly = grid.__class__(**{**vars(grid), "labels": labels})
    for assign in (assign_paper20, assign_block20):
        codes = np.asarray(list(assign(partly, 0)))
        assert ((codes == ".") == (labels == -1)).all()
    none = grid.__class__(**{**vars(grid), "labels": np.full_like(labels, -1)})
    assert evaluation_splits([none]) == []
    tasks = [s.task for s in evaluation_splits([none, partly])]
    assert tasks[:2] == ["paper20", "block20"]


def test_a_class_of_two_spots_never_blocks_a_split(grid):
    labels = np.where(grid.labels == 2, 1, grid.labels)
    labels[:2] = 2
    rare = grid.__class__(**{**vars(grid), "labels": labels})
    assert {"T", "E"} <= set(assign_block20(rare, 0))
