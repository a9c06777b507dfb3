"""The controller of a command: each request for a stop, and how the main thread carries it out."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hrnet_ray.errors import DataError
from hrnet_ray.runs import controller as controller_module, stop_request
from hrnet_ray.runs.controller import RunController, RunState, StopReason
from hrnet_ray.runs.stop_request import StopFlag

SAVING_LINE = "Saving before stopping (press Ctrl-C again to stop at once)."


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """A folder in which a training runs."""
    StopFlag(tmp_path, is_rank0=True)
    return tmp_path


def start_waiting(controller: RunController, *requests: StopReason, folder: Path) -> None:
    """Run work without end, during which the stops are requested; the second one in the wait for the save."""

    def request_stops_and_wait() -> None:
        for reason in requests:
            controller.request_stop(reason)
            time.sleep(0.3)
        threading.Event().wait()

    controller.run(request_stops_and_wait, training_folders=lambda: [folder])


def test_work_runs_in_another_thread_and_its_result_is_returned():
    controller = RunController()

    assert controller.run(threading.current_thread) is not threading.current_thread()
    assert (controller.state, controller.reason) == (RunState.RUNNING, None)


def test_an_error_of_the_work_is_raised():
    def fail() -> None:
        raise DataError("broken", "here", "mend it")

    with pytest.raises(DataError, match="broken"):
        RunController().run(fail)


def test_a_stop_waits_for_the_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setattr(controller_module, "SAVE_TIMEOUT_S", 0.3)
    controller = RunController()
    folders = [tmp_path / name for name in ("quick", "slow", "over")]
    for folder in folders:
        folder.mkdir()
    for folder in folders[:2]:
        StopFlag(folder, is_rank0=True)

    def save_one() -> None:
        controller.request_stop(StopReason.SIGNAL)
        while stop_request.read_state(folders[0]) != "stop":
            time.sleep(0.01)
        stop_request.write_state(folders[0], "saved")
        threading.Event().wait()

    with pytest.raises(KeyboardInterrupt):
        controller.run(save_one, training_folders=lambda: folders)

    assert capsys.readouterr().out.splitlines() == [
        SAVING_LINE,
        f"{folders[1]}: not saved within 0 s, will resume from its last epoch",
    ]
    assert [stop_request.read_state(folder) for folder in folders] == ["saved", "stop", ""]


@pytest.mark.parametrize("second", list(StopReason))
def test_a_second_request_ends_the_wait_for_the_saves(
    second: StopReason, training: Path, capsys: pytest.CaptureFixture
):
    controller = RunController()
    started_s = time.monotonic()

    with pytest.raises(KeyboardInterrupt):
        start_waiting(controller, StopReason.SIGNAL, second, folder=training)

    assert time.monotonic() - started_s < controller_module.SAVE_TIMEOUT_S / 2
    assert capsys.readouterr().out.splitlines() == [SAVING_LINE]
    assert (controller.state, controller.reason) == (RunState.ABORTING, StopReason.SIGNAL)


@pytest.mark.parametrize("reason", [StopReason.LOCK_LOST, StopReason.CLUSTER_LOST])
def test_without_the_lock_or_the_cluster_no_save_is_requested(
    reason: StopReason, training: Path, capsys: pytest.CaptureFixture
):
    controller = RunController()

    with pytest.raises(KeyboardInterrupt):
        start_waiting(controller, reason, folder=training)

    assert stop_request.read_state(training) == "training"  # perhaps of the command that took over the folder
    assert capsys.readouterr().out == ""
    assert controller.reason is reason


def test_a_stopped_command_starts_no_further_work():
    controller, started = RunController(), threading.Event()
    controller.request_stop(StopReason.SIGNAL)

    with pytest.raises(KeyboardInterrupt):
        controller.run(started.set)

    assert not started.is_set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_work_and_the_handlers_are_restored(number: signal.Signals):
    before = signal.getsignal(number)

    def signal_and_wait() -> None:
        signal.raise_signal(number)
        threading.Event().wait()

    with pytest.raises(KeyboardInterrupt), RunController() as controller:
        controller.run(signal_and_wait)

    assert controller.reason is StopReason.SIGNAL
    assert signal.getsignal(number) is before


def test_a_third_signal_interrupts_a_main_thread_that_hangs():
    program = (
        "import signal, time\n"
        "from hrnet_ray.runs.controller import RunController\n"
        "with RunController():\n"
        "    for _ in range(3):\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "    time.sleep(60)\n"
    )

    ended = subprocess.run([sys.executable, "-c", program], timeout=30, stderr=subprocess.PIPE, text=True, check=False)

    assert ended.stderr.splitlines()[-1] == "KeyboardInterrupt"
