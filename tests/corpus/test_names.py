import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stbuild.corpus import names


@given(st.text(max_size=200))
def test_every_id_becomes_a_slug_and_fits_a_key(name):
    slug = names.slugify(name)
    assert re.fullmatch(names.SLUG_PATTERN, slug)
    for key in (
        names.window_key(slug, 999_999),
        names.cover_key(slug, 99_999, 99_999, 99),
        names.whole_key(slug),
    ):
        assert "." not in key
        assert len(key) <= 64 + 16 + 3
    assert names.slugify(name) == slug


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        pytest.param("V1.2", "v1-2", id="dot"),
        pytest.param("Br8325_ant", "br8325-ant", id="underscore"),
        pytest.param("a b/c\\d", "a-b-c-d", id="separators"),
        pytest.param("con", "s-con", id="reserved"),
        pytest.param("\u00c9mbryon", "embryon", id="accent"),
        pytest.param("--x--", "x", id="edges"),
    ],
)
def test_known_slugs(name, slug):
    assert names.slugify(name) == slug


def test_ids_that_lose_everything_stay_apart():
    slugs = {names.slugify(name) for name in ("\u5fc3", "\u8111", "", "...", "\U0001f9e0")}
    assert len(slugs) == 5


def test_long_ids_stay_apart():
    assert names.slugify("a" * 100) != names.slugify("a" * 101)


@pytest.mark.parametrize("kind", ["patch", "slice"])
def test_paths_match_the_grammar(kind):
    assert re.fullmatch(names.SHARD_PATTERN, names.shard_path("sample", "train", kind, 12))
    assert re.fullmatch(names.FILE_PATTERN, names.index_path("train", kind))
    assert re.fullmatch(names.FILE_PATTERN, names.split_path("paper20", 1))


@pytest.mark.parametrize(
    "path",
    [
        "../x.tar",
        "/data/train/x.tar",
        "data/train/../x.tar",
        "pipe:cat /etc/passwd",
        "http://169.254.169.254/x.tar",
        "file:///etc/passwd",
        "data/train/x.tar.gz",
        "data/train/{0..9}.tar",
        "data/train/x.tar\n",
        "data/train/.x.tar",
        "DATA/train/x.tar",
        "data//x.tar",
        "index/a::b",
        "~/x",
        "a/./b",
        "",
    ],
)
def test_hostile_paths_do_not_match(path):
    assert not re.fullmatch(names.SHARD_PATTERN, path)
    if path not in {"DATA/train/x.tar", "data/train/x.tar.gz"}:
        assert not re.fullmatch(names.FILE_PATTERN, path)


def test_longest_key_fits_the_key_grammar():
    slug = "s" * 64
    for key in (
        names.window_key(slug, 999_999),
        names.cover_key(slug, 999_999, 99_999, 99),
        names.whole_key(slug),
    ):
        assert re.fullmatch(names.KEY_PATTERN, key), len(key)
