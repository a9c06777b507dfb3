import sys
from pathlib import Path

import pytest

from hrnet_ray.errors import UsageError
from hrnet_ray.runs.log_capture import RUN_LOG, log_tracebacks, tee_output


def test_what_is_said_stands_in_the_log_and_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "argv", ["hrnet-ray", "tune", "--space", "optim.lr=log(1e-4,3e-3)"])
    for said in ("first", "second"):
        with tee_output(tmp_path):
            print("\r\033[Kepoch 1  3/9", end="")
            print("\r\033[Kepoch 1  9/9", end="")
            print(f"\r\033[K{said}")
            print("a warning", file=sys.stderr)
    print("afterwards")

    lines = (tmp_path / RUN_LOG).read_text().splitlines()
    assert [line[-48:] for line in lines[::3]] == [
        "hrnet-ray tune --space 'optim.lr=log(1e-4,3e-3)'"
    ] * 2
    assert lines[1:3] + lines[4:] == ["first", "a warning", "second", "a warning"]
    out, error = capsys.readouterr()
    assert out.endswith("second\nafterwards\n")
    assert error == "a warning\n" * 2


def test_an_error_leaves_its_whole_story(tmp_path: Path):
    with (
        pytest.raises(UsageError),
        tee_output(tmp_path),
        log_tracebacks(tmp_path),
    ):
        raise UsageError("what", "where", "way out") from ValueError("the cause")

    story = (tmp_path / RUN_LOG).read_text()
    assert "ValueError: the cause" in story
    assert "Traceback" in story
    assert story.endswith("UsageError: what\n  where\n  fix: way out\n")


def test_a_log_that_cannot_be_written_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / RUN_LOG).mkdir()

    with tee_output(tmp_path):
        print("goes on")

    assert capsys.readouterr().out == "goes on\n"


def test_passwords_stay_out_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "swordfish")

    with tee_output(tmp_path):
        print("http://ann:swordfish@server and swordfish")

    assert "swordfish" not in (tmp_path / RUN_LOG).read_text()
