"""Gene choice and crops, compared with the obvious dense computation."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from stbuild.corpus.documents import ShardConfig
from stbuild.genes.vocabulary import Vocabulary, union_vocabulary
from stbuild.patches import cutting
from stbuild.patches.cropping import whole_sample
from stbuild.patches.cutting import cut_slice, plan_parts, plan_windows
from stbuild.patches.moments import SCALE, WindowMoments, slice_moments, variance_weights
from stbuild.windows import Window, plan_training
from tests.slices import Spec, grid_of, write_slice

LABELS = ("inner", "outer", "rim")


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    path = write_slice(tmp_path_factory.mktemp("p") / "one.h5ad", Spec(seed=4, rows=22, cols=14))
    return grid_of(path)


def dense_counts(grid):
    """The (H, W, K) array of Algorithm 1."""
    dense = np.zeros((*grid.meta.shape, grid.meta.n_genes), np.int64)
    dense[grid.rows, grid.cols] = grid.counts.toarray()
    return dense


def dense_values(grid):
    total = np.zeros(grid.meta.shape, np.int64)
    total[grid.rows, grid.cols] = grid.totals
    scaled = 1e4 * dense_counts(grid) / np.maximum(total, 1)[:, :, None]
    return np.rint(SCALE * np.log1p(scaled)).astype(np.int64), total


def test_window_sums_equal_dense_sums(grid):
    config = ShardConfig(window=6, genes=8, n_per_slice=30, min_fill=0)
    windows = plan_training(grid.occupied(), grid.meta.counts_digest, config)
    values, _ = dense_values(grid)
    totals = np.zeros(grid.meta.shape, np.uint32)
    totals[grid.rows, grid.cols] = grid.totals
    seen = []
    for members, first, second in WindowMoments(
        dense_counts(grid).transpose(0, 2, 1), totals
    ).origins(windows, 6):
        for window in members:
            box = values[window.row : window.row + 6, window.col : window.col + 6]
            assert first.tolist() == box.sum((0, 1)).tolist()
            assert second.tolist() == (box**2).sum((0, 1)).tolist()
            seen.append(window.number)
    assert sorted(seen) == list(range(30))


def test_window_sums_are_exact_for_large_counts_at_the_edges_of_blocks_and_for_shared_origins():
    rng = np.random.default_rng(3)
    H, G, W, P = 9, 1025, 7, 4
    dense = rng.poisson(0.5, (H, G, W)).astype(np.uint32)
    totals = rng.integers(1, 10**6, (H, W)).astype(np.uint32)
    totals[:, 0] = totals[3] = 0
    dense[:, :, 0] = dense[3] = 0
    dense[5, [0, 511, 512, 1024], 2] = (255, 256, 10**6, 257)
    scaled = 1e4 * dense / np.maximum(totals, 1)[:, None]
    values = np.rint(SCALE * np.log1p(scaled)).astype(np.int64)
    places = [(0, 0), (5, 3), (5, 3), (2, 1), (2, 0), (5, 0)]
    windows = [
        Window(number=i, row=row, col=col, observed=1) for i, (row, col) in enumerate(places)
    ]
    seen = []
    for members, first, second in WindowMoments(dense, totals).origins(windows, P):
        assert len({(window.row, window.col) for window in members}) == 1
        box = values[members[0].row : members[0].row + P, :, members[0].col : members[0].col + P]
        assert first.tolist() == box.sum((0, 2)).tolist()
        assert second.tolist() == (box**2).sum((0, 2)).tolist()
        seen.append([window.number for window in members])
    assert seen == [[0], [4], [3], [5], [1, 2]]


def test_whole_sums_equal_dense_sums(grid):
    values, _ = dense_values(grid)
    first, second = slice_moments(grid.counts, grid.totals)
    assert first.tolist() == values.sum((0, 1)).tolist()
    assert second.tolist() == (values**2).sum((0, 1)).tolist()


@pytest.mark.parametrize("n_sites", [4_096, 4_097, 20_000, 40_000, 2**27])
def test_weights_of_a_large_slice_are_those_of_python_integers(n_sites):
    n_spots = min(n_sites, 40_000)
    rng = np.random.default_rng(6)
    # Few molecules a spot, as in narrow bins: a gene seen in half of them has a variance of 9.
    seen = np.linspace(0, 1, 12)
    counts = 2 * (rng.random((n_spots, seen.size)) < seen).astype(np.uint32)
    totals = rng.integers(30, 120, n_spots).astype(np.uint32)
    first, second = slice_moments(csr_array(counts), totals)
    values = np.rint(SCALE * np.log1p(1e4 * counts / totals[:, None])).astype(int).T.tolist()
    exact = [n_sites * sum(q * q for q in own) - sum(own) ** 2 for own in values]
    assert min(exact) == 0
    assert n_sites < 20_000 or max(exact) >= 2**63
    expected = [float(number) / (float(n_sites) ** 2 * 2.0**32) + 1e-6 for number in exact]
    for kind in (np.int64, object):
        found = variance_weights(first.astype(kind), second.astype(kind), n_sites, 1e-6)
        assert found.tolist() == expected


def test_sums_of_more_spots_than_64_bits_hold_are_the_same_choice(grid, monkeypatch):
    vocabulary, config = union_vocabulary([grid.genes]), MODES["evaluation"]
    as_ever = [patch.content() for _, patch in cut_slice(grid, vocabulary, LABELS, config)]
    monkeypatch.setattr(cutting, "SUMMED_AT_ONCE", 64)
    blocks = []

    def watched(counts, totals):
        blocks.append(totals.size)
        return slice_moments(counts, totals)

    monkeypatch.setattr(cutting, "slice_moments", watched)
    found = [patch.content() for _, patch in cut_slice(grid, vocabulary, LABELS, config)]
    assert found == as_ever
    assert max(blocks) <= 64 < sum(blocks)


def test_a_crop_is_the_slice_of_the_dense_grid(grid):
    vocabulary = union_vocabulary([grid.genes])
    config = ShardConfig(window=7, genes=11, n_per_slice=9)
    dense, (_, total) = dense_counts(grid), dense_values(grid)
    for window, patch in cut_slice(grid, vocabulary, LABELS, config):
        box = np.s_[window.row : window.row + 7, window.col : window.col + 7]
        assert (patch.counts == dense[box][:, :, patch.genes].transpose(2, 0, 1)).all()
        assert (patch.totals == total[box]).all()
        assert (np.diff(patch.genes) > 0).all()


def test_hvg_takes_the_largest_variances_over_observed_sites(grid):
    config = ShardConfig(window=6, genes=5, n_per_slice=6, select="hvg")
    values, total = dense_values(grid)
    vocabulary = union_vocabulary([grid.genes])
    for window, patch in cut_slice(grid, vocabulary, LABELS, config):
        box = np.s_[window.row : window.row + 6, window.col : window.col + 6]
        spread = values[box][total[box] > 0].var(axis=0)
        best = np.sort(np.argsort(-spread, kind="stable")[:5])
        assert patch.genes.tolist() == best.tolist()


def test_holes_as_zeros_change_the_variance_as_the_paper_reads(grid):
    vocabulary = union_vocabulary([grid.genes])
    values, _ = dense_values(grid)
    config = ShardConfig(window=6, genes=5, n_per_slice=6, select="hvg", holes="zero", min_fill=0)
    for window, patch in cut_slice(grid, vocabulary, LABELS, config):
        box = np.s_[window.row : window.row + 6, window.col : window.col + 6]
        spread = values[box].reshape(36, -1).var(axis=0)
        seen = values[box].sum((0, 1)) > 0
        best = np.sort(np.argsort(-np.where(seen, spread, -1), kind="stable")[:5])
        assert patch.genes.tolist() == best.tolist()


def test_weighted_draws_prefer_variable_genes_and_random_ones_do_not(grid):
    vocabulary = union_vocabulary([grid.genes])
    values, total = dense_values(grid)
    spread = values[total > 0].var(axis=0)

    def mean_spread(select):
        config = ShardConfig(window=8, genes=6, n_per_slice=120, select=select)
        return np.mean(
            [spread[p.genes].mean() for _, p in cut_slice(grid, vocabulary, LABELS, config)]
        )

    assert mean_spread("random") < mean_spread("weighted") < mean_spread("hvg")


def test_a_smaller_vocabulary_moves_no_draw_of_the_genes_it_keeps(grid):
    config = ShardConfig(window=8, genes=6, n_per_slice=1, select="random")
    full = Vocabulary(tuple(grid.genes))
    _, patch = next(cut_slice(grid, full, LABELS, config))
    chosen = {full.genes[i] for i in patch.genes}
    kept = Vocabulary(tuple(sorted(chosen | set(grid.genes[::2]))))
    _, again = next(cut_slice(grid, kept, LABELS, config))
    assert {kept.genes[i] for i in again.genes} == chosen


def test_padding_marks_missing_genes_and_sites(grid):
    vocabulary = Vocabulary(tuple(sorted([*grid.genes[:5], "ZZZ"])))
    config = ShardConfig(window=30, genes=9, n_per_slice=1)
    _, patch = next(cut_slice(grid, vocabulary, LABELS, config))
    H, W = grid.meta.shape
    assert patch.genes.tolist() == [0, 1, 2, 3, 4, -1, -1, -1, -1]
    assert patch.totals[H:].sum() == patch.totals[:, W:].sum() == 0
    assert patch.counts[5:].sum() == 0
    assert patch.meta.n_genes == 5


def test_cover_uses_one_gene_set_per_draw_and_maps_spots_back(grid):
    vocabulary = union_vocabulary([grid.genes])
    config = ShardConfig(window=8, genes=7, n_per_slice=None, cover=4, draws=3)
    sets: dict[int, set[tuple[int, ...]]] = {}
    seen = set()
    for _, patch in cut_slice(grid, vocabulary, LABELS, config):
        sets.setdefault(patch.meta.draw, set()).add(tuple(patch.genes.tolist()))
        assert patch.spots is not None
        assert patch.labels is not None
        inside = patch.spots >= 0
        assert ((patch.totals > 0) == inside).all()
        assert (patch.totals[inside] == grid.totals[patch.spots[inside]]).all()
        assert (patch.labels[inside] == grid.labels[patch.spots[inside]]).all()
        seen |= set(patch.spots[inside].tolist())
    assert {draw: len(found) for draw, found in sets.items()} == {0: 1, 1: 1, 2: 1}
    assert len(set.union(*sets.values())) > 1
    assert seen == set(range(grid.meta.n_spots))


def test_whole_slice_holds_all_vocabulary_counts(grid):
    vocabulary = Vocabulary(tuple(sorted([*grid.genes[3:20], "AAA"])))
    whole = whole_sample(grid, vocabulary, LABELS)
    assert int(whole.data.sum()) == int(grid.counts[:, 3:20].sum())
    assert whole.genes.tolist() == list(range(1, 18))
    assert [b.decode() for b in whole.barcodes] == list(grid.barcodes)


MODES = {
    "training": ShardConfig(window=6, genes=9, n_per_slice=40, min_fill=0),
    "evaluation": ShardConfig(window=6, genes=9, n_per_slice=None, cover=5, draws=2),
    "holes_as_zeros": ShardConfig(window=7, genes=9, n_per_slice=30, holes="zero"),
}


@pytest.mark.parametrize("part_bytes", [1, 4_000, 12_000, 40_000])
@pytest.mark.parametrize("mode", MODES)
def test_a_slice_cut_in_parts_gives_the_same_patches(grid, mode, part_bytes):
    vocabulary, config = union_vocabulary([grid.genes]), MODES[mode]
    whole = {p.meta.key: p.content() for _, p in cut_slice(grid, vocabulary, LABELS, config)}
    parts = cut_slice(grid, vocabulary, LABELS, config, part_bytes=part_bytes)
    assert {patch.meta.key: patch.content() for _, patch in parts} == whole


@pytest.mark.parametrize("part_bytes", [1, 4_000, 12_000, 40_000])
def test_parts_hold_every_window_once_and_stay_within_memory(grid, part_bytes):
    config = MODES["training"]
    windows = plan_windows(grid, config)
    parts = plan_parts(windows, grid.meta.shape, 6, 80, part_bytes)
    assert sorted(w.number for part in parts for w in part.windows) == list(range(40))
    for part in parts:
        height, width = part.box.shape
        assert height * width * 80 <= max(part_bytes, 36 * 80) or len(part.windows) == 1
        for window in part.windows:
            assert part.box.top <= window.row <= part.box.bottom - 6
            assert part.box.left <= window.col <= part.box.right - 6
