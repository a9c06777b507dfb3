"""The lock of a run folder: a second command is refused and names the first."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ray import tune

from hrnet_ray.distributed.training.train import train_experiment
from hrnet_ray.distributed.tuning.tune import SearchConfig, run_study
from hrnet_ray.errors import ClusterError
from hrnet_ray.runs import lock
from hrnet_ray.runs.controller import RunController
from hrnet_ray.runs.lock import LOCK_FILE, RunLock
from hrnet_ray.runs.run_dir import open_run_dir

HOLDER = """
import sys, time
from pathlib import Path
from hrnet_ray.runs.controller import RunController
from hrnet_ray.runs.lock import RunLock
with RunLock(Path(sys.argv[1]), RunController()):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """Another process that holds the lock of `tmp_path`."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def write_foreign_lock(folder: Path, *, age_s: float = 0, **owner: object) -> Path:
    """Write the lock of a process on another host, last touched `age_s` ago."""
    path = folder / LOCK_FILE
    content = {"pid": 7, "host": "far", "processes": "", "born": 1.0, "since": "then", "token": "x"}
    path.write_text(json.dumps(content | owner))
    touched_s = time.time() - age_s
    os.utime(path, (touched_s, touched_s))
    return path


def test_the_lock_file_exists_while_held_and_names_its_owner(tmp_path: Path):
    with RunLock(tmp_path, RunController()):
        owner = json.loads((tmp_path / LOCK_FILE).read_text())
        assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]

    assert (owner["pid"], owner["host"]) == (os.getpid(), lock.platform.node())
    assert list(tmp_path.iterdir()) == []


def test_a_second_command_is_refused_at_once_and_names_the_first(holder: subprocess.Popen, tmp_path: Path):
    since = json.loads((tmp_path / LOCK_FILE).read_text())["since"]
    started = time.monotonic()

    with (
        pytest.raises(ClusterError, match="this run is already in progress") as refused,
        RunLock(tmp_path, RunController()),
    ):
        pass

    assert time.monotonic() - started < 5
    owner = f"process {holder.pid} on {lock.platform.node()} since {since}"
    assert refused.value.where == f"{tmp_path}: {owner}"
    assert refused.value.exit_code == 4
    assert (tmp_path / LOCK_FILE).exists()


def test_the_lock_of_a_killed_command_is_taken_over_with_one_line(
    holder: subprocess.Popen, tmp_path: Path, capsys: pytest.CaptureFixture
):
    holder.kill()
    holder.wait()

    with RunLock(tmp_path, RunController()):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()

    assert capsys.readouterr().out.startswith(f"Taking over the stale lock of {tmp_path} (process {holder.pid} on ")


def test_a_reused_pid_holds_no_lock(tmp_path: Path):
    write_foreign_lock(tmp_path, pid=os.getpid(), host=lock.platform.node(), processes=lock._read_pid_namespace())

    with RunLock(tmp_path, RunController()):
        pass


def test_a_fresh_lock_of_another_host_is_respected(tmp_path: Path):
    write_foreign_lock(tmp_path, age_s=50)

    with pytest.raises(ClusterError, match="process 7 on far since then"), RunLock(tmp_path, RunController()):
        pass


@pytest.mark.parametrize("age_s", [61, 3600, -3600], ids=["a minute", "an hour", "tomorrow's"])
def test_a_lock_without_heartbeat_is_taken_over(age_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lock, "STALE_WATCH_S", 0.5)
    write_foreign_lock(tmp_path, age_s=age_s)

    with RunLock(tmp_path, RunController()):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()


def test_a_lock_that_only_a_clock_makes_old_is_respected(
    holder: subprocess.Popen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lock.time, "time", lambda: 3600 + time.time_ns() / 1e9)
    started = time.monotonic()

    with pytest.raises(ClusterError, match="already in progress"), RunLock(tmp_path, RunController()):
        pass

    assert time.monotonic() - started < 5


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"pid": "me"}', b'{"token": 3}'])
def test_an_unreadable_lock_is_judged_by_its_age(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lock, "STALE_WATCH_S", 0.1)
    path = write_foreign_lock(tmp_path)
    path.write_bytes(content)

    with pytest.raises(ClusterError), RunLock(tmp_path, RunController()):
        pass
    os.utime(path, (1, 1))
    with RunLock(tmp_path, RunController()):
        pass


def test_a_live_lock_that_was_moved_aside_is_put_back(tmp_path: Path):
    path = write_foreign_lock(tmp_path)

    assert not RunLock(tmp_path, RunController())._try_move_aside({"token": "of an earlier owner"})

    assert json.loads(path.read_text())["token"] == "x"
    assert [entry.name for entry in tmp_path.iterdir()] == [LOCK_FILE]


def test_a_suspended_owner_whose_lock_was_taken_over_stops_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lock, "HEARTBEAT_S", 0.05)

    def sleep_and_lose_the_lock() -> None:
        controller = RunController()
        with RunLock(tmp_path, controller):
            write_foreign_lock(tmp_path)
            controller.run(threading.Event().wait)

    with pytest.raises(ClusterError, match="another command took over this run") as stopped:
        sleep_and_lose_the_lock()

    assert "process 7 on far since then" in stopped.value.where
    assert (tmp_path / LOCK_FILE).exists()  # of the other command


def test_the_lock_file_is_touched_while_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lock, "HEARTBEAT_S", 0.05)

    with RunLock(tmp_path, RunController()):
        os.utime(tmp_path / LOCK_FILE, (1, 1))
        time.sleep(0.3)
        assert abs((tmp_path / LOCK_FILE).stat().st_mtime - time.time()) < 5


def test_ctrl_c_releases_the_lock(tmp_path: Path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` ignores it
    try:
        with pytest.raises(KeyboardInterrupt), RunLock(tmp_path, RunController()):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)

    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_hard_links_has_locks_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(lock.os, "link", refuse)

    with (
        RunLock(tmp_path, RunController()),
        pytest.raises(ClusterError, match=f"process {os.getpid()} on "),
        RunLock(tmp_path, RunController()),
    ):
        pass

    assert list(tmp_path.iterdir()) == []


def test_a_run_or_a_study_in_progress_is_refused_before_ray_starts(tiny, here, tigers):
    folder = open_run_dir(tiny, here, tigers)
    started = time.monotonic()

    with RunLock(folder, RunController()), pytest.raises(ClusterError, match="already in progress"):
        train_experiment(tiny, here)
    space = {"optim.lr": tune.loguniform(1e-4, 1e-2)}
    study = replace(tiny, name="study")
    folder = folder.with_name("study")
    folder.mkdir()
    with RunLock(folder, RunController()), pytest.raises(ClusterError, match="already in progress"):
        run_study(study, space, here, SearchConfig(num_trials=1))

    assert time.monotonic() - started < 5
