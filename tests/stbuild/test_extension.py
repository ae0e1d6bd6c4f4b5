"""More slices for a finished corpus: old shards stay, the rest is what a rebuild would give."""

import shutil
from types import SimpleNamespace

import pytest

from stbuild.build.building import build_corpus
from stbuild.build.extension import extend_config, gather_extension
from stbuild.build.growth import Growth, grow_labels
from stbuild.build.inputs import gather_inputs
from stbuild.build.rebuild import rebuild_corpus
from stbuild.build.repair import repair_corpus
from stbuild.config import GridConfig
from stbuild.corpus.documents import ShardConfig
from stbuild.corpus.errors import BadInputError, BadUsageError, ConflictError, IntegrityError
from stbuild.corpus.names import MAX_LABELS
from stbuild.corpus.reader import open_corpus
from stbuild.genes.vocabulary import Vocabulary
from stbuild.grid.compact import compact
from stbuild.manifests.manifest import read_inputs
from stbuild.tasks.pipeline import run_loop
from stbuild.verify import verify_corpus
from tests.slices import Spec, make_anndata
from tests.trees import tree_digests

CONFIG = ShardConfig(
    name="grown", window=8, genes=16, n_per_slice=6, samples_per_shard=5, whole_slices=True
)


def section(seed, first_gene, label="layer"):
    """A slice of 60 genes; those of another `first_gene` measure others too."""
    data = make_anndata(Spec(seed=seed, rows=20, cols=18, n_genes=60))
    data.var_names = [f"GENE{first_gene + i:04d}" for i in range(60)]
    data.obs["region"] = [f"{label}{i % 2}" for i in range(data.n_obs)]
    return data


SLICES = {
    "a": (section(1, 20, "m"), "d1", "train", "CC-BY-4.0"),
    "b": (section(2, 20, "m"), "d2", "test", "MIT"),
    "g": (section(3, 0, "a"), "d3", "train", "CC-BY-4.0"),
    "h": (section(4, 40, "z"), "d2", "test", ""),
    "k": (section(5, 10), "d5", "train", "MIT"),
}


def write_lab(root, names):
    rows = ["slice,path,donor,split,licence,label"]
    for name in names:
        data, donor, split, licence = SLICES[name]
        if not (root / f"{name}.h5ad").is_file():
            data.write_h5ad(root / f"{name}.h5ad")
        rows.append(f"{name},{name}.h5ad,{donor},{split},{licence},region")
    (root / "m.csv").write_text("\n".join(rows) + "\n")
    (root / "m.toml").write_text('name = "grown"\nsamples = "m.csv"\n')
    grids = root / f"grids-{''.join(names)}"
    compact(read_inputs([str(root / "m.toml")]), GridConfig(pitch_um=100), grids, run_loop)
    return grids


def extend(grids, base, out, config=None, vocabulary=None):
    corpus = open_corpus(base)
    config = extend_config(corpus, {}) if config is None else config
    inputs, earlier = gather_extension(grids, corpus, config, vocabulary)
    return build_corpus(inputs, out, run_loop, earlier=earlier).document


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A corpus of two slices, then of four, then of five."""
    root = tmp_path_factory.mktemp("lab")
    build_corpus(gather_inputs(write_lab(root, "ab"), CONFIG, None), root / "v1", run_loop)
    extend(write_lab(root, "abgh"), root / "v1", root / "v2")
    extend(write_lab(root, "abghk"), root / "v2", root / "v3")
    return root


def test_old_shards_keep_their_names_and_bytes(lab):
    first, last = open_corpus(lab / "v1").document, open_corpus(lab / "v3").document
    now = {shard.path: shard for shard in last.shards}
    assert all(now[shard.path] == shard for shard in first.shards)
    assert {shard.generation for shard in last.shards} == {0, 1, 2}
    assert [entry.generation for entry in last.slices] == [0, 0, 1, 1, 2]
    assert not verify_corpus(lab / "v3", quick=False).problems


def test_genes_and_labels_are_appended(lab):
    first, last = open_corpus(lab / "v1"), open_corpus(lab / "v3")
    n_first = len(first.genes)
    assert last.genes[:n_first] == first.genes
    assert last.genes[n_first:] == sorted(last.genes[n_first:])
    assert last.genes[n_first] < first.genes[0]
    assert last.document.vocabulary.sizes[0] == n_first
    # Only slice g is new, in training and with other genes: test slices bring none.
    assert last.genes[n_first:] == [f"GENE{i:04d}" for i in range(20)]
    assert last.document.labels[:2] == first.document.labels == ("m0", "m1")
    assert last.document.labels[2:4] == ("a0", "a1")


def test_new_patches_hold_the_counts_of_their_genes(lab):
    corpus = open_corpus(lab / "v2")
    whole = next(s for s in corpus.whole_slices("train") if s.meta.slice == "g")
    raw = SLICES["g"][0]
    spot = {name.encode(): i for i, name in enumerate(raw.obs_names)}
    counts = raw.X.toarray() if hasattr(raw.X, "toarray") else raw.X
    column = {gene: i for i, gene in enumerate(raw.var_names)}
    for n, barcode in enumerate(whole.barcodes[:40]):
        row = slice(whole.indptr[n], whole.indptr[n + 1])
        pairs = zip(whole.indices[row], whole.data[row], strict=True)
        source = counts[spot[bytes(barcode)]]
        known = {g: int(source[i]) for g, i in column.items() if g in corpus.genes}
        assert {corpus.genes[g]: int(v) for g, v in pairs} == {g: v for g, v in known.items() if v}
        assert list(whole.indices[row]) == sorted(whole.indices[row])


def test_it_is_what_a_rebuild_from_the_lock_gives(lab, tmp_path):
    report = rebuild_corpus(lab / "v3", lab, tmp_path / "again", tmp_path / "g", run_loop)
    assert report.other_bytes == ()
    assert tree_digests(tmp_path / "again") == tree_digests(lab / "v3")


def test_what_is_damaged_is_repaired(lab, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(lab / "v3", copy)
    bad = [shard.path for shard in open_corpus(copy).document.shards][::3]
    for path in [*bad, "genes.parquet", "index/train.parquet"]:
        (copy / path).unlink()
    report = repair_corpus(copy, lab / "grids-abghk", run_loop)
    assert list(report.shards) == bad
    assert tree_digests(copy) == tree_digests(lab / "v3")
    for path in ("corpus.lock.json", "genes.parquet"):
        (copy / path).unlink()
        repair_corpus(copy, lab / "grids-abghk", run_loop)
        assert tree_digests(copy) == tree_digests(lab / "v3")


def test_a_shard_holds_slices_of_one_licence_class(lab):
    corpus = open_corpus(lab / "v3")
    licence = {entry.slug: entry.licence for entry in corpus.document.slices}
    words = {"CC-BY-4.0": "cc-by-4-0", "MIT": "mit", None: None}
    for split in corpus.document.splits():
        index, shards = corpus.index(split), corpus.document.shards_of(split)
        for number, slug in zip(index.shard, index.slices, strict=True):
            assert shards[int(number)].licence == words[licence[slug]]
    assert "data/train/grown-train-cc-by-4-0-00000.tar" in {s.path for s in corpus.document.shards}
    assert "data/test/grown-test-00000.tar" in {s.path for s in corpus.document.shards}


def test_a_run_that_was_stopped_goes_on(lab, tmp_path, monkeypatch):
    grids, out = lab / "grids-abgh", tmp_path / "v2"

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("stbuild.build.building.publish_corpus", stop)
        with pytest.raises(KeyboardInterrupt):
            extend(grids, lab / "v1", out)
    extend(grids, lab / "v1", out)
    assert tree_digests(out) == tree_digests(lab / "v2")
    inputs, earlier = gather_extension(grids, open_corpus(lab / "v1"), CONFIG, None)
    assert build_corpus(inputs, out, run_loop, earlier=earlier).already_done


def test_given_genes_are_appended_and_none_without(lab, tmp_path):
    given = Vocabulary(tuple(f"GENE{i:04d}" for i in range(20, 50)))
    inputs = gather_inputs(lab / "grids-ab", CONFIG, given)
    build_corpus(inputs, tmp_path / "v1", run_loop)
    extend(lab / "grids-abgh", tmp_path / "v1", tmp_path / "none")
    assert open_corpus(tmp_path / "none").genes == list(given.genes)
    more = Vocabulary(("GENE0001", "GENE0030"))
    extend(lab / "grids-abgh", tmp_path / "v1", tmp_path / "more", vocabulary=more)
    assert open_corpus(tmp_path / "more").genes == [*given.genes, "GENE0001"]
    rebuild_corpus(tmp_path / "more", lab, tmp_path / "again", tmp_path / "g", run_loop)
    assert tree_digests(tmp_path / "again") == tree_digests(tmp_path / "more")


def test_donors_keep_their_split_when_splits_are_drawn(lab, tmp_path):
    config = CONFIG.model_copy(update={"assign": "donor", "test_share": 0.4})
    build_corpus(gather_inputs(lab / "grids-ab", config, None), tmp_path / "v1", run_loop)
    document = extend(lab / "grids-abghk", tmp_path / "v1", tmp_path / "v2")
    before = {e.slug: e.split for e in open_corpus(tmp_path / "v1").document.slices}
    after = {e.slug: e.split for e in document.slices}
    assert {slug: after[slug] for slug in before} == before
    assert after["h"] == after["b"]  # one donor
    rebuild_corpus(tmp_path / "v2", lab, tmp_path / "again", tmp_path / "g", run_loop)
    assert tree_digests(tmp_path / "again") == tree_digests(tmp_path / "v2")


def test_what_cannot_be_extended_is_refused(lab, tmp_path):
    with pytest.raises(BadUsageError, match="window: 8 -> 4"):
        extend_config(open_corpus(lab / "v1"), {"window": 4})
    with pytest.raises(BadInputError, match="no others"):
        extend(lab / "grids-ab", lab / "v1", tmp_path / "x")
    with pytest.raises(ConflictError, match="not among the grids"):
        extend(lab / "grids-ab", lab / "v2", tmp_path / "x")
    other = tmp_path / "other"
    other.mkdir()
    SLICES["k"][0].write_h5ad(other / "a.h5ad")
    shutil.copy(lab / "b.h5ad", other)
    with pytest.raises(ConflictError, match=r"slice 'a'.*another one"):
        extend(write_lab(other, "abg"), lab / "v1", tmp_path / "x")
    broken = tmp_path / "broken"
    shutil.copytree(lab / "v1", broken)
    for shard in open_corpus(broken).document.shards[:2]:
        (broken / shard.path).unlink()
    with pytest.raises(IntegrityError) as caught:
        extend(lab / "grids-abgh", broken, tmp_path / "y")
    assert len(caught.value.problems) == 2


def test_more_labels_than_codes_are_refused_with_the_slice_that_has_most():
    def meta(slug, first, stop):
        found = tuple(f"L{i:05d}" for i in range(first, stop))
        return SimpleNamespace(
            slug=slug, name=slug, label_names=found, config=SimpleNamespace(label="cell")
        )

    known = Growth(rules=("union", "union"), generation_of={"a": 0})
    metas = [meta("a", 0, 20_000), meta("b", 10_000, MAX_LABELS)]
    assert len(grow_labels(known, metas)) == MAX_LABELS
    said = r"B079.*32,768 different labels.*22,768, in column 'cell' of slice 'b'"
    with pytest.raises(BadInputError, match=said):
        grow_labels(known, [metas[0], meta("b", 10_000, MAX_LABELS + 1)])
