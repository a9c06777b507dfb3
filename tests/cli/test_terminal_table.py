"""Test the tables on the terminal."""

import sys

import pytest

from hrnet_ray.cli.terminal_table import print_table

ROWS = [["0.9123", "a" * 120], ["1", "[red]b\x1b[2J"], ["虎", ""]]


def test_a_pipe_gets_whole_aligned_lines(capsys: pytest.CaptureFixture[str]):
    print_table(["score", "name"], ROWS)

    assert capsys.readouterr().out.splitlines() == [
        "score   name",
        f"0.9123  {'a' * 120}",
        r"1       [red]b\x1b[2J",
        "虎",
    ]


def test_a_terminal_gets_lines_of_its_width(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")

    print_table(["score", "name"], ROWS)

    assert capsys.readouterr().out.splitlines() == [
        "score   name",
        f"0.9123  {'a' * 32}",
        r"1       [red]b\x1b[2J",
        "虎",
    ]
