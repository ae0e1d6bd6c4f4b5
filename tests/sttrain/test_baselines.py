import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA

from sttrain.baselines import (
    compute_baseline,
    expression,
    nearest_neighbours,
    neighbour_mean,
    parse_method,
)
from sttrain.errors import BadInputError, BadUsageError
from tests.sttrain.judged import make_set, make_whole


def dense_expression(whole):
    counts = np.zeros((whole.meta.n_spots, whole.meta.n_genes))
    spots = np.repeat(np.arange(whole.meta.n_spots), np.diff(whole.indptr))
    counts[spots, whole.indices] = whole.data
    return np.log1p(1e4 * counts / whole.totals[:, None])


@pytest.mark.parametrize(
    ("name", "kind", "neighbours", "components"),
    [
        ("raw", "expression", None, None),
        ("pca50", "expression", None, 50),
        ("nbmean6", "expression", 6, None),
        ("nbmean18-pca50", "expression", 18, 50),
        ("coords", "coords", None, None),
        ("majority", "majority", None, None),
    ],
)
def test_parse_method_reads_every_form(name, kind, neighbours, components):
    method = parse_method(name)
    assert (method.kind, method.neighbours, method.components) == (kind, neighbours, components)


@pytest.mark.parametrize(
    "name", ["", "rwa", "pca", "pca0", "nbmean-pca50", "nbmean6pca50", "-pca5", "raw-pca50", "RAW"]
)
def test_parse_method_refuses_other_names(name):
    with pytest.raises(BadUsageError, match="no baseline of this name"):
        parse_method(name)


def test_parse_method_suggests_the_nearest_name():
    with pytest.raises(BadUsageError, match="did you mean 'nbmean6-pca50'"):
        parse_method("nbmaen6-pca50")


def test_expression_is_log1p_of_counts_per_ten_thousand_of_the_library():
    whole = make_whole()
    genes = np.asarray([1, 4, 7], np.int32)
    found = expression(whole, genes)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.toarray(), dense_expression(whole)[:, genes], rtol=1e-6)


def test_expression_refuses_a_gene_that_the_slice_does_not_measure():
    with pytest.raises(BadInputError, match="1 of 2 genes are not measured"):
        expression(make_whole(), np.asarray([3, 99], np.int32))


@pytest.mark.parametrize("k", [1, 6, 18])
def test_nearest_neighbours_equal_the_obvious_search(k):
    xy = np.random.default_rng(5).normal(size=(60, 2)) * 1e4
    distances = cdist(xy, xy)
    expected = np.argsort(distances, axis=1, kind="stable")[:, : k + 1]
    np.testing.assert_array_equal(nearest_neighbours(xy, k), expected)


def test_nearest_neighbours_break_ties_by_grid_order():
    row, col = np.divmod(np.arange(49), 7)
    xy = np.stack([col, row], axis=1) * 137.31 + 1e5
    distances = np.round(cdist(xy, xy) * 1e3)
    expected = np.argsort(distances, axis=1, kind="stable")[:, :7]
    np.testing.assert_array_equal(nearest_neighbours(xy, 6), expected)


@pytest.mark.parametrize("n", [1, 2, 5], ids=["one_spot", "two_spots", "fewer_than_k"])
def test_nearest_neighbours_of_a_tiny_slice_are_all_spots(n):
    xy = np.arange(2.0 * n).reshape(n, 2)
    assert nearest_neighbours(xy, 6).shape == (n, n)


def test_hex_neighbours_are_the_six_around_a_spot():
    row, col = np.divmod(np.arange(15 * 15), 15)
    xy = np.stack([col + 0.5 * (row % 2), row * np.sqrt(3) / 2], axis=1)
    middle = 7 * 15 + 7
    distances = np.hypot(*(xy[nearest_neighbours(xy, 6)[middle]] - xy[middle]).T)
    np.testing.assert_allclose(distances, [0, 1, 1, 1, 1, 1, 1], atol=1e-9)


def test_neighbour_mean_includes_the_spot_itself():
    whole = make_whole()
    values = expression(whole, whole.genes)
    near = nearest_neighbours(whole.xy, 6)
    expected = values.toarray()[near].mean(axis=1)
    np.testing.assert_allclose(neighbour_mean(values, whole.xy, 6).toarray(), expected, rtol=1e-5)


def test_neighbour_mean_does_not_cross_slices():
    data = make_set(make_whole("one", seed=1), make_whole("two", seed=2))
    both = compute_baseline(data, parse_method("nbmean6"))
    alone = compute_baseline(make_set(make_whole("two", seed=2)), parse_method("nbmean6"))
    np.testing.assert_array_equal(both.slices["two"].matrix, alone.slices["two"].matrix)


def test_pca_is_fitted_on_all_spots_of_all_slices():
    data = make_set(make_whole("one", seed=1), make_whole("two", seed=2))
    found = compute_baseline(data, parse_method("pca3"))
    stacked = np.concatenate([dense_expression(w) for w in data.slices.values()])
    expected = PCA(3, svd_solver="full").fit_transform(stacked)
    joined = np.concatenate([found.slices[slug].matrix for slug in ("one", "two")])
    np.testing.assert_allclose(np.abs(joined), np.abs(expected), atol=1e-3)
    assert joined.dtype == np.float32


def test_pca_through_the_iterative_solver_agrees(monkeypatch):
    data = make_set()
    exact = compute_baseline(data, parse_method("pca3")).slices["one"].matrix
    monkeypatch.setattr("sttrain.baselines._COVARIANCE_LIMIT", 1)
    found = compute_baseline(data, parse_method("pca3")).slices["one"].matrix
    np.testing.assert_allclose(np.abs(found), np.abs(exact), atol=1e-3)


def test_more_components_than_genes_are_refused():
    with pytest.raises(BadUsageError, match=r"50 components of 144 spots and 8 genes.*at most 8"):
        compute_baseline(make_set(), parse_method("pca50"))


def test_coordinates_of_one_slice_are_centred_positions_in_pitches():
    matrix = compute_baseline(make_set(), parse_method("coords")).slices["one"].matrix
    assert matrix.shape == (144, 2)
    np.testing.assert_allclose(matrix.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(matrix[1] - matrix[0], [1, 0], atol=1e-6)


def test_coordinates_keep_the_nearest_spot_inside_its_slice():
    data = make_set(make_whole("one"), make_whole("two"), make_whole("three"))
    found = compute_baseline(data, parse_method("coords"))
    joined = np.concatenate([part.matrix for part in found.slices.values()])
    owner = np.repeat(np.arange(3), 144)
    distances = cdist(joined, joined)
    within = np.where(owner[:, None] == owner[None, :], distances, 0).max()
    across = np.where(owner[:, None] == owner[None, :], np.inf, distances).min()
    assert across > within


def test_majority_has_no_features():
    assert compute_baseline(make_set(), parse_method("majority")).slices["one"].matrix.size == 0


def test_features_keep_the_barcodes_of_the_slice():
    data = make_set()
    assert compute_baseline(data, parse_method("raw")).slices["one"].barcodes == data.barcodes(
        "one"
    )
