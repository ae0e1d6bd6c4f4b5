"""Splits by whole donors, and leaks between them: refused by name, allowed by name, certified."""

import json

import numpy as np
import pytest

from stbuild.build.building import build_corpus
from stbuild.build.certify import certify_folders
from stbuild.build.inputs import gather_inputs
from stbuild.build.rebuild import rebuild_corpus
from stbuild.build.repair import repair_corpus
from stbuild.config import GridConfig
from stbuild.corpus.documents import ShardConfig, read_config
from stbuild.corpus.errors import BadInputError, BadUsageError, GateError
from stbuild.corpus.reader import open_corpus
from stbuild.grid.compact import compact
from stbuild.leakage import require_no_leak
from stbuild.manifests.manifest import read_inputs
from stbuild.tasks.pipeline import run_loop
from stbuild.verify import verify_corpus
from tests.slices import Spec, make_anndata
from tests.trees import tree_digests

TRAIN = ShardConfig(name="led", window=8, genes=16, n_per_slice=6, samples_per_shard=8)
BY_DONOR = TRAIN.model_copy(update={"assign": "donor", "test_share": 0.3})


def write_lab(root, slices, label=None):
    """Write slices and a manifest: name -> (AnnData, donor, split)."""
    rows = ["slice,path,donor,split"]
    for name, (data, donor, split) in slices.items():
        data.write_h5ad(root / f"{name}.h5ad")
        rows.append(f"{name},{name}.h5ad,{donor},{split}")
    (root / "m.csv").write_text("\n".join(rows) + "\n")
    (root / "m.toml").write_text('name = "led"\nsamples = "m.csv"\n')
    config = GridConfig(pitch_um=100, label=label)
    compact(read_inputs([str(root / "m.toml")]), config, root / "grids", run_loop)
    return root / "grids"


def section(seed):
    return make_anndata(Spec(seed=seed, rows=20, cols=18, n_genes=120))


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    root = tmp_path_factory.mktemp("lab")
    slices = {f"s{i}": (section(i), f"donor{i // 2}", "train") for i in range(6)}
    return root, write_lab(root, slices)


def build(grids, config, out):
    return build_corpus(gather_inputs(grids, config, None), out, run_loop).document


def test_slices_of_a_small_panel_are_refused_if_the_same_and_told_otherwise(tmp_path):
    specs = [Spec(seed=seed, rows=20, cols=18, n_genes=40, mean=4.0) for seed in (0, 1)]
    one, other = map(make_anndata, specs)
    same = one.copy()
    same.obs_names = [f"new-{i}" for i in range(same.n_obs)]
    (tmp_path / "same").mkdir()
    (tmp_path / "other").mkdir()
    leak = write_lab(tmp_path / "same", {"a": (one, "d1", "train"), "b": (same, "d2", "test")})
    with pytest.raises(GateError, match=r"G10.*the whole slice is the same"):
        build(leak, TRAIN, tmp_path / "c")
    told = write_lab(tmp_path / "other", {"a": (one, "d1", "train"), "b": (other, "d2", "test")})
    summary = build_corpus(gather_inputs(told, TRAIN, None), tmp_path / "d", run_loop)
    assert [notice.code for notice in summary.notices] == ["G12"]
    assert "1 of 1 pairs of sections could not be compared" in summary.notices[0].what


def test_donors_stay_whole_and_the_certificate_is_published(lab, tmp_path):
    root, grids = lab
    document = build(grids, BY_DONOR, tmp_path / "c")
    sides: dict[str | None, set[str]] = {entry.donor: set() for entry in document.slices}
    for entry in document.slices:
        sides[entry.donor].add(entry.split)
    assert all(len(found) == 1 for found in sides.values())
    assert {split for found in sides.values() for split in found} == {"train", "test"}
    report = json.loads((tmp_path / "c" / "splits" / "leakage.json").read_text())
    assert report["pairs"] == 15
    assert report["findings"] == []
    assert not verify_corpus(tmp_path / "c", quick=False).problems
    assert open_corpus(tmp_path / "c").evaluation_splits() == ()
    again = tmp_path / "again"
    rebuild_corpus(tmp_path / "c", root, again, tmp_path / "g", run_loop)
    assert tree_digests(again) == tree_digests(tmp_path / "c")
    (again / "splits" / "leakage.json").unlink()
    assert repair_corpus(again, grids, run_loop).tables == ("splits/leakage.json",)
    assert tree_digests(again) == tree_digests(tmp_path / "c")


def test_the_vocabulary_comes_from_the_drawn_training_slices(lab):
    inputs = gather_inputs(lab[1], BY_DONOR, None)
    trained = {slug for slug, split in inputs.splits().items() if split == "train"}
    genes = {g for m, found in zip(inputs.metas, inputs.genes, strict=True) if m.slug in trained
             for g in found}  # fmt: skip
    assert set(inputs.vocabulary.genes) == genes


def test_one_split_alone_needs_no_certificate(lab, tmp_path):
    build(lab[1], TRAIN, tmp_path / "c")
    assert not (tmp_path / "c" / "splits").exists()


def test_unknown_donors_and_too_few_groups_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    grids = write_lab(
        tmp_path / "a", {"x": (section(1), "", "train"), "y": (section(2), "d", "train")}
    )
    with pytest.raises(BadInputError, match="donor"):
        gather_inputs(grids, BY_DONOR, None)
    with pytest.raises(BadUsageError, match="nothing to train on"):
        read_config(ShardConfig, {"test_share": 0.7, "val_share": 0.4}, "x")


def copy_of(data):
    """The same section under other names: turned, spots renamed, some of them and genes cut."""
    rng = np.random.default_rng(0)
    moved = data[np.sort(rng.permutation(data.n_obs)[:250])][:, 10:].copy()
    moved.obs_names = [f"other{i}" for i in range(moved.n_obs)]
    moved.obsm["spatial"] = moved.obsm["spatial"] @ np.asarray([[0.0, 1.0], [-1.0, 0.0]])
    return moved


def test_a_section_on_both_sides_is_refused_by_name_and_can_be_allowed(tmp_path):
    first = section(1)
    slices = {
        "one": (first, "d1", "train"),
        "two": (section(2), "d2", "train"),
        "planted": (copy_of(first), "d3", "test"),
    }
    grids = write_lab(tmp_path, slices)
    with pytest.raises(GateError, match=r"G10.*led/one\+led/planted.*are copies") as caught:
        build(grids, TRAIN, tmp_path / "c")
    assert caught.value.exit_code == 11
    assert not (tmp_path / "c").exists()
    allowed = TRAIN.model_copy(update={"allow": ("led/one+led/planted",)})
    build(grids, allowed, tmp_path / "c")
    (finding,) = json.loads((tmp_path / "c/splits/leakage.json").read_text())["findings"]
    assert finding["allowed"] is True
    with pytest.raises(BadUsageError):
        build(grids, TRAIN.model_copy(update={"allow": ("nobody",)}), tmp_path / "d")


def test_evaluation_slices_inside_a_pretraining_corpus_are_found(lab, tmp_path):
    grids = write_lab(tmp_path, {"held": (copy_of(section(3)), "d9", "train")})
    report = certify_folders([lab[1], grids], [])
    with pytest.raises(GateError, match="s3"):
        require_no_leak(report)
    (tmp_path / "clean").mkdir()
    clean = write_lab(tmp_path / "clean", {"fresh": (section(50), "d9", "train")})
    require_no_leak(certify_folders([lab[1], clean], []))


def test_the_same_donor_on_two_sides_of_a_sheet_is_refused(tmp_path):
    slices = {"one": (section(1), "d1", "train"), "two": (section(2), "d1", "test")}
    grids = write_lab(tmp_path, slices)
    with pytest.raises(GateError, match="donor-twice"):
        build(grids, TRAIN, tmp_path / "c")
    allowed = TRAIN.model_copy(update={"allow": ("donor-twice",)})
    assert build(grids, allowed, tmp_path / "c").slices


def test_a_published_corpus_stands_for_its_grids(lab, tmp_path):
    whole = TRAIN.model_copy(update={"whole_slices": True})
    build(lab[1], whole, tmp_path / "published")
    (tmp_path / "mine").mkdir()
    slices = {"held": (copy_of(section(3)), "d9", "train"), "new": (section(50), "d8", "train")}
    grids = write_lab(tmp_path / "mine", slices)
    report = certify_folders([grids, tmp_path / "published"], [])
    assert report.pairs == 28
    (finding,) = [found for found in report.findings if found.refused]
    assert finding.name == "grids/held+published/s3"
    build(lab[1], TRAIN, tmp_path / "patches")
    with pytest.raises(BadInputError, match="6 slices have no whole-slice sample"):
        certify_folders([grids, tmp_path / "patches"], [])


def test_one_donor_under_two_names_is_refused_where_donors_are_held_out(tmp_path):
    first = section(1)
    slices = {
        "one": (first, "d1", "test"),
        "two": (section(2), "d2", "test"),
        "again": (copy_of(first), "d3", "test"),
    }
    config = ShardConfig(name="led", window=8, genes=16, n_per_slice=None, cover=8, draws=1)
    grids = write_lab(tmp_path, slices, "label")
    with pytest.raises(GateError, match=r"led/again\+led/one"):
        build(grids, config, tmp_path / "c")
    build(grids, config.model_copy(update={"label_splits": False}), tmp_path / "d")
    assert not (tmp_path / "d" / "splits").exists()
    (tmp_path / "clean").mkdir()
    del slices["again"]
    build(write_lab(tmp_path / "clean", slices, "label"), config, tmp_path / "e")
    report = json.loads((tmp_path / "e/splits/leakage.json").read_text())
    assert report["apart"] == "donor"
    assert report["findings"] == []
    assert "donor-out@1" in open_corpus(tmp_path / "e").evaluation_splits()
