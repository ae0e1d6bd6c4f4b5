"""Real sections: serial sections are not copies, copies are found."""

from functools import cache

import anndata
import numpy as np
import pytest
from scipy.sparse import csr_array

from stbuild.corpus.digests import sha256_bytes
from stbuild.leakage import Section, check_leakage
from stbuild.leakage.compare import compare_sections
from stbuild.leakage.fingerprints import take_fingerprints


@cache
def counts_of(path):
    data = anndata.read_h5ad(path)
    _, first = np.unique(np.asarray(data.var_names.astype(str)), return_index=True)
    counts = csr_array(data.X)[:, np.sort(first)]
    filled = np.asarray(counts.sum(axis=1)).ravel() > 0
    return counts[filled].astype(np.uint32), [str(g) for g in data.var_names[np.sort(first)]]


def section(path, split="train", donor=None, change=None):
    counts, genes = counts_of(path)
    if change is not None:
        counts, genes = change(counts, np.asarray(genes))
    return Section(
        corpus="real", slug=f"{path.stem.lower().replace('_', '-')}-{split}", split=split,
        donor=donor, section=None, pair=None, genes=list(genes), load=lambda: counts,
        counts_digest=sha256_bytes(f"{path}{split}".encode()),
    )  # fmt: skip


def test_no_two_her2st_sections_are_copies(shared_data):
    """Of each of six donors 3 or 6 serial sections; every pair of sections is on two sides."""
    paths = sorted((shared_data / "her2st").glob("*.h5ad"))
    report = check_leakage([section(path, split=f"s{i}") for i, path in enumerate(paths)])
    assert report.compared == report.pairs == 435
    assert report.findings == ()
    assert report.closest is not None
    assert report.closest.matched <= 1


@pytest.mark.parametrize(
    "names",
    [
        ["dlpfc/151507", "dlpfc/151509", "dlpfc/151510", "dlpfc_br8325/Br8325_ant"],
        ["mouse_brain_2k/Hippo1", "mouse_brain_2k/Hippo2", "mouse_brain_2k/Hippo6"],
        [f"mouse_brain_2k/MOB{i}" for i in (1, 2, 3, 4)],
        ["starmap_mpfc/BZ5", "starmap_mpfc/BZ9", "merfish_hypothalamus/hypothalamus"],
        [f"breast_cancer_layers/layer{i}" for i in (1, 2, 3, 4)],
    ],
    ids=["cortex", "hippocampus", "olfactory_bulb", "imaging", "breast_layers"],
)  # fmt: skip
def test_no_false_alarm(shared_data, names):
    sections = [section(shared_data / f"{n}.h5ad", f"s{i}") for i, n in enumerate(names)]
    assert check_leakage(sections).findings == ()


@pytest.mark.parametrize("layer", ["layer1", "layer2", "layer3", "layer4"])
def test_the_layers_of_another_publication_are_found(shared_data, layer):
    """The same four sections from two repositories, with other ids, genes and coordinates."""
    folder = shared_data / "breast_cancer_layers"
    pair = [
        section(folder / "all_layers_registered.h5ad"),
        section(folder / f"{layer}.h5ad", "test"),
    ]
    (found,) = check_leakage(pair).findings
    assert found.kind == "identical-spots"
    assert found.figures is not None
    assert found.figures.identical == min(found.figures.spots)
    assert found.figures.matched > 0.9 * found.figures.compared


def test_a_public_file_that_holds_one_section_under_two_names_is_found(shared_data):
    """Nine in ten spots of heart 1 stand in heart 2, published as sections E1 and E2."""
    names = ["heart_1_CN73_E1", "heart_2_CN73_E2", "heart_3_CN73_D2", "heart_5_CN74_E1"]
    report = check_leakage(
        [section(shared_data / f"heart/{n}.h5ad", f"s{i}") for i, n in enumerate(names)]
    )
    (found,) = report.findings
    assert found.figures is not None
    assert found.figures.sections[0].startswith("real/heart-1")
    assert found.figures.identical > 80


@pytest.mark.parametrize(
    ("name", "share", "n_genes"),
    [
        ("her2st/A1", 0.5, 500), ("her2st/A1", 0.1, None), ("her2st/B4", 0.2, 500),
        ("her2st/B4", 0.1, None), ("her2st/E1", 0.1, 2000), ("dlpfc/151510", 0.2, 200),
        ("mouse_brain_2k/Hippo1", 0.1, None), ("visium_unlabelled/prostate_CP", 0.2, None),
    ],
)  # fmt: skip
def test_thinned_and_cut_copies_are_found(shared_data, name, share, n_genes):
    rng = np.random.default_rng(0)

    def change(counts, genes):
        kept = np.sort(rng.permutation(len(genes))[:n_genes])
        copy = counts[rng.permutation(counts.shape[0])[: int(0.6 * counts.shape[0])]][:, kept]
        copy.data = rng.binomial(copy.data, share).astype(np.uint32)
        copy.eliminate_zeros()
        return copy, genes[kept]

    path = shared_data / f"{name}.h5ad"
    prints = list(take_fingerprints([section(path), section(path, "test", change=change)]))
    found = compare_sections(*prints)
    assert (found.verdict, found.identical) == ("near-duplicate", 0)
