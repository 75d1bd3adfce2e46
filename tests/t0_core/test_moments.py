"""Times as people write them."""

import pytest

from dfs.moments import FORMS, revision_of, time_of

TEN = 1_764_064_800_000_000_000


@pytest.mark.parametrize(
    ("text", "time_ns"),
    [
        ("2025-11-25T10:00:00Z", TEN), ("2025-11-25T10:00Z", TEN), ("2025-11-25 10:00:00Z", TEN),
        ("2025-11-25T11:00:00+01:00", TEN), ("2025-11-25T04:30-05:30", TEN),
        ("2025-11-25", TEN - 36_000 * 10**9), ("2025-11-25T10:00:00.5Z", TEN + 500_000_000),
        ("2025-11-25T10:00:00.123456789Z", TEN + 123_456_789), ("1970-01-01", 0),
    ],
)  # fmt: skip
def test_what_is_a_time(text, time_ns):
    assert time_of(text) == time_ns


@pytest.mark.parametrize(
    "text",
    [
        "", "now", "12", "2025-11-25T10:00:00", "2025-11-25T10Z", "2025-11-25Z", "2025-13-01",
        "2025-11-25T24:00:01Z", "2025-11-25T10:00.5Z", "2025-11-25T10:00:00.1234567890Z",
        "2025-11-25T10:00:00z", "20251125T100000Z", "1969-12-31", "2300-01-01", "2025-02-30",
        " 2025-11-25", "2025-11-25\n", "\u0662025-11-25", "2025-11-25T10:00:00+25:00",
    ],
)  # fmt: skip
def test_what_is_none(text):
    with pytest.raises(ValueError, match="is no time"):
        time_of(text)


def test_the_examples_in_messages_are_times():
    assert all(time_of(form) for form in FORMS.split(", "))


def test_revisions():
    assert revision_of("1234") == 1234
    for text in ("0", "", "-1", "01", "1x", "\u0661", "9" * 20, "2025-11-25"):
        assert revision_of(text) is None
