"""The log of a run folder."""

import sys
from pathlib import Path

import pytest

from hrnet_ray.errors import UsageError
from hrnet_ray.runs.log_capture import RUN_LOG, log_tracebacks, tee_output


def test_output_is_in_the_log_and_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "argv", ["hrnet-ray", "tune", "--space", "optim.lr=log(1e-4,3e-3)"])
    for line in ("first", "second"):
        with tee_output(tmp_path):
            print("\r\033[Kepoch 1  3/9", end="")
            print("\r\033[Kepoch 1  9/9", end="")
            print(f"\r\033[K{line}")
            print("a warning", file=sys.stderr)
    print("afterwards")

    lines = (tmp_path / RUN_LOG).read_text().splitlines()
    assert [text[-48:] for text in lines[::3]] == ["hrnet-ray tune --space 'optim.lr=log(1e-4,3e-3)'"] * 2
    assert lines[1:3] + lines[4:] == ["first", "a warning", "second", "a warning"]
    out, error = capsys.readouterr()
    assert out.endswith("second\nafterwards\n")
    assert error == "a warning\n" * 2


def test_an_error_leaves_its_traceback_with_the_cause(tmp_path: Path):
    with (
        pytest.raises(UsageError),
        tee_output(tmp_path),
        log_tracebacks(tmp_path),
    ):
        raise UsageError("what", "where", "way out") from ValueError("the cause")

    log = (tmp_path / RUN_LOG).read_text()
    assert "ValueError: the cause" in log
    assert "Traceback" in log
    assert log.endswith("UsageError: what\n  where\n  fix: way out\n")


def test_an_unwritable_log_does_not_stop_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / RUN_LOG).mkdir()

    with tee_output(tmp_path):
        print("continues")

    assert capsys.readouterr().out == "continues\n"


def test_passwords_are_redacted_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "swordfish")

    with tee_output(tmp_path):
        print("http://ann:swordfish@server and swordfish")

    assert "swordfish" not in (tmp_path / RUN_LOG).read_text()
