"""Releases: who may be in them, what stands beside the shards, and that all of it is checked."""

import json
import shutil
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from click.testing import CliRunner

from stbuild.build.building import build_corpus
from stbuild.build.inputs import gather_inputs
from stbuild.build.rebuild import rebuild_corpus
from stbuild.build.repair import repair_corpus
from stbuild.cli import cli
from stbuild.config import GridConfig
from stbuild.corpus.documents import ShardConfig, read_config
from stbuild.corpus.errors import (
    BadInputError,
    BadUsageError,
    ConflictError,
    GateError,
    IntegrityError,
    PlatformError,
)
from stbuild.corpus.reader import open_corpus
from stbuild.grid.compact import compact
from stbuild.manifests.manifest import read_inputs
from stbuild.publish.card import escape
from stbuild.publish.licences import known_licences, licence_ids, licence_text, why_refused
from stbuild.publish.options import PublishOptions
from stbuild.publish.release import publish_release
from stbuild.tasks.pipeline import run_loop
from stbuild.verify import verify_corpus
from tests.slices import Spec, make_anndata
from tests.trees import tree_digests

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
TRAIN = {"n_per_slice": 6, "whole_slices": True}
EVALUATION = {"n_per_slice": None, "cover": 8, "draws": 1}
LICENCES = ("CC-BY-4.0", "MIT", "", "CC-BY-4.0", "MIT OR CC0-1.0", "")


def build(root, mode, licences=LICENCES):
    rows = ["slice,path,donor,split,licence,label,tissue,platform,species"]
    for i, licence in enumerate(licences):
        spec = Spec(seed=i, rows=14, cols=12, n_genes=20, labels=("in", "out", f"own{i}"))
        make_anndata(spec).write_h5ad(root / f"s{i}.h5ad")
        split = "test" if i % 3 == 1 else "train"
        rows.append(f"s{i},s{i}.h5ad,d{i},{split},{licence},label,heart,Visium,human")
    (root / "m.csv").write_text("\n".join(rows) + "\n")
    (root / "m.toml").write_text('name = "lab"\nsamples = "m.csv"\n')
    compact(read_inputs([str(root / "m.toml")]), GridConfig(pitch_um=100), root / "g", run_loop)
    config = ShardConfig.model_validate(
        {"name": "lab", "window": 8, "genes": 12, "samples_per_shard": 5, **mode}
    )
    build_corpus(gather_inputs(root / "g", config, None), root / "corpus", run_loop)
    return root / "corpus"


@pytest.fixture(scope="module", params=[TRAIN, EVALUATION], ids=["training", "evaluation"])
def corpus(request, tmp_path_factory):
    """Six slices of four licence classes, one of them unknown."""
    return build(tmp_path_factory.mktemp("publish"), request.param)


@pytest.fixture(scope="module")
def release(corpus, tmp_path_factory):
    """All but the slices of unknown licence."""
    out = tmp_path_factory.mktemp("release") / "release"
    options = PublishOptions(
        title="A *corpus* <b>", authors=("A. Lab",), date="2026-11-23", url="https://example.org/x",
        description="Hearts.", leave_out=("unknown",),
    )  # fmt: skip
    publish_release(corpus, out, options, NOW)
    return out


def publish(corpus, out, **said):
    return publish_release(corpus, out, PublishOptions.model_validate(said), NOW)


def test_slices_that_may_not_be_passed_on_are_all_named(corpus, tmp_path):
    with pytest.raises(GateError) as caught:
        publish(corpus, tmp_path / "r")
    assert [problem.subject for problem in caught.value.problems] == ["slice 's2'", "slice 's5'"]
    assert "--leave-out unknown" in caught.value.problems[0].fix
    assert caught.value.exit_code == 11
    assert not (tmp_path / "r").exists()


def test_the_publisher_may_state_the_right_and_the_card_says_so(corpus, tmp_path):
    summary = publish(corpus, tmp_path / "r", stated=("unknown",))
    assert summary.document == open_corpus(corpus).document
    assert (tmp_path / "r" / "corpus.json").read_bytes() == (corpus / "corpus.json").read_bytes()
    card = (tmp_path / "r" / "README.md").read_text()
    assert "redistribution stated by the publisher" in card


@pytest.mark.parametrize(
    ("licence", "reason"),
    [
        (None, "states no licence"),
        ("free for all", "no SPDX expression"),
        ("CC-BY-ND-4.0", "does not allow changed copies"),
        ("LicenseRef-ours", "not known here"),
        ("CC-BY-4.0 AND CC-BY-ND-4.0", "does not allow changed copies"),
        ("(MIT OR Apache-2.0) AND CC-BY-NC-ND-4.0", "does not allow changed copies"),
        ("MIT AND (CC-BY-ND-4.0 OR LicenseRef-x)", "does not allow changed copies"),
    ],
)
def test_why_a_licence_is_refused(licence, reason):
    found = why_refused(licence)
    assert found is not None
    assert reason in found


@pytest.mark.parametrize(
    "licence",
    [
        "CC0-1.0",
        "cc-by-4.0",
        "CC-BY-ND-4.0 OR MIT",
        "GPL-3.0-only",
        "MIT AND (CC-BY-ND-4.0 OR CC0-1.0)",
        "GPL-2.0-only WITH Classpath-exception-2.0",
    ],
)
def test_what_a_licence_allows(licence):
    assert why_refused(licence) is None


def test_licence_texts_are_at_hand_or_their_place_is_said():
    assert "CREATIVE COMMONS" in licence_text("CC0-1.0").upper()
    assert "GNU GENERAL PUBLIC LICENSE" in licence_text("GPL-3.0-only")
    assert "https://spdx.org/licenses/CC-BY-4.0.html" in licence_text("CC-BY-4.0")
    assert licence_ids("GPL-2.0-only WITH Classpath-exception-2.0 AND MIT") == [
        "GPL-2.0-only",
        "MIT",
    ]
    assert all(why_refused(name) is None or not entry.allows_changes
               for name, entry in known_licences().items())  # fmt: skip


def test_a_class_left_out_is_gone_from_every_file(corpus, release):
    whole, part = open_corpus(corpus), open_corpus(release)
    assert verify_corpus(release).problems == ()
    kept = {entry.slug for entry in part.document.slices}
    assert kept == {"s0", "s1", "s3", "s4"}
    assert part.document.corpus_id != whole.document.corpus_id
    before = {shard.path: shard for shard in whole.document.shards}
    assert all(before[shard.path] == shard for shard in part.document.shards)
    assert {s.licence for s in before.values()} - {s.licence for s in part.document.shards} == {
        None
    }
    for split in part.document.splits():
        index = part.index(split)
        assert set(index.slices) <= kept
        shards = part.document.shards_of(split)
        for i in range(0, len(index), 3):
            part.read_sample(shards[int(index.shard[i])], index, i)
    for name in part.evaluation_splits():
        assert set(part.evaluation_split(name).barcodes) <= kept
    if whole.document.config.cover is not None:
        assert part.evaluation_splits()


def test_a_part_is_rebuilt_from_its_own_lock(corpus, release, tmp_path):
    report = rebuild_corpus(release, corpus.parent, tmp_path / "again", tmp_path / "g", run_loop)
    part = open_corpus(release).document
    assert report.n_same_bytes == len(part.shards)
    assert report.other_bytes == ()
    assert report.document.corpus_id == part.corpus_id  # splits included


@pytest.mark.parametrize("seed", range(3))
def test_a_part_keeps_the_splits_that_were_drawn_for_the_whole(tmp_path, seed):
    drawn = {"n_per_slice": 4, "assign": "donor", "test_share": 0.4, "seed": seed}
    corpus = build(tmp_path, drawn)
    publish(corpus, tmp_path / "r", leave_out=("unknown", "mit"))
    part, whole = open_corpus(tmp_path / "r").document, open_corpus(corpus).document
    before = {entry.slug: entry.split for entry in whole.slices}
    assert all(before[entry.slug] == entry.split for entry in part.slices)
    report = rebuild_corpus(tmp_path / "r", tmp_path, tmp_path / "b", tmp_path / "bg", run_loop)
    assert report.document.corpus_id == part.corpus_id


def test_a_release_is_not_repaired_in_place(corpus, release):
    with pytest.raises(BadInputError, match="it is a release"):
        repair_corpus(release, corpus.parent / "g", run_loop)


def test_every_file_is_under_a_checksum(release):
    listed = {line[66:] for line in (release / "SHA256SUMS").read_text().splitlines()}
    assert listed == set(tree_digests(release)) - {"SHA256SUMS"}
    assert {"README.md", "croissant.json", "release.json", "provenance.intoto.json"} <= listed
    assert {"LICENSES/CC-BY-4.0.txt", "LICENSES/MIT.txt", "LICENSES/CC0-1.0.txt"} <= listed


def test_damage_to_what_stands_beside_the_corpus_is_named(release, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(release, copy)
    rng = np.random.default_rng(3)
    own = {file.path for file in open_corpus(copy).document.files}
    beside = [p for p in sorted(tree_digests(copy)) if p not in own and not p.endswith(".tar")]
    assert len(beside) > 8
    for path in beside:
        good = (copy / path).read_bytes()
        for _ in range(10):
            raw = bytearray(good)
            raw[int(rng.integers(len(raw)))] ^= 1 << int(rng.integers(8))
            (copy / path).write_bytes(raw)
            try:
                problems = verify_corpus(copy, quick=True).problems
            except IntegrityError as error:
                problems = error.problems
            assert any(str(copy / path) in str(problem.where) for problem in problems), path
        (copy / path).unlink()
        if path != "corpus.json":  # without it there is no corpus
            assert verify_corpus(copy, quick=True).problems, path
        (copy / path).write_bytes(good)
    (copy / "figures" / "more.png").write_bytes(b"")
    assert verify_corpus(copy, quick=True).problems


def test_the_card_says_what_is_in_it(release):
    card = (release / "README.md").read_text()
    _, head, body = card.split("---\n", 2)
    assert "license: other" in head
    assert "n<1K" in head
    assert all(shard.path in head for shard in open_corpus(release).document.shards)
    assert "A \\*corpus\\* &lt;b&gt;" in body
    assert "<b>" not in body.partition("## Citation")[0]
    for word in (
        "## Slices",
        "## Licences",
        "## Limits and biases",
        "## Leakage certificate",
        "## Load",
        "## Verify",
        "## Citation",
        "CC-BY-4.0",
        "Left out",
        "heart 4",
    ):
        assert word in body, word
    corpus_id = open_corpus(release).document.corpus_id
    assert body.count(corpus_id) == 3
    for line in body.splitlines():
        if line.startswith("!["):
            assert (release / line.partition("(")[2].rstrip(")")).is_file()


def test_names_from_inputs_can_do_nothing_in_the_card():
    text = escape("x|y <script> [a](b) `c` \x1b[31m\n# h")
    assert "<script>" not in text
    assert "\n" not in text
    assert "\x1b" not in text
    assert "\\|" in text


@pytest.mark.filterwarnings("ignore:ConjunctiveGraph is deprecated:DeprecationWarning")
def test_croissant_is_valid_and_yields_records(release):
    mlcroissant = pytest.importorskip("mlcroissant")
    dataset = mlcroissant.Dataset(jsonld=str(release / "croissant.json"))
    issues = dataset.metadata.issues
    assert not issues.errors
    split = open_corpus(release).document.splits()[0]
    first = next(iter(dataset.records(f"patches-{split}")))
    index = open_corpus(release).index(split)
    assert first[f"patches-{split}/key"] == index.keys[0].encode()
    assert first[f"patches-{split}/offset"] == int(index.offset[0])
    names = {r["slices/name"] for r in dataset.records("slices")}
    assert names == {b"s0", b"s1", b"s3", b"s4"}
    value = json.loads((release / "croissant.json").read_text())
    assert value["conformsTo"] == "http://mlcommons.org/croissant/1.1"


def test_provenance_names_inputs_and_the_only_time(release):
    value = json.loads((release / "provenance.intoto.json").read_text())
    assert value["_type"] == "https://in-toto.io/Statement/v1"
    assert value["predicateType"] == "https://slsa.dev/provenance/v1"
    (subject,) = value["subject"]
    assert subject["digest"]["sha256"] == tree_digests(release)["corpus.json"]
    definition = value["predicate"]["buildDefinition"]
    assert {"buildType", "externalParameters", "resolvedDependencies"} <= set(definition)
    named = {entry["name"] for entry in definition["resolvedDependencies"]}
    assert named == {"corpus.lock.json", "s0.h5ad", "s1.h5ad", "s3.h5ad", "s4.h5ad"}
    assert value["predicate"]["runDetails"]["metadata"] == {"finishedOn": "2026-11-23T12:00:00Z"}


def test_two_releases_differ_in_nothing_but_the_time(corpus, tmp_path):
    options = PublishOptions(leave_out=("unknown",))
    publish_release(corpus, tmp_path / "one", options, NOW)
    publish_release(corpus, tmp_path / "two", options, NOW + timedelta(hours=1))
    one, two = tree_digests(tmp_path / "one"), tree_digests(tmp_path / "two")
    other = {path for path in one if one[path] != two[path]}
    assert other == {"provenance.intoto.json", "release.json", "SHA256SUMS"}


def test_nothing_of_the_machine_leaves_it(corpus, release, monkeypatch):
    canaries = [str(corpus.parent).encode(), str(release.parent).encode()]
    for path in tree_digests(release):
        raw = (release / path).read_bytes()
        assert not [canary for canary in canaries if canary in raw], path


def test_a_rerun_writes_nothing_and_other_options_are_refused(corpus, release):
    before = tree_digests(release)
    options = PublishOptions(
        title="A *corpus* <b>", authors=("A. Lab",), date="2026-11-23", url="https://example.org/x",
        description="Hearts.", leave_out=("unknown",),
    )  # fmt: skip
    again = publish_release(corpus, release, options, NOW + timedelta(days=9))
    assert again.already_done
    assert tree_digests(release) == before
    with pytest.raises(ConflictError, match="other options"):
        publish(corpus, release, leave_out=("unknown",))


def test_a_corpus_whose_metadata_were_corrected_is_another_one(corpus, tmp_path):
    out, mended = tmp_path / "r", tmp_path / "mended"
    publish(corpus, out, leave_out=("unknown",))
    shutil.copytree(corpus, mended)
    text = (mended / "corpus.json").read_text()
    (mended / "corpus.json").write_text(text.replace('"donor": "d0"', '"donor": "dX"'))
    assert open_corpus(mended).document.corpus_id == open_corpus(corpus).document.corpus_id
    with pytest.raises(ConflictError, match="of other metadata"):
        publish(mended, out, leave_out=("unknown",))


def test_a_finished_release_that_lost_a_file_is_not_called_finished(corpus, tmp_path):
    out = tmp_path / "r"
    publish(corpus, out, leave_out=("unknown",))
    for gone in (next((out / "data").rglob("*.tar")), out / "README.md"):
        raw = gone.read_bytes()
        gone.unlink()
        with pytest.raises(IntegrityError, match=rf"1 of its .*{gone.name}"):
            publish(corpus, out, leave_out=("unknown",))
        gone.write_bytes(raw)
    assert publish(corpus, out, leave_out=("unknown",)).already_done


def test_a_release_of_an_earlier_version_is_compared_by_its_corpus(corpus, tmp_path):
    out = tmp_path / "r"
    publish(corpus, out, stated=("unknown",))
    told = json.loads((out / "release.json").read_text())
    del told["of_document"]
    (out / "release.json").write_text(json.dumps(told))
    assert publish(corpus, out, stated=("unknown",)).already_done


def test_a_run_that_was_stopped_looks_unfinished_and_goes_on(corpus, tmp_path, monkeypatch):
    out = tmp_path / "r"

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("stbuild.publish.release.list_sums", stop)
        with pytest.raises(KeyboardInterrupt):
            publish(corpus, out, leave_out=("unknown",))
    assert not (out / "corpus.json").exists()
    publish(corpus, out, leave_out=("unknown",))
    assert verify_corpus(out).problems == ()


def test_what_cannot_be_published_is_refused(corpus, tmp_path):
    with pytest.raises(BadUsageError, match="no slice has licence gpl"):
        publish(corpus, tmp_path / "r", leave_out=("GPL",))
    with pytest.raises(BadUsageError, match="nothing is left"):
        publish(corpus, tmp_path / "r",
                leave_out=("unknown", "MIT", "CC-BY-4.0", "MIT OR CC0-1.0"))  # fmt: skip
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    with pytest.raises(ConflictError, match=r"thesis\.txt"):
        publish(corpus, tmp_path / "full", leave_out=("unknown",))
    copy = tmp_path / "copy"
    shutil.copytree(corpus, copy)
    shard = next((copy / "data").rglob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=shard.name):
        publish(copy, tmp_path / "r", leave_out=("unknown",))


def test_a_missing_package_is_said_before_any_work(corpus, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlcroissant", None)
    with pytest.raises(PlatformError, match=r"E009.*stcorpus\[publish\]"):
        publish(corpus, tmp_path / "r", leave_out=("unknown",))


def test_the_command(corpus, tmp_path):
    out = tmp_path / "r"
    done = CliRunner().invoke(
        cli, ["publish", str(corpus), "-o", str(out), "--leave-out", "unknown", "--json"]
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["left_out"] == ["unknown"]
    assert verify_corpus(out).problems == ()


def test_a_day_that_no_calendar_has_is_refused_before_any_work():
    for day in ("2020-13-45", "2023-02-29"):
        with pytest.raises(BadUsageError, match=f"key 'date'.*{day}"):
            read_config(PublishOptions, {"date": day}, "command line")
    assert read_config(PublishOptions, {"date": "2024-02-29"}, "command line").date == "2024-02-29"
