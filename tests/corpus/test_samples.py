import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stbuild.corpus import names
from stbuild.corpus.errors import IntegrityError
from stbuild.corpus.jsonio import dump_canonical
from stbuild.corpus.npy import write_npy
from stbuild.corpus.samples import (
    decode_counts,
    decode_patch,
    decode_whole,
    encode_counts,
    encode_patch,
    encode_whole,
)
from stbuild.corpus.tar import END, pack_sample

ROOT = Path(__file__).resolve().parents[2]
REFUSED = r"error\[(L10|L11|L12|L14|C01)\] .* fix: "


@given(
    st.sampled_from(["<u2", "<u4"]).flatmap(
        lambda t: hnp.arrays(t, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6))
    ),
    st.sampled_from(["zstd", "lz4", "none"]),
)
def test_counts_round_trip(counts, codec):
    suffix, raw = encode_counts(counts, codec)
    found = decode_counts(suffix, raw, counts.shape, "x")
    assert found.dtype == counts.dtype
    np.testing.assert_array_equal(found, counts)
    out = np.empty_like(counts)
    assert decode_counts(suffix, memoryview(raw), counts.shape, "x", out=out) is out
    np.testing.assert_array_equal(out, counts)


@given(
    st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 5), st.sampled_from(["<u2", "<u4"])
)
def test_patch_round_trip(make_patch, seed, m, side, dtype):
    patch = make_patch(seed=seed, m=m, side=side, dtype=dtype, padding=seed % m)
    for codec in ("zstd", "lz4", "none"):
        found = decode_patch(encode_patch(patch, codec), "x")
        assert found.meta == patch.meta
        assert found.content() == patch.content()


def test_evaluation_patch_round_trip_passes_over_webdataset_names(make_eval_patch):
    patch = make_eval_patch(seed=3)
    members = encode_patch(patch, "zstd")
    assert list(members) == [
        "counts.blosc",
        "genes.npy",
        "totals.npy",
        "spots.npy",
        "labels.npy",
        "json",
    ]
    found = decode_patch(members | {"__key__": b"k", "__url__": b"u"}, "x")
    assert found.content() == patch.content()


@given(st.integers(0, 10**6), st.integers(1, 6))
def test_whole_round_trip(make_whole, seed, n):
    whole = make_whole(seed=seed, n=n)
    assert decode_whole(encode_whole(whole), "x").content() == whole.content()


# webdataset leaves the file it has read to the garbage collector.
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_plain_webdataset_is_a_way_in(make_eval_patch, tmp_path):
    wds = pytest.importorskip("webdataset")
    patches = [make_eval_patch(seed=i, window=i) for i in range(3)]
    path = tmp_path / "a.tar"
    packed = [pack_sample(p.meta.key, encode_patch(p, "zstd")) for p in patches]
    path.write_bytes(b"".join(packed) + END)
    samples = wds.WebDataset(str(path), shardshuffle=False, empty_check=False)
    found = [decode_patch(sample, sample["__key__"]) for sample in samples]
    assert [p.content() for p in found] == [p.content() for p in patches]


GOLDEN = """
import hashlib, sys
import numpy as np
from stbuild.corpus.samples import encode_counts
counts = (np.arange(512 * 256, dtype=np.uint64) * 2654435761 % 1009 % 7 % 5).astype("<u2")
for codec in ("zstd", "lz4", "none"):
    packed = [encode_counts(counts.reshape(512, 16, 16), codec)[1] for _ in range(10)]
    print(codec, len(set(packed)), hashlib.sha256(packed[0]).hexdigest())
if "zarr" in sys.modules:
    raise SystemExit("zarr was imported, so this proves nothing")
"""


def test_encoded_bytes_are_golden_in_a_process_without_zarr():
    """By default Blosc uses threads and its bytes vary from run to run; importing zarr hides it."""
    done = subprocess.run(
        [sys.executable, "-c", GOLDEN],
        cwd=ROOT,
        env={**os.environ, "BLOSC_NTHREADS": "2"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split("\n") == [
        "zstd 1 6acd306ef10d8c85e27b9227c4d89162143c83a013910224f5ad317f993e3c96",
        "lz4 1 aaec965b9bfcefa61e66352d1f0fd96c7e0d5019ff7e7e135fe15006ea2a3145",
        "none 1 102699804c14058600400baa1e9f04ce1f024e9b167dc2ef31ae570dedfd6200",
        "",
    ]


def test_content_digest_is_golden(make_patch):
    """The identity of a sample: a change here is a new version of the format."""
    patch = replace(
        make_patch(m=3, side=2, padding=1),
        counts=np.arange(12, dtype="<u2").reshape(3, 2, 2),
        genes=np.array([4, 9, -1], "<i4"),
        totals=np.array([[0, 7], [8, 9]], "<u4"),
    )
    assert patch.content().hex() == (
        "1bb6eb71bb44ab0f18b22e39f1d95eac711fc6d5946c6674e1b19ef89d77914c"
    )


def frame(counts, **fields: tuple[slice, bytes]) -> bytes:
    raw = bytearray(encode_counts(counts, "zstd")[1])
    for place, value in fields.values():
        raw[place] = value
    return bytes(raw)


COUNTS = np.arange(6 * 16, dtype="<u2").reshape(6, 4, 4) % 5
FRAMES = {
    "empty": b"",
    "shorter_than_its_header": b"\x02\x01\x94\x02",
    "claims_4_gigabytes": frame(COUNTS, size=(slice(4, 8), b"\xff\xff\xff\xff")),
    "claims_more_by_one": frame(COUNTS, size=(slice(4, 8), (193).to_bytes(4, "little"))),
    "claims_less": frame(COUNTS, size=(slice(4, 8), (2).to_bytes(4, "little"))),
    "claims_more_stored": frame(COUNTS, size=(slice(12, 16), b"\xff\xff\x00\x00")),
    "item_of_8": frame(COUNTS, size=(slice(3, 4), b"\x08")),
    "item_of_0": frame(COUNTS, size=(slice(3, 4), b"\x00")),
    "item_of_4": frame(COUNTS, size=(slice(3, 4), b"\x04")),
    "unknown_blosc_version": frame(COUNTS, size=(slice(0, 1), b"\xff")),
    "unknown_compressor": frame(COUNTS, size=(slice(2, 3), b"\xf4")),
    "block_size_0": frame(COUNTS, size=(slice(8, 12), b"\0\0\0\0")),
    "block_size_max": frame(COUNTS, size=(slice(8, 12), b"\xff\xff\xff\x7f")),
    "block_starts_outside": frame(COUNTS, size=(slice(16, 20), b"\xff\xff\xff\x7f")),
    "truncated": frame(COUNTS)[:-1],
    "trailing_byte": frame(COUNTS) + b"\0",
    "npy_in_its_place": write_npy(COUNTS),
}


@pytest.mark.parametrize("raw", FRAMES.values(), ids=FRAMES.keys())
def test_lying_frames_are_refused(raw):
    with pytest.raises(IntegrityError, match=r"error\[L11\] sample \(a\.tar:k\): .* fix: "):
        decode_counts("counts.blosc", raw, (6, 4, 4), "a.tar:k")


@given(st.integers(0, 400), st.integers(1, 255))
def test_a_damaged_frame_gives_an_error_or_numbers_of_the_right_form(position, change):
    raw = bytearray(encode_counts(COUNTS, "zstd")[1])
    raw[position % len(raw)] ^= change
    try:
        found = decode_counts("counts.blosc", bytes(raw), (6, 4, 4), "x")
    except IntegrityError:
        return
    assert (found.shape, found.dtype.str) == ((6, 4, 4), "<u2")


def test_a_claim_beyond_the_limit_is_refused_before_any_allocation():
    huge = (10**6, 10**3, 10**3)
    with pytest.raises(IntegrityError, match="limit"):
        decode_counts("counts.blosc", b"", huge, "x")
    assert int(np.prod(huge, dtype=np.int64)) == 10**12


def test_decoding_into_another_type_is_refused():
    suffix, raw = encode_counts(COUNTS, "zstd")
    with pytest.raises(IntegrityError):
        decode_counts(suffix, raw, (6, 4, 4), "x", out=np.empty((6, 4, 4), "<u4"))
    suffix, raw = encode_counts(COUNTS, "none")
    with pytest.raises(IntegrityError):
        decode_counts(suffix, raw, (6, 4, 5), "x")


MEMBER_DAMAGE = {
    "counts_missing": {"counts.blosc": None},
    "genes_missing": {"genes.npy": None},
    "json_missing": {"json": None},
    "pickled_member": {"pyd": b"\x80\x04."},
    "torch_member": {"pth": b"PK"},
    "both_counts": {"counts.npy": b""},
    "unknown_member": {"notes.txt": b"hi"},
    "genes_of_other_type": {"genes.npy": write_npy(np.arange(6, dtype="<i8"))},
    "genes_too_few": {"genes.npy": write_npy(np.arange(5, dtype="<i4"))},
    "genes_unsorted": {"genes.npy": write_npy(np.array([0, 2, 1, 3, 4, 5], "<i4"))},
    "genes_twice": {"genes.npy": write_npy(np.array([0, 1, 1, 3, 4, 5], "<i4"))},
    "genes_negative": {"genes.npy": write_npy(np.array([-2, 1, 2, 3, 4, 5], "<i4"))},
    "gene_after_padding": {"genes.npy": write_npy(np.array([0, 1, 2, 3, -1, 5], "<i4"))},
    "totals_of_other_shape": {"totals.npy": write_npy(np.ones((4, 5), "<u4"))},
    "totals_all_observed": {"totals.npy": write_npy(np.ones((4, 4), "<u4"))},
    "labels_of_other_shape": {"labels.npy": write_npy(np.zeros((3, 4), "<i2"))},
    "label_below_minus_1": {"labels.npy": write_npy(np.full((4, 4), -2, "<i2"))},
    "json_too_long": {"json": b" " * (names.MAX_JSON_BYTES + 1)},
    "json_not_utf8": {"json": b"\xff"},
    "json_of_another_format": {"json": b'{"format": "other"}'},
}


@pytest.mark.parametrize("damage", MEMBER_DAMAGE.values(), ids=MEMBER_DAMAGE.keys())
def test_damaged_patches_are_refused(make_eval_patch, damage):
    members = encode_patch(make_eval_patch(), "zstd") | damage
    with pytest.raises(IntegrityError, match=REFUSED):
        decode_patch({k: v for k, v in members.items() if v is not None}, "a.tar:k")


META_DAMAGE = {
    "version_2": {"version": 2},
    "unknown_key": {"extra": 1},
    "more_genes_than_channels": {"n_genes": 7},
    "other_shape": {"shape": (6, 4, 5)},
    "other_dtype": {"dtype": "<u4"},
    "terabyte_shape": {"shape": (10**6, 10**3, 10**3)},
    "other_observed": {"observed": 16},
    "negative_row": {"row": -1},
    "key_with_a_dot": {"key": "a.b"},
}


@pytest.mark.parametrize("damage", META_DAMAGE.values(), ids=META_DAMAGE.keys())
def test_json_that_contradicts_the_members_is_refused(make_patch, damage):
    patch = make_patch()
    members = encode_patch(patch, "zstd")
    members["json"] = dump_canonical(patch.meta.model_dump(mode="json") | damage)
    with pytest.raises(IntegrityError, match=REFUSED):
        decode_patch(members, "a.tar:k")


WHOLE_DAMAGE = {
    "indptr_decreasing": {"indptr": np.array([0, 3, 1, 4, 5, 6], "<i8")},
    "indptr_ends_short": {"indptr": np.zeros(6, "<i8")},
    "indptr_too_short": {"indptr": np.zeros(1, "<i8")},
    "indices_outside_genes": {"genes": np.arange(1, 10, dtype="<i4")},
    "genes_unsorted": {"genes": np.arange(9, dtype="<i4")[::-1]},
    "genes_negative": {"genes": np.arange(-1, 8, dtype="<i4")},
    "one_label_missing": {"labels": np.zeros(4, "<i2")},
    "label_below_minus_1": {"labels": np.full(5, -3, "<i2")},
    "xy_of_three": {"xy": np.zeros((5, 3))},
    "xy_not_finite": {"xy": np.full((5, 2), np.nan)},
    "rows_outside_the_grid": {"rows": np.arange(5, dtype="<i4") + 1},
    "cols_negative": {"cols": np.full(5, -1, "<i4")},
    "two_spots_in_a_cell": {"rows": np.zeros(5, "<i4")},
    "other_dtype": {"dtype": "<u4"},
}


@pytest.mark.parametrize("damage", WHOLE_DAMAGE.values(), ids=WHOLE_DAMAGE.keys())
def test_damaged_whole_slices_are_refused(make_whole, damage):
    whole = make_whole(n=5)
    if "dtype" in damage:
        damage = {"data": whole.data.astype(damage["dtype"])}
    with pytest.raises(IntegrityError, match=r"error\[L11\] .* fix: "):
        decode_whole(encode_whole(replace(whole, **damage)), "a.tar:k")


@pytest.mark.parametrize("change", ["zero", "unsorted", "twice"])
def test_sparse_counts_are_canonical(make_whole, change):
    whole = make_whole(n=5)
    indices, data = whole.indices.copy(), whole.data.copy()
    if change == "zero":
        data[0] = 0
    else:
        indices[[0, 1]] = indices[[1, 0]] if change == "unsorted" else indices[[0, 0]]
    with pytest.raises(IntegrityError):
        decode_whole(encode_whole(replace(whole, indices=indices, data=data)), "x")


def test_whole_slice_members_are_exact(make_whole):
    members = encode_whole(make_whole())
    with pytest.raises(IntegrityError, match="pyd"):
        decode_whole(members | {"pyd": b""}, "x")
    with pytest.raises(IntegrityError, match="xy"):
        decode_whole({k: v for k, v in members.items() if k != "xy.npy"}, "x")


def test_nothing_is_unpickled_or_run(make_patch):
    """An object array with a pickled call in it must not reach the unpickler."""
    evil = write_npy(np.zeros(6, "<i4")).replace(b"'<i4'", b"'|O'") + b"cos\nsystem\n(S'true'\ntR."
    seen: list[str] = []
    sys.addaudithook(lambda event, _: seen.append(event) if event.startswith("pickle") else None)
    with pytest.raises(IntegrityError):
        decode_patch(encode_patch(make_patch(), "zstd") | {"genes.npy": evil}, "x")
    assert not seen
