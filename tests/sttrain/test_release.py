"""Releases: whole or not at all, the same bytes, and nothing believed that was not released."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from stbuild.corpus.digests import lines_digest, sha256_bytes
from sttrain.cli import cli
from sttrain.embed.spots import embed_checkpoint
from sttrain.errors import (
    BadInputError,
    BadUsageError,
    ConflictError,
    DivergedError,
    IntegrityError,
    StError,
)
from sttrain.model.autoencoder import MaskedAutoencoder, ModelConfig
from sttrain.model.parameters import count_numbers, count_parameters
from sttrain.release import loading as released
from sttrain.release.card import escape, render_card
from sttrain.release.document import FILES, ReleaseDocument, seal_document
from sttrain.release.encoder import load_encoder
from sttrain.release.files import encode_genes, encode_release
from sttrain.release.loading import load_released, read_release, require_genes
from sttrain.release.writing import write_release
from sttrain.train.config import FitOptions, RunConfig
from sttrain.train.run import fit
from tests.corpora import write_corpus
from tests.sttrain.judged import TINY
from tests.sttrain.releases import add_means, write_released_run


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpora") / "eval"
    return write_corpus(root, kind="cover", n_slices=2, splits=("test", "train"))


@pytest.fixture(scope="module")
def run(tmp_path_factory, corpus):
    return write_released_run(tmp_path_factory.mktemp("runs") / "run", corpus)


@pytest.fixture(scope="module")
def made(tmp_path_factory, run, corpus):
    """A release; copy it before damaging it."""
    folder = tmp_path_factory.mktemp("releases") / "toy"
    write_release(run, folder, corpus=corpus.root, licence="CC-BY-4.0", title="Toy <model>")
    return folder


@pytest.fixture
def copy(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "copy"))


def equal(one, other) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}


# --- writing --------------------------------------------------------------------------------


def test_a_release_is_the_checkpoint(run, made):
    model, info = load_released(made)
    wanted, source = load_encoder(run)
    assert equal(model, wanted)
    assert not model.training
    assert (info.genes, info.steps, info.name) == (source.genes, 4, "step-00000004")
    assert (info.corpus_id, info.seed, info.epoch) == (source.corpus_id, source.seed, source.epoch)
    assert info.digest == sha256_bytes((made / "model.safetensors").read_bytes())


def test_the_files_stand_alone_and_prove_themselves(made, corpus):
    assert {path.name for path in made.iterdir()} == set(FILES)
    for line in (made / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((made / name).read_bytes()).hexdigest() == digest
    config = json.loads((made / "config.json").read_bytes())
    assert (config["format"], config["version"]) == ("sttrain/model", 1)
    assert config["genes"]["digest"] == lines_digest(corpus.genes)
    assert config["corpus"]["corpus_id"] == corpus.document.corpus_id
    assert config["recipe"]["model"]["width"] == TINY.width
    assert config["training"]["loss"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert (made / "genes.txt").read_text().splitlines() == list(corpus.genes)


def test_nothing_private_is_in_a_release(run, made):
    text = "".join((made / name).read_text() for name in FILES if "safe" not in name)
    for private in (str(run), str(run.parent), str(Path.home()), "/tmp", "/home"):
        assert private not in text
    assert "git_" not in text


def test_the_same_again_writes_nothing(run, corpus, made):
    before = snapshot(made)
    outcome = write_release(run, made, corpus=corpus.root, licence="CC-BY-4.0", title="Toy <model>")
    assert not outcome.written
    assert snapshot(made) == before
    assert "nothing was written" in str(outcome)


def test_another_place_holds_the_same_bytes(run, corpus, made, tmp_path):
    write_release(run, tmp_path / "b", corpus=corpus.root, licence="CC-BY-4.0", title="Toy <model>")
    for name in FILES:
        assert (tmp_path / "b" / name).read_bytes() == (made / name).read_bytes()


@pytest.mark.parametrize("left", range(len(FILES)))
def test_a_release_cut_short_is_none_and_is_finished_by_a_rerun(run, copy, left):
    """As a kill leaves it: the files come in order, config.json last."""
    for name in FILES[left:]:
        (copy / name).unlink()
    with pytest.raises(BadInputError, match=r"no config\.json"):
        load_released(copy)
    assert write_release(run, copy).written
    load_released(copy)


def test_another_release_is_not_overwritten(run, copy):
    before = snapshot(copy)
    with pytest.raises(ConflictError, match=r"README\.md, SHA256SUMS, config\.json") as caught:
        write_release(run, copy, title="Another")
    assert caught.value.exit_code == 5
    assert snapshot(copy) == before


def test_a_card_that_a_person_edited_is_not_overwritten(run, corpus, copy):
    (copy / "README.md").write_text("# ours\n")
    with pytest.raises(ConflictError, match=r"README\.md would"):
        write_release(run, copy, corpus=corpus.root, licence="CC-BY-4.0", title="Toy <model>")
    load_released(copy)


def test_a_folder_of_something_else_is_left_alone(run, tmp_path):
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(ConflictError, match=r"no release .first: thesis.docx."):
        write_release(run, tmp_path)
    with pytest.raises(ConflictError, match="not a folder"):
        write_release(run, tmp_path / "thesis.docx")
    with pytest.raises(ConflictError, match="no release"):
        write_release(run, run)


@pytest.mark.parametrize(
    ("flags", "error", "words"),
    [
        pytest.param({"licence": "all mine (c)"}, BadUsageError, "licence", id="licence"),
        pytest.param({"title": "a\nb"}, BadUsageError, "title", id="title"),
        pytest.param({"kind": "ema"}, BadInputError, "no running means", id="no_ema"),
        pytest.param({"checkpoint": "step-1"}, BadInputError, "no such checkpoint", id="name"),
        pytest.param(
            {"checkpoint": "step-00000004", "kind": "initial"}, BadUsageError, "both", id="both"
        ),
    ],
)
def test_what_cannot_be_released_is_refused_in_words(run, tmp_path, flags, error, words):
    with pytest.raises(error, match=words):
        write_release(run, tmp_path / "r", **flags)
    assert not (tmp_path / "r").exists()


def test_no_run_is_refused(tmp_path):
    with pytest.raises(BadInputError, match=r"no run\.json"):
        write_release(tmp_path, tmp_path / "r")


def test_a_checkpoint_of_another_run_is_refused(run, tmp_path):
    other = Path(shutil.copytree(run, tmp_path / "run"))
    path = other / "checkpoints" / "step-00000004.json"
    path.write_text(path.read_text().replace('"fingerprint": "', '"fingerprint": "0')[:])
    value = json.loads(path.read_text())
    path.write_text(json.dumps(value | {"fingerprint": "0" * 64}))
    with pytest.raises(IntegrityError, match="belongs to another run"):
        write_release(other, tmp_path / "r")


def test_another_corpus_is_refused(run, tmp_path):
    other = write_corpus(tmp_path / "other", seed=5)
    with pytest.raises(BadInputError, match="the run was trained on"):
        write_release(run, tmp_path / "r", corpus=other.root)


def test_a_damaged_newest_checkpoint_is_said(run, tmp_path):
    other = Path(shutil.copytree(run, tmp_path / "run"))
    (other / "checkpoints" / "step-00000004.safetensors").write_bytes(b"")
    said: list[str] = []
    outcome = write_release(other, tmp_path / "r", say=said.append)
    assert "step-00000004 is damaged" in said[0]
    assert outcome.document.weights.checkpoint == "initial"
    assert outcome.document.weights.kind == "initial"


def test_weights_that_are_not_finite_are_not_released(corpus, tmp_path):
    run = write_released_run(tmp_path / "run", corpus)
    add_means(run, value=float("nan"))
    with pytest.raises(DivergedError, match="not finite"):
        write_release(run, tmp_path / "r", kind="ema")
    assert write_release(run, tmp_path / "r").written


def test_running_means_and_first_weights(corpus, tmp_path):
    run = write_released_run(tmp_path / "run", corpus)
    add_means(run)
    write_release(run, tmp_path / "ema", kind="ema")
    model, _ = load_released(tmp_path / "ema")
    assert all(bool((weight == 0.5).all()) for weight in model.parameters())
    write_release(run, tmp_path / "initial", kind="initial")
    first, info = load_released(tmp_path / "initial", initial=True)
    assert info.steps == 0
    assert equal(first, load_encoder(run, initial=True)[0])
    card = (tmp_path / "initial" / "README.md").read_text()
    assert "nothing was learnt" in card
    assert "Untrained" in card
    assert load_encoder(tmp_path / "ema")[1].steps == 4


def test_untrained_weights_are_not_in_a_trained_release(made):
    with pytest.raises(BadUsageError, match="after 4 steps and no others"):
        load_encoder(made, initial=True)


# --- the card -------------------------------------------------------------------------------


def test_the_card_says_what_run_and_corpus_say(made, corpus):
    card = (made / "README.md").read_text()
    assert "license: cc-by-4.0" in card
    assert r"# Toy &lt;model\>" in card
    assert corpus.document.corpus_id in card
    assert "4 of 8" in card
    assert "| Platform | synthetic (1) |" in card
    assert "Species: trained on slices that do not say" in card
    assert "Platform: trained on synthetic (1), on no other." in card
    assert f"{len(corpus.genes)} genes" in card


def test_the_hub_reads_the_head(made):
    hub = pytest.importorskip("huggingface_hub")
    data = hub.ModelCard((made / "README.md").read_text()).data
    assert (data.library_name, data.license) == ("stcorpus", "cc-by-4.0")
    assert "spatial-transcriptomics" in data.tags


@pytest.mark.parametrize(
    ("licence", "lines"),
    [
        pytest.param(None, [], id="none"),
        pytest.param("MIT", ["license: mit"], id="known"),
        pytest.param(
            "MIT OR Apache-2.0",
            ["license: other", 'license_name: "MIT OR Apache-2.0"'],
            id="expression",
        ),
    ],
)
def test_licences(made, licence, lines):
    card = render_card(change(made, licence=licence))
    head = card.split("---")[1].splitlines()
    assert [line for line in head if line.startswith("license")] == lines


@given(st.text(max_size=40))
def test_no_text_breaks_out_of_the_card(text):
    shown = escape(text)
    assert "\n" not in shown
    assert "<" not in shown
    assert not re.search(r"(?<!\\)[`|*\[\]]", shown.replace("\\\\", ""))


def test_a_recipe_cannot_close_its_fence(made):
    document = change(made, recipe={"note": "```\n# pwned"})
    assert render_card(document).count("```") == 6


# --- believing ------------------------------------------------------------------------------


def change(folder: Path, **facts) -> ReleaseDocument:
    """The document of a release with other facts, under an identity that holds."""
    document = read_release(folder).document
    return seal_document(
        **({name: getattr(document, name) for name in ReleaseDocument.model_fields} | facts)
    )


def reseal(folder: Path, raw: bytes, **facts) -> None:
    """Put other weights in place and let the document vouch for them."""
    document = read_release(folder).document
    weights = document.weights.model_copy(update={"bytes": len(raw), "sha256": sha256_bytes(raw)})
    document = change(folder, **({"weights": weights} | facts))
    genes = (folder / "genes.txt").read_bytes()
    for name, content in encode_release(document, raw, genes).items():
        (folder / name).write_bytes(content)


DAMAGE = [
    pytest.param(lambda p: p.write_bytes(p.read_bytes()[:-2]), id="truncated"),
    pytest.param(lambda p: p.write_bytes(b""), id="empty"),
    pytest.param(lambda p: p.unlink(), id="missing"),
    pytest.param(lambda p: p.write_bytes(p.read_bytes() + b"x\n"), id="longer"),
    pytest.param(lambda p: p.write_bytes(p.read_bytes()[:-2] + b"\7\7"), id="altered"),
]


@pytest.mark.parametrize("name", ["model.safetensors", "genes.txt", "config.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_refused(copy, name, damage):
    damage(copy / name)
    with pytest.raises(
        (IntegrityError, BadInputError), match=r"config\.json|SHA-256|bytes|missing"
    ):
        load_released(copy)


def test_every_bit_of_the_weights_counts(copy):
    path = copy / "model.safetensors"
    raw = path.read_bytes()
    for at in range(0, len(raw), max(1, len(raw) // 60)):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        with pytest.raises(IntegrityError, match="SHA-256"):
            load_released(copy)


def leaves(value, path=()):
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    else:
        yield path, value


def test_every_value_of_the_document_counts(copy):
    """`heads` changes no shape: without its digest, another model would be loaded in silence."""
    path = copy / "config.json"
    config = json.loads(path.read_bytes())
    for where, value in leaves(config):
        changed = json.loads(json.dumps(config))
        inner = changed
        for key in where[:-1]:
            inner = inner[key]
        other = {True: False, False: True}.get(value) if isinstance(value, bool) else None
        inner[where[-1]] = other if other is not None else 4 if value != 4 else 8
        path.write_text(json.dumps(changed))
        with pytest.raises((IntegrityError, BadInputError)):
            load_released(copy)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        pytest.param({"version": 2}, "version 2; this version reads.*version 1", id="newer"),
        pytest.param({"format": "x"}, "format 'x' version 1", id="format"),
        pytest.param({"format": None}, "format None", id="bert"),
    ],
)
def test_an_unknown_format_is_named(copy, facts, words):
    path = copy / "config.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | facts))
    with pytest.raises(BadInputError, match=words):
        load_released(copy)


@pytest.mark.parametrize("raw", [b"[]", b"{}", b"\xff", b"null", b'{"a":1,"a":2}', b"NaN"])
def test_rubbish_for_a_document(copy, raw):
    (copy / "config.json").write_bytes(raw)
    with pytest.raises((IntegrityError, BadInputError)):
        load_released(copy)


def altered(tensors, name, value):
    return save(tensors | {name: value})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(lambda t: b"PK\x03\x04 a zip of pickles", "no safetensors", id="pickles"),
        pytest.param(lambda t: b"\xff" * 64, "no safetensors", id="absurd_header"),
        pytest.param(lambda t: save({"table": t["table"]}), "numbers; a model", id="part"),
        pytest.param(
            lambda t: altered(t, "backdoor", torch.zeros(2)), "belong to no such.*backdoor",
            id="extra",
        ),
        pytest.param(
            lambda t: altered(t, "hidden", torch.full_like(t["hidden"], float("nan"))),
            "'hidden': 8 of 8 numbers are not finite", id="nan",
        ),
        pytest.param(
            lambda t: altered(t, "table", t["table"] / 0), "numbers are not finite", id="infinite"
        ),
        pytest.param(
            lambda t: altered(t, "table", t["table"].T.contiguous()), "expected .24, 16.",
            id="shape",
        ),
        pytest.param(
            lambda t: altered(t, "table", t["table"].double()), "float64, expected", id="type"
        ),
    ],
)  # fmt: skip
def test_well_sealed_rubbish_is_refused(copy, spoil, words):
    reseal(copy, spoil(load((copy / "model.safetensors").read_bytes())))
    with pytest.raises(IntegrityError, match=words):
        load_released(copy)


def test_a_document_that_lies_about_sizes_allocates_nothing(copy):
    huge = ModelConfig(width=8192, layers=256, heads=8, ffn=65536)
    reseal(copy, (copy / "model.safetensors").read_bytes(), model=huge)
    with pytest.raises(IntegrityError, match=r"numbers; a model of config\.json has"):
        load_released(copy)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        pytest.param(b"GENE0000\n" * 24, "1 distinct genes on 24 lines, expected 24", id="twice"),
        pytest.param(b"\xff\n" * 24, "no UTF-8", id="no_text"),
        pytest.param(b"", "1 distinct genes on 1 lines, expected 24", id="empty"),
    ],
)
def test_well_sealed_genes_that_are_no_vocabulary(copy, raw, words):
    genes = read_release(copy).document.genes.model_copy(update={"digest": sha256_bytes(raw)})
    document = change(copy, genes=genes)
    (copy / "genes.txt").write_bytes(raw)
    (copy / "config.json").write_bytes(document.to_bytes())
    with pytest.raises(IntegrityError, match=words):
        load_released(copy)


@pytest.mark.parametrize("genes", [["a", "a"], ["a\nb"], ["a", ""]])
def test_genes_that_are_no_lines_are_not_released(genes):
    with pytest.raises(BadInputError, match=r"no lines of text|stand twice"):
        encode_genes(genes)


def test_a_file_grown_beyond_belief_is_not_read(copy):
    with (copy / "config.json").open("r+b") as file:
        file.truncate(5 << 20)
    with pytest.raises(IntegrityError, match="at most 4,194,304 are read"):
        load_released(copy)


@pytest.mark.parametrize("odd", ["1e999", '"\\ud800"', "[" * 5000 + "]" * 5000])
def test_a_recipe_of_odd_json_is_refused_in_words(copy, odd):
    path = copy / "config.json"
    text = path.read_text().replace('"recipe": {', '"recipe": {"odd": ' + odd + ",", 1)
    path.write_text(text)
    with pytest.raises(IntegrityError, match=r"JSON|release_id|nested|recursion"):
        load_released(copy)


@given(st.sampled_from(["config.json", "genes.txt", "model.safetensors"]), st.data())
def test_no_change_of_bytes_is_believed_or_crashes(made, name, data):
    """Whatever happens to a file: the same model, or an error in words."""
    raw = (made / name).read_bytes()
    start = data.draw(st.integers(0, len(raw)))
    stop = data.draw(st.integers(start, min(len(raw), start + 40)))
    spoilt = raw[:start] + data.draw(st.binary(max_size=20)) + raw[stop:]
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(made, Path(folder) / "copy"))
        (copy / name).write_bytes(spoilt)
        try:
            model, _ = load_released(copy)
        except StError:
            return
        assert equal(model, load_released(made)[0])
        assert name == "config.json" or spoilt == raw


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_of_a_release_stands_for_all_of_it(made, name):
    assert load_encoder(made / name)[1].steps == 4


def test_a_release_can_be_pinned(made):
    found = read_release(made).document.release_id
    load_released(made, release_id=found)
    with pytest.raises(BadInputError, match="expected 000"):
        load_released(made, release_id="0" * 64)


def test_no_release_at_all(tmp_path):
    for source in (tmp_path, tmp_path / "none"):
        with pytest.raises(BadInputError, match=r"no config\.json"):
            load_released(source)
    with pytest.raises(BadInputError, match="no OWNER/NAME"):
        load_released("hf:../etc")


@pytest.mark.parametrize(
    ("genes", "words"),
    [
        pytest.param(["a", "b", "x"], "1 of 3 genes are unknown.*1 of the model's 3", id="other"),
        pytest.param(["a", "b"], "1 of the model's 3 genes are missing .first: c", id="missing"),
        pytest.param(["b", "a", "c"], "another order .gene 0 is b, not a", id="order"),
        pytest.param(["a", "a", "b", "c"], "another order .gene 1 is a, not b", id="twice"),
        pytest.param(["a", "b", "c", "c"], "another order", id="longer"),
    ],
)
def test_another_vocabulary_is_refused_in_words(genes, words):
    with pytest.raises(BadInputError, match=words):
        require_genes(genes, ["a", "b", "c"], "corpus 'x'")
    require_genes(["a", "b", "c"], ("a", "b", "c"), "corpus 'x'")


# --- using ----------------------------------------------------------------------------------


def test_embedding_with_a_release_is_embedding_with_the_run(run, made, corpus, tmp_path):
    one = embed_checkpoint(run, corpus.root, tmp_path / "a.parquet", device="cpu")
    two = embed_checkpoint(made, corpus.root, tmp_path / "b.parquet", device="cpu")
    assert one.embeddings.digest() == two.embeddings.digest()
    assert two.embeddings.provenance["trained_on"] == corpus.document.corpus_id


def test_a_corpus_over_other_genes_is_refused(made, tmp_path):
    other = write_corpus(tmp_path / "other", kind="cover", n_genes=26)
    with pytest.raises(BadInputError, match="2 of 26 genes are unknown to the model"):
        embed_checkpoint(made, other.root, tmp_path / "a.parquet", device="cpu")


def test_a_fresh_process_loads_and_embeds_as_the_card_says(made, corpus, tmp_path):
    """The card's own Python, and its own command, in a process that knows nothing else."""
    card = (made / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code is not None
    program = code[1].replace("MODEL", str(made)) + (
        "import sys\nfrom sttrain.cli import cli\nassert info.steps == 4\n"
        "cli(['embed', *sys.argv[1:]], standalone_mode=False)\n"
    )
    out = tmp_path / "vectors.parquet"
    subprocess.run(
        [sys.executable, "-c", program, str(made), str(corpus.root), "-o", str(out)],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    here = embed_checkpoint(made, corpus.root, tmp_path / "here.parquet")
    assert out.read_bytes() == (tmp_path / "here.parquet").read_bytes()
    assert here.embeddings.width == TINY.width


def test_a_run_of_the_trainer_is_released(tmp_path):
    corpus = write_corpus(tmp_path / "corpus", n_patches=4)
    config = RunConfig(epochs=1, batch=4, model=TINY, precision="fp32", statistics_patches=8)
    fit(corpus.root, tmp_path / "run", config, FitOptions(threads=1, workers=0, log_every=1))
    outcome = write_release(tmp_path / "run", tmp_path / "out", corpus=corpus.root)
    assert outcome.document.training.steps == outcome.document.training.steps_planned == 2
    assert outcome.document.training.loss is not None
    assert load_released(tmp_path / "out")[1].steps == 2


def test_the_command(run, tmp_path):
    out = tmp_path / "out"
    arguments = ["release", str(run), "-o", str(out), "--initial"]
    result = CliRunner().invoke(cli, [*arguments, "--json"], catch_exceptions=False)
    told = json.loads(result.stdout)
    assert told["written"]
    assert told["release_id"] == read_release(out).document.release_id
    again = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert "nothing was written" in again.stdout
    bad = CliRunner().invoke(cli, [*arguments, "--title", "x"])
    assert isinstance(bad.exception, ConflictError)


# --- counting -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(ModelConfig(), id="paper"),
        pytest.param(TINY, id="tiny"),
        pytest.param(
            ModelConfig(
                width=12, layers=3, heads=3, ffn=7, decoder_width=16, decoder_layers=1,
                decoder_heads=4, decoder_ffn=9, library_size=False, local=False, position=True,
            ),
            id="odd",
        ),
    ],
)  # fmt: skip
def test_parameters_are_counted_without_building(config):
    model = MaskedAutoencoder(config, 37, torch.Generator())
    assert sum(count_parameters(config, 37).values()) == sum(p.numel() for p in model.parameters())
    assert count_numbers(config, 37) == sum(v.numel() for v in model.state_dict().values())
    assert count_parameters(config, 37)["gene table"] == model.table.numel()


def test_the_reader_needs_no_hub(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delitem(sys.modules, "sttrain.release.hub", raising=False)
    load_released(made)
    from stbuild.corpus.errors import PlatformError

    with pytest.raises(PlatformError, match=r"stcorpus\[publish\]"):
        released.locate("hf:owner/name")
