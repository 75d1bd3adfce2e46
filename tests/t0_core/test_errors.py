"""The table of errors is complete and consistent."""

import re

import pytest

import dfs.errors
from dfs.errors import ALL, DfsError

GRPC_CODES = range(1, 17)


def test_every_error_is_in_the_table_and_in_the_drawing():
    defined = {
        value
        for value in vars(dfs.errors).values()
        if isinstance(value, type) and issubclass(value, DfsError) and value is not DfsError
    }
    assert set(ALL) == defined
    drawn = set(re.findall(r"[├└]── (\w+)", dfs.errors.__doc__))
    assert drawn == {error.__name__ for error in ALL}


@pytest.mark.parametrize("error", ALL, ids=lambda error: error.__name__)
def test_a_row_is_whole(error):
    row = error.row
    assert "row" in vars(error), "each class has a row of its own"
    assert re.fullmatch(r"[A-Z_]+", row.reason)
    assert row.code in GRPC_CODES
    assert row.errno > 0
    assert 400 <= row.http < 600
    assert 0 < row.exit < 128


def test_reasons_are_unique_and_only_sure_failures_are_repeatable():
    reasons = [error.row.reason for error in ALL]
    assert len(set(reasons)) == len(reasons)
    assert {error.__name__ for error in ALL if error.row.retry} == {"Overloaded", "Unavailable"}


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (dfs.errors.InvalidArgument, ValueError),
        (dfs.errors.NotFound, FileNotFoundError),
        (dfs.errors.IsADirectory, IsADirectoryError),
        (dfs.errors.NotADirectory, NotADirectoryError),
        (dfs.errors.NotEmpty, OSError),
        (dfs.errors.Unavailable, ConnectionError),
        (dfs.errors.DeadlineExceeded, TimeoutError),
        (dfs.errors.PermissionDenied, PermissionError),
    ],
)
def test_an_error_is_also_the_builtin_that_people_catch(error, builtin):
    with pytest.raises(builtin) as caught:
        raise error("one sentence", key="a")
    assert str(caught.value) == caught.value.text == "one sentence"
    assert caught.value.metadata == {"key": "a"}
