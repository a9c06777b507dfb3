"""Progress lines: in place on a terminal, and rare elsewhere."""

import io
import json
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from hrnet_ray.runs import progress
from hrnet_ray.runs.event_log import append_metrics
from hrnet_ray.runs.log_capture import RUN_LOG, tee_output
from hrnet_ray.runs.progress import ProgressMonitor, make_progress_line, print_line


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The current time in seconds, set by the test."""
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_without_print_end_no_final_line_is_printed(clock: list[float], capsys: pytest.CaptureFixture[str]):
    count = make_progress_line("clip", print_end=False)
    for done, clock[0] in ((10, 5.0), (30, 15.0), (40, 20.0)):
        count(done, 40)

    assert capsys.readouterr().out == "clip       30/40  2/s  5 s left\n"


def test_with_an_unknown_total_no_time_left_is_printed(clock: list[float], capsys: pytest.CaptureFixture[str]):
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

    assert capsys.readouterr().out == ("\r\x1b[Kclip        2/4  2/s  1 s left\r\x1b[Kskipped a.jpg\n\r\x1b[K")


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_a_live_row_and_permanent_lines_and_the_log_only_the_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    terminal = FakeTerminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(progress, "UPDATE_INTERVAL_S", 0.01)
    state = {"epoch": 2, "epochs": 3, "done": 40, "of": 100, "rate": 20.0, "loss": 0.25}
    (tmp_path / "progress.json").write_text(json.dumps(state))
    entry = {"train/loss": 0.5, "perf/epoch_s": 5.0, "perf/images_per_sec": 20.0}

    with tee_output(tmp_path), ProgressMonitor(lambda: {"#01 ": tmp_path}, epochs=3):
        append_metrics(tmp_path, {"epoch": 1} | entry)
        deadline = time.monotonic() + 10
        while "img/s 0:03 left" not in terminal.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        print("a line of other code")

    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert re.search(r"#01 +epoch 2/3 .* loss 2.50e-01 20 img/s 0:03 left", shown)
    permanent = "#01 epoch   1/3  loss 5.00e-01  20 img/s  0:10 left"
    log = (tmp_path / RUN_LOG).read_text().splitlines()
    for line in (permanent, "a line of other code"):
        assert line in shown
        assert line in log
    assert len(log) == 3  # and the command line
