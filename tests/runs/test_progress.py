"""Progress lines: in place on a terminal, and rare elsewhere."""

import sys
from types import SimpleNamespace

import pytest

from hrnet_ray.runs import progress
from hrnet_ray.runs.progress import make_progress_line, print_line


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The current time in seconds, set by the test."""
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_without_print_end_no_final_line_is_printed(
    clock: list[float], capsys: pytest.CaptureFixture[str]
):
    count = make_progress_line("clip", print_end=False)
    for done, clock[0] in ((10, 5.0), (30, 15.0), (40, 20.0)):
        count(done, 40)

    assert capsys.readouterr().out == "clip       30/40  2/s  5 s left\n"


def test_with_an_unknown_total_no_time_left_is_printed(
    clock: list[float], capsys: pytest.CaptureFixture[str]
):
    count = make_progress_line("clip", print_end=False)
    clock[0] = 15.0
    count(30, 0)
    clock[0] = 30.0
    count(90, 89)

    assert capsys.readouterr().out == "clip       30  2/s\nclip       90  3/s\n"


def test_print_line_replaces_a_transient_line_on_a_terminal(
    clock: list[float],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    count = make_progress_line("clip", print_end=False)
    clock[0] = 1.0

    count(2, 4)
    print_line("skipped a.jpg")
    count(4, 4)

    assert capsys.readouterr().out == (
        "\r\x1b[Kclip        2/4  2/s  1 s left\r\x1b[Kskipped a.jpg\n\r\x1b[K"
    )
