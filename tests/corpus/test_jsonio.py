import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stbuild.corpus.errors import IntegrityError
from stbuild.corpus.jsonio import dump_canonical, dump_document, load_strict

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(JSON)
def test_round_trip(value):
    assert load_strict(dump_canonical(value), "x") == value
    assert load_strict(dump_document(value), "x") == value


@given(st.dictionaries(st.text("abc"), st.integers(), max_size=5))
def test_canonical_bytes_do_not_depend_on_the_order_of_keys(value):
    assert dump_canonical(value) == dump_canonical(dict(reversed(value.items())))


def test_golden_bytes():
    assert dump_canonical({"b": [1, 2.5, None], "a": "\u00e9\n"}) == (
        b'{"a":"\xc3\xa9\\n","b":[1,2.5,null]}'
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=["nan", "inf"])
def test_only_finite_numbers_are_written(value):
    with pytest.raises(ValueError, match="JSON"):
        dump_canonical(value)


HOSTILE = {
    "empty": b"",
    "cut": b'{"a": 1',
    "duplicate_key": b'{"a": 1, "a": 2}',
    "duplicate_key_inside": b'{"b": [{"a": 1, "a": 1}]}',
    "nan": b'{"a": NaN}',
    "minus_infinity": b"[-Infinity]",
    "deep_lists": b"[" * 100_000 + b"]" * 100_000,
    "deep_objects": b'{"a":' * 100_000,
    "long_integer": b"[" + b"9" * 5000 + b"]",
    "beyond_64_bits": b"[9223372036854775808]",
    "below_64_bits": b"[-9223372036854775809]",
    "not_utf8": b'"\xff"',
    "byte_order_mark": b"\xef\xbb\xbf{}",
    "utf_16": json.dumps({}).encode("utf-16"),
    "two_documents": b"{}{}",
    "single_quotes": b"{'a': 1}",
    "comment": b"{} // no",
    "control_character": b'"a\nb"',
}


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_is_refused(raw):
    with pytest.raises(IntegrityError, match=r"error\[L14\] document \(x\.json\): .* fix: "):
        load_strict(raw, "x.json")


def test_large_text_is_refused_before_it_is_parsed():
    with pytest.raises(IntegrityError, match="11 bytes of JSON, at most 10"):
        load_strict(b"[" * 11, "x", max_bytes=10)


@given(st.binary(max_size=100))
def test_no_other_exception_on_any_bytes(raw):
    try:
        load_strict(raw, "x")
    except IntegrityError:
        return
    json.loads(raw)
