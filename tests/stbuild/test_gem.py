"""Stereo-seq GEM files: places become spots, or bins, and every molecule is kept."""

import gzip

import numpy as np
import pandas as pd
import pytest

from stbuild.config import GridConfig
from stbuild.corpus.errors import BadInputError
from stbuild.lattices import assign_cells
from stbuild.reading.opening import read_here
from stbuild.sources.formats import detect_format
from tests.slices import record_of
from tests.vendor_files import counts_of

GENES = [f"Gene{i}" for i in range(12)]
ROW, COL = np.divmod(np.arange(144), 12)
XY = np.stack([COL * 50 + 103, ROW * 50 + 7], axis=1)
DENSE = counts_of(144)
COMMENTS = "#FileFormat=GEMv0.1\n#BinSize=50\n"


def rows_of(count="MIDCount"):
    spot, gene = np.nonzero(DENSE)
    columns = {"geneID": np.asarray(GENES)[gene], "x": XY[spot, 0], "y": XY[spot, 1]}
    frame = pd.DataFrame({**columns, count: DENSE[spot, gene]})
    return frame.sample(frac=1, random_state=2)


def write_gem(path, frame, *, head=COMMENTS, packed=True):
    data = (head + frame.to_csv(sep="\t", index=False)).encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    return path


@pytest.mark.parametrize("count", ["MIDCount", "MIDCounts", "UMICount"])
@pytest.mark.parametrize(
    ("name", "packed"), [("a.gem.gz", True), ("a.gem", False), ("a.txt", False)]
)
def test_every_place_is_a_spot(name, packed, count, tmp_path):
    path = write_gem(tmp_path / name, rows_of(count), packed=packed)
    assert detect_format(path) == "table"
    read = read_here(record_of(path), GridConfig())
    order = np.lexsort((XY[:, 1], XY[:, 0]))
    assert read.xy is not None
    assert np.array_equal(read.xy, XY[order])
    assert list(read.genes) == sorted(GENES)
    columns = [GENES.index(gene) for gene in read.genes]
    assert (read.counts.toarray() == DENSE[order][:, columns]).all()
    lattice = assign_cells(record_of(path), read, GridConfig())
    assert (lattice.kind, lattice.shape) == ("square", (12, 12))
    assert lattice.pitch == pytest.approx(50)


def test_a_folder_with_one_file_will_do_and_with_two_is_refused(tmp_path):
    write_gem(tmp_path / "a.gem.gz", rows_of())
    assert int(read_here(record_of(tmp_path), GridConfig()).counts.sum()) == DENSE.sum()
    write_gem(tmp_path / "b.gem.gz", rows_of())
    with pytest.raises(BadInputError, match=r"B007.*2 GEM files: a\.gem\.gz, b\.gem\.gz"):
        read_here(record_of(tmp_path), GridConfig())


def test_places_are_summed_in_bins_while_they_are_read(tmp_path):
    path = write_gem(tmp_path / "a.gem.gz", rows_of().assign(CellID=1))
    bins = GridConfig(layout="bin", bin_size=100)
    read = read_here(record_of(path), bins)
    lattice = assign_cells(record_of(path), read, bins)
    assert (np.unique(np.stack([lattice.row, lattice.col]), axis=1).shape[1]) == len(read.barcodes)
    corner = XY // 100
    assert read.xy is not None
    for place, total in zip(read.xy.astype(int) // 100, read.totals, strict=True):
        assert total == DENSE[(corner == place).all(axis=1)].sum()
    said = " ".join(str(notice) for notice in read.notices)
    assert "bins of 100" in said
    assert "'CellID' of cells is not used" in said


WRONG = {
    "fraction": (lambda f: f.assign(MIDCount=f["MIDCount"] + 0.5), "B030"),
    "negative": (lambda f: f.assign(MIDCount=-1), "B029"),
    "text": (lambda f: f.assign(x="left"), "B033"),
    "missing": (lambda f: f.assign(MIDCount=[np.nan, *f["MIDCount"][1:]]), "B033"),
    "no_rows": (lambda f: f[:0], "B058"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_rows_are_refused(name, tmp_path):
    change, code = WRONG[name]
    path = write_gem(tmp_path / "a.gem.gz", change(rows_of()))
    with pytest.raises(BadInputError, match=code):
        read_here(record_of(path), GridConfig())


def test_damage_and_broken_bins_are_refused(tmp_path):
    path = write_gem(tmp_path / "a.gem.gz", rows_of())
    with pytest.raises(BadInputError, match=r"B053.*whole --bin-size"):
        read_here(record_of(path), GridConfig(layout="bin", bin_size=2.5))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(BadInputError, match="B004"):
        read_here(record_of(path), GridConfig())
