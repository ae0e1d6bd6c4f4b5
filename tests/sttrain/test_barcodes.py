"""Barcodes as other tools spell them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttrain.embed.barcodes import match_barcodes, rows_by_sample, strip_barcode
from sttrain.embed.embeddings import Embeddings, SliceEmbedding, align_embeddings
from sttrain.errors import BadInputError

WANTED = ["AAAC-1", "AAAG-1", "AACC-1"]


@pytest.mark.parametrize(
    "have",
    [
        ["AAAC", "AAAG", "AACC"],
        ["AAAC-1-s1", "AAAG-1-s1", "AACC-1-s1"],
        ["AAAC-1_S1", "AAAG-1_S1", "AACC-1_S1"],
        ["s1:AAAC-1", "s1:AAAG-1", "s1:AACC-1"],
        ["S1_AAAC", "S1_AAAG", "S1_AACC"],
        ["AAAC-7", "AAAG-7", "AACC-7"],
        ["AAAC#s1", "AAAG-1", "AACC-2"],
    ],
    ids=["no-well", "suffix", "upper", "prefix", "prefix-no-well", "other-well", "mixed"],
)
def test_the_same_spots_are_found_in_other_spellings(have):
    found = match_barcodes(have, WANTED, "s1")
    assert found == dict(zip(WANTED, have, strict=True))


@pytest.mark.parametrize(
    "have",
    [
        ["AAAC", "AAAG"],
        ["AAAC", "AAAG", "AACC", "AATT"],
        ["AAAC", "AAAG", "AATT"],
        ["AAAC-1", "AAAC-2", "AAAG-1", "AACC-1"],
        ["AAAC-1-s2", "AAAG-1-s2", "AACC-1-s2"],
    ],
    ids=["missing", "extra", "another", "two-become-one", "another-sample"],
)
def test_other_spots_are_not_the_same(have):
    assert match_barcodes(have, WANTED, "s1") is None


def test_spots_of_the_corpus_that_become_one_are_matched_only_as_they_stand():
    wanted = ["10x13-1", "10x13-2"]
    assert match_barcodes(wanted[::-1], wanted, "s") == dict(zip(wanted, wanted, strict=True))
    assert match_barcodes(["10x13", "10x14"], wanted, "s") is None


def test_coordinates_are_no_wells():
    assert strip_barcode("17.9x4.97", "a1") == "17.9x4.97"
    assert strip_barcode("10x13", "a1") == "10x13"
    assert strip_barcode("a1", "a1") == "a1"


@given(
    spots=st.lists(st.text("ACGT", min_size=4, max_size=6), min_size=1, unique=True),
    slug=st.text("abc0", min_size=1, max_size=4),
    seed=st.integers(0, 9),
)
def test_any_order_and_spelling_is_matched_to_itself(spots, slug, seed):
    wanted = [f"{spot}-1" for spot in spots]
    order = np.random.default_rng(seed).permutation(len(spots))
    have = [f"{slug}_{spots[i]}" for i in order]
    found = match_barcodes(have, wanted, slug)
    assert found == {f"{spot}-1": f"{slug}_{spot}" for spot in spots}


def test_rows_belong_to_the_sample_with_the_longest_name():
    found = rows_by_sample(["AC-1-s1", "AC-1-s1-b", "s1_AG", "AT-1", "s2:AC"], ["s1", "s1-b", "s3"])
    assert found == {"s1-b": [1], "s1": [0, 2], "s3": []}


def vectors(barcodes):
    matrix = np.arange(2 * len(barcodes), dtype=np.float32).reshape(-1, 2)
    part = SliceEmbedding(barcodes=tuple(barcodes), matrix=matrix)
    return Embeddings(slices={"": part}, provenance={"model": "x"})


def test_alignment_restores_the_order_through_other_spellings_and_counts_them():
    found = align_embeddings(vectors(["AACC", "AAAC", "AAAG"]), {"s1": WANTED}, "x")
    np.testing.assert_array_equal(found.slices["s1"].matrix, [[2, 3], [4, 5], [0, 1]])
    assert found.slices["s1"].barcodes == tuple(WANTED)
    assert found.provenance == {"model": "x", "respelt": {"s1": 3}}


def test_alignment_says_nothing_of_spelling_where_it_is_the_same():
    assert align_embeddings(vectors(WANTED), {"s1": WANTED}, "x").provenance == {"model": "x"}


def test_samples_that_were_put_together_are_told_apart_by_their_barcodes():
    both = vectors([f"{spot}-s2" for spot in WANTED] + [f"{spot}-s1" for spot in WANTED[::-1]])
    found = align_embeddings(both, {"s1": WANTED, "s2": WANTED}, "x")
    np.testing.assert_array_equal(found.slices["s1"].matrix[0], [10, 11])
    np.testing.assert_array_equal(found.slices["s2"].matrix[0], [0, 1])


def test_a_sample_that_is_not_there_is_named():
    both = vectors([f"{spot}-s2" for spot in WANTED])
    with pytest.raises(BadInputError, match="slice 's1': no vector for any of its 3 spots"):
        align_embeddings(both, {"s1": WANTED, "s2": WANTED}, "x")


def test_what_is_wrong_is_counted_in_spite_of_other_spellings():
    with pytest.raises(BadInputError) as caught:
        align_embeddings(vectors(["AACC", "AAAC", "AAAC", "TTTT"]), {"s1": WANTED}, "x")
    text = str(caught.value)
    assert "1 barcodes stand more than once" in text
    assert "3 of 3 barcodes are missing (first: AAAC-1, AAAG-1, AACC-1)" in text
    assert "3 of 3 barcodes are unknown (first: AAAC, AACC, TTTT)" in text
