"""The order in which the tests are run."""

from pathlib import Path

from tests.conftest import LONG_GROUPS


def test_the_groups_that_begin_first_are_there() -> None:
    files = {path.name for path in Path(__file__).parent.rglob("test_*.py")}
    assert set(LONG_GROUPS) - {"measures"} <= files
