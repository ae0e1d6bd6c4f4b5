"""Every way in which a folder of published weights can be wrong, and what is said of it."""

import json
import pickle  # noqa: TID251 - to write what has to be refused
import zipfile
from pathlib import Path

import pytest
import torch

from sttrain.adapters.weights import read_weights_folder
from sttrain.errors import BadInputError
from tests.sttrain.published import (
    LAYERS,
    D,
    make_arguments,
    make_tensors,
    make_vocabulary,
    write_folder,
)

GENES = [f"G{i}" for i in range(50)]
LAYER = "transformer_encoder.layers.1"


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "w", GENES, spatial=True)


def refusal(folder, *, spatial=True):
    with pytest.raises(BadInputError) as caught:
        read_weights_folder(folder, spatial=spatial)
    assert caught.value.exit_code == 3
    assert {problem.code for problem in caught.value.problems} == {"V30"}
    return str(caught.value)


def store(folder, change, **options):
    tensors = make_tensors(53, spatial=True)
    change(tensors)
    torch.save(tensors, folder / "best_model.pt", **options)


def test_a_folder_as_published_is_read(folder):
    found = read_weights_folder(folder, spatial=True)
    assert found.encoder.encoder.embedding.weight.shape == (53, D)
    assert len(found.encoder.transformer_encoder.layers) == LAYERS
    assert not found.encoder.training
    assert not any(p.requires_grad for p in found.encoder.parameters())
    assert {name.partition(".")[0] for name in found.extra} == {
        "flag_encoder", "batch_encoder", "decoder", "mvc_decoder", "impute_mvc_decoder"
    }  # fmt: skip


def test_half_precision_weights_become_float32(folder):
    store(folder, lambda t: t.update({name: value.half() for name, value in t.items()}))
    found = read_weights_folder(folder, spatial=True)
    assert {p.dtype for p in found.encoder.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    "name", ["best_model.pt", "args.json", "vocab.json", "all_dict_mean_std.csv"]
)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    assert f"{name} missing; expected best_model.pt, args.json, vocab.json" in refusal(folder)


def test_the_table_of_means_is_of_the_spatial_model_alone(folder):
    (folder / "all_dict_mean_std.csv").unlink()
    assert read_weights_folder(folder, spatial=False).means is None


def test_no_folder_at_all(tmp_path):
    assert "best_model.pt, args.json, vocab.json" in refusal(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"embsize": 0}, "key 'embsize'"),
        ({"embsize": "32"}, "key 'embsize'"),
        ({"nheads": 5}, "embsize 32 is no multiple of nheads 5"),
        ({"nlayers": 10**9}, "key 'nlayers'"),
        ({"n_bins": 21}, "key 'n_bins'"),
        ({"input_emb_style": "scaling"}, "key 'input_emb_style'"),
        ({"pre_norm": True}, "key 'pre_norm'"),
        ({"pad_token": "<none>"}, "it has no token <none>"),
        ({"pad_value": None}, "key 'pad_value'"),
        ({"embsize": 64}, "'encoder.embedding.weight' is (53, 32)"),
        ({"d_hid": 48}, f"'{LAYER}.linear1.weight' is (32, 32)"),
        ({"nlayers": 1}, f"tensors belong to no such model (first: {LAYER}"),
        ({"nlayers": 3}, "tensors are missing (first: transformer_encoder.layers.2"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_arguments_that_do_not_fit(folder, change, said):
    (folder / "args.json").write_text(json.dumps(make_arguments(**change)))
    assert said in refusal(folder)


def test_missing_arguments_are_all_named(folder):
    (folder / "args.json").write_text("{}")
    text = refusal(folder)
    for key in ("embsize", "nheads", "d_hid", "nlayers", "pad_token", "pad_value"):
        assert f"key '{key}'" in text


@pytest.mark.parametrize("name", ["args.json", "vocab.json"])
@pytest.mark.parametrize("text", ["", "[1]", "{", '{"a": 1, "a": 2}', '{"a": NaN}'])
def test_json_that_is_none(folder, name, text):
    (folder / name).write_text(text)
    assert name in refusal(folder)


def test_problems_of_both_documents_come_together(folder):
    (folder / "args.json").write_text("{}")
    (folder / "vocab.json").write_text("[]")
    text = refusal(folder)
    assert "embsize" in text
    assert "a JSON list" in text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"G1": 0}, "rows 0 to 52 once each"),
        ({"G1": 99}, "rows 0 to 52 once each"),
        ({"G1": "1"}, "rows 0 to 52 once each"),
        ({"NEW": 53}, "a gene table of 53 rows, vocab.json has 54 tokens"),
    ],
    ids=["twice", "beyond", "text", "larger"],
)
def test_vocabularies_that_do_not_fit(folder, change, said):
    (folder / "vocab.json").write_text(json.dumps(make_vocabulary(GENES) | change))
    assert said in refusal(folder)


def test_a_truth_value_is_no_row(folder):
    vocabulary = {gene: row or False for gene, row in make_vocabulary(GENES).items()}
    assert False in vocabulary.values()
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    assert "rows 0 to 52 once each" in refusal(folder)


def test_a_vocabulary_without_cls(folder):
    vocabulary = make_vocabulary(GENES)
    vocabulary["<none>"] = vocabulary.pop("<cls>")
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    assert "it has no token <cls>" in refusal(folder)


def drop(name):
    return lambda tensors: tensors.pop(name)


def put(name, value):
    return lambda tensors: tensors.__setitem__(name, value)


def spoil(tensors):
    tensors["value_encoder.norm.bias"][3] = float("nan")
    tensors["encoder.embedding.weight"][2, :4] = float("inf")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop("encoder.enc_norm.bias"), "1 tensors are missing (first: encoder.enc_norm.bias)"),
        (drop(f"{LAYER}.self_attn.Wqkv.bias"), f"first: {LAYER}.self_attn.in_proj_bias"),
        (put("bn.weight", torch.ones(D)), "1 tensors belong to no such model (first: bn.weight)"),
        (put("encoder.enc_norm.bias", torch.ones(7)), "'encoder.enc_norm.bias' is (7,)"),
        (put("encoder.enc_norm.bias", torch.ones(D, dtype=torch.int64)), "no plain state dict"),
        (put("encoder.enc_norm.bias", torch.ones(1).expand(D)), "no plain state dict"),
        (put("encoder.enc_norm.bias", torch.eye(D).to_sparse()), "no plain state dict"),
        (put("encoder.enc_norm.bias", 3.0), "no plain state dict"),
        (put(3, torch.ones(1)), "no plain state dict"),
        (
            put(f"{LAYER}.self_attn.in_proj_bias", torch.ones(3 * D)),
            f"'{LAYER}.self_attn.in_proj_bias' stands there under two names",
        ),
        (spoil, "'value_encoder.norm.bias': 1 of 32 numbers are not finite"),
    ],
    ids=["norm", "attention", "unknown", "shape", "integers", "view", "sparse", "number", "key",
         "twice", "not-finite"],
)  # fmt: skip
def test_tensors_that_do_not_fit(folder, change, said):
    store(folder, change)
    assert said in refusal(folder)


def test_all_problems_of_the_tensors_come_together(folder):
    def change(tensors):
        spoil(tensors)
        del tensors["encoder.enc_norm.bias"]

    store(folder, change)
    text = refusal(folder)
    assert "4 of 1,696 numbers are not finite" in text
    assert "value_encoder.norm.bias" in text
    assert "1 tensors are missing" in text


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_a_pickle_with_code_is_refused_and_not_run(folder, tmp_path):
    marker = tmp_path / "ran"
    store(folder, put("encoder.enc_norm.bias", Evil(marker)))
    assert "nothing of it was run" in refusal(folder)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Evil(marker)))  # noqa: S301 - it would have worked
    assert marker.exists()


def test_a_whole_module_is_refused(folder):
    torch.save(torch.nn.Linear(2, 2), folder / "best_model.pt")
    assert "it holds more than tensors" in refusal(folder)


@pytest.mark.parametrize(
    "wrap", [lambda t: [t], lambda t: {"model_state_dict": t}], ids=["list", "nested"]
)
def test_a_checkpoint_of_another_form_is_refused(folder, wrap):
    torch.save(wrap(make_tensors(53)), folder / "best_model.pt")
    assert "no plain state dict" in refusal(folder)


def test_a_cut_file_is_refused(folder):
    path = folder / "best_model.pt"
    path.write_bytes(path.read_bytes()[:-400])
    assert "no archive of torch.save" in refusal(folder)


def test_a_damaged_stream_is_refused(folder):
    path = folder / "best_model.pt"
    raw = bytearray(path.read_bytes())
    at = raw.index(b"encoder.embedding.weight") - 3
    raw[at : at + 2] = b"\xff\xff"
    path.write_bytes(bytes(raw))
    assert "it holds more than tensors, or is damaged" in refusal(folder)


def test_the_old_format_of_torch_is_refused(folder):
    store(folder, lambda tensors: None, _use_new_zipfile_serialization=False)
    assert "a file of torch before 1.6 has to be saved anew" in refusal(folder)


def test_a_compressed_archive_is_refused(folder):
    path = folder / "best_model.pt"
    with zipfile.ZipFile(path) as archive:
        members = {item: archive.read(item) for item in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in members.items():
            archive.writestr(name, raw)
    assert "compressed" in refusal(folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a column 'mean' was expected"),
        (",std\n0,1\n", "a column 'mean' was expected"),
        (",mean\n0,1\n0,1\n", "line 3: row 0"),
        (",mean\n53,1\n", "line 2: row 53"),
        (",mean\n0,0\n", "mean 0.0; rows 0 to 52 once each, means above 0"),
        (",mean\n0,nan\n", "line 2: row 0, mean nan"),
        (",mean\n0,-1\n", "mean -1.0"),
        (",mean\nTP53,1\n", "line 2 holds no row and mean"),
        (",mean\n0\n", "line 2 holds no row and mean"),
    ],
    ids=["empty", "column", "twice", "beyond", "zero", "nan", "negative", "symbol", "short"],
)
def test_tables_of_means_that_do_not_fit(folder, text, said):
    (folder / "all_dict_mean_std.csv").write_text(text)
    assert said in refusal(folder)


def test_means_may_lack_genes_and_have_a_second_column(folder):
    (folder / "all_dict_mean_std.csv").write_text(",mean,std\n4,0.5,1\n2,2.0,1\n")
    means = read_weights_folder(folder, spatial=True).means
    assert means is not None
    assert (means[4], means[2]) == (0.5, 2.0)
    assert sum(means != means) == 51
