"""One laboratory for all tests of faults of a session."""

from collections.abc import Iterator

import pytest

from tests.faults.lab import Lab, make_lab
from tests.sttrain.processes import Starter


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Every command, run once without a fault."""
    starter = Starter("tests.faults.server")
    try:
        yield make_lab(tmp_path_factory.mktemp("lab"), starter)
    finally:
        starter.close()
