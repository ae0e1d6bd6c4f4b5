import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.decomposition import PCA

from sttrain.embed.expression import expression
from sttrain.embed.neighbours import nearest_among, nearest_neighbours, neighbour_mean, surroundings
from sttrain.embed.projection import principal_components
from sttrain.errors import BadInputError, BadUsageError
from sttrain.judge.baselines import Control
from sttrain.judge.methods import NAME, Reduced, families, find_method, find_methods
from tests.sttrain.judged import make_set, make_whole


def dense_expression(whole):
    counts = np.zeros((whole.meta.n_spots, whole.meta.n_genes))
    spots = np.repeat(np.arange(whole.meta.n_spots), np.diff(whole.indptr))
    counts[spots, whole.indices] = whole.data
    return np.log1p(1e4 * counts / whole.totals[:, None])


@pytest.mark.parametrize(
    ("name", "kind", "neighbours", "components"),
    [
        ("raw", "raw", None, None),
        ("pca50", "raw", None, 50),
        ("nbmean6", "nbmean", 6, None),
        ("nbmean18-pca50", "nbmean", 18, 50),
        ("nbmean36-pca10-centred", "nbmean", 36, 10),
        ("banksy18-pca50", "banksy", 18, 50),
        ("libsize", "libsize", None, None),
        ("coords-shuffled", "coords-shuffled", None, None),
        ("coords", "coords", None, None),
        ("majority", "majority", None, None),
    ],
)
def test_find_method_reads_every_form(name, kind, neighbours, components):
    method = find_method(name)
    assert isinstance(method, Control)
    assert (method.kind, method.neighbours, method.components) == (kind, neighbours, components)
    assert method.name == name
    assert method.centred == name.endswith("-centred")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "rwa",
        "pca",
        "pca0",
        "nbmean-pca50",
        "nbmean6pca50",
        "-pca5",
        "raw-pca50",
        "RAW",
        "coords-centred",
        "pca50-centered",
        "banksy",
        "pca5-centred-centred",
    ],
)
def test_find_method_refuses_other_names(name):
    with pytest.raises(BadUsageError, match="no method of this name"):
        find_method(name)


def test_find_method_suggests_the_nearest_name():
    with pytest.raises(BadUsageError, match="did you mean 'nbmean6-pca50'"):
        find_method("nbmaen6-pca50")


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


@pytest.mark.parametrize("copies", [2, 9])
def test_spots_at_one_place_change_no_unit_and_are_no_neighbours_of_themselves(copies):
    """Where most had a double, distances were rounded to whole units, whatever the unit."""
    rng = np.random.default_rng(7)
    xy = np.tile(rng.normal(size=(40, 4)), (copies, 1))
    near = nearest_neighbours(xy, 6)
    for unit in (2.0**-10, 2.0**10):
        np.testing.assert_array_equal(nearest_neighbours(xy * unit, 6), near)
    np.testing.assert_array_equal(near[:, 0], np.arange(len(xy)))
    assert not (near[:, 1:] == near[:, :1]).any()
    distances = cdist(xy, xy)
    nearest = np.sort(distances, axis=1)[:, :7]
    np.testing.assert_allclose(np.take_along_axis(distances, near, axis=1), nearest, atol=1e-5)


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
    both = find_method("nbmean6").compute(data)
    alone = find_method("nbmean6").compute(make_set(make_whole("two", seed=2)))
    np.testing.assert_array_equal(both.slices["two"].matrix, alone.slices["two"].matrix)


def test_pca_is_fitted_on_all_spots_of_all_slices():
    data = make_set(make_whole("one", seed=1), make_whole("two", seed=2))
    found = find_method("pca3").compute(data)
    stacked = np.concatenate([dense_expression(w) for w in data.slices.values()])
    expected = PCA(3, svd_solver="full").fit_transform(stacked)
    joined = np.concatenate([found.slices[slug].matrix for slug in ("one", "two")])
    np.testing.assert_allclose(np.abs(joined), np.abs(expected), atol=1e-3)
    assert joined.dtype == np.float32


def test_pca_through_the_iterative_solver_agrees(monkeypatch):
    data = make_set()
    exact = find_method("pca3").compute(data).slices["one"].matrix
    monkeypatch.setattr("sttrain.embed.projection._EXACT_LIMIT", 1)
    found = find_method("pca3").compute(data).slices["one"].matrix
    np.testing.assert_allclose(np.abs(found), np.abs(exact), atol=1e-3)


def test_more_components_than_genes_are_refused():
    with pytest.raises(BadUsageError, match=r"50 components of 144 spots and 8 columns.*at most 8"):
        find_method("pca50").compute(make_set())


def test_coordinates_of_one_slice_are_centred_positions_in_pitches():
    matrix = find_method("coords").compute(make_set()).slices["one"].matrix
    assert matrix.shape == (144, 2)
    np.testing.assert_allclose(matrix.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(matrix[1] - matrix[0], [1, 0], atol=1e-6)


def test_coordinates_keep_the_nearest_spot_inside_its_slice():
    data = make_set(make_whole("one"), make_whole("two"), make_whole("three"))
    found = find_method("coords").compute(data)
    joined = np.concatenate([part.matrix for part in found.slices.values()])
    owner = np.repeat(np.arange(3), 144)
    distances = cdist(joined, joined)
    within = np.where(owner[:, None] == owner[None, :], distances, 0).max()
    across = np.where(owner[:, None] == owner[None, :], np.inf, distances).min()
    assert across > within


def test_majority_has_no_features():
    assert find_method("majority").compute(make_set()).slices["one"].matrix.size == 0


def test_features_keep_the_barcodes_of_the_slice():
    data = make_set()
    assert find_method("raw").compute(data).slices["one"].barcodes == data.barcodes("one")


def test_every_example_of_the_table_is_a_name_of_its_own_family():
    for family in families():
        for example in family.examples:
            assert family.pattern.fullmatch(example)
            assert find_method(example).name == example
            assert NAME.fullmatch(example)


def test_all_unknown_names_are_listed_and_each_method_stands_once():
    assert [m.name for m in find_methods(["raw", "pca5", "raw"])] == ["raw", "pca5"]
    with pytest.raises(BadUsageError) as caught:
        find_methods(["raw", "pca5-centered", "nope!"])
    assert len(caught.value.problems) == 2
    assert "did you mean 'pca50-centred'" in str(caught.value) or "pca10-centred" in str(
        caught.value
    )


def test_library_size_is_its_logarithm_alone():
    data = make_set()
    matrix = find_method("libsize").compute(data).slices["one"].matrix
    assert matrix.shape == (144, 1)
    np.testing.assert_allclose(matrix[:, 0], np.log1p(data.slices["one"].totals), rtol=1e-6)


def test_shuffled_coordinates_are_the_same_positions_elsewhere():
    data = make_set(make_whole("one"), make_whole("two"))
    true = find_method("coords").compute(data).slices["two"].matrix
    found = find_method("coords-shuffled").compute(data).slices["two"].matrix
    assert np.mean(np.all(found == true, axis=1)) < 0.1
    np.testing.assert_array_equal(np.unique(found, axis=0), np.unique(true, axis=0))
    again = find_method("coords-shuffled").compute(make_set(make_whole("one"), make_whole("two")))
    np.testing.assert_array_equal(again.slices["two"].matrix, found)


def test_centred_features_have_no_mean_in_any_slice():
    wholes = make_whole("one", seed=1), make_whole("two", seed=2, n_genes=8)
    data = make_set(*wholes)
    found = find_method("raw-centred").compute(data)
    for slug, whole in data.slices.items():
        expected = dense_expression(whole)
        np.testing.assert_allclose(
            found.slices[slug].matrix, expected - expected.mean(axis=0), atol=2e-5
        )
    scores = find_method("nbmean6-pca3-centred").compute(data)
    for part in scores.slices.values():
        np.testing.assert_allclose(part.matrix.mean(axis=0), 0, atol=1e-4)


def test_surroundings_equal_the_sum_over_neighbours():
    whole = make_whole(side=6)
    values = expression(whole, whole.genes)
    mean, gradient = surroundings(values, whole.xy, 5)
    near = nearest_neighbours(whole.xy, 5)
    dense = values.toarray().astype(np.float64)
    for spot in range(len(near)):
        others = near[spot, 1:]
        expected = dense[others].mean(axis=0)
        apart = whole.xy[others] - whole.xy[spot]
        wave = np.exp(1j * np.arctan2(apart[:, 1], apart[:, 0]))
        harmonic = (wave[:, None] * (dense[others] - expected)).sum(axis=0) / 5
        np.testing.assert_allclose(mean[spot], expected, rtol=1e-5)
        np.testing.assert_allclose(gradient[spot], np.abs(harmonic), atol=1e-5)


def test_a_spot_alone_has_no_surroundings():
    whole = make_whole(side=1)
    mean, gradient = surroundings(expression(whole, whole.genes), whole.xy, 4)
    assert not mean.any()
    assert not gradient.any()


def test_the_gradient_does_not_depend_on_how_the_slice_lies():
    whole = make_whole(side=8)
    values = expression(whole, whole.genes)
    turned = whole.xy @ np.asarray([[0.0, 1.0], [-1.0, 0.0]])
    inside = np.all((whole.xy > 100) & (whole.xy < 600), axis=1)  # ties at the rim go by order
    found, expected = (surroundings(values, xy, 8)[1][inside] for xy in (turned, whole.xy))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_banksy_weighs_its_three_blocks_by_their_variance():
    data = make_set()
    matrix = find_method("banksy6").compute(data).slices["one"].matrix.astype(np.float64)
    shares = [matrix[:, i * 8 : (i + 1) * 8].var(axis=0).sum() for i in range(3)]
    np.testing.assert_allclose(shares, [0.2, 0.8 * 2 / 3, 0.8 / 3], rtol=1e-4)


@pytest.mark.parametrize("chunk", [1024, 7])
@pytest.mark.parametrize("shape", [(40, 12), (12, 40)], ids=["more_spots", "more_columns"])
def test_components_are_those_of_the_singular_value_decomposition(shape, chunk, monkeypatch):
    monkeypatch.setattr("sttrain.embed.projection._CHUNK", chunk)
    table = np.random.default_rng(3).normal(size=shape).astype(np.float32)
    found = principal_components({"a": table[:5], "b": table[5:]}, 4, "x")
    centred = table.astype(np.float64) - table.mean(axis=0, dtype=np.float64)
    left, singular, right = np.linalg.svd(centred, full_matrices=False)
    first = np.abs(right[:4]).argmax(axis=1)
    expected = left[:, :4] * singular[:4] * np.sign(right[np.arange(4), first])
    np.testing.assert_allclose(np.concatenate([found["a"], found["b"]]), expected, atol=1e-4)


def test_fewer_components_are_the_first_of_more():
    data = make_set()
    few, many = (find_method(n).compute(data).slices["one"].matrix for n in ("pca2", "pca6"))
    np.testing.assert_allclose(few, many[:, :2], atol=1e-5)


def test_nearest_among_others_is_the_obvious_search():
    rng = np.random.default_rng(2)
    xy, others = rng.normal(size=(9, 2)), rng.normal(size=(30, 2))
    expected = np.argsort(cdist(xy, others), axis=1, kind="stable")[:, :4]
    np.testing.assert_array_equal(nearest_among(xy, others, 4), expected)
    assert nearest_among(xy, others[:2], 4).shape == (9, 2)


def test_reduced_vectors_are_components_of_the_method():
    data = make_set(make_whole("one", seed=1), make_whole("two", seed=2))
    reduced = Reduced(method=find_method("raw"), components=3)
    assert reduced.name == "raw-pca3"
    assert reduced.identity(data) != find_method("raw").identity(data)
    expected = find_method("pca3").compute(data)
    for slug, part in reduced.compute(data).slices.items():
        np.testing.assert_allclose(part.matrix, expected.slices[slug].matrix, atol=1e-4)
