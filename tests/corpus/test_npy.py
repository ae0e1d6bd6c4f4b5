import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stbuild.corpus.errors import IntegrityError
from stbuild.corpus.npy import read_npy, write_npy

TYPES = ("<u2", "<u4", "<i2", "<i4", "<i8", "<f8")


@given(
    st.sampled_from(TYPES).flatmap(
        lambda t: hnp.arrays(t, hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5))
    )
)
def test_round_trip_and_numpy_reads_it(array):
    raw = write_npy(array)
    np.testing.assert_array_equal(read_npy(raw, "x", array.dtype.str, array.ndim), array)
    np.testing.assert_array_equal(np.lib.format.read_array(io.BytesIO(raw)), array)
    assert raw[6:8] == b"\x01\x00"


def test_round_trip_of_text():
    array = np.array([b"AAAC-1", b"\xc3\xa9"])
    np.testing.assert_array_equal(read_npy(write_npy(array), "x", "|S", 1), array)


def test_big_endian_and_fortran_are_stored_the_same():
    array = np.arange(6, dtype="<u2").reshape(2, 3)
    assert write_npy(array.astype(">u2")) == write_npy(np.asfortranarray(array)) == write_npy(array)


def test_reading_does_not_copy_and_is_read_only():
    raw = write_npy(np.arange(3, dtype="<i4"))
    array = read_npy(raw, "x", "<i4", 1)
    assert not array.flags.writeable
    assert array.base is not None


def header(text: str, data: bytes = b"", version: bytes = b"\x01\x00") -> bytes:
    raw = text.encode("latin1") + b"\n"
    return b"\x93NUMPY" + version + len(raw).to_bytes(2, "little") + raw + data


def saved(array, **kwargs) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array(out, array, **kwargs)
    return out.getvalue()


def described(descr: str, shape: str, fortran: bool = False) -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}"


HOSTILE = {
    "empty": b"",
    "magic_only": b"\x93NUMPY\x01\x00",
    "text": b"<html>" * 20,
    "object_dtype": saved(np.array([{}], object), allow_pickle=True),
    "pickle_in_place_of_npy": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "version_2": saved(np.zeros(2, "<u2"), version=(2, 0)),
    "big_endian": saved(np.zeros(2, ">u2")),
    "fortran": saved(np.zeros((2, 3), "<u2", order="F")),
    "structured": saved(np.zeros(2, [("a", "<u2")])),
    "terabyte_claim": header(described("'<u2'", "(1000000000000,)"), b"\0" * 4),
    "negative_side": header(described("'<u2'", "(-1,)")),
    "negative_sides_that_multiply": header(described("'<u2'", "(-1, -2)"), b"\0" * 4),
    "overflowing_sides": header(described("'<u2'", f"({2**62}, {2**62})"), b"\0" * 4),
    "void_of_size_0": header(described("'|V0'", f"({2**62},)")),
    "text_of_size_0": header(described("'|S0'", f"({2**62},)")),
    "trailing_bytes": saved(np.zeros(2, "<u2")) + b"\0",
    "truncated": saved(np.zeros(2, "<u2"))[:-1],
    "header_is_code": header("__import__('os').system('true')"),
    "header_is_a_list": header("[1, 2]"),
    "header_is_deep": header("(" * 400 + ")" * 400),
    "header_longer_than_file": b"\x93NUMPY\x01\x00\xff\x03{}",
    "header_too_long": header(described("'<u2'", "(2,)") + " " * 2000, b"\0" * 4),
    "python2_long": header(described("'<u2'", "(2L,)"), b"\0" * 4),
    "unknown_key": header("{'descr': '<u2', 'fortran_order': False, 'shape': (2,), 'x': 1, }"),
    "other_dtype": saved(np.zeros(2, "<i8")),
    "other_rank": saved(np.zeros((1, 2), "<u2")),
    "subarray_dtype": header(described("('<u2', (2,))", "(1,)"), b"\0" * 4),
    "bool_shape": header(described("'<u2'", "(True, 2)"), b"\0" * 4),
}


@pytest.mark.parametrize("raw", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bytes_are_refused(raw):
    with pytest.raises(IntegrityError, match=r"error\[L12\] array \(a\.tar:k\.x\.npy\): .* fix: "):
        read_npy(raw, "a.tar:k.x.npy", ("<u2", "|S"), 1)


@given(st.binary(max_size=200))
def test_no_other_exception_on_any_bytes(raw):
    with pytest.raises(IntegrityError):
        read_npy(raw, "x", "<u2", 1)


@given(st.integers(0, 127), st.integers(1, 255))
def test_a_changed_header_never_gives_another_type(position, change):
    raw = bytearray(write_npy(np.arange(4, dtype="<u2")))
    raw[position] ^= change
    try:
        array = read_npy(bytes(raw), "x", "<u2", 1)
    except IntegrityError:
        return
    assert array.shape == (4,)
    assert array.dtype == np.dtype("<u2")
