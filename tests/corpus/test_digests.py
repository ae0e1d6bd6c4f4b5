import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stbuild.corpus.digests import (
    chain_digest,
    content_digest,
    lines_digest,
    sha256_bytes,
    sha256_file,
    sha256_json,
)

ARRAYS = {"counts": np.arange(6, dtype="<u2").reshape(1, 2, 3), "genes": np.array([4], "<i4")}


def test_golden_vectors():
    """Independent of our code: the bytes that are hashed are spelled out."""
    expected = hashlib.sha256(
        b"counts\0<u2\x001,2,3\0"
        + bytes([0, 0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0])
        + b"genes\0<i4\x001\0\x04\0\0\0"
        + b'json\0{"a":1}'
    )
    assert content_digest(ARRAYS, {"a": 1}) == expected.digest()
    assert chain_digest([("k", b"d"), ("l", b"e")]) == sha256_bytes(b"k\0dl\0e")
    assert lines_digest(["a", "b"]) == sha256_bytes(b"a\nb\n")
    assert sha256_json({"b": 1, "a": 2}) == sha256_bytes(b'{"a":2,"b":1}')
    assert sha256_bytes(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_layout_and_byte_order_in_memory_do_not_matter():
    turned = {
        "genes": ARRAYS["genes"].astype(">i4"),
        "counts": np.asfortranarray(ARRAYS["counts"]),
    }
    assert content_digest(turned, None) == content_digest(ARRAYS, None)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param({**ARRAYS, "genes": np.array([5], "<i4")}, id="value"),
        pytest.param({**ARRAYS, "genes": np.array([4], "<i8")}, id="type"),
        pytest.param({**ARRAYS, "counts": ARRAYS["counts"].reshape(2, 1, 3)}, id="shape"),
        pytest.param({"counts": ARRAYS["counts"], "spots": ARRAYS["genes"]}, id="name"),
        pytest.param({"counts": ARRAYS["counts"]}, id="member_missing"),
        pytest.param({**ARRAYS, "labels": np.zeros(0, "<i2")}, id="empty_member_more"),
    ],
)
def test_everything_logical_matters(other):
    assert content_digest(other, None) != content_digest(ARRAYS, None)


def test_json_matters():
    digests = {content_digest(ARRAYS, meta) for meta in (None, {}, {"a": 1}, {"a": "1"})}
    assert len(digests) == 4


@given(st.binary(max_size=4000))
def test_file_digest_equals_digest_of_bytes(tmp_path_factory, raw):
    path = tmp_path_factory.mktemp("digest") / "f"
    path.write_bytes(raw)
    assert sha256_file(path) == hashlib.sha256(raw).hexdigest() == sha256_bytes(raw)
