"""Names of source files: relative, never absolute; changed ones are found again."""

from dataclasses import replace

import pytest

from stbuild.config import GridConfig
from stbuild.corpus.errors import BadInputError
from stbuild.grid.compact import compact
from stbuild.manifests.manifest import Manifest, read_inputs
from stbuild.reading.provenance import changed_files, describe_files
from stbuild.slices import SliceRecord
from stbuild.tasks.pipeline import run_loop
from tests.slices import Spec, write_slice


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


def test_files_that_documents_cannot_tell_apart_are_refused(tmp_path):
    paths = [tmp_path / f"{name}.h5ad" for name in ("a", "b", "z")]
    for seed, path in enumerate(paths):
        write_slice(path, Spec(seed=seed, rows=10, cols=10))
    records = read_inputs([str(path) for path in paths]).records
    one, two, three = (replace(r, source_name="outs/m.h5") for r in records)
    manifest = Manifest(name="x", records=(one, two, replace(three, source_name="z.h5ad")))
    config = GridConfig(pitch_um=100.0)
    with pytest.raises(BadInputError, match=r"B092.*slice 'b'.*'outs/m.h5'.*of slice 'a'"):
        compact(manifest, config, tmp_path / "g", run_loop)
    assert not (tmp_path / "g" / "grids.json").exists()
    summary = compact(manifest, config, tmp_path / "g", run_loop, skip_bad=True)
    assert [report.slug for report in summary.reports] == ["a", "z"]
    assert sorted(p.name for p in (tmp_path / "g").glob("*.zarr")) == ["a.zarr", "z.zarr"]
