import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stbuild.corpus.documents import (
    CorpusDocument,
    ShardConfig,
    ShardEntry,
    compute_corpus_id,
    read_config,
    read_document,
)
from stbuild.corpus.errors import BadUsageError, IntegrityError
from stbuild.corpus.jsonio import dump_document
from stbuild.corpus.split_documents import SplitDocument


@pytest.fixture(scope="module")
def document(make_corpus, tmp_path_factory) -> CorpusDocument:
    found: CorpusDocument = make_corpus(tmp_path_factory.mktemp("corpus"))
    return found


def test_round_trip(document):
    raw = document.to_bytes()
    assert read_document(CorpusDocument, raw, "x") == document
    assert raw == document.to_bytes()
    assert raw.endswith(b"}\n")


@given(
    st.builds(
        dict,
        window=st.integers(1, 64),
        genes=st.integers(1, 65535),
        seed=st.integers(0, 2**63 - 1),
        min_fill=st.floats(0, 1),
        codec=st.sampled_from(["zstd", "lz4", "none"]),
    )
)
def test_config_round_trip(value):
    config = read_config(ShardConfig, value, "x")
    assert read_document(ShardConfig, config.to_bytes(), "x") == config


def test_documents_are_frozen(document):
    with pytest.raises(ValueError, match="frozen"):
        document.name = "other"


def changed(document: CorpusDocument, **change: object) -> bytes:
    return dump_document(document.model_dump(mode="json") | change)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"version": 2}, id="version_2"),
        pytest.param({"version": "1"}, id="version_as_text"),
        pytest.param({"format": "stcorpus/grid"}, id="other_format"),
        pytest.param({"later": 1}, id="unknown_key"),
        pytest.param({"name": "A B"}, id="name"),
        pytest.param({"corpus_id": "0" * 63}, id="short_digest"),
        pytest.param({"corpus_id": "G" * 64}, id="digest_not_hex"),
        pytest.param({"labels": "xy"}, id="labels_as_text"),
        pytest.param({"shards": None}, id="null"),
        pytest.param({"slices": {}}, id="object_for_list"),
    ],
)
def test_documents_out_of_form_are_refused(document, change):
    with pytest.raises(IntegrityError, match=r"error\[C01\] key '.*' \(corpus\.json\): .* fix: "):
        read_document(CorpusDocument, changed(document, **change), "corpus.json")


PATHS = [
    "pipe:cat /etc/passwd",
    "http://169.254.169.254/latest",
    "file:///etc/passwd",
    "/etc/passwd",
    "../train.tar",
    "data/train/../../x.tar",
    "data/train/a b.tar",
    "data/train/x.tar\x00",
    "data/train/x.tar\n",
    "data/train/\u0455.tar",
    "simplecache::file:///x.tar",
]


@pytest.mark.parametrize("path", PATHS)
def test_hostile_paths_are_refused(document, path):
    shards = [{**document.shards[0].model_dump(mode="json"), "path": path}]
    files = [{**document.files[0].model_dump(mode="json"), "path": path}]
    for change in ({"shards": shards}, {"files": files}):
        with pytest.raises(IntegrityError, match="C01"):
            read_document(CorpusDocument, changed(document, **change), "x")


def test_all_problems_come_at_once(document):
    raw = changed(document, name="A B", corpus_id="x", later=1)
    with pytest.raises(IntegrityError) as caught:
        read_document(CorpusDocument, raw, "x")
    assert {p.subject for p in caught.value.problems} == {
        "key 'name'",
        "key 'corpus_id'",
        "key 'later'",
    }


@pytest.mark.parametrize(
    ("value", "match"),
    [
        pytest.param({"windw": 8}, "did you mean 'window'", id="near_name"),
        pytest.param({"zzz": 8}, "known keys: name, window", id="far_name"),
        pytest.param({"window": 0}, "window.*greater than or equal to 1", id="zero"),
        pytest.param({"window": 65}, "window.*less than or equal to 64", id="too_large"),
        pytest.param({"window": 8.5}, "window.*8.5", id="fraction"),
        pytest.param({"seed": -1}, "seed.*-1", id="negative_seed"),
        pytest.param({"seed": 2**64}, "seed", id="large_seed"),
        pytest.param({"seed": "many"}, "seed.*many", id="text_seed"),
        pytest.param({"epsilon": float("nan")}, "epsilon", id="nan"),
        pytest.param({"codec": "gzip"}, "codec.*gzip", id="codec"),
        pytest.param({"cover": 4}, "either n_per_slice", id="both_modes"),
        pytest.param({"n_per_slice": None}, "either n_per_slice", id="no_mode"),
        pytest.param({"n_per_slice": None, "cover": 17}, "leaves gaps", id="gaps"),
    ],
)
def test_bad_configuration_is_refused_in_words(value, match):
    with pytest.raises(BadUsageError, match=rf"(?s)error\[B111\].*{match}"):
        read_config(ShardConfig, value, "run.toml")


def test_identity_does_not_depend_on_the_codec_but_on_all_else(document):
    def identity(config=document.config, labels=("x",), shards=document.shards, splits=()):
        return compute_corpus_id(config, document.vocabulary, labels, shards, splits)

    def with_config(**change):
        return ShardConfig.model_validate(document.config.model_dump() | change)

    assert identity(config=with_config(codec="lz4")) == identity()
    moved = [
        ShardEntry.model_validate(s.model_dump() | {"sha256": "1" * 64}) for s in document.shards
    ]
    assert identity(shards=moved) == identity()
    other = [
        ShardEntry.model_validate(s.model_dump() | {"content": "1" * 64}) for s in document.shards
    ]
    different = {
        identity(),
        identity(config=with_config(seed=1)),
        identity(labels=("y",)),
        identity(shards=other),
        identity(shards=document.shards[:1]),
        identity(splits=document.files[:1]),
    }
    assert len(different) == 6


def split_document(codes: str, barcodes: list[str]) -> bytes:
    value = {
        "format": "stcorpus/split",
        "version": 1,
        "task": "t",
        "task_version": 1,
        "rule": "r",
        "transductive": True,
        "barcodes": {"s1": barcodes},
        "assignments": [{"seed": 0, "slices": {"s1": codes}}],
    }
    return json.dumps(value).encode()


def test_split_round_trip():
    document = read_document(SplitDocument, split_document("TE.b", list("abcd")), "x")
    assert read_document(SplitDocument, document.to_bytes(), "x") == document


@pytest.mark.parametrize("codes", ["TE.", "TE.bb", "TE.y", ""], ids=["short", "long", "y", "none"])
def test_splits_cover_every_barcode(codes):
    with pytest.raises(IntegrityError, match="codes for 4 barcodes"):
        read_document(SplitDocument, split_document(codes, list("abcd")), "x")


@given(st.binary(max_size=200))
def test_no_other_exception_on_any_bytes(raw):
    with pytest.raises(IntegrityError):
        read_document(CorpusDocument, raw, "x")
