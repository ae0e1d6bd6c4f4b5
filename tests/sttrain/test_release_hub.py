"""The methods of the Hub on a released model: with a folder, and against a hub on this machine."""

import json
import os
import subprocess
import sys

import pytest
import torch

pytest.importorskip("huggingface_hub")

from huggingface_hub import PyTorchModelHubMixin

from sttrain.errors import BadInputError, ConflictError, DivergedError, IntegrityError
from sttrain.release.document import FILES
from sttrain.release.hub import HubAutoencoder
from sttrain.release.loading import load_released, read_release
from sttrain.release.writing import write_release
from tests.corpora import write_corpus
from tests.sttrain.hub_server import SHA, serve_hub
from tests.sttrain.releases import write_released_run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("hub")
    corpus = write_corpus(root / "corpus")
    write_release(write_released_run(root / "run", corpus), root / "toy", licence="MIT")
    return root / "toy"


def test_a_folder_goes_through_the_mixin_unchanged(made, tmp_path):
    model = HubAutoencoder.from_pretrained(made)
    assert isinstance(model, PyTorchModelHubMixin)
    assert not model.training
    assert model.info.steps == 4
    assert model.save_pretrained(tmp_path / "again") is None
    assert {path.name for path in (tmp_path / "again").iterdir()} == set(FILES)
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (made / name).read_bytes()


def test_changed_weights_are_released_as_changed(made, tmp_path):
    model = HubAutoencoder.from_pretrained(str(made))
    with torch.no_grad():
        model.hidden.add_(1)
    model.save_pretrained(tmp_path / "new")
    document = read_release(tmp_path / "new").document
    assert document.weights.kind == "changed"
    assert document.release_id != model.document.release_id
    assert "changed after the run" in (tmp_path / "new" / "README.md").read_text()
    loaded, _ = load_released(tmp_path / "new")
    assert torch.equal(loaded.hidden, model.hidden)
    with pytest.raises(ConflictError):
        model.save_pretrained(made)
    with torch.no_grad():
        model.hidden.fill_(torch.inf)
    with pytest.raises(DivergedError, match="'hidden': 8 of 8 numbers"):
        model.save_pretrained(tmp_path / "bad")


def test_a_folder_of_another_model_is_neither_read_nor_written(made, tmp_path):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(BadInputError, match="format None"):
        HubAutoencoder.from_pretrained(tmp_path)
    with pytest.raises(ConflictError):
        HubAutoencoder.from_pretrained(made).save_pretrained(tmp_path)
    assert json.loads(config.read_text()) == {"model_type": "bert"}


PROGRAM = """
import sys, warnings
from pathlib import Path
from stbuild.corpus.errors import RemoteError, IntegrityError
from sttrain.release.hub import HubAutoencoder
from sttrain.release.loading import load_released, read_release, locate
folder = sys.argv[1]
model = HubAutoencoder.from_pretrained(folder)
url = model.push_to_hub("me/toy")
again = HubAutoencoder.from_pretrained("me/toy")
assert again.document == model.document
pinned, info = load_released("hf:me/toy@" + "a" * 40, release_id=model.document.release_id)
assert info == model.info
assert read_release(locate("me/toy")).document == model.document
for name, error in (("me/none", RemoteError), ("me/spoilt", IntegrityError)):
    try:
        load_released(name)
    except error as caught:
        print(caught)
    else:
        raise SystemExit(f"{name} was loaded")
print(url)
"""


def test_push_and_fetch_in_a_fresh_process(made, tmp_path):
    with serve_hub() as hub:
        spoilt = {name: (made / name).read_bytes() for name in FILES}
        spoilt["model.safetensors"] = bytes(len(spoilt["model.safetensors"]))
        hub.models["me/spoilt"] = spoilt
        told = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        told |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "hf_secret"}
        told |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "*"}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(made)],
            env=told, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.strip().endswith(f"/me/toy/commit/{SHA}")
        assert "SHA-256 is not the one of config.json" in done.stdout
        assert "cannot be had from the Hub" in done.stdout
        assert "hf_secret" not in done.stdout + done.stderr
        pushed = {name: hub.models["me/toy"][name] for name in FILES}
        assert pushed == {name: (made / name).read_bytes() for name in FILES}
        assert set(hub.models["me/toy"]) - set(FILES) <= {".gitattributes"}


def test_a_hub_that_cannot_be_reached(tmp_path):
    told = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    code = "from sttrain.release.loading import load_released; load_released('hf:me/toy')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=told, capture_output=True, text=True, timeout=60
    )
    assert "RemoteError" in done.stderr
    assert "cannot be had from the Hub" in done.stderr


def test_the_error_of_a_damaged_folder_is_the_readers(made, tmp_path):
    model = HubAutoencoder.from_pretrained(made)
    model.save_pretrained(tmp_path / "copy")
    (tmp_path / "copy" / "genes.txt").write_bytes(b"x")
    with pytest.raises(IntegrityError, match="SHA-256"):
        HubAutoencoder.from_pretrained(tmp_path / "copy")
