"""A wall clock that is wrong, and that is set back while a command runs, changes nothing."""

import pytest

from tests.faults.lab import COMMANDS

pytestmark = [pytest.mark.dist, pytest.mark.slow]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_clock_that_is_set_back_changes_nothing(lab, tmp_path, name):
    lab.run(name, tmp_path, broken="clock_goes_back")
    lab.check_whole(name, tmp_path)
    lab.run(name, tmp_path)
    lab.check_whole(name, tmp_path)
