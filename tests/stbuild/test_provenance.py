"""Names of source files: relative, never absolute; changed ones are found again."""

import pytest

from stbuild.provenance import changed_files, describe_files
from stbuild.slices import SliceRecord


def record(path, base="", source_name=None):
    name = source_name or path.name
    return SliceRecord(name="S", slug="s", path=str(path), source_name=name, base=str(base))


@pytest.fixture
def folder(tmp_path):
    for name in ("data/one/counts.tsv", "data/one/sub/places.csv", "data/labels.csv"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return tmp_path


def test_files_of_a_folder_are_named_inside_it(folder):
    one = folder / "data" / "one"
    files = [one / "sub" / "places.csv", one / "counts.tsv"]
    found = describe_files(record(one), files)
    assert [entry.name for entry in found] == ["one/counts.tsv", "one/sub/places.csv"]
    assert changed_files(record(one), found, []) == []
    (one / "sub" / "places.csv").write_text("other")
    assert changed_files(record(one), found, []) == ["one/sub/places.csv"]
    (one / "counts.tsv").unlink()
    assert changed_files(record(one), found, []) == ["one/counts.tsv", "one/sub/places.csv"]


def test_files_beside_are_named_from_the_manifest(folder):
    one, labels = folder / "data" / "one", folder / "data" / "labels.csv"
    given = record(one, base=folder / "manifests", source_name="../data/one")
    found = describe_files(given, [one / "counts.tsv", labels])
    assert [entry.name for entry in found] == ["../data/labels.csv", "../data/one/counts.tsv"]
    assert changed_files(given, found, [labels]) == []
    labels.write_text("other")
    assert changed_files(given, found, [labels]) == ["../data/labels.csv"]


def test_without_a_manifest_only_bare_names_are_published(folder):
    counts, labels = folder / "data" / "one" / "counts.tsv", folder / "data" / "labels.csv"
    found = describe_files(record(counts), [counts, labels])
    assert [entry.name for entry in found] == ["counts.tsv", "labels.csv"]
    assert changed_files(record(counts), found, [labels]) == []
