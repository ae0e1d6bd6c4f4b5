"""Sums of all genes among the genes of a table are no genes, whatever they are called."""

import numpy as np
import pytest

from stbuild.config import GridConfig
from stbuild.sources.tables.reader import read_table
from tests.table_files import Dialect, record_at, write_counts

N = 30
SPOTS = [f"{i % 6}x{i // 6}" for i in range(N)]
GENES = ["Gapdh", "Actb", "Mbp", "Blank-1"]
COUNTS = np.random.default_rng(0).poisson(2, (N, 4))
SUMS = COUNTS.sum(axis=1, keepdims=True)
SUMS_OF_GENES = COUNTS[:, :3].sum(axis=1, keepdims=True)


def read(folder, counts, genes, *, by_spot=True, spots=SPOTS):
    dialect = Dialect(by_spot=by_spot, corner="" if by_spot else "gene")
    path = write_counts(folder / "t.tsv", counts, spots, genes, dialect)
    return read_table(record_at(path), GridConfig())


@pytest.mark.parametrize("by_spot", [True, False], ids=["column", "row"])
@pytest.mark.parametrize("sums", [SUMS, SUMS_OF_GENES], ids=["of_all", "without_controls"])
@pytest.mark.parametrize("names", [["Total"], ["nUMI", "Sum of counts"]], ids=len)
def test_sums_are_no_genes(names, sums, by_spot, tmp_path):
    values = np.hstack([sums, COUNTS, *[sums] * (len(names) - 1)])
    raw = read(tmp_path, values, [names[0], *GENES, *names[1:]], by_spot=by_spot)
    assert list(raw.genes) == GENES[:3]
    assert (raw.counts.toarray() == COUNTS[:, :3]).all()
    assert raw.ledger["totals_left_out"] == len(names)
    assert raw.ledger["molecules_of_other_types"] == COUNTS[:, 3].sum()
    said = next(str(n) for n in raw.notices if "sums of all genes" in n.what)
    assert all(repr(name) in said for name in names)
    assert "B073" in said


def test_what_is_no_sum_in_a_single_spot_is_a_gene(tmp_path):
    values = np.hstack([SUMS, COUNTS])
    values[7, 0] -= 1
    values[8, 0] += 1
    raw = read(tmp_path, values, ["Total", *GENES])
    assert list(raw.genes) == ["Total", *GENES[:3]]


@pytest.mark.parametrize("columns", [[0], [0, 0], [0, 0, 0, 0]], ids=len)
def test_genes_that_are_equal_are_no_sums(columns, tmp_path):
    genes = [f"G{i}" for i in range(len(columns))]
    assert list(read(tmp_path, COUNTS[:, columns], genes).genes) == genes


def test_few_spots_may_agree_by_chance(tmp_path):
    raw = read(tmp_path, np.hstack([SUMS, COUNTS])[:9], ["Total", *GENES], spots=SPOTS[:9])
    assert list(raw.genes) == ["Total", *GENES[:3]]


def test_a_table_of_zeros_has_no_sums(tmp_path):
    assert list(read(tmp_path, COUNTS * 0, GENES).genes) == GENES[:3]
