"""Footers of Parquet: what pyarrow says of them, and no abort where it would end the process."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stbuild.corpus.errors import IntegrityError
from stbuild.corpus.footers import read_footer
from stbuild.corpus.index import read_panels

REGRESS = Path(__file__).parents[1] / "zoo" / "regress"


@pytest.mark.parametrize("compression", ["zstd", "none"])
@pytest.mark.parametrize("rows", [0, 1, 1000])
def test_a_footer_says_what_pyarrow_says(rows, compression):
    columns = {
        "number": pa.array(range(rows), pa.int64()),
        "text": pa.array([f"t{i}" for i in range(rows)]),
        "lists": pa.array([list(range(i % 4)) for i in range(rows)], pa.list_(pa.int32())),
        "flags": pa.array([i % 3 == 0 for i in range(rows)]),
    }
    raw = io.BytesIO()
    pq.write_table(pa.table(columns), raw, row_group_size=300, compression=compression)
    footer, told = read_footer(raw), pq.ParquetFile(raw).metadata
    assert footer.n_rows == told.num_rows == rows
    assert len(footer.groups) == told.num_row_groups
    for i, group in enumerate(footer.groups):
        theirs = told.row_group(i)
        assert (group.n_rows, group.n_bytes) == (theirs.num_rows, theirs.total_byte_size)
        values = {
            theirs.column(c).path_in_schema.partition(".")[0]: theirs.column(c).num_values
            for c in range(theirs.num_columns)
        }
        assert group.values == values


def test_a_footer_on_which_pyarrow_aborts_is_refused():
    """Its histogram of levels has another length than it must: C++ throws, nobody catches."""
    raw = (REGRESS / "panels-histogram.parquet").read_bytes()
    with pytest.raises(IntegrityError, match="L16"):
        read_panels(raw, "panels.parquet")


@pytest.mark.parametrize(
    "raw",
    [b"", b"PAR1", b"PAR1" * 3, b"\xff" * 40, b"PAR1" + b"\x4c" * 30 + b"\x1e\0\0\0PAR1",
     b"PAR1" + b"\x19\xfc\xff\xff\xff\xff\x0f" + b"\x07\0\0\0PAR1"],
    ids=["nothing", "magic", "magic thrice", "ones", "nested for ever", "a list without an end"],
)  # fmt: skip
def test_what_is_no_footer_is_refused(raw):
    with pytest.raises(ValueError, match="footer"):
        read_footer(io.BytesIO(raw))
