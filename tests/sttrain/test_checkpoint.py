"""Checkpoints: whole or absent, checked before they are believed, the one before as a reserve."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from stbuild.corpus.digests import sha256_bytes
from stbuild.corpus.durable import write_durable
from sttrain.errors import BadInputError, IntegrityError, ResourceError
from sttrain.model.autoencoder import MaskedAutoencoder, ModelConfig
from sttrain.release.encoder import load_encoder
from sttrain.train import checkpoint as store
from sttrain.train.config import OptimizerConfig
from sttrain.train.optimizer import build_optimizer, pack_state, unpack_state

TINY = ModelConfig(
    width=8, layers=1, heads=2, ffn=8, decoder_width=8, decoder_layers=1, decoder_heads=2,
    decoder_ffn=8,
)  # fmt: skip
GENES = tuple(f"G{i}" for i in range(5))


def make_model(seed=0) -> MaskedAutoencoder:
    return MaskedAutoencoder(TINY, len(GENES), torch.Generator().manual_seed(seed))


def write(run: Path, done: int, optimizer=None) -> MaskedAutoencoder:
    model = make_model(done)
    facts: dict[str, Any] = {
        "genes": GENES,
        "corpus_id": "c" * 64,
        "fingerprint": "f" * 64,
        "seed": 7,
    }
    facts |= {"epoch": 1, "step": 2, "batch": 8, "steps_done": done}
    name = store.step_name(done) if done else store.INITIAL
    store.save_checkpoint(run, name, model, optimizer, **facts)
    return model


@pytest.fixture
def run(tmp_path):
    """Two checkpoints and the initial one."""
    for done in (0, 4, 8):
        write(tmp_path, done, {"step/x": torch.tensor(float(done))} if done else None)
    return tmp_path


def equal(one, other) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_the_newest_is_loaded(run):
    model, info = load_encoder(run)
    assert equal(model, make_model(8))
    assert not model.training
    assert (info.name, info.steps, info.seed, info.genes) == ("step-00000008", 8, 7, GENES)
    assert (info.model, info.corpus_id, info.epoch) == (TINY, "c" * 64, 1)
    weights = run / "checkpoints" / "step-00000008.safetensors"
    assert info.digest == sha256_bytes(weights.read_bytes())


def test_the_untrained_encoder_is_kept(run):
    model, info = load_encoder(run, initial=True)
    assert equal(model, make_model(0))
    assert (info.name, info.steps) == ("initial", 0)


@pytest.mark.parametrize("suffix", ["json", "safetensors"])
def test_one_checkpoint_by_its_path(run, suffix):
    model, info = load_encoder(run / "checkpoints" / f"step-00000004.{suffix}")
    assert equal(model, make_model(4))
    assert info.steps == 4


DAMAGE = [
    pytest.param(lambda p: p.write_bytes(p.read_bytes()[:-1]), id="truncated"),
    pytest.param(lambda p: p.write_bytes(p.read_bytes()[:-1] + b"\7"), id="altered"),
    pytest.param(lambda p: p.unlink(), id="missing"),
]


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("suffix", ["safetensors", "optimizer.safetensors"])
def test_the_one_before_stands_in_and_this_is_said(run, damage, suffix):
    damage(run / "checkpoints" / f"step-00000008.{suffix}")
    said: list[str] = []
    model, info = load_encoder(run, say=said.append)
    assert equal(model, make_model(4))
    assert info.steps == 4
    assert len(said) == 1
    assert "step-00000008 is damaged" in said[0]


@pytest.mark.parametrize("text", [b"", b"{}", b'{"format": "sttrain/checkpoint"}', b"\xff"])
def test_a_damaged_document_is_passed_over(run, text):
    (run / "checkpoints" / "step-00000008.json").write_bytes(text)
    assert load_encoder(run)[1].steps == 4


@pytest.mark.parametrize(
    "put", [lambda path: path.symlink_to("nowhere"), Path.mkdir], ids=["link", "folder"]
)
def test_what_stands_in_place_of_a_document_is_passed_over(run, put):
    put(run / store.FOLDER / "step-00000099.json")
    said: list[str] = []
    name, _ = store.find_checkpoint(run, say=said.append)
    assert name == store.step_name(8)
    assert "step-00000099 is damaged" in said[0]


def test_every_bit_counts(run):
    path = run / "checkpoints" / "step-00000008.safetensors"
    raw = path.read_bytes()
    for at in range(0, len(raw), max(1, len(raw) // 500)):
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        with pytest.raises(IntegrityError):
            store.read_checkpoint(run / "checkpoints", "step-00000008")


def test_all_damaged_names_all(run):
    for path in (run / "checkpoints").glob("*.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(IntegrityError) as caught:
        load_encoder(run)
    assert len(caught.value.problems) == 3
    assert caught.value.exit_code == 6


def test_no_checkpoint_at_all(tmp_path):
    with pytest.raises(BadInputError, match="holds no checkpoint"):
        load_encoder(tmp_path)
    with pytest.raises(BadInputError, match="no such checkpoint"):
        load_encoder(tmp_path / "x.json")
    with pytest.raises(BadInputError, match="no such checkpoint"):
        load_encoder(tmp_path, initial=True)


def reseal(run: Path, raw: bytes, suffix="safetensors", what="weights") -> None:
    """Put other bytes in place and let the document vouch for them."""
    folder, name = run / "checkpoints", "step-00000008"
    (folder / f"{name}.{suffix}").write_bytes(raw)
    document = json.loads((folder / f"{name}.json").read_bytes())
    document[what] = {"bytes": len(raw), "sha256": sha256_bytes(raw)}
    (folder / f"{name}.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"PK\x03\x04 a zip of pickles", id="pickles"),
        pytest.param(b"\xff" * 64, id="absurd_header"),
        pytest.param(save({"table": torch.zeros(2, 2)}), id="other_weights"),
    ],
)
def test_well_sealed_rubbish_is_refused(run, raw):
    reseal(run, raw)
    with pytest.raises(IntegrityError, match=r"no safetensors|do not fit"):
        load_encoder(run)


def test_old_ones_go_and_the_first_stays(run):
    write(run, 12)
    store.drop_old(run, 2)
    assert store.list_checkpoints(run) == ["step-00000012", "step-00000008", "initial"]
    assert not list((run / "checkpoints").glob("step-00000004*"))


def test_a_checkpoint_without_its_document_is_none(run):
    """What a kill in the middle of writing leaves behind."""
    (run / "checkpoints" / "step-00000008.json").unlink()
    assert load_encoder(run)[1].steps == 4


def test_a_file_that_is_taken_away_meanwhile_leaves_no_document(run, monkeypatch):
    def lose(path, raw):
        if path.suffix == ".json":
            path.with_suffix(f".{store.OPTIMIZER}").unlink()
        return write_durable(path, raw)

    monkeypatch.setattr(store, "write_durable", lose)
    with pytest.raises(ResourceError, match=r"optimizer.safetensors\): a file that was written is"):
        write(run, 12, {"step/x": torch.tensor(12.0)})
    assert not (run / store.FOLDER / f"{store.step_name(12)}.json").exists()
    assert store.find_checkpoint(run, say=print)[0] == store.step_name(8)


def test_no_optimizer_in_the_initial_one(run):
    folder = run / "checkpoints"
    document = store.read_checkpoint(folder, "initial")
    with pytest.raises(IntegrityError, match="no optimizer state"):
        store.load_optimizer(folder, "initial", document)


def step(model, optimizer) -> None:
    optimizer.zero_grad()
    sum((weight**2).sum() for weight in model.parameters()).backward()
    optimizer.step()


@pytest.mark.parametrize("name", ["adamw", "adam"])
def test_the_optimizer_goes_on_bit_for_bit(tmp_path, name):
    config = OptimizerConfig(name=name)
    model, other = make_model(1), make_model(2)
    optimizer = build_optimizer(model, config)
    step(model, optimizer)
    folder = tmp_path / "checkpoints"
    facts: dict[str, Any] = {
        "genes": GENES,
        "corpus_id": "c" * 64,
        "fingerprint": "f" * 64,
        "seed": 7,
    }
    document = store.save_checkpoint(
        tmp_path, "step-00000001", model, pack_state(model, optimizer),
        epoch=0, step=1, batch=8, steps_done=1, **facts,
    )  # fmt: skip
    store.load_weights(other, folder, "step-00000001", document)
    again = build_optimizer(other, config)
    unpack_state(other, again, store.load_optimizer(folder, "step-00000001", document))
    for _ in range(3):
        step(model, optimizer)
        step(other, again)
    assert equal(model, other)


@pytest.mark.parametrize("key", ["exp_avg/nothing", "exp_avg/table"])
def test_a_foreign_optimizer_state_is_refused(key):
    model = make_model()
    with pytest.raises(IntegrityError, match="belongs to no weight"):
        unpack_state(model, build_optimizer(model, OptimizerConfig()), {key: torch.zeros(3, 3)})
