import hashlib
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stbuild.corpus.errors import IntegrityError
from stbuild.corpus.tar import BLOCK, END, _header, iter_members, pack_sample, unpack_sample

KEYS = st.from_regex(r"[a-z0-9_-]{1,84}", fullmatch=True)
MEMBERS = st.dictionaries(
    st.from_regex(r"[a-z0-9]{1,8}(\.[a-z0-9]{1,5})?", fullmatch=True),
    st.binary(max_size=1500),
    min_size=1,
    max_size=5,
)
SAMPLE = {"counts.blosc": b"c" * 700, "genes.npy": b"", "json": b"{}"}


@given(KEYS, MEMBERS)
def test_round_trip_and_tarfile_reads_it(key, members):
    raw = pack_sample(key, members)
    assert len(raw) % BLOCK == 0
    found_key, found = unpack_sample(raw, "x")
    assert found_key == key
    assert [(k, bytes(v)) for k, v in found.items()] == list(members.items())
    with tarfile.open(fileobj=io.BytesIO(raw + END), mode="r:") as archive:
        for info, (suffix, data) in zip(archive, members.items(), strict=True):
            file = archive.extractfile(info)
            assert file is not None
            assert (info.name, file.read()) == (f"{key}.{suffix}", data)
            assert (info.mtime, info.uid, info.gid, info.mode) == (0, 0, 0, 0o644)
            assert (info.uname, info.gname, info.type) == ("", "", tarfile.REGTYPE)


def test_golden_bytes():
    raw = pack_sample("s1_w000000", SAMPLE)
    assert len(raw) == 3072
    assert (
        hashlib.sha256(raw).hexdigest()
        == "46cdd34d12a51cd65087b44375d618fa7107772e3c11183823a61df0fe5c5df2"
    )


# webdataset leaves the file it has read to the garbage collector.
@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_webdataset_reads_it(tmp_path):
    wds = pytest.importorskip("webdataset")
    path = tmp_path / "a.tar"
    path.write_bytes(pack_sample("s1_w000000", SAMPLE) + pack_sample("s1_w000001", SAMPLE) + END)
    samples = list(wds.WebDataset(str(path), shardshuffle=False, empty_check=False))
    assert [s["__key__"] for s in samples] == ["s1_w000000", "s1_w000001"]
    assert {k: v for k, v in samples[0].items() if not k.startswith("__")} == SAMPLE


def test_members_are_not_copied():
    raw = pack_sample("k", SAMPLE)
    _, members = unpack_sample(raw, "x")
    assert members["counts.blosc"].obj is raw


@pytest.fixture(
    params=[
        pytest.param({"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, id="symlink"),
        pytest.param({"type": tarfile.LNKTYPE, "linkname": "b.json"}, id="hard_link"),
        pytest.param({"type": tarfile.FIFOTYPE}, id="fifo"),
        pytest.param({"type": tarfile.CHRTYPE}, id="device"),
        pytest.param({"type": tarfile.DIRTYPE}, id="directory"),
        pytest.param({"type": tarfile.AREGTYPE}, id="old_regular"),
        pytest.param({"type": tarfile.GNUTYPE_SPARSE}, id="gnu_sparse"),
        pytest.param({"form": tarfile.GNU_FORMAT}, id="gnu_magic"),
        pytest.param(
            {"form": tarfile.PAX_FORMAT, "pax_headers": {"comment": "x"}}, id="pax_header"
        ),
        pytest.param(
            {"form": tarfile.PAX_FORMAT, "mtime": 1.5}, id="pax_time_as_webdataset_writes_it"
        ),
        pytest.param({"form": tarfile.GNU_FORMAT, "name": "k" * 150 + ".json"}, id="gnu_long_name"),
        pytest.param({"name": "k" * 80 + "/" + "k" * 60 + ".json"}, id="ustar_prefix"),
        pytest.param({"name": "../k.json"}, id="parent"),
        pytest.param({"name": "/k.json"}, id="absolute"),
        pytest.param({"name": "data/k.json"}, id="folder"),
        pytest.param({"name": "K.json"}, id="upper_case"),
        pytest.param({"name": "k"}, id="no_suffix"),
        pytest.param({"name": ".json"}, id="no_key"),
        pytest.param({"name": "k.a.b.c"}, id="three_suffixes"),
        pytest.param({"name": "k k.json"}, id="space"),
        pytest.param({"name": "\u00e9.json"}, id="non_ascii"),
    ]
)
def foreign(request, make_tar):
    fields = {"name": "k.json"} | request.param
    return make_tar(fields.pop("name"), **fields)


def test_foreign_members_are_refused(foreign):
    with pytest.raises(IntegrityError, match=r"error\[L10\] shard \(x\): .* fix: "):
        unpack_sample(foreign[: -len(END)].rstrip(b"\0") or foreign, "x")


def resealed(header: bytearray) -> bytes:
    """Return the header with its checksum made right again."""
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.parametrize(
    "size",
    [
        pytest.param(b"77777777777\0", id="8_gigabytes"),
        pytest.param(b"\x80" + (2**50).to_bytes(11, "big"), id="petabyte_base_256"),
        pytest.param(b"\xff" * 12, id="negative_base_256"),
        pytest.param(b"-0000000001\0", id="negative"),
        pytest.param(b"           \0", id="blank"),
        pytest.param(b"00000001274 ", id="space_at_the_end"),
    ],
)
def test_sizes_that_lie_are_refused(size):
    raw = bytearray(pack_sample("k", {"json": b"x" * 700}))
    raw[124:136] = size
    with pytest.raises(IntegrityError):
        unpack_sample(resealed(raw[:BLOCK]) + bytes(raw[BLOCK:]), "x")


def test_every_flipped_header_bit_is_seen():
    raw = pack_sample("k", {"json": b"{}"})
    for bit in range(8 * BLOCK):
        damaged = bytearray(raw)
        damaged[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(IntegrityError):
            unpack_sample(bytes(damaged), "x")


@pytest.mark.parametrize("keep", [0, 1, 511, 512, 513, 1023, 1025, 3071])
def test_truncation_is_seen(keep):
    with pytest.raises(IntegrityError):
        unpack_sample(pack_sample("k", SAMPLE)[:keep], "x")


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(pack_sample("a", SAMPLE) + pack_sample("b", SAMPLE), id="two_keys"),
        pytest.param(pack_sample("a", SAMPLE) * 2, id="member_twice"),
        pytest.param(pack_sample("a", SAMPLE) + END, id="end_of_archive_inside"),
    ],
)
def test_a_sample_is_one_sample(raw):
    with pytest.raises(IntegrityError):
        unpack_sample(raw, "x")


@given(st.binary(max_size=1200))
def test_no_other_exception_on_any_bytes(raw):
    with pytest.raises(IntegrityError):
        unpack_sample(raw, "x")


def test_long_keys_fit():
    raw = pack_sample("k" * 84, {"counts.blosc": b""})
    assert [name for name, _ in iter_members(raw, "x")] == ["k" * 84 + ".counts.blosc"]


@given(st.from_regex(r"[a-z0-9_.-]{1,100}", fullmatch=True), st.integers(0, 8**11 - 1))
def test_headers_are_those_of_tarfile(name, size):
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    assert _header(name, size) == info.tobuf(format=tarfile.USTAR_FORMAT, encoding="ascii")


@pytest.mark.parametrize(("name", "size"), [("x" * 101, 1), ("x", 8**11)])
def test_what_a_header_cannot_hold_is_refused(name, size):
    with pytest.raises(ValueError, match="does not fit"):
        _header(name, size)
