"""Whatever happens to the files of a corpus, ``verify`` notices and names the file."""

import copy
import json
import shutil
import tarfile
from datetime import UTC, datetime
from itertools import pairwise

import numpy as np
import pytest

from stbuild.build.building import build_corpus
from stbuild.build.inputs import gather_inputs
from stbuild.config import GridConfig
from stbuild.corpus.digests import sha256_bytes
from stbuild.corpus.documents import ShardConfig
from stbuild.corpus.errors import StError
from stbuild.corpus.jsonio import dump_document
from stbuild.corpus.reader import open_corpus
from stbuild.grid.compact import compact
from stbuild.manifests.manifest import read_inputs
from stbuild.publish.options import PublishOptions
from stbuild.publish.release import publish_release
from stbuild.tasks.pipeline import run_loop
from stbuild.verify import verify_corpus
from tests.slices import Spec, make_anndata
from tests.trees import tree_digests

SMALL = {"window": 8, "genes": 12, "samples_per_shard": 4}


@pytest.fixture(scope="module", params=["training", "evaluation", "plain", "release"])
def corpus(request, tmp_path_factory):
    """A corpus of two splits with whole slices, for evaluation, without a codec, or published."""
    root = tmp_path_factory.mktemp(request.param)
    rows = ["slice,path,donor,split,licence,label"]
    for i, split in enumerate(("train", "test", "train")):
        make_anndata(Spec(seed=i, rows=14, cols=12, n_genes=20)).write_h5ad(root / f"s{i}.h5ad")
        rows.append(f"s{i},s{i}.h5ad,d{i},{split},{'CC0-1.0' if i else 'MIT'},label")
    (root / "m.csv").write_text("\n".join(rows) + "\n")
    (root / "m.toml").write_text('name = "frail"\nsamples = "m.csv"\n')
    compact(read_inputs([str(root / "m.toml")]), GridConfig(pitch_um=100), root / "g", run_loop)
    mode = {"n_per_slice": None, "cover": 8, "draws": 1}
    if request.param != "evaluation":
        mode = {"n_per_slice": 5, "whole_slices": True}
    codec = "none" if request.param == "plain" else "zstd"
    config = ShardConfig.model_validate({"name": "frail", "codec": codec, **SMALL, **mode})
    build_corpus(gather_inputs(root / "g", config, None), root / "corpus", run_loop)
    if request.param != "release":
        return root / "corpus"
    now = datetime(2026, 11, 23, tzinfo=UTC)
    publish_release(root / "corpus", root / "release", PublishOptions(), now)
    return root / "release"


@pytest.fixture
def victim(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "victim")
    return tmp_path / "victim"


def named(root, *, quick=False):
    """Return the files that are named; ``corpus.json`` itself by the error that opening raises."""
    try:
        problems = verify_corpus(root, quick=quick).problems
    except StError as error:
        problems = error.problems
    return {str(problem.where).split(".tar:")[0].removesuffix(".tar") for problem in problems}


def is_named(root, path, *, quick=False):
    return str(root / path).removesuffix(".tar") in named(root, quick=quick)


def flip(file, position, bit):
    raw = bytearray(file.read_bytes())
    raw[position] ^= 1 << bit
    file.write_bytes(raw)


def places(root):
    """Every kind of place: each document, each table, and in shards each header and member kind."""
    found = {}
    for path in sorted(tree_digests(root)):
        size = (root / path).stat().st_size
        if not path.endswith(".tar"):
            found[path] = [(path, 0, size)]
            continue
        kind = "slices" if "-slices-" in path else "patches"
        with tarfile.open(root / path) as tar:
            for member in tar:
                suffix = member.name.partition(".")[2]
                header = (path, member.offset, member.offset + 512)
                body = (path, member.offset_data, member.offset_data + max(member.size, 1))
                found.setdefault(f"{kind} header {suffix}", []).append(header)
                found.setdefault(f"{kind} body {suffix}", []).append(body)
                pad = member.offset_data + member.size
                if -pad % 512:
                    found.setdefault(f"{kind} padding", []).append((path, pad, pad + -pad % 512))
        found.setdefault("end of archive", []).append((path, size - 1024, size))
    return list(found.values())


def check_flips(root, n, seed):
    rng = np.random.default_rng(seed)
    kinds = places(root)
    assert len(kinds) > 25
    for number in range(n):
        choices = kinds[number % len(kinds)]
        path, first, last = choices[int(rng.integers(len(choices)))]
        position, bit = int(rng.integers(first, last)), int(rng.integers(8))
        flip(root / path, position, bit)
        quick = bool(number % 2)
        assert is_named(root, path, quick=quick), f"{path} byte {position} bit {bit}"
        flip(root / path, position, bit)
    assert named(root) == set()


def test_a_flip_anywhere_is_found_and_the_file_named(victim):
    check_flips(victim, 150, seed=0)


@pytest.mark.slow
def test_many_flips_are_found(victim):
    check_flips(victim, 2000, seed=1)


def test_a_shard_cut_at_any_block_is_found(victim):
    shards = sorted((victim / "data").rglob("*.tar"), key=lambda path: path.stat().st_size)
    for file in (shards[0], next(f for f in shards if "-slices-" in f.name)):
        raw = file.read_bytes()
        for size in range(0, len(raw), 512):
            file.write_bytes(raw[:size])
            assert is_named(victim, file.relative_to(victim), quick=True)
        file.write_bytes(raw + bytes(512))
        assert is_named(victim, file.relative_to(victim), quick=True)
        file.write_bytes(raw)


def test_a_file_that_is_gone_cut_or_added_is_found(victim):
    for path in sorted(tree_digests(victim)):
        raw = (victim / path).read_bytes()
        (victim / path).unlink()
        assert is_named(victim, path), path
        (victim / path).write_bytes(raw[:-1])
        assert is_named(victim, path), path
        (victim / path).write_bytes(raw)
    for path in ("extra", "data/train/.hidden", "splits/more.json", "data/train/a/b.tar"):
        (victim / path).parent.mkdir(parents=True, exist_ok=True)
        (victim / path).write_bytes(b"")
        assert is_named(victim, path)
        (victim / path).unlink()
    for folder in ("data/train/a", "data/train", "splits"):
        if not any((victim / folder).iterdir()):
            (victim / folder).rmdir()
    assert named(victim) == set()


def test_files_in_each_others_place_are_found(victim):
    shards = sorted((victim / "data").rglob("*.tar"))
    for one, two in pairwise(shards):
        a, b = one.read_bytes(), two.read_bytes()
        if a == b:
            continue
        one.write_bytes(b)
        two.write_bytes(a)
        found = named(victim, quick=True)
        assert {str(one)[:-4], str(two)[:-4]} <= found
        one.write_bytes(a)
        two.write_bytes(b)
    copied = shards[0].with_name("copy-00000.tar")
    shutil.copy(shards[0], copied)
    assert is_named(victim, copied.relative_to(victim))
    copied.unlink()
    moved = shards[0].rename(shards[0].with_name("moved-00000.tar"))
    assert {str(moved)[:-4], str(shards[0])[:-4]} <= named(victim)


def test_links_and_folders_in_place_of_files_are_found(victim, tmp_path):
    (shard, *_) = sorted((victim / "data").rglob("*.tar"))
    shard.rename(tmp_path / "outside.tar")
    shard.symlink_to(tmp_path / "outside.tar")
    assert is_named(victim, shard.relative_to(victim))
    shard.unlink()
    shard.mkdir()
    assert is_named(victim, shard.relative_to(victim))
    shard.rmdir()
    (tmp_path / "outside.tar").rename(shard)
    (victim / "data").rename(tmp_path / "data")
    (victim / "data").symlink_to(tmp_path / "data")
    assert is_named(victim, shard.relative_to(victim))


def more(value):
    return value + 1


EDITS = {
    "spots": lambda d: d["slices"][0].update(n_spots=more(d["slices"][0]["n_spots"])),
    "patches": lambda d: d["slices"][0].update(n_patches=more(d["slices"][0]["n_patches"])),
    "labelled": lambda d: d["slices"][0].update(n_labelled=more(d["slices"][0]["n_labelled"])),
    "genes": lambda d: d["slices"][0].update(n_genes=more(d["slices"][0]["n_genes"])),
    "shared genes": lambda d: d["slices"][0].update(n_vocabulary=3),
    "split": lambda d: d["slices"][0].update(split="val"),
    "blocks": lambda d: d["slices"][0].update(split="blocks"),
    "donor": lambda d: d["slices"][0].update(donor="nobody"),
    "tissue": lambda d: d["slices"][0].update(tissue="brain"),
    "licence": lambda d: d["slices"][0].update(licence="CC0-1.0"),
    "class": lambda d: d["shards"][0].update(licence="wtfpl"),
    "generation": lambda d: d["shards"][0].update(generation=1),
    "slice gone": lambda d: d["slices"].pop(),
    "slice twice": lambda d: d["slices"].append(copy.deepcopy(d["slices"][0])),
    "shard twice": lambda d: d["shards"].append(copy.deepcopy(d["shards"][0])),
    "samples": lambda d: d["shards"][0].update(n_samples=more(d["shards"][0]["n_samples"])),
    "content": lambda d: d["shards"][0].update(content="0" * 64),
    "order": lambda d: d["shards"].reverse(),
    "seed": lambda d: d["config"].update(seed=1),
    "window": lambda d: d["config"].update(window=9),
    "labels": lambda d: d["labels"].append("zzz"),
    "vocabulary": lambda d: d["vocabulary"].update(n_genes=1, sizes=[1]),
    "grown": lambda d: d["vocabulary"].update(sizes=[3, d["vocabulary"]["n_genes"]]),
    "digest": lambda d: d["vocabulary"].update(digest="0" * 64),
    "identity": lambda d: d.update(corpus_id="0" * 64),
    "grid": lambda d: d["slices"][0].update(grid=[1, 1]),
    "source": lambda d: d["slices"][0]["sources"][0].update(bytes=1),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edited_document_is_found_even_under_new_checksums(victim, edit):
    path = victim / "corpus.json"
    document = json.loads(path.read_bytes())
    edit(document)
    raw = dump_document(document)
    sums = victim / "SHA256SUMS"
    sums.write_text(sums.read_text().replace(sha256_bytes(path.read_bytes()), sha256_bytes(raw)))
    path.write_bytes(raw)
    assert named(victim)


def test_white_space_in_a_document_is_found(victim):
    path = victim / "corpus.json"
    path.write_bytes(path.read_bytes() + b"\n")
    assert is_named(victim, "corpus.json")


def test_sums_can_be_checked_without_our_tools(corpus):
    for line in (corpus / "SHA256SUMS").read_text().splitlines():
        digest, _, path = line.partition("  ")
        assert sha256_bytes((corpus / path).read_bytes()) == digest
    listed = {line.partition("  ")[2] for line in (corpus / "SHA256SUMS").read_text().splitlines()}
    assert listed == set(tree_digests(corpus)) - {"SHA256SUMS"}


def test_the_undamaged_corpus_is_good(corpus):
    report = verify_corpus(corpus)
    assert report.problems == ()
    assert report.n_samples == sum(s.n_samples for s in open_corpus(corpus).document.shards)
