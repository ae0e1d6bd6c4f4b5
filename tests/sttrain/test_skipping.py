"""``--on-bad skip``: holes in batches, counted and bounded; nothing else moves."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stbuild.corpus.reader import Corpus, open_corpus
from sttrain.errors import IntegrityError
from sttrain.model.autoencoder import MaskedAutoencoder
from sttrain.stream.batches import PatchSource, PatchStream, StreamState
from sttrain.stream.order import World
from sttrain.train.centring import measure_slices
from sttrain.train.config import FitOptions
from sttrain.train.distributed import Ranks
from sttrain.train.learner import Learner
from sttrain.train.objectives import keyed_generator
from sttrain.train.run import fit
from sttrain.train.skipping import Skipped
from sttrain.train.trace import read_trace
from tests.corpora import write_corpus
from tests.sttrain.processes import RECIPE, Starter
from tests.sttrain.test_ranks import start
from tests.sttrain.test_train import CONFIG, OPTIONS

BAD = (4, 11, 17)
"""Positions of the damaged patches among the 30 of the corpus."""
SKIP = OPTIONS.model_copy(update={"on_bad": "skip", "max_skipped": 0.1, "trace": True})


def damage(corpus: Corpus, numbers) -> set[str]:
    """Flip a bit of each of some patches and return their keys."""
    index, shards = corpus.index("train"), corpus.document.shards_of("train")
    for number in numbers:
        path = corpus.root / shards[int(index.shard[number])].path
        raw = bytearray(path.read_bytes())
        raw[int(index.offset[number]) + 700] ^= 1
        path.write_bytes(raw)
    return {index.keys[number] for number in numbers}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Corpus:
    return write_corpus(tmp_path_factory.mktemp("skip") / "corpus", n_patches=15)


@pytest.fixture
def copy(tmp_path, whole) -> Corpus:
    shutil.copytree(whole.root, tmp_path / "copy")
    return open_corpus(tmp_path / "copy")


def events(run: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == "skipped"]


@pytest.mark.parametrize("group", [None, 2])
@pytest.mark.parametrize("n_ranks", [1, 2, 3])
def test_a_hole_moves_no_other_patch(whole, copy, group, n_ranks):
    bad = damage(copy, BAD)
    good = PatchSource(whole, "train", group=group)
    holed = PatchSource(copy, "train", group=group, on_bad="skip")
    order = good.order(8, 3)
    for rank in range(n_ranks):
        world = World(rank=rank, n_ranks=n_ranks)
        full = list(PatchStream(good, order, world).batches(StreamState(), 2))
        thin = list(PatchStream(holed, order, world, workers=2).batches(StreamState(), 2))
        assert len(thin) == len(full) == 2 * order.steps, "equal steps on all ranks"
        for one, other in zip(full, thin, strict=True):
            stay = [i for i, key in enumerate(one.keys) if key not in bad]
            assert other.keys == tuple(one.keys[i] for i in stay)
            assert other.rows.tolist() == one.rows[stay].tolist()
            assert other.total == one.total
            assert len(other.damaged) == len(one.keys) - len(stay)
            for name in ("counts", "genes", "totals"):
                assert np.array_equal(getattr(other, name), getattr(one, name)[stay])


def test_foreign_genes_are_damage_too(whole):
    source = PatchSource(whole, "train", on_bad="skip")
    expected, genes, _ = source.read(range(8))
    source.n_genes = int(genes.max())
    found = source.gather(range(8))
    stay = (genes < source.n_genes).all(axis=1)
    assert 0 < stay.sum() < 8
    assert found.kept.tolist() == np.flatnonzero(stay).tolist()
    assert np.array_equal(found.counts, expected[stay])
    assert "outside the vocabulary" in str(found.damaged[0])


def test_wide_patches_after_a_hole(tmp_path):
    """The batch turns to 32 bits on the way, and nothing of the patches before is lost."""
    corpus = write_corpus(tmp_path / "c", n_patches=6, wide=True)
    expected = PatchSource(corpus, "train").read(range(12))
    damage(corpus, [0, 5])
    found = PatchSource(corpus, "train", on_bad="skip").gather(range(12))
    stay = [i for i in range(12) if i not in (0, 5)]
    assert found.kept.tolist() == stay
    assert found.counts.dtype == np.uint32
    assert np.array_equal(found.counts, expected[0][stay])


def test_refused_by_default(copy, tmp_path):
    damage(copy, BAD)
    with pytest.raises(IntegrityError, match="SHA-256"):
        fit(copy.root, tmp_path / "run", CONFIG, OPTIONS)


def test_a_run_goes_on_and_tells(copy, tmp_path):
    bad, said = damage(copy, BAD), list[str]()
    summary = fit(copy.root, tmp_path / "run", CONFIG, SKIP, say=said.append)
    assert summary.steps_now == 12
    assert summary.skipped == 3 * len(bad), "in each of three epochs"
    assert f"left out a damaged or missing patch {3 * len(bad)} times (first: " in str(summary)
    told = events(tmp_path / "run")
    assert sum(line["patches"] for line in told) == summary.skipped
    assert {line["damaged"][0].split(":")[-2] for line in told} <= bad
    for key in bad:
        assert sum(key in text for line in told for text in line["damaged"]) == 3
    assert sum("left out" in text for text in said) == len(told)
    trace = read_trace(tmp_path / "run")
    keys = [key for step in trace.values() for key in step]
    assert sorted(keys) == sorted(3 * [k for k in copy.index("train").keys if k not in bad])


def test_a_hole_changes_no_other_patch_s_errors(whole, copy):
    """Same masks, same errors, fewer targets: the loss is the mean over what is there."""
    damage(copy, BAD)
    good, holed = PatchSource(whole, "train"), PatchSource(copy, "train", on_bad="skip")
    config = CONFIG.model_copy(update={"batch": 30})
    full = PatchStream(good, good.order(30, 3)).read(StreamState())
    thin = PatchStream(holed, good.order(30, 3)).read(StreamState())
    model = MaskedAutoencoder(config.model, good.n_genes, keyed_generator("weights", 0))
    learner = Learner(model, config)
    one, other = learner.prepare(full), learner.prepare(thin)
    stay = thin.rows
    assert len(stay) == 27
    with torch.no_grad():
        torch.testing.assert_close(learner(other), learner(one)[stay])
    parts = [task.n_targets for task in one.parts(1)]
    assert other.n_targets == sum(parts[i] for i in stay) < one.n_targets


def test_a_missing_shard(copy, tmp_path):
    shard = copy.document.shards_of("train")[1]
    (copy.root / shard.path).unlink()
    config = CONFIG.model_copy(update={"epochs": 1})
    options = SKIP.model_copy(update={"max_skipped": 0.5})
    with pytest.raises(IntegrityError, match="missing"):
        fit(copy.root, tmp_path / "strict", config, OPTIONS)
    summary = fit(copy.root, tmp_path / "run", config, options)
    assert summary.skipped == shard.n_samples == 10
    assert "No such file" in (summary.first_skipped or "")


def test_too_many(copy, tmp_path):
    """The limit is of an epoch, rounded up to whole patches, and ends the run in words."""
    damage(copy, BAD)
    options = SKIP.model_copy(update={"max_skipped": 0.05})
    with pytest.raises(IntegrityError) as caught:
        fit(copy.root, tmp_path / "run", CONFIG, options)
    assert "3 of 30 patches are damaged or missing, at most 2 may be skipped" in str(caught.value)
    assert "--max-skipped" in str(caught.value)
    assert caught.value.exit_code == 6
    assert sum(line["patches"] for line in events(tmp_path / "run")) == 2


def test_one_may_always_be_skipped(copy, tmp_path):
    damage(copy, BAD[:1])
    default = FitOptions(threads=1, workers=0, on_bad="skip")
    config = CONFIG.model_copy(update={"epochs": 1})
    assert fit(copy.root, tmp_path / "run", config, default).skipped == 1


def test_a_held_out_split_is_never_thinned(tmp_path):
    corpus = write_corpus(tmp_path / "c", n_slices=2, splits=("train", "val"), n_patches=16)
    index = corpus.index("val")
    path = corpus.root / corpus.document.shards_of("val")[0].path
    raw = bytearray(path.read_bytes())
    raw[int(index.offset[0]) + 700] ^= 1
    path.write_bytes(raw)
    options = SKIP.model_copy(update={"val_split": "val", "val_every": 1})
    with pytest.raises(IntegrityError, match="SHA-256"):
        fit(corpus.root, tmp_path / "run", CONFIG, options)


@pytest.fixture
def lab(copy, tmp_path):
    """A folder as the tests of ranks have it, with a damaged corpus."""
    damage(copy, BAD)
    copy.root.rename(tmp_path / "corpus")
    (tmp_path / "recipe.toml").write_text(RECIPE.format(epochs=2))
    return tmp_path


@dataclass(kw_only=True)
class Pair(Ranks):
    """One rank of two; the other one left out what it says."""

    others: list[str]

    def agree(self, values, error, device=None):
        if error is not None:
            raise error
        return [value + len(self.others) for value in values]

    def gather(self, text, device=None):
        return [text, json.dumps(self.others)]


@pytest.mark.parametrize("rank", [0, 1])
def test_what_other_ranks_leave_out_counts_here(whole, rank):
    """Each rank knows the sum, so that all stop in the same step; the first one says why."""
    source = PatchSource(whole, "train", on_bad="skip")
    batch = PatchStream(source, source.order(8, 3)).read(StreamState())
    world = World(rank=rank, n_ranks=2)
    skipped = Skipped(order=source.order(8, 3), share=0.1)
    assert skipped.note(batch, None, Pair(world=world, others=[])) is None
    told = skipped.note(batch, None, Pair(world=world, others=["a: bad", "b: bad"]))
    assert told == {"epoch": 0, "patches": 2, "damaged": ["a: bad", "b: bad"]}
    assert (skipped.total, skipped.first) == (2, "a: bad")
    later = replace(batch, epoch=1)
    skipped.note(later, None, Pair(world=world, others=["a: bad", "b: bad"]))
    assert skipped.total == 4, "the limit is of an epoch"
    with pytest.raises(IntegrityError, match="4 of 30 patches") if rank == 0 else nullcontext():
        skipped.note(later, None, Pair(world=world, others=["c: bad", "d: bad"]))


@pytest.fixture(scope="module")
def starter():
    found = Starter()
    yield found
    found.close()


def test_means_of_slices_are_those_of_the_patches_that_are_left(copy):
    """A skipped patch moves no other into a slice that is not its own."""
    damage(copy, BAD)
    source = PatchSource(copy, "train", on_bad="skip")
    found = measure_slices(source)
    for slug, row in found.rows.items():
        of_it = [i for i in range(len(source)) if source.index.slices[i] == slug and i not in BAD]
        sums, seen = np.zeros(source.n_genes), np.zeros(source.n_genes)
        for number in of_it:
            counts, genes, totals = (array[0] for array in source.read([number]))
            at = totals > 0
            for gene, values in zip(genes.tolist(), counts.astype(float), strict=True):
                if gene >= 0:
                    sums[gene] += np.log1p(1e4 * values[at] / totals[at]).sum()
                    seen[gene] += at.sum()
        expected = sums / np.maximum(seen, 1)
        np.testing.assert_allclose(found.table[row].numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.dist
@pytest.mark.slow
def test_ranks_count_together(lab, starter):
    """Two ranks leave out what one does, in the same steps."""
    fit(lab / "corpus", lab / "alone", CONFIG.model_copy(update={"epochs": 2}), SKIP)
    job = start(starter, lab, "pair", 2, "--on-bad", "skip", "--max-skipped", "0.1")
    assert set(job.wait()) == {0}, job.text()
    assert "left out a damaged or missing patch 6 times" in job.text()
    one, two = (
        [(e["steps"], e["patches"], sorted(e["damaged"])) for e in events(lab / name)]
        for name in ("alone", "pair")
    )
    assert one == two
    assert read_trace(lab / "alone") == read_trace(lab / "pair")


@pytest.mark.dist
@pytest.mark.slow
def test_ranks_stop_together(lab, starter):
    job = start(starter, lab, "run", 2, "--on-bad", "skip", "--max-skipped", "0.05")
    assert 0 not in job.wait()
    assert job.text().count("at most 2 may be skipped") >= 1
