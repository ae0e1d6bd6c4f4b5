"""A corpus from its lock: the same bytes; what is missing or changed is named before any work."""

import json
import shutil

import pytest
from click.testing import CliRunner

from stbuild.build.building import build_corpus
from stbuild.build.inputs import gather_inputs
from stbuild.build.rebuild import rebuild_corpus
from stbuild.cli import cli
from stbuild.config import GridConfig
from stbuild.corpus.errors import BadInputError, IntegrityError
from stbuild.genes.vocabulary import Vocabulary
from stbuild.grid.compact import compact
from stbuild.manifests.manifest import read_inputs
from stbuild.tasks.pipeline import run_loop
from stbuild.verify.comparison import compare_corpora
from tests.conftest import COVER, TRAIN
from tests.trees import tree_digests


@pytest.fixture(scope="module")
def sources(slice_files, tmp_path_factory):
    """A folder with slices and a manifest beside it, as people keep them."""
    root = tmp_path_factory.mktemp("lab")
    (root / "data").mkdir()
    for path in slice_files:
        shutil.copy(path, root / "data")
    (root / "m").mkdir()
    (root / "m" / "lab.toml").write_text('name = "lab"\nsamples = "lab.csv"\n')
    rows = ["slice,path,donor,split,label,layout", "One,../data/alpha.h5ad,d1,train,label,"]
    rows += ["Two,../data/beta.h5ad,d2,train,,square", "Three,../data/gamma.h5ad,d3,val,label,rank"]
    (root / "m" / "lab.csv").write_text("\n".join(rows) + "\n")
    return root


def build(sources, out, config, vocabulary=None):
    manifest = read_inputs([str(sources / "m" / "lab.toml")])
    compact(manifest, GridConfig(pitch_um=100.0), out / "grids", run_loop)
    build_corpus(gather_inputs(out / "grids", config, vocabulary), out / "corpus", run_loop)
    return out / "corpus"


@pytest.fixture(scope="module")
def corpus(sources, tmp_path_factory):
    return build(sources, tmp_path_factory.mktemp("first"), TRAIN)


@pytest.mark.parametrize("config", [TRAIN, COVER], ids=["training", "evaluation"])
def test_a_rebuilt_corpus_is_the_same_tree(sources, config, tmp_path):
    first = build(sources, tmp_path, config)
    lab = tmp_path / "elsewhere"
    shutil.copytree(sources, lab)
    again = tmp_path / "again"
    report = rebuild_corpus(first / "corpus.lock.json", lab / "m", again, tmp_path / "g", run_loop)
    assert tree_digests(again) == tree_digests(first)
    assert report.other_bytes == ()
    assert report.tools == ()
    assert report.n_same_bytes == len(report.document.shards)


def test_a_given_vocabulary_is_taken_from_the_table_beside_the_lock(sources, tmp_path):
    genes = Vocabulary(tuple(f"GENE{i:04d}" for i in range(5, 30)))
    first = build(sources, tmp_path, TRAIN, genes)
    again = tmp_path / "again"
    rebuild_corpus(first, sources / "m", again, tmp_path / "g", run_loop)
    assert tree_digests(again) == tree_digests(first)
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(first / "corpus.lock.json", alone)
    with pytest.raises(BadInputError, match=r"no genes\.parquet here"):
        rebuild_corpus(alone / "corpus.lock.json", sources / "m", again, tmp_path / "g", run_loop)


def test_every_missing_or_changed_source_is_named_before_any_work(corpus, sources, tmp_path):
    lab = tmp_path / "lab"
    shutil.copytree(sources, lab)
    (lab / "data" / "alpha.h5ad").unlink()
    with (lab / "data" / "beta.h5ad").open("ab") as file:
        file.write(b"x")
    with pytest.raises(IntegrityError) as caught:
        rebuild_corpus(corpus, lab / "m", tmp_path / "out", tmp_path / "g", run_loop)
    assert [problem.subject for problem in caught.value.problems] == [
        "source '../data/alpha.h5ad'",
        "source '../data/beta.h5ad'",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lab"]


def test_a_shard_of_another_content_is_named(corpus, sources, tmp_path):
    lock = json.loads((corpus / "corpus.lock.json").read_text())
    lock["shards"][0]["content"] = "0" * 64
    lock["shards"][1]["sha256"] = "0" * 64
    lock["tools"]["numpy"] = "1.0"
    path = tmp_path / "corpus.lock.json"
    path.write_text(json.dumps(lock))
    with pytest.raises(IntegrityError, match="its content is not that of the lock"):
        rebuild_corpus(path, sources / "m", tmp_path / "out", tmp_path / "g", run_loop)
    lock["shards"][0]["content"] = json.loads((corpus / "corpus.lock.json").read_text())["shards"][
        0
    ]["content"]
    path.write_text(json.dumps(lock))
    report = rebuild_corpus(path, sources / "m", tmp_path / "out", tmp_path / "g", run_loop)
    assert report.other_bytes == (lock["shards"][1]["path"],)
    assert [change.split(":")[0] for change in report.tools] == ["numpy"]


def test_differences_are_said_in_words(corpus, sources, tmp_path):
    same = compare_corpora(corpus, corpus)
    said = "the same by their documents; files were not read (`stbuild verify` reads them)"
    assert same.lines() == [said]
    fewer = build(sources, tmp_path / "a", TRAIN.model_copy(update={"n_per_slice": 5}))
    found = compare_corpora(corpus, fewer)
    assert not found.same_identity
    assert found.config == ("n_per_slice: 12 -> 5",)
    assert any("n_patches: 12 -> 5" in line for line in found.slices)
    other = build(sources, tmp_path / "b", TRAIN.model_copy(update={"codec": "lz4"}))
    codec = compare_corpora(corpus, other)
    assert codec.same_identity
    assert not codec.same_bytes
    assert not codec.differs
    assert codec.lines()[0] == "the same content, other bytes"
    assert all("the same content in other bytes" in line for line in codec.shards)
    assert CliRunner().invoke(cli, ["diff", str(corpus), str(tmp_path / "b/corpus")]).exit_code == 0
    genes = Vocabulary(tuple(f"GENE{i:04d}" for i in range(10)))
    short = compare_corpora(corpus, build(sources, tmp_path / "c", TRAIN, genes))
    assert any("only in the first" in line for line in short.genes)


def test_corrected_metadata_are_a_difference(corpus, tmp_path):
    mended = tmp_path / "mended"
    shutil.copytree(corpus, mended)
    text = (mended / "corpus.json").read_text()
    (mended / "corpus.json").write_text(text.replace('"donor": "d1"', '"donor": "dX"'))
    done = CliRunner().invoke(cli, ["diff", str(corpus), str(mended)])
    assert done.exit_code == 1
    head, *lines = done.stdout.splitlines()
    assert head == "the same samples, described otherwise"
    assert lines == ["slices: one: donor: d1 -> dX"]


def _lock_with(corpus, path, keys, value):
    lock = json.loads((corpus / "corpus.lock.json").read_text())
    *above, last = keys
    place = lock
    for key in above:
        place = place[key]
    place[last] = value
    path.write_text(json.dumps(lock))
    return path


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["vocabulary_rules"], ["union", "union"], r"2 vocabulary_rules, but 1 sizes"),
        (["vocabulary", "sizes"], [1, 40], r"1 vocabulary_rules, but 2 sizes"),
        (["vocabulary_rules"], ["foo"], r"'foo' is no rule"),
        (["vocabulary_rules"], ["share:7"], r"'share:7' is no rule"),
        (["grids", 0, "generation"], 5, r"beyond the 1 of the vocabulary"),
        (["grids", 0, "slug"], "two", r"grid 'two' stands twice"),
        (["grids", 0, "sources"], [], r"grids\.0\.sources"),
        (["grids", 0, "config", "zzz"], 1, r"grid 'one'.*unknown key"),
        (["grids", 0, "origin", "path"], "/etc/hostname", r"'/etc/hostname' is none of"),
        (["grids", 0, "origin", "path"], "../../../etc/hostname", r"is none of its sources"),
        (["grids", 0, "origin", "path"], "a\0b", r"is none of its sources"),
        (["grids", 0, "origin", "gene_table"], "/etc/hostname", r"origin\.gene_table"),
        (["grids", 0, "sources", 0, "name"], "/etc/hostname", r"absolute"),
    ],
)
def test_a_damaged_lock_is_refused_by_name_before_any_work(
    corpus, sources, tmp_path, keys, value, message
):
    lock = _lock_with(corpus, tmp_path / "odd.lock.json", keys, value)
    with pytest.raises(IntegrityError, match=message) as caught:
        rebuild_corpus(lock, sources / "m", tmp_path / "out", tmp_path / "g", run_loop)
    assert caught.value.exit_code == 6
    assert all("odd.lock.json" in str(problem.where) for problem in caught.value.problems)
    assert [path.name for path in tmp_path.iterdir()] == ["odd.lock.json"]


@pytest.mark.parametrize("name", ["a" * 300, "a\0b"])
def test_a_source_that_no_file_system_can_hold_is_missing(corpus, sources, tmp_path, name):
    lock = json.loads((corpus / "corpus.lock.json").read_text())
    lock["grids"][0]["origin"]["path"] = lock["grids"][0]["sources"][0]["name"] = name
    (tmp_path / "lock.json").write_text(json.dumps(lock))
    with pytest.raises(IntegrityError, match=r"P20.*no such file") as caught:
        rebuild_corpus(
            tmp_path / "lock.json", sources / "m", tmp_path / "o", tmp_path / "g", run_loop
        )
    assert len(caught.value.problems) == 1
