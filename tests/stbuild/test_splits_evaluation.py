"""The newer evaluation splits: wide buffer, few shots, donors and pairs held out."""

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.spatial.distance import cdist

from stbuild.config import GridConfig
from stbuild.corpus.digests import sha256_bytes
from stbuild.corpus.documents import read_document
from stbuild.corpus.split_documents import SplitDocument
from stbuild.splits import evaluation_splits
from stbuild.splits.blocks import assign_block20_wide
from stbuild.splits.few_shot import SHOTS, assign_few_shot
from tests.slices import Spec, grid_of, write_slice

ALWAYS = {"paper20", "block20", "few-shot-1", "few-shot-5", "few-shot-20"}


def codes_of(text):
    return np.asarray(list(text))


def belong(grid, slug, **fields):
    return replace(grid, meta=grid.meta.model_copy(update={"slug": slug, **fields}))


def relabel(grid, labels, names):
    meta = grid.meta.model_copy(update={"label_names": tuple(names)})
    return replace(grid, labels=np.asarray(labels, np.int16), meta=meta)


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    path = tmp_path_factory.mktemp("s") / "big.h5ad"
    return grid_of(write_slice(path, Spec(seed=6, rows=48, cols=40, n_genes=5)))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("s") / "small.h5ad"
    return grid_of(write_slice(path, Spec(seed=8, rows=16, cols=16, n_genes=5)))


def by_task(grids, **options):
    return {document.task: document for document in evaluation_splits(grids, **options)}


def test_the_bytes_of_paper20_and_block20_are_those_of_the_first_release(grid):
    """Digests taken before these splits had fields for groups and undefined slices."""
    found = by_task([grid])
    digests = {task: sha256_bytes(found[task].to_bytes())[:16] for task in ("paper20", "block20")}
    assert digests == {"paper20": "a7243994c8473610", "block20": "75612a4667f72352"}


@pytest.mark.parametrize("off", [1e-14, -1e-14, 4e-9, -4e-9])
def test_the_last_bits_of_a_pitch_do_not_decide_on_spots_at_the_edge(grid, off):
    """On this lattice spots lie exactly 400 um apart."""
    (wanted, found) = (
        evaluation_splits([replace(grid, meta=grid.meta.model_copy(update={"pitch": pitch}))])
        for pitch in (grid.meta.pitch, grid.meta.pitch * (1 + off))
    )
    assert wanted == found


def test_documents_read_back(grid, small):
    grids = [belong(grid, "one", donor="A"), belong(small, "two", donor="B")]
    found = by_task(grids, window=8, pairs={"one": "p", "two": "q"})
    assert set(found) == ALWAYS | {"block20-wide", "donor-out", "pair-out"}
    for document in found.values():
        assert read_document(SplitDocument, document.to_bytes(), "x") == document


def test_what_is_undefined_has_no_codes(grid):
    (document, *_) = evaluation_splits([grid])
    assert b"undefined" not in document.to_bytes()
    assert b"held_out" not in document.to_bytes()
    with pytest.raises(ValidationError, match="slice big is undefined and has barcodes"):
        SplitDocument(**dict(document) | {"undefined": {"big": "why"}})


def test_input_order_leaves_no_trace(grid, small):
    grids = [belong(grid, "one", donor="A"), belong(small, "two", donor="B")]
    one = [document.to_bytes() for document in evaluation_splits(grids)]
    assert [document.to_bytes() for document in evaluation_splits(grids[::-1])] == one


def test_the_wide_buffer_is_half_a_window_of_cells(grid):
    for seed in range(3):
        codes = codes_of(assign_block20_wide(grid, seed, 12))
        cells = np.stack([grid.rows, grid.cols], axis=1)
        assert cdist(cells[codes == "T"], cells[codes == "E"], "chebyshev").min() > 6
        assert (codes == "E").sum() >= 0.1 * ((codes == "E") | (codes == "b")).sum()
        assert len(set(grid.labels[codes == "E"]) & set(grid.labels[codes == "T"])) >= 2


def test_a_slice_too_small_for_the_wide_buffer_is_named(grid, small):
    found = by_task([grid, small], window=20)["block20-wide"]
    assert set(found.undefined) == {"small"}
    assert "small" not in found.barcodes
    assert all(set(a.slices) == {"big"} for a in found.assignments)
    assert "block20-wide" not in by_task([small], window=32)


@pytest.mark.parametrize("shots", SHOTS)
def test_few_shots_train_so_many_of_each_class(grid, shots):
    codes = codes_of(assign_few_shot(grid, 1, shots))
    for label in range(len(grid.meta.label_names)):
        members = codes[grid.labels == label]
        assert (members == "T").sum() == shots
        assert (members == "E").sum() == members.size - shots


def test_few_shots_are_nested_and_leave_half_of_a_small_class(grid):
    labels = grid.labels.copy()
    labels[labels == 2] = 1
    labels[:7], labels[7] = 2, -1
    few = relabel(grid, labels, grid.meta.label_names)
    train = [codes_of(assign_few_shot(few, 0, shots)) == "T" for shots in SHOTS]
    assert not (train[0] & ~train[1]).any()
    assert not (train[1] & ~train[2]).any()
    assert (train[2] & (labels == 2)).sum() == 3
    assert not train[2][7]


def test_each_donor_is_held_out_once_and_unknown_classes_are_not_scored(small):
    n = len(small.barcodes)
    a = relabel(belong(small, "a", donor="A"), np.arange(n) % 2, ["core", "rim"])
    # Codes differ between slices: class names decide.
    b = relabel(belong(small, "b", donor="B"), np.arange(n) % 3 - 1, ["necrosis", "rim"])
    lost = relabel(belong(small, "lost"), np.arange(n) % 2, ["core", "rim"])
    found = by_task([b, lost, a])["donor-out"]
    assert not found.transductive
    assert found.undefined == {"lost": "its donor is unknown"}
    assert [(x.seed, x.held_out) for x in found.assignments] == [(0, "A"), (1, "B")]
    first, second = (x.slices for x in found.assignments)
    assert set(first["b"]) == {"T", "."}
    assert "".join(np.where(a.labels == 1, "E", "x")) == first["a"]
    assert set(second["a"]) == {"T"}
    expected = np.asarray([".", "x", "E"])[b.labels + 1]
    assert "".join(expected) == second["b"]


@pytest.mark.parametrize(
    "owners",
    [["A", "A"], [None, None], ["A", None]],
    ids=["one_donor", "unknown", "one_known"],
)
def test_donor_out_needs_two_donors(small, owners):
    grids = [belong(small, f"s{i}", donor=owner) for i, owner in enumerate(owners)]
    assert set(by_task(grids, window=32)) == ALWAYS


def test_donor_out_is_not_written_where_donors_share_no_class(small):
    n = len(small.barcodes)
    a = relabel(belong(small, "a", donor="A"), np.arange(n) % 2, ["core", "rim"])
    b = relabel(belong(small, "b", donor="B"), np.arange(n) % 2, ["cortex", "medulla"])
    assert "donor-out" not in by_task([a, b])


def test_a_pair_is_held_out_whole(small):
    owners = {"a1": "A", "a2": "A", "a3": "A", "b1": "B", "b2": "B"}
    grids = [belong(small, slug, donor=donor) for slug, donor in owners.items()]
    pairs = {"a1": "1", "a2": "1", "a3": "2", "b1": "1", "b2": None}
    found = by_task(grids, pairs=pairs)["pair-out"]
    assert [x.held_out for x in found.assignments] == ["A/1", "A/2", "B/1"]
    assert found.undefined == {"b2": "it has no pair"}
    tested = [{s for s, c in x.slices.items() if "E" in c} for x in found.assignments]
    assert tested == [{"a1", "a2"}, {"a3"}, {"b1"}]


def test_real_sections_get_every_split_that_they_can_have(shared_data):
    config = GridConfig(label="label")
    grids = [
        grid_of(shared_data / f"her2st/{name}.h5ad", config, donor=name[0]) for name in ("B1", "C1")
    ]
    found = by_task(grids, window=16)
    assert set(found) >= ALWAYS | {"donor-out"}
    held = found["donor-out"].assignments[0].slices["b1"]
    # Breast glands are in B1 only.
    scored = codes_of(held)[grids[0].labels >= 0]
    assert (scored == "x").sum() == 41
