"""Planted leaks are found whatever was done to them; clean corpora are not accused."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_array

from stbuild.corpus.digests import sha256_bytes
from stbuild.corpus.documents import read_document
from stbuild.corpus.errors import BadUsageError, GateError
from stbuild.leakage import (
    LeakageReport,
    PlacedWindow,
    Section,
    check_leakage,
    gather_sections,
    render_certificate,
    require_no_leak,
    undecided_notices,
)
from tests.slices import Spec, grid_of, make_anndata

SPEC = Spec(kind="square", rows=18, cols=16, n_genes=160, mean=1.5)


def section(data, slug="copy", split="test", donor=None, corpus="c", **fields):
    """A section of an AnnData object, without a grid."""
    counts = csr_array(data.X)
    return Section(
        corpus=corpus,
        slug=slug,
        split=split,
        donor=donor,
        section=fields.get("section"),
        pair=fields.get("pair"),
        counts_digest=sha256_bytes(slug.encode()),
        genes=list(data.var_names),
        load=lambda: counts,
    )


@pytest.fixture(scope="module")
def source():
    return make_anndata(replace(SPEC, seed=1))


@pytest.fixture(scope="module")
def others():
    """Three sections with the same bands of genes: the same tissue, other noise."""
    return [
        section(make_anndata(replace(SPEC, seed=seed)), f"s{seed}", "train", "D1")
        for seed in (2, 3, 4)
    ]


def figures_of(finding):
    assert finding.figures is not None
    return finding.figures


def shuffled(data, rng):
    found = data[rng.permutation(data.n_obs)].copy()
    found.obs_names = [f"new-{i}" for i in range(found.n_obs)]
    return found


def with_counts(data, counts):
    found = data.copy()
    found.X = type(data.X)(counts.astype(np.int32))
    return found


def thinned(data, rng, share):
    return with_counts(data, rng.binomial(data.X.toarray(), share))


COPIES = {
    "same": lambda data, rng: data,
    "shuffled_and_renamed": shuffled,
    "cropped": lambda data, rng: data[: data.n_obs // 8],
    "genes_left_out": lambda data, rng: data[:, np.sort(rng.permutation(160)[:90])],
    "genes_reordered": lambda data, rng: data[:, rng.permutation(160)],
    "half_of_the_counts": lambda data, rng: thinned(data, rng, 0.5),
    "a_fifth_of_the_counts": lambda data, rng: thinned(data, rng, 0.2),
    "counts_halved_and_cut": lambda data, rng: with_counts(data, data.X.toarray() // 2),
    "all_at_once": lambda data, rng: shuffled(
        thinned(data[:150, np.sort(rng.permutation(160)[:110])].copy(), rng, 0.5), rng
    ),
}


@pytest.mark.parametrize("change", COPIES.values(), ids=COPIES.keys())
def test_a_copy_on_the_other_side_is_found(source, others, change):
    copy = change(source, np.random.default_rng(5))
    report = check_leakage([section(source, "whole", "train", "D2"), section(copy), *others])
    assert [finding.name for finding in report.findings] == ["c/copy+c/whole"]
    with pytest.raises(GateError, match=r"leak 'c/copy\+c/whole'") as caught:
        require_no_leak(report)
    assert caught.value.exit_code == 11
    assert "Not clean: 1 leaks" in render_certificate(report)


@pytest.mark.parametrize("turn", ["turned", "mirrored", "moved"])
def test_new_coordinates_hide_nothing(tmp_path, turn):
    data = make_anndata(replace(SPEC, seed=1))
    changed = data.copy()
    row, col = data.obs["array_row"].to_numpy(), data.obs["array_col"].to_numpy()
    pairs = {"turned": (col, 17 - row), "mirrored": (row, 15 - col), "moved": (row + 5, col + 3)}
    changed.obs["array_row"], changed.obs["array_col"] = pairs[turn]
    changed.obsm["spatial"] = np.stack(pairs[turn][::-1], axis=1) * 100.0
    changed.obs_names = [f"{turn}-{i}" for i in range(data.n_obs)]
    data.write_h5ad(tmp_path / "a.h5ad")
    changed.write_h5ad(tmp_path / "b.h5ad")
    grids = [grid_of(tmp_path / name) for name in ("a.h5ad", "b.h5ad")]
    assert grids[0].meta.counts_digest != grids[1].meta.counts_digest or turn == "moved"
    report = check_leakage(gather_sections(grids, {"a": "train", "b": "test"}, "c"))
    (found,) = report.findings
    assert found.kind == "identical-spots"
    assert figures_of(found).identical == data.n_obs


def test_a_few_identical_spots_among_others_are_found(source, others):
    mixed = make_anndata(replace(SPEC, seed=9))
    counts = mixed.X.toarray()
    counts[10:13] = source.X.toarray()[40:43]
    report = check_leakage(
        [section(source, "whole", "train"), section(with_counts(mixed, counts), "mixed"), *others]
    )
    (found,) = report.findings
    assert found.kind == "identical-spots"
    assert figures_of(found).identical == 3


def test_a_donor_under_two_names_is_found_by_its_sections(others):
    twice = [replace(s, slug=f"{s.slug}-b", donor="D9", split="test") for s in others]
    report = check_leakage([*others, *twice])
    names = {f"c/s{i}+c/s{i}-b" for i in (2, 3, 4)}
    assert {finding.name for finding in report.findings} == names
    assert all("the whole slice is the same" in finding.what for finding in report.findings)


def test_copies_within_a_split_are_listed_and_refused_between_donors(others):
    twice = [*others, replace(others[0], slug="again", donor="D9")]
    listed = check_leakage(twice)
    assert [finding.apart for finding in listed.findings] == [False]
    require_no_leak(listed)
    assert "| told only |" in render_certificate(listed)
    with pytest.raises(GateError):
        require_no_leak(check_leakage(twice, apart="donor"))


def test_evaluation_slices_inside_a_pretraining_corpus_are_found(source, others):
    judged = section(source, "lymph", "test", corpus="benchmark")
    within = section(
        shuffled(source, np.random.default_rng(0)), "gsm1", "train", corpus="pretraining"
    )
    pretraining = [replace(s, corpus="pretraining") for s in others]
    report = check_leakage([judged, within, *pretraining])
    assert [f.name for f in report.findings] == ["benchmark/lymph+pretraining/gsm1"]


def test_declared_groups_on_two_sides_are_found(others):
    one, two, three = others
    report = check_leakage(
        [
            replace(one, section="1", pair="p"),
            replace(two, section="1", split="test"),
            replace(three, donor="D2", section="1", pair="p", split="test"),
        ]
    )
    assert [f.name for f in report.findings] == ["donor-twice:D1", "section-twice:D1/1"]
    with pytest.raises(GateError, match="stands in c:test, c:train"):
        require_no_leak(report)


def test_one_id_in_two_corpora_is_told_but_not_refused(others):
    report = check_leakage([others[0], replace(others[1], corpus="d")])
    assert [(f.name, f.refused) for f in report.findings] == [("donor-twice:D1", False)]


def test_windows_that_share_cells_across_a_block_border_are_found():
    windows = [
        PlacedWindow(slug="s", split="train", row=0, col=0, side=8),
        PlacedWindow(slug="s", split="train", row=4, col=4, side=8),
        PlacedWindow(slug="s", split="test", row=10, col=11, side=8),
        PlacedWindow(slug="t", split="test", row=0, col=0, side=8),
    ]
    report = check_leakage([], windows=windows)
    (found,) = report.findings
    assert found.what == "windows of test and train share 2 cells of slice 's'"
    moved = [replace(w, row=w.row + 2) if w.row == 10 else w for w in windows]
    assert check_leakage([], windows=moved).findings == ()


def test_statistics_fitted_beyond_train_are_found(others):
    sections = [*others, replace(others[1], slug="t", split="test")]
    fitted = {"vocabulary": ["train"], "weights": ["train", "test"]}
    report = check_leakage(sections, fitted=fitted, allow=["donor-twice:D1", "c/s3+c/t"])
    assert [f.name for f in report.findings if f.refused] == ["fitted:weights"]
    assert report.fitted == {"vocabulary": ("train",), "weights": ("test", "train")}
    assert "vocabulary was fitted on: train." in render_certificate(report)


def test_a_clean_certificate_says_what_was_checked(source):
    pair = [section(source, "a", "train"), section(make_anndata(replace(SPEC, seed=2)), "b")]
    report = check_leakage(pair)
    require_no_leak(report)
    page = render_certificate(report)
    assert "**No leak was found.**" in page
    assert "| c | test | 1 |" in page
    assert "1 of 1 pairs of sections were compared by content" in page
    assert check_leakage(pair, fitted={"pca": ["test"]}).findings[0].refused
    alone = check_leakage([pair[1]], fitted={"pca": ["test"]})
    assert (alone.findings, alone.pairs, alone.closest) == ((), 0, None)


def test_many_undecided_pairs_are_counted_on_the_page(source):
    apart = []
    for i in range(8):
        copy = source.copy()
        copy.var_names = [f"{i}-{gene}" for gene in source.var_names]
        apart.append(section(copy, f"s{i}", f"p{i}"))
    report = check_leakage(apart)
    assert len(report.undecided) == 28
    assert "and 8 more undecided pairs, listed in `splits/leakage.json`" in render_certificate(
        report
    )


def test_what_is_allowed_is_named_in_the_certificate(source, others):
    sections = [section(source, "whole", "train"), section(source), *others]
    report = check_leakage(sections, allow=["c/copy+c/whole"])
    require_no_leak(report)
    page = render_certificate(report)
    assert "No leak but 1 that were allowed by name" in page
    assert "| allowed by name |" in page
    with pytest.raises(BadUsageError, match="1 names of no finding, the first is 'c/x'"):
        check_leakage(sections, allow=["c/x"])


def test_the_same_report_whatever_the_order(source, others):
    sections = [section(source, "whole", "train"), section(source), *others]
    report = check_leakage(sections)
    assert check_leakage(sections[::-1]).to_bytes() == report.to_bytes()
    again = section(shuffled(source, np.random.default_rng(3)))
    assert check_leakage([sections[0], again, *others]).to_bytes() == report.to_bytes()
    assert read_document(LeakageReport, report.to_bytes(), "x") == report


def test_the_same_tissue_with_other_noise_is_no_leak(others):
    report = check_leakage([replace(s, split=s.slug) for s in others], allow=["donor-twice"])
    assert report.compared == 3
    assert report.closest is not None
    assert report.closest.matched <= 1
    assert "No leak but" in render_certificate(report)


def test_the_version_of_an_ensembl_id_hides_nothing(source, others):
    one, two = source.copy(), source.copy()
    one.var_names = [f"ENSG{i:011d}.1" for i in range(source.n_vars)]
    two.var_names = [f"ENSG{i:011d}" for i in range(source.n_vars)]
    (found,) = check_leakage([section(one, "a", "train"), section(two, "b")]).findings
    assert figures_of(found).genes == 160


def test_pairs_that_cannot_be_compared_are_named(source):
    symbols = source.copy()
    symbols.var_names = [f"SYM{i}" for i in range(source.n_vars)]
    sparse = with_counts(source, np.minimum(source.X.toarray(), 1) * (np.arange(160) < 4))
    sections = [section(source, "a", "train"), section(symbols, "b"), section(sparse, "c")]
    report = check_leakage(sections)
    assert (report.pairs, report.compared) == (3, 0)
    named = {found.sections: (found.genes, found.compared) for found in report.undecided}
    assert set(named) == {("c/a", "c/b"), ("c/a", "c/c")}
    page = render_certificate(report)
    assert "2 share fewer than 64 genes and 0 are too sparse" in page
    assert "and 2 of them not even for these" in page


def test_sparse_sections_are_searched_for_identical_counts(source):
    rng = np.random.default_rng(0)
    few = [thinned(make_anndata(replace(SPEC, seed=s)), rng, 0.05) for s in (1, 2)]
    clean = check_leakage([section(few[0], "a", "train"), section(few[1], "b")])
    assert clean.findings == ()
    twin = section(shuffled(few[0], rng), "b")
    report = check_leakage([section(few[0], "a", "train"), twin])
    assert [found.kind for found in report.findings] == ["identical-spots"]


@pytest.fixture(scope="module")
def small():
    """A panel of 40 genes, on which noise cannot be compared."""
    return [make_anndata(replace(SPEC, n_genes=40, mean=4.0, seed=seed)) for seed in (1, 2)]


@pytest.mark.parametrize("n_genes", [63, 33, 8, 2])
def test_the_same_slice_is_found_on_any_number_of_genes(n_genes):
    data = make_anndata(replace(SPEC, n_genes=n_genes, mean=4.0, seed=1))
    whole = section(data, "whole", "train", "D1")
    copy = replace(whole, slug="copy", split="test", donor="D2")
    report = check_leakage([whole, copy])
    (found,) = report.findings
    assert (found.kind, found.refused) == ("identical-spots", True)
    assert "the whole slice is the same" in found.what
    assert (report.undecided, report.compared) == ((), 1)
    with pytest.raises(GateError, match="G10"):
        require_no_leak(report)


@pytest.mark.parametrize("name", ["shuffled_and_renamed", "cropped"])
def test_identical_spots_are_found_on_few_genes(small, name):
    copy = COPIES[name](small[0], np.random.default_rng(5))
    report = check_leakage([section(small[0], "whole", "train"), section(copy)])
    (found,) = report.findings
    assert (found.kind, found.refused) == ("identical-spots", True)
    assert figures_of(found).sparse_identical == figures_of(found).sparse == copy.n_obs
    assert report.undecided == ()


def test_other_noise_on_few_genes_stays_undecided(small):
    report = check_leakage([section(small[0], "a", "train"), section(small[1], "b")])
    assert report.findings == ()
    (found,) = report.undecided
    assert (found.genes, found.sparse_identical) == (40, 0)
    assert found.sparse > 0
    (notice,) = undecided_notices(report)
    assert str(notice).startswith("warning[G12] leakage: 1 of 1 pairs of sections could not be")
    assert "'c/a' and 'c/b', with 40 shared genes" in notice.what


def test_spots_that_are_alike_by_chance_are_no_copies(small):
    """Hardly a spot of 40 genes that are there or not has counts of its own."""
    alike = [
        section(with_counts(data, np.ones(data.shape) * (np.arange(40) < 12)), slug, split)
        for data, slug, split in zip(small, "ab", ("train", "test"), strict=True)
    ]
    report = check_leakage(alike)
    assert report.findings == ()
    assert [found.sparse for found in report.undecided] == [0]
    assert "and 1 of them not even for these" in render_certificate(report)


def test_no_certificate_is_clean_while_pairs_are_undecided(small, others):
    pair = [section(small[0], "a", "train"), section(small[1], "b")]
    page = render_certificate(check_leakage(pair))
    assert "No leak" not in page
    assert "**Not decided: 1 of 1 pairs could not be compared (below).**" in page
    declared = [replace(section_, donor="D1") for section_ in pair]
    allowed = render_certificate(check_leakage(declared, allow=["donor-twice"]))
    assert "could not be compared; 1 leaks were allowed by name (below).**" in allowed
    assert tuple(undecided_notices(check_leakage(others))) == ()


def test_names_of_the_input_cannot_break_the_page(others):
    evil = [
        replace(s, donor="<b>|\n# x`", split=split) for s, split in zip(others, "ab", strict=False)
    ]
    page = render_certificate(check_leakage(evil))
    assert "\\<b\\>\\|\\\\n\\# x\\`" in page
    assert "<b>" not in page


def test_one_name_twice_is_refused(others):
    with pytest.raises(BadUsageError, match="stands twice"):
        check_leakage([others[0], others[0]])
