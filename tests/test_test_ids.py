"""Test that the ids of parametrized tests stay short."""

import pytest

from tests.conftest import MAX_ID_CHARS, pytest_make_parametrize_id, require_short_ids


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a" * 24, None),
        ("a" * 25, "a" * 24 + "..."),
        (b"\xff" * 2**20, "\\xff" * 6 + "..."),
        (b"short", None),
        ([1] * 99, None),
    ],
)
def test_a_long_text_is_shortened_in_a_test_id(value: object, expected: str | None):
    assert pytest_make_parametrize_id(value) == expected


def test_a_long_test_id_is_refused():
    require_short_ids(["a" * MAX_ID_CHARS])
    require_short_ids([])

    with pytest.raises(pytest.UsageError, match="must have at most 200 characters, got 201: aaa"):
        require_short_ids(["a", "a" * (MAX_ID_CHARS + 1)])
