"""Every command works on a machine without a network, and looks for none (P36)."""

import pytest

from tests.faults.lab import COMMANDS
from tests.faults.variants import CALLED_OUT
from tests.stbuild.environments import TOGETHER, why_not

pytestmark = pytest.mark.dist


MISSING = why_not(TOGETHER["offline"])
needs_namespaces = pytest.mark.skipif(
    MISSING is not None, reason=f"no network namespace of one's own here: {MISSING}"
)


@needs_namespaces
@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_needs_a_network_or_looks_for_one(lab, tmp_path, name):
    lab.run(name, tmp_path, broken="no_network")
    lab.check_whole(name, tmp_path)


@needs_namespaces
def test_a_run_that_calls_home_is_noticed(lab, tmp_path):
    job = lab.start("fit", tmp_path, broken="call_home")
    assert job.wait() == [CALLED_OUT], job.text()
    assert "telemetry.example" in job.text()
