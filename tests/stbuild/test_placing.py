"""Placing: slice -> grid -> slice for every layout; shared cells, labels and molecules add up."""

from dataclasses import replace

import anndata
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from stbuild.config import GridConfig
from stbuild.corpus.documents import SourceFile
from stbuild.corpus.errors import BadInputError
from stbuild.corpus.names import MAX_LABELS
from stbuild.grid.placing import build_grid, placing_notices
from stbuild.grid.store import write_grid
from stbuild.lattices import Lattice, snap
from stbuild.lattices.fourier import find_waves
from stbuild.lattices.lattice import round_angle
from stbuild.slices import Slice, SliceRecord
from tests.slices import Spec, grid_of, make_anndata, write_slice
from tests.trees import tree_digests

RECORD = SliceRecord(name="S", slug="s", path="s.h5ad", source_name="s.h5ad")


@st.composite
def placed(draw, *, shared):
    """A slice of random counts, and a cell for each of its spots; some may lie off the grid."""
    n = draw(st.integers(1, 25))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    shape = (draw(st.integers(5, 8)), draw(st.integers(5, 8)))
    cells = shape[0] * shape[1]
    at = rng.integers(cells, size=n) if shared else rng.permutation(cells)[:n]
    row, col = (part.astype(np.int32) for part in np.divmod(at, shape[1]))
    off = rng.random(n) < 0.2
    off[0] = False
    row[off] = col[off] = -1
    dense = rng.poisson(0.7, (n, 6)).astype(np.uint32)
    dense[:, 0] += 1
    labels = [None if code == 3 else "abc"[code] for code in rng.integers(4, size=n)]
    st_slice = Slice(
        counts=csr_array(dense),
        genes=[f"G{i}" for i in range(6)],
        totals=dense.sum(axis=1).astype(np.int64) + 5,
        barcodes=[f"b{i:03d}" for i in rng.permutation(n)],
        array_row=None,
        array_col=None,
        xy=rng.normal(size=(n, 2)),
        labels=labels,
        sources=(SourceFile(name="s.h5ad", bytes=1, sha256="0" * 64),),
    )
    lattice = Lattice(
        layout=draw(st.sampled_from(["square", "rank", "hex-offset"])),
        kind="square",
        row=row,
        col=col,
        shape=shape,
        pitch=1.0,
        evidence="said so",
        measures={},
    )
    return st_slice, lattice


def shuffled(st_slice, lattice, seed):
    order = np.random.default_rng(seed).permutation(len(st_slice.barcodes))
    moved = {
        "counts": csr_array(st_slice.counts[order]),
        "totals": st_slice.totals[order],
        "barcodes": [st_slice.barcodes[i] for i in order],
        "xy": st_slice.xy[order],
        "labels": [st_slice.labels[i] for i in order],
    }
    at = {"row": lattice.row[order], "col": lattice.col[order]}
    return Slice(**{**vars(st_slice), **moved}), Lattice(**{**vars(lattice), **at})


@given(placed(shared=False))
def test_every_spot_comes_back_with_its_counts_label_and_position(made):
    st_slice, lattice = made
    grid = build_grid(RECORD, GridConfig(), st_slice, lattice)
    dense = st_slice.counts.toarray()
    back = {barcode: i for i, barcode in enumerate(st_slice.barcodes)}
    assert sorted(grid.barcodes) == sorted(
        b for b, row in zip(st_slice.barcodes, lattice.row, strict=True) if row >= 0
    )
    for i, barcode in enumerate(grid.barcodes):
        j = back[barcode]
        assert (grid.rows[i], grid.cols[i]) == (lattice.row[j], lattice.col[j])
        assert (grid.counts[[i]].toarray()[0] == dense[j]).all()
        assert grid.totals[i] == st_slice.totals[j]
        assert (grid.xy[i] == st_slice.xy[j]).all()
        name = None if grid.labels[i] < 0 else grid.meta.label_names[grid.labels[i]]
        assert name == st_slice.labels[j]
    assert grid.members is None


@given(placed(shared=True), st.integers(0, 100))
def test_what_shares_a_cell_is_summed_and_remembered(made, seed):
    st_slice, lattice = made
    grid = build_grid(RECORD, GridConfig(collisions="sum"), st_slice, lattice)
    dense = st_slice.counts.toarray().astype(int)
    ledger = grid.meta.ledger
    on = lattice.row >= 0
    assert int(grid.counts.sum()) == dense[on].sum()
    assert int(grid.totals.sum()) == ledger["molecules_on_grid"] == st_slice.totals[on].sum()
    assert ledger["molecules_off_grid"] == st_slice.totals[~on].sum()
    assert ledger["spots_off_grid"] == np.count_nonzero(~on)
    assert grid.meta.n_members == np.count_nonzero(on)
    if grid.members is not None:
        back = {barcode: i for i, barcode in enumerate(st_slice.barcodes)}
        for barcode, site in zip(grid.members.barcodes, grid.members.spots, strict=True):
            j = back[barcode]
            assert (grid.rows[site], grid.cols[site]) == (lattice.row[j], lattice.col[j])
        for site in range(grid.meta.n_spots):
            mine = [
                back[b]
                for b, s in zip(grid.members.barcodes, grid.members.spots, strict=True)
                if s == site
            ]
            assert (grid.counts[[site]].toarray()[0] == dense[mine].sum(axis=0)).all()
            assert grid.xy[site] == pytest.approx(st_slice.xy[mine].mean(axis=0))
            votes = [st_slice.labels[j] for j in mine if st_slice.labels[j] is not None]
            wanted = max(sorted(set(votes)), key=votes.count) if votes else None
            code = grid.labels[site]
            assert (None if code < 0 else grid.meta.label_names[code]) == wanted
    again = build_grid(RECORD, GridConfig(collisions="sum"), *shuffled(st_slice, lattice, seed))
    assert again.meta.counts_digest == grid.meta.counts_digest
    assert list(again.barcodes) == list(grid.barcodes)


@given(placed(shared=True), st.integers(0, 100))
def test_only_the_first_by_id_stays_when_asked_and_the_rest_is_counted(made, seed):
    st_slice, lattice = made
    config = GridConfig(collisions="first")
    grid = build_grid(RECORD, config, st_slice, lattice)
    ledger = grid.meta.ledger
    on = np.flatnonzero(lattice.row >= 0)
    firsts: dict[tuple[int, int], str] = {}
    for j in on:
        cell = (int(lattice.row[j]), int(lattice.col[j]))
        firsts[cell] = min(firsts.get(cell, "z"), st_slice.barcodes[j])
    assert sorted(grid.barcodes) == sorted(firsts.values())
    assert ledger["spots_dropped_collisions"] == on.size - len(firsts)
    kept = int(grid.totals.sum())
    assert kept + ledger["molecules_dropped_collisions"] == st_slice.totals[on].sum()
    again = build_grid(RECORD, config, *shuffled(st_slice, lattice, seed))
    assert again.meta.content == grid.meta.content


def test_bins_are_named_by_their_cell_and_keep_their_cells():
    counts = csr_array(np.asarray([[1, 0], [2, 3], [0, 4]], np.uint32))
    st_slice = Slice(
        counts=counts,
        genes=["A", "B"],
        totals=np.asarray([1, 5, 4]),
        barcodes=["c", "a", "b"],
        array_row=None,
        array_col=None,
        xy=np.asarray([[0.0, 0.0], [1.0, 1.0], [9.0, 9.0]]),
        unit="um",
        labels=["x", "y", "y"],
        sources=(SourceFile(name="s", bytes=1, sha256="0" * 64),),
    )
    at = np.asarray([0, 0, 1], np.int32)
    lattice = Lattice(
        layout="bin", kind="irregular", row=at, col=at, shape=(2, 2), pitch=5.0, evidence="",
        measures={"n_collisions": 1.0},
    )  # fmt: skip
    grid = build_grid(RECORD, GridConfig(layout="bin"), st_slice, lattice)
    assert list(grid.barcodes) == ["bin_0_0", "bin_1_1"]
    assert grid.counts.toarray().tolist() == [[3, 3], [0, 4]]
    assert grid.totals.tolist() == [6, 4]
    assert grid.members is not None
    assert list(grid.members.barcodes) == ["a", "c", "b"]
    assert grid.members.spots.tolist() == [0, 0, 1]
    assert grid.meta.label_names == ("x", "y")
    assert grid.labels.tolist() == [0, 1]
    assert grid.meta.pitch_um == 5.0


def test_two_sections_that_nobody_tells_apart_leave_a_sparse_lattice_and_a_word(tmp_path):
    """Their spots fit a finer lattice, most of which stays empty."""
    first, second = (make_anndata(Spec(seed=seed, drop=0)) for seed in (1, 2))
    second.obsm["spatial"] = second.obsm["spatial"] + [37.0, 21.0]
    data = anndata.concat([first, second], index_unique="-")
    del data.obs["array_row"], data.obs["array_col"]
    for name, kept in (("both", data), ("one", data[: first.n_obs])):
        kept.write_h5ad(tmp_path / f"{name}.h5ad")
        said = [
            n.what for n in placing_notices(grid_of(tmp_path / f"{name}.h5ad", GridConfig()).meta)
        ]
        assert any("several sections" in what for what in said) == (name == "both")


def shake_fits(patch):
    """As if another LAPACK had made them."""
    fit, find = np.linalg.lstsq, find_waves

    def fit_otherwise(*arguments, **named):
        solution, *others = fit(*arguments, **named)
        return solution * np.asarray([[1 + 1e-14], [1 - 2e-14]]) + 1e-13, *others

    def find_otherwise(*arguments):
        for waves in find(*arguments):
            yield replace(waves, K=waves.K * (1 + 1e-14), amplitude=waves.amplitude * (1 - 1e-14))

    patch.setattr(np.linalg, "lstsq", fit_otherwise)
    patch.setattr(snap, "find_waves", find_otherwise)


@pytest.mark.parametrize("kind", ["hex", "square"])
@pytest.mark.parametrize("coords", ["array", "positions"])
def test_the_last_bits_of_a_fit_reach_no_byte(tmp_path, monkeypatch, kind, coords):
    path = write_slice(tmp_path / "one.h5ad", Spec(kind, seed=5))
    config = GridConfig(label="label", coords=coords)
    write_grid(tmp_path / "a.zarr", grid_of(path, config), "0" * 64)
    shake_fits(monkeypatch)
    write_grid(tmp_path / "b.zarr", grid_of(path, config), "0" * 64)
    assert tree_digests(tmp_path / "a.zarr") == tree_digests(tmp_path / "b.zarr")


@pytest.mark.parametrize(
    ("degrees", "told"), [(-1e-12, 0.0), (-180.0, 180.0), (-60 + 1e-12, -60.0)]
)
def test_angles_are_told_in_one_way(degrees, told):
    assert str(round_angle(degrees)) == str(told)


@pytest.mark.parametrize("labels_file", [None, "classes.csv"])
def test_more_labels_than_codes_are_refused_with_their_column(labels_file):
    n = MAX_LABELS + 1
    row, col = (part.astype(np.int32) for part in np.divmod(np.arange(n), 256))
    st_slice = Slice(
        counts=csr_array(np.ones((n, 1), np.uint32)),
        genes=["G"],
        totals=np.ones(n, np.int64),
        barcodes=[f"b{i:05d}" for i in range(n)],
        array_row=None,
        array_col=None,
        xy=None,
        labels=[None, *(f"L{i:05d}" for i in range(1, n))],
        sources=(SourceFile(name="s.h5ad", bytes=1, sha256="0" * 64),),
    )
    lattice = Lattice(
        layout="square", kind="square", row=row, col=col, shape=(128, 256), pitch=1.0,
        evidence="said so", measures={},
    )  # fmt: skip
    config, record = GridConfig(label="cell"), replace(RECORD, labels_file=labels_file)
    grid = build_grid(record, config, st_slice, lattice)
    assert grid.labels.tolist() == list(range(-1, MAX_LABELS))
    one_more = replace(st_slice, labels=[f"L{i:05d}" for i in range(n)])
    said = rf"B079.*\({labels_file or 's.h5ad'}:cell\): column 'cell' has 32,768 different labels"
    with pytest.raises(BadInputError, match=said):
        build_grid(record, config, one_more, lattice)
