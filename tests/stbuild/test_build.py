"""Building a corpus: same bytes however it runs, resume, refusals, what the files say."""

import gc
import io
import json
import shutil
import subprocess
import tarfile

import numpy as np
import pytest
import webdataset

import stbuild.grid.compact as module
from stbuild.build.assemble import publish_corpus
from stbuild.build.building import build_corpus
from stbuild.build.inputs import gather_inputs
from stbuild.build.shards import write_shard
from stbuild.config import PAPER_GRID, PAPER_SHARDS, GridConfig
from stbuild.corpus.documents import ShardConfig
from stbuild.corpus.errors import (
    BadInputError,
    BadUsageError,
    ConflictError,
    IntegrityError,
    Problem,
    ResourceError,
    StError,
)
from stbuild.corpus.reader import open_corpus
from stbuild.corpus.samples import decode_patch
from stbuild.genes.vocabulary import Vocabulary
from stbuild.grid.catalogue import read_catalogue
from stbuild.grid.compact import compact
from stbuild.manifests.manifest import read_inputs
from stbuild.tasks.pipeline import run_loop
from tests.conftest import COVER, TRAIN
from tests.slices import Spec, write_slice
from tests.trees import tree_digests

GRID = GridConfig(label="label", pitch_um=100.0)


def build(grids, out, config=TRAIN, runner=run_loop):
    return build_corpus(gather_inputs(grids, config, None), out, runner)


def test_the_same_inputs_give_the_same_bytes(train_corpus, slice_files, tmp_path):
    compact(read_inputs([str(p) for p in reversed(slice_files)]), GRID, tmp_path / "g", run_loop)
    build(tmp_path / "g", tmp_path / "elsewhere" / "corpus")
    assert tree_digests(tmp_path / "elsewhere" / "corpus") == tree_digests(train_corpus.root)


def test_a_finished_corpus_that_lost_a_file_is_not_called_finished(train_corpus, grids, tmp_path):
    out = tmp_path / "c"
    shutil.copytree(train_corpus.root, out)
    shard, table = next((out / "data").rglob("*.tar")), out / "genes.parquet"
    shard.unlink()
    table.write_bytes(table.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=rf"2 of its .*{shard.name}.*stbuild repair") as caught:
        build(grids, out)
    assert caught.value.exit_code == 6


def test_a_rerun_of_a_finished_corpus_writes_nothing(train_corpus, grids):
    before = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in train_corpus.root.rglob("*")}
    assert build(grids, train_corpus.root).already_done
    after = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in train_corpus.root.rglob("*")}
    assert after == before


def test_a_rerun_of_finished_grids_writes_nothing(grids, slice_files):
    before = {p: p.stat().st_mtime_ns for p in [grids, *grids.rglob("*")]}
    summary = compact(read_inputs([str(p) for p in slice_files]), GRID, grids, run_loop)
    assert all(report.reused for report in summary.reports)
    assert {p: p.stat().st_mtime_ns for p in [grids, *grids.rglob("*")]} == before


def test_another_config_is_refused_and_named(train_corpus, grids):
    before = tree_digests(train_corpus.root)
    with pytest.raises(ConflictError, match=r"B097.*genes: 16 -> 17; seed: 0 -> 5"):
        build(grids, train_corpus.root, TRAIN.model_copy(update={"genes": 17, "seed": 5}))
    assert tree_digests(train_corpus.root) == before


def test_other_grids_are_refused_and_named(grids, slice_files, tmp_path):
    shutil.copytree(grids, tmp_path / "g")
    with pytest.raises(ConflictError, match=r"label: label -> None"):
        compact(read_inputs([str(p) for p in slice_files]), GridConfig(), tmp_path / "g", run_loop)
    with pytest.raises(ConflictError, match="also has slice gamma"):
        compact(read_inputs([str(p) for p in slice_files[:2]]), GRID, tmp_path / "g", run_loop)


def test_slices_may_be_added_to_grids(grids, slice_files, tmp_path):
    shutil.copytree(grids, tmp_path / "g")
    new = write_slice(tmp_path / "delta.h5ad", Spec(seed=12))
    manifest = read_inputs([str(p) for p in [*slice_files, new]])
    summary = compact(manifest, GRID, tmp_path / "g", run_loop)
    assert [report.slug for report in summary.reports if not report.reused] == ["delta"]


def test_a_folder_with_other_files_is_left_alone(grids, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConflictError, match=r"B097.*notes\.txt"):
        build(grids, tmp_path)
    assert (
        tree_digests(tmp_path)
        == tree_digests(tmp_path)
        == {"notes.txt": tree_digests(tmp_path)["notes.txt"]}
    )
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_an_unfinished_build_of_another_config_is_refused(grids, tmp_path, monkeypatch):
    def stop(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr("stbuild.build.building.publish_corpus", stop)
    with pytest.raises(KeyboardInterrupt):
        build(grids, tmp_path / "c")
    monkeypatch.undo()
    with pytest.raises(ConflictError, match="seed: 0 -> 1"):
        build(grids, tmp_path / "c", TRAIN.model_copy(update={"seed": 1}))
    assert not build(grids, tmp_path / "c").already_done


def part_times(root):
    return [path.stat().st_mtime_ns for path in sorted((root / "c/.work/parts").iterdir())]


def test_resuming_after_a_stop_cuts_nothing_twice(train_corpus, grids, tmp_path, monkeypatch):
    real, calls = write_shard, []

    def fail_second(task):
        calls.append(task)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(task)

    monkeypatch.setattr("stbuild.build.building.write_shard", fail_second)
    with pytest.raises(KeyboardInterrupt):
        build(grids, tmp_path / "c")
    monkeypatch.setattr("stbuild.build.building.write_shard", real)
    kept = part_times(tmp_path)
    again = []

    def publish(*arguments):
        again.extend(part_times(tmp_path))
        return publish_corpus(*arguments)

    monkeypatch.setattr("stbuild.build.building.publish_corpus", publish)
    build(grids, tmp_path / "c")
    assert again == kept
    assert tree_digests(tmp_path / "c") == tree_digests(train_corpus.root)


# webdataset 1.0.2 leaves the files it read for the collector to close.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_shards_are_plain_tars_that_webdataset_reads(train_corpus):
    shards = train_corpus.document.shards_of("train")
    index = train_corpus.index("train")
    urls = [str(train_corpus.root / shard.path) for shard in shards]
    dataset = webdataset.WebDataset(urls, shardshuffle=False)
    samples = [(sample["__key__"], decode_patch(sample, sample["__key__"])) for sample in dataset]
    del dataset
    gc.collect()
    assert [key for key, _ in samples] == list(index.keys)
    assert len({patch.meta.slice for _, patch in samples[:10]}) == 3
    with tarfile.open(urls[0], "r:") as tar:
        infos = tar.getmembers()
    assert {(i.mtime, i.uid, i.gid, i.mode, i.uname) for i in infos} == {(0, 0, 0, 0o644, "")}


def test_checksums_satisfy_sha256sum(train_corpus):
    command = ["sha256sum", "-c", "--strict", "SHA256SUMS"]
    done = subprocess.run(command, cwd=train_corpus.root, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout
    listed = (train_corpus.root / "SHA256SUMS").read_text().splitlines()
    assert {line.split("  ")[1] for line in listed} == set(tree_digests(train_corpus.root)) - {
        "SHA256SUMS"
    }


def test_the_codec_changes_bytes_but_not_the_identity(train_corpus, grids, tmp_path):
    for codec in ("lz4", "none"):
        build(grids, tmp_path / codec, TRAIN.model_copy(update={"codec": codec}))
        other = open_corpus(tmp_path / codec).document
        assert other.corpus_id == train_corpus.document.corpus_id
        assert other.shards[0].sha256 != train_corpus.document.shards[0].sha256


def test_an_evaluation_corpus_covers_every_spot_and_carries_its_splits(eval_corpus):
    index = eval_corpus.index("test")
    assert set(eval_corpus.evaluation_splits()) >= {"paper20@1", "block20@1", "few-shot-5@1"}
    whole = {w.meta.slice: w for w in eval_corpus.whole_slices("test")}
    seen: dict[str, set[int]] = {slug: set() for slug in whole}
    for i, shard in enumerate(eval_corpus.document.shards_of("test")):
        with tarfile.open(eval_corpus.root / shard.path) as tar:
            for member in tar.getmembers():
                if member.name.endswith(".spots.npy"):
                    raw = tar.extractfile(member)
                    assert raw is not None
                    spots = np.lib.format.read_array(io.BytesIO(raw.read()), allow_pickle=False)
                    seen[member.name.split("_")[0]] |= set(spots[spots >= 0].tolist())
        assert (index.shard == i).sum() == shard.n_samples
    assert {slug: len(found) for slug, found in seen.items()} == {
        slug: w.meta.n_spots for slug, w in whole.items()
    }
    split = eval_corpus.evaluation_split("paper20@1")
    assert split.barcodes["alpha"] == tuple(b.decode() for b in whole["alpha"].barcodes)


def test_a_given_vocabulary_is_kept_as_it_is(train_corpus, grids, tmp_path):
    genes = Vocabulary((*train_corpus.genes, "ZZZ"))
    build_corpus(gather_inputs(grids, COVER, genes), tmp_path / "c", run_loop)
    assert open_corpus(tmp_path / "c").genes == list(genes.genes)


def test_padding_is_counted_and_refused_when_asked(grids, tmp_path):
    config = ShardConfig(window=16, genes=39, n_per_slice=2)
    summary = build(grids, tmp_path / "c", config)
    assert {notice.code for notice in summary.notices} == {"B066", "B057"}
    assert summary.n_padded_patches == 2
    strict = config.model_copy(update={"strict_size": True})
    with pytest.raises(BadInputError) as caught:
        build(grids, tmp_path / "d", strict)
    assert len(caught.value.problems) == 3
    assert not (tmp_path / "d").exists()


def test_windows_that_used_their_tries_up_are_counted_by_slice(grids, tmp_path):
    config = TRAIN.model_copy(update={"min_fill": 1.0, "tries": 1})
    summary = build(grids, tmp_path / "c", config)
    told = [str(notice) for notice in summary.notices if notice.code == "B065"]
    slices = [line.split(":")[0].removeprefix("warning[B065] ") for line in told]
    assert slices == ["slice 'alpha'", "slice 'beta'", "slice 'gamma'"]
    n_drawn = sum(int(line.split(": ")[1].split()[0]) for line in told)
    assert n_drawn == summary.n_tries - summary.n_windows > 0


def test_a_changed_grid_is_refused(grids, tmp_path):
    shutil.copytree(grids, tmp_path / "g")
    chunk = next(
        path for path in sorted((tmp_path / "g/alpha.zarr/counts/c").rglob("*")) if path.is_file()
    )
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"!")
    with pytest.raises(IntegrityError, match=r"G01.*SHA-256"):
        build(tmp_path / "g", tmp_path / "c")
    shutil.rmtree(tmp_path / "g/beta.zarr")
    with pytest.raises(IntegrityError, match="missing"):
        build(tmp_path / "g", tmp_path / "c2")


def test_the_same_slice_twice_is_refused(slice_files, tmp_path):
    shutil.copy(slice_files[0], tmp_path / "copy.h5ad")
    files = [str(slice_files[0]), str(tmp_path / "copy.h5ad")]
    with pytest.raises(BadInputError, match="B010"):
        compact(read_inputs(files), GRID, tmp_path / "g", run_loop)
    assert not (tmp_path / "g" / "grids.json").exists()


def test_of_the_same_slice_twice_one_is_kept_where_bad_ones_are_skipped(slice_files, tmp_path):
    shutil.copy(slice_files[0], tmp_path / "copy.h5ad")
    files = [str(slice_files[0]), str(tmp_path / "copy.h5ad")]
    for _ in range(2):
        done = compact(read_inputs(files), GRID, tmp_path / "g", run_loop, skip_bad=True)
        assert [error.problems[0].code for error in done.rejected] == ["B010"]
        assert [report.slug for report in done.reports] == ["alpha"]
        assert [entry.slug for entry in read_catalogue(tmp_path / "g").grids] == ["alpha"]
        assert not (tmp_path / "g" / "copy.zarr").exists()


def test_good_grids_are_kept_when_another_slice_is_bad(slice_files, tmp_path):
    bad = tmp_path / "bad.h5ad"
    bad.write_bytes(b"")
    files = [str(slice_files[0]), str(bad)]
    with pytest.raises(BadInputError, match="B002"):
        compact(read_inputs(files), GRID, tmp_path / "g", run_loop)
    assert (tmp_path / "g/alpha.zarr/inventory.json").is_file()
    assert not (tmp_path / "g/grids.json").exists()
    summary = compact(read_inputs(files), GRID, tmp_path / "g", run_loop, skip_bad=True)
    assert (len(summary.reports), len(summary.rejected)) == (1, 1)


def test_nothing_is_written_into_a_source(tmp_path):
    source = tmp_path / "store.zarr"
    source.mkdir()
    for out in (source, source / "grids", tmp_path / "x" / ".." / "store.zarr"):
        with pytest.raises(BadUsageError, match=r"B102.*inside of slice 'store'"):
            compact(read_inputs([str(source)]), GRID, out, run_loop)
    assert not list(source.iterdir())


def test_what_is_no_fault_of_a_slice_leaves_none_out(slice_files, tmp_path, monkeypatch):
    """A disk that is full for a moment must not thin out a corpus."""
    faults = {
        "full disk": (ResourceError, "P05", True), "bug": (StError, "E001", True),
        "too large": (ResourceError, "P33", False), "hangs": (ResourceError, "P04", False),
    }  # fmt: skip
    whole = module.compact_slice

    def failing(task):
        if task.name == "beta":
            raise kind(Problem(code=code, subject="slice 'beta'", what="no", fix="none"))
        return whole(task)

    monkeypatch.setattr(module, "compact_slice", failing)
    for name, (kind, code, stops) in faults.items():
        arguments = (read_inputs([str(path) for path in slice_files]), GRID, tmp_path / name)
        if stops:
            with pytest.raises(kind, match=code):
                compact(*arguments, run_loop, skip_bad=True)
            assert not (tmp_path / name / "grids.json").exists()
        else:
            summary = compact(*arguments, run_loop, skip_bad=True)
            assert (len(summary.reports), len(summary.rejected)) == (2, 1)


def test_no_path_or_time_of_this_machine_is_published(train_corpus, tmp_path):
    text = (train_corpus.root / "corpus.json").read_text()
    text += (train_corpus.root / "corpus.lock.json").read_text()
    assert str(tmp_path.parents[1]) not in text
    assert (
        json.loads((train_corpus.root / "corpus.json").read_text())["slices"][0]["sources"][0][
            "name"
        ]
        == "alpha.h5ad"
    )


def test_the_paper_preset_is_the_literal_reading(slice_files, tmp_path):
    base = GRID.model_copy(update=PAPER_GRID)
    compact(read_inputs([str(slice_files[0])]), base, tmp_path / "g", run_loop)
    config = ShardConfig(n_per_slice=4, **(PAPER_SHARDS | {"genes": 20}))
    build(tmp_path / "g", tmp_path / "c", config)
    (entry,) = open_corpus(tmp_path / "c").document.slices
    assert (entry.layout, entry.grid) == ("rank", (20, 36))
    assert (config.holes, config.min_fill, config.window) == ("zero", 0.0, 16)
