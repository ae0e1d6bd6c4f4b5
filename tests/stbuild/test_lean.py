"""What a build must not import: each of these costs more than the work it would save."""

import subprocess
import sys

import pytest

SLOW = {"anndata", "pandas", "zarr", "dask", "torch", "scipy.spatial", "scipy.ndimage", "pyarrow"}
LOADED = "import sys; {code}; print(*sorted(set({slow!r}) & set(sys.modules)))"
TABLES = (
    """
import numpy as np
from stbuild.corpus.index import write_genes, write_panels
write_genes(["a", "b"], [1, 2]); write_panels({"s": np.arange(2, dtype=np.int32)})
""".strip()
    .replace("\n", "; ")
    .replace("; ;", ";")
)


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        pytest.param("import stbuild.cli, stbuild.grid.compact", set(), id="compact"),
        pytest.param("import stbuild.cli, stbuild.build.building", set(), id="shard"),
        pytest.param("import stbuild.reading.jail_child, stbuild.sources.h5ad", set(), id="jail"),
        pytest.param(TABLES, {"pyarrow"}, id="tables"),
    ],
)
def test_a_build_starts_lean(code, allowed):
    command = [sys.executable, "-c", LOADED.format(code=code, slow=sorted(SLOW))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == allowed
