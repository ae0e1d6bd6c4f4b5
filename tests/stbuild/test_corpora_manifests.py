"""The published lists of sources: what they claim hangs together and matches what was measured."""

import csv
import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from stbuild.corpus.errors import BadInputError
from stbuild.corpus.urls import refuse_url
from stbuild.fetch.plan import read_plan

MANIFESTS = Path(__file__).parents[2] / "manifests"
CORPORA = sorted((MANIFESTS / "corpora").glob("*.toml"))
EMPTY = "pretrain-visium-human"
FOLDERS = {"dlpfc-12": "dlpfc", "starmap": "starmap_mpfc"}
NAMES = {
    "dlpfc-12", "dlpfc-6", "lymph-node-a1", "lymph-node-d1", "breast-cancer-block-a", "tonsil",
    "colorectal", "her2st", "heart", "starmap", EMPTY,
}  # fmt: skip


def rows(name: str) -> list[dict[str, str]]:
    """Return the rows of a sheet."""
    with (MANIFESTS / "corpora" / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def total(name: str, column: str) -> int:
    """Return the sum of a column of numbers."""
    return sum(int(row[column]) for row in rows(name))


@pytest.mark.parametrize("path", CORPORA, ids=lambda path: path.stem)
def test_every_manifest_is_read(path: Path) -> None:
    if path.stem == EMPTY:
        with pytest.raises(BadInputError, match="no rows"):
            read_plan(path)
    else:
        assert read_plan(path).name == path.stem


def test_all_corpora_are_there() -> None:
    assert {path.stem for path in CORPORA} >= NAMES
    for path in CORPORA:
        document = tomllib.loads(path.read_text("utf-8"))
        assert document["samples"] == f"{path.stem}.csv"
        assert document["description"]


@pytest.mark.parametrize("name", sorted(NAMES - {EMPTY}))
def test_rows_say_how_they_are_known(name: str) -> None:
    for row in rows(name):
        said = row["confirmed"]
        assert said
        if not row["sha256"]:
            assert "sha256" in said
        if not row["licence"]:
            assert "licence" in said
        for column in ("url", "positions_url", "labels_url"):
            if url := row[column]:
                assert refuse_url(url) is None
                assert "?" not in url
            if "githubusercontent" in url:
                assert re.search(r"/[0-9a-f]{40}/", url), "a moving branch proves nothing"
        assert row["url"] or "url" in said or "urls" in said
    assert len({row["slice"] for row in rows(name)}) == len(rows(name))


def test_dlpfc_counts() -> None:
    assert total("dlpfc-12", "expected_spots") == 47_681
    assert total("dlpfc-6", "expected_spots") == 24_017
    twelve = rows("dlpfc-12")
    assert Counter(row["donor"] for row in twelve) == dict.fromkeys(
        ["Br5292", "Br5595", "Br8100"], 4
    )
    assert set(Counter(row["pair"] for row in twelve).values()) == {2}
    six = rows("dlpfc-6")
    assert {row["pair"] for row in six} == {row["pair"] for row in twelve}
    assert all(row in twelve for row in six)
    assert {row["donor"] for row in twelve if row["expected_classes"] == "5"} == {"Br5595"}


def test_colorectal_sections() -> None:
    sections = rows("colorectal")
    assert len(sections) == 14
    assert set(Counter(row["pair"] for row in sections).values()) == {2}
    assert len({row["donor"] for row in sections}) == 7


def test_her2st_sections() -> None:
    sections = rows("her2st")
    assert Counter(row["donor"] for row in sections) == {
        **dict.fromkeys("ABCD", 6), **dict.fromkeys("EFGH", 3)
    }  # fmt: skip
    assert sorted(row["slice"] for row in sections if row["labels_file"]) == [
        "A1", "B1", "C1", "D1", "E1", "F1", "G2", "H1",
    ]  # fmt: skip


def test_heart_is_one_donor() -> None:
    assert {row["donor"] for row in rows("heart")} == {"heart_6.5PCW"}


def test_the_label_mapping_of_colorectal() -> None:
    with (MANIFESTS / "labels/colorectal.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert len({row["source"] for row in table}) == len(table) == 38
    assert len({row["class_24"] for row in table} - {""}) == 24
    assert len({row["class_17"] for row in table} - {""}) == 17
    coarser = {row["class_24"]: row["class_17"] for row in table}
    assert all(coarser[row["class_24"]] == row["class_17"] for row in table)
    assert {row["source"] for row in table if not row["class_17"]} == {
        "exclude", "connective tissue_6_hemosiderin?",
    }  # fmt: skip
    # Spelling is all that the first step changes.
    for row in table:
        if row["class_24"]:
            assert len(row["class_24"].split()) >= 1
    assert "not reviewed" in (MANIFESTS / "labels/colorectal.md").read_text("utf-8")


@pytest.mark.parametrize("name", ["dlpfc-12", "her2st", "heart", "starmap"])
def test_hashes_and_counts_match_the_measured_copies(name: str, shared_data: Path) -> None:
    said = (shared_data / "README.md").read_text("utf-8")
    hashes = {
        row[column]
        for row in rows(name)
        for column in ("sha256", "positions_sha256", "labels_sha256")
        if row[column]
    }
    assert hashes
    assert all(digest in said for digest in hashes)
    for row in rows(name):
        file = shared_data / FOLDERS.get(name, name) / f"{row['slice']}.h5ad"
        if file.exists():
            assert f"| {file.name} |" in said
            line = next(text for text in said.splitlines() if f"| {file.name} |" in text)
            assert f"| {row['expected_spots']} |" in line
